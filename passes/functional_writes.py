"""In-place operators become operators that give a new value, where nothing else sees what they write into.

::

    y = conv2d(x, w); relu_(y); add(y, z)      ->      y = conv2d(x, w); r = relu(y); add(r, z)

torch's own pass runs the whole graph again, which takes as long as the capture; it is left for what is not so simple:
writes into views, inputs and buffers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..rules.registry import bound_arguments

FRESH = frozenset(
    (
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"),
        *("batch_norm", "layer_norm", "group_norm", "instance_norm", "max_pool1d", "max_pool2d", "max_pool3d"),
    )
)
"""Composite operators that always give a tensor of their own, as they do not say."""


AT_PLACES = ("index_", "scatter", "masked_")
"""How the names of operators begin that give what they write into with other values at some places."""


def is_mutating(node: fx.Node) -> bool:
    """Whether a call changes one of its operands."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def write_anew(graph: fx.Graph) -> bool:
    """Replace in-place operators, in place; whether none is left."""
    if not any(map(is_mutating, graph.nodes)):
        return True
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.dropout.default and bound_arguments(node)["train"] is False:
            node.replace_all_uses_with(node.args[0])  # it gives the very tensor that it was given
            graph.erase_node(node)
    position = {node: index for index, node in enumerate(graph.nodes)}
    none_left = True
    for node in list(graph.nodes):
        if is_mutating(node) and not _replaced(node, position):
            none_left = False
    return none_left


def _replaced(node: fx.Node, position: dict[fx.Node, int]) -> bool:
    operator = _functional(node.target)
    written = bound_arguments(node).get("self")
    if operator is None or not isinstance(written, fx.Node) or not _gives_its_own(written):
        return False
    operands = [each.meta.get("val") for each in node.all_input_nodes]
    types = {each.dtype for each in operands if isinstance(each, Tensor)}
    at_places = operator._schema.name.removeprefix("aten::").startswith(AT_PLACES)
    if (len(types) > 1 and not at_places) or not all(isinstance(each, Tensor) for each in operands):
        return False  # the operator that gives a new value may give it in another type
    before = [user for user in written.users if position[user] < position[node]]
    if not all(map(_gives_its_own, before)):
        return False
    with node.graph.inserting_before(node):
        # bernoulli_ has a default where bernoulli has none
        left_out = [a.name for a in operator._schema.arguments[len(node.args) :] if not a.has_default_value()]
        kwargs = {**{name: bound_arguments(node)[name] for name in left_out}, **node.kwargs}
        anew = node.graph.call_function(operator, node.args, kwargs)
    anew.meta = dict(node.meta)
    position[anew] = position[node]
    node.replace_all_uses_with(anew)
    written.replace_all_uses_with(anew, lambda user: user is not anew and position[user] > position[node])
    node.graph.erase_node(node)
    return True


def _functional(operator: Any) -> Any:
    """The operator that does the same and gives a new value; None where there is none."""
    name = operator.name().removeprefix("aten::").partition(".")[0]
    writes = [each for each in operator._schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    if not operator.name().startswith("aten::") or not name.endswith("_") or len(writes) != 1:
        return None
    if torch.Tag.inplace_view in operator.tags or writes[0].name != "self":
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    made = (getattr(packet, each) for each in packet.overloads()) if packet is not None else ()
    # not by its name: that of pow_.Scalar is pow.Tensor_Scalar
    return next((each for each in made if _takes(each) == _takes(operator)), None)


def _takes(operator: Any) -> list[tuple[str, str]]:
    """The arguments of an operator, with their types."""
    return [(each.name, str(each.type)) for each in operator._schema.arguments]


def _gives_its_own(node: fx.Node) -> bool:
    """Whether what a call gives shares no memory with what it was given."""
    operator = node.target
    if not isinstance(operator, torch._ops.OpOverload) or operator.namespace != "aten":
        return False
    if any(each.alias_info is not None for each in operator._schema.returns):
        return False
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd")
    return not composite or operator._schema.name.removeprefix("aten::") in FRESH

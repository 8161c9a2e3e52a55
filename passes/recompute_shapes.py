"""Make the graph of the compact model: the same calls, with every number that follows from axes recomputed.

1. Each operator with a resize rule gets its new arguments: view sizes, split sizes, slice bounds, groups, ….
2. What makes all positions at once (arange) is followed by a choice of those that are kept.
3. A split into equal pieces becomes one with explicit sizes, since pieces may now differ.
4. A size that is open in part (the batch times the heads) is computed anew from what the graph makes of it.
5. Everything else is copied as it is.

::

    view(x, [2, 7, 9, 64])   ->   view(x, [2, 7, 6, 64])          with heads cut from 9 to 6
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from ..axes import Axis
from ..masks import Keep, keep_mask, kept_size
from ..program import Inference, Program, attribute_at, copied_call, unwritten
from ..rules import Dims, Resize, Result, cut_afterwards, resize_rules
from ..rules.registry import bound_arguments, operator_name

EXPLICIT_SPLIT = torch.ops.aten.split_with_sizes.default


def recompute_shapes(program: Program, inference: Inference, keep: Keep, tensors: dict[str, Tensor]) -> fx.GraphModule:
    """The graph over ``tensors``, by canonical name, whose axes are cut to ``keep``."""
    return _recompute(program.graph, "", inference, keep, tensors)


def _recompute(
    old: fx.GraphModule, path: str, inference: Inference, keep: Keep, tensors: dict[str, Tensor]
) -> fx.GraphModule:
    """The compact form of a graph, which stands at ``path`` inside the traced one, and of the graphs inside it."""
    graph = fx.Graph()
    graph.set_codegen(old.graph._codegen)
    copies: dict[fx.Node, fx.Node] = {}
    attributes: dict[str, Any] = {}
    shares: dict[Any, Fraction] = {}

    def resized(node: fx.Node, copied: fx.Node) -> Resize:
        return Resize(
            node,
            bound_arguments(node),
            inference.dims[node],
            inference.dims,
            tuple(inference.solver.resolve(axis) for axis in inference.remembered.get(node, ())),
            kept,
            lambda size, axis: _scaled(copies[size], share_of(axis) / shares.get(size, WHOLE), copied),
        )

    def kept(axis: Axis) -> int:
        return kept_size(inference.solver.resolve(axis), keep)

    def share_of(axis: Axis) -> Fraction:
        return Fraction(kept(axis), max(1, axis.size))

    for node in old.graph.nodes:
        copies[node] = new = copied_call(node, graph, copies.__getitem__)
        if isinstance(node.meta.get("val"), torch.SymInt):
            shares[node] = _share_given(node, shares, inference.dims, share_of)
        if node.op == "get_attr":
            value = attribute_at(old, node.target)
            if isinstance(value, fx.GraphModule):
                attributes[node.target] = _recompute(value, f"{path}{node.target}.", inference, keep, tensors)
            elif not isinstance(value, Tensor):  # what a graph inside it calls
                attributes[node.target] = value
            else:
                name = inference.canonical[path + node.target]
                # names of the module are its own; those of constants inside another graph stay where they are
                new.target = node.target if path else name
                attributes[new.target] = tensors[name]
        if node.op != "call_function":
            continue
        if operator_name(node.target) in cut_afterwards:
            copies[node] = _choose_kept(graph, new, inference.dims[node], inference, keep, attributes)
        rule = resize_rules.get(operator_name(node.target))
        if rule is None or not _is_cut(node, inference, keep):
            continue
        resize = resized(node, new)
        changed = {name: value for name, value in rule(resize).items() if value != resize.arguments.get(name, _ABSENT)}
        if changed:
            _put(new, changed, copies)
    return unwritten(attributes, graph)


_ABSENT = object()


def _scaled(size: fx.Node, share: Fraction, user: fx.Node) -> fx.Node:
    """An open size times ``share``, computed before ``user``."""
    with user.graph.inserting_before(user):
        for call, number in ((operator.mul, share.numerator), (operator.floordiv, share.denominator)):
            if number != 1:
                value = call(size.meta["val"], number)
                size = user.graph.call_function(call, (size, number))
                size.meta["val"] = value
    return size


def _share_given(
    size: fx.Node,
    known: Mapping[Any, Fraction],
    dims: Mapping[fx.Node, Result],
    share_of: Callable[[Axis], Fraction],
) -> Fraction:
    """The share of an open size that its copy in the compact graph gives, where it is made from sizes of tensors."""
    match size.target, size.args:
        case torch.ops.aten.sym_size.int, (fx.Node() as tensor, int(dim)):
            of = dims.get(tensor)
            return share_of(of.axes[dim]) if isinstance(of, Dims) else WHOLE
        case operator.mul, (one, other):
            return known.get(one, WHOLE) * known.get(other, WHOLE)
        case operator.floordiv, (one, other):
            return known.get(one, WHOLE) / known.get(other, WHOLE)
    shares = {known.get(each, WHOLE) for each in size.args}
    return shares.pop() if len(shares) == 1 else WHOLE


WHOLE = Fraction(1)


def _is_cut(node: fx.Node, inference: Inference, keep: Keep) -> bool:
    """Whether a call has an axis, of what it takes, gives or works with inside, of which something goes."""
    axes = list(inference.remembered.get(node, ()))
    for each in (node, *node.all_input_nodes):
        result = inference.dims.get(each)
        for dims in result if isinstance(result, tuple) else (result,):
            axes.extend(dims.axes if isinstance(dims, Dims) else ())
    resolved = [inference.solver.resolve(axis) for axis in axes]
    return any(kept_size(axis, keep) != axis.size for axis in resolved)


def _choose_kept(
    graph: fx.Graph, new: fx.Node, result: Result, inference: Inference, keep: Keep, attributes: dict[str, Any]
) -> fx.Node:
    """The kept positions of a call's result, taken by constant indices."""
    for dim, axis in enumerate(result.axes if isinstance(result, Dims) else ()):
        mask = keep_mask(inference.solver.resolve(axis), keep)
        if mask is not None:
            name = f"kept_positions_{len(attributes)}"
            attributes[name] = mask.nonzero().flatten().to(new.meta["val"].device)
            index = graph.get_attr(name)
            new = graph.call_function(torch.ops.aten.index_select.default, (new, dim, index))
    return new


def _put(node: fx.Node, changed: dict[str, Any], copies: dict[fx.Node, fx.Node]) -> None:
    """Write new arguments into a call, at their places in its schema."""
    changed = {name: fx.map_arg(value, lambda used: copies.get(used, used)) for name, value in changed.items()}
    if "split_sizes" in changed and node.target is not EXPLICIT_SPLIT:
        bound = bound_arguments(node)
        node.target = EXPLICIT_SPLIT
        first = next(iter(bound.values()))
        node.args, node.kwargs = (first, changed["split_sizes"], bound.get("dim", 0)), {}
        return
    if "dim" in changed and operator_name(node.target) == "aten::squeeze":
        node.target, node.args, node.kwargs = torch.ops.aten.squeeze.dims, (node.args[0], changed["dim"]), {}
        return
    args, kwargs = list(node.args), dict(node.kwargs)
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name not in changed:
            continue
        if index < len(args):
            args[index] = changed[argument.name]
        else:
            kwargs[argument.name] = changed[argument.name]
    node.args, node.kwargs = tuple(args), kwargs

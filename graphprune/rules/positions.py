"""Tensors whose values are positions of an axis: what topk gives, and what gathers, one-hot vectors and counts take.

When units of that axis go, those that stay are counted anew, by the call that makes the numbers and by every call that
takes something at them. So the axis can be cut as long as nothing else is done with the numbers: they may be moved
about, and used to name positions of an axis, which is then the same one. Any other call freezes it.

::

    scores: n a   ->   topk(scores, 2)[1]: n 2, points at a   ->   one_hot: n 2 a          (a: the experts of a layer)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import fx

from ..axes import Axis
from .registry import Call, Dims, Result

MOVED = dict.fromkeys(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
        "unflatten",
        "transpose",
        "t",
        "permute",
        "movedim",
        "swapaxes",
        "unsqueeze",
        "squeeze",
        "expand",
        "clone",
        "contiguous",
        "alias",
        "detach",
        "lift_fresh_copy",
        "_to_copy",
        "to",
        "type_as",
        "slice",
        "select",
        "narrow",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "repeat_interleave",
        "sort",
        "gather",
        "take_along_dim",
        "index",
        "index_select",
    ],
    "self",
) | dict.fromkeys(["cat", "concat", "concatenate", "stack"], "tensors")
"""Operators that hand on the values of an argument as they are, and that argument."""

USED = {
    "gather": "index",
    "take_along_dim": "indices",
    "index": "indices",
    "index_put": "indices",
    "index_select": "index",
    "embedding": "indices",
    "scatter": "index",
    "scatter_add": "index",
    "one_hot": "self",
    "histc": "self",
}
"""Operators whose rule takes an argument as positions of an axis, and that argument."""

EXACT = {torch.int32, torch.int64, torch.float32, torch.float64}
"""Types that hold the number of any position."""


def pointing(dims: Dims, axis: Axis) -> Dims:
    """The dims of a tensor that holds positions of ``axis``, which are not zero where anything is masked."""
    return Dims(dims.axes, (False,) * len(dims), axis)


def at_positions(call: Call, axis: Axis, index: Dims | None, reason: str) -> bool:
    """Something is taken or put at positions of ``axis`` that the values of ``index`` name.

    If these are positions of an axis it is the same one, and masked units are never named: True. Else both are frozen.
    """
    pointed = None if index is None else index.points_at
    if pointed is not None and pointed.size == axis.size:
        call.unify(pointed, axis)
        return True
    for each in (axis, *([] if pointed is None else [pointed])):
        call.freeze(each, reason)
    return False


def takes_positions(call: Call) -> bool:
    """Whether a tensor that a call takes points at an axis."""
    return any(dims is not None and dims.points_at is not None for dims in _dims_of(call, call.node.all_input_nodes))


def computed_with(call: Call, name: str) -> Iterator[Axis]:
    """The axes whose positions' numbers a call of the operator ``name`` does something else with."""
    fine = {argument for argument in (_moved(call, name), USED.get(_short(name))) if argument is not None}
    exact = all(not isinstance(value, torch.Tensor) or value.dtype in EXACT for value in _values(call.node))
    for argument in call.arguments.keys() - (fine if exact or _short(name) in USED else set()):
        for dims in _all_dims(call, argument):
            if dims.points_at is not None:
                yield dims.points_at


def handed_on(call: Call, name: str, result: Result) -> Result:
    """The result of a call that moves position numbers about, with the axis that they are positions of."""
    moved = _moved(call, name)
    found = [] if moved is None else _all_dims(call, moved)
    axes = [dims.points_at for dims in found if dims.points_at is not None]
    if not axes:
        return result
    for other in axes[1:]:
        if other.size == axes[0].size:
            call.unify(axes[0], other)
    if len(axes) > 1:
        call.chosen.append((axes[0], len(axes)))  # what is put side by side was chosen one after the other
    if len(axes) < len(found) or any(other.size != axes[0].size for other in axes):
        for axis in axes:
            call.freeze(axis, "the numbers of its positions are put together with other numbers")
    results = result if isinstance(result, tuple) else (result,)
    moved_on = [None if dims is None else pointing(dims, axes[0]) for dims in results]
    if _short(name) == "sort":
        moved_on[1:] = results[1:]
    return tuple(moved_on) if isinstance(result, tuple) else moved_on[0]


def _short(name: str) -> str:
    return name.removeprefix("aten::")


def _moved(call: Call, name: str) -> str | None:
    """The argument whose values a call hands on."""
    as_other_type = _short(name) == "view" and call.arguments.get("dtype") is not None
    return None if as_other_type else MOVED.get(_short(name))


def _all_dims(call: Call, argument: str) -> list[Dims]:
    """The dims of the tensors in an argument."""
    nodes: list[fx.Node] = []
    fx.map_arg(call.arguments.get(argument), nodes.append)
    return [dims for dims in _dims_of(call, nodes) if dims is not None]


def _dims_of(call: Call, nodes: Iterable[fx.Node]) -> Iterator[Dims | None]:
    for node in nodes:
        known = call.known.get(node)
        yield from known if isinstance(known, tuple) else (known,)


def _values(node: fx.Node) -> tuple[object, ...]:
    value = node.meta.get("val")
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)

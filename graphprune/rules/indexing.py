"""Operators that take positions named by data: embedding, gather, index and their kin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..axes import ONE, Axis
from .pointwise import broadcast
from .positions import at_positions
from .registry import Call, Dims, Resize, Result, axis_rule, dim_index, operator_name, resize_rule

NAMED = "its positions are named by data"


@axis_rule("embedding")
def embedding(call: Call) -> Result:
    """``v h, ... -> ... h``: v is named by data, so it is frozen unless the indices are positions of it."""
    weight, indices = call.tensor("weight"), call.tensor("indices")
    at_positions(call, weight.axes[0], indices, f"{NAMED} (embedding)")
    return Dims((*indices.axes, weight.axes[1]), (*(False,) * len(indices), weight.zero[1]))


@axis_rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> Result:
    """``v h, n, b -> b h``: v is named by data, so it is frozen."""
    weight = call.tensor("weight")
    call.freeze(weight.axes[0], f"{NAMED} (embedding bag)")
    for dims in call.tensors()[1:]:
        for axis in dims.axes:
            call.freeze(axis, "it counts what is put into bags")
    outputs = call.fixed_outputs("it counts bags")
    if not isinstance(outputs, tuple) or outputs[0] is None:
        raise TypeError("an embedding bag returns a tuple")
    largest = outputs[3]  # where the largest of each dim was found, if it is the largest that is taken
    if largest is not None and len(largest) == 2:
        largest = largest.replace(1, weight.axes[1], False)
    return (outputs[0].replace(1, weight.axes[1], weight.zero[1]), outputs[1], outputs[2], largest)


@axis_rule("index_select")
def index_select(call: Call) -> Result:
    """``a b, i -> i b``: a is named by data, so it is frozen unless the indices are positions of it."""
    x, index = call.tensor("self"), call.tensor("index")
    dim = dim_index(call["dim"], len(x))
    at_positions(call, x.axes[dim], index, f"{NAMED} (index_select)")
    return x.replace(dim, index.axes[0] if len(index) else call.fresh(1), False)


@dataclass(frozen=True)
class Indexed:
    """What a list of indices takes: ``taken`` axes stand at ``at`` among the dims ``rest``, which have no index.

    A mask gives one axis, None, with as many positions as it chooses.
    """

    taken: tuple[Axis | None, ...]
    rest: tuple[int, ...]
    at: int


def indexed(call: Call, x: Dims) -> Indexed | None:
    """The dims that ``call["indices"]`` names; None where there are masks beside other indices.

    They are frozen, but for those whose positions the indices are.
    """
    named = [(dim, each) for dim, each in enumerate(call["indices"]) if isinstance(each, fx.Node)]
    masks = [each for _, each in named if each.meta["val"].dtype in (torch.bool, torch.uint8)]
    if masks and len(named) > 1:
        return None
    first, last = named[0][0], named[-1][0]
    if masks:
        used = tuple(range(first, first + masks[0].meta["val"].ndim))
        mask = call.dims_of(masks[0])
        for dim, axis in zip(used, mask.axes if mask else (), strict=True):
            call.unify(x.axes[dim], axis)
            call.freeze(axis, "its positions are chosen by a mask from data")
        taken: tuple[Axis | None, ...] = (None,)
    else:
        used = tuple(dim for dim, _ in named)
        for dim, each in named:
            at_positions(call, x.axes[dim], call.dims_of(each), f"{NAMED} (index)")
        taken = broadcast(call, [dims for _, each in named if (dims := call.dims_of(each)) is not None])
    together = masks or len(used) == last - first + 1
    return Indexed(taken, tuple(dim for dim in range(len(x)) if dim not in used), first if together else 0)


@axis_rule("index", "_unsafe_index")
def index(call: Call) -> Result:
    """``a b, i -> i b``: dims with an index are frozen unless it holds positions of them, the others stay."""
    x = call.tensor("self")
    found = indexed(call, x)
    if found is None:
        return call.opaque("its positions are chosen by a mask from data")
    taken = [axis or call.fixed(call.shape[found.at], "it counts what a mask chooses") for axis in found.taken]
    rest = x.take(found.rest)
    axes, zero = list(rest.axes), list(rest.zero)
    axes[found.at : found.at], zero[found.at : found.at] = taken, [False] * len(taken)
    return Dims(tuple(axes), tuple(zero))


@axis_rule("index_put")
def index_put(call: Call) -> Result:
    """``a b, i, i b -> a b``: dims with an index are frozen, also those of what is written; the others stay."""
    x, values = call.tensor("self"), call.tensor("values")
    found = indexed(call, x)
    if found is None:
        return call.opaque("its positions are written where data says")
    places: list[int | None] = list(found.rest)
    places[found.at : found.at] = [None] * len(found.taken)
    zero = [False] * len(x)
    for back, place in enumerate(reversed(places), start=1):
        written = values.axes[-back] if back <= len(values) else ONE
        if place is None:
            call.freeze(written, "its positions are written where data says")
        elif written.size != 1:
            call.unify(x.axes[place], written)
            zero[place] = x.zero[place] and values.zero[-back]
    return Dims(tuple(map(call.resolve, x.axes)), tuple(zero))


@axis_rule("index_add", "index_copy", "index_fill", "index_reduce")
def index_along(call: Call) -> Result:
    """``a b, i, i b -> a b``: positions of a are written where data says, so a and i are frozen; b stays."""
    x, source = call.tensor("self"), call.dims("source")
    dim = dim_index(call["dim"], len(x)) if len(x) else 0
    reason = "its positions are written where data says"
    for axis in x.axes[dim : dim + 1]:
        call.freeze(axis, reason)
    zero = [flag and call.arguments.get("value", 0) == 0 for flag in x.zero]
    for other, axis in enumerate(source.axes if source else ()):
        if other == dim:
            call.freeze(axis, reason)
        else:
            call.unify(x.axes[other], axis)
            zero[other] = zero[other] and source is not None and source.zero[other]
    return Dims(tuple(map(call.resolve, x.axes)), tuple(flag and other != dim for other, flag in enumerate(zero)))


@axis_rule("gather", "take_along_dim")
def gather(call: Call) -> Result:
    """``a b, i b -> i b``: a is named by data, so it is frozen; where the others differ in size they are too.

    Indices that are positions of a leave it to be cut.
    """
    x, index = call.tensor("self"), call.tensor("index" if "index" in call.arguments else "indices")
    if call["dim"] is None or call.shape != tuple(axis.size for axis in index.axes):
        return call.opaque("its positions are named by data, and it is broadcast")
    dim = dim_index(call["dim"], len(x)) if len(x) else 0
    zero = []
    for other in range(len(x)):
        zero.append(other != dim and x.zero[other])
        if other == dim:
            at_positions(call, x.axes[other], index, f"{NAMED} (gather)")
        elif x.axes[other].size == index.axes[other].size or x.axes[other].size == 1:
            call.unify(x.axes[other], index.axes[other])
        else:
            call.freeze(x.axes[other], "only its first positions are gathered")
            call.freeze(index.axes[other], "it takes the first positions of a longer axis")
            zero[-1] = False
    return Dims(tuple(call.resolve(axis) for axis in index.axes), tuple(zero))


@axis_rule("scatter", "scatter_add", "scatter_reduce")
def scatter(call: Call) -> Result:
    """``a b, i b, i b -> a b``: a and i are frozen; so is a dim of which only the first positions are written.

    Indices that are positions of a leave it to be cut: where it is masked nothing is written.
    """
    x, index, source = call.tensor("self"), call.tensor("index"), call.dims("src")
    dim = dim_index(call["dim"], len(x)) if len(x) else 0
    reason = "its positions are written where data says"
    zero = [flag and call.arguments.get("value", 0) == 0 for flag in x.zero]
    for other, axis in enumerate(x.axes):
        written = [dims.axes[other] for dims in (index, source) if dims is not None]
        if other != dim and all(each.size == axis.size for each in written):
            for each in written:
                call.unify(axis, each)
            zero[other] = zero[other] and (source is None or source.zero[other])
        else:
            for each in written:
                call.freeze(each, reason)
            named = at_positions(call, axis, index if other == dim else None, reason)
            zero[other] = named and x.zero[other]
    return Dims(tuple(map(call.resolve, x.axes)), tuple(zero))


@axis_rule("masked_scatter")
def masked_scatter(call: Call) -> Result:
    """``a b, a 1, i b -> a b``: rows are written one after the other where the mask is the same all along b."""
    x, mask, source = call.tensor("self"), call.tensor("mask"), call.tensor("source")
    rows = 0
    for back in range(1, min(len(x), len(source)) + 1):
        if x.axes[-back].size != source.axes[-back].size or not _is_repeated(call["mask"], back):
            break
        rows = back
    if not rows or len(mask) > len(x):
        return by_number(call)
    for dims in (x, mask, source):
        for axis in dims.axes[: max(0, len(dims) - rows)]:
            call.freeze(axis, "its positions are written where data says")
    for back in range(1, rows + 1):
        for dims in (mask, source):
            if len(dims) >= back and dims.axes[-back].size != 1:
                call.unify(x.axes[-back], dims.axes[-back])
    zero = [back <= rows and x.zero[-back] and source.zero[-back] for back in range(len(x), 0, -1)]
    return Dims(tuple(map(call.resolve, x.axes)), tuple(zero))


SAME_VALUES = ("to", "_to_copy", "type_as", "clone", "contiguous", "alias", "detach", "logical_not", "bitwise_not")


def _is_repeated(node: fx.Node, back: int) -> bool:
    """Whether a value is the same all along its ``back``-th dim from the end: it was expanded to that size."""
    while isinstance(node, fx.Node):
        shape = node.meta["val"].shape
        if len(shape) < back or shape[-back] == 1:
            return True
        name = operator_name(node.target).removeprefix("aten::")
        if name not in (*SAME_VALUES, "expand", "expand_as", "broadcast_to"):
            return False
        node = node.args[0]  # type: ignore[assignment]
    return False


@axis_rule("put", "take")
def by_number(call: Call) -> Result:
    """Positions are counted over the whole tensor: everything is frozen."""
    return call.opaque("its positions are written where data says")


@axis_rule(
    "nonzero",
    "masked_select",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
    "bincount",
    "searchsorted",
    "multinomial",
)
def chosen(call: Call) -> Result:
    """What comes out depends on all values together: everything is frozen."""
    return call.opaque(f"{call.node.target} chooses or counts by its values")


@axis_rule("histc")
def histogram(call: Call) -> Result:
    """``... -> a`` where a bin counts each position of a; what else is counted depends on all values together."""
    x, bins = call.tensor("self"), call["bins"]
    if x.points_at is None or (x.points_at.size, call["min"], call["max"]) != (bins, 0, bins - 1):
        return chosen(call)
    return Dims((call.resolve(x.points_at),), (True,))


@resize_rule("histc")
def resize_histogram(resize: Resize) -> Mapping[str, Any]:
    size = resize.size(resize.dims.axes[0])
    return {"bins": size, "max": size - 1}


@axis_rule("one_hot")
def one_hot(call: Call) -> Result:
    """``... -> ... v``: v counts values, so it is frozen unless these are positions of an axis, which it then is."""
    x, size = call.tensor("self"), call.shape[-1]
    counted = call.fresh(size)
    zero = at_positions(call, counted, x, "it counts values")
    return Dims((*x.axes, call.resolve(counted)), (*(False,) * len(x), zero))


@resize_rule("one_hot")
def resize_one_hot(resize: Resize) -> Mapping[str, Any]:
    return {"num_classes": resize.size(resize.dims.axes[-1])}

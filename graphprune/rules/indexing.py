"""Operators that take positions named by data: embedding, gather, index and their kin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from ..axes import ONE, Axis
from .pointwise import broadcast
from .registry import Call, Dims, Result, axis_rule, dim_index

NAMED = "its positions are named by data"


@axis_rule("embedding")
def embedding(call: Call) -> Result:
    """``v h, ... -> ... h``: v is named by data, so it is frozen."""
    weight, indices = call.tensor("weight"), call.tensor("indices")
    call.freeze(weight.axes[0], f"{NAMED} (embedding)")
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
    """``a b, i -> i b``: a is named by data, so it is frozen."""
    x, index = call.tensor("self"), call.tensor("index")
    dim = dim_index(call["dim"], len(x))
    call.freeze(x.axes[dim], f"{NAMED} (index_select)")
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
    """The dims that ``call["indices"]`` names, all frozen; None where there are masks beside other indices."""
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
        for dim in used:
            call.freeze(x.axes[dim], f"{NAMED} (index)")
        taken = broadcast(call, [dims for _, each in named if (dims := call.dims_of(each)) is not None])
    together = masks or len(used) == last - first + 1
    return Indexed(taken, tuple(dim for dim in range(len(x)) if dim not in used), first if together else 0)


@axis_rule("index", "_unsafe_index")
def index(call: Call) -> Result:
    """``a b, i -> i b``: dims with an index are frozen, the others stay."""
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
    """``a b, i b -> i b``: a is named by data, so it is frozen; where the others differ in size they are too."""
    x, index = call.tensor("self"), call.tensor("index" if "index" in call.arguments else "indices")
    if call["dim"] is None or call.shape != tuple(axis.size for axis in index.axes):
        return call.opaque("its positions are named by data, and it is broadcast")
    dim = dim_index(call["dim"], len(x)) if len(x) else 0
    zero = []
    for other in range(len(x)):
        zero.append(other != dim and x.zero[other])
        if other == dim:
            call.freeze(x.axes[other], f"{NAMED} (gather)")
        elif x.axes[other].size == index.axes[other].size or x.axes[other].size == 1:
            call.unify(x.axes[other], index.axes[other])
        else:
            call.freeze(x.axes[other], "only its first positions are gathered")
            call.freeze(index.axes[other], "it takes the first positions of a longer axis")
            zero[-1] = False
    return Dims(tuple(call.resolve(axis) for axis in index.axes), tuple(zero))


@axis_rule("scatter", "scatter_add", "scatter_reduce")
def scatter(call: Call) -> Result:
    """``a b, i b, i b -> a b``: a and i are frozen; so is a dim of which only the first positions are written."""
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
            for each in (axis, *written):
                call.freeze(each, reason)
            zero[other] = False
    return Dims(tuple(map(call.resolve, x.axes)), tuple(zero))


@axis_rule("masked_scatter", "put", "take")
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
    "histc",
    "searchsorted",
    "multinomial",
)
def chosen(call: Call) -> Result:
    """What comes out depends on all values together: everything is frozen."""
    return call.opaque(f"{call.node.target} chooses or counts by its values")


@axis_rule("one_hot")
def one_hot(call: Call) -> Result:
    """``... -> ... v``: v counts values, so it is frozen."""
    x = call.tensor("self")
    size = call.shape[-1]
    return Dims((*x.axes, call.fixed(size, "it counts values")), (False,) * (len(x) + 1))

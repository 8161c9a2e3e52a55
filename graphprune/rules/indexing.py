"""Operators that take positions named by data: embedding, gather, index and their kin."""

from __future__ import annotations

import torch
from torch import fx

from .pointwise import broadcast
from .registry import Call, Dims, Result, axis_rule, dim_index


@axis_rule("embedding")
def embedding(call: Call) -> Result:
    """``v h, ... -> ... h``: v is named by data, so it is frozen."""
    weight, indices = call.tensor("weight"), call.tensor("indices")
    call.freeze(weight.axes[0], "its positions are named by data (embedding)")
    return Dims((*indices.axes, weight.axes[1]), (*(False,) * len(indices), weight.zero[1]))


@axis_rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> Result:
    """``v h, n, b -> b h``: v is named by data, so it is frozen."""
    weight = call.tensor("weight")
    call.freeze(weight.axes[0], "its positions are named by data (embedding bag)")
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
    call.freeze(x.axes[dim], "its positions are named by data (index_select)")
    return x.replace(dim, index.axes[0] if len(index) else call.fresh(1), False)


@axis_rule("index", "_unsafe_index")
def index(call: Call) -> Result:
    """``a b, i -> i b``: dims with an index are frozen, the others stay."""
    x = call.tensor("self")
    used = [dim for dim, each in enumerate(call["indices"]) if isinstance(each, fx.Node)]
    indices = [call.dims_of(call["indices"][dim]) for dim in used]
    values = [call["indices"][dim].meta["val"] for dim in used]
    if any(value.dtype in (torch.bool, torch.uint8) for value in values):
        return call.opaque("its positions are chosen by a mask from data")
    for dim in used:
        call.freeze(x.axes[dim], "its positions are named by data (index)")
    taken = broadcast(call, [dims for dims in indices if dims is not None])
    together = used == list(range(used[0], used[-1] + 1))
    at = used[0] if together else 0
    rest = x.take(dim for dim in range(len(x)) if dim not in used)
    axes, zero = list(rest.axes), list(rest.zero)
    axes[at:at], zero[at:at] = taken, (False,) * len(taken)
    return Dims(tuple(axes), tuple(zero))


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
            call.freeze(x.axes[other], "its positions are named by data (gather)")
        elif x.axes[other].size == index.axes[other].size or x.axes[other].size == 1:
            call.unify(x.axes[other], index.axes[other])
        else:
            call.freeze(x.axes[other], "only its first positions are gathered")
            call.freeze(index.axes[other], "it takes the first positions of a longer axis")
            zero[-1] = False
    return Dims(tuple(call.resolve(axis) for axis in index.axes), tuple(zero))


@axis_rule("scatter", "scatter_add", "scatter_reduce", "index_put", "index_add", "index_copy", "masked_scatter", "put")
def scatter(call: Call) -> Result:
    """Positions are written where data says: everything is frozen but the dims of the target that pass through."""
    return call.opaque("its positions are written where data says")


@axis_rule("one_hot")
def one_hot(call: Call) -> Result:
    """``... -> ... v``: v counts values, so it is frozen."""
    x = call.tensor("self")
    size = call.shape[-1]
    return Dims((*x.axes, call.fixed(size, "it counts values")), (False,) * (len(x) + 1))

"""Scaled dot product attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from ..axes import product
from .pointwise import broadcast
from .registry import Call, Dims, Resize, Result, axis_rule, resize_rule


@axis_rule("scaled_dot_product_attention")
def scaled_dot_product_attention(call: Call) -> Result:
    """``... h l e, ... h s e, ... h s v, ... h l s -> ... h l v``; grouped queries have ``h = (kv rep)``."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    if call.arguments.get("enable_gqa"):
        key, value = repeated(call, query, key, value)
    meet(call, query, key, value)
    call.freeze(key.axes[-2], "softmax normalises over it")
    if call["is_causal"]:
        call.freeze(query.axes[-2], "the positions of attention are compared")
    rows = [dims.take(range(len(dims) - 1)) for dims in (query,)]
    batch = [Dims(dims.axes[:-2], dims.zero[:-2]) for dims in (query, key, value)]
    mask = call.dims("attn_mask")
    if mask is not None:
        if mask.axes[-1].size != 1:
            call.unify(mask.axes[-1], key.axes[-2])
        rows.append(mask.take(range(len(mask) - 1)))
    leading = broadcast(call, [*batch, *(Dims(each.axes[:-1], each.zero[:-1]) for each in rows[1:])])
    length = broadcast(call, [Dims(each.axes[-1:], each.zero[-1:]) for each in rows if each.axes])
    call.remember(call.resolve(query.axes[-1]))
    zero = [
        len(value) >= back and value.axes[-back].size != 1 and value.zero[-back]
        for back in range(len(leading) + 2, 2, -1)
    ]
    return Dims((*leading, *length, call.resolve(value.axes[-1])), (*zero, False, value.zero[-1]))


def meet(call: Call, query: Dims, key: Dims, value: Dims) -> None:
    """Queries are multiplied with keys, and each key has a value."""
    call.unify(query.axes[-1], key.axes[-1])
    call.summed(query.axes[-1], query.zero[-1] or key.zero[-1], "attention")
    call.unify(key.axes[-2], value.axes[-2])


def repeated(call: Call, query: Dims, key: Dims, value: Dims) -> tuple[Dims, Dims]:
    """Keys and values with as many heads as the queries have, each of them for several neighbours."""
    if query.axes[-3].size == key.axes[-3].size:
        return key, value
    repeat = call.fresh(query.axes[-3].size // key.axes[-3].size)
    call.unify(query.axes[-3], product(key.axes[-3], repeat))
    call.unify(key.axes[-3], value.axes[-3])
    return tuple(dims.replace(len(dims) - 3, query.axes[-3], False) for dims in (key, value))  # type: ignore[return-value]


@axis_rule("higher_order::flex_attention")
def flex_attention(call: Call) -> Result:
    """``b h l e, b h s e, b h s v -> b h l v, b h l``; h stays where functions of its numbers change the scores.

    The scale is an argument, so it stays what it was.
    """
    query, key, value = (call.tensor(str(at)) for at in range(3))
    score, (*blocks, mask) = call["3"], call["4"]
    for node in (*blocks, *call["7"], *call["8"]):
        dims = call.dims_of(node)
        for axis in dims.axes if dims is not None else ():
            call.freeze(axis, "flex_attention looks up its positions")
    key, value = repeated(call, query, key, value)
    for at in (0, 1):
        for dims in (key, value):
            call.unify(query.axes[at], dims.axes[at])
    call.freeze(query.axes[0], "flex_attention has a function of its positions")
    by_head = [
        dims for dims in map(call.dims_of, blocks) if dims is not None and len(dims) > 1 and dims.axes[1].size > 1
    ]
    if by_head or _uses(call, score, 2) or _uses(call, mask, 1):
        call.freeze(query.axes[1], "flex_attention has a function of its positions")
    meet(call, query, key, value)
    for axis in (query.axes[-2], key.axes[-2]):
        call.freeze(axis, "the positions of attention are compared")
    axes = tuple(map(call.resolve, query.axes[:3]))
    each = Dims(axes, (False,) * 3)
    result = Dims((*axes, call.resolve(value.axes[-1])), (False, value.zero[1], False, value.zero[-1]))
    return (result, *(None if shape is None or len(shape) != 3 else each for shape in call.shapes[1:]))


def _uses(call: Call, graph: fx.Node, argument: int) -> bool:
    """Whether a graph that a call runs does something with an argument of it."""
    module = call.node.graph.owning_module
    assert module is not None
    inner = module.get_submodule(str(graph.target))
    assert isinstance(inner, fx.GraphModule)
    return bool(list(inner.graph.find_nodes(op="placeholder"))[argument].users)


@resize_rule("scaled_dot_product_attention")
def resize_attention(resize: Resize) -> Mapping[str, Any]:
    """The default scale depends on the width of the heads: what it was stays."""
    (width,) = resize.remembered
    return {"scale": width.size**-0.5} if resize["scale"] is None else {}

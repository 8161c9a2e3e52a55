"""Scaled dot product attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..axes import product
from .pointwise import broadcast
from .registry import Call, Dims, Resize, Result, axis_rule, resize_rule


@axis_rule("scaled_dot_product_attention")
def scaled_dot_product_attention(call: Call) -> Result:
    """``... h l e, ... h s e, ... h s v, ... h l s -> ... h l v``; grouped queries have ``h = (kv rep)``."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    if call.arguments.get("enable_gqa") and query.axes[-3].size != key.axes[-3].size:
        repeat = call.fresh(query.axes[-3].size // key.axes[-3].size)
        call.unify(query.axes[-3], product(key.axes[-3], repeat))
        call.unify(key.axes[-3], value.axes[-3])
        key = key.replace(len(key) - 3, query.axes[-3], False)
        value = value.replace(len(value) - 3, query.axes[-3], False)
    call.unify(query.axes[-1], key.axes[-1])
    call.summed(query.axes[-1], query.zero[-1] or key.zero[-1], "attention")
    call.unify(key.axes[-2], value.axes[-2])
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


@resize_rule("scaled_dot_product_attention")
def resize_attention(resize: Resize) -> Mapping[str, Any]:
    """The default scale depends on the width of the heads: what it was stays."""
    (width,) = resize.remembered
    return {"scale": width.size**-0.5} if resize["scale"] is None else {}

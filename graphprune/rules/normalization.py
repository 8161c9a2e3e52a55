"""Normalisations: channels that are normalised one by one can be cut; statistics over channels are flagged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..axes import ONE, product
from .registry import Call, Dims, Resize, Result, axis_rule, resize_rule


def scaled(call: Call, x: Dims, first: int) -> Dims:
    """``x`` times a weight plus a bias over the dims from ``first`` on: zero there where both are."""
    weight, bias = call.dims("weight"), call.dims("bias")
    zero = list(x.zero)
    for index in range(first, len(x)):
        for parameter in (weight, bias):
            if parameter is not None:
                call.unify(x.axes[index], parameter.axes[index - first])
        scaled_to_zero = weight is not None and weight.zero[index - first]
        zero[index] = scaled_to_zero and (bias is None or bias.zero[index - first])
    for index in range(first):
        zero[index] = zero[index] and bias is None  # nothing but zeros is normalised to zeros
    return Dims(tuple(call.resolve(axis) for axis in x.axes), tuple(zero))


@axis_rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Result:
    """``... h, h, h -> ... h`` with a statistic over h."""
    x = call.tensor("input")
    first = len(x) - len(call["normalized_shape"])
    for axis in x.axes[first:]:
        call.statistics(axis, "a normalisation")
    result = scaled(call, x, first)
    value = call.node.meta["val"]
    if not isinstance(value, (tuple, list)):
        return result
    statistic = Dims((*x.axes[:first], *(ONE,) * (len(x) - first)), (False,) * len(x))
    return (result, *(statistic for _ in value[1:]))


@resize_rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def resize_layer_norm(resize: Resize) -> Mapping[str, Any]:
    axes = resize.input("input").axes
    shape = resize["normalized_shape"]
    return {"normalized_shape": [resize.size(axis) for axis in axes[len(axes) - len(shape) :]]}


@axis_rule("group_norm")
def group_norm(call: Call) -> Result:
    """``n (g c) ..., (g c), (g c) -> n (g c) ...`` with a statistic over c: whole groups can be cut."""
    x = call.tensor("input")
    groups = call.fresh(call["num_groups"])
    inner = call.fresh(x.axes[1].size // groups.size)
    call.unify(x.axes[1], product(groups, inner))
    call.statistics(inner, "a normalisation")
    over_positions(call, x)
    for name in ("weight", "bias"):
        parameter = call.dims(name)
        if parameter is not None:
            call.unify(x.axes[1], parameter.axes[0])
    weight, bias = call.dims("weight"), call.dims("bias")
    zero = weight is not None and weight.zero[0] and (bias is None or bias.zero[0])
    call.remember(groups)
    return Dims(tuple(call.resolve(axis) for axis in x.axes), (False, zero, *(False,) * (len(x) - 2)))


@resize_rule("group_norm")
def resize_group_norm(resize: Resize) -> Mapping[str, Any]:
    (groups,) = resize.remembered
    return {"num_groups": resize.size(groups)}


def over_positions(call: Call, x: Dims) -> None:
    """A statistic is taken over the dims after the channels."""
    for axis in x.axes[2:]:
        call.statistics(axis, "a normalisation")


@axis_rule(
    "batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "cudnn_batch_norm",
    "instance_norm",
)
def batch_norm(call: Call) -> Result:
    """``n c ..., c, c, c, c -> n c ...``; a statistic over the other dims, unless it is known from training."""
    x = call.tensor("input")
    if call.arguments.get("use_input_stats"):
        over_positions(call, x)
    if call.arguments.get("training"):
        over_positions(call, x)
        call.statistics(x.axes[0], "a normalisation")
    weight, bias = call.dims("weight"), call.dims("bias")
    for name in ("weight", "bias", "running_mean", "running_var"):
        parameter = call.dims(name)
        if parameter is not None:
            call.unify(x.axes[1], parameter.axes[0])
    own = call.arguments.get("training") or call.arguments.get("use_input_stats")
    normal = x.zero[1] and bool(own)  # nothing but zeros, seen by itself, is normalised to zeros
    zero = (normal or (weight is not None and weight.zero[0])) and (bias is None or bias.zero[0])
    result = Dims(tuple(call.resolve(axis) for axis in x.axes), (False, zero, *(False,) * (len(x) - 2)))
    value = call.node.meta["val"]
    if not isinstance(value, (tuple, list)):
        return result
    channel = Dims((call.resolve(x.axes[1]),), (False,))
    statistics = (channel if shape == (x.axes[1].size,) else None for shape in call.shapes[1:])
    empty = call.fixed_outputs("it is a statistic")
    return (result, *(each or other for each, other in zip(statistics, empty[1:], strict=True)))  # type: ignore[index]


@axis_rule("_weight_norm")
def weight_norm(call: Call) -> Result:
    """``v * g / |v|``, the length taken over all dims but one: zeros add nothing to it, but it must not be zero."""
    v, g, kept = call.tensor("v"), call.tensor("g"), int(call["dim"])
    zero = list(v.zero)
    for dim, axis in enumerate(v.axes):
        if dim != kept:
            call.summed(axis, v.zero[dim], "weight norm")
            continue
        call.unify(axis, g.axes[dim])
        if v.zero[dim]:
            call.not_finite(
                "v",
                axis,
                "weight norm divides by the length of what would be masked, which is then zero: fold it into the "
                "weight first (remove_parametrizations, remove_weight_norm)",
                kept,
            )
        zero[dim] = v.zero[dim] or g.zero[dim]
    return Dims(tuple(map(call.resolve, v.axes)), tuple(zero))

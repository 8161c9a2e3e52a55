"""Convolutions, pooling and interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..axes import Axis, product
from .registry import Call, Dims, Resize, Result, axis_rule, dim_index, resize_rule, shape_of

SPATIAL = "it is a spatial dim that a window runs over"

CONVOLUTIONS = (
    "conv1d",
    "conv2d",
    "conv3d",
    "convolution",
    "_convolution",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)


@axis_rule(*CONVOLUTIONS)
def convolution(call: Call) -> Result:
    """``n (g i) ..., (g o) i ..., (g o) -> n (g o) ...``; transposed, the weight is ``(g i) o ...``.

    Along a dim in which the kernel has one position and nothing is left out or added, positions stay what they are.
    """
    x, weight = call.tensor("input"), call.tensor("weight")
    name = call.node.target.__name__  # type: ignore[union-attr]
    transposed = "transpose" in name or bool(call.arguments.get("transposed"))
    spatial = len(weight) - 2
    channel = len(x) - spatial - 1
    groups = call.fresh(call["groups"])
    inner = call.fresh(x.axes[channel].size // groups.size)
    outer = call.fresh(call.shape[channel] // groups.size)
    rows, columns = (inner, outer) if transposed else (outer, inner)
    call.unify(weight.axes[0], product(groups, rows))
    call.unify(weight.axes[1], columns)
    call.unify(x.axes[channel], product(groups, inner))
    call.summed(inner, x.zero[channel] or weight.zero[0 if transposed else 1], "a convolution")
    bias = call.dims("bias")
    positions: list[tuple[Axis, bool]] = []
    for at, (axis, zero) in enumerate(list(x)[channel + 1 :]):
        call.freeze(weight.axes[2 + at], SPATIAL)
        if _is_pointwise(call, weight.axes[2 + at].size, at):
            positions.append((axis, zero and bias is None))
        else:
            call.freeze(axis, SPATIAL)
            positions.append((call.fixed(call.shape[channel + 1 + at], SPATIAL), False))
    result: Axis = product(groups, outer)
    if bias is not None:
        call.unify(bias.axes[0], result)
    call.remember(groups)
    by_itself = x.zero[channel] and inner.size == outer.size == 1  # each channel makes one
    zero = (by_itself or (weight.zero[0] and (not transposed or weight.zero[1]))) and (bias is None or bias.zero[0])
    return Dims(
        (*x.axes[:channel], call.resolve(result), *(call.resolve(axis) for axis, _ in positions)),
        (*(bias is None and flag for flag in x.zero[:channel]), zero, *(flag for _, flag in positions)),
    )


def _is_pointwise(call: Call, kernel: int, at: int) -> bool:
    """Whether a convolution does the same to every position along a spatial dim, and makes no others."""
    usual = {"stride": 1, "padding": 0, "output_padding": 0}
    given = {name: call.arguments.get(name) for name in usual}
    values = {
        name: value[at % len(value)] for name, value in given.items() if isinstance(value, (list, tuple)) and value
    }
    return kernel == 1 and all(values.get(name, normal) == normal for name, normal in usual.items())


@resize_rule(*CONVOLUTIONS, "torchvision::deform_conv2d")
def resize_convolution(resize: Resize) -> Mapping[str, Any]:
    (groups,) = resize.remembered
    return {"groups": resize.size(groups)}


@axis_rule("torchvision::deform_conv2d")
def deformed(call: Call) -> Result:
    """``n (g i) h w, (g o) i ..., n p h w, n p h w, (g o) -> n (g o) h w``: p numbers at each position name places."""
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.tensor("bias")
    groups, sampled_alike = call.fresh(call["groups"]), call.fresh(call["offset_groups"])
    inner, outer = (call.fresh(size // groups.size) for size in (x.axes[1].size, call.shape[1]))
    call.unify(weight.axes[0], product(groups, outer))
    call.unify(weight.axes[1], inner)
    call.unify(bias.axes[0], product(groups, outer))
    call.unify(x.axes[1], product(groups, inner))
    call.unify(x.axes[1], product(sampled_alike, call.fresh(x.axes[1].size // sampled_alike.size)))
    call.freeze(sampled_alike, "its parts are sampled at places of their own")
    call.summed(inner, x.zero[1] or weight.zero[1], "a convolution")
    for axis in (*weight.axes[2:], *x.axes[2:]):
        call.freeze(axis, SPATIAL)
    for named in (call.tensor("offset"), call.tensor("mask")):
        call.unify(named.axes[0], x.axes[0])
        for axis in named.axes[1:]:
            call.freeze(axis, "it says where an image is sampled")
    call.remember(groups)
    positions = (call.fixed(size, SPATIAL) for size in call.shape[2:])
    axes = (x.axes[0], product(groups, outer), *positions)
    return Dims(tuple(map(call.resolve, axes)), (False, weight.zero[0] and bias.zero[0], False, False))


@axis_rule(
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "max_pool2d_with_indices",
    "max_pool1d_with_indices",
    "max_pool3d_with_indices",
    "_adaptive_avg_pool2d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_linear1d",
    "upsample_trilinear3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "reflection_pad3d",
    "replication_pad3d",
)
def window(call: Call) -> Result:
    """``n c ... -> n c ...``: each channel by itself, its spatial dims frozen."""
    x = call.tensor(next(iter(call.arguments)))
    value = call.node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    name = call.node.target.__name__  # type: ignore[union-attr]
    spatial = next((int(digit) for digit in name if digit.isdigit()), len(x) - 2)
    kept = len(x) - spatial
    for axis in x.axes[kept:]:
        call.freeze(axis, SPATIAL)
    axes = (*x.axes[:kept], *(call.fixed(size, SPATIAL) for size in (shape_of(first) or ())[kept:]))
    result = Dims(axes, (*x.zero[:kept], *(False,) * spatial))
    return (result, Dims(axes, (False,) * len(x))) if isinstance(value, (tuple, list)) else result


@axis_rule("max_unpool2d", "max_unpool3d")
def unpool(call: Call) -> Result:
    """``n c ..., n c ... -> n c ...``: each channel by itself, with positions of its own in a plane of fixed size."""
    x, places = call.tensor("self"), call.tensor("indices")
    spatial = int(call.node.target.__name__.split("unpool")[1][0])  # type: ignore[union-attr]
    kept = len(x) - spatial
    for own, other in zip(x.axes, places.axes, strict=True):
        call.unify(own, other)
    for axis in x.axes[kept:]:
        call.freeze(axis, SPATIAL)
    made = (call.fixed(size, SPATIAL) for size in call.shape[kept:])
    return Dims((*map(call.resolve, x.axes[:kept]), *made), (*x.zero[:kept], *(False,) * spatial))


@axis_rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sampled(call: Call) -> Result:
    """``n c ..., n h w 2 -> n c h w``: each channel of an image is sampled at the places that the grid of it names."""
    x, grid = call.tensor("input"), call.tensor("grid")
    call.unify(x.axes[0], grid.axes[0])
    for axis in x.axes[2:]:
        call.freeze(axis, SPATIAL)
    call.freeze(grid.axes[-1], "it says where a grid is sampled")
    axes = (*map(call.resolve, x.axes[:2]), *grid.axes[1:-1])
    return Dims(axes, (*x.zero[:2], *(False,) * (len(x) - 2)))


@axis_rule("affine_grid_generator")
def affine_grid(call: Call) -> Result:
    """``n 2 3 -> n h w 2``: the numbers of an affine map are taken one by one, so everything is frozen."""
    return call.opaque("it says where a grid is sampled")


@axis_rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Result:
    """``n (c r r) h w -> n c (h r) (w r)``"""
    x, factor = call.tensor("self"), call["upscale_factor"]
    channels = call.fresh(x.axes[-3].size // factor**2)
    call.unify(x.axes[-3], product(channels, call.fixed(factor, SPATIAL), call.fixed(factor, SPATIAL)))
    for axis in x.axes[-2:]:
        call.freeze(axis, SPATIAL)
    axes = (*x.axes[:-3], call.resolve(channels), *(call.fixed(size, SPATIAL) for size in call.shape[-2:]))
    return Dims(axes, (*x.zero[:-2], False, False))


@axis_rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Result:
    """``n c (h r) (w r) -> n (c r r) h w``"""
    x, factor = call.tensor("self"), call["downscale_factor"]
    for axis in x.axes[-2:]:
        call.freeze(axis, SPATIAL)
    channels = product(x.axes[-3], call.fixed(factor, SPATIAL), call.fixed(factor, SPATIAL))
    axes = (*x.axes[:-3], channels, *(call.fixed(size, SPATIAL) for size in call.shape[-2:]))
    return Dims(axes, (*x.zero[:-2], False, False))


@axis_rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Result:
    """``n (g c) ... -> n (c g) ...``"""
    x = call.tensor("self")
    groups = call.fresh(call["groups"])
    inner = call.fresh(x.axes[1].size // call["groups"])
    call.unify(x.axes[1], product(groups, inner))
    call.remember(groups)
    return x.replace(1, call.resolve(product(inner, groups)), x.zero[1])


@resize_rule("channel_shuffle", "native_channel_shuffle")
def resize_channel_shuffle(resize: Resize) -> Mapping[str, Any]:
    (groups,) = resize.remembered
    return {"groups": resize.size(groups)}


@axis_rule("im2col")
def im2col(call: Call) -> Result:
    """``n c h w -> n (c k k) l``: each channel by itself, for each of l windows its k × k positions."""
    x = call.tensor("self")
    for axis in x.axes[-2:]:
        call.freeze(axis, SPATIAL)
    kernel = [call.fixed(size, SPATIAL) for size in call["kernel_size"]]
    windows = call.fixed(call.shape[-1], SPATIAL)
    return Dims((*x.axes[:-3], product(x.axes[-3], *kernel), windows), (*x.zero[:-2], False))


@axis_rule("col2im")
def col2im(call: Call) -> Result:
    """``n (c k k) l -> n c h w``: windows are added up where they overlap, each channel by itself."""
    x = call.tensor("self")
    kernel = [call.fixed(size, SPATIAL) for size in call["kernel_size"]]
    channels = call.fresh(call.shape[-3])
    call.unify(x.axes[-2], product(channels, *kernel))
    call.freeze(x.axes[-1], SPATIAL)
    image = (call.fixed(size, SPATIAL) for size in call.shape[-2:])
    return Dims((*x.axes[:-2], call.resolve(channels), *image), (*x.zero[:-1], False, False))


@axis_rule("unfold", "unfold_copy")
def unfold(call: Call) -> Result:
    """``a b -> l b k``: l windows of k positions of a, which is frozen."""
    x = call.tensor("self")
    if not len(x):
        return call.opaque(SPATIAL)
    dim = dim_index(call["dimension"], len(x))
    call.freeze(x.axes[dim], SPATIAL)
    windows = x.replace(dim, call.fixed(call.shape[dim], SPATIAL), False)
    return Dims((*windows.axes, call.fixed(call.shape[-1], SPATIAL)), (*windows.zero, False))

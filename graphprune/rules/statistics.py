"""Statistics over some of the positions: what an operator gives if those that are cut do not count.

A normalisation over an axis that is cut takes its statistic over what is kept. Masking alone would count the zeros, so
the reference that a cut is verified against replaces these operators by the functions here, which are given the masks
of the input's dims. They are written plainly, with sums and counts, and share nothing with the operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from .registry import dim_index, operator_name

Masks = Sequence[Tensor | None]
"""The keep-mask of each dim of the input, which broadcasts to it; None where all positions count.

Along its own dim it has as many that count wherever it is looked at (see :func:`graphprune.masks.broadcast_masks`).
"""

Reference = Callable[[Mapping[str, Any], Masks], Any]

references: dict[str, Reference] = {}


POINTWISE = (torch.ops.aten.max.other, torch.ops.aten.min.other)
"""Overloads that compare two tensors, and not the positions of one."""

F = TypeVar("F", bound=Reference)


def reference(*operators: str) -> Callable[[F], F]:
    """Register what operators give where only some positions count, by their arguments' names."""

    def register(function: F) -> F:
        references.update({f"aten::{operator}": function for operator in operators})
        return function

    return register


def reference_of(node: fx.Node) -> Reference | None:
    """What a call gives where only some positions count; None where it takes no statistic that is known."""
    if node.op != "call_function" or node.target in POINTWISE:
        return None
    return references.get(operator_name(node.target))


def counted(x: Tensor, dims: Sequence[int], masks: Masks) -> tuple[Tensor, int]:
    """A mask that broadcasts to ``x`` and is one where positions count along ``dims``, and how many count there."""
    weight = x.new_ones([1] * x.ndim)
    for dim in dims:
        mask = masks[dim]
        if mask is not None:
            weight = weight * mask.to(x)
    positions = math.prod(x.shape[dim] if (mask := masks[dim]) is None else int(mask.sum(dim).max()) for dim in dims)
    return weight, positions


def moments(x: Tensor, dims: Sequence[int], masks: Masks, correction: float = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance over the positions of ``dims`` that count; the dims stay, with one position."""
    weight, positions = counted(x, dims, masks)
    mean = (x * weight).sum(list(dims), keepdim=True) / positions
    spread = ((x - mean) * weight).square().sum(list(dims), keepdim=True)
    return mean, spread / (positions - correction)


def chosen_dims(arguments: Mapping[str, Any], x: Tensor) -> list[int]:
    """The dims that a reduction names; all of them where it names none."""
    dims = arguments.get("dim")
    if dims is None or dims == []:
        return list(range(x.ndim))
    return [dim_index(dim, x.ndim) for dim in ([dims] if isinstance(dims, int) else dims)]


def reduced(value: Tensor, dims: Sequence[int], arguments: Mapping[str, Any]) -> Tensor:
    """The result of a reduction with or without its dims."""
    return value if arguments.get("keepdim") else value.squeeze(list(dims))


@reference("mean")
def mean(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    x = arguments["self"]
    dims = chosen_dims(arguments, x)
    return reduced(moments(x, dims, masks)[0], dims, arguments)


@reference("var")
def variance(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    x: Tensor = arguments["self"]
    dims = chosen_dims(arguments, x)
    correction = arguments.get("correction", arguments.get("unbiased"))
    _, spread = moments(x, dims, masks, 1.0 if correction is None else float(correction))
    return reduced(spread, dims, arguments)


@reference("var_mean")
def variance_and_mean(arguments: Mapping[str, Any], masks: Masks) -> tuple[Tensor, Tensor]:
    return variance(arguments, masks), mean(arguments, masks)


@reference("std")
def deviation(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    return variance(arguments, masks).sqrt()


@reference("std_mean")
def deviation_and_mean(arguments: Mapping[str, Any], masks: Masks) -> tuple[Tensor, Tensor]:
    return deviation(arguments, masks), mean(arguments, masks)


@reference("nanmean")
def mean_of_numbers(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    x: Tensor = arguments["self"]
    dims = chosen_dims(arguments, x)
    weight = counted(x, dims, masks)[0] * ~x.isnan()
    return reduced((x.nan_to_num() * weight).sum(dims, keepdim=True) / weight.sum(dims, keepdim=True), dims, arguments)


@reference("layer_norm")
def layer_norm(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    x = arguments["input"]
    dims = range(x.ndim - len(arguments["normalized_shape"]), x.ndim)
    centre, spread = moments(x, dims, masks)
    return scaled((x - centre) * (spread + arguments["eps"]).rsqrt(), arguments)


@reference("batch_norm")
def batch_norm(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    """Each channel by itself: over what is kept of the other dims, or with the statistics of training."""
    x: Tensor = arguments["input"]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    if arguments["training"]:
        centre, spread = moments(x, [dim for dim in range(x.ndim) if dim != 1], masks)
    else:
        centre, spread = (arguments[name].reshape(shape) for name in ("running_mean", "running_var"))
    return scaled_by_channel((x - centre) * (spread + arguments["eps"]).rsqrt(), arguments)


@reference("instance_norm")
def instance_norm(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    """Each channel of each sample by itself: over what is kept of its positions, or with the statistics of training."""
    if not arguments["use_input_stats"]:
        return batch_norm({**arguments, "training": False}, masks)
    x: Tensor = arguments["input"]
    centre, spread = moments(x, range(2, x.ndim), masks)
    return scaled_by_channel((x - centre) * (spread + arguments["eps"]).rsqrt(), arguments)


@reference("_native_batch_norm_legit")
def batch_norm_with_statistics(arguments: Mapping[str, Any], masks: Masks) -> tuple[Tensor, Tensor, Tensor]:
    """The same, with the mean and the reciprocal deviation."""
    x: Tensor = arguments["input"]
    centre, spread = moments(x, [dim for dim in range(x.ndim) if dim != 1], masks)
    return batch_norm(arguments, masks), centre.flatten(), (spread + arguments["eps"]).rsqrt().flatten()


@reference("softmax", "_softmax", "_safe_softmax", "special_softmax")
def softmax(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    """Positions that do not count have no share."""
    x = only_counted(arguments, masks, largest=True)
    return torch.softmax(x, arguments["dim"], dtype=arguments.get("dtype"))


@reference("topk")
def topk(arguments: Mapping[str, Any], masks: Masks) -> Any:
    """Positions that do not count are never chosen."""
    x = only_counted(arguments, masks, largest=arguments["largest"])
    return torch.topk(x, arguments["k"], arguments["dim"], arguments["largest"], arguments["sorted"])


def _best(operator: Callable[..., Any], over_several: Callable[..., Tensor], *, largest: bool) -> Reference:
    """Positions that do not count are never the best."""

    def best(arguments: Mapping[str, Any], masks: Masks) -> Any:
        x = only_counted(arguments, masks, largest=largest)
        if isinstance(dim := arguments.get("dim"), int):
            return operator(x, dim, arguments["keepdim"])
        return over_several(x, chosen_dims(arguments, x), arguments.get("keepdim", False))

    return best


for _name, _several, _largest in (("max", torch.amax, True), ("min", torch.amin, False)):
    for _operator in (_name, f"a{_name}", f"arg{_name}"):
        reference(_operator)(_best(getattr(torch, _operator), _several, largest=_largest))


def only_counted(arguments: Mapping[str, Any], masks: Masks, *, largest: bool) -> Tensor:
    """The input with the worst of all values where positions along the dims that are compared do not count."""
    x: Tensor = arguments["self"]
    limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    worst = (-torch.inf if largest else torch.inf) if x.is_floating_point() else limits.min if largest else limits.max
    for dim in chosen_dims(arguments, x):
        mask = masks[dim]
        x = x if mask is None else x.masked_fill(~mask.to(x.device), worst)
    return x


@reference("rms_norm")
def rms_norm(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    x = arguments["input"]
    dims = range(x.ndim - len(arguments["normalized_shape"]), x.ndim)
    eps = arguments["eps"] if arguments["eps"] is not None else torch.finfo(x.dtype).eps
    square, _ = moments(x.square(), dims, masks)
    return scaled(x * (square + eps).rsqrt(), arguments)


@reference("group_norm")
def group_norm(arguments: Mapping[str, Any], masks: Masks) -> Tensor:
    """A group counts the channels of it that are kept, and of them the positions that are."""
    x: Tensor = arguments["input"]
    groups: int = arguments["num_groups"]
    grid = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    counts = x.new_ones(x.shape[1:])[None]
    for mask in masks[1:]:
        counts = counts if mask is None else counts * mask.to(x)
    counts = counts.reshape(1, *grid.shape[1:])
    dims = list(range(2, grid.ndim))
    positions = counts.sum(dims, keepdim=True).clamp_min(1)  # a group that is cut as a whole counts nothing
    centre = (grid * counts).sum(dims, keepdim=True) / positions
    spread = ((grid - centre) * counts).square().sum(dims, keepdim=True) / positions
    normal = ((grid - centre) * (spread + arguments["eps"]).rsqrt()).reshape(x.shape)
    return scaled_by_channel(normal, arguments)


def scaled_by_channel(normal: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """The same where weight and bias have a number for each channel, the second dim."""
    shape = [1, -1, *[1] * (normal.ndim - 2)]
    affine = {name: value.reshape(shape) for name in ("weight", "bias") if (value := arguments.get(name)) is not None}
    return scaled(normal, affine)


def scaled(normal: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """A normalised tensor times the weight plus the bias."""
    weight, bias = arguments.get("weight"), arguments.get("bias")
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias

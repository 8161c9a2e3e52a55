"""Operators that make tensors from nothing but sizes, and those that return no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .registry import Call, Dims, Resize, Result, axis_rule, cut_after, resize_rule
from .views import resized_shape


@axis_rule("full", "zeros", "ones", "empty", "new_full", "new_zeros", "new_ones", "new_empty", "scalar_tensor")
def filled(call: Call) -> Result:
    """``-> a b``: every position is the same, so any number of them can be made."""
    zero = call.node.target.__name__.startswith(("zeros", "new_zeros"))  # type: ignore[union-attr]
    shape = call.shape
    return Dims(tuple(call.fresh(size) for size in shape), (zero,) * len(shape))


@resize_rule("full", "zeros", "ones", "empty", "new_full", "new_zeros", "new_ones", "new_empty")
def resize_filled(resize: Resize) -> Mapping[str, Any]:
    return {"size": resized_shape(resize, resize["size"])}


RANDOM_FILLS = (
    "rand_like",
    "randn_like",
    "randint_like",
    "cauchy",
    "exponential",
    "geometric",
    "log_normal",
    "normal_functional",
    "random",
    "uniform",
)
"""Operators that fill a tensor with random numbers, whatever is in it."""


@axis_rule("full_like", "zeros_like", "ones_like", "empty_like", "zero", *RANDOM_FILLS)
def filled_like(call: Call) -> Result:
    """``a b -> a b``"""
    x = call.tensor("self")
    return Dims(x.axes, (call.node.target.__name__.startswith("zero"),) * len(x))  # type: ignore[union-attr]


@axis_rule("fill")
def filled_with(call: Call) -> Result:
    """``a b -> a b`` with one number everywhere."""
    x = call.tensor("self")
    return Dims(x.axes, (call["value"] == 0,) * len(x))


@axis_rule("arange", "linspace", "logspace", "hann_window")
@cut_after("arange", "linspace", "logspace", "hann_window")
def counted(call: Call) -> Result:
    """``-> a``: the values count positions; all of them are made, and those of kept positions stay."""
    return Dims(tuple(call.fresh(size) for size in call.shape), (False,) * len(call.shape))


@axis_rule("eye")
def eye(call: Call) -> Result:
    """``-> a a``: what is left of a unit matrix is one."""
    rows, columns = call.shape
    if rows != columns:
        return call.fixed_outputs("it is a unit matrix that is not square")
    axis = call.fresh(rows)
    return Dims((axis, axis), (False, False))


@resize_rule("eye")
def resize_eye(resize: Resize) -> Mapping[str, Any]:
    size = resize.size(resize.dims.axes[0])
    return {"n": size} | ({"m": size} if "m" in resize.arguments else {})


@axis_rule("rand", "randn", "randint", "randperm", "tril_indices", "triu_indices")
def numbered(call: Call) -> Result:
    """``-> a b``: the values depend on how many positions there are, so they are frozen."""
    return call.fixed_outputs(f"{call.node.target} makes values for all its positions together")


@axis_rule("meshgrid")
def meshgrid(call: Call) -> Result:
    """``a, b -> a b, a b``"""
    axes = tuple(dims.axes[0] if len(dims) else call.fresh(1) for dims in call.tensors())
    if call.arguments.get("indexing") == "xy" and len(axes) > 1:
        axes = (axes[1], axes[0], *axes[2:])
    return (Dims(axes, (False,) * len(axes)),) * len(axes)


@axis_rule(
    "sym_size",
    "sym_numel",
    "sym_stride",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_assert_tensor_metadata",
    "_assert_async",
    "_assert_scalar",
    "size",
    "numel",
)
def nothing(call: Call) -> Result:
    """Calls that return no tensor and leave no trace in one."""
    return None


@axis_rule("item", "_local_scalar_dense", "is_nonzero", "equal", "allclose")
def number(call: Call) -> Result:
    """A number is taken out of a tensor: everything it came from is frozen."""
    return call.opaque("a number is taken out of it")

"""Operators that work position by position: ``... , ... -> ...`` with broadcasting."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from ..axes import ONE, Axis
from .registry import DATA_SIZED, Call, Dims, Result, axis_rule


def broadcast(call: Call, operands: list[Dims]) -> tuple[Axis, ...]:
    """The axes of the broadcast result; dims of more than one position that meet are unified."""
    rank = max((len(dims) for dims in operands), default=0)
    axes: list[Axis] = []
    for back in range(rank, 0, -1):
        meeting = [dims.axes[-back] for dims in operands if len(dims) >= back and dims.axes[-back].size != 1]
        for other in meeting[1:]:
            call.unify(meeting[0], other)
        axes.append(call.resolve(meeting[0]) if meeting else ONE)
    return tuple(axes)


def zero_along(dims: Dims, back: int) -> bool:
    """Whether an operand is zero at the masked units of the ``back``-th dim from the end of the result."""
    return len(dims) >= back and dims.axes[-back].size != 1 and dims.zero[-back]


def pointwise(call: Call, operands: list[Dims], zero: Any) -> Dims:
    """Broadcast ``operands``; ``zero(flags)`` says from the operands' flags of a dim if the result is zero there."""
    axes = broadcast(call, operands)
    rank = len(axes)
    if call.data_sized:
        axes = tuple(
            axis if axis.size == size else call.fixed(size, DATA_SIZED)
            for axis, size in zip(axes, call.shape, strict=True)
        )
    zeros = (zero([zero_along(dims, back) for dims in operands]) for back in range(rank, 0, -1))
    return Dims(axes, tuple(bool(flag) for flag in zeros))


def scalars(call: Call, *names: str) -> list[Any]:
    """The arguments of these names that are numbers; one that the graph computes is NaN, which equals nothing."""
    values = [call.arguments.get(name) for name in names if call.dims(name) is None]
    return [math.nan if isinstance(value, fx.Node) else value for value in values if value is not None]


def singular(call: Call, name: str) -> None:
    """The call is not finite where this argument is zero: what is not cut could not be told from what is."""
    for axis, zero in call.dims(name) or ():
        if zero:
            call.not_finite(name, axis, f"{call.node.target} is not finite at zero, and its masked units are zero")


@axis_rule(
    "abs",
    "neg",
    "sign",
    "sgn",
    "floor",
    "ceil",
    "round",
    "trunc",
    "frac",
    "sqrt",
    "square",
    "sin",
    "tan",
    "asin",
    "atan",
    "sinh",
    "tanh",
    "asinh",
    "atanh",
    "expm1",
    "log1p",
    "erf",
    "erfinv",
    "relu",
    "relu6",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "elu",
    "celu",
    "selu",
    "leaky_relu",
    "softshrink",
    "hardshrink",
    "nan_to_num",
    "deg2rad",
    "rad2deg",
    "logical_and",
    "bitwise_and",
    "__and__",
    "real",
    "imag",
    "complex",
    "conj",
    "conj_physical",
    "rrelu",
    "positive",
    "isnan",
    "isinf",
    "isposinf",
    "isneginf",
    "negative",
    "absolute",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctanh",
    "fix",
    "special_erf",
    "special_expm1",
    "special_log1p",
)
def zero_preserving(call: Call) -> Result:
    """``f(x)`` with ``f(0) = 0``."""
    return pointwise(call, call.tensors(), all)


@axis_rule(
    "exp",
    "exp2",
    "cos",
    "cosh",
    "acos",
    "sigmoid",
    "hardsigmoid",
    "log_sigmoid",
    "softplus",
    "erfc",
    "isfinite",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_not",
    "bitwise_not",
    "__or__",
    "bitwise_or",
    "logical_or",
    "logical_xor",
    "bitwise_xor",
    "__xor__",
    "__lshift__",
    "__rshift__",
    "bitwise_left_shift",
    "bitwise_right_shift",
    "atan2",
    "arctan2",
    "arccos",
    "isclose",
    "rsub",
    "logaddexp",
    "logaddexp2",
    "i0",
    "sinc",
    "bernoulli",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "not_equal",
    "special_expit",
)
def never_zero(call: Call) -> Result:
    """``f(x, …)`` where a zero input gives no zero output, or not always."""
    return pointwise(call, call.tensors(), lambda flags: False)


@axis_rule("log", "log2", "log10", "logit", "rsqrt", "reciprocal", "acosh", "arccosh", "digamma", "lgamma")
def singular_at_zero(call: Call) -> Result:
    """``f(x)`` with no finite ``f(0)``."""
    singular(call, "self")
    return never_zero(call)


@axis_rule("floor_divide", "xlogy")
def singular_in_second(call: Call) -> Result:
    """``f(x, y)`` with no finite ``f(x, 0)``."""
    singular(call, "other")
    return never_zero(call)


@axis_rule("add", "sub", "subtract", "maximum", "minimum", "fmax", "fmin", "hypot")
def additive(call: Call) -> Result:
    """``x + y``: zero where both are."""
    offset = any(value != 0 for value in scalars(call, "other"))
    return pointwise(call, call.tensors(), lambda flags: all(flags) and not offset)


@axis_rule("mul", "multiply")
def multiplicative(call: Call) -> Result:
    """``x * y``: zero where one is."""
    return pointwise(call, call.tensors(), any)


@axis_rule("div", "divide", "true_divide", "fmod", "remainder")
def quotient(call: Call) -> Result:
    """``x / y``: zero where x is, not finite where y is zero."""
    singular(call, "other")
    if call.dims("self") is None:
        return never_zero(call)
    return pointwise(call, call.tensors(), lambda flags: flags[0])


@axis_rule("copysign", "polar")
def copysign(call: Call) -> Result:
    """``|x| * sign(y)``: zero where x is."""
    return pointwise(call, call.tensors(), lambda flags: flags[0])


@axis_rule("pow", "float_power")
def power(call: Call) -> Result:
    """``x ** n``: zero where x is, for a constant positive n; not finite where x is zero, if n may be negative."""
    exponents = scalars(call, "exponent")
    if not exponents or not exponents[0] >= 0:
        singular(call, "self")
    keeps = call.dims("self") is not None and all(exponent > 0 for exponent in exponents) and bool(exponents)
    return pointwise(call, call.tensors(), lambda flags: keeps and flags[0])


@axis_rule("clamp", "clip", "hardtanh", "clamp_min", "clamp_max")
def clamp(call: Call) -> Result:
    """``min(max(x, lower), upper)``: zero where x is, if zero lies between numbers as bounds."""
    lower = scalars(call, "min", "min_val")
    upper = scalars(call, "max", "max_val")
    tensors = call.tensors()
    keeps = len(tensors) == 1 and all(value <= 0 for value in lower) and all(value >= 0 for value in upper)
    return pointwise(call, tensors, lambda flags: keeps and flags[0])


@axis_rule("threshold")
def threshold(call: Call) -> Result:
    """``x if x > t else value``: zero where x is if the value is zero, or zero is above the threshold."""
    keeps = call["value"] == 0 or call["threshold"] < 0
    return pointwise(call, call.tensors(), lambda flags: keeps and flags[0])


@axis_rule("where")
def where(call: Call) -> Result:
    """``condition ? x : y``: zero where both are."""
    if call.arguments.get("self") is None:
        return call.opaque("the number of positions where a condition holds depends on data")
    constant = any(value != 0 for value in scalars(call, "self", "other"))
    return pointwise(call, call.tensors(), lambda flags: all(flags[1:]) and not constant)


@axis_rule("masked_fill")
def masked_fill(call: Call) -> Result:
    """``mask ? value : x``: zero where x is, if the value is zero."""
    keeps = not isinstance(call["value"], fx.Node) and call["value"] == 0
    return pointwise(call, [call.tensor("self"), call.tensor("mask")], lambda flags: keeps and flags[0])


@axis_rule("addcmul")
def addcmul(call: Call) -> Result:
    """``x + v * y * z``: zero where x and one of y, z are."""
    return pointwise(call, call.tensors(), lambda flags: flags[0] and (flags[1] or flags[2]))


@axis_rule("addcdiv")
def addcdiv(call: Call) -> Result:
    """``x + v * y / z``: zero where x and y are, not finite where z is zero."""
    singular(call, "tensor2")
    return pointwise(call, call.tensors(), lambda flags: flags[0] and flags[1])


@axis_rule("lerp")
def lerp(call: Call) -> Result:
    """``x + w * (y - x)``: zero where x and y are."""
    return pointwise(call, call.tensors(), lambda flags: flags[0] and flags[1])


@axis_rule("isin", "bucketize")
def looked_up(call: Call) -> Result:
    """``x, v -> x``: each value of x is looked for among those of v, which are frozen."""
    values = call.dims("test_elements") or call.dims("boundaries")
    for axis in values.axes if values else ():
        call.freeze(axis, f"{call.node.target} looks for values among its positions")
    x = call.dims("elements") or call.dims("self")
    return Dims(x.axes if x else (), (False,) * len(x or ()))


@axis_rule("broadcast_tensors")
def broadcast_tensors(call: Call) -> Result:
    """``x, y, … -> …``, each broadcast to the shape of all."""
    operands = call.tensors()
    together = Dims(broadcast(call, operands), (False,) * len(call.node.meta["val"][0].shape))
    return tuple(pointwise(call, [each, together], lambda flags: flags[0]) for each in operands)


@axis_rule("prelu")
def prelu(call: Call) -> Result:
    """``n c ..., c -> n c ...``"""
    x, weight = call.tensor("self"), call.tensor("weight")
    if weight.axes and weight.axes[0].size != 1:
        call.unify(x.axes[min(1, len(x) - 1)], weight.axes[0])
    return x


@axis_rule("glu")
def glu(call: Call) -> Result:
    """``... (a + a) -> ... a``"""
    x = call.tensor("self")
    dim = call["dim"] % len(x)
    half = x.axes[dim].size // 2
    left, right = call.split(x.axes[dim], [half, half])
    call.unify(left, right)
    return x.replace(dim, call.resolve(left), x.zero[dim])


@axis_rule(
    "to",
    "_to_copy",
    "type_as",
    "clone",
    "contiguous",
    "detach",
    "alias",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "lift_fresh",
    "lift_fresh_copy",
    "lift",
    "cpu",
    "cuda",
    "detach_copy",
    "pin_memory",
    "resolve_conj",
    "resolve_neg",
    "_conj",
    "_autocast_to_reduced_precision",
    "_autocast_to_full_precision",
)
def identity(call: Call) -> Result:
    """``... -> ...``: the same values, at most in another type or place."""
    return call.tensor(next(iter(call.arguments)))


@axis_rule("native_dropout")
def native_dropout(call: Call) -> Result:
    """``... -> ..., ...``: the values, and the mask of what stays."""
    x = call.tensor("input")
    return x, Dims(x.axes, (False,) * len(x))


@axis_rule("copy", "copy_")
def copy(call: Call) -> Result:
    """``x, y -> y``, broadcast to the shape of x; in place it is what is kept in a buffer for the next call."""
    return pointwise(call, [call.tensor("self"), call.tensor("src")], lambda flags: flags[1])

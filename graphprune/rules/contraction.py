"""Operators that multiply and add up: linear, matmul, einsum and their kin.

All are one einsum: dims with the same label are the same axis, and a label missing from the result is summed over,
which is sound where one of the factors is zero at the masked units.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from ..axes import ONE, Axis
from ..axes import product as flattened
from .pointwise import pointwise
from .registry import Call, Dims, Result, axis_rule, dim_index, operator_name

Labels = Sequence[str]


def contract(call: Call, operands: Sequence[tuple[Dims, Labels]], result: Labels) -> Dims:
    """The result of an einsum; dims of one position broadcast against longer ones of the same label."""
    found: dict[str, list[tuple[Axis, bool]]] = {}
    for dims, labels in operands:
        for (axis, zero), label in zip(dims, labels, strict=True):
            found.setdefault(label, []).append((axis, zero))
    axes: dict[str, Axis] = {}
    zeros: dict[str, bool] = {}
    for label, uses in found.items():
        long = [(axis, zero) for axis, zero in uses if axis.size != 1]
        for axis, _ in long[1:]:
            call.unify(long[0][0], axis)
        axes[label] = call.resolve(long[0][0]) if long else ONE
        zeros[label] = any(zero for _, zero in long)
        if label not in result:
            call.summed(axes[label], zeros[label], "a product of tensors")
    return Dims(tuple(axes[label] for label in result), tuple(zeros[label] for label in result))


def batch_labels(rank: int, kept: int) -> list[str]:
    """Labels of leading dims, equal for dims that are equally far from the end."""
    return [f"batch{back}" for back in range(rank, kept, -1)]


def add_bias(call: Call, product: Dims, bias: Dims | None) -> Dims:
    """A bias is added: what is zero afterwards must be zero in both."""
    return product if bias is None else pointwise(call, [product, bias], all)


@axis_rule("linear")
def linear(call: Call) -> Result:
    """``... i, o i, o -> ... o``"""
    x, weight = call.tensor("input"), call.tensor("weight")
    batch = batch_labels(len(x), 1)
    out = ["o"][: len(weight) - 1]
    product = contract(call, [(x, [*batch, "i"]), (weight, [*out, "i"])], [*batch, *out])
    if is_unit(call["input"]) and out:  # the transposed weight itself: this is how DoRA multiplies the factors
        product = Dims(product.axes, (weight.zero[1], weight.zero[0]))
    return add_bias(call, product, call.dims("bias"))


def is_unit(node: fx.Node) -> bool:
    """Whether a value is a unit matrix."""
    return node.op == "call_function" and operator_name(node.target) == "aten::eye"


def matrix_product(call: Call, a: Dims, b: Dims) -> Dims:
    """``... i j, ... j k -> ... i k``, with vectors as torch.matmul has them."""
    left = [*batch_labels(len(a), 2), *["i", "j"][-len(a) :]]
    right = [*batch_labels(len(b), 2), *["j", "k"][: len(b)]]
    batch = batch_labels(max(len(a), len(b)), 2)
    result = [*batch, *(["i"] if len(a) > 1 else []), *(["k"] if len(b) > 1 else [])]
    return contract(call, [(a, left), (b, right)], result)


@axis_rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "linalg_matmul")
def matmul(call: Call) -> Result:
    """``... i j, ... j k -> ... i k``"""
    a, b = call.tensors()
    return matrix_product(call, a, b)


@axis_rule("linalg_multi_dot")
def multi_dot(call: Call) -> Result:
    """``i j, j k, k l, … -> i l``"""
    first, *others = call.tensors()
    for other in others:
        first = matrix_product(call, first, other)
    return first


@axis_rule("addmm", "baddbmm", "addmv", "addbmm")
def addmm(call: Call) -> Result:
    """``x + a @ b``"""
    added, a, b = call.tensors()
    product = matrix_product(call, a, b)
    if len(product) > len(call.shape):
        call.summed(product.axes[0], product.zero[0], "addbmm")
        product = product.take(range(1, len(product)))
    return pointwise(call, [product, added], all)


@axis_rule("outer", "ger")
def outer(call: Call) -> Result:
    """``i, j -> i j``"""
    a, b = call.tensors()
    return contract(call, [(a, "i"), (b, "j")], "ij")


@axis_rule("kron")
def kron(call: Call) -> Result:
    """``a b, c d -> (a c) (b d)``"""
    x, y = call.tensors()
    rank = max(len(x), len(y))
    left, right = (Dims((ONE,) * (rank - len(z)) + z.axes, (True,) * (rank - len(z)) + z.zero) for z in (x, y))
    axes, zero = [], []
    for (a, one), (b, other) in zip(left, right, strict=True):
        axes.append(call.bounded(flattened(a, b)))
        zero.append((one or a.size == 1) and (other or b.size == 1))
    return Dims(tuple(axes), tuple(zero))


@axis_rule("inner")
def inner(call: Call) -> Result:
    """``a i, b i -> a b``"""
    a, b = call.tensors()
    left = [f"a{dim}" for dim in range(len(a) - 1)]
    right = [f"b{dim}" for dim in range(len(b) - 1)]
    if not len(a) or not len(b):
        return pointwise(call, [a, b], any)
    return contract(call, [(a, [*left, "i"]), (b, [*right, "i"])], [*left, *right])


@axis_rule("tensordot")
def tensordot(call: Call) -> Result:
    """``a i, i b -> a b`` for the dims that are named."""
    a, b = call.tensors()
    left, right = [f"a{dim}" for dim in range(len(a))], [f"b{dim}" for dim in range(len(b))]
    for one, other in zip(call["dims_self"], call["dims_other"], strict=True):
        left[one] = right[other] = f"sum{dim_index(one, len(a))}"
    result = [label for label in (*left, *right) if not label.startswith("sum")]
    return contract(call, [(a, left), (b, right)], result)


@axis_rule("einsum")
def einsum(call: Call) -> Result:
    """Its own notation; a label that occurs twice in one operand takes a diagonal and freezes."""
    equation = str(call["equation"]).replace(" ", "")
    operands = call.tensors()
    _, arrow, output = equation.partition("->")
    labelled = labelled_operands(equation, operands)
    every = [label for _, labels in labelled for label in labels]
    if not arrow:
        ellipses = [label for label in every if len(label) > 1]
        result = [
            *dict.fromkeys(ellipses),
            *sorted(label for label in set(every) - set(ellipses) if every.count(label) == 1),
        ]
    else:
        rank = max((len(labels) for _, labels in labelled), default=0)
        longest = max((sum(len(label) > 1 for label in labels) for _, labels in labelled), default=0)
        result = spread_ellipsis(output, len(output.replace("...", "")) + longest if "..." in output else rank)
    for dims, labels in labelled:
        for (axis, _), label in zip(dims, labels, strict=True):
            if list(labels).count(label) > 1:
                call.freeze(axis, "einsum takes a diagonal of it")
    return contract(call, labelled, result)


def einsum_axes(equation: str, operands: Sequence[Dims]) -> dict[str, Axis]:
    """The axis of each label of an einsum; of dims that are broadcast the longer one."""
    found: dict[str, Axis] = {}
    for dims, labels in labelled_operands(equation, operands):
        for axis, label in zip(dims.axes, labels, strict=True):
            if label not in found or found[label].size == 1:
                found[label] = axis
    return found


def labelled_operands(equation: str, operands: Sequence[Dims]) -> list[tuple[Dims, list[str]]]:
    """Each operand of an einsum with a label for each of its dims."""
    inputs = equation.replace(" ", "").partition("->")[0].split(",")
    return [(dims, spread_ellipsis(labels, len(dims))) for dims, labels in zip(operands, inputs, strict=True)]


def spread_ellipsis(labels: str, rank: int) -> list[str]:
    """One label for each dim, ``...`` spread over the dims that it stands for."""
    if "..." not in labels:
        return list(labels)
    before, after = labels.split("...")
    hidden = rank - len(before) - len(after)
    return [*before, *(f"ellipsis{back}" for back in range(hidden, 0, -1)), *after]


@axis_rule("bilinear")
def bilinear(call: Call) -> Result:
    """``... i, ... j, o i j, o -> ... o``"""
    a, b, weight = call.tensor("input1"), call.tensor("input2"), call.tensor("weight")
    batch = batch_labels(len(a), 1)
    operands = [(a, [*batch, "i"]), (b, [*batch, "j"]), (weight, ["o", "i", "j"])]
    return add_bias(call, contract(call, operands, [*batch, "o"]), call.dims("bias"))


@axis_rule("_grouped_mm", "transformers::grouped_mm_fallback")
def grouped_mm(call: Call) -> Result:
    """``n i, e i o, e -> n o``: rows are handed to experts where data says, so n is frozen.

    So is e, unless the ends of the rows of each expert add up how many there are, and there are none for masked ones.
    """
    names = iter(call.arguments)
    x, weight, ends = call.tensor(next(names)), call.tensor(next(names)), next(names)
    call.freeze(x.axes[0], "its positions are handed to experts where data says")
    if adds_up_zeros(call, call[ends]):
        call.unify(weight.axes[0], call.tensor(ends).axes[0])
    else:
        call.freeze(weight.axes[0], "its positions are chosen by data (experts)")
    return contract(call, [(x, "ni"), (weight.take((1, 2)), "io")], "no")


def adds_up_zeros(call: Call, node: object) -> bool:
    """Whether a value is the running sum along an axis at whose masked units there are zeros."""
    while isinstance(node, fx.Node) and operator_name(node.target) in ("aten::_to_copy", "aten::to"):
        node = node.args[0]
    if not isinstance(node, fx.Node) or operator_name(node.target) != "aten::cumsum":
        return False
    added = call.dims_of(node.args[0])
    return added is not None and added.zero == (True,)

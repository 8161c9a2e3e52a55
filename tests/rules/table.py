"""The table of rules: every operator with an axis rule, in small modules.

Letters are random sizes (see :mod:`case`). Most cases make activations ``h`` of an input and a parameter, hand them to
the operator, and end in a contraction with another parameter: what is between the two can be cut. Where they end in a
contraction of activations, it can be cut only if masked units stay zero.
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
import transformers.integrations.moe  # noqa: F401  (registers an operator)
from torch import Tensor

from tests.rules.case import Case, Small, aten, case

NOT_ZERO = "adds up over it, and its masked units are not zero"
SINGULAR = "is not finite at zero, and its masked units are zero"


def h(p: Small, x: Tensor) -> Tensor:
    """Activations ``[2, a]``, small enough for asin and its kin."""
    return (x @ p.up) * 0.2


WHOLE = (
    "det logdet slogdet inverse pinverse matrix_exp matrix_power cholesky_inverse cholesky_solve svd linalg_det "
    "linalg_slogdet linalg_inv linalg_inv_ex linalg_pinv linalg_matrix_exp linalg_matrix_power linalg_matrix_rank "
    "linalg_matrix_norm linalg_cholesky linalg_cholesky_ex linalg_qr linalg_svd linalg_svdvals linalg_eig linalg_eigh "
    "linalg_eigvalsh linalg_lu linalg_lu_factor linalg_solve linalg_solve_triangular"
)
"""Operators that take a matrix as a whole."""


def _whole(name: str, square: Tensor) -> Tensor:
    """The sum of what one of them gives."""
    second: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(["matrix_power", "linalg_matrix_power"], (2,)),
        **dict.fromkeys(["cholesky_solve", "linalg_solve"], (square,)),
    }
    options = {"upper": False} if name == "linalg_solve_triangular" else {}
    given = [square, square] if options else [square, *second.get(name, ())]
    found = getattr(aten, name)(*given, **options)
    return total([each.abs().sum() for each in (found if isinstance(found, (tuple, list)) else [found])])


ELEMENTWISE = "mse_loss l1_loss smooth_l1_loss huber_loss"
LOSSES = (
    "cross_entropy_loss nll_loss nll_loss2d nll_loss_nd binary_cross_entropy binary_cross_entropy_with_logits kl_div "
    "soft_margin_loss multilabel_margin_loss margin_ranking_loss hinge_embedding_loss cosine_embedding_loss "
    "triplet_margin_loss poisson_nll_loss"
)


def _loss(name: str, x: Tensor) -> Tensor:
    """One of these losses of ``[rows, classes]``, beside targets that fit it."""
    values, classes = x.sigmoid(), torch.zeros(x.shape[0], dtype=torch.long)
    given: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(["cross_entropy_loss", "nll_loss", "nll_loss_nd"], (x, classes)),
        "nll_loss2d": (x[:, :, None, None], classes[:, None, None]),
        "multilabel_margin_loss": (x, torch.zeros(x.shape, dtype=torch.long)),
        "cosine_embedding_loss": (x, values, classes - 1),
        **dict.fromkeys(["margin_ranking_loss", "triplet_margin_loss"], (x, values, values)),
        "poisson_nll_loss": (x, values, True, False, 1e-8, 1),
    }
    return getattr(aten, name)(*given.get(name, (values, values)))  # type: ignore[no-any-return]


def total(parts: list[Tensor]) -> Tensor:
    return reduce(operator.add, parts)


# --- position by position ---------------------------------------------------------------------------------------------

ZERO = (
    "abs neg sign sgn floor ceil round trunc frac sqrt square sin tan asin atan sinh tanh asinh atanh expm1 log1p erf "
    "erfinv relu relu6 gelu silu mish hardswish elu celu selu leaky_relu softshrink hardshrink nan_to_num deg2rad "
    "rad2deg conj_physical rrelu positive"
)
NEVER = "exp exp2 cos cosh acos sigmoid hardsigmoid log_sigmoid softplus erfc isfinite i0 sinc logical_not"
SINGULAR_OPS = "log log2 log10 logit rsqrt reciprocal acosh arccosh digamma lgamma"
ALIASES = "negative absolute arcsin arcsinh arctan arctanh fix isnan isinf"
COMPARISONS = "eq ne lt le gt ge greater greater_equal less less_equal not_equal isclose"
BITS = "bitwise_or bitwise_xor __or__ __xor__ __lshift__ __rshift__ bitwise_left_shift bitwise_right_shift"
IDENTITY = "clone contiguous detach alias detach_copy lift_fresh_copy resolve_conj resolve_neg positive"


def each(ops: str) -> list[Any]:
    """The operators of some names."""
    return [getattr(aten, name) for name in ops.split()]


POINTWISE: list[Case] = [
    case(
        "special_erf special_expm1 special_log1p",
        lambda p, x: total([f(h(p, x).abs()).sum(-1) for f in each("special_erf special_expm1 special_log1p")]),
        cut="up:1",
        up="3 a",
    ),
    case("float_power", lambda p, x: aten.float_power(h(p, x), 2).sum(-1), cut="up:1", up="3 a"),
    case(
        "broadcast_tensors",
        lambda p, x: total([f.sum(-1) for f in torch.broadcast_tensors(h(p, x), h(p, x)[0])]),
        cut="up:1",
        up="3 a",
    ),
    case(
        "broadcast_tensors",
        lambda p, x: torch.broadcast_tensors(x @ p.up, p.one)[1].sum(-1),
        frozen={"up:1": NOT_ZERO},
        up="3 a",
        one="1",
    ),
    case(
        ZERO,
        lambda p, x: total([(f(h(p, x)) * h(p, x).cos()).sum(-1) for f in each(ZERO)]),
        cut="up:1",
        up="3 a",
    ),
    case(
        NEVER, lambda p, x: total([f(h(p, x)).double() @ p.down for f in each(NEVER)]), cut="up:1", up="3 a", down="a 2"
    ),
    *(
        case(
            name,
            lambda p, x, name=name: getattr(aten, name)(h(p, x)).double().sum(-1),
            frozen={"up:1": f"sum {NOT_ZERO}"},
            up="3 a",
        )
        for name in NEVER.split()
    ),
    *(
        case(
            name,
            lambda p, x, name=name: getattr(aten, name)(h(p, x)).sum(-1),
            frozen={"up:1": f"aten.{name}.default {SINGULAR}"},
            up="3 a",
        )
        for name in SINGULAR_OPS.split()
    ),
    case(
        SINGULAR_OPS,
        lambda p, x: total([f(h(p, x).abs()).nan_to_num() @ p.down for f in each(SINGULAR_OPS)]),
        cut="up:1 down:0",
        up="3 a",
        down="a 2",
    ),
    case(
        SINGULAR_OPS,
        lambda p, x: total(
            [f((x @ p.up).abs() + (0.1 if f is aten.logit else 1.5)).nan_to_num() @ p.down for f in each(SINGULAR_OPS)]
        ),
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        COMPARISONS,
        lambda p, x: total([f(h(p, x), x @ p.other).double() @ p.down for f in each(COMPARISONS)]),
        cut="up:1",
        up="3 a",
        other="3 a",
        down="a 2",
    ),
    case("ge", lambda p, x: (h(p, x) >= 0).double().sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        BITS + " bitwise_not",
        lambda p, x: (
            total([f((8 * h(p, x)).long(), (h(p, x) > 0).long()).double() @ p.down for f in each(BITS)])
            + aten.bitwise_not((8 * h(p, x)).long()).double() @ p.down
        ),
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        "bitwise_and __and__",
        lambda p, x: ((99 * h(p, x)).long() & 7).sum(-1) + aten.bitwise_and((99 * h(p, x)).long(), 15).sum(-1),
        cut="up:1",
        up="3 a",
    ),
    case(
        "logical_and",
        lambda p, x: aten.logical_and(h(p, x), x @ p.other).double().sum(-1),
        cut="up:1",
        up="3 a",
        other="3 a",
    ),
    case(
        "logical_or logical_xor",
        lambda p, x: (aten.logical_or(h(p, x), h(p, x)) & aten.logical_xor(h(p, x), h(p, x) > 0)).double() @ p.down,
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        "atan2 rsub logaddexp logaddexp2",
        lambda p, x: total([f(h(p, x), x @ p.other) @ p.down for f in each("atan2 rsub logaddexp logaddexp2")]),
        cut="up:1 other:1",
        up="3 a",
        other="3 a",
        down="a 2",
    ),
    case("rsub", lambda p, x: (1 - h(p, x)).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        "complex polar real imag _conj resolve_conj",
        lambda p, x: (
            torch.complex(h(p, x), x @ p.up).conj().resolve_conj().real @ p.down
            + aten._conj(torch.polar(h(p, x).abs(), x @ p.up)).resolve_conj().imag @ p.down
        ),
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case("special_expit", lambda p, x: aten.special_expit(h(p, x)) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case("add", lambda p, x: ((h(p, x) + p.bias) * h(p, x).cos()).sum(-1), cut="up:1 bias:0", up="3 a", bias="a"),
    case("add", lambda p, x: (h(p, x) + 1).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case("add", lambda p, x: (h(p, x) + x.sum()).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case("add", lambda p, x: (h(p, x) + 1) @ p.down, cut="up:1 down:0", up="3 a", down="a 2"),
    case(
        "add sub subtract maximum minimum fmax fmin hypot",
        lambda p, x: total(
            [
                (f(h(p, x), x @ p.other) * h(p, x).cos()).sum(-1)
                for f in each("add sub subtract maximum minimum fmax fmin hypot")
            ]
        ),
        cut="up:1 other:1",
        up="3 a",
        other="3 a",
    ),
    case(
        "mul multiply",
        lambda p, x: aten.multiply(h(p, x) * 3, p.gate.exp()).sum(-1),
        cut="up:1 gate:0",
        up="3 a",
        gate="a",
    ),
    case(
        "div divide true_divide fmod remainder",
        lambda p, x: total(
            [(f(h(p, x), p.gate.exp()) + f(h(p, x), 3)).sum(-1) for f in each("div divide true_divide fmod remainder")]
        ),
        cut="up:1 gate:0",
        up="3 a",
        gate="a",
    ),
    case(
        "div",
        lambda p, x: (h(p, x) / p.gate).sum(-1),
        cut="up:1 gate:0",
        up="3 a",
        gate="a",
    ),
    case(
        "div",
        lambda p, x: (h(p, x) / h(p, x)).sum(-1),
        frozen={"up:1": f"aten.div.Tensor {SINGULAR}"},
        up="3 a",
    ),
    case(
        "div",
        lambda p, x: (x @ p.up * (p.gain / torch.linalg.vector_norm(p.up, dim=0))).sum(-1),
        cut="up:1 gain:0",
        up="3 a",
        gain="a",
    ),
    case("div", lambda p, x: (x[:, :1] / (h(p, x) ** 2 + 1)) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case(
        "copysign",
        lambda p, x: (aten.copysign(h(p, x), p.gate) * h(p, x).cos()).sum(-1),
        cut="up:1",
        up="3 a",
        gate="a",
    ),
    case(
        "floor_divide xlogy",
        lambda p, x: (aten.floor_divide(h(p, x), p.gate.exp()) + aten.xlogy(h(p, x), p.gate.exp())) @ p.down,
        cut="up:1 gate:0",
        up="3 a",
        gate="a",
        down="a 2",
    ),
    case(
        "xlogy",
        lambda p, x: aten.xlogy(h(p, x), p.gate.abs()) @ p.down,
        cut="gate:0",
        up="3 a",
        gate="a",
        down="a 2",
    ),
    case("pow", lambda p, x: (h(p, x) ** 2 * h(p, x).cos()).sum(-1), cut="up:1", up="3 a"),
    case("pow", lambda p, x: (h(p, x) ** 0).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case("pow", lambda p, x: (h(p, x) ** -1) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case("pow", lambda p, x: (h(p, x) ** -1).sum(-1), frozen={"up:1": SINGULAR}, up="3 a"),
    case("pow", lambda p, x: (2 ** h(p, x)) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case("pow", lambda p, x: (h(p, x).cosh() ** (x @ p.other)) @ p.down, cut="up:1", up="3 a", other="3 a", down="a 2"),
    case(
        "clamp clip hardtanh clamp_min clamp_max",
        lambda p, x: (
            total(
                [
                    h(p, x).clamp(-0.1, 0.1).clamp_min(0),
                    aten.clip(h(p, x), None, 0.1),
                    F.hardtanh(h(p, x)),
                    h(p, x).clamp_max(0.05),
                ]
            )
            .mul(h(p, x).cos())
            .sum(-1)
        ),
        cut="up:1",
        up="3 a",
    ),
    case("clamp", lambda p, x: h(p, x).clamp(0.1, 1).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case("clamp_min", lambda p, x: torch.clamp_min(h(p, x), x.sum()) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case(
        "threshold",
        lambda p, x: (F.threshold(h(p, x), 0.1, 0.0) + F.threshold(h(p, x), -0.1, 9)).sum(-1),
        cut="up:1",
        up="3 a",
    ),
    case("threshold", lambda p, x: F.threshold(h(p, x), 0.1, 9).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        "where",
        lambda p, x: (torch.where(x[:, :1] > 0, h(p, x), x @ p.other) + torch.where(h(p, x) > 0, h(p, x), 0.0)).sum(-1),
        cut="up:1 other:1",
        up="3 a",
        other="3 a",
    ),
    case("where", lambda p, x: torch.where(h(p, x) > 0, h(p, x), 1.0).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case("masked_fill", lambda p, x: h(p, x).masked_fill(h(p, x) > 0.1, 0.0).sum(-1), cut="up:1", up="3 a"),
    case(
        "masked_fill", lambda p, x: h(p, x).masked_fill(h(p, x) < 0.1, 1.0).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"
    ),
    case(
        "addcmul addcdiv lerp",
        lambda p, x: (
            torch.addcmul(h(p, x), x @ p.other, p.gate.cos())
            + torch.addcdiv(h(p, x), x @ p.other, p.gate.exp())
            + torch.lerp(h(p, x), x @ p.other, 0.3)
        ).sum(-1),
        cut="up:1 other:1 gate:0",
        up="3 a",
        other="3 a",
        gate="a",
    ),
    case(
        "addcdiv",
        lambda p, x: torch.addcdiv(h(p, x), h(p, x), p.gate) @ p.down,
        cut="gate:0",
        up="3 a",
        gate="a",
        down="a 2",
    ),
    case(
        "prelu",
        lambda p, x: F.prelu(h(p, x), p.slope).sum(-1) + F.prelu(h(p, x), p.one).sum(-1),
        cut="up:1 slope:0",
        up="3 a",
        slope="a",
        one="1",
    ),
    case("glu", lambda p, x: F.glu(h(p, x)).sum(-1), cut="up:1", up="3 2*a"),
    case(
        IDENTITY,
        lambda p, x: reduce(lambda value, f: f(value), each(IDENTITY), h(p, x)).sum(-1),
        cut="up:1",
        up="3 a",
    ),
    case(
        "to type_as _to_copy dropout feature_dropout alpha_dropout native_dropout",
        lambda p, x: (
            aten._to_copy(h(p, x).to(torch.float32).type_as(x), dtype=torch.float64)
            + aten.feature_dropout(aten.alpha_dropout(F.dropout(h(p, x), training=False), 0.5, False), 0.5, False)
            + aten.native_dropout(h(p, x), 0.5, False)[0]
        ).sum(-1),
        cut="up:1",
        up="3 a",
    ),
    case(
        "native_dropout",
        lambda p, x: aten.native_dropout(h(p, x), 0.5, False)[1].sum(-1),
        frozen={"up:1": NOT_ZERO},
        up="3 a",
    ),
    case(
        "mul",
        lambda p, x: (p.left[:, None] * p.right[None]).mul(x[0, 0]).sum(1) @ p.down,
        cut="left:0 right:0",
        left="a",
        right="b",
        down="a 2",
    ),
    case(
        "special_bessel_j0",
        lambda p, x: torch.special.bessel_j0(h(p, x)) @ p.down,
        up="3 a",
        down="a 2",
        cut="up:1 down:0",
    ),
    case(
        "trapz",
        lambda p, x: torch.trapz(h(p, x), dim=0) @ p.down,
        up="3 a",
        down="a 2",
        frozen={"up:1": "there is no axis rule for aten.trapz.dx; add one with @gp.rule"},
    ),
    case("any", lambda p, x: h(p, x).isnan().any(1) * x.sum() + h(p, x).sum(1), cut="up:1", up="3 a"),
    case("complex", lambda p, x: torch.complex(h(p, x), h(p, x)).real.sum(-1), cut="up:1", up="3 a"),
    case("polar", lambda p, x: torch.polar(h(p, x).abs(), x @ p.up).real.sum(-1), cut="up:1", up="3 a"),
    case(
        ALIASES,
        lambda p, x: total([f(h(p, x).tanh() / 2).sum(-1) for f in each(ALIASES)]),
        cut="up:1",
        up="3 a",
    ),
    case(
        "arctan2 arccos isposinf isneginf",
        lambda p, x: (
            (torch.arctan2(h(p, x), x.sum()) + h(p, x).tanh().arccos() + h(p, x).isposinf() + h(p, x).isneginf())
            @ p.down
        ),
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
]

# --- contractions -----------------------------------------------------------------------------------------------------

CONTRACTIONS: list[Case] = [
    case(
        "kron",
        lambda p, x: x @ torch.kron(p.up, p.other) @ p.down,
        cut="up:1 other:1",
        up="3 a",
        other="1 b",
        down="a*b 2",
    ),
    case(
        "kron",
        lambda p, x: torch.kron(x @ p.up, p.other.exp()).sum(-1),
        frozen={"up:1": f"sum {NOT_ZERO}", "other:0": f"sum {NOT_ZERO}"},
        up="3 a",
        other="b",
    ),
    case(
        "linalg_multi_dot",
        lambda p, x: torch.linalg.multi_dot([x, p.up, p.middle, p.down]),
        cut="up:1 middle:1",
        up="3 a",
        middle="a b",
        down="b 2",
    ),
    case(
        "inner tensordot",
        lambda p, x: (
            torch.inner(x @ p.up, p.down) + torch.tensordot(x @ p.up, p.down, ([-1], [1])) + torch.inner(x, p.one).sum()
        ),
        cut="up:1 down:1",
        up="3 a",
        down="2 a",
        one="",
    ),
    case(
        "tensordot",
        lambda p, x: torch.tensordot(x, torch.tensordot(p.cube, p.other, ([0, 2], [1, 0])), 1),
        cut="cube:0 cube:2 other:0 other:1",
        cube="a 3 b",
        other="b a 2",
    ),
    case("vdot", lambda p, x: aten.vdot(x[0] @ p.up, p.bias) * x.sum(), cut="up:1 bias:0", up="3 a", bias="a"),
    case(
        "linear",
        lambda p, x: F.linear(F.linear(x, p.up, p.bias).relu(), p.down),
        cut="up:0 bias:0 down:1",
        up="a 3",
        bias="a",
        down="2 a",
    ),
    case(
        "linear",
        lambda p, x: F.linear(F.linear(x, p.up).exp(), p.down, p.out),
        cut="up:0 down:1",
        up="a 3",
        down="2 a",
        out="2",
        frozen={"down:0": "it is a dim of an output"},
    ),
    case("linear", lambda p, x: F.linear(x @ p.up, p.vector), cut="up:1 vector:0", up="3 a", vector="a"),
    case("matmul", lambda p, x: (x @ p.up) @ (x @ p.up).mT @ p.down, cut="up:1", up="3 a", down="2 4"),
    case(
        "matmul",
        lambda p, x: (x @ p.up).cos() @ (x @ p.up).cosh().mT,
        frozen={"up:1": f"a product of tensors {NOT_ZERO}"},
        up="3 a",
    ),
    case(
        "matmul",
        lambda p, x: (p.left @ p.mid) @ (p.right @ x[0]),
        cut="mid:0 mid:1 left:0 right:0",
        left="a",
        mid="a b",
        right="b 3",
    ),
    case("matmul", lambda p, x: (x @ p.many).sum(0) @ p.down, cut="many:0 many:2", many="a 3 b", down="b 2"),
    case(
        "mm bmm mv dot",
        lambda p, x: aten.dot(aten.mv(aten.mm(x, p.up).mT, x[:, 0]), p.gate) + aten.bmm(p.many, p.more).sum(),
        cut="up:1 gate:0 many:0 many:1 many:2 more:2",
        up="3 a",
        gate="a",
        many="b c d",
        more="b d e",
    ),
    case("linalg_matmul", lambda p, x: torch.linalg.matmul(x, p.up) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case(
        "addmm addmv",
        lambda p, x: aten.addmv(x[:, 0], aten.addmm(p.bias, x, p.up), p.down),
        cut="up:1 bias:0",
        up="3 a",
        bias="a",
        down="a",
    ),
    case(
        "addmm",
        lambda p, x: aten.addmm(x @ p.other, x, p.up).cos().sum(-1),
        frozen={"up:1": NOT_ZERO},
        up="3 a",
        other="3 a",
    ),
    case(
        "baddbmm addbmm",
        lambda p, x: aten.addbmm(p.start, aten.baddbmm(p.base, p.many, p.more), p.last).sum(0) @ p.down * x.sum(),
        cut="many:0 many:1 many:2 more:2 last:2 down:0",
        many="a b c",
        more="a c d",
        base="a b d",
        last="a d e",
        start="b e",
        down="e 2",
    ),
    case(
        "outer ger",
        lambda p, x: ((torch.outer(p.left, p.right) + aten.ger(p.left, p.right)) @ p.down).sum(0) * x.sum(),
        cut="left:0 right:0",
        frozen={"down:1": "it is a dim of an output"},
        left="a",
        right="b",
        down="b 2",
    ),
    case(
        "einsum",
        lambda p, x: torch.einsum("bi,hid,hdo->bo", x, p.up, p.down),
        cut="up:0 up:2 down:0 down:1",
        up="a 3 b",
        down="a b 2",
    ),
    case(
        "einsum",
        lambda p, x: torch.einsum("...i,io->...o", torch.einsum("...i, i o", x, p.up).tanh(), p.down),
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        "einsum",
        lambda p, x: torch.einsum("...ij,...j->...i", p.many, x @ p.up).sum(),
        cut="many:1 up:1",
        many="2 b c",
        up="3 c",
        frozen={"many:0": "it is a dim of an input"},
    ),
    case(
        "einsum",
        lambda p, x: torch.einsum("ii->i", p.square) * x.sum(),
        frozen={"square:0": "einsum takes a diagonal of it"},
        square="a a",
    ),
    case(
        "einsum",
        lambda p, x: torch.einsum("ba,ba->b", (x @ p.up).cos(), (x @ p.up).cos()),
        frozen={"up:1": NOT_ZERO},
        up="3 a",
    ),
    case(
        "bilinear",
        lambda p, x: F.bilinear(x @ p.up, x @ p.other, p.weight, p.bias) @ p.down,
        cut="up:1 other:1 weight:0 bias:0",
        up="3 a",
        other="3 b",
        weight="c a b",
        bias="c",
        down="c 2",
    ),
    case(
        "transformers::grouped_mm_fallback",
        lambda p, x: (
            torch.ops.transformers.grouped_mm_fallback(x @ p.inner, p.up, (p.ends * 0 + 2).int().cumsum(0).int())
            @ p.down
        ),
        cut="up:1 up:2 inner:1",
        frozen={"up:0": "its positions are chosen by data (experts)"},
        inputs=["4 3"],
        inner="3 b",
        up="2 b a",
        down="a 2",
        buffers={"ends": "2"},
    ),
]

# --- views ------------------------------------------------------------------------------------------------------------


def written_in_place(p: Small, x: Tensor) -> Tensor:
    """Assignments to slices, which become copies, slices and scatters when they are captured."""
    wide = (x @ p.up).clone()
    wide[:, p.a :] = x @ p.other
    turned = torch.zeros_like(x @ p.third)
    turned[:, ::2] = (x @ p.third)[:, 1::2]
    turned[..., 1::2] = -(x @ p.third)[..., ::2]
    both = torch.cat([wide, turned], 1)
    both[1] = both[0] * 2
    return both @ p.down


VIEWS: list[Case] = [
    case(
        "reshape", lambda p, x: (x @ p.up).view(2, p.a, p.b).sum(1) @ p.down, cut="up:1 down:0", up="3 a*b", down="b 2"
    ),
    case(
        "reshape",
        lambda p, x: (x @ p.up).reshape(2, -1, p.b).relu().reshape(2, -1) @ p.down,
        cut="up:1",
        up="3 a*b",
        down="a*b 2",
    ),
    case(
        "reshape",
        lambda p, x: (x @ p.up).view(2, 3, 4).sum(1) @ p.left + (x @ p.up).view(2, 4, 3).sum(1) @ p.right,
        up="3 12",
        left="4 2",
        right="3 2",
        frozen={"up:1": "it is cut as"},
    ),
    case(
        "reshape",
        lambda p, x: (x @ p.up).view(2, 4, 3).sum(2) @ p.left + (x @ p.up).view(2, 2, 6).sum(2) @ p.right,
        cut="up:1",
        up="3 12",
        left="4 2",
        right="2 2",
    ),
    case(
        "reshape",
        lambda p, x: aten._unsafe_view(x @ p.up, [2, p.a, p.b]).sum(2) @ p.down,
        cut="up:1",
        up="3 a*b",
        down="a 2",
    ),
    case(
        "flatten unflatten",
        lambda p, x: (x @ p.up).unflatten(-1, (p.a, -1)).mT.flatten(1).relu() @ p.down,
        cut="up:1",
        up="3 a*b",
        down="a*b 2",
    ),
    case("ravel", lambda p, x: aten.ravel(p.up) @ p.down * x.sum(), cut="up:0 up:1 down:0", up="a b", down="a*b"),
    case(
        "reshape",
        lambda p, x: (p.flat.view_as(p.up) + p.flat.reshape_as(p.up) * p.up).sum(1) @ p.down * x.sum(),
        cut="flat:0 up:0",
        flat="a*b",
        up="a b",
        down="a",
    ),
    case(
        "view",
        lambda p, x: p.up.view(torch.int64).double().sum() * x,
        frozen={"up:0": "its bytes are seen as another type"},
        up="a b",
    ),
    case(
        "permute transpose t mT adjoint",
        lambda p, x: (p.cube.permute(2, 0, 1).transpose(0, -1).mT.adjoint().sum(0) @ aten.t(p.down)).sum(0) * x.sum(),
        cut="cube:0 cube:1 cube:2",
        cube="a b c",
        down="2 c",
    ),
    case(
        "movedim moveaxis swapaxes swapdims numpy_T",
        lambda p, x: (
            (p.cube.movedim(0, -1).moveaxis((0, 1), (1, 0)).swapaxes(0, 1).swapdims(1, 2).T.sum(0) @ p.down).sum(0)
            * x.sum()
        ),
        cut="cube:0 cube:1 cube:2",
        cube="a b c",
        down="b 2",
    ),
    case(
        "unsqueeze squeeze",
        lambda p, x: (x @ p.up).unsqueeze(1).squeeze().squeeze(-1).squeeze((0, 1)) @ p.down,
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        "slice",
        lambda p, x: (x @ p.up)[:, : p.a].relu() @ p.left + (x @ p.up)[:, p.a :] @ p.right,
        cut="up:1 left:0 right:0",
        up="3 a+b",
        left="a 2",
        right="b 2",
    ),
    case("slice", lambda p, x: (x @ p.up)[:, 1:-1] @ p.left, cut="up:1", up="3 a+2", left="a 2"),
    case(
        "slice", lambda p, x: (x @ p.up)[:, 0::2].mul((x @ p.up)[:, 1::2]) @ p.down, cut="up:1", up="3 2*a", down="a 2"
    ),
    case(
        "slice",
        lambda p, x: (x @ p.up)[:, 1:5:3] @ p.down,
        frozen={"up:1": "one of every 3 positions of it is taken"},
        up="3 7",
        down="2 2",
    ),
    case(
        "slice_copy narrow narrow_copy",
        lambda p, x: (
            aten.slice_copy(x @ p.up, 1, 0, p.a) @ p.left
            + (x @ p.up).narrow(1, 0, p.a) @ p.left
            + aten.narrow_copy(x @ p.up, 1, p.a, p.b) @ p.right
            + (x @ p.up).narrow(0, 0, 2) @ p.all
        ),
        cut="up:1 left:0 right:0",
        up="3 a+b",
        left="a 2",
        right="b 2",
        all="a+b 2",
    ),
    case(
        "select select_copy",
        lambda p, x: (p.cube.select(0, 1) + p.cube[-1] + aten.select_copy(p.cube, 0, 0)).sum(0) @ p.down * x.sum(),
        cut="cube:1 cube:2",
        frozen={"cube:0": "its positions are taken one by one"},
        cube="3 a b",
        down="b 2",
    ),
    case(
        "unbind",
        lambda p, x: torch.stack(p.cube.unbind(1)).sum((0, 1)) @ p.down * x.sum(),
        cut="cube:0 cube:2",
        frozen={"cube:1": "its positions are taken one by one"},
        cube="a 3 b",
        down="b 2",
    ),
    case(
        "split split_with_sizes",
        lambda p, x: (
            total([part @ p.down for part in (x @ p.up).split(p.a, 1)])
            + aten.split_with_sizes(x @ p.other, [p.b, p.c], 1)[1] @ p.last
        ),
        cut="up:1 down:0 other:1 last:0",
        up="3 3*a",
        down="a 2",
        other="3 b+c",
        last="c 2",
    ),
    case(
        "chunk tensor_split unsafe_split unsafe_chunk split_copy",
        lambda p, x: total(
            [
                f(x @ p.up, n, 1)[0] @ p.down
                for f, n in (
                    (torch.chunk, 2),
                    (torch.tensor_split, 2),
                    (aten.unsafe_split, p.a),
                    (aten.unsafe_chunk, 2),
                    (aten.split_copy, p.a),
                )
            ]
        ),
        cut="up:1 down:0",
        up="3 2*a",
        down="a 2",
    ),
    case(
        "tensor_split",
        lambda p, x: total([part.sum(-1) for part in torch.tensor_split(x @ p.up, 3, 1)]),
        cut="up:1",
        up="3 7",
    ),
    case(
        "cat concat concatenate",
        lambda p, x: total(
            [f([x @ p.up, (x @ p.other).relu()], -1) @ p.down for f in (torch.cat, torch.concat, torch.concatenate)]
        ),
        cut="up:1 other:1 down:0",
        up="3 a",
        other="3 b",
        down="a+b 2",
    ),
    case(
        "hstack vstack",
        lambda p, x: (
            torch.hstack([x @ p.up, x @ p.up]) @ p.down
            + torch.vstack([p.row, p.row]) @ p.last
            + torch.hstack([p.row, p.row]) @ torch.vstack([p.last, p.last])
        ),
        cut="up:1 down:0 row:0 last:0",
        up="3 a",
        down="2*a 2",
        row="b",
        last="b 2",
    ),
    case("cat", lambda p, x: (torch.cat([x @ p.up, 1 - x @ p.up], -1)).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        "as_strided",
        lambda p, x: torch.einsum(
            "hwsa,ac,hd->cd",
            (p.many * x.sum()).as_strided([p.b, 3, 4, p.a], [6 * p.a, p.a, p.a, 1]),
            p.down,
            p.last,
        ),
        cut="many:0 many:2 down:0 last:0",
        frozen={"many:1": "windows run over it"},
        many="b 6 a",
        down="a 2",
        last="b 2",
    ),
    case(
        "as_strided",
        lambda p, x: (
            total([(p.up * x.sum()).as_strided([p.a - 1, 2], steps).sum(0) for steps in ([2, 1], [1, 1])])
            + (p.other * x.sum()).T.as_strided([p.b, 2], [2, 1]).sum(0)
            + (p.third * x.sum()).as_strided([p.c, 1], [2, 1], 1).sum(0)
        ),
        cut="",
        frozen={
            "up:0": "windows run over it",
            "up:1": "windows run over it",
            "other:0": "windows run over it",
            "third:0": "other strides",
        },
        up="a 2",
        other="2 b",
        third="c 2",
    ),
    case(
        "block_diag",
        lambda p, x: (x @ p.up) @ torch.block_diag(p.one, p.row, p.two) @ p.down,
        cut="up:1 one:0 one:1 row:0 two:0 two:1",
        up="3 a+1+b",
        one="a c",
        row="d",
        two="b e",
        down="c+d+e 2",
    ),
    case(
        "block_diag",
        lambda p, x: torch.block_diag(p.one, p.two.exp()).sum(0)[0] + x,
        frozen={"one:0": f"sum {NOT_ZERO}", "two:0": f"sum {NOT_ZERO}"},
        one="a c",
        two="b e",
    ),
    case(
        "stack",
        lambda p, x: torch.stack([x @ p.up, (x @ p.other).exp()], 1).sum(1) @ p.down,
        cut="up:1 other:1",
        up="3 a",
        other="3 a",
        down="a 2",
    ),
    case(
        "expand broadcast_to expand_copy",
        lambda p, x: (
            (
                x @ p.up
                + p.row.expand(2, -1)
                + torch.broadcast_to(p.row, (2, p.a))
                + p.row.expand_as(x @ p.up)
                + aten.expand_copy(p.row, [2, p.a])
            )
            @ p.down
        ),
        cut="row:0 up:1",
        row="a",
        up="3 a",
        down="a 2",
    ),
    case(
        "expand",
        lambda p, x: (p.col.expand(p.a, p.b) * p.up).sum(0) @ p.down * x.sum(),
        cut="up:0 up:1 col:0",
        col="a 1",
        up="a b",
        down="b 2",
    ),
    case(
        "repeat tile",
        lambda p, x: (p.row.repeat(2, 3) + p.row.tile(2, 3) + p.up).sum(0) @ p.down * x.sum(),
        cut="row:0 down:0",
        row="a",
        up="2 3*a",
        down="3*a 2",
    ),
    case(
        "repeat_interleave",
        lambda p, x: (
            (x @ p.key).view(2, p.a, p.b).repeat_interleave(3, 1).mul((x @ p.query).view(2, 3 * p.a, p.b)).sum(-1)
            @ p.down
        ),
        cut="key:1 query:1 down:0",
        key="3 a*b",
        query="3 3*a*b",
        down="3*a 2",
    ),
    case(
        "repeat_interleave",
        lambda p, x: (x @ p.up).repeat_interleave((x[:, 0] > 0).long() + 1, 0, output_size=None).sum(0) @ p.down,
        cut="up:1 down:0",
        up="3 a",
        down="a 2",
    ),
    case(
        "expand reshape",
        lambda p, x: (
            (x @ p.key)
            .view(2, p.a, 1, p.b)
            .expand(2, p.a, p.c, p.b)
            .reshape(2, -1, p.b)
            .mul((x @ p.query).view(2, -1, p.b))
            .sum(-1)
            @ p.down
        ),
        cut="key:1 query:1 down:0",
        key="3 a*b",
        query="3 a*c*b",
        down="a*c 2",
    ),
    case(
        "pad constant_pad_nd",
        lambda p, x: F.pad(x @ p.up, (1, 2)) @ p.down + aten.constant_pad_nd(x @ p.up, [2, 1], 1.0) @ p.last,
        cut="up:1",
        up="3 a",
        down="a+3 2",
        last="a+3 2",
    ),
    case(
        "pad",
        lambda p, x: F.pad((x @ p.up).mT, (1, 1), value=1.0).sum(0) @ p.down,
        frozen={"up:1": NOT_ZERO},
        up="3 a",
        down="4 2",
    ),
    case("pad", lambda p, x: F.pad((x @ p.up).mT, (1, 1)).sum(0) @ p.down, cut="up:1", up="3 a", down="4 2"),
    case(
        "pad",
        lambda p, x: F.pad((x @ p.up), (1, 1), mode="reflect") @ p.down,
        up="3 a+1",
        down="a+3 2",
        frozen={"up:1": "it is padded with its own positions or cut by padding"},
    ),
    case(
        "pad",
        lambda p, x: F.pad((x @ p.up), (0, -1)) @ p.down,
        up="3 a+1",
        down="a 2",
        frozen={"up:1": "cut by padding"},
    ),
    case(
        "flip",
        lambda p, x: p.one.flip(0).sum(0) @ p.down * x.sum(),
        cut="one:1 down:0",
        frozen={"one:0": "it is flipped"},
        one="a b",
        down="b 2",
    ),
    case(
        "fliplr flipud rot90",
        lambda p, x: (p.up.fliplr() + p.up.flipud()).sum() + p.up.rot90().sum() + p.square.rot90().sum() + x,
        frozen={"up:0": "it is flipped", "up:1": "it is flipped", "square:0": "it is flipped"},
        up="a b",
        square="c c",
    ),
    case(
        "roll",
        lambda p, x: p.up.roll(1, 0).sum(0) @ p.down * x.sum() + p.other.roll(1).sum(),
        cut="up:1",
        frozen={"up:0": "it is rolled", "other:0": "it is rolled"},
        up="a b",
        down="b 2",
        other="a b",
    ),
    case(
        "tril triu",
        lambda p, x: (p.cube.tril() + p.cube.triu()).sum((1, 2)) @ p.down * x.sum(),
        cut="cube:0",
        frozen={"cube:1": "a triangle of it is taken", "cube:2": "a triangle of it is taken"},
        cube="a b c",
        down="a 2",
    ),
    case(
        "diagonal diag diag_embed trace",
        lambda p, x: p.up.diagonal().sum() + p.up.diag().sum() + torch.diag_embed(p.row).sum() + p.up.trace() + x,
        frozen={"up:0": "a diagonal is taken", "up:1": "a diagonal is taken", "row:0": "a diagonal is taken"},
        up="a b",
        row="c",
    ),
    case(
        "diff",
        lambda p, x: (
            p.up.diff(dim=0, append=p.other).sum(0) @ p.down * x.sum() + torch.diff(p.row, prepend=p.row).sum()
        ),
        cut="up:1 other:1",
        frozen={"up:0": "differences of its neighbours are taken", "row:0": "differences of its neighbours"},
        up="a b",
        other="c b",
        down="b 2",
        row="c",
    ),
    case(
        "slice_scatter",
        lambda p, x: torch.slice_scatter(x @ p.up, (x @ p.other).exp(), 1, 1, 1 + p.b) @ p.down,
        cut="up:1 other:1 down:0",
        up="3 a+b+1",
        other="3 b",
        down="a+b+1 2",
    ),
    case(
        "slice_scatter",
        lambda p, x: torch.slice_scatter(x @ p.up, x @ p.other, 1).sum(-1),
        cut="up:1 other:1",
        up="3 a",
        other="3 a",
    ),
    case(
        "slice_scatter",
        lambda p, x: (
            torch.slice_scatter(x @ p.up, x @ p.other, 1, 1, None, 2) @ p.down
            + torch.slice_scatter(x @ p.up, x @ p.other, 1, 0, 2 * p.a, 2).sum(-1, keepdim=True)
        ),
        cut="up:1 other:1 down:0",
        up="3 2*a",
        other="3 a",
        down="2*a 2",
    ),
    case(
        "slice_scatter",
        lambda p, x: torch.slice_scatter(x @ p.up, x @ p.other, 1, 0, None, 2).sum(-1),
        up="3 2*a+1",
        other="3 a+1",
        frozen={"up:1": "one of every 2 positions of it is taken", "other:1": "one of every 2 positions"},
    ),
    case(
        "copy", written_in_place, cut="up:1 other:1 third:1", up="3 a+b", other="3 b", third="3 2*c", down="a+b+2*c 2"
    ),
    case(
        "select_scatter",
        lambda p, x: torch.select_scatter(p.cube, x @ p.up, 0, 1).sum((0, 1)) @ p.down,
        cut="cube:2 up:1",
        frozen={"cube:0": "its positions are written one by one"},
        cube="3 2 a",
        up="3 a",
        down="a 2",
    ),
]

# --- reductions and what compares positions ---------------------------------------------------------------------------

KEEP_ZEROS = "cumsum cumprod cummax cummin sort"
SCANS = "cumsum cumprod logcumsumexp cummax cummin sort argsort"
ORDERED = "amax amin max min prod any all argmax argmin logsumexp median nanmedian aminmax mode"


NUMBERED = {
    **dict.fromkeys(["max", "min"], "computes with the numbers of its positions"),
    **dict.fromkeys(["argmax", "argmin"], "the numbers of its positions are an output"),
}
"""Why an axis whose best position is named is frozen where the number is used for something else."""


def first(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def along_positions(name: str, value: Tensor) -> Tensor:
    """A reduction over the first dim of two."""
    f = getattr(aten, name)
    result = f(value, dim=0) if name == "aminmax" else f(value, [0]) if name == "logsumexp" else f(value, 0)
    return total([each.double() for each in result]) if isinstance(result, tuple) else result.double()


REDUCTIONS: list[Case] = [
    case("special_softmax", lambda p, x: aten.special_softmax(h(p, x), 0) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case(
        "sum nansum count_nonzero",
        lambda p, x: h(p, x).sum(-1) + aten.nansum(h(p, x), [1]) + aten.count_nonzero(h(p, x), -1),
        cut="up:1",
        up="3 a",
    ),
    case(
        "norm linalg_vector_norm linalg_norm frobenius_norm",
        lambda p, x: (
            aten.norm(h(p, x), 2, [1])
            + torch.linalg.vector_norm(h(p, x), 3, -1)
            + torch.linalg.norm(h(p, x), 1, -1)
            + aten.frobenius_norm(h(p, x), [1])
            + aten.norm(h(p, x))
        ),
        cut="up:1",
        up="3 a",
    ),
    case("sum", lambda p, x: h(p, x).cos().sum(-1, keepdim=True), frozen={"up:1": f"sum {NOT_ZERO}"}, up="3 a"),
    case(
        "sum",
        lambda p, x: (h(p, x).sum(0, keepdim=True) * h(p, x)).sum(1) + p.cube.sum((0, 2)) @ x.sum(0)[None].mT,
        cut="up:1 cube:0 cube:2",
        up="3 a",
        cube="b 3 c",
    ),
    case(
        "linalg_vector_norm",
        lambda p, x: torch.linalg.vector_norm(h(p, x), 0, -1) + torch.linalg.vector_norm(h(p, x), -1, -1),
        up="3 a",
        frozen={"up:1": "aten.linalg_vector_norm.default compares its positions"},
    ),
    case(
        "mean nanmean",
        lambda p, x: h(p, x).mean(0) @ p.down + aten.nanmean(h(p, x), [0]) @ p.down,
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        "mean nanmean",
        lambda p, x: (h(p, x) + 1).mean(-1) + aten.nanmean(h(p, x) + 1, [1]),
        statistics="up:1",
        up="3 a",
    ),
    case(
        "var std var_mean std_mean",
        lambda p, x: (
            total(
                [
                    *(torch.var(p.cube, 0), torch.std(p.cube, 0), torch.nanmean(p.cube, 0)),
                    *(*torch.var_mean(p.cube, 0), *torch.std_mean(p.cube, 0)),
                ]
            )
            @ p.down
            * x.sum()
        ),
        cut="cube:1",
        statistics="cube:0",
        cube="a b",
        down="b 2",
    ),
    case("var", lambda p, x: h(p, x).cos().var(-1), statistics="up:1", up="3 a"),
    *(
        case(
            name,
            lambda p, x, name=name: (
                along_positions(name, (h(p, x) > -9) if name in ("any", "all") else h(p, x)).add(1) @ p.down
            ),
            cut="up:1",
            up="3 a",
            down="a 2",
        )
        for name in ORDERED.split()
    ),
    *(
        case(
            name,
            lambda p, x, name=name: along_positions(name, h(p, x).mT > 0 if name in ("any", "all") else h(p, x).mT),
            statistics="up:1" if name in ("amax", "amin") else "",
            frozen={} if name in ("amax", "amin") else {"up:1": NUMBERED.get(name, name)},
            up="3 a",
        )
        for name in ORDERED.split()
    ),
    case("argmax", lambda p, x: h(p, x).argmax(-1) * 2, frozen={"up:1": "computes with the numbers"}, up="3 a"),
    case("argmin", lambda p, x: h(p, x).argmin(-1), frozen={"up:1": "the numbers of its positions are"}, up="3 a"),
    case(
        "max argmin",
        lambda p, x: (p.table[h(p, x).max(-1).indices] + F.embedding(h(p, x).argmin(-1), p.table)) @ p.down,
        statistics="up:1 table:0",
        up="3 a",
        table="a b",
        down="b 2",
    ),
    case(
        "max min amax amin",
        lambda p, x: x * (p.up.max() - p.one.min()) + x * (p.two.amax() - p.three.amin((0, 1))),
        statistics="up:0 up:1 one:0 one:1 two:0 two:1 three:0 three:1",
        **dict.fromkeys(["up", "one", "two", "three"], "a b"),
    ),
    case("logsumexp", lambda p, x: torch.logsumexp(h(p, x), 0).sum(), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        "amax amin max min prod any all median nanmedian mode",
        lambda p, x: (
            total([first(f(h(p, x), 0)).sum() for f in each("amax amin prod any all max min nanmedian mode")])
            + (total(list(aten.aminmax(h(p, x), dim=0))) + aten.median(h(p, x), 0)[0]).sum()
        ),
        cut="up:1",
        up="3 a",
    ),
    case("max", lambda p, x: h(p, x).max(0).indices.sum(), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        "max min",
        lambda p, x: (torch.max(h(p, x), x @ p.other) + torch.min(h(p, x), x @ p.other)).sum(-1),
        cut="up:1 other:1",
        up="3 a",
        other="3 a",
    ),
    case("quantile", lambda p, x: torch.quantile(h(p, x), 0.3, 0) @ p.down, cut="up:1", up="3 a", down="a 2"),
    case(
        "quantile",
        lambda p, x: torch.quantile(h(p, x), p.q, 0) @ p.down,
        frozen={"up:1": "compares its positions"},
        up="3 a",
        down="a 2",
        buffers={"q": "0"},
    ),
    case(
        "log_softmax",
        lambda p, x: h(p, x).log_softmax(-1).sum(-1),
        frozen={"up:1": "softmax normalises over it"},
        up="3 a",
    ),
    case(
        "softmax _softmax _safe_softmax",
        lambda p, x: (
            (h(p, x).softmax(-1) + aten._softmax(h(p, x), -1, False) + aten._safe_softmax(h(p, x), -1)) @ p.down
        ),
        statistics="up:1 down:0",
        up="3 a",
        down="a 2",
    ),
    case(
        "special_softmax",
        lambda p, x: aten.special_softmax(h(p, x), 1) @ p.down,
        statistics="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        "_softmax _log_softmax _safe_softmax softmax log_softmax",
        lambda p, x: (
            total(
                [
                    aten._softmax(h(p, x), 0, False),
                    aten._log_softmax(h(p, x), 0, False),
                    aten._safe_softmax(h(p, x), 0),
                    h(p, x).softmax(0),
                    h(p, x).log_softmax(0),
                ]
            )
            @ p.down
        ),
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case("softmax", lambda p, x: h(p, x).softmax(0).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        "cumsum cumprod logcumsumexp cummax cummin sort argsort msort",
        lambda p, x: total([first(f(h(p, x), 0)).double() for f in each(SCANS)] + [h(p, x).msort()]) @ p.down,
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case(
        "cumsum cumprod cummax cummin sort msort",
        lambda p, x: total([first(f(h(p, x), 0)).sum(1) for f in each(KEEP_ZEROS)] + [h(p, x).msort().sum(1)]),
        cut="up:1",
        up="3 a",
    ),
    case("logcumsumexp", lambda p, x: h(p, x).logcumsumexp(0).sum(1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case("cumsum", lambda p, x: (x @ p.up).cumsum(1) @ p.down, cut="up:1 down:0", up="3 a", down="a 2"),
    case("cumsum", lambda p, x: (x @ p.up).cumsum(1).sum(1), frozen={"up:1": f"sum {NOT_ZERO}"}, up="3 a"),
    case("cumsum", lambda p, x: (x @ p.up).exp().cumsum(1) @ p.down, frozen={"up:1": NOT_ZERO}, up="3 a", down="a 2"),
    *(
        case(
            name,
            lambda p, x, name=name: first(getattr(aten, name)(h(p, x), 1)).double() @ p.down,
            frozen={"up:1": "runs along it"},
            up="3 a",
            down="a 2",
        )
        for name in SCANS.split()
        if name != "cumsum"
    ),
    case(
        "msort",
        lambda p, x: p.up.msort().sum(0) @ p.down * x.sum(),
        cut="up:1",
        frozen={"up:0": "runs along it"},
        up="a b",
        down="b 2",
    ),
    case(
        "topk kthvalue",
        lambda p, x: (total(list(p.up.topk(2, 0))).sum(0) + total(list(p.up.kthvalue(1, 0)))) @ p.down * x.sum(),
        cut="up:1",
        frozen={"up:0": "computes with the numbers of its positions"},
        up="a b",
        down="b 2",
    ),
    case(
        "topk",
        lambda p, x: (x @ p.up).topk(1).values * (-x @ p.up).topk(1, largest=False).values,
        statistics="up:1",
        up="3 a",
    ),
    case(
        "kthvalue",
        lambda p, x: total(list(p.up.kthvalue(1, 0, True))) @ p.down * x.sum(),
        cut="up:1",
        frozen={"up:0": "compares"},
        up="a b",
        down="b 2",
    ),
    case(
        "renorm pairwise_distance linalg_cross cross",
        lambda p, x: (
            F.pairwise_distance(p.up, p.up).sum()
            + p.up.renorm(2, 0, 1.0).sum()
            + torch.linalg.cross(p.three, p.three).sum()
            + aten.cross(p.three, p.three, 1).sum()
            + x
        ),
        frozen={
            "up:0": "compares its positions",
            "up:1": "compares its positions",
            "three:0": "compares its positions",
        },
        up="a b",
        three="c 3",
    ),
    case(
        "cosine_similarity",
        lambda p, x: F.cosine_similarity((x @ p.up)[:, None], p.other, dim=-1) @ p.down,
        cut="up:1 other:0 down:0",
        up="3 a",
        other="b a",
        down="b 2",
    ),
    case(
        "cosine_similarity",
        lambda p, x: F.cosine_similarity((x @ p.up).exp(), p.other, dim=-1),
        frozen={"up:1": f"cosine_similarity {NOT_ZERO}"},
        up="3 a",
        other="a",
    ),
    case(
        "cdist",
        lambda p, x: torch.cdist(x @ p.up, p.other) @ p.down + torch.cdist(x @ p.up, p.other, p=1.0) @ p.down,
        cut="up:1 other:0 down:0",
        up="3 a",
        other="b a",
        down="b 2",
    ),
    case(
        "cdist",
        lambda p, x: torch.cdist(x @ p.up, p.other).sum(-1) + torch.cdist((x @ p.two).cos(), p.third).sum(-1),
        frozen={"other:0": f"sum {NOT_ZERO}", "two:1": f"cdist {NOT_ZERO}"},
        up="3 a",
        other="b a",
        two="3 c",
        third="4 c",
    ),
    case(
        ELEMENTWISE,
        lambda p, x: total(
            [
                f(x @ p.up, x @ p.other, reduction=0) @ p.down + f(x @ p.up, x @ p.other, reduction=2)
                for f in each(ELEMENTWISE)
            ]
        ),
        cut="up:1 other:1 down:0",
        up="3 a",
        other="3 a",
        down="a 2",
    ),
    case(
        "mse_loss l1_loss",
        lambda p, x: F.mse_loss(x @ p.up, x @ p.up * 2) + F.l1_loss((x @ p.two).exp(), x @ p.two, reduction="sum"),
        frozen={"up:1": "a loss takes its mean over it", "two:1": f"a loss {NOT_ZERO}"},
        up="3 b",
        two="3 a",
    ),
    case(
        LOSSES,
        lambda p, x: total([_loss(name, x @ p.up) for name in LOSSES.split()]),
        frozen={"up:1": "compares its positions"},
        up="3 a",
    ),
    case(
        WHOLE,
        lambda p, x: total([_whole(name, p.up @ p.up.T + torch.eye(p.a).double()) for name in WHOLE.split()]) + x,
        cut="up:1",
        frozen={"up:0": "takes its matrix as a whole"},
        up="a b",
    ),
]

# --- normalisations ---------------------------------------------------------------------------------------------------


def standardised(p: Small) -> Tensor:
    """A weight whose rows have mean zero and length one, before they are scaled."""
    return F.batch_norm(p.up.reshape(1, p.a, -1), None, None, p.gain, training=True).view_as(p.up)


NORMS: list[Case] = [
    case(
        "_weight_norm",
        lambda p, x: (x @ p.up).relu() @ torch._weight_norm(p.v, p.gain, 0).T,
        cut="up:1 v:1",
        frozen={"v:0": "weight norm divides by the length", "gain:0": "weight norm divides by the length"},
        up="3 a",
        v="2 a",
        gain="2 1",
    ),
    case(
        "_weight_norm",
        lambda p, x: (x @ torch._weight_norm(p.v, p.gain, 1)).relu() @ torch._weight_norm(p.down, p.one, -1),
        cut="v:1 gain:1 down:0",
        v="3 a",
        gain="1 a",
        down="a 2",
        one="",
    ),
    case(
        "_weight_norm",
        lambda p, x: (x @ torch._weight_norm(p.v, p.gain.exp(), 1)).sum(-1),
        frozen={"v:1": "weight norm divides by the length"},
        v="3 a",
        gain="1 a",
    ),
    case(
        "_weight_norm",
        lambda p, x: (x @ torch._weight_norm(p.v.exp(), p.gain, 1)).relu() @ torch._weight_norm(p.down, p.one, -1),
        cut="v:1 gain:1 down:0",
        v="3 a",
        gain="1 a",
        down="a 2",
        one="",
    ),
    case(
        "layer_norm",
        lambda p, x: F.layer_norm(x @ p.up, (p.a,), p.weight, p.bias) @ p.down,
        statistics="up:1 weight:0 down:0",
        up="3 a",
        weight="a",
        bias="a",
        down="a 2",
    ),
    case(
        "layer_norm",
        lambda p, x: F.layer_norm((x @ p.up).exp(), (p.a,)) @ p.down,
        statistics="up:1 down:0",
        up="3 a",
        down="a 2",
    ),
    case(
        "layer_norm rms_norm",
        lambda p, x: (F.layer_norm(p.up, (3,), p.weight) + F.rms_norm(p.up, (3,))).sum(0) * x,
        up="a 3",
        weight="3",
        cut="up:0",
    ),
    case(
        "layer_norm",
        lambda p, x: F.layer_norm(p.up, (3,), p.weight, p.bias).sum(0) * x,
        up="a 3",
        weight="3",
        bias="3",
        frozen={"up:0": NOT_ZERO},
    ),
    case(
        "native_layer_norm _fused_rms_norm",
        lambda p, x: (
            total([each.sum(-1) for each in aten.native_layer_norm(p.up, [3], p.weight, None, 1e-5)]) @ p.down * x.sum()
            + total([each.sum(-1) for each in aten._fused_rms_norm(p.up, [3], p.weight, 1e-5)]) @ p.down
        ),
        cut="up:0 down:0",
        up="a 3",
        weight="3",
        down="a 2",
    ),
    case(
        "rms_norm",
        lambda p, x: F.rms_norm(x @ p.up, (p.a,), p.weight, 1e-5) @ p.down,
        statistics="up:1 weight:0",
        up="3 a",
        weight="a",
        down="a 2",
    ),
    case(
        "group_norm",
        lambda p, x: F.group_norm(F.conv1d(x, p.up), p.b, p.weight, p.bias).relu().sum(2) @ p.down,
        cut="up:0 weight:0 bias:0",
        up="b*c 3 1",
        inputs=["2 3 4"],
        weight="b*c",
        bias="b*c",
        down="b*c 2",
    ),
    case(
        "group_norm",
        lambda p, x: F.group_norm(p.up.cos()[None], 2) @ p.down * x.sum(),
        statistics="up:1 down:0",
        up="4 a",
        down="a 2",
    ),
    case(
        "batch_norm instance_norm",
        lambda p, x: (
            (F.batch_norm(F.conv1d(x, p.up), p.mean, p.var, p.weight, p.bias) + F.instance_norm(F.conv1d(x, p.up)))
            .relu()
            .sum(2)
            @ p.down
        ),
        cut="up:0 weight:0 bias:0 down:0",
        up="a 3 1",
        inputs=["2 3 4"],
        buffers={"mean": "a", "var": "a"},
        weight="a",
        bias="a",
        down="a 2",
    ),
    case(
        "batch_norm",
        lambda p, x: (F.batch_norm(F.conv1d(x, p.up), p.mean, p.var) * F.conv1d(x, p.up)).sum(1),
        cut="up:0",
        up="a 3 1",
        inputs=["2 3 4"],
        buffers={"mean": "a", "var": "a"},
    ),
    case(
        "batch_norm",
        lambda p, x: F.batch_norm(F.conv1d(x, p.up), p.mean, p.var).sum(1),
        frozen={"up:0": NOT_ZERO},
        up="a 3 1",
        inputs=["2 3 4"],
        buffers={"mean": "a", "var": "a"},
    ),
    case(
        "batch_norm instance_norm",
        lambda p, x: (
            p.mix @ F.batch_norm(p.up.cos(), None, None, training=True).sum((1, 3)) @ p.down * x.sum()
            + p.mix @ F.instance_norm(p.up.cosh()).square().sum((1, 3)) @ p.down
        ),
        up="a 3 b 2",
        down="b 2",
        mix="2 a",
        statistics="up:0 up:2 down:0 mix:1",
    ),
    case(
        "batch_norm",
        lambda p, x: F.conv1d(x, standardised(p)).sum((1, 2)),
        cut="up:0 gain:0",
        up="a 3 b",
        gain="a",
        inputs=["2 3 9"],
    ),
    case(
        "batch_norm",
        lambda p, x: F.conv1d(F.conv1d(x, p.first), standardised(p)).sum((1, 2)),
        cut="up:0",
        statistics="first:0 up:1",
        first="b 3 1",
        up="a b 2",
        gain="a",
        inputs=["2 3 9"],
    ),
    case(
        "batch_norm",
        lambda p, x: F.batch_norm(p.up[None], None, None, None, p.bias.cos(), training=True).sum((0, 1)) * x[0, 0],
        frozen={"up:0": NOT_ZERO},
        up="a 9",
        bias="a",
        inputs=["2 3 9"],
    ),
    case(
        "_native_batch_norm_legit",
        lambda p, x: (
            total(
                [
                    each.reshape(p.a, -1) @ x[0, :1, : each.numel() // p.a].T
                    for each in aten._native_batch_norm_legit.no_stats(p.up[None], p.gain, None, True, 0.1, 1e-5)
                ]
            ).T
            @ p.down
        ),
        cut="up:0 gain:0",
        up="a 9",
        gain="a",
        down="a 2",
        inputs=["2 3 9"],
    ),
    case(
        "_native_batch_norm_legit_no_training",
        lambda p, x: aten._native_batch_norm_legit_no_training(
            F.conv1d(x, p.up), p.weight, p.bias, p.mean, p.var, 0.1, 1e-5
        )[0].sum((1, 2)),
        cut="up:0 weight:0",
        up="a 3 1",
        inputs=["2 3 4"],
        buffers={"mean": "a", "var": "a"},
        weight="a",
        bias="a",
    ),
]

# --- attention --------------------------------------------------------------------------------------------------------


def heads(x: Tensor, weight: Tensor, n: int) -> Tensor:
    """``b s i, (n d) i -> b n s d``"""
    return F.linear(x, weight).unflatten(-1, (n, -1)).transpose(1, 2)


def attend(p: Small, x: Tensor, rep: int, **options: object) -> Tensor:
    sdpa = F.scaled_dot_product_attention
    y = sdpa(heads(x, p.query, p.a * rep), heads(x, p.key, p.a), heads(x, p.value, p.a), **options)
    return F.linear(y.transpose(1, 2).flatten(2), p.out)


SDPA = "scaled_dot_product_attention"
ATTENTION: list[Case] = [
    case(
        SDPA,
        lambda p, x: attend(p, x, 1),
        cut="query:0 key:0 value:0 out:1",
        query="a*b 3",
        key="a*b 3",
        value="a*c 3",
        out="2 a*c",
        inputs=["2 4 3"],
    ),
    case(
        SDPA,
        lambda p, x: attend(p, x, 3, enable_gqa=True, is_causal=True),
        cut="query:0 key:0 value:0 out:1",
        query="3*a*b 3",
        key="a*b 3",
        value="a*c 3",
        out="2 3*a*c",
        inputs=["2 4 3"],
    ),
    case(
        SDPA,
        lambda p, x: attend(p, x, 1, attn_mask=p.bias[:, None].expand(-1, 4, -1), scale=0.3),
        cut="bias:0 query:0",
        frozen={"bias:1": "it is a dim of an input"},
        query="a*b 3",
        key="a*b 3",
        value="a*b 3",
        out="2 a*b",
        bias="a 4",
        inputs=["2 4 3"],
    ),
    case(
        SDPA,
        lambda p, x: F.scaled_dot_product_attention((x @ p.query).cos(), (x @ p.key).cos(), x @ p.value) @ p.out,
        cut="value:1",
        frozen={"query:1": f"attention {NOT_ZERO}"},
        query="3 a",
        key="3 a",
        value="3 b",
        out="b 2",
        inputs=["2 4 3"],
    ),
    case(
        SDPA,
        lambda p, x: F.scaled_dot_product_attention(p.query, x @ p.key, x @ p.value).transpose(-1, -2) @ p.last,
        cut="query:0 query:1 key:1 last:0",
        frozen={"value:1": "it is a dim of an output"},
        query="c a",
        key="3 a",
        value="3 b",
        last="c 2",
        inputs=["4 3"],
    ),
    case(
        SDPA,
        lambda p, x: (
            F.scaled_dot_product_attention(p.query, x @ p.key, x @ p.value, is_causal=True).transpose(-1, -2) @ p.last
        ),
        cut="query:1",
        frozen={"query:0": "the positions of attention are compared"},
        query="c a",
        key="3 a",
        value="3 b",
        last="c 2",
        inputs=["4 3"],
    ),
    case(
        SDPA,
        lambda p, x: F.scaled_dot_product_attention(p.query, p.key, p.value).sum((0, 1)) @ p.out * x.sum(),
        cut="query:0 query:2 value:2",
        frozen={"query:1": NOT_ZERO, "key:1": "softmax normalises over it"},
        query="a 3 b",
        key="a 4 b",
        value="a 4 c",
        out="c 2",
    ),
]

# --- positions named by data ------------------------------------------------------------------------------------------

IDS = torch.tensor([[0, 2, 1], [1, 1, 0]])
WRITTEN = "its positions are written where data says"
WRITTEN_INDEX = "its positions are named by data (index)"

INDEXING: list[Case] = [
    case(
        "embedding",
        lambda p, ids: F.embedding(ids, p.table).relu() @ p.down,
        cut="table:1 down:0",
        frozen={"table:0": "its positions are named by data (embedding)"},
        table="5 a",
        down="a 2",
        inputs=[IDS],
    ),
    case("embedding", lambda p, ids: F.embedding(ids, p.table).sum(-1), cut="table:1", table="5 a", inputs=[IDS]),
    case(
        "embedding_bag",
        lambda p, ids: F.embedding_bag(ids, p.table) @ p.down,
        cut="table:1",
        frozen={"table:0": "its positions are named by data (embedding bag)"},
        table="5 a",
        down="a 2",
        inputs=[IDS],
    ),
    case(
        "embedding_bag",
        lambda p, ids: F.embedding_bag(ids, p.table, per_sample_weights=p.weights, mode="sum") @ p.down,
        cut="table:1",
        frozen={"weights:1": "it counts what is put into bags"},
        table="5 a",
        down="a 2",
        weights="2 3",
        inputs=[IDS],
    ),
    case(
        "_embedding_bag _embedding_bag_forward_only",
        lambda p, ids: (
            (
                aten._embedding_bag(p.table, ids[0], ids[1, 2:], False, 2)[3]
                + aten._embedding_bag_forward_only(p.table, ids[0], ids[1, 2:])[0]
            )
            @ p.down
        ),
        cut="table:1",
        table="5 a",
        down="a 2",
        inputs=[IDS],
    ),
    case(
        "index_select",
        lambda p, ids: p.table.index_select(1, ids[0]).sum(1) @ p.down,
        cut="table:0",
        frozen={"table:1": "named by data (index_select)"},
        table="a 5",
        down="a 2",
        inputs=[IDS],
    ),
    case(
        "index",
        lambda p, ids: p.table[ids].sum((0, 1)) @ p.down,
        cut="table:1",
        frozen={"table:0": "its positions are named by data (index)"},
        table="5 a",
        down="a 2",
        inputs=[IDS],
    ),
    case(
        "index",
        lambda p, ids: p.cube[ids[0], :, ids[1]].sum(0) @ p.down + p.cube[:, :, ids].sum((0, 2, 3)) @ p.down,
        cut="cube:1",
        cube="5 a 4",
        down="a 2",
        inputs=[IDS],
    ),
    case(
        "_unsafe_index",
        lambda p, ids: aten._unsafe_index(p.table, [ids]).sum((0, 1)) @ p.down,
        cut="table:1",
        table="5 a",
        down="a 2",
        inputs=[IDS],
    ),
    case(
        "gather take_along_dim",
        lambda p, x: (
            (p.table.gather(0, (p.where > 0).long()) + p.table.take_along_dim((p.where < 0).long(), 0)).sum(0)
            @ p.down
            * x.sum()
        ),
        cut="table:1 where:1",
        frozen={"table:0": "its positions are named by data (gather)"},
        table="5 a",
        where="3 a",
        down="a 2",
    ),
    case(
        "gather",
        lambda p, ids: p.table.gather(0, ids).sum() + p.table.take_along_dim(ids[:, :1], 0).sum(),
        table="5 6",
        frozen={"table:0": "named by data", "table:1": "only its first positions are gathered"},
        inputs=[IDS],
    ),
    case(
        "take_along_dim",
        lambda p, ids: p.table.take_along_dim(ids[:, :1], 0).sum() + p.other.take_along_dim(ids[0]).sum(),
        table="5 6",
        other="a b",
        frozen={"table:0": "and it is broadcast", "table:1": "and it is broadcast", "other:0": "and it is broadcast"},
        inputs=[IDS],
    ),
    case(
        "index",
        lambda p, x: p.cube[p.mask > 0].sum(0) @ p.down + p.row[:, x[0] > 0].cos().sum(1) @ p.last,
        cut="cube:2 row:0",
        frozen={"cube:0": "chosen by a mask", "cube:1": "chosen by a mask"},
        cube="4 5 a",
        mask="4 5",
        down="a 2",
        row="b 3",
        last="b 2",
    ),
    case(
        "scatter scatter_add scatter_reduce",
        lambda p, ids: (
            aten.scatter(p.up, 0, (p.where > 0).long(), 0.0)
            + p.up.scatter(0, (p.where > 0).long(), p.where)
            + p.up.scatter_add(0, (p.where > 0).long(), p.where)
            + p.up.scatter_reduce(0, (p.where > 0).long(), p.where, "amax")
        ).sum(1),
        cut="up:1 where:1",
        frozen={"up:0": WRITTEN, "where:0": WRITTEN},
        up="4 a",
        where="3 a",
        inputs=[IDS],
    ),
    case(
        "scatter",
        lambda p, ids: aten.scatter(p.up, 0, p.where.long().abs(), 1.0).sum(1),
        frozen={"up:1": NOT_ZERO},
        up="4 a",
        where="3 a",
        inputs=[IDS],
    ),
    case(
        "scatter scatter_add",
        lambda p, ids: p.up.scatter(0, ids, 1.0) + p.up.scatter_add(0, ids, p.long),
        frozen={"up:0": WRITTEN, "up:1": WRITTEN, "long:1": WRITTEN},
        up="4 4",
        long="2 3",
        inputs=[IDS],
    ),
    case(
        "index_put",
        lambda p, ids: (
            p.up.index_put([ids[0]], p.row)
            + p.up.index_put([ids], p.three[:2, None], accumulate=True)
            + p.up.index_put([p.mask > 0], p.up[:1] * 0)
        ).sum(1),
        cut="up:1 row:0 three:1",
        frozen={"up:0": WRITTEN_INDEX, "mask:0": WRITTEN_INDEX},
        up="4 a",
        row="a",
        three="3 a",
        mask="4",
        inputs=[IDS],
    ),
    case(
        "index_put",
        lambda p, ids: (
            aten.index_put(p.cube, [ids[0], None, ids[1]], p.row).sum(1) + aten.index_put(p.up, [None, ids[0]], p.one)
        ),
        cut="cube:1 row:1",
        frozen={"cube:0": "named by data (index)", "up:1": "named by data (index)"},
        cube="5 a 4",
        row="3 a",
        up="5 4",
        one="",
        inputs=[IDS],
    ),
    case(
        "index_put",
        lambda p, ids: aten.index_put(p.cube, [ids[0], None, (p.mask.abs() + 1) > 0], p.row).sum(),
        frozen={"cube:1": WRITTEN, "row:1": WRITTEN},
        cube="5 a 3",
        mask="3",
        row="3 a",
        inputs=[IDS],
    ),
    case(
        "index_add index_copy index_fill index_reduce",
        lambda p, ids: (
            p.up.index_add(0, ids[0], p.three)
            + p.up.index_copy(0, ids[0], p.three)
            + p.up.index_fill(0, ids[0], 0)
            + p.up.index_reduce(0, ids[0], p.three, "amax")
        ).sum(1),
        cut="up:1 three:1",
        frozen={"up:0": WRITTEN, "three:0": WRITTEN},
        up="4 a",
        three="3 a",
        inputs=[IDS],
    ),
    case(
        "index_fill",
        lambda p, ids: p.up.index_fill(0, ids[0], 1).sum(1),
        frozen={"up:1": NOT_ZERO},
        up="4 a",
        inputs=[IDS],
    ),
    case(
        "masked_scatter",
        lambda p, ids: (
            p.up.masked_scatter((ids[0, :1, None] >= torch.arange(4)[:, None]).expand(4, p.a), p.three).relu() @ p.down
            + p.up.masked_scatter((ids[0, :1] >= 0)[:, None].expand_as(p.three[:1]), p.three) @ p.down
        ),
        cut="up:1 three:1 down:0",
        frozen={"up:0": WRITTEN},
        up="4 a",
        three="4 a",
        down="a 2",
        inputs=[IDS],
    ),
    case(
        "masked_scatter put take",
        lambda p, ids: p.up.masked_scatter(p.up > 0, p.up) + p.up.put(ids, p.three[:2]) + p.up.take(ids).sum(),
        frozen={"up:0": WRITTEN, "up:1": WRITTEN},
        up="4 3",
        three="3 3",
        inputs=[IDS],
    ),
    case(
        "nonzero masked_select unique_consecutive unique_dim _unique _unique2 bincount histc searchsorted",
        lambda p, ids: (
            (
                p.up.nonzero().sum()
                + p.up.masked_select(p.up > 0).sum()
                + p.up.unique_consecutive().sum()
                + p.up.unique(dim=0).sum()
                + aten._unique(p.up)[0].sum()
                + p.up.unique().sum()
                + torch.bincount(p.up.flatten().long().abs(), minlength=4).sum()
                + torch.histc(p.up, 4).sum()
                + torch.searchsorted(p.up[0], p.up[1]).sum()
            )
            * ids
        ),
        frozen={"up:0": "chooses or counts by its values", "up:1": "chooses or counts by its values"},
        up="a b",
        inputs=[IDS],
    ),
    case(
        "isin bucketize",
        lambda p, ids: (
            (torch.isin(p.up, p.values) | torch.bucketize(p.up, p.values).bool()).double().sum(0) @ p.down * ids.sum()
        ),
        cut="up:1",
        frozen={"values:0": "looks for values among its positions"},
        up="3 a",
        down="a 2",
        values="4",
        inputs=[IDS],
    ),
    case(
        "one_hot",
        lambda p, ids: F.one_hot(ids, 4).double() @ p.table @ p.down,
        cut="table:1",
        frozen={"table:0": "it counts values"},
        table="4 a",
        down="a 2",
        inputs=[IDS],
    ),
]

# --- positions that are chosen ----------------------------------------------------------------------------------------


def routed(p: Small, x: Tensor) -> tuple[Tensor, Tensor]:
    """How much the rows choose the best positions of ``a``, and the numbers of these."""
    values, chosen = (x @ p.router).softmax(-1).topk(1, -1)
    return values, chosen


def by_experts(p: Small, x: Tensor) -> Tensor:
    """Rows in the order of the experts that they chose, through the matrices of these, and back again."""
    values, chosen = routed(p, x)
    experts, order = chosen.reshape(-1).sort()
    ends = torch.histc(experts.float(), p.a, 0, p.a - 1).cumsum(0).int()
    out = torch.ops.transformers.grouped_mm_fallback((x @ p.inner)[order], p.up, ends)
    return (out @ p.down)[order.argsort()] * values


ROUTED: list[Case] = [
    case(
        "topk gather take_along_dim",
        lambda p, x: (
            routed(p, x)[0]
            * (x @ p.table).gather(1, routed(p, x)[1])
            * torch.take_along_dim(x @ p.table, routed(p, x)[1], 1)
        ),
        statistics="router:1 table:1",
        router="3 a",
        table="3 a",
    ),
    case(
        "topk embedding index index_select one_hot",
        lambda p, x: (
            (
                F.embedding(routed(p, x)[1], p.table)[:, 0]
                + p.table[routed(p, x)[1].squeeze(1)]
                + p.table.index_select(0, routed(p, x)[1].view(-1))
                + F.one_hot(routed(p, x)[1].flatten(), p.a).double() @ p.other
            )
            @ p.down
        ),
        cut="table:1 other:1 down:0",
        statistics="router:1 table:0 other:0",
        router="3 a",
        table="a b",
        other="a b",
        down="b 2",
    ),
    case(
        "topk scatter scatter_add",
        lambda p, x: (
            (
                torch.zeros(2, p.a).double().scatter(1, routed(p, x)[1], routed(p, x)[0])
                + torch.zeros_like(x @ p.router).scatter_add(1, routed(p, x)[1], x[:, :1])
            )
            @ p.table
        ),
        statistics="router:1 table:0",
        router="3 a",
        table="a 2",
    ),
    case(
        "scatter",
        lambda p, x: torch.ones_like(x @ p.router).scatter(1, routed(p, x)[1], routed(p, x)[0]).sum(1),
        frozen={"router:1": NOT_ZERO},
        router="3 a",
    ),
    case(
        "sort histc transformers::grouped_mm_fallback",
        by_experts,
        cut="up:1 up:2 inner:1",
        statistics="router:1 up:0",
        router="3 a",
        inner="3 b",
        up="a b c",
        down="c 2",
    ),
    case(
        "cat topk index",
        lambda p, x: p.table[torch.cat([routed(p, x)[1], (x @ p.other).argmax(-1, keepdim=True)], 1)].sum(1),
        statistics="router:1 other:1 table:0",
        router="3 a",
        other="3 a",
        table="a 2",
    ),
    case(
        "cat topk index",
        lambda p, x: p.table[torch.cat([routed(p, x)[1], torch.zeros(2, 1).long()], 1)].sum(1),
        frozen={"router:1": "put together with other numbers", "table:0": "put together with other numbers"},
        router="3 a",
        table="a 2",
    ),
    case(
        "topk embedding add",
        lambda p, x: F.embedding((routed(p, x)[1] + 1) % p.a, p.table),
        frozen={"router:1": "computes with the numbers", "table:0": "named by data"},
        router="3 a",
        table="a 2",
    ),
    case(
        "topk index_put",
        lambda p, x: (x @ p.other).index_put((torch.arange(2)[:, None], routed(p, x)[1]), routed(p, x)[1].double()),
        frozen={"router:1": "computes with the numbers"},
        router="3 a",
        other="3 a",
    ),
    case(
        "index topk",
        lambda p, x: p.table[routed(p, x)[1].to(torch.uint8).long()],
        frozen={"router:1": "computes with the numbers", "table:0": "computes with the numbers"},
        router="3 a",
        table="a 2",
    ),
]

# --- convolutions -----------------------------------------------------------------------------------------------------

SPATIAL = "it is a spatial dim that a window runs over"
IMAGE = ["2 3 6 6"]

CONVOLUTIONS: list[Case] = [
    case(
        "im2col col2im",
        lambda p, x: F.fold(p.mix @ F.unfold(F.conv2d(x, p.up), 2, padding=1), (8, 8), 2).sum((1, 2, 3)),
        cut="up:0 mix:1 mix:0",
        up="a 3 1 1",
        mix="b*4 a*4",
        inputs=IMAGE,
    ),
    case(
        "im2col col2im",
        lambda p, x: F.fold(F.unfold(F.conv2d(x, p.up)[0], (2, 3), stride=2), (6, 6), (2, 3), stride=2).sum(0),
        cut="up:0",
        up="a 3 1 1",
        inputs=IMAGE,
    ),
    case(
        "unfold unfold_copy",
        lambda p, x: ((F.conv2d(x, p.up).unfold(2, 3, 2) + aten.unfold_copy(F.conv2d(x, p.up), 2, 3, 2)) @ p.taps).sum(
            (1, 2, 3)
        ),
        cut="up:0",
        frozen={"taps:0": SPATIAL},
        up="a 3 1 1",
        taps="3",
        inputs=IMAGE,
    ),
    case("unfold", lambda p, x: p.one.unfold(0, 1, 1) * x, one="", inputs=IMAGE),
    case(
        "channel_shuffle native_channel_shuffle",
        lambda p, x: F.conv2d(
            torch.channel_shuffle(F.conv2d(x, p.up, groups=3), 3)
            + aten.native_channel_shuffle(F.conv2d(x, p.up, groups=3), 3),
            p.down,
        ),
        cut="up:0 down:1",
        up="3*a 1 1 1",
        down="2 3*a 1 1",
        inputs=IMAGE,
    ),
    case(
        "grid_sampler_3d",
        lambda p, x: aten.grid_sampler_3d(F.conv3d(x, p.up), p.grid, 0, 0, False).sum(1),
        cut="up:0",
        up="a 3 1 1 1",
        grid="2 2 3 2 3",
        inputs=["2 3 4 4 4"],
    ),
    case(
        "conv1d",
        lambda p, x: F.conv1d(F.conv1d(x, p.up, p.bias).relu(), p.down),
        cut="up:0 bias:0 down:1",
        frozen={"up:2": SPATIAL},
        up="a 3 2",
        bias="a",
        down="2 a 3",
        inputs=["2 3 7"],
    ),
    case(
        "conv1d", lambda p, x: F.conv1d(F.conv1d(x, p.up), p.down), cut="up:0", up="a 3 2", down="2 a 3", inputs=["3 7"]
    ),
    case(
        "conv2d",
        lambda p, x: F.conv2d(F.conv2d(x, p.up, padding=1, stride=2).exp(), p.down, dilation=2).sum((2, 3)),
        cut="up:0 down:1",
        up="a 3 3 3",
        down="2 a 2 2",
        inputs=IMAGE,
    ),
    case(
        "conv3d",
        lambda p, x: F.conv3d(F.conv3d(x, p.up).relu(), p.down),
        cut="up:0",
        up="a 3 1 1 1",
        down="2 a 2 2 2",
        inputs=["2 3 2 3 3"],
    ),
    case(
        "conv2d",
        lambda p, x: F.conv2d(F.conv2d(F.conv2d(x, p.up), p.deep, groups=p.a).relu(), p.down),
        cut="up:0 deep:0 down:1",
        up="a 3 1 1",
        deep="a 1 3 3",
        down="2 a 1 1",
        inputs=IMAGE,
    ),
    case(
        "conv2d",
        lambda p, x: F.conv2d(F.conv2d(F.conv2d(x, p.up), p.deep, p.bias, groups=p.a).relu(), p.down),
        cut="up:0 deep:0 bias:0 down:1",
        up="a*b 3 1 1",
        deep="a*c b 3 3",
        bias="a*c",
        down="2 a*c 1 1",
        inputs=IMAGE,
    ),
    case(
        "conv2d",
        lambda p, x: F.conv2d(x @ p.side, p.up).sum((1, 2, 3)),
        cut="up:0 side:1",
        side="6 b",
        up="a 3 1 1",
        inputs=IMAGE,
    ),
    case(
        "conv2d",
        lambda p, x: F.conv2d(
            (x[:, 0, 0] @ p.up)[..., None, None].cos(), (x[0, 0, :2] @ p.other)[..., None, None].cos()
        ),
        frozen={"up:1": f"a convolution {NOT_ZERO}"},
        up="6 a",
        other="6 a",
        inputs=IMAGE,
    ),
    case(
        "conv_transpose1d conv_transpose2d conv_transpose3d",
        lambda p, x: F.conv_transpose3d(
            F.conv_transpose2d(F.conv_transpose1d(x[:, :, 0], p.one, p.bias)[:, :, None], p.two, stride=2)[:, :, None],
            p.three,
        ),
        cut="one:1 bias:0 two:1 three:0",
        one="3 a 2",
        bias="a",
        two="a b 2 2",
        three="b 2 1 1 1",
        inputs=IMAGE,
    ),
    case(
        "conv_transpose2d",
        lambda p, x: F.conv2d(F.conv_transpose2d(F.conv2d(x, p.up), p.deep, p.bias, groups=p.a).relu(), p.down),
        cut="up:0 deep:0 deep:1 bias:0",
        up="a*b 3 1 1",
        deep="a*b c 3 3",
        bias="a*c",
        down="2 a*c 1 1",
        inputs=IMAGE,
    ),
    case(
        "convolution _convolution",
        lambda p, x: aten._convolution(
            aten.convolution(x, p.up, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            p.down,
            None,
            [1, 1],
            [0, 0],
            [1, 1],
            True,
            [0, 0],
            1,
            False,
            False,
            False,
            False,
        ),
        cut="up:0 down:0",
        up="a 3 1 1",
        down="a 2 1 1",
        inputs=IMAGE,
    ),
    case(
        "conv2d",
        lambda p, x: F.linear(F.conv2d(x, p.up).relu().flatten(1), p.down),
        cut="up:0 down:1",
        up="a 3 1 1",
        down="2 36*a",
        inputs=IMAGE,
    ),
    case(
        "max_pool1d avg_pool1d max_pool1d_with_indices adaptive_max_pool1d adaptive_avg_pool1d "
        "upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d reflection_pad1d replication_pad1d",
        lambda p, x: pooled(p, F.conv1d(x, p.up), 1),
        cut="up:0 down:0",
        up="a 3 1",
        down="a 2",
        inputs=["2 3 6"],
    ),
    case(
        "max_pool2d avg_pool2d max_pool2d_with_indices adaptive_max_pool2d adaptive_avg_pool2d "
        "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d "
        "_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad2d "
        "replication_pad2d",
        lambda p, x: pooled(p, F.conv2d(x, p.up), 2),
        cut="up:0 down:0",
        up="a 3 1 1",
        down="a 2",
        inputs=IMAGE,
    ),
    case(
        "max_pool3d avg_pool3d max_pool3d_with_indices adaptive_max_pool3d adaptive_avg_pool3d "
        "upsample_nearest3d upsample_trilinear3d reflection_pad3d replication_pad3d",
        lambda p, x: pooled(p, F.conv3d(x, p.up), 3),
        cut="up:0 down:0",
        up="a 3 1 1 1",
        down="a 2",
        inputs=["2 3 4 4 4"],
    ),
    case("max_pool2d", lambda p, x: F.max_pool2d(F.conv2d(x, p.up), 2).sum(1), cut="up:0", up="a 3 1 1", inputs=IMAGE),
    case(
        "max_pool2d_with_indices",
        lambda p, x: F.max_pool2d(F.conv2d(x, p.up), 2, return_indices=True)[1].sum(1),
        frozen={"up:0": NOT_ZERO},
        up="a 3 1 1",
        inputs=IMAGE,
    ),
    case(
        "grid_sampler grid_sampler_2d",
        lambda p, x: (
            (
                F.grid_sample(F.conv2d(x, p.up), x[:, 0, :, :4].unflatten(-1, (2, 2)), align_corners=False)
                + aten.grid_sampler_2d(F.conv2d(x, p.up), x[:, 0, :, :4].unflatten(-1, (2, 2)), 0, 0, False)
            ).sum((2, 3))
            @ p.down
        ),
        cut="up:0",
        up="a 3 1 1",
        down="a 2",
        inputs=IMAGE,
    ),
    case(
        "affine_grid_generator",
        lambda p, x: F.affine_grid(p.theta, [2, 1, 3, 3], align_corners=False) * x.sum(),
        frozen={"theta:0": "where a grid is sampled", "theta:2": "where a grid is sampled"},
        theta="2 2 3",
    ),
    case(
        "grid_sampler",
        lambda p, x: F.grid_sample(p.images, p.grids, align_corners=False).sum((0, 2, 3)) @ p.down * x.sum(),
        cut="images:0 images:1 grids:0",
        frozen={"images:2": SPATIAL, "grids:3": "it says where a grid is sampled"},
        images="a b 3 3",
        grids="a 2 2 2",
        down="b 2",
    ),
    case(
        "max_unpool2d max_unpool3d",
        lambda p, x: (
            F.conv2d(F.max_unpool2d(*F.max_pool2d(F.conv2d(x, p.up), 2, return_indices=True), 2), p.down).sum()
            + F.max_unpool3d(*F.max_pool3d(F.conv2d(x, p.up)[:, :, None], (1, 2, 2), return_indices=True), (1, 2, 2))
            .sum((2, 3, 4))
            .matmul(p.last)
            .sum()
        ),
        cut="up:0 down:1 last:0",
        up="a 3 1 1",
        down="2 a 1 1",
        last="a 2",
        inputs=["2 3 4 4"],
    ),
    case(
        "conv1d",
        lambda p, x: F.conv1d(x @ p.up, p.mix, padding=0).relu() @ p.down,
        cut="up:1 down:0",
        up="3 a",
        mix="5 4 1",
        down="a 2",
        inputs=["2 4 3"],
    ),
    case(
        "conv1d",
        lambda p, x: F.conv1d(x @ p.up, p.mix, stride=2).sum((1, 2)),
        frozen={"up:1": SPATIAL},
        up="3 a",
        mix="5 4 1",
        inputs=["2 4 3"],
    ),
    case(
        "conv2d",
        lambda p, x: F.conv2d(F.conv2d(x, p.up), p.kernel, padding=1, groups=p.a).sum((1, 2, 3)),
        cut="up:0",
        up="a 3 1 1",
        buffers={"kernel": "a 1 3 3"},
        inputs=IMAGE,
    ),
    case(
        "pixel_shuffle pixel_unshuffle",
        lambda p, x: F.conv2d(F.pixel_unshuffle(F.pixel_shuffle(F.conv2d(x, p.up), 2), 3), p.down),
        cut="up:0 down:1",
        up="4*a 3 1 1",
        down="2 9*a 1 1",
        inputs=IMAGE,
    ),
]


def pooled(p: Small, x: Tensor, dims: int) -> Tensor:
    """Every window operator of a number of spatial dims, added up over positions, then ``down``."""
    size = [2] * dims
    found = [
        first(getattr(aten, f"{name}{dims}d")(x, size))
        for name in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
    ]
    found += list(getattr(aten, f"max_pool{dims}d_with_indices")(x, size))
    found += [getattr(aten, f"{name}{dims}d")(x, [1] * (2 * dims)) for name in ("reflection_pad", "replication_pad")]
    if dims == 2:
        found.append(aten._adaptive_avg_pool2d(x, size))
        found += [
            f(x, [8, 8], False)
            for f in (aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa, aten.upsample_bicubic2d)
        ]
    if dims < 3:
        found.append(getattr(aten, f"_upsample_nearest_exact{dims}d")(x, [8] * dims))
    found.append(getattr(aten, f"upsample_nearest{dims}d")(x, [8] * dims))
    found.append(
        getattr(aten, f"upsample_{('linear', 'bilinear', 'trilinear')[dims - 1]}{dims}d")(x, [8] * dims, False)
    )
    return total([value.double().flatten(2).sum(2) for value in found]) @ p.down


# --- tensors from nothing ---------------------------------------------------------------------------------------------

CREATION: list[Case] = [
    case(
        "full zeros ones new_full new_zeros new_ones",
        lambda p, x: (
            total(
                [
                    torch.full((p.a,), 2.0),
                    torch.zeros(p.a),
                    torch.ones(p.a),
                    x.new_full((p.a,), 3.0),
                    x.new_zeros(p.a),
                    x.new_ones(p.a),
                ]
            )
            * p.row
            @ p.down
            * x.sum()
        ),
        cut="row:0 down:0",
        row="a",
        down="a 2",
    ),
    case(
        "zeros",
        lambda p, x: (torch.zeros(p.a).cos() * p.up.cos()).sum(-1) * x.sum(),
        frozen={"up:1": NOT_ZERO},
        up="3 a",
    ),
    case(
        "empty new_empty empty_like fill zero",
        lambda p, x: (
            (p.row * (torch.empty(p.a).fill_(1) + x.new_empty(p.a).fill_(1) + torch.empty_like(p.row).zero_()))
            @ p.down
            * x.sum()
        ),
        cut="row:0",
        row="a",
        down="a 2",
    ),
    case(
        "new_full new_zeros new_ones",
        lambda p, x: (
            (torch.full_like(p.row, 2) + torch.zeros_like(p.row) + torch.ones_like(p.row)) * p.row @ p.down * x.sum()
            + torch.ones_like(p.row[:1])
        ),
        cut="row:0",
        row="a",
        down="a 2",
    ),
    case(
        "scalar_tensor",
        lambda p, x: (h(p, x) * aten.scalar_tensor(2.0, dtype=torch.float64)).sum(-1),
        cut="up:1",
        up="3 a",
    ),
    case(
        "arange linspace logspace hann_window",
        lambda p, x: (
            (
                h(p, x)
                + torch.arange(p.a)
                + torch.linspace(0, 1, p.a)
                + torch.logspace(0, 1, p.a)
                + torch.hann_window(p.a)
            )
            @ p.down
        ),
        cut="up:1 down:0",
        up="3 a",
        down="a 2",
    ),
    case("arange", lambda p, x: (h(p, x) + torch.arange(p.a)).sum(-1), frozen={"up:1": NOT_ZERO}, up="3 a"),
    case(
        "tril_indices triu_indices",
        lambda p, x: p.up[torch.tril_indices(p.a, p.a)[0]].sum() * x + torch.triu_indices(p.a, p.a).sum(),
        frozen={"up:0": "its positions are named by data (index)"},
        up="a b",
    ),
    case(
        "eye",
        lambda p, x: (torch.eye(p.a, dtype=x.dtype) @ p.up).T @ p.down * x.sum(),
        cut="up:0 down:0",
        up="a b",
        down="a 2",
    ),
    case(
        "eye linear",
        lambda p, x: F.linear(F.linear(torch.eye(p.a, dtype=x.dtype), p.up), p.mid).sum(0) * x.sum(),
        cut="up:0 up:1 mid:1",
        up="b a",
        mid="2 b",
    ),
    case(
        "eye",
        lambda p, x: (torch.eye(p.a, p.a + 1, dtype=x.dtype) @ p.up).sum() * x,
        frozen={"up:0": "it is a unit matrix that is not square"},
        up="a+1 b",
    ),
    case(
        "meshgrid",
        lambda p, x: (
            total(list(torch.meshgrid(p.left, p.right, indexing="ij"))).cos() @ p.down * x.sum()
            + total(list(torch.meshgrid(p.left, p.right, indexing="xy"))).cos().mT @ p.down
            + torch.meshgrid(p.right, indexing="xy")[0] @ p.down
        ),
        cut="right:0 down:0",
        left="3",
        right="b",
        down="b 2",
    ),
]

# --- recurrent layers and Fourier transforms --------------------------------------------------------------------------


def layers(p: Small, gates: int, count: int) -> list[Tensor]:
    """The weights of some directions or layers, one after the other, all of their rows ``gates`` times ``a``."""
    names = [f"{kind}{layer}" for layer in range(count) for kind in ("into", "recur", "first", "second")]
    return [getattr(p, name) for name in names]


def cells(gates: int, count: int, inputs: str = "3") -> dict[str, str]:
    """The shapes of those weights; layers after the first read what the one before gives."""
    rows = f"{gates}*a"
    shapes = {"into": f"{rows} {inputs}", "recur": f"{rows} a", "first": rows, "second": rows}
    return {f"{name}{layer}": shape for layer in range(count) for name, shape in shapes.items()}


SEQUENCE = ["2 4 3"]
GATES = {"gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
FFT = "it is transformed as a whole (FFT)"
FFTS = (
    "fft_fft fft_ifft fft_rfft fft_hfft fft_fft2 fft_ifft2 fft_rfft2 fft_fftn fft_ifftn fft_rfftn fft_fftshift "
    "fft_ifftshift"
)

RECURRENT: list[Case] = [
    case(
        "lstm",
        lambda p, x: (
            torch.lstm(x, [x.new_zeros(1, 2, p.a)] * 2, layers(p, 4, 1), True, 1, 0.0, False, False, True)[0].relu()
            @ p.down
        ),
        cut="into0:0 recur0:0 recur0:1 first0:0 down:0",
        **cells(4, 1),
        down="a 2",
        inputs=SEQUENCE,
    ),
    case(
        "lstm",
        lambda p, x: (
            total(
                [
                    each.sum(-1).sum()
                    for each in torch.lstm(
                        x, [x.new_zeros(2, 2, p.a)] * 2, layers(p, 4, 2), True, 1, 0.0, False, True, True
                    )
                ]
            )
            * x
        ),
        cut="into0:0 into1:0 recur0:1",
        **cells(4, 2),
        inputs=SEQUENCE,
    ),
    case(
        "lstm",
        lambda p, x: (
            torch.lstm(
                x,
                [x.new_zeros(1, 2, p.b), x.new_zeros(1, 2, p.a)],
                [p.into0, p.recur0, p.project],
                False,
                1,
                0.0,
                False,
                False,
                True,
            )[0]
            @ p.down
        ),
        cut="project:0 recur0:1 down:0",
        frozen={"into0:0": "torch sees a projection"},
        into0="4*a 3",
        recur0="4*a b",
        project="b a",
        down="b 2",
        inputs=SEQUENCE,
    ),
    case(
        "lstm",
        lambda p, x: (
            torch.lstm(
                x,
                [p.start[:, None].expand(-1, 2, -1)] * 2,
                [p.into0, p.recur0.cos()],
                False,
                1,
                0.0,
                False,
                False,
                True,
            )[0]
            @ p.down
        ),
        frozen={"into0:0": NOT_ZERO},
        start="1 a",
        into0="4*a 3",
        recur0="4*a a",
        down="a 2",
        inputs=SEQUENCE,
    ),
    *(
        case(
            kind,
            lambda p, x, kind=kind: (
                getattr(torch, kind)(
                    torch.cat([x @ p.up, x @ p.up], -1),
                    x.new_zeros(1, 2, p.a),
                    layers(p, GATES[kind], 1),
                    True,
                    1,
                    0.0,
                    False,
                    False,
                    True,
                )[0].relu()
                @ p.down
            ),
            cut="up:1 into0:0 into0:1 recur0:1 first0:0 down:0",
            **cells(GATES[kind], 1, "2*b"),
            up="3 b",
            down="a 2",
            inputs=SEQUENCE,
        )
        for kind in GATES
    ),
    case(
        "lstm",
        lambda p, x: (
            torch.lstm(
                x,
                [x.new_ones(2, 2, p.a)] * 2,
                [p.into0, p.recur0, p.into1, p.recur1],
                False,
                2,
                0.0,
                False,
                False,
                True,
            )[0]
            @ p.down
        ),
        cut="into0:0 into1:0 into1:1 recur1:1",
        into0="4*a 3",
        recur0="4*a a",
        into1="4*a a",
        recur1="4*a a",
        down="a 2",
        inputs=SEQUENCE,
    ),
    case(
        "lstm",
        lambda p, x: (
            torch.lstm(x, [x.new_zeros(2, 2, p.a)] * 2, layers(p, 4, 2), True, 1, 0.0, False, True, True)[1]
            .transpose(0, 1)
            .flatten(1)
            @ p.down
        ),
        cut="into0:0 into1:0 recur0:1 down:0",
        **cells(4, 2),
        down="2*a 2",
        inputs=SEQUENCE,
    ),
    case(  # a start that is made of another batch of parameters: its rows belong to the sequences
        "gru",
        lambda p, x: (
            torch.gru(
                (p.first[:, None] + p.second).flatten(0, 1)[None],
                (x @ p.up).reshape(1, 2 * 4, p.a),
                [p.into0, p.recur0],
                False,
                1,
                0.0,
                False,
                False,
                False,
            )[0]
            @ p.down
        ),
        cut="up:1 into0:0 into0:1 recur0:0 recur0:1 down:0",
        frozen={"first:0": "it is a dim of an input", "second:0": "it is a dim of an input"},
        first="2 b",
        second="4 b",
        up="3 a",
        into0="3*a b",
        recur0="3*a a",
        down="a 2",
        inputs=SEQUENCE,
    ),
    case(
        "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
        lambda p, x: (
            (
                aten.lstm_cell(x, [x.new_zeros(2, p.a)] * 2, p.into4, p.recur4, p.bias4)[0]
                + aten.gru_cell(x, x.new_zeros(2, p.a), p.into3, p.recur3)
                + aten.rnn_tanh_cell(x, x.new_zeros(2, p.a), p.into1, p.recur1)
                + aten.rnn_relu_cell(x, x.new_zeros(2, p.a), p.into1, p.recur1)
            )
            .relu()
            .sum(-1)
        ),
        cut="into4:0 recur4:1 bias4:0 into3:0 into1:0 recur1:1",
        into4="4*a 3",
        recur4="4*a a",
        bias4="4*a",
        into3="3*a 3",
        recur3="3*a a",
        into1="a 3",
        recur1="a a",
    ),
    case(  # a packed sequence of one step
        "lstm",
        lambda p, x: (
            torch.lstm(
                x[:, 0],
                torch.tensor([2]),
                [x.new_zeros(1, 2, p.a)] * 2,
                [p.into0, p.recur0],
                False,
                1,
                0.0,
                False,
                False,
            )[0]
            @ p.down
        ),
        cut="into0:0 recur0:1 down:0",
        into0="4*a 3",
        recur0="4*a a",
        down="a 2",
        inputs=SEQUENCE,
    ),
    case(
        FFTS,
        lambda p, x: (
            total([f((x @ p.up).mT).abs().sum() for f in each("fft_fft fft_ifft fft_rfft fft_hfft")]) * x
            + total(
                [
                    f(p.up[..., None], None, [0, 2]).abs().sum()
                    for f in each("fft_fft2 fft_ifft2 fft_rfft2 fft_fftn fft_ifftn fft_rfftn")
                ]
            )
            + total([f(p.up, [0]).sum() for f in each("fft_fftshift fft_ifftshift")])
        ),
        cut="up:1",
        up="3 a",
    ),
    case(
        "fft_irfft fft_ihfft fft_irfft2 fft_irfftn view_as_real view_as_complex view_as_real_copy view_as_complex_copy",
        lambda p, x: (
            total(
                [
                    f(torch.view_as_complex(torch.stack([(x @ p.up).mT, (x @ p.up).mT], -1))).sum()
                    for f in each("fft_irfft")
                ]
            )
            + aten.fft_ihfft((x @ p.up).mT).abs().sum()
            + total(
                [
                    f(aten.view_as_complex_copy(torch.stack([p.up, p.up], -1))[..., None], [4, 2], [0, 2]).sum()
                    for f in each("fft_irfft2 fft_irfftn")
                ]
            )
            + torch.view_as_real(torch.fft.fft(p.up, dim=0)).sum((0, 2)) @ p.down * x.sum()
            + aten.view_as_real_copy(torch.fft.fft(p.up, dim=0)).sum((0, 2)) @ p.down
        ),
        cut="up:1 down:0",
        up="3 a",
        down="a 2",
    ),
    case(
        "_fft_r2c _fft_c2c _fft_c2r",
        lambda p, x: (
            aten._fft_c2r(aten._fft_c2c(aten._fft_r2c(x @ p.up, [0], 0, True), [0], 0, True), [0], 0, 2) @ p.down
        ),
        cut="up:1",
        up="3 a",
        down="a 2",
    ),
    case("fft_fft", lambda p, x: torch.fft.fft(x @ p.up).abs() @ p.down, frozen={"up:1": FFT}, up="3 a", down="a 2"),
]

# --- what returns no tensor, and the rest -----------------------------------------------------------------------------

REST: list[Case] = [
    case(
        "item _assert_scalar",
        lambda p, x: (torch._check(p.up.sum().item() < 9999), (x @ p.down).relu() @ p.out)[1],
        cut="down:1",
        up="a b",
        down="3 c",
        out="c 2",
    ),
    case(
        "item _local_scalar_dense",
        lambda p, x: p.up.cos().sum(0)[0].item() * x + aten._local_scalar_dense(p.row.sum()),
        frozen={"up:0": NOT_ZERO},
        up="a b",
        row="c",
    ),
    case(
        "_assert_async",
        lambda p, x: (aten._assert_async((p.row < 99).all()), (x @ p.up).relu() @ p.down)[1],
        cut="up:1",
        row="c",
        up="3 a",
        down="a 2",
    ),
    case("lift", lambda p, x: aten.lift(h(p, x).cpu()).sum(-1), cut="up:1", up="3 a"),
    case(
        "copy",
        lambda p, x: (aten.copy(x @ p.other, h(p, x)) * h(p, x).cos()).sum(-1),
        cut="up:1 other:1",
        up="3 a",
        other="3 a",
    ),
]

TABLE: list[Case] = [
    *POINTWISE,
    *CONTRACTIONS,
    *VIEWS,
    *REDUCTIONS,
    *NORMS,
    *ATTENTION,
    *INDEXING,
    *ROUTED,
    *CONVOLUTIONS,
    *CREATION,
    *RECURRENT,
    *REST,
]

"""Operators that take one value from many positions, and those that compare or order positions."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from ..axes import ONE, Axis
from .pointwise import pointwise
from .positions import pointing
from .registry import Call, Dims, Result, axis_rule, dim_index, operator_name

Visit = Callable[[Axis, bool], None]


def reduced_dims(call: Call, rank: int) -> set[int]:
    """The dims that a reduction names; all of them where it names none."""
    dims = call.arguments.get("dim", call.arguments.get("dims"))
    if dims is None or dims == [] or rank == 0:
        return set(range(rank))
    return {dim_index(dim, rank) for dim in ([dims] if isinstance(dims, int) else dims)}


def reduce(call: Call, visit: Visit) -> Result:
    """``a b -> b`` (or ``1 b``); ``visit`` deals with each reduced axis, given whether its masked units are zero."""
    x = call.tensor(next(iter(call.arguments)))
    gone = reduced_dims(call, len(x))
    for dim in gone:
        visit(x.axes[dim], x.zero[dim])
    value = call.node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    if first.ndim == len(x):
        kept = Dims(
            tuple(ONE if dim in gone else axis for dim, axis in enumerate(x.axes)),
            tuple(dim not in gone and zero for dim, zero in enumerate(x.zero)),
        )
    else:
        kept = x.take(dim for dim in range(len(x)) if dim not in gone)
    return (kept,) * len(value) if isinstance(value, (tuple, list)) else kept


@axis_rule("sum", "nansum", "any", "count_nonzero", "norm", "linalg_vector_norm", "linalg_norm", "frobenius_norm")
def add_up(call: Call) -> Result:
    """Reductions to which zeros add nothing."""
    what = call.node.target.__name__.split(".")[0] if not isinstance(call.node.target, str) else call.node.target
    order = call.arguments.get("ord", call.arguments.get("p", 2))
    if isinstance(order, (int, float)) and order <= 0:
        return order_positions(call)
    return reduce(call, lambda axis, zero: call.summed(axis, zero, what))


@axis_rule("mean", "nanmean", "var", "std", "var_mean", "std_mean")
def statistic(call: Call) -> Result:
    """Reductions that divide by the number of positions."""
    what = call.node.target.__name__.split(".")[0] if not isinstance(call.node.target, str) else call.node.target
    return reduce(call, lambda axis, zero: call.statistics(axis, what))


@axis_rule("amax", "amin", "max", "min", "argmax", "argmin")
def best_position(call: Call) -> Result:
    """``a b -> b`` (or ``1 b``), the best of a, which is a statistic: masked positions are never the best.

    Where it is the best that is named, b points at a.
    """
    x, other = call.tensor("self"), call.dims("other")
    if other is not None:  # max(x, y) is not a reduction
        return pointwise(call, [x, other], all)
    what = operator_name(call.node.target).removeprefix("aten::")
    dim = call.arguments.get("dim")
    if dim is None or (isinstance(dim, (tuple, list)) and len(dim) != 1) or not len(x):
        if what.startswith("arg"):
            return order_positions(call)
        return reduce(call, lambda axis, zero: call.compared(axis, what))
    axis = x.axes[dim_index(dim if isinstance(dim, int) else dim[0], len(x))]
    result = reduce(call, lambda axis, zero: None)
    places = result[1] if isinstance(result, tuple) else result
    is_named = what.startswith("arg") or (
        isinstance(result, tuple) and any(user.args[1] == 1 and user.users for user in call.node.users)
    )
    if is_named and isinstance(places, Dims):
        call.chooses(axis, 1, what)
        places = pointing(places, axis)
        return (result[0], places) if isinstance(result, tuple) else places
    call.compared(axis, what)
    return (result[0], None) if isinstance(result, tuple) else result


@axis_rule(
    "prod",
    "all",
    "logsumexp",
    "median",
    "nanmedian",
    "aminmax",
    "mode",
    "quantile",
)
def order_positions(call: Call) -> Result:
    """Reductions to which a zero adds something: the reduced dims are frozen; along the others zeros give zeros."""
    if call.dims("q") is not None:
        return call.opaque(f"{call.node.target} compares its positions")
    result = reduce(call, lambda axis, zero: call.freeze(axis, f"{call.node.target} compares its positions"))
    name = operator_name(call.node.target)
    if name == "aten::logsumexp":
        return never_zero(result)
    if not isinstance(result, tuple) or name == "aten::aminmax":
        return result
    values, places = result
    return values, None if places is None else Dims(places.axes, (False,) * len(places))


def never_zero(result: Result) -> Result:
    """The same result, with nothing said about zeros: indices of zeros are not zero, nor is the logsumexp of zeros."""
    if isinstance(result, tuple):
        return tuple(None if dims is None else Dims(dims.axes, (False,) * len(dims)) for dims in result)
    return None if result is None else Dims(result.axes, (False,) * len(result))


@axis_rule("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
def elementwise_loss(call: Call) -> Result:
    """The values for each position (``reduction`` 0), zero where x and y are, or their mean (1) or sum (2)."""
    values = pointwise(call, [call.tensor("self"), call.tensor("target")], all)
    if call["reduction"] == 0:
        return values
    for axis, zero in values:
        if call["reduction"] == 1:
            call.freeze(axis, "a loss takes its mean over it")
        else:
            call.summed(axis, zero, "a loss")
    return Dims((), ())


@axis_rule(
    "cross_entropy_loss",
    "nll_loss",
    "nll_loss2d",
    "nll_loss_nd",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
    "soft_margin_loss",
    "multilabel_margin_loss",
    "margin_ranking_loss",
    "hinge_embedding_loss",
    "cosine_embedding_loss",
    "triplet_margin_loss",
    "poisson_nll_loss",
)
def loss(call: Call) -> Result:
    """Losses that are not zero for zeros, or compare classes: everything is frozen."""
    return call.opaque(f"{call.node.target} compares its positions")


@axis_rule("softmax", "_softmax", "_safe_softmax", "special_softmax")
def softmax(call: Call) -> Result:
    """``... a -> ... a``: masked units would take their share, so a is a statistic: they count for nothing."""
    x = call.tensor("self")
    if not len(x):
        return never_zero(x)
    dim = dim_index(call["dim"], len(x))
    call.solver.mark_statistics(x.axes[dim], "softmax normalises over it", call.node)
    return Dims(x.axes, tuple(other == dim for other in range(len(x))))


@axis_rule("log_softmax", "_log_softmax")
def log_softmax(call: Call) -> Result:
    """``... a -> ... a``: masked units would still take their share, so a is frozen."""
    return along(call, call.arguments["dim"], "softmax normalises over it")


@axis_rule("cumsum")
def cumulative_sum(call: Call) -> Result:
    """``... a -> ... a`` where zeros add nothing to the positions after them; their own sums are not zero."""
    x = call.tensor("self")
    if not len(x):
        return x
    dim = dim_index(call["dim"], len(x))
    call.summed(x.axes[dim], x.zero[dim], "cumsum")
    return x.replace(dim, x.axes[dim], False)


@axis_rule("cumprod", "cummax", "cummin", "sort", "msort")
def scan(call: Call) -> Result:
    """``... a -> ... a`` where positions depend on other ones: a is frozen; zeros of the other dims stay zeros."""
    x = call.tensor("self")
    dim = dim_index(call.arguments.get("dim", 0), len(x))  # msort runs along the first
    frozen = along(call, dim, f"{call.node.target} runs along it")
    values = Dims(x.axes, tuple(zero and other != dim for other, zero in enumerate(x.zero)))
    return (values, *frozen[1:]) if isinstance(frozen, tuple) else values


@axis_rule("logcumsumexp", "argsort")
def scan_without_zeros(call: Call) -> Result:
    """``... a -> ... a`` where positions depend on other ones: a is frozen, and zeros give no zeros."""
    return along(call, call["dim"], f"{call.node.target} runs along it")


def along(call: Call, dim: int, reason: str) -> Result:
    """Freeze one dim and pass the others through."""
    x = call.tensor("self")
    if len(x):
        call.freeze(x.axes[dim_index(dim, len(x))], reason)
    value = call.node.meta["val"]
    return never_zero((x,) * len(value) if isinstance(value, (tuple, list)) else x)


@axis_rule("topk", "kthvalue")
def topk(call: Call) -> Result:
    """``... a -> ... k``: the kth of a has it frozen; the k best are chosen of what is kept if a is cut."""
    x = call.tensor("self")
    shape = call.shapes[0]
    if not len(x) or shape is None:
        return never_zero((x, x))
    dim = dim_index(call["dim"], len(x))
    if operator_name(call.node.target) == "aten::kthvalue":
        call.freeze(x.axes[dim], f"{call.node.target} compares its positions")
        rest = x if len(shape) == len(x) else x.take(other for other in range(len(x)) if other != dim)
        return never_zero((rest.replace(dim, ONE, False) if rest is x else rest,) * 2)
    if isinstance(call["k"], fx.Node):
        call.freeze(x.axes[dim], "how many of its positions topk chooses depends on data")
    else:
        call.chooses(x.axes[dim], call["k"], "topk")
    best = call.fixed(shape[dim], "it counts the best positions")
    values = Dims(x.replace(dim, best, False).axes, (False,) * len(x))
    return values, pointing(values, call.resolve(x.axes[dim]))


@axis_rule("cosine_similarity")
def cosine_similarity(call: Call) -> Result:
    """``... a, ... a -> ...``, the sums of products and of squares over a; zero where one of the vectors is."""
    x, y = call.tensor("x1"), call.tensor("x2")
    both = pointwise(call, [x, y], all)
    gone = dim_index(call["dim"], len(both))
    call.summed(both.axes[gone], both.zero[gone], "cosine_similarity")
    return pointwise(call, [x, y], any).take(dim for dim in range(len(both)) if dim != gone)


@axis_rule("cdist")
def distances(call: Call) -> Result:
    """``... i a, ... j a -> ... i j``: where both are zero they do not differ."""
    x, y = call.tensor("x1"), call.tensor("x2")
    batch = pointwise(call, [x.take(range(len(x) - 2)), y.take(range(len(y) - 2))], lambda flags: False)
    features = pointwise(call, [x.take([len(x) - 1]), y.take([len(y) - 1])], all)
    call.summed(features.axes[0], features.zero[0], "cdist")
    return Dims((*batch.axes, x.axes[-2], y.axes[-2]), (False,) * (len(batch) + 2))


@axis_rule("renorm", "pairwise_distance", "linalg_cross", "cross")
def compared(call: Call) -> Result:
    """Composite comparisons without a finer rule; a distance of pairs adds its epsilon to every position."""
    return call.opaque(f"{call.node.target} compares its positions")


@axis_rule(
    "det",
    "logdet",
    "slogdet",
    "inverse",
    "pinverse",
    "matrix_exp",
    "matrix_power",
    "cholesky_inverse",
    "cholesky_solve",
    "svd",
    "linalg_det",
    "linalg_slogdet",
    "linalg_inv",
    "linalg_inv_ex",
    "linalg_pinv",
    "linalg_matrix_exp",
    "linalg_matrix_power",
    "linalg_matrix_rank",
    "linalg_matrix_norm",
    "linalg_cholesky",
    "linalg_cholesky_ex",
    "linalg_qr",
    "linalg_svd",
    "linalg_svdvals",
    "linalg_eig",
    "linalg_eigh",
    "linalg_eigvalsh",
    "linalg_lu",
    "linalg_lu_factor",
    "linalg_solve",
    "linalg_solve_triangular",
)
def whole_matrix(call: Call) -> Result:
    """Determinants, inverses and factors of matrices: a zero row changes all of them, so everything is frozen."""
    return call.opaque(f"{call.node.target} takes its matrix as a whole")

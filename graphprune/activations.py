"""What each parameter is multiplied with when a model runs: statistics of inputs for criteria.

The products of tensors are watched where they are computed, below all modules and functions: whatever view of a
parameter enters one (transposed, a slice of fused projections, an expert of many) is found by its memory, and the
statistics of the features of the other factor are kept for the weights in that view, a few numbers for each feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .gradients import at_least_one
from .matrices import Inputs
from .passes.trace import evaluation_mode


@dataclass(frozen=True)
class View:
    """A view of a parameter, by its place in memory: ``offset`` elements from the first one of the parameter."""

    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Features:
    """The features that meet the weights of a view: how many samples there were, their mean and squared deviations.

    ``mean`` and ``deviation`` (the sum of squared deviations from the mean) are float64 and broadcast to the view.
    """

    count: int
    mean: Tensor
    deviation: Tensor

    def joined(self, other: Features) -> Features:
        """Those of both samples together."""
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        spread = step.square() * (self.count * other.count / count)
        return Features(count, mean, self.deviation + other.deviation + spread)


def input_statistics(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], batches: Iterable[Any]
) -> dict[str, Inputs]:
    """What each parameter is multiplied with on some batches; parameters that are in no product are left out.

    A batch is a mapping of the module's arguments, a tuple of them, or the first. The module runs in evaluation mode.

    Raises:
        ScoreError: there is no batch.
    """
    watch = _Watch(parameters)
    # as for a verification, torch.cond must not compile itself here
    with evaluation_mode(module), torch.no_grad(), _plain_kernels(), torch.compiler.set_stance("force_eager"):
        for batch in at_least_one(batches):
            with watch:
                run(module, batch)
    return {name: _inputs(parameters[name], seen) for name, seen in watch.seen.items()}


def run(module: nn.Module, batch: Any) -> None:
    """Call a module with a batch: a mapping of its arguments, a tuple of them, or the first."""
    if isinstance(batch, Mapping):
        module(**batch)
    elif isinstance(batch, (tuple, list)):
        module(*batch)
    else:
        module(batch)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Within the context layers run as products that can be watched, and not as one kernel for a whole layer."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Watch(TorchDispatchMode):
    """Keeps statistics of what the parameters are multiplied with, by parameter and by the view of it."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.supports_higher_order_operators = True
        self.parameters = parameters
        self.seen: dict[str, dict[tuple[View, tuple[int, ...]], Features]] = {}
        self._by_memory: dict[int, list[str]] = {}
        for name, parameter in parameters.items():
            if type(parameter) is not nn.Parameter:
                continue  # sharded or quantised: it has no memory of its own to be found by
            self._by_memory.setdefault(parameter.untyped_storage().data_ptr(), []).append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._inside(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        products = PRODUCTS.get(func._schema.name.removeprefix("aten::"))
        if products is not None:
            for factor, other, features in products(args, kwargs or {}):
                owner = self._owner(factor)
                if owner is not None and self._owner(other) is None:
                    self._keep(*owner, factor, *features())
        return result

    def _inside(self, func: torch._ops.HigherOrderOperator, args: Any, kwargs: Any) -> Any:
        """Call one with the mode on in the branch that a condition takes; in all others it is off."""
        if func.name() != "cond":
            return func(*args, **kwargs)
        condition, yes, no, operands = args
        with self:
            return (yes if condition else no)(*operands)

    def _owner(self, tensor: Tensor) -> tuple[str, int] | None:
        """The parameter that a tensor is a view of, and where in it the view begins."""
        for name in self._by_memory.get(tensor.untyped_storage().data_ptr(), ()):
            parameter = self.parameters[name]
            offset = int(tensor.storage_offset()) - int(parameter.storage_offset())
            if 0 <= offset < parameter.numel() and tensor.dtype == parameter.dtype:
                return name, offset
        return None

    def _keep(self, name: str, offset: int, factor: Tensor, features: Features, summed: tuple[int, ...]) -> None:
        views = self.seen.setdefault(name, {})
        # weights that serve a whole batch have a dim without a stride, which is one position of the parameter
        size = tuple(each if stride else 1 for each, stride in zip(factor.shape, factor.stride(), strict=True))
        key = View(offset, size, tuple(factor.stride())), summed
        views[key] = views[key].joined(features) if key in views else features


def _features(samples: Tensor) -> Features:
    """The statistics over the first dim."""
    count = samples.shape[0]
    if not count:
        empty = samples.new_zeros(samples.shape[1:], dtype=torch.float64)
        return Features(0, empty, empty)
    variance, mean = torch.var_mean(samples.float(), 0, correction=0)
    return Features(count, mean.double(), variance.double() * count)


Product = Iterator[tuple[Tensor, Tensor, Callable[[], tuple[Features, tuple[int, ...]]]]]
"""A factor, the other factor, and what makes the statistics of the other's features, shaped to broadcast to the factor,
with the dims of the factor that are summed over."""


def _matrix_product(a: Tensor, b: Tensor) -> Product:
    """``(batch) i k, (batch) k j``, where j or i may be missing."""
    rows = a if a.ndim > 1 else a.unsqueeze(0)
    columns = b if b.ndim > 1 else b.unsqueeze(-1)
    yield b, a, lambda: (_of_right(rows, b), (max(b.ndim - 2, 0),))
    yield a, b, lambda: (_of_left(columns, a), (a.ndim - 1,))


def _of_right(rows: Tensor, b: Tensor) -> Features:
    """Features of ``(batch) i k`` for the weights ``(batch) k j`` or ``k``."""
    found = _over_batch(rows.movedim(-2, 0), b)
    return found if b.ndim == 1 else _reshaped(found, lambda each: each.unsqueeze(-1))


def _of_left(columns: Tensor, a: Tensor) -> Features:
    """Features of ``(batch) k j`` for the weights ``(batch) i k`` or ``k``."""
    found = _over_batch(columns.movedim(-1, 0), a)
    return found if a.ndim == 1 else _reshaped(found, lambda each: each.unsqueeze(-2))


def _over_batch(samples: Tensor, weight: Tensor) -> Features:
    """Samples ``[n, (batch), k]``; where the same weights serve the whole batch, its items are samples too."""
    if samples.ndim == 3 and weight.stride(0) == 0:
        return _reshaped(_features(samples.flatten(0, 1)), lambda each: each.unsqueeze(0))
    return _features(samples)


def _reshaped(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    return Features(features.count, change(features.mean), change(features.deviation))


def _convolution(x: Tensor, weight: Tensor, transposed: bool, groups: int) -> Product:
    """``n (g i) ..., (g o) i ...``; transposed, the weight is ``(g i) o ...``. All places of a channel are samples."""

    def features() -> tuple[Features, tuple[int, ...]]:
        spatial = weight.ndim - 2
        batched = x if x.ndim == weight.ndim else x.unsqueeze(0)
        channels = _features(batched.movedim(1, -1).flatten(0, -2))
        if transposed:
            return _reshaped(channels, lambda each: each.reshape(-1, *[1] * (spatial + 1))), (0,)
        inner = weight.shape[1]

        def spread(each: Tensor) -> Tensor:
            if groups == 1:
                return each.reshape(1, inner, *[1] * spatial)
            rows = each.reshape(groups, 1, inner).expand(groups, weight.shape[0] // groups, inner)
            return rows.reshape(-1, inner, *[1] * spatial)

        return _reshaped(channels, spread), (1,)

    yield weight, x, features


def _experts(x: Tensor, weight: Tensor, ends: Tensor) -> Product:
    """``n i, e i o -> n o``: the rows up to ``ends[e]`` are those of expert e."""
    start = 0
    for expert, end in enumerate(ends.tolist()):
        yield from _matrix_product(x[start:end], weight[expert])
        start = end


def _named(args: Any, kwargs: Any, names: tuple[str, ...]) -> list[Any]:
    return [args[at] if at < len(args) else kwargs.get(name) for at, name in enumerate(names)]


def _convolved(args: Any, kwargs: Any) -> Product:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
    x, weight, *_, transposed, _, groups = _named(args, kwargs, names)
    return _convolution(x, weight, bool(transposed), groups)


def _grouped(args: Any, kwargs: Any) -> Product:
    x, weight, ends = _named(args, kwargs, ("input", "weight", "offs"))
    return _experts(x, weight, ends)


PRODUCTS: dict[str, Callable[[Any, Any], Product]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot"), lambda args, kwargs: _matrix_product(args[0], args[1])),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), lambda args, kwargs: _matrix_product(args[1], args[2])),
    "linear": lambda args, kwargs: _matrix_product(args[0].reshape(-1, args[0].shape[-1]), args[1].t()),
    "convolution": _convolved,
    "_grouped_mm": _grouped,
    "transformers::grouped_mm_fallback": _grouped,
}
"""What is left of all products below autograd: einsum, matmul and layers have become these."""


def _inputs(parameter: nn.Parameter, seen: Mapping[tuple[View, tuple[int, ...]], Features]) -> Inputs:
    """The statistics in the shape of a parameter."""
    dims = frozenset(dim for view, summed in seen for at in summed for dim in _dims_of(parameter, view, at))
    (view, _), features = next(iter(seen.items()))
    order = _order(parameter, view) if len(seen) == 1 else None
    if order is not None:
        one = _reshaped(features, lambda each: each.permute(order))
        count = torch.tensor(one.count, device=one.mean.device)
        return _statistics(parameter, dims, count, one.mean, one.deviation)
    count, mean, deviation = (torch.zeros_like(parameter, dtype=torch.float64, requires_grad=False) for _ in range(3))
    for (view, _), features in seen.items():
        part = [each.as_strided(view.size, view.stride, view.offset) for each in (count, mean, deviation)]
        total = (part[0] + features.count).clamp(min=1)
        step = features.mean - part[1]
        part[2].add_(features.deviation + step.square() * part[0] * features.count / total)
        part[1].add_(step * features.count / total)
        part[0].add_(features.count)
    return _statistics(parameter, dims, count, mean, deviation)


def _statistics(
    parameter: nn.Parameter, dims: frozenset[int], count: Tensor, mean: Tensor, deviation: Tensor
) -> Inputs:
    square = deviation + count * mean.square()
    found = (mean, deviation / (count - 1).clamp(min=1), square)
    return Inputs(dims, *(each.float().expand(parameter.shape) for each in found))


def _dims_of(parameter: nn.Parameter, view: View, dim: int) -> Iterator[int]:
    """The dims of a parameter that one dim of a view of it runs over."""
    first, last = view.stride[dim], view.stride[dim] * view.size[dim]
    for at, (size, stride) in enumerate(zip(parameter.shape, parameter.stride(), strict=True)):
        if size > 1 and first < stride * size and stride < last:
            yield at


def _order(parameter: nn.Parameter, view: View) -> list[int] | None:
    """The dims of a view in the order of those of its parameter, where it is all of it; None where it is not."""
    left = list(range(len(view.size)))
    order: list[int] = []
    for size, stride in zip(parameter.shape, parameter.stride(), strict=True):
        same = [at for at in left if view.size[at] == size and (size == 1 or view.stride[at] == stride)]
        if not same:
            return None
        order.append(same[0])
        left.remove(same[0])
    return None if left else order

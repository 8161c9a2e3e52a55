"""What criteria look at: each parameter with the adapters on it, and their gradients."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from .distributed import is_sharded, whole
from .errors import ScoreError
from .passes.slice_parameters import DimMasks
from .quantised import QuantisedWeight, quantised_weights
from .traced import TracedModel

BLOCK = 1 << 19
"""Elements of a weight that are looked at together: as many as stay in a processor's cache, through all steps."""

BLOCK_ON_ACCELERATOR = 1 << 24
"""The same where each call costs as much as many elements: some are in flight at a time, of 64 MiB each."""


@dataclass(frozen=True)
class LoraFactors:
    """One LoRA adapter on a weight: ``W' = W + scale * b @ a`` with ``a`` [rank, in] and ``b`` [out, rank].

    ``transposed`` adapters are on weights that are stored as [in, out]. Gradients are those in ``.grad``, None where
    there are none. On a ``stack`` of matrices, [stack, out, in], ``a`` is [stack * rank, in] and ``b`` is
    [out, rank * stack].
    """

    a: nn.Parameter
    b: nn.Parameter
    scale: float
    transposed: bool
    stack: int = 0

    def _stacked(self, factor: Tensor, dim: int) -> Tensor:
        """``a`` (dim 0) as [stack, rank, in], or ``b`` (dim 1) as [stack, out, rank]."""
        if dim == 0:
            return factor.reshape(self.stack, -1, factor.shape[1])
        return factor.reshape(factor.shape[0], -1, self.stack).permute(2, 0, 1)

    def rows(self, rows: slice) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """``left`` [rows, rank] and ``right`` [rank, columns], whose product is rows of the update, and gradients.

        Of a stack ``rows`` are matrices, and all have one dim more: ``left`` is [rows, out, rank].
        """
        if self.stack:
            a, b = self._stacked(self.a.detach(), 0)[rows], self._stacked(self.b.detach(), 1)[rows]
            a_grad = None if self.a.grad is None else self._stacked(self.a.grad, 0)[rows]
            b_grad = None if self.b.grad is None else self._stacked(self.b.grad, 1)[rows]
            if not self.transposed:
                return b, a, b_grad, a_grad
            return a.mT, b.mT, None if a_grad is None else a_grad.mT, None if b_grad is None else b_grad.mT
        a, b = self.a.detach().flatten(1), self.b.detach().flatten(1)
        a_grad = None if self.a.grad is None else self.a.grad.flatten(1)
        b_grad = None if self.b.grad is None else self.b.grad.flatten(1)
        if not self.transposed:
            return b[rows], a, None if b_grad is None else b_grad[rows], a_grad
        return a.T[rows], b.T, None if a_grad is None else a_grad.T[rows], None if b_grad is None else b_grad.T


@dataclass(frozen=True)
class Gradients:
    """Dense gradients of a parameter over batches: ``mean`` and the mean of their ``square``, float32, in its shape.

    None is what was not collected.
    """

    mean: Tensor | None
    square: Tensor | None

    def mean_of(self, rows: slice) -> Tensor:
        """Rows of the mean.

        Raises:
            ScoreError: it was not collected.
        """
        return _collected(self.mean, "gradients")[rows]

    def square_of(self, rows: slice) -> Tensor:
        """Rows of the mean square.

        Raises:
            ScoreError: it was not collected.
        """
        return _collected(self.square, "squared_gradients")[rows]


def _collected(tensor: Tensor | None, need: str) -> Tensor:
    if tensor is None:
        raise ScoreError(f"the criterion takes {need}, which it doesn't name in needs: add {need!r} to them")
    return tensor


@dataclass(frozen=True)
class Inputs:
    """What a parameter is multiplied with, over all tokens or pixels: a statistic of the input that each weight meets.

    ``mean``, ``variance`` (that of the sample) and ``square`` (the sum of squares) are float32 in the shape of the
    parameter, and mostly one row that is expanded. ``dims`` are the dims of the parameter that products sum over.
    """

    dims: frozenset[int]
    mean: Tensor
    variance: Tensor
    square: Tensor


@dataclass(frozen=True)
class Matrix:
    """A parameter as a criterion sees it: its values, the adapters on it, and whether it is part of one itself.

    ``gradients`` and ``inputs`` are there for criteria that need them, and None for parameters that have none.
    """

    name: str
    weight: nn.Parameter
    adapters: tuple[LoraFactors, ...] = ()
    is_adapter: bool = False
    gradients: Gradients | None = None
    inputs: Inputs | None = None
    stored: QuantisedWeight | None = None
    """The weight where it is stored in few bits; ``weight`` then holds its codes."""
    cut: DimMasks = ()
    """What is left of each dim since the model was traced; None, or nothing at all, is the whole of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight, however it is stored."""
        return tuple(self.weight.shape) if self.stored is None else self.stored.shape

    def blocks(self) -> Iterator[slice]:
        """Runs of rows (positions of the first dim) with at most ``BLOCK`` elements, or one row."""
        rows = self.shape[0] if self.shape else 1
        most = BLOCK if self.weight.device.type in ("cpu", "meta") else BLOCK_ON_ACCELERATOR
        step = max(1, most * rows // max(1, math.prod(self.shape)))
        for start in range(0, rows, step):
            yield slice(start, min(rows, start + step))

    def effective(self, rows: slice) -> Tensor:
        """Rows of ``W' = W + sum of scale * b @ a``."""
        if self.stored is not None:
            block = self.stored.rows(rows)
        else:
            block = self.weight.detach()[rows] if self.weight.ndim else self.weight.detach()
        for adapter in self.adapters:
            left, right, _, _ = adapter.rows(rows)
            if left.ndim == 3:
                block = torch.baddbmm(block, left.to(block.dtype), right.to(block.dtype), alpha=adapter.scale)
            elif left.dtype == block.dtype:  # in one pass over the block
                block = torch.addmm(block.flatten(1), left, right, alpha=adapter.scale).reshape(block.shape)
            else:
                block = block + (adapter.scale * (left @ right)).reshape(block.shape).to(block.dtype)
        return block


def empty_block(block: Tensor) -> Tensor:
    """A tensor like a block without values, which leaves the next one its place in memory once it is gone.

    One that torch makes does not: torch asks for a little more, to have it aligned, and finds no place of that size.
    """
    if block.device.type != "cpu":
        return torch.empty_like(block)
    return torch.from_numpy(numpy.empty(block.nbytes, numpy.uint8)).view(block.dtype).view(block.shape)


def summed_but(block: Tensor, dim: int) -> Tensor:
    """The sums over all dims of a tensor but one."""
    others = [other for other in range(block.ndim) if other != dim]
    return block.sum(others) if others else block


def matrices(traced: TracedModel) -> dict[str, Matrix]:
    """Every parameter in the graph with the active LoRA adapters on it, by name."""
    parameters = dict(traced.module.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    adapters: dict[str, list[LoraFactors]] = {}
    parts: set[str] = set()
    for layer in lora_layers(traced.module):
        for factors in layer_factors(layer):
            parts |= {names[id(factors.a)], names[id(factors.b)]}
            adapted = names.get(id(adapted_weight(layer)))
            if adapted is not None:
                adapters.setdefault(adapted, []).append(factors)
    quantised = {} if traced.stored is None else quantised_weights(traced.module)
    found: dict[str, Matrix] = {}
    for name, info in traced.table.items():
        if info.is_buffer or name not in traced.inference.parameter_dims:
            continue
        # what is not in the module is a constant of the graph, and trained by nobody
        weight = parameters.get(name)
        if weight is not None:
            own = tuple(adapters.get(name, ()))
            found[name] = Matrix(name, weight, own, name in parts, stored=quantised.get(name))
    return found


def gathered(matrix: Matrix) -> Matrix:
    """The matrix in whole where each process holds a part of it; all processes must call this."""
    adapters = tuple(replace(each, a=_gathered(each.a), b=_gathered(each.b)) for each in matrix.adapters)
    return replace(matrix, weight=_gathered(matrix.weight), adapters=adapters)


def _gathered(parameter: nn.Parameter) -> nn.Parameter:
    if not is_sharded(parameter):
        return parameter
    copy = nn.Parameter(whole(parameter), requires_grad=False)
    copy.grad = None if parameter.grad is None else whole(parameter.grad)
    return copy


def lora_layers(module: nn.Module) -> list[Any]:
    """The LoRA layers of a module, as peft makes them; none where peft was never used."""
    if "peft" not in sys.modules:
        return []  # a module with peft's layers has imported it
    from peft.tuners.lora import LoraLayer

    return [child for child in module.modules() if isinstance(child, LoraLayer)]


def wrapped_weights(traced: TracedModel) -> Iterator[tuple[str, str]]:
    """The path of each LoRA layer around a module, and the name of the weight that it adapts."""
    paths = {id(module): path for path, module in traced.module.named_modules()}
    names = {id(parameter): name for name, parameter in traced.module.named_parameters()}
    for layer in lora_layers(traced.module):
        weight = adapted_weight(layer)
        if id(weight) in names and not _is_on_parameter(layer):
            yield paths[id(layer)], names[id(weight)]


def adapted_weight(layer: Any) -> nn.Parameter:
    """The weight that a LoRA layer adapts: that of the module inside it, or the parameter that it was put on."""
    weight: nn.Parameter = layer.get_param() if _is_on_parameter(layer) else layer.get_base_layer().weight
    return weight


def _is_on_parameter(layer: Any) -> bool:
    """Whether a LoRA layer is for one parameter of a module (``target_parameters``), as the matrices of experts are."""
    return hasattr(layer, "parameter_name")


def layer_factors(layer: Any) -> Iterator[LoraFactors]:
    """The factors of each active adapter of a LoRA layer."""
    for adapter in layer.active_adapters:
        scale = float(layer.scaling.get(adapter, 1.0))
        if adapter in layer.lora_A:
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            if _is_on_parameter(layer) and layer.get_param().ndim == 3:
                transposed = bool(getattr(layer.get_base_layer(), "is_transposed", False))
                yield LoraFactors(a, b, scale, transposed, stack=layer.get_param().shape[0])
            else:
                yield LoraFactors(a, b, scale, bool(getattr(layer, "fan_in_fan_out", False)))
        elif adapter in layer.lora_embedding_A:
            yield LoraFactors(layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter], scale, True)

"""The LoRA-guided criterion of LoRAPrune (arXiv 2305.18403, equations 8 to 10).

With ``W' = W + s·B·A`` and only the gradients of A and B::

    Ĝ = ∂B·A + B·∂A − ∂B·∂A          the change that one step makes to the product of the factors
    Î = (Ĝ · W')²                    element by element

``variant="paper"`` is the text. ``variant="released"`` is what the authors' code computes: ``|Ĝ · W'|`` is added up to
the units of each matrix, and the vector of these divided by its L2 norm, before the matrices of a unit are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import ScoreError
from ..matrices import LoraFactors, Matrix
from .base import Aggregation, Criterion, Need

Variant = Literal["paper", "released"]


@dataclass(frozen=True)
class Lora(Criterion):
    """The LoRA-guided importance, without a gradient of a weight: ``Ĝ`` has rank 2r and is made by blocks of rows."""

    variant: Variant = "paper"
    name: str = "lora"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"lora_gradients"})

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(normalised=self.variant == "released")

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        if matrix.is_adapter:
            # the rank of an adapter, scored only where it is asked for: first-order Taylor of the factor itself
            gradient = _present(matrix.weight.grad, matrix.name)
            return self._of(gradient[rows].float() * matrix.weight.detach()[rows])
        if not matrix.adapters:
            return None
        weight = matrix.effective(rows)
        gradient = sum_of([guided_gradient(adapter, rows, matrix.name) for adapter in matrix.adapters])
        # squares of half precision would underflow
        return self._of(gradient.float().reshape(weight.shape).mul_(weight))

    def _of(self, product: Tensor) -> Tensor:
        """The importance from ``Ĝ · W'``, in its memory."""
        return product.mul_(product) if self.variant == "paper" else product.abs_()


def guided_gradient(adapter: LoraFactors, rows: slice, name: str) -> Tensor:
    """Rows of ``∂B·A + B·∂A − ∂B·∂A = [∂B, B − ∂B]·[A; ∂A]``.

    Raises:
        ScoreError: a factor has no gradient.
    """
    left, right, left_grad, right_grad = adapter.rows(rows)
    left_grad, right_grad = _present(left_grad, name), _present(right_grad, name)
    return torch.cat([left_grad, left - left_grad], -1) @ torch.cat([right, right_grad], -2)


def sum_of(tensors: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _present(gradient: Tensor | None, name: str) -> Tensor:
    if gradient is None:
        raise ScoreError(
            f"the adapters on {name} have no gradients: run a backward pass first, or give gp.score data to run one on"
        )
    return gradient

"""Wanda for structures: a weight is as important as it is large and as what it is multiplied with is large.

Wanda (arXiv 2306.11695) takes ``|W_ij|·‖X_j‖₂``, with the norm of input feature j over all tokens. As a structured
criterion (Wanda-sp, the baseline of FLAP, arXiv 2312.11983) a unit has the sum over the columns that take it in.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..matrices import Matrix
from .base import Aggregation, Criterion, Need


@dataclass(frozen=True)
class WandaSp(Criterion):
    """``|W'_ij|·‖X_j‖₂``, summed over the columns of a unit in the weights that take it in."""

    name: str = "wanda_sp"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"activations"})

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(dims="inputs")

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        if matrix.inputs is None:
            return None
        return matrix.effective(rows).abs().float() * matrix.inputs.square[rows].sqrt()

"""Magnitude: a weight is as important as it is large."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..matrices import Matrix
from .base import Criterion


@dataclass(frozen=True)
class Magnitude(Criterion):
    """``|W'|`` to the power ``order`` (1 or 2), with the adapters' update in ``W'``."""

    order: int = 2
    name: str = "magnitude"

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        return matrix.effective(rows).abs().pow(self.order)

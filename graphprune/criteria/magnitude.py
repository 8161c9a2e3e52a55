"""Magnitude: a weight is as important as it is large."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..matrices import Matrix


@dataclass(frozen=True)
class Magnitude:
    """``|W'|`` to the power ``order`` (1 or 2), with the adapters' update in ``W'``."""

    order: int = 2
    name: str = "magnitude"
    needs_gradients: bool = False

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        return matrix.effective(rows).abs().pow(self.order)

"""Magnitude: a weight is as important as it is large."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ScoreError
from ..matrices import Matrix, empty_block
from .base import Criterion


@dataclass(frozen=True)
class Magnitude(Criterion):
    """``|W'|`` to the power ``order`` (1 or 2), with the adapters' update in ``W'``.

    Raises:
        ScoreError: there is no such order.
    """

    order: int = 2
    name: str = "magnitude"

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ScoreError(f"order must be 1 or 2 for magnitude, not {self.order!r}")

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        weights = matrix.effective(rows).detach()
        return (torch.square if self.order == 2 else torch.abs)(weights, out=empty_block(weights))

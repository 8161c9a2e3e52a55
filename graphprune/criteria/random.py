"""Random: a baseline that knows nothing."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..matrices import Matrix, empty_block
from .base import Criterion


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform noise; the same for the same seed and parameter name, also for what is left of one that was cut.

    Each row and each column of a matrix draws one number, so that units differ however large they are.
    """

    seed: int = 0
    name: str = "random"

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        generator = torch.Generator().manual_seed((zlib.crc32(matrix.name.encode()) + self.seed) % 2**63)
        draws = [
            torch.rand(size, generator=generator) if mask is None else torch.rand(len(mask), generator=generator)[mask]
            for size, mask in zip(matrix.shape, matrix.cut or [None] * len(matrix.shape), strict=True)
        ]
        if not draws:
            return None
        row = torch.zeros(())
        for draw in reversed(draws[1:]):
            row = draw.reshape(-1, *[1] * row.ndim) + row
        first = draws[0][rows].reshape(-1, *[1] * row.ndim)
        return torch.add(first, row, out=empty_block(row.expand(len(first), *row.shape)))

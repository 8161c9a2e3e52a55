"""Fisher: a unit is as important as the loss of each sample depends on its gate.

With a gate ``m`` on every value of a unit, the loss changes by about ``½·F`` when the unit goes, where the Fisher
information ``F`` is the mean over samples of ``(∂L/∂m)²`` at ``m = 1`` (Kwon et al., arXiv 2204.09656, equation 8). It
costs no gradient of a weight: a backward pass through frozen weights makes the gradients of activations in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..matrices import Matrix
from .base import Criterion, Need


@dataclass(frozen=True)
class Fisher(Criterion):
    """The Fisher information of a gate on each unit, relative to the sum over all units."""

    name: str = "fisher"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"gates"})

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        return None

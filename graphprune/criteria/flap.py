"""FLAP: a unit whose values hardly fluctuate is replaced by their mean at little cost (arXiv 2312.11983).

The fluctuation metric of an input feature j of a layer is its sample variance over tokens times the squared norm of the
weights that it meets, ``var(X_j)·‖W_:j‖₂²``. It is standardised within each layer, so that all layers can be ranked
together; a head has the mean over its features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..matrices import Matrix
from .base import Aggregation, Criterion, Need


@dataclass(frozen=True)
class Flap(Criterion):
    """The standardised fluctuation z of what a unit hands on.

    Scores are ``(1 + z / (1 + |z|)) / 2``, which lies between 0 and 1 and keeps the order over all layers.
    """

    name: str = "flap"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"activations"})

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(standardised=True, positions="mean", members="mean", dims="inputs", bounded=True)

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        if matrix.inputs is None:
            return None
        return matrix.effective(rows).float().square() * matrix.inputs.variance[rows]

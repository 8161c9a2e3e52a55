"""Taylor expansion of the loss in a weight that becomes zero, from dense gradients: LLM-Pruner (arXiv 2305.11627).

With the mean gradient ``g`` of the loss and the mean ``h`` of its square over batches, which stands for the diagonal of
the Hessian (its Fisher information)::

    first     W'·g
    second    W'²·h
    mixed     W'·g − ½·W'²·h

``level="element"`` takes the absolute value weight by weight, ``level="vector"`` of the sum over a row or a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..errors import ScoreError
from ..matrices import Matrix
from .base import Aggregation, Criterion, Need

Order = Literal["first", "second", "mixed"]
Level = Literal["element", "vector"]


@dataclass(frozen=True)
class Taylor(Criterion):
    """What the loss changes by when a weight goes. It takes as much memory again as the weights that are scored.

    Raises:
        ScoreError: there is no such order or level.
    """

    order: Order = "first"
    level: Level = "element"
    name: str = "taylor"

    def __post_init__(self) -> None:
        for option, choices in (("order", Order), ("level", Level)):
            if getattr(self, option) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise ScoreError(f"{option} must be one of {allowed} for taylor, not {getattr(self, option)!r}")

    @property
    def needs(self) -> frozenset[Need]:
        match self.order:
            case "first":
                return frozenset({"gradients"})
            case "second":
                return frozenset({"squared_gradients"})
            case "mixed":
                return frozenset({"gradients", "squared_gradients"})

    @property
    def aggregation(self) -> Aggregation:
        return Aggregation(weights="absolute sum" if self.level == "vector" else "sum")

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        if matrix.gradients is None:
            return None
        weight = matrix.effective(rows).float()
        match self.order:
            case "first":
                change = weight * matrix.gradients.mean_of(rows)
            case "second":
                change = weight.square() * matrix.gradients.square_of(rows)
            case "mixed":
                second = weight.square() * matrix.gradients.square_of(rows)
                change = weight * matrix.gradients.mean_of(rows) - second / 2
        return change if self.level == "vector" else change.abs()

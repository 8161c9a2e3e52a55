"""What a criterion is.

A criterion gives the importance of each single weight, for a run of rows of one parameter at a time. Scoring adds the
importance of the weights up to units of groups; only sums over rows and columns are ever kept.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..matrices import Matrix


class Criterion(Protocol):
    """The importance of weights.

    ``needs_gradients``: adapters must have gradients when :meth:`importance` is called.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_gradients(self) -> bool: ...

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        """The importance of the weights in some rows, in the shape of those rows; None if the parameter says nothing.

        Raises:
            ScoreError: what the criterion needs is missing.
        """
        ...

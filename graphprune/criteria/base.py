"""What a criterion is.

A criterion says what it needs to see, gives the importance of each single weight, for a run of rows of one parameter at
a time, and says how these become the score of a unit. Only sums over rows and columns are ever kept. A criterion that
needs ``"gates"`` gives the scores of units themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ..matrices import Matrix

Need = Literal["lora_gradients", "gradients", "squared_gradients", "activations", "gates"]
"""What a criterion may need beside the weights: the gradients of LoRA factors, dense gradients of the weights
themselves (their mean over batches, and that of their squares), what the weights are multiplied with, or the
derivatives of the loss in gates on the units (see :mod:`graphprune.gates`)."""


@dataclass(frozen=True)
class Aggregation:
    """How the importance of weights becomes the score of a unit, one step after the other.

    1. ``weights``: the weights at one position of a dim of a parameter (a row, a column) become one number.
    2. ``standardised``: the numbers of a dim get mean 0 and standard deviation 1.
    3. ``positions``: the positions of a dim that belong to a unit (the rows of a head) become one number.
    4. ``normalised``: the numbers of all units, for this dim of this parameter, are divided by their L2 norm.
    5. ``members``: the dims of parameters that lose positions with the unit become its score.
    6. ``bounded``: a score x becomes ``(1 + x / (1 + |x|)) / 2``, which is positive and keeps the order.

    With ``dims="inputs"`` only dims count over which products sum (the columns of ``o_proj``, and not the rows of
    ``v_proj``); for a group that has no such dim, all count.
    """

    weights: Literal["sum", "mean", "l2", "absolute sum"] = "sum"
    standardised: bool = False
    positions: Literal["sum", "mean"] = "sum"
    normalised: bool = False
    members: Literal["sum", "mean", "max", "product"] = "sum"
    bounded: bool = False
    dims: Literal["all", "inputs"] = "all"


class Criterion(Protocol):
    """The importance of weights. A class that derives from this one needs a ``name`` and :meth:`importance` only."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[Need]:
        """What must be there when :meth:`importance` is called."""
        return frozenset()

    @property
    def aggregation(self) -> Aggregation:
        """How the importance of weights becomes the score of a unit: by default it is added up."""
        return Aggregation()

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        """The importance of the weights in some rows, in the shape of those rows; None if the parameter says nothing.

        Raises:
            ScoreError: what the criterion needs is missing.
        """
        ...

    def of_units(self, gates: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The scores of the units of each group, from the mean squares of the derivatives of their gates.

        Only a criterion that needs ``"gates"`` is asked this, and it is not asked for :meth:`importance`. Both are
        ``[units]``, or ``[slots, units]`` for groups with slots.
        """
        return gates

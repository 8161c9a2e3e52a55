"""Scores of units: what criteria give and selection takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from .errors import ScoreError


@dataclass(frozen=True)
class Scores(Mapping[str, Tensor]):
    """The importance of each unit by group name: ``[units]``, or ``[slots, units]`` for groups with slots."""

    criterion: str
    by_group: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.by_group:
            raise ScoreError(
                f"the scores have nothing for {name}: score the model that is pruned, with all kinds that are cut"
            )
        return self.by_group[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_group)

    def __len__(self) -> int:
        return len(self.by_group)

    def moving_average(self, newer: Scores, decay: float) -> Scores:
        """``decay * self + (1 - decay) * newer``, the moving average of LoRAPrune (section 3.3)."""
        return Scores(self.criterion, {n: decay * v + (1 - decay) * newer[n] for n, v in self.by_group.items()})

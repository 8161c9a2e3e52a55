"""What is masked counts as little in scores as what is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.aggregate import importance_by_dim
from graphprune.criteria import Aggregation, Criterion, criterion_by_name
from graphprune.matrices import Matrix
from graphprune.passes.slice_parameters import slice_tensor, zero_masked

WEIGHT = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
MASKS = [torch.tensor([1, 0, 1, 1, 0, 1]).bool(), torch.tensor([1, 1, 0, 1, 0]).bool()]


@dataclass(frozen=True)
class Shifted(Criterion):
    """One for a weight of zero."""

    rule: Aggregation
    name: str = "shifted"

    @property
    def aggregation(self) -> Aggregation:
        return self.rule

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        return 1 + matrix.effective(rows).abs()


RULES: list[dict[str, Any]] = [
    *({"weights": each} for each in ("sum", "mean", "l2", "absolute sum")),
    {"standardised": True},
]


@pytest.mark.parametrize(
    "criterion", [criterion_by_name("random"), *(Shifted(Aggregation(**each)) for each in RULES)], ids=repr
)
@pytest.mark.parametrize("masks", [MASKS, [None, MASKS[1]], [MASKS[0], None]], ids=["both", "columns", "rows"])
def test_masked_and_cut_say_the_same(criterion: Criterion, masks: list[Tensor | None]) -> None:
    masked = importance_by_dim(criterion, Matrix("w", nn.Parameter(zero_masked(WEIGHT, masks))), (0, 1), masks)
    cut = importance_by_dim(criterion, Matrix("w", nn.Parameter(slice_tensor(WEIGHT, masks)), cut=masks), (0, 1))
    assert masked is not None
    assert cut is not None
    for dim, mask in enumerate(masks):
        whole, left = masked[dim], cut[dim]
        torch.testing.assert_close(whole if mask is None else whole[mask], left)
        assert mask is None or not whole[~mask].any()

"""A model that draws random numbers is verified with the same ones in each form, also where they are cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import VerificationError
from tests.lockstep import random_plan


class Between(nn.Module):
    """Something between two convolutions, whose channels are cut."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.up, self.down = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.function(self.up(x)).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.randn_like(x),
        lambda x: x + torch.rand_like(x),
        lambda x: x + torch.randint_like(x, 5),
        lambda x: x * torch.empty_like(x).bernoulli_(0.5),
        lambda x: x * torch.empty_like(x).normal_(),
        lambda x: x * torch.empty_like(x).uniform_(),
        lambda x: x * torch.empty_like(x).exponential_(),
        lambda x: x * torch.empty_like(x).cauchy_(),
        lambda x: x * torch.empty_like(x).geometric_(0.5),
        lambda x: x * torch.empty_like(x).log_normal_(),
        lambda x: x * torch.empty_like(x).random_(3),
        lambda x: F.dropout(x, 0.5),
        lambda x: F.dropout2d(x, 0.5),
        lambda x: x + torch.randn(len(x), 1, 6, 6, generator=torch.Generator().manual_seed(5)),
        lambda x: x[torch.randperm(len(x))] + torch.randint(0, 3, (len(x), 1, 1, 1)),
        lambda x: x * torch.bernoulli(torch.full((len(x), 1, 6, 6), 0.5)),
        lambda x: x + F.gumbel_softmax(torch.ones(len(x), 1, 6, 6), hard=True),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_numbers_that_are_drawn_are_the_same_in_each_form(function: Callable[[Tensor], Tensor], in_place: bool) -> None:
    traced = gp.trace(Between(function).eval(), torch.randn(2, 3, 8, 8))
    state = torch.random.get_rng_state()
    compact = gp.rewrite(traced, random_plan(traced, half=True), in_place=in_place)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert compact.module.up.out_channels == 8
    assert compact.report is not None
    assert compact.report.module_error is not None
    assert compact.report.module_error < 1e-6


def test_draws_that_depend_on_what_is_cut_are_refused() -> None:
    """Which numbers are drawn for the kept channels depends on how many there are."""
    model = Between(lambda x: x * torch.bernoulli(x.sigmoid()))
    traced = gp.trace(model.eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(VerificationError, match=r"first at aten\.bernoulli"):
        gp.rewrite(traced, random_plan(traced, half=True))


def test_a_model_that_goes_its_own_way_at_each_call_is_refused() -> None:
    calls = iter(range(1, 100))

    class Counting(Between):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * next(calls)

    traced = gp.trace(Counting(torch.sin).eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(VerificationError, match=r"the captured graph differs from the module itself .* at each call"):
        gp.rewrite(traced, random_plan(traced, half=True))

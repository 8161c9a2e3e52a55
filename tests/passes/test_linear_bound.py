"""Inference is linear in the graph: the steps of the solver are counted, and no seconds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.axes import Solver

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
STEPS = ("resolve", "unify", "split", "_mark", "_bind", "_align_factors", "_align_terms", "_cut")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Any:
        return x + self.down(self.up(x).relu())


class Branches(nn.Module):
    """Two branches, cut out of one projection, in heads, and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out, self.norm = nn.Linear(8, 12), nn.Linear(12, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Any:
        a, b = self.both(self.norm(x)).unflatten(-1, (2, 6)).transpose(1, 2).chunk(2, dim=-1)
        heads = torch.cat([a.relu(), b * a], dim=-1)
        return x + self.out(heads.transpose(1, 2).flatten(2))


class Chain(nn.Module):
    """One projection after the other: each width meets the next, and no residual holds them together."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x).view(2, 3, 2, 4).flatten(2).relu()


class Dense(nn.Module):
    """Each layer takes what all layers before it gave: the axes themselves get longer, up to a bound."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8 + 2 * index, 2) for index in range(layers))

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=-1)
        return x.sum(-1)


def steps(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many steps the solver makes for a module, and how many calls its graph has."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> Any:
        method = getattr(Solver, name)

        def counted_method(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return method(*args, **kwargs)

        return counted_method

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(Solver, name, counting(name))
        traced = gp.trace(module, X)
    assert all(counted[name] for name in ("resolve", "unify"))
    return counted.total(), len(traced.graph.graph.nodes)


@pytest.mark.parametrize("kind", [Residual, Branches, Chain])
def test_the_steps_are_linear_in_the_layers(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    short, middle, long = (
        steps(nn.Sequential(*(kind() for _ in range(layers))), monkeypatch) for layers in (75, 150, 300)
    )
    assert long[1] - middle[1] == 2 * (middle[1] - short[1])
    assert long[0] - middle[0] == 2 * (middle[0] - short[0])


def test_the_steps_of_axes_that_get_longer_are_bounded_by_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = steps(Dense(10), monkeypatch), steps(Dense(20), monkeypatch)
    assert long[0] <= 4.5 * short[0]  # a layer of 20 meets twice as many pieces as one of 10

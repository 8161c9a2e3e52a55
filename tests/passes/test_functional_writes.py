"""Writes in place: the graph computes what the module computes, and torch's second run is left out where it can be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional

import graphprune as gp
from graphprune.passes.functional_writes import is_mutating


class Written(nn.Module):
    """A layer, whose result is written into."""

    def __init__(self, write: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.outer = nn.Linear(8, 2)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.outer(self.write(self.inner(x)))
        return result


def chain(y: Tensor) -> Tensor:
    z = y * 2
    y.relu_()
    y.add_(z).mul_(0.5)
    return y.clamp_(max=1.0) + z


def returned(y: Tensor) -> Tensor:
    return functional.dropout(functional.hardtanh_(y), training=False)


def under_autocast(y: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return y.sigmoid_()


def at_places(y: Tensor) -> Tensor:
    rows = torch.arange(2)
    z = y.clone().index_add_(0, rows, y[rows]).masked_fill_(y < -1, 0.0)
    return z.scatter_add_(0, rows[:, None].expand(2, 8), y[:2])


def of_powers(y: Tensor) -> Tensor:
    """Their overloads have other names in place."""
    z = (y.abs() + 1).pow_(-0.5)
    return z.pow_(torch.full_like(y, 2.0)) * y


def through_a_view(y: Tensor) -> Tensor:
    left = y[:, :4]
    y.relu_()
    return torch.cat([left, y[:, 4:]], dim=1)


def into_a_view(y: Tensor) -> Tensor:
    y[:, :4].relu_()
    return y


def seen_through_dropout(y: Tensor) -> Tensor:
    same = functional.dropout(y, training=False)
    y.relu_()
    return same + 0


def seen_through_reshape(y: Tensor) -> Tensor:
    same = y.reshape(-1, 4, 2)
    y.relu_()
    return same.reshape(-1, 8) + y


def of_another_type(y: Tensor) -> Tensor:
    halves = (y * 8).half()
    halves.add_(torch.full_like(y, 0.0001220703125))
    return halves.float()


def turned(y: Tensor) -> Tensor:
    z = y + 1
    z.t_()
    z.relu_()
    return z.t()


SIMPLE = [chain, returned, under_autocast, at_places, of_powers]
SEEN = [through_a_view, into_a_view, seen_through_dropout, seen_through_reshape, of_another_type, turned]


@pytest.mark.parametrize("write", [*SIMPLE, *SEEN])
def test_graph_computes_what_the_module_computes(write: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    module = Written(write).eval()
    x = torch.randn(3, 6)
    expected = module(x)
    traced = gp.trace(module, (x,))
    assert not any(map(is_mutating, traced.graph.graph.nodes))
    assert torch.equal(traced.graph(x), expected)
    gp.prune(module, (x,), ratio=0.3, kinds=["channels"]) if write in SIMPLE else None


@pytest.mark.parametrize("write", SIMPLE)
def test_values_that_nothing_else_sees_take_no_second_run(
    write: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ExportedProgram, "run_decompositions")
    assert gp.trace(Written(write).eval(), (torch.randn(3, 6),)).groups.prunable


def test_blocks_that_write_into_what_they_are_given() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + functional.relu(self.inner(x.relu_()))

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), *(Block() for _ in range(4)), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 8)
    traced = gp.trace(module, (x,))
    assert torch.allclose(traced.graph(x), module(x))
    gp.prune(module, (x,), ratio=0.3)

"""The tree of ``graphprune inspect``: what is folded, and what its rows say."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.report.description import macs_per_unit
from graphprune.report.folding import numbers_text, parts_of
from graphprune.report.tree import groups_tree


class Blocks(nn.Module):
    """Blocks of the given widths, each of which adds to the same five channels."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, w), nn.ReLU(), nn.Linear(w, 5)) for w in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def rows(widths: Sequence[int], *, every: bool = False) -> list[tuple[str, ...]]:
    traced = gp.trace(Blocks(widths), torch.ones(2, 5))
    return list(groups_tree(traced, traced.groups, every=every).rows)


def test_blocks_that_are_alike_are_one_row() -> None:
    assert [row[0] for row in rows([8] * 4)] == ["blocks:channels", "blocks 0–3 ×4:channels"]
    every = rows([8] * 2, every=True)
    assert [row[0] for row in every] == ["blocks:channels", "blocks 0:channels", "blocks 1:channels"]


def test_blocks_that_differ_have_rows_of_their_own_wherever_they_stand() -> None:
    assert [row[:2] for row in rows([8, 6, 8, 6, 8])] == [
        ("blocks:channels", "5"),
        ("blocks 0, 2, 4 ×3:channels", "8"),
        ("blocks 1, 3 ×2:channels", "6"),
    ]


def test_a_row_says_what_a_unit_costs_and_why_it_stays() -> None:
    traced = gp.trace(Blocks([8, 8]), torch.ones(2, 5))
    table = groups_tree(traced, traced.groups)
    residual, inner = table.rows
    # One hidden channel of a block: a row with its bias and a column, for each of two inputs.
    assert inner == ("blocks 0–1 ×2:channels", "8", "11", "20", "3", "prunable")
    assert residual[5].startswith("frozen: it is a dim of an input at x")
    assert table.styles == ("dim", "green")
    assert table.notes == ("MACs are those of a forward pass over x 2×5",)


def test_no_groups_no_rows() -> None:
    traced = gp.trace(Blocks([8]), torch.ones(2, 5))
    table = groups_tree(traced, [])
    assert (table.rows, table.notes) == ((), ())


def test_paths_of_layers_lead_to_the_first_that_is_alike() -> None:
    traced = gp.trace(Blocks([8, 6, 8]), torch.ones(2, 5))
    root = parts_of(traced, traced.groups, macs_per_unit(traced))
    assert [root.first_alike(f"blocks.{n}.2.weight") for n in range(3)] == [
        "blocks.0.2.weight",
        "blocks.1.2.weight",
        "blocks.0.2.weight",
    ]
    assert root.first_alike("blocks.7.weight") == "blocks.7.weight"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "3"),
        ([0, 1, 2], "0–2"),
        ([5, 0, 1, 3], "0–1, 3, 5"),
        ([0, 2, 4, 6, 8, 9], "0, 2, …, 8–9"),
    ],
)
def test_runs_of_numbers(numbers: list[int], text: str) -> None:
    assert numbers_text(numbers) == text

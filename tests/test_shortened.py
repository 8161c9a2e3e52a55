"""A model with two of its blocks that are alike says of the others what they would say themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune import expressible
from graphprune.expressible import module_cuts
from graphprune.groups import PruningGroup
from graphprune.masks import Keep, Kept
from graphprune.shortened import shorten
from graphprune.traced import TracedModel
from tests.models import tiny_llama, tokens


@pytest.fixture(scope="module")
def llama() -> TracedModel:
    """Five blocks, with one set of rotary frequencies for all."""
    return gp.trace(tiny_llama(num_hidden_layers=5), kwargs={"input_ids": tokens()})


def one_less(group: PruningGroup) -> Keep:
    return {group.atom.id: Kept(torch.arange(group.units) < group.units - 1)}


def test_the_first_and_the_last_block_are_left(llama: TracedModel) -> None:
    short = shorten(llama)
    assert short is not None
    assert {name.split(".")[2] for name in short.traced.table if ".layers." in name} == {"0", "1"}
    assert short.traced.program.tensor("model.layers.1.mlp.up_proj.weight").data_ptr() == (
        llama.program.tensor("model.layers.4.mlp.up_proj.weight").data_ptr()
    )


def test_a_cut_is_shown_where_some_of_each_family_is_left(llama: TracedModel) -> None:
    short = shorten(llama)
    assert short is not None
    for group in llama.groups.prunable:
        left = any(f"layers.{index}." in group.name for index in (0, 4)) or "layers:" in group.name
        assert short.shows(one_less(group)) == left
        if left:
            assert [kept.count for kept in short.keep(one_less(group)).values()] == [group.units - 1]
    first, second = (one_less(llama.groups[f"model.layers.{index}.mlp:channels"]) for index in (0, 1))
    assert short.shows(first | second)
    assert len(short.keep(first | second)) == 1


def test_its_answers_are_those_of_the_whole_model(llama: TracedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    found = module_cuts(llama, llama.groups.prunable)
    monkeypatch.setattr(expressible, "shorten", lambda traced: None)
    again = gp.trace(llama.module, kwargs=llama.kwargs)
    whole = module_cuts(again, again.groups.prunable)
    assert found.counts == whole.counts
    names = [[[group.name for group in tie] for tie in cuts.ties] for cuts in (found, whole)]
    assert names[0] == names[1]
    assert names[0]


class Counting(nn.Module):
    """Blocks that are called by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for at in range(5):
            x = x + self.layers[at](x)
        return x


def test_a_model_that_needs_all_its_blocks_stays_whole() -> None:
    traced = gp.trace(Counting().eval(), torch.randn(2, 6))
    assert shorten(traced) is None
    counts = module_cuts(traced, traced.groups.prunable).counts
    assert all(len(counts[group.family]) == 7 for group in traced.groups.prunable)


def test_a_model_without_blocks_that_are_alike_stays_whole() -> None:
    assert shorten(gp.trace(tiny_llama(), kwargs={"input_ids": tokens()})) is None

"""What a module or a config can only express together: one number for several sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.expressible import config_cuts, module_cuts
from graphprune.traced import TracedModel
from tests.models import tiny
from tests.zoo.language import LANGUAGE
from tests.zoo.vision import VISION

from .test_selection import random_scores

Entry = Callable[[], tuple[nn.Module, dict[str, Tensor]]]

MODELS: dict[str, Entry] = {
    "llama": lambda: tiny("llama"),
    "bert": lambda: tiny("bert"),
    "gpt2": lambda: tiny("gpt2"),
    "t5": lambda: tiny("t5"),
    "vit": VISION["vit"],
}


def traced_model(entry: Entry) -> TracedModel:
    model, inputs = entry()
    return gp.trace(model, (), inputs)


def kept_shares(traced: TracedModel, plan: gp.PruningPlan) -> dict[str, float]:
    whole = {group.name: 1.0 for group in traced.groups}
    return whole | {name: group.count / group.units for name, group in plan.groups.items()}


@pytest.mark.parametrize("name", MODELS)
def test_head_dims_of_keys_and_of_values_go_together(name: str) -> None:
    traced = traced_model(MODELS[name])
    ties = module_cuts(traced, traced.groups.cuttable).ties
    assert {group.name for tie in ties for group in tie} == {
        group.name for group in traced.groups.prunable if group.kind == "head_dims"
    }
    plan = gp.select(traced, random_scores(traced), ratio=0.4, of="prunable", form="module", kinds=["head_dims"])
    shares = kept_shares(traced, plan)
    for tie in ties:
        assert len({shares[group.name] for group in tie}) == 1
        assert shares[tie[0].name] < 1
    compact = gp.rewrite(traced, plan)
    assert compact.module_error is None
    assert compact.ratio > 0


def test_rotary_halves_go_with_twice_as_many_dims_of_values() -> None:
    """All layers share the frequencies, so all layers are cut alike; the others are cut layer by layer."""
    traced = traced_model(MODELS["llama"])
    (tie,) = module_cuts(traced, traced.groups.cuttable).ties
    assert [group.units for group in tie] == [4, 8, 8]
    bert = traced_model(MODELS["bert"])
    assert [len(tie) for tie in module_cuts(bert, bert.groups.cuttable).ties] == [2, 2]


def test_layers_that_can_be_cut_alone_keep_different_numbers() -> None:
    traced = traced_model(MODELS["bert"])
    scores = random_scores(traced)
    first, second = module_cuts(traced, traced.groups.cuttable).ties
    for group in second:
        scores.by_group[group.name] = scores[group.name] * 1000
    plan = gp.select(traced, scores, ratio=0.2, of="prunable", form="module", kinds=["head_dims"], normalize="kind")
    assert {group.name for group in first} == set(plan.groups)
    assert gp.rewrite(traced, plan).module_error is None


def test_one_number_of_a_config_that_all_layers_read() -> None:
    """Phi-3 splits its projection of queries, keys and values at a number of heads that is the same in all layers."""
    model, inputs = LANGUAGE["phi3"]()
    traced = gp.trace(model.eval(), (), inputs)
    plan = gp.select(traced, random_scores(traced), ratio=0.3, of="prunable", form="module", kinds=["heads", "repeats"])
    shares = kept_shares(traced, plan)
    for kind in ("heads", "repeats"):
        tie = tuple(group for group in traced.groups.prunable if group.kind == kind)
        assert tie in module_cuts(traced, traced.groups.cuttable).ties
        assert len({shares[group.name] for group in tie}) == 1
    assert plan.groups
    assert gp.rewrite(traced, plan).module_error is None


def test_what_is_split_in_equal_parts_is_cut_alike() -> None:
    """``chunk`` forgives one position less in the last part, and no more."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.inner, self.down = nn.Linear(5, 16), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.up(x).chunk(2, -1)
            return self.down(left + self.inner(right).relu())  # type: ignore[no-any-return]

    traced = gp.trace(Split(), torch.randn(4, 5))
    cuts = module_cuts(traced, traced.groups.prunable)
    assert [[group.units for group in tie] for tie in cuts.ties] == [[8, 8]]
    for ratio in (0.1, 0.3, 0.6):
        plan = gp.select(traced, random_scores(traced), ratio=ratio, of="prunable", form="module")
        assert gp.rewrite(traced, plan).module_form is not None


def test_what_is_tied_to_something_that_may_not_be_cut_stays_whole() -> None:
    traced = traced_model(MODELS["bert"])
    (_, value), _ = module_cuts(traced, traced.groups.cuttable).ties
    plan = gp.select(
        traced,
        random_scores(traced),
        ratio=0.2,
        of="prunable",
        form="module",
        kinds=["head_dims", "channels"],
        ignore="bert.encoder.layer.0.attention.output",
    )
    assert "bert.encoder.layer.0.attention.output.dense.weight" in {member.parameter for member in value.members}
    assert not any(name.startswith("bert.encoder.layer.0.attention") for name in plan.groups)
    assert any(name.startswith("bert.encoder.layer.1.attention") for name in plan.groups)


def test_joint_cuts_give_nested_plans() -> None:
    traced = traced_model(MODELS["llama"])
    options: dict[str, Any] = {"of": "prunable", "form": "module"}
    first = gp.select(traced, random_scores(traced, 1), ratio=0.3, **options)
    second = gp.select(traced, random_scores(traced, 2), ratio=0.6, within=first, **options)
    for name, group in first.groups.items():
        assert not (second.groups[name].mask() & ~group.mask()).any()
    assert {"model.layers:head_dims", "model.layers.0.self_attn:head_dims"} <= set(second.groups)
    assert gp.rewrite(traced, second).module_error is None


def test_a_config_with_one_number_for_the_dims_of_all_heads() -> None:
    """``d_kv`` of T5 is the size of the heads of keys and of values, in the encoder and in the decoder."""
    traced = traced_model(MODELS["t5"])
    plan = gp.select(traced, random_scores(traced), ratio=0.3, of="prunable", homogeneous=True, kinds=["head_dims"])
    compact: Any = gp.rewrite(traced, plan).module
    counts = {group.count for group in plan.groups.values()}
    assert len(plan.groups) == len([group for group in traced.groups if group.kind == "head_dims"])
    assert counts == {compact.config.d_kv}
    assert compact.config.d_kv < 8


def test_a_config_with_one_number_for_two_mlps() -> None:
    traced = traced_model(VISION["siglip"])
    families = {tuple(group.name for group in tie) for tie in config_cuts(traced, traced.groups.cuttable).ties}
    assert (
        "vision_model.encoder.layers.0.mlp:channels",
        "vision_model.encoder.layers.1.mlp:channels",
        "vision_model.head.mlp:channels",
    ) in families


class Scaled(nn.Module):
    """Attention with one ``head_dim``, which its scores are divided by the root of; one head."""

    def __init__(self, *, at_each_run: bool) -> None:
        super().__init__()
        self.head_dim, self.at_each_run, self.scale = 8, at_each_run, 8**-0.5
        self.qkv, self.out = nn.ModuleList(nn.Linear(6, 16) for _ in range(3)), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).view(*x.shape[:2], 2, self.head_dim).transpose(1, 2) for each in self.qkv)
        scale = self.head_dim**-0.5 if self.at_each_run else self.scale
        weights = torch.softmax(q @ k.transpose(-1, -2) * scale, -1)
        found: Tensor = self.out((weights @ v).transpose(1, 2).flatten(2))
        return found


@pytest.mark.parametrize("at_each_run", [False, True])
def test_a_joint_cut_that_computes_something_else_is_not_offered(at_each_run: bool) -> None:
    torch.manual_seed(0)
    traced = gp.trace(Scaled(at_each_run=at_each_run).eval(), torch.randn(2, 5, 6))
    assert bool(module_cuts(traced, traced.groups.cuttable).ties) is not at_each_run

"""Where units compete, what their scores are relative to, and budgets for each kind and of measured time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.errors import BudgetError, FileFormatError, PlanError
from graphprune.kinds import asked_as
from graphprune.ladders import Normalize
from graphprune.latency import LatencyTable
from graphprune.layers import home_of, layer_of, layers_of
from graphprune.scores import Scores
from graphprune.selection import removed_share
from graphprune.traced import TracedModel
from tests.models import tiny, tiny_llama, tokens

from .test_selection import random_scores, traced_llama


@pytest.fixture(scope="module")
def llama() -> TracedModel:
    """Four layers, with enough heads for shares of them."""
    return traced_llama(kv=4, rep=2, num_hidden_layers=4)


def uneven(traced: TracedModel) -> Scores:
    """Scores of which each layer has a hundred times those of the one before, and channels a million times more."""
    by_group = {}
    for name, score in random_scores(traced, slots=False).items():
        found = re.search(r"layers\.(\d)", name)
        factor = 100.0 ** int(found[1]) if found else 1.0
        by_group[name] = score * factor * (1e6 if traced.groups[name].kind == "channels" else 1.0)
    return Scores("uneven", by_group)


def shares(traced: TracedModel, plan: gp.PruningPlan) -> dict[str, float]:
    """The share of the units of each prunable group that goes."""
    cut = {name: 1 - each.count / each.units for name, each in plan.groups.items()}
    return {group.name: cut.get(group.name, 0.0) for group in traced.groups.prunable}


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "model.layers.3"),
        ("base_model.model.h.11.mlp.c_fc.lora_A.default.weight", "base_model.model.h.11"),
        ("encoder.stages.1.blocks.0.conv.weight", "encoder.stages.1"),
        ("blocks.2.1.conv.weight", "blocks.2.1"),
        ("layer2.0.conv1.weight", "layer2.0"),
        ("0.weight", "0"),
        ("embed_tokens.weight", ""),
        ("experts.0", ""),
    ],
)
def test_the_layer_of_a_parameter(parameter: str, layer: str) -> None:
    assert layer_of(parameter) == layer


def test_the_layers_of_an_encoder_and_a_decoder_follow_each_other() -> None:
    model, inputs = tiny("t5")
    assert layers_of(gp.trace(model, (), inputs)) == (
        "encoder.block.0",
        "encoder.block.1",
        "decoder.block.0",
        "decoder.block.1",
    )


def test_every_group_gives_the_same_share(llama: TracedModel) -> None:
    plan = gp.select(llama, uneven(llama), ratio=0.3, scope="group")
    found = shares(llama, plan)
    for group in llama.groups.prunable:
        assert abs(found[group.name] - min(found.values())) <= 1 / group.units + 1 / 2
    # groups of the same size differ by one unit at most
    for family in {group.family for group in llama.groups.prunable}:
        alike = [
            plan.groups[g.name].count if g.name in plan.groups else g.units for g in llama.groups if g.family == family
        ]
        assert max(alike) - min(alike) <= 1
    assert abs(removed_share(llama, plan) - 0.3) < 0.01


def test_every_layer_gives_the_same_share_from_the_groups_that_matter_least(llama: TracedModel) -> None:
    options: dict[str, Any] = {"ratio": 0.2, "normalize": "kind", "kinds": ["channels", "head_dims"]}
    plan = gp.select(llama, uneven(llama), scope="layer", **options)
    gone: dict[str, float] = {}
    whole: dict[str, float] = {}
    fine = [group for group in llama.groups.prunable if group.kind in options["kinds"] and home_of(group)]
    for group in fine:
        layer = home_of(group)
        whole[layer] = whole.get(layer, 0) + group.units * group.params_per_unit
        gone[layer] = gone.get(layer, 0) + shares(llama, plan)[group.name] * group.units * group.params_per_unit
    assert len(whole) == 4
    found = [gone[layer] / whole[layer] for layer in whole]
    step = max(group.params_per_unit / whole[home_of(group)] for group in fine)
    assert max(found) - min(found) <= 2 * step
    assert abs(removed_share(llama, plan) - 0.2) < 0.01
    # without the scope the last layer, whose scores are the highest, stays whole
    free = gp.select(llama, uneven(llama), **{**options, "ratio": 0.1})
    assert not any("layers.3" in name for name in free.groups)
    assert any("layers.3" in name for name in plan.groups)


@pytest.mark.parametrize("scope", ["global", "layer", "group"])
def test_scopes_give_nested_plans(llama: TracedModel, scope: Any) -> None:
    first = gp.select(llama, random_scores(llama, 1), ratio=0.15, scope=scope)
    second = gp.select(llama, random_scores(llama, 2), ratio=0.3, scope=scope, within=first)
    for name, group in first.groups.items():
        assert not (second.groups[name].mask() & ~group.mask()).any()
    assert abs(removed_share(llama, second) - 0.3) < 0.01


def test_layers_that_are_skipped_stay_whole(llama: TracedModel) -> None:
    plan = gp.select(llama, random_scores(llama), ratio=0.2, skip_layers=(0, -1))
    assert {layer_of(f"{name}.") for name in plan.groups} == {"model.layers.1", "model.layers.2"}
    assert plan.about["skip_layers"] == [0, -1]
    with pytest.raises(PlanError) as caught:
        gp.select(llama, random_scores(llama), ratio=0.2, skip_layers=(4,))
    assert str(caught.value) == (
        "skip_layers names layer 4, but the model has 4 layers (model.layers.0 to model.layers.3)"
    )
    with pytest.raises(BudgetError, match="nothing outside the layers that are skipped can be cut in this way"):
        gp.select(llama, random_scores(llama), ratio=0.2, skip_layers=(0, 1, 2, 3))


def test_a_config_has_one_number_for_layers_that_are_skipped_too(llama: TracedModel) -> None:
    with pytest.raises(BudgetError, match="nothing outside the layers that are skipped can be cut in this way"):
        gp.select(llama, random_scores(llama), ratio=0.2, skip_layers=(0,), homogeneous=True)


def cut_kinds(traced: TracedModel, normalize: Normalize | None) -> set[str]:
    plan = gp.select(traced, uneven(traced), ratio=0.1, normalize=normalize)
    return {traced.groups[name].kind for name in plan.groups}


def test_scores_are_relative_to_what_is_asked_for(llama: TracedModel) -> None:
    layers = {
        n: {layer_of(f"{name}.")[-1:] for name in gp.select(llama, uneven(llama), ratio=0.1, normalize=n).groups}
        for n in ("group", "kind", None)
    }
    assert layers["group"] == {"0", "1", "2", "3"}, "relative to their group, all layers look alike"
    assert "3" not in layers["kind"], "relative to their kind, the layers with low scores go first"
    assert "channels" in cut_kinds(llama, "kind"), "relative to their kind, channels look like the other kinds"
    assert "channels" not in cut_kinds(llama, None), "as they are, channels have by far the highest scores"


@pytest.mark.parametrize("normalize", ["group", "group_l2", "kind", "kind_l2"])
def test_a_common_factor_of_all_scores_changes_nothing(llama: TracedModel, normalize: Any) -> None:
    scores = random_scores(llama)
    larger = Scores("random", {name: 1024 * value for name, value in scores.items()})
    assert (
        gp.select(llama, scores, ratio=0.2, normalize=normalize).groups
        == gp.select(llama, larger, ratio=0.2, normalize=normalize).groups
    )


def test_root_mean_squares_weigh_groups_with_outliers() -> None:
    """Two groups of the same size and mean: relative to the root mean square, the one with an outlier goes first."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    traced = gp.trace(model, torch.randn(2, 4))
    even, outlier = torch.ones(16), torch.cat([torch.full((15,), 0.9), torch.tensor([2.5])])
    first, second = (group.name for group in traced.groups.prunable)
    scores = Scores("given", {first: even * 0.9, second: outlier * 0.95})
    assert set(gp.select(traced, scores, ratio=0.1, normalize="group_l2").groups) == {second}
    assert set(gp.select(traced, scores, ratio=0.1, normalize=None).groups) == {second}


@pytest.mark.parametrize(("name", "value"), [("scope", "row"), ("normalize", "mean")])
def test_settings_that_are_not_known(llama: TracedModel, name: str, value: str) -> None:
    with pytest.raises(PlanError, match=f"{name} must be one of [a-z_0-9, ]+, not '{value}'"):
        gp.select(llama, random_scores(llama), ratio=0.2, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("of", ["parameters", "base", "prunable", "macs"])
def test_a_ratio_for_each_kind(llama: TracedModel, of: Any) -> None:
    plan = gp.select(llama, random_scores(llama), ratio={"heads": 0.25, "channels": 0.4}, of=of)
    kinds = {llama.groups[name].kind for name in plan.groups}
    assert kinds == {"heads", "channels"}
    units = {kind: sum(g.units for g in llama.groups.prunable if asked_as(g) == kind) for kind in kinds}
    gone = dict.fromkeys(kinds, 0)
    for name, group in plan.groups.items():
        gone[llama.groups[name].kind] += group.units - group.count
    # units of a kind hold the same in every layer, so the share of what they hold is their share
    assert gone["heads"] / units["heads"] == 0.25
    assert gone["channels"] / units["channels"] == pytest.approx(0.4, abs=0.01)
    assert plan.about["ratio"] == {"heads": 0.25, "channels": 0.4}


def test_ratios_of_kinds_that_can_not_be(llama: TracedModel) -> None:
    scores = random_scores(llama)
    with pytest.raises(BudgetError, match=re.escape("the ratio must lie between 0 and 1, not 1.5: 0.5 removes half")):
        gp.select(llama, scores, ratio={"heads": 1.5})
    with pytest.raises(PlanError, match="no group of this model is of kind 'experts'"):
        gp.select(llama, scores, ratio={"experts": 0.5})
    with pytest.raises(PlanError, match="ratio names the kinds that are cut already: leave kinds out"):
        gp.select(llama, scores, ratio={"heads": 0.5}, kinds=["heads"])
    with pytest.raises(BudgetError, match=r"no heads of this model can be cut in this way: take them out of ratio"):
        gp.select(llama, scores, ratio={"heads": 0.5, "channels": 0.5}, only="model.layers.*.mlp")


def latency(traced: TracedModel) -> LatencyTable:
    """A table in which a family saves its share of the time, and channels nothing until half of them are gone."""
    seconds: dict[str, dict[int, float]] = {}
    for group in traced.groups.prunable:
        half = group.units // 2
        at_half, at_one = (1.0, 0.6) if group.kind == "channels" else (0.9, 0.8)
        seconds[group.family] = {half: at_half, 1: at_one}
    return LatencyTable(1.0, seconds)


def test_a_budget_of_measured_time(llama: TracedModel) -> None:
    table = latency(llama)
    plan = gp.select(llama, random_scores(llama), ratio=0.2, of=table)
    assert plan.about["of"] == "latency"
    cost = table.cost(llama)
    counts = {llama.groups[name].atom.id: group.count for name, group in plan.groups.items()}
    assert cost({}) == 1_000_000_000
    assert cost(counts) == pytest.approx(0.8e9, abs=0.03e9)
    assert removed_share(llama, plan, of=table) == pytest.approx(1 - cost(counts) / 1e9)


def test_time_between_sizes_that_were_measured(llama: TracedModel) -> None:
    group = next(group for group in llama.groups.prunable if group.kind == "channels")
    members = sum(each.family == group.family for each in llama.groups)
    cost = LatencyTable(1.0, {group.family: {60: 0.9, 40: 0.95, 20: 0.5}}).cost(llama)
    saved = {kept: (1e9 - cost({group.atom.id: kept})) * members / 1e9 for kept in (80, 70, 60, 50, 40, 30, 20, 5)}
    # 40 units took longer than 60: fewer never save less, and nothing is known of fewer than 20
    assert saved == pytest.approx({80: 0, 70: 0.05, 60: 0.1, 50: 0.1, 40: 0.1, 30: 0.3, 20: 0.5, 5: 0.5}, abs=1e-6)


def test_measured_time_falls_with_the_units() -> None:
    width = 1500
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64))
    traced = gp.trace(model, torch.randn(256, 64))
    table = gp.measure_latency(traced, shares=[0.1], repeats=3)
    assert {len(row) for row in table.seconds.values()} == {1}
    assert all(seconds < table.whole for row in table.seconds.values() for seconds in row.values())
    plan = gp.select(traced, gp.score(traced), ratio=0.3, of=table)
    assert gp.rewrite(traced, plan).ratio > 0.1


def test_a_table_is_read_back(llama: TracedModel, tmp_path: Path) -> None:
    table = latency(llama)
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(FileFormatError, match="is not a latency table: 'seconds'"):
        LatencyTable.load(tmp_path / "other.json")


def test_a_table_of_another_model(llama: TracedModel) -> None:
    traced = gp.trace(tiny_llama(device="meta"), kwargs={"input_ids": tokens().to("meta")})
    with pytest.raises(PlanError) as caught:
        gp.select(traced, random_scores(traced), ratio=0.2, of=LatencyTable(1.0, {"other": {1: 0.5}}))
    assert str(caught.value) == (
        "the latency table is for another model: measure this one with gp.measure_latency(traced)"
    )


@pytest.mark.parametrize("of", ["parameters", "base", "prunable", "macs"])
@pytest.mark.parametrize("scope", ["global", "layer", "group"])
def test_rows_and_columns_count_once(llama: TracedModel, of: Any, scope: Any) -> None:
    """What a plan removes, in any unit, is what the model that is cut lacks."""
    plan = gp.select(llama, random_scores(llama, slots=False), ratio=0.35, of=of, scope=scope)
    assert removed_share(llama, plan, of=of) == pytest.approx(0.35, abs=0.005)
    if of == "parameters":
        compact = gp.rewrite(llama, plan, module_form=False)
        assert compact.ratio == pytest.approx(removed_share(llama, plan), abs=1e-12)

"""Constraints: what is cut, and what an error says of what can't be."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.errors import BudgetError, GraphPruneError, PlanError
from graphprune.traced import TracedModel
from tests.models import tiny_llama, tokens

from .test_selection import random_scores

MLP = "model.layers.{}.mlp:channels"


@pytest.fixture(scope="module")
def llama() -> TracedModel:
    return gp.trace(tiny_llama(tied=False), kwargs={"input_ids": tokens()})


@pytest.fixture(scope="module")
def smollm() -> TracedModel:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 8, "num_hidden_layers": 3}
    model = tiny_llama(device="meta", kv=4, rep=2, **sizes)
    return gp.trace(model, kwargs={"input_ids": tokens().to("meta")})


def plan_of(traced: TracedModel, ratio: float = 0.1, seed: int = 0, **options: Any) -> gp.PruningPlan:
    return gp.select(traced, random_scores(traced, seed), ratio=ratio, **options)


def refusal(traced: TracedModel, kind: type[GraphPruneError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        plan_of(traced, **options)
    return re.sub(r" \(\S+\.py:\d+\)", "", str(caught.value))


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"only": "*.mlp"}, (0, 1)),
        ({"only": ["model.layers.0.mlp"]}, (0,)),
        ({"only": "model.layers.1", "ignore": "*.self_attn", "ratio": 0.15}, (1,)),
        ({"only": "*.up_proj", "ignore": "x"}, None),
        ({"ignore": ["*self_attn", "*.0.mlp.gate_proj"]}, (1,)),
        ({"constraints": gp.Constraints(ignore="*.self_attn"), "ratio": 0.2}, (0, 1)),
        ({"constraints": gp.Constraints(ignore="*.mlp"), "ignore": "*.self_attn"}, (0, 1)),
    ],
    ids=str,
)
def test_globs_say_where(llama: TracedModel, options: dict[str, Any], layers: tuple[int, ...] | None) -> None:
    if layers is None:
        assert (
            refusal(llama, PlanError, **options) == "ignore='x' matches no module with parameters that the graph uses"
        )
        return
    plan = plan_of(llama, **options)
    assert plan.groups.keys() <= {MLP.format(layer) for layer in layers}
    assert gp.rewrite(llama, plan).ratio > 0.05


def test_a_group_with_members_outside_stays_whole(llama: TracedModel) -> None:
    assert refusal(llama, BudgetError, only="*.up_proj") == (
        "only='*.up_proj' leaves nothing to be cut: model:channels (mean takes a statistic over it at "
        "model.layers.0.input_layernorm); model.layers.0.mlp:channels (it has model.layers.0.mlp.gate_proj outside); "
        "model.layers.1.mlp:channels (it has model.layers.1.mlp.gate_proj outside)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "*.mpl"}, "only='*.mpl' matches no module with parameters that the graph uses"),
        (
            {"only": ["*.mlp", "lm_head"]},
            "only='lm_head' leaves nothing to be cut: model:channels (mean takes a statistic over it at "
            "model.layers.0.input_layernorm); lm_head.weight:channels (it is a dim of an output at lm_head)",
        ),
        (
            {"only": "*.mlp", "ignore": "*.down_proj"},
            "only='*.mlp' leaves nothing to be cut: model:channels (mean takes a statistic over it at "
            "model.layers.0.input_layernorm); model.layers.0.mlp:channels (model.layers.0.mlp.down_proj is ignored); "
            "model.layers.1.mlp:channels (model.layers.1.mlp.down_proj is ignored)",
        ),
    ],
    ids=str,
)
def test_globs_that_leave_nothing(llama: TracedModel, options: dict[str, Any], message: str) -> None:
    assert refusal(llama, GraphPruneError, **options) == message


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"kinds": ["channels", "head_dims"]}, "kinds=['head_dims']"),
        ({"only": ["*.mlp", "*.v_proj", "*.o_proj"], "kinds": ["channels", "head_dims"]}, "kinds=['head_dims']"),
        ({"only": ["*.self_attn", "model.layers.0.mlp"]}, "only='model.layers.0.mlp'"),
    ],
    ids=str,
)
def test_what_was_asked_for_and_the_config_can_not_say_is_named(
    smollm: TracedModel, options: dict[str, Any], asked: str
) -> None:
    message = refusal(smollm, BudgetError, homogeneous=True, **options)
    assert message.startswith(f"{asked} asks for model.layers")
    assert message.endswith(
        ", for which the config has no smaller size: select with homogeneous=False, or leave it out"
    )


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (
            {"fixed": {"lm_head.weight:channels": 9}},
            "fixed names lm_head.weight:channels, which can't be cut: it is a dim of an output at lm_head",
        ),
        ({"fixed": {"mlp": 9}}, "fixed names a group 'mlp' that the model does not have"),
        ({"fixed": {MLP.format(0): 0}}, f"fixed keeps 0 units of {MLP.format(0)}, which has 80"),
        ({"fixed": {MLP.format(0): 81}}, f"fixed keeps 81 units of {MLP.format(0)}, which has 80"),
        (
            {"fixed": {MLP.format(0): (3, 2)}},
            f"the kept units of {MLP.format(0)} must be some of 0-79, each once and in order",
        ),
        (
            {"fixed": {MLP.format(0): 1, MLP.format(1): 1}},
            "the groups that are fixed remove 50.7%, more than the 10.0% that are asked for: raise the ratio, or fix "
            "more units",
        ),
        (
            {"tied": [[MLP.format(0), "lm_head.weight:channels"]]},
            "tied names lm_head.weight:channels, which can't be cut: it is a dim of an output at lm_head",
        ),
        (
            {"tied": [[MLP.format(0), "model.layers.0.self_attn:heads"]]},
            f"{MLP.format(0)} and model.layers.0.self_attn:heads can't be tied: they have 80 and 2 units",
        ),
        (
            {"tied": [[MLP.format(0), MLP.format(1)]], "ignore": "*.layers.1.mlp"},
            f"{MLP.format(1)} is tied, but may not be cut in this way: check kinds, only and ignore",
        ),
        (
            {"tied": [[MLP.format(0), MLP.format(1)]], "fixed": {MLP.format(1): 70}},
            f"{MLP.format(1)} is tied and fixed: fix all groups of its tie, or none",
        ),
    ],
    ids=str,
)
def test_what_is_named_must_fit(llama: TracedModel, constraints: dict[str, Any], message: str) -> None:
    assert refusal(llama, GraphPruneError, constraints=gp.Constraints(**constraints)) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiple_of": 0}, "multiple_of must be at least 1, not 0"),
        ({"min_units": {"heads": -1}}, "min_units must be at least 1, not -1"),
        (
            {"multiple_of": {"head": 2}},
            "multiple_of names a kind 'head'; there are channels, heads, repeats, head_dims, experts, lora_rank",
        ),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        gp.Constraints(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("given", [60, tuple(range(5, 65))], ids=["a number", "units"])
def test_fixed_groups_count_for_the_budget(llama: TracedModel, given: Any) -> None:
    chosen = gp.Constraints(fixed={MLP.format(0): given, "model.layers.0.self_attn:heads": 2}, ignore="*.layers.0")
    plan = plan_of(llama, 0.2, constraints=chosen)
    assert plan.groups[MLP.format(0)].count == 60
    assert given == 60 or plan.groups[MLP.format(0)].kept == given
    assert "model.layers.0.self_attn:heads" not in plan.groups
    assert abs(gp.rewrite(llama, plan).ratio - 0.2) < 0.03


def test_fixed_units_lie_within_the_earlier_plan(llama: TracedModel) -> None:
    earlier = plan_of(llama, 0.1, constraints=gp.Constraints(fixed={MLP.format(0): tuple(range(60))}))
    options: dict[str, Any] = {"ratio": 0.3, "within": earlier}
    fixed = {MLP.format(0): tuple(range(30, 61))}
    message = f"fixed keeps units of {MLP.format(0)} that the earlier plan removed"
    assert refusal(llama, PlanError, **options, constraints=gp.Constraints(fixed=fixed)) == message
    message = f"fixed keeps 70 units of {MLP.format(0)}, of which the earlier plan left 60"
    assert refusal(llama, PlanError, **options, constraints=gp.Constraints(fixed={MLP.format(0): 70})) == message
    later = plan_of(llama, **options, constraints=gp.Constraints(fixed={MLP.format(0): 40}))
    assert set(later.groups[MLP.format(0)].kept) <= set(range(60))


def test_tied_groups_keep_the_same_number(smollm: TracedModel) -> None:
    free = plan_of(smollm, 0.3, seed=1)
    tied = plan_of(
        smollm, 0.3, seed=1, constraints=gp.Constraints(tied=[[MLP.format(0), MLP.format(2)]], multiple_of=4)
    )
    assert free.groups[MLP.format(0)].count != free.groups[MLP.format(2)].count
    assert tied.groups[MLP.format(0)].count == tied.groups[MLP.format(2)].count
    assert tied.groups[MLP.format(0)].kept != tied.groups[MLP.format(2)].kept
    assert tied.groups[MLP.format(0)].count % 4 == 0


def test_a_tie_of_families_holds_for_all_layers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6)) for _ in range(2))
            self.b = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for a, b in zip(self.a, self.b, strict=True):
                x = x + a(x) + b(x)
            return x

    torch.manual_seed(0)
    traced = gp.trace(Two(), torch.randn(2, 6))
    plan = plan_of(traced, 0.3, homogeneous=True, constraints=gp.Constraints(tied=[["a.0:channels", "b.1:channels"]]))
    assert len(plan.groups) == 4
    assert len({group.count for group in plan.groups.values()}) == 1


def test_a_part_that_is_ignored_in_one_layer_stays_whole_where_a_config_has_one_number(smollm: TracedModel) -> None:
    plan = plan_of(smollm, 0.1, homogeneous=True, ignore="*.layers.0.mlp")
    assert {smollm.groups[name].kind for name in plan.groups} & {"heads", "repeats"}
    assert not {smollm.groups[name].kind for name in plan.groups} & {"channels"}
    message = (
        f"the config of the model can't express 60 units of {MLP.format(0)}: fix the same number, one that it accepts, "
        "in every layer, or select with homogeneous=False"
    )
    fixed = {MLP.format(0): 60}
    assert refusal(smollm, PlanError, homogeneous=True, constraints=gp.Constraints(fixed=fixed)) == message
    same = {MLP.format(layer): 60 for layer in range(3)}
    plan = plan_of(smollm, 0.3, homogeneous=True, constraints=gp.Constraints(fixed=same))
    assert [plan.groups[name].count for name in same] == [60] * 3


def test_tied_weights_are_in_each_module_that_has_them() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 2)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).relu() + self.second(x).tanh())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    traced = gp.trace(Tied(), torch.randn(2, 6))
    assert plan_of(traced, 0.3, only=["first", "second", "last"]).groups
    with pytest.raises(BudgetError, match="nothing of this model can be cut"):
        plan_of(traced, 0.3, ignore="second")

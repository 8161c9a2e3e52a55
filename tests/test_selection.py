"""Selection: a true budget, met as nearly as one unit allows."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import graphprune as gp
from graphprune.budget import parameter_cost
from graphprune.errors import BudgetError, PlanError, ScoreError
from graphprune.expressible import config_cuts, module_cuts
from graphprune.ladders import build_ladders
from graphprune.plan import PruningPlan
from graphprune.scores import Scores
from graphprune.selection import fill
from graphprune.traced import TracedModel
from tests.models import tiny, tiny_llama, tokens
from tests.zoo.language import LANGUAGE
from tests.zoo.vision import VISION


def traced_llama(**options: Any) -> TracedModel:
    return gp.trace(tiny_llama(device="meta", **options), kwargs={"input_ids": tokens().to("meta")})


def random_scores(traced: TracedModel, seed: int = 0, *, slots: bool = True) -> Scores:
    """A random number for each unit; no weights are looked at."""
    generator = torch.Generator().manual_seed(seed)
    return Scores(
        "random",
        {
            group.name: torch.rand(
                (group.slot.size, group.units) if slots and group.slot else (group.units,), generator=generator
            )
            for group in traced.groups.cuttable
        },
    )


@pytest.fixture(scope="module")
def llama() -> TracedModel:
    return traced_llama(peft=True, tied=False)


@pytest.fixture(scope="module")
def smollm() -> TracedModel:
    """The shape of SmolLM2-135M, with fewer layers."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "head_dim": 64, "vocab_size": 49152, "num_hidden_layers": 6}
    return traced_llama(kv=3, rep=3, **sizes)


def count(traced: TracedModel, plan: PruningPlan | None, of: str) -> int:
    """What a budget is about, counted on the real compact model."""
    parameters = (
        traced.module.named_parameters()
        if plan is None
        else gp.rewrite(traced, plan, module_form=False).named_parameters()
    )
    return sum(parameter.numel() for name, parameter in parameters if of != "base" or "lora" not in name)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("of", ["parameters", "base", "prunable"])
@pytest.mark.parametrize("model", ["llama", "smollm"])
def test_the_budget_is_met(request: pytest.FixtureRequest, model: str, of: Any, ratio: float) -> None:
    traced: TracedModel = request.getfixturevalue(model)
    if model == "smollm" and of != "prunable":
        ratio = min(ratio, 0.4)  # more is not in the layers
    plan = gp.select(traced, random_scores(traced), ratio=ratio, of=of)
    before = count(traced, None, of)
    share = (before - count(traced, plan, of)) / before
    if of == "prunable":
        share *= before / prunable(traced)
    unit = min(group.params_per_unit for group in traced.groups.prunable) / before
    assert abs(share - ratio) <= max(0.005, unit)


def prunable(traced: TracedModel) -> int:
    """The size of the parameters of which something can be cut."""
    cuttable = {(m.parameter, m.dim) for group in traced.groups.prunable for m in group.members}
    return sum(
        info.numel for name, info in traced.table.items() if not info.is_buffer and any(name == n for n, _ in cuttable)
    )


def test_macs_are_those_of_the_compact_model() -> None:
    model = tiny_llama()
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    plan = gp.select(traced, random_scores(traced), ratio=0.3, of="macs")
    compact = gp.rewrite(traced, plan)

    def flops(run: Any) -> int:
        # the kernel that attention gets on a CPU is not counted: take it apart
        with (
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
            nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
        ):
            run(input_ids=tokens())
        return counter.get_total_flops()

    share = 1 - flops(compact.graph) / flops(traced.graph)
    assert abs(share - 0.3) <= 0.03  # rotary tables and attention over the tiny vocabulary count in flops only


@pytest.mark.parametrize("slots", [True, False])
def test_plans_are_nested(llama: TracedModel, slots: bool) -> None:
    plan: PruningPlan | None = None
    for step, ratio in enumerate((0.1, 0.2, 0.4)):
        following = gp.select(llama, random_scores(llama, step, slots=slots), ratio=ratio, within=plan)
        for name, group in (plan.groups if plan else {}).items():
            assert not (following.groups[name].mask() & ~group.mask()).any(), "what was removed came back"
        plan = following


def test_what_was_removed_in_slots_stays_removed(llama: TracedModel) -> None:
    plan = gp.select(llama, random_scores(llama), ratio=0.3)
    following = gp.select(llama, random_scores(llama, 1, slots=False), ratio=0.4, within=plan)
    for name, group in plan.groups.items():
        assert not (following.groups[name].mask() & ~group.mask()).any()
    assert gp.rewrite(llama, following, module_form=False).ratio > 0.3


@pytest.mark.parametrize("scope", ["global", "layer", "group"])
@pytest.mark.parametrize("normalize", ["group", "group_l2", "kind", "kind_l2", None])
def test_scores_of_what_was_removed_count_nothing(llama: TracedModel, scope: Any, normalize: Any) -> None:
    settings = {"scope": scope, "normalize": normalize}
    before = gp.select(llama, random_scores(llama), ratio=0.2, **settings)
    scores = random_scores(llama, 1)
    without = dict(scores.by_group)
    for name, group in before.groups.items():
        without[name] = scores[name] * group.mask().reshape(scores[name].shape)
    assert any(not torch.equal(without[name], scores[name]) for name in before.groups)
    plans = [gp.select(llama, each, ratio=0.4, within=before, **settings) for each in (scores, Scores("", without))]
    assert plans[0].groups == plans[1].groups


def test_the_least_important_units_go(llama: TracedModel) -> None:
    scores = random_scores(llama)
    plan = gp.select(llama, scores, ratio=0.3)
    for name, group in plan.groups.items():
        mask = group.mask().reshape(-1, group.units)
        for kept, row in zip(mask, scores[name].reshape(-1, group.units), strict=True):
            assert row[kept].min() >= row[~kept].max()


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_steps_taken_at_once_are_those_taken_one_by_one(llama: TracedModel, share: float) -> None:
    ladders = build_ladders(llama.groups.prunable, random_scores(llama), False, gp.Constraints(), {})
    cost = parameter_cost(llama)
    target = share * cost({})
    steps = sorted(
        (price, index, rung) for index, each in enumerate(ladders) for rung, price in enumerate(each.prices.tolist())
    )
    expected: dict[int, int] = {}
    for _, index, rung in steps:  # up to the last step that leaves something to be removed
        after = expected | ladders[index].counts(ladders[index].kept[rung])
        if cost({}) - cost(after) >= target:
            break
        expected = after
    found = fill(ladders, cost, target, cost({}))
    assert all(found[atom] <= count for atom, count in expected.items())
    assert sum(found[group.atom.id] < expected.get(group.atom.id, group.units) for group in llama.groups.prunable) <= 2


@pytest.mark.parametrize(
    ("multiple_of", "channels", "heads"), [(8, 8, 1), ({"channels": 16}, 16, 1), ({"head_dims": 2}, 1, 2)]
)
def test_counts_are_multiples(llama: TracedModel, multiple_of: Any, channels: int, heads: int) -> None:
    plan = gp.select(llama, random_scores(llama), ratio=0.3, multiple_of=multiple_of)
    kinds = {group.name: group.kind for group in llama.groups}
    for name, group in plan.groups.items():
        assert group.count % {"channels": channels, "head_dims": heads}.get(kinds[name], 1) == 0


@pytest.mark.parametrize("min_units", [3, {"channels": 70, "head_dims": 4}])
def test_some_units_always_stay(llama: TracedModel, min_units: Any) -> None:
    plan = gp.select(llama, random_scores(llama), ratio=0.1, min_units=min_units)
    for name, group in plan.groups.items():
        least = min_units if isinstance(min_units, int) else min_units.get(llama.groups[name].kind, 1)
        assert group.count >= least


def test_ranks_are_cut_when_asked_for(llama: TracedModel) -> None:
    plan = gp.select(llama, random_scores(llama), ratio=0.02, kinds=["lora_rank"])
    assert {llama.groups[name].kind for name in plan.groups} == {"lora_rank"}
    assert not any(
        llama.groups[name].kind == "lora_rank" for name in gp.select(llama, random_scores(llama), ratio=0.3).groups
    )
    with pytest.raises(
        PlanError, match="no group of this model is of kind 'ranks'; there are channels, head_dims, heads"
    ):
        gp.select(llama, random_scores(llama), ratio=0.02, kinds=["ranks"])


def test_the_same_number_in_every_layer(llama: TracedModel) -> None:
    plan = gp.select(llama, random_scores(llama), ratio=0.3, homogeneous=True)
    families: dict[str, set[int]] = {}
    for name, group in plan.groups.items():
        families.setdefault(llama.groups[name].family, set()).add(group.count)
    assert families
    assert all(len(counts) == 1 for counts in families.values())
    assert abs(gp.rewrite(llama, plan).ratio - 0.3) < 0.05


def test_what_plain_transformers_must_load(llama: TracedModel) -> None:
    """``target="hf"`` is ``homogeneous`` for models that have a config, and says why where it can't be met."""
    plan = gp.select(llama, random_scores(llama), ratio=0.3, target="hf")
    assert plan.groups == gp.select(llama, random_scores(llama), ratio=0.3, homogeneous=True).groups
    assert (plan.about["homogeneous"], plan.about["target"]) == (True, "hf")
    with pytest.raises(BudgetError, match=r"asks for .*, for which the config has no smaller size: select without tar"):
        gp.select(llama, random_scores(llama), ratio=0.1, target="hf", kinds=["head_dims"])
    with pytest.raises(PlanError) as caught:
        gp.select(llama, random_scores(llama), ratio=0.3, target="onnx")  # type: ignore[arg-type]
    assert str(caught.value) == "target must be one of hf, not 'onnx'"
    plain = gp.trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(2, 3))
    with pytest.raises(PlanError) as caught:
        gp.select(plain, random_scores(plain), ratio=0.3, target="hf")
    assert str(caught.value) == (
        'Sequential is no model of transformers, so no config can say what is left of it: select without target="hf"'
    )


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan")])
def test_a_ratio_out_of_range(llama: TracedModel, ratio: float) -> None:
    with pytest.raises(BudgetError) as caught:
        gp.select(llama, random_scores(llama), ratio=ratio)
    assert str(caught.value) == f"the ratio must lie between 0 and 1, not {ratio}: 0.5 removes half"


@pytest.mark.parametrize(
    "options",
    [{}, {"min_units": 4}, {"of": "prunable"}, {"of": "macs"}, {"multiple_of": 64, "kinds": ["channels"]}],
    ids=str,
)
def test_a_ratio_that_can_not_be_met(llama: TracedModel, options: dict[str, Any]) -> None:
    scores = random_scores(llama)
    with pytest.raises(BudgetError) as caught:
        gp.select(llama, scores, ratio=0.999, **options)
    found = re.fullmatch(
        r"a share of 99\.9% can't be removed: the most is ([0-9.]+)% with the groups that may be cut \([a-z_, ]+\); "
        r"lower the ratio, min_units or multiple_of, or allow more kinds of groups",
        str(caught.value),
    )
    assert found is not None
    most = float(found[1]) / 100
    step = 0.3 if "multiple_of" in options else 0.03  # the result may differ from the ratio by one step
    assert gp.select(llama, scores, ratio=most - 0.001, **options).groups
    with pytest.raises(BudgetError):
        gp.select(llama, scores, ratio=most + step, **options)


def test_nothing_can_be_cut() -> None:
    traced = gp.trace(nn.Linear(3, 4), torch.ones(2, 3))
    with pytest.raises(BudgetError) as caught:
        gp.select(traced, Scores("random", {}), ratio=0.5)
    assert str(caught.value).startswith(
        "nothing of this model can be cut: model:channels (it is a dim of an output at linear"
    )


def test_scores_that_do_not_fit(llama: TracedModel) -> None:
    scores = random_scores(llama)
    name = llama.groups.prunable[0].name
    broken = scores[name].clone()
    broken.view(-1)[0] = float("nan")
    with pytest.raises(ScoreError, match=f"the scores of {re.escape(name)} are not finite"):
        gp.select(llama, Scores("random", {**scores.by_group, name: broken}), ratio=0.3)
    with pytest.raises(
        ScoreError, match=f"the scores have nothing for {re.escape(name)}: score the model that is pruned"
    ):
        gp.select(llama, Scores("random", {n: v for n, v in scores.items() if n != name}), ratio=0.3)


def test_the_module_form_is_asked_for_its_values() -> None:
    """Bloom computes its position slopes from the number of heads: without a head, others come out."""
    model, inputs = LANGUAGE["bloom"]()
    traced = gp.trace(model, (), inputs)
    plan = gp.select(traced, gp.score(traced), ratio=0.2, form="module")
    assert {traced.groups[name].kind for name in plan.groups} <= {"channels", "head_dims"}
    assert gp.rewrite(traced, plan).module_error is None


def test_experts_are_cut_to_what_their_kernel_runs() -> None:
    model, inputs = tiny("mixtral")
    traced = gp.trace(model, (), inputs)
    plan = gp.select(traced, gp.score(traced), ratio=0.2, kinds=["channels"], form="module")
    assert plan.groups
    assert all(each.count % 8 == 0 for each in plan.groups.values())
    assert gp.rewrite(traced, plan).module_error is None


def test_attention_deep_in_a_network_is_seen() -> None:
    """Layers before and after it must not wash out that it divides by the root of another head size."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim = 2, 8
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            qkv = self.qkv(x).view(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind())
            return x + self.out(mixed.transpose(1, 2).flatten(2))

    def convolutions() -> list[nn.Module]:
        return [each for _ in range(8) for each in (nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6), nn.SiLU())]

    torch.manual_seed(0)
    model = nn.Sequential(*convolutions(), nn.LayerNorm(16), Attention(), *convolutions()).eval()
    traced = gp.trace(model, torch.randn(2, 6, 16))
    families = module_cuts(traced, traced.groups.prunable).counts
    kinds = {group.kind for group in traced.groups.prunable if group.family in families}
    assert "heads" in kinds
    assert "head_dims" not in kinds


def test_a_config_within_a_config_has_its_own_numbers() -> None:
    model, inputs = VISION["clip"]()
    traced = gp.trace(model, (), inputs)
    mlps = [group for group in traced.groups if group.kind == "channels" and "mlp" in group.name]
    assert {group.family for group in mlps} == set(config_cuts(traced, traced.groups.prunable).counts)
    plan = gp.select(traced, random_scores(traced), ratio=0.1, homogeneous=True)
    compact: Any = gp.rewrite(traced, plan).module
    assert compact.config.text_config.intermediate_size == compact.text_model.encoder.layers[0].mlp.fc1.out_features
    assert compact.config.vision_config.intermediate_size == compact.vision_model.encoder.layers[1].mlp.fc1.out_features
    assert compact.config.text_config.intermediate_size < 80

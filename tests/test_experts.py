"""Whole experts of a mixture: cut when asked for, with the router as one that never chooses those that go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.func import functional_call

import graphprune as gp
from graphprune.adapters import merged_copy
from graphprune.criteria.lora import guided_gradient
from graphprune.errors import BudgetError, PlanError, TrainingError
from graphprune.matrices import lora_layers, matrices
from graphprune.quiet import quietly
from graphprune.traced import TracedModel
from graphprune.training.config import PruneConfig
from graphprune.training.finetune import prune_while_tuning, with_adapters
from tests.zoo.language import LANGUAGE

FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "phimoe"]

NEVER = -1e9


def traced_family(name: str) -> TracedModel:
    model, inputs = LANGUAGE[name]()
    return gp.trace(model.eval(), (), inputs)


def experts(traced: TracedModel, **options: Any) -> gp.PruningPlan:
    return gp.select(traced, gp.score(traced, "magnitude"), ratio=0.15, kinds=["experts"], **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_transformers_loads_what_is_left(name: str, tmp_path: Path) -> None:
    traced = traced_family(name)
    plan = experts(traced, target="hf")
    assert {group.kind for group in traced.groups if group.name in plan.groups} == {"experts"}
    compact = gp.rewrite(traced, plan)
    gp.save(compact, tmp_path / "cut")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert type(loaded) is type(traced.module)
    assert compact.module is not None
    assert torch.equal(loaded(**traced.kwargs).logits, compact.module(**traced.kwargs).logits)


def test_the_router_is_one_that_never_chooses_what_went() -> None:
    traced = traced_family("gpt_oss")
    plan = experts(traced, homogeneous=True)
    compact = gp.rewrite(traced, plan)
    assert compact.module is not None
    with torch.no_grad():
        for name, group in plan.groups.items():
            router = traced.module.get_submodule(name.partition(":")[0]).router
            gone = sorted(set(range(group.units)) - set(group.kept))
            router.bias[gone] = NEVER  # type: ignore[index,operator]
        wanted = traced.module(**traced.kwargs).logits
    assert torch.allclose(compact.module(**traced.kwargs).logits, wanted, atol=1e-6)


def grouped() -> nn.Module:
    """A DeepSeek whose router chooses groups of experts first."""
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        moe_intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        first_k_dense_replace=1,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=16,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=3,
    )
    return transformers.DeepseekV3ForCausalLM(config).eval()


def test_experts_in_groups() -> None:
    traced = gp.trace(grouped(), (), {"input_ids": torch.arange(22).reshape(2, 11)})
    found = {group.name: (group.units, group.least) for group in traced.groups if group.kind == "experts"}
    # three are chosen of all, two in each group that is judged; and two of four groups
    assert found == {"model.layers.1.mlp:experts.1": (4, 3), "model.layers.1.mlp:experts.2": (4, 2)} or found == {
        "model.layers.1.mlp:experts.1": (4, 2),
        "model.layers.1.mlp:experts.2": (4, 3),
    }
    plan = experts(traced, target="hf")
    compact = gp.rewrite(traced, plan)
    assert compact.module is not None
    left = 16
    for group in plan.groups.values():
        left = left * group.count // group.units
    assert compact.module.config.n_routed_experts == left < 16


def test_as_many_stay_as_are_chosen() -> None:
    traced = traced_family("mixtral")
    name = next(group.name for group in traced.groups if group.kind == "experts")
    assert traced.groups[name].least == 2
    with pytest.raises(PlanError) as fixed:
        experts(traced, constraints=gp.Constraints(fixed={name: 1}))
    assert str(fixed.value) == f"fixed keeps 1 units of {name}, but 2 are chosen at once: fix at least as many"
    plan = gp.PruningPlan(traced.fingerprint, {name: gp.GroupPlan(4, (3,))})
    with pytest.raises(PlanError) as kept:
        gp.rewrite(traced, plan)
    assert str(kept.value) == f"the plan keeps 1 units of {name}, but 2 are chosen at once: keep at least as many"
    with pytest.raises(BudgetError, match="can't be removed: the most is"):
        gp.select(traced, gp.score(traced, "magnitude"), ratio=0.9, kinds=["experts"])


def test_they_are_not_cut_unless_asked_for() -> None:
    traced = traced_family("qwen3_moe")
    plan = gp.select(traced, gp.score(traced, "random"), ratio=0.3)
    assert not any(traced.groups[name].kind == "experts" for name in plan.groups)


def test_they_are_not_pruned_while_training() -> None:
    peft = pytest.importorskip("peft")
    model, inputs = LANGUAGE["mixtral"]()
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    traced = gp.trace(model, (), inputs)
    config = PruneConfig(ratio=0.1, kinds=("experts",))
    with pytest.raises(TrainingError, match="a router goes on choosing experts whose weights are masked"):
        gp.Pruner(traced, config, total_steps=10)


def with_adapters_on_experts(name: str) -> TracedModel:
    """A model with random adapters on attention and on the matrices of experts, and their gradients."""
    peft = pytest.importorskip("peft")
    model, inputs = LANGUAGE[name]()
    config = PruneConfig(ratio=0.2, lora_rank=2)
    with quietly():  # what peft says of its own patterns
        adapted = with_adapters(model.eval(), config)
    assert isinstance(adapted, peft.PeftModel)
    generator = torch.Generator().manual_seed(0)
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    traced = gp.trace(adapted, (), inputs)
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    return traced


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_adapters_on_experts_guide_the_scores(name: str) -> None:
    """The estimate of each expert is that of a matrix by itself: ``∂B·A + B·∂A − ∂B·∂A``, as peft makes its update."""
    traced = with_adapters_on_experts(name)
    found = [matrix for matrix in matrices(traced).values() if matrix.adapters and len(matrix.shape) == 3]
    assert len(found) == 4  # two layers with two stacks each
    for matrix in found:
        (factors,) = matrix.adapters
        layer = next(each for each in lora_layers(traced.module) if each.lora_A["default"].weight is factors.a)
        expected = matrix.weight + layer.get_delta_weight("default")
        assert torch.allclose(matrix.effective(slice(0, matrix.shape[0])), expected, atol=1e-6)
        for expert in range(matrix.shape[0]):
            # peft has the ranks of an expert side by side in A, and the experts of a rank in B
            rank = factors.a.shape[0] // matrix.shape[0]
            own = slice(expert * rank, (expert + 1) * rank), slice(expert, None, matrix.shape[0])
            assert factors.a.grad is not None
            assert factors.b.grad is not None
            a, b, da, db = factors.a[own[0]], factors.b[:, own[1]], factors.a.grad[own[0]], factors.b.grad[:, own[1]]
            wanted = db @ a + b @ da - db @ da
            wanted = wanted.mT if factors.transposed else wanted
            assert torch.allclose(guided_gradient(factors, slice(expert, expert + 1), "")[0], wanted, atol=1e-6)


@pytest.mark.parametrize("adapters", ["keep", "merge"])
def test_channels_and_experts_with_adapters_on_them(adapters: Any) -> None:
    traced = with_adapters_on_experts("qwen3_moe")
    scores = gp.score(traced, "lora")
    plan = gp.select(traced, scores, ratio={"experts": 0.2, "channels": 0.3}, homogeneous=True)
    assert {traced.groups[name].kind for name in plan.groups} == {"experts", "channels"}
    compact = gp.rewrite(traced, plan, adapters=adapters)
    assert compact.module is not None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mixtral", {}),
        pytest.param("gpt_oss", {}, marks=pytest.mark.slow),
        pytest.param("mixtral", {"criterion": "fisher", "compaction": 0.1}, marks=pytest.mark.slow),
        ("qwen3_moe", {"criterion": "fisher", "make_up": "weights"}),
    ],
    ids=str,
)
def test_a_mixture_is_pruned_while_it_is_tuned(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model, inputs = LANGUAGE[name]()
    windows = torch.randint(0, 97, (24, 16), generator=torch.Generator().manual_seed(0))
    config = PruneConfig(ratio=0.3, steps=6, interval=2, homogeneous=True, **settings)
    result = prune_while_tuning(model, None, windows, config, tmp_path / "run")
    assert any("experts" in name for name in result.plan.groups)
    compact = result.compact(adapters="merge")
    gp.save(compact, tmp_path / "cut")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert compact.module is not None
    assert torch.equal(loaded(**inputs).logits, compact.module.eval()(**inputs).logits)


@pytest.mark.slow
def test_the_onnx_file_has_fewer_experts(tmp_path: Path) -> None:
    traced = traced_family("qwen3_moe")
    compact = gp.rewrite(traced, experts(traced, homogeneous=True))
    report = gp.export_onnx(compact, tmp_path / "model.onnx")
    assert max(report.relative) < 1e-4


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_channels_inside_experts_are_gated_at_the_weights_that_take_them_in(name: str, adapters: bool) -> None:
    traced = with_adapters_on_experts(name) if adapters else traced_family(name)
    model = traced.module
    model.zero_grad()
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    batches = [{"input_ids": torch.randint(0, 60, (2, 6), generator=generator)} for _ in range(2)]
    scores = gp.score(traced, "fisher", data=batches)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    assert {group.name for group in traced.groups.prunable if group.kind != "lora_rank"} <= scores.keys()
    plain = merged_copy(model) if adapters else model
    stack = next(name for name, _ in plain.named_parameters() if name.endswith("experts.down_proj"))
    group = next(group for group in traced.groups.prunable if "experts:" in group.name)
    squares = torch.zeros(group.units)
    for batch in batches:
        gate = torch.ones(group.units, requires_grad=True)
        weight = plain.get_parameter(stack).detach()
        gated = weight * (gate[:, None] if weight.shape[1] == group.units else gate)
        loss = functional_call(plain, {stack: gated}, kwargs={**batch, "labels": batch["input_ids"]}).loss
        squares += torch.autograd.grad(loss, gate)[0].square()
    found = scores[group.name]
    torch.testing.assert_close(found / found.sum(), squares / squares.sum(), rtol=1e-3, atol=1e-6)

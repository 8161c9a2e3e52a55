"""What peft puts into models: each variant is pruned and verified, or frozen with a reason, kept or merged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import RewriteError
from graphprune.plan import PruningPlan
from graphprune.traced import TracedModel
from graphprune.training.masking import masks_of, removed_slices, zero
from tests.lockstep import check_lockstep, random_plan
from tests.models import PROJECTIONS, tiny, tiny_llama, tokens


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))  # type: ignore[no-any-return]


def llama() -> nn.Module:
    return tiny_llama(num_hidden_layers=1, tied=False)


def adapted(model: nn.Module, **options: Any) -> Any:
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": PROJECTIONS, **options}))  # type: ignore[arg-type]


def several(active: list[str]) -> nn.Module:
    model = adapted(llama())
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "up_proj"]))
    model.base_model.set_adapter(active)
    return model  # type: ignore[no-any-return]


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: adapted(llama()),
    "two active": lambda: several(["default", "second"]),
    "one of two active": lambda: several(["default"]),
    "rslora": lambda: adapted(llama(), use_rslora=True),
    "ranks by layer": lambda: adapted(llama(), rank_pattern={"q_proj": 2, "up_proj": 6}),
    "embedding": lambda: adapted(llama(), target_modules=[*PROJECTIONS, "embed_tokens"]),
    "head": lambda: adapted(llama(), target_modules=[*PROJECTIONS, "lm_head"]),
    "modules to save": lambda: adapted(
        llama(), target_modules=PROJECTIONS[:4], modules_to_save=["down_proj", "lm_head"]
    ),
    "convolutions": lambda: adapted(Convolutions(), target_modules=["a", "b"]),
}


def traced_variant(model: nn.Module) -> TracedModel:
    """Traced with factors that are away from zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    if isinstance(model.get_base_model(), Convolutions):  # type: ignore[operator]
        return gp.trace(model, torch.randn(2, 3, 6, 6, generator=generator))
    return gp.trace(model, kwargs={"input_ids": tokens()})


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_pruned(name: str) -> None:
    traced = traced_variant(VARIANTS[name]())
    plan = random_plan(traced, half=True, slots=False)
    assert len(plan.groups) >= 2
    assert check_lockstep(traced, plan, 1e-5) > 0
    for adapters in ("keep", "merge"):
        compact = gp.rewrite(traced, plan, adapters=adapters)  # type: ignore[arg-type]
        assert compact.module_error is None
        assert compact.ratio > 0.25


@pytest.mark.parametrize("name", ["two active", "ranks by layer", "embedding", "convolutions"])
def test_ranks_are_cut(name: str) -> None:
    traced = traced_variant(VARIANTS[name]())
    plan = gp.select(traced, gp.score(traced, "random"), ratio=0.02, kinds=["lora_rank"])
    assert {traced.groups[each].kind for each in plan.groups} == {"lora_rank"}
    assert check_lockstep(traced, plan, 1e-5) > 0
    assert gp.rewrite(traced, plan).report is not None


def test_adapters_that_are_not_active_are_cut_with_their_weights() -> None:
    traced = traced_variant(several(["default"]))
    ranks = {group.reason for group in traced.groups if "second" in group.name}
    assert ranks == {"nothing in the graph uses it"}
    plan = random_plan(traced, half=True, slots=False)
    one = gp.rewrite(traced, plan).module
    both = gp.rewrite(traced_variant(several(["second"])), plan).module
    one.base_model.set_adapter("second")  # type: ignore[operator, union-attr]
    assert torch.equal(one(tokens()).logits, both(tokens()).logits)


def test_adapters_of_a_compact_model_can_be_disabled() -> None:
    model: Any = adapted(llama())
    traced = traced_variant(model)
    plan = random_plan(traced, half=True)
    compact: Any = gp.rewrite(traced, plan, adapters="keep").module
    masks = masks_of(traced, plan)
    for trainable in (True, False):
        zero(removed_slices(traced, masks, {}, trainable=trainable))
    with torch.no_grad(), model.eval().disable_adapter(), compact.eval().disable_adapter():
        masked, cut = model(tokens()).logits, compact(tokens()).logits
    torch.testing.assert_close(masked, cut)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()).logits, compact(tokens()).logits)
        assert not torch.allclose(compact(tokens()).logits, cut, atol=1e-3), "the adapters do nothing"


def test_adapters_that_were_merged_in_place_can_be_taken_out_again() -> None:
    model: Any = adapted(llama())
    dense = traced_variant(model)
    plan = random_plan(dense, half=True, slots=False)
    expected = gp.rewrite(dense, plan).module(tokens()).logits
    model.merge_adapter()
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    compact: Any = gp.rewrite(traced, PruningPlan(traced.fingerprint, plan.groups)).module
    assert torch.allclose(compact(tokens()).logits, expected, atol=1e-5)
    compact.unmerge_adapter()
    assert torch.allclose(compact(tokens()).logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        lambda: adapted(llama(), use_dora=True),
        lambda: adapted(Convolutions(), target_modules=["a", "b"], use_dora=True),
    ],
    ids=["linear", "convolution"],
)
def test_dora_divides_by_the_lengths_of_rows_that_stay_in_the_masked_model(model: Callable[[], nn.Module]) -> None:
    traced = traced_variant(model())
    assert any(name.endswith("lora_B.default.weight") and dim == 0 for name, dim in traced.inference.unmasked)
    plan = random_plan(traced, half=True)
    assert len(plan.groups) >= 2
    compact = gp.rewrite(traced, plan)
    assert compact.report is not None
    assert compact.report.effect > 0
    merged, _ = gp.merge_adapters(traced)
    plan = random_plan(merged, half=True)
    assert gp.rewrite(merged, plan).module_error is None
    assert len(plan.groups) >= 2


def test_dora_stays_finite_while_it_is_trained_with_masks() -> None:
    model = adapted(llama(), use_dora=True)
    traced = traced_variant(model)
    plan = random_plan(traced, half=True)
    compact = gp.rewrite(traced, plan, module_form=False)
    masks = masks_of(traced, plan)
    for trainable in (True, False):
        zero(removed_slices(traced, masks, {}, trainable=trainable))
    inputs = dict(traced.program.kwargs)
    with torch.no_grad():
        masked, cut = model.eval()(**inputs).logits, compact.graph(**inputs).logits
    torch.testing.assert_close(masked, cut)


def test_a_bias_of_an_adapter() -> None:
    traced = traced_variant(adapted(llama(), lora_bias=True))
    plan = random_plan(traced, half=True, slots=False)
    assert gp.rewrite(traced, plan).module_error is None
    with pytest.raises(RewriteError, match="the base layer has no bias"):
        gp.rewrite(traced, plan, adapters="merge")


def test_adapters_injected_on_several_parameters_of_one_module() -> None:
    """Without a PeftModel around them: the layer of one parameter is inside that of the other."""
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=parameters, init_lora_weights=False)
    model = inject_adapter_in_model(config, tiny("mixtral")[0])
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    compact = gp.rewrite(traced, random_plan(traced, half=True, slots=False), adapters="merge")
    assert compact.module_error is None
    assert compact.module is not None
    assert not any("base_layer" in name or "lora" in name for name, _ in compact.module.named_modules())


@pytest.mark.parametrize("order", [("keep", "merge"), ("merge", "keep")])
def test_adapters_on_parameters(order: tuple[Literal["keep", "merge"], ...]) -> None:
    model = adapted(
        tiny("mixtral")[0],
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    traced = traced_variant(model)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    plan = random_plan(traced, half=True, slots=False)
    assert any("experts" in name for name in plan.groups)
    for adapters in order:
        compact = gp.rewrite(traced, plan, adapters=adapters)
        assert compact.module_error is None
        assert compact.ratio > 0.25
        after = dict(model.named_parameters())
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)

"""Merging adapters into the weights, and carrying plans over to the merged model."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import LoraConfig

import graphprune as gp
from graphprune import adapters
from graphprune.adapters import adapter_layers, merge_adapters, merged_copy, plain_modules, without_adapters
from graphprune.errors import PlanError, RewriteError

from .export.tiny import add_adapters, any_prunable, half, logits, randomise, tiny_llama, traced_llama


def two_adapters() -> Any:
    model = add_adapters(tiny_llama())
    model.add_adapter("second", LoraConfig(r=2, lora_alpha=6, target_modules=["v_proj", "up_proj"]))
    model.base_model.set_adapter(["default", "second"])
    return randomise(model)


@pytest.mark.parametrize("tied", [True, False])
def test_merged_model_computes_the_same(tied: bool) -> None:
    traced = traced_llama(add_adapters(tiny_llama(tied=tied)))
    before = {name: tensor.clone() for name, tensor in traced.module.state_dict().items()}
    merged, plan = merge_adapters(traced)
    assert plan is None
    assert not adapter_layers(merged.module)
    torch.testing.assert_close(logits(merged.module), logits(traced.module), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in traced.module.state_dict().items())


def test_model_without_adapters_is_returned_as_it_is() -> None:
    traced = traced_llama(tiny_llama())
    plan = half(traced, any_prunable)
    assert merge_adapters(traced, plan) == (traced, plan)


def test_all_active_adapters_are_merged() -> None:
    model = two_adapters()
    both = logits(merged_copy(model))
    torch.testing.assert_close(both, logits(model), rtol=1e-4, atol=1e-5)
    model.base_model.set_adapter("second")
    one = logits(merged_copy(model))
    torch.testing.assert_close(one, logits(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, both, atol=1e-3)


def test_disabled_adapters_are_taken_out() -> None:
    model = add_adapters(tiny_llama())
    model.base_model.disable_adapter_layers()
    torch.testing.assert_close(logits(merged_copy(model)), logits(tiny_llama()))


def test_adapters_put_in_without_a_wrapper_are_merged() -> None:
    model = tiny_llama()
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    randomise(model)
    merged = merged_copy(model)
    assert not adapter_layers(merged)
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: add_adapters(tiny_llama()), two_adapters])
def test_carried_plan_cuts_every_weight_alike(make: Any) -> None:
    traced = traced_llama(make())
    plan = half(traced, any_prunable)
    merged, carried = merge_adapters(traced, plan)
    assert len(carried.groups) == len(plan.groups)
    before, after = plan.masks(traced), carried.masks(merged)
    for path, child in plain_modules(traced.module):
        old = next(name for name, module in traced.module.named_modules() if module is child)
        for name, _ in child.named_parameters(recurse=False):
            if f"{old}.{name}" not in before:
                continue  # the second name of a tied weight
            pairs = zip(before[f"{old}.{name}"], after[f"{path}.{name}"], strict=True)
            assert all(a is b is None or (a is not None and torch.equal(a, b)) for a, b in pairs)  # type: ignore[arg-type]


def test_carried_plan_keeps_other_units_in_each_slot() -> None:
    traced = traced_llama(add_adapters(tiny_llama()))
    group = next(group for group in traced.groups.prunable if group.kind == "head_dims" and group.slot is not None)
    assert group.slot is not None
    rows = tuple(tuple(sorted((slot + step) % 8 for step in range(5))) for slot in range(group.slot.size))
    plan = gp.PruningPlan(traced.fingerprint, {group.name: gp.GroupPlan(8, rows)})
    _, carried = merge_adapters(traced, plan)
    assert [each.kept for each in carried.groups.values()] == [rows]


def test_merging_before_and_after_the_cut_is_the_same() -> None:
    traced = traced_llama(add_adapters(tiny_llama()))
    plan = half(traced, any_prunable)
    kept, merged = gp.rewrite(traced, plan), gp.rewrite(traced, plan, adapters="merge")
    assert adapter_layers(kept.module)
    assert not adapter_layers(merged.module)
    torch.testing.assert_close(logits(merged), logits(kept), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(merged_copy(kept.module)), logits(kept), rtol=1e-4, atol=1e-5)


def test_plan_that_cuts_a_rank_is_refused() -> None:
    traced = traced_llama(add_adapters(tiny_llama(layers=1)))
    plan = half(traced, lambda group: group.kind == "lora_rank")
    name = next(iter(plan.groups))
    with pytest.raises(PlanError) as caught:
        gp.rewrite(traced, plan, adapters="merge")
    assert str(caught.value) == (
        f"the plan cuts {name}, the rank of an adapter, which is gone once the adapter is merged: keep the adapters, "
        'with gp.rewrite(traced, plan, adapters="keep"), or make a plan without lora_rank'
    )


def test_rounding_is_told_by_what_the_adapters_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # a deep model makes more of it than of the rounding of one type
    monkeypatch.setattr(adapters, "rounding_of", lambda module: 0.0)
    test_merged_model_computes_the_same(True)
    test_adapter_of_a_tied_weight_is_not_merged()


def test_adapter_of_a_tied_weight_is_not_merged() -> None:
    traced = traced_llama(add_adapters(tiny_llama(layers=1), target_modules=["embed_tokens"]))
    with pytest.raises(
        RewriteError, match="as it does where an adapted weight is tied to another one: keep the adapters"
    ):
        merge_adapters(traced)


def test_positional_inputs_keep_their_meaning() -> None:
    from peft import TaskType

    # the wrapper for causal models has labels where the model has past_key_values
    model = add_adapters(tiny_llama(layers=1), task_type=TaskType.CAUSAL_LM)
    ids = torch.arange(2, 12).reshape(2, 5)
    merged, _ = merge_adapters(gp.trace(model, (ids, torch.ones_like(ids))))
    assert merged.args == ()
    assert list(merged.kwargs) == ["input_ids", "attention_mask"]


def test_plan_is_carried_on_the_meta_device() -> None:
    traced = traced_llama(add_adapters(tiny_llama(layers=1)))
    plan = half(traced, any_prunable)
    with torch.device("meta"):
        model = add_adapters(tiny_llama(layers=1))
    meta = gp.trace(model, kwargs={"input_ids": torch.zeros(2, 11, dtype=torch.long, device="meta")})
    assert merge_adapters(meta, plan)[1] == merge_adapters(traced, plan)[1]


def test_plain_model_shares_the_weights() -> None:
    model = add_adapters(tiny_llama())
    plain = without_adapters(model)
    assert dict(plain.named_modules()).keys() == dict(plain_modules(model)).keys()
    assert {id(tensor) for tensor in plain.parameters()} < {id(tensor) for tensor in model.parameters()}
    assert adapter_layers(model)


def test_peft_is_not_imported_for_models_without_adapters() -> None:
    code = "import sys, graphprune, torch; graphprune.trace(torch.nn.Linear(3, 5), torch.ones(2, 3)); "
    code += "print('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"

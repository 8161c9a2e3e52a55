"""What the config of a transformers model can say of a plan."""

import torch
from torch import nn

import graphprune as gp
from graphprune.export.config import expressible, misfit, refusal

from .tiny import add_adapters, tiny_llama, traced_llama


def test_llama_has_numbers_for_heads_and_channels() -> None:
    for model in (tiny_llama(), add_adapters(tiny_llama())):
        traced = traced_llama(model)
        families = expressible(traced, traced.groups.prunable)
        kinds = {group.kind for group in traced.groups if group.family in families}
        assert kinds == {"heads", "repeats", "channels"}


def test_head_dims_are_refused_with_the_reason() -> None:
    traced = traced_llama(tiny_llama())
    rotary = next(group for group in traced.groups.prunable if any("inv_freq" in m.parameter for m in group.members))
    values = next(g for g in traced.groups.prunable if g.kind == "head_dims" and g != rotary)
    assert refusal(traced, {rotary.atom: 2}) == (
        "model.rotary_emb.inv_freq is computed from the config, which can't say which positions of it stay"
    )
    assert "v_proj.weight is [16, 48] here and [32, 48] in the model that the config makes" in str(
        refusal(traced, {values.atom: 4})
    )


def test_number_of_heads_that_does_not_divide_the_width_is_refused() -> None:
    traced = traced_llama(tiny_llama(hidden=64))
    heads = {group.atom: 3 for group in traced.groups.prunable if group.kind == "heads"}
    assert "its config makes no LlamaForCausalLM: " in str(refusal(traced, heads))
    assert refusal(traced, dict.fromkeys(heads, 2)) is None


def test_one_layer_alone_is_refused() -> None:
    traced = traced_llama(tiny_llama())
    group = next(group for group in traced.groups.prunable if group.kind == "channels")
    assert "mlp.gate_proj.weight is" in str(refusal(traced, {group.atom: 40}))


def test_module_without_a_config_takes_everything() -> None:
    traced = gp.trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5)), torch.randn(2, 3))
    assert expressible(traced, traced.groups.prunable) == {group.family for group in traced.groups.prunable}


def test_dense_model_fits_its_config() -> None:
    assert misfit(tiny_llama()) is None

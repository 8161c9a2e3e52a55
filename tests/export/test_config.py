"""What the config of a transformers model says of its sizes."""

import pytest

import graphprune as gp
from graphprune.expressible import config_cuts, misfit

from ..zoo.vision import VISION
from .tiny import VOCABULARY, compact_llama, described, half, tiny_llama, traced_llama


@pytest.mark.parametrize("tied", [True, False])
def test_dense_and_evenly_cut_models_fit_their_config(tied: bool) -> None:
    assert misfit(tiny_llama(tied=tied)) is None
    assert misfit(compact_llama(tiny_llama(tied=tied)).module) is None


def test_cut_of_one_layer_alone_is_named() -> None:
    traced = traced_llama(tiny_llama())
    plan = half(traced, lambda group: described(group) and "layers.1.mlp" in group.name)
    assert misfit(gp.rewrite(traced, plan).module) == (
        "model.layers.1.mlp.gate_proj.weight is [40, 48] here and [80, 48] in the model that the config makes"
    )


def test_config_that_contradicts_itself_says_so() -> None:
    model = tiny_llama()
    model.config.__dict__["num_attention_heads"] = 7
    assert misfit(model) == (
        "its config makes no LlamaForCausalLM: Class validation error for validator 'validate_architecture'"
    )


@pytest.mark.parametrize("tied", [True, False])
def test_width_that_is_as_large_as_the_vocabulary(tied: bool) -> None:
    traced = traced_llama(tiny_llama(tied=tied, intermediate=VOCABULARY))
    channels = [group for group in traced.groups.prunable if group.kind == "channels"]
    assert {group.family for group in channels} <= config_cuts(traced, traced.groups.prunable).counts.keys()
    compact = gp.rewrite(traced, half(traced, described)).module
    assert (compact.config.intermediate_size, compact.config.vocab_size) == (VOCABULARY // 2, VOCABULARY)
    assert misfit(compact) is None


def test_sizes_in_lists_scale_with_what_is_kept() -> None:
    model, inputs = VISION["segformer"]()
    traced = gp.trace(model.eval(), (), inputs)
    assert config_cuts(traced, traced.groups.prunable).counts.keys() <= {each.family for each in traced.groups.prunable}

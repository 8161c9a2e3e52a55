"""Biases that were added to make up for removed units, in models that plain transformers loads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import graphprune as gp
from graphprune.export.biases import with_said_biases

from .tiny import any_prunable, compact_llama, described, half, logits, tiny_llama, tokens, traced_llama


def compensated(kind: str | None = None, *, uneven: bool = False) -> gp.CompactModel:
    traced = traced_llama(tiny_llama())
    chosen = any_prunable if uneven else described
    plan = half(traced, lambda group: chosen(group) and kind in (None, group.kind), uneven=uneven)
    return gp.rewrite(*gp.compensate(traced, plan, [{"input_ids": tokens(4, 9)}]))


@pytest.mark.parametrize(("kind", "attention", "mlp"), [("channels", False, True), (None, True, True)])
def test_a_config_says_biases_that_were_added(tmp_path: Path, kind: str | None, attention: bool, mlp: bool) -> None:
    compact = compensated(kind)
    report = gp.save(compact, tmp_path / "out")
    assert (report.form, report.reason) == ("transformers", None)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    assert (model.config.attention_bias, model.config.mlp_bias) == (attention, mlp)
    torch.testing.assert_close(logits(model), logits(compact), rtol=1e-5, atol=1e-6)
    layer = model.model.layers[1]
    assert layer.mlp.down_proj.bias.abs().max() > 0
    assert not layer.mlp.up_proj.bias.any()
    assert compact.module.config.mlp_bias is False  # type: ignore[union-attr]


def test_biases_where_layers_differ(tmp_path: Path) -> None:
    compact = compensated(uneven=True)
    assert gp.save(compact, tmp_path / "out").form == "remote-code"
    model: Any = gp.load(tmp_path / "out")
    assert torch.equal(logits(model), logits(compact))
    assert model.model.layers[0].self_attn.o_proj.bias is not None
    assert model.model.layers[0].self_attn.q_proj.bias is None


def test_models_without_added_biases_are_left() -> None:
    assert with_said_biases(compact_llama(tiny_llama()).module) is None
    assert with_said_biases(compact_llama(tiny_llama(), per_layer=True).module) is None

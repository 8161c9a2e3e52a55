"""Parts of models: traced and pruned by themselves, and put back in place of the dense ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, LlavaConfig, LlavaForConditionalGeneration

import graphprune as gp

from .models import tiny_llama, tokens

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE, TEXT = {"image_size": 16, "patch_size": 8}, {"vocab_size": 99, "hidden_size": 24, "num_hidden_layers": 1}
IMAGE_TOKEN = 98


def pixels() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def llava() -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(0)
    text = {**TEXT, "model_type": "llama", "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {**TOWER, **IMAGE, "model_type": "clip_vision_model"}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, image_seq_length=4)
    ids = tokens(2, 9)
    ids[:, 1:5] = IMAGE_TOKEN
    return LlavaForConditionalGeneration(config).eval(), {"input_ids": ids, "pixel_values": pixels()}


def test_the_vision_tower_of_a_model(tmp_path: Path) -> None:
    model, inputs = llava()
    dense = model(**inputs).logits
    tower = model.model.vision_tower
    compact = gp.prune(tower, {"pixel_values": pixels()}, ratio=0.2, homogeneous=True)
    model.model.vision_tower = compact.module
    model.config.vision_config = compact.module.config
    pruned = model(**inputs).logits
    assert pruned.shape == dense.shape
    assert not torch.allclose(pruned, dense)
    masked, _ = llava()
    zero_pruned(masked.model.vision_tower, gp.trace(tower, {"pixel_values": pixels()}), compact.plan)
    assert torch.allclose(pruned, masked(**inputs).logits, atol=1e-5)
    model.save_pretrained(tmp_path / "out")
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded(**inputs).logits, pruned)
    assert loaded.num_parameters() < masked.num_parameters()


def zero_pruned(module: nn.Module, traced: gp.TracedModel, plan: gp.PruningPlan) -> None:
    """Put zeros into a module in place of what a plan for another one like it removes."""
    from graphprune.passes.slice_parameters import parameter_masks, zero_masked

    masks = parameter_masks(traced.inference, plan.keep(traced))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in masks:
                parameter.copy_(zero_masked(parameter, masks[name]))


def test_both_towers_of_clip() -> None:
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": 99, "max_position_embeddings": 16, "eos_token_id": 98, "projection_dim": 20}
    config = CLIPConfig(text_config=text, vision_config={**TOWER, **IMAGE, "projection_dim": 20}, projection_dim=20)
    model: Any = CLIPModel(config).eval()
    inputs = {"input_ids": tokens(2, 9), "pixel_values": pixels()}
    before = sum(parameter.numel() for parameter in model.parameters())
    model.vision_model = gp.prune(model.vision_model, {"pixel_values": pixels()}, ratio=0.2, form="module").module
    model.text_model = gp.prune(model.text_model, {"input_ids": tokens(2, 9)}, ratio=0.2, form="module").module
    assert model(**inputs).logits_per_image.shape == (2, 2)
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.85 * before


def test_the_decoder_of_a_language_model_keeps_its_width() -> None:
    model: Any = tiny_llama(tied=True).eval()
    compact = gp.prune(model.model, {"input_ids": tokens()}, ratio=0.2, form="module")
    assert compact.module.embed_tokens.weight.shape == model.lm_head.weight.shape
    assert compact.module.embed_tokens.weight is not model.lm_head.weight
    model.model = compact.module
    model.tie_weights()
    assert model.model.embed_tokens.weight is model.lm_head.weight
    assert model(tokens()).logits.shape == (3, 11, 97)

"""Tiny models, and plans that halve them."""

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune as gp
from graphprune.groups import PruningGroup

VOCABULARY = 97
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(
    *,
    tied: bool = True,
    layers: int = 2,
    hidden: int = 48,
    intermediate: int = 80,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Four KV heads with two query heads each, random weights, the same at every call."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=8,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval().to(dtype)


def add_adapters(model: Any, **options: Any) -> Any:
    """LoRA of rank 4 on all projections, with factors that matter."""
    wrapped = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, **options}))
    return randomise(wrapped).eval()


def randomise(model: Any) -> Any:
    """Give the factors of adapters that start as zeros random values."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            parameter.data.normal_(0, 0.2)
    return model


def tokens(rows: int = 2, length: int = 11) -> Tensor:
    """``[rows, length]``, the same at every call."""
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(2))


def traced_llama(model: nn.Module) -> gp.TracedModel:
    """The model traced on token ids."""
    return gp.trace(model, kwargs={"input_ids": tokens()})


def half(traced: gp.TracedModel, chosen: Callable[[PruningGroup], bool], *, uneven: bool = False) -> gp.PruningPlan:
    """A plan that keeps random halves of the chosen groups; one unit more in the second layer if ``uneven``."""
    generator = torch.Generator().manual_seed(3)
    plans: dict[str, gp.GroupPlan] = {}
    for group in traced.groups:
        if chosen(group):
            count = max(1, group.units // 2) + int(uneven and "layers.1.mlp" in group.name)
            kept = torch.randperm(group.units, generator=generator)[:count].sort().values.tolist()
            plans[group.name] = gp.GroupPlan(group.units, tuple(kept))
    return gp.PruningPlan(traced.fingerprint, plans)


def described(group: PruningGroup) -> bool:
    """What the config of a LLaMA has numbers for."""
    return group.status == "prunable" and group.kind in ("heads", "repeats", "channels")


def any_prunable(group: PruningGroup) -> bool:
    return group.status == "prunable"


def compact_llama(model: nn.Module, *, per_layer: bool = False) -> gp.CompactModel:
    """The model cut to half, alike in every layer, or not."""
    traced = traced_llama(model)
    return gp.rewrite(traced, half(traced, any_prunable if per_layer else described, uneven=per_layer))


def logits(model: Any, **inputs: Tensor) -> Tensor:
    """The logits for new token ids."""
    with torch.no_grad():
        return model(**(inputs or {"input_ids": tokens(3, 7)})).logits  # type: ignore[no-any-return]

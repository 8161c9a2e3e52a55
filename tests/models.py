"""Tiny random models that the tests share."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 97
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(
    *, kv: int = 2, rep: int = 3, tied: bool = True, peft: bool = False, device: str = "cpu", **more: Any
) -> nn.Module:
    """LLaMA with ``kv`` groups of ``rep`` query heads, head dim 8, hidden 48, 80 MLP channels and 2 layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": kv * rep,
            "num_key_value_heads": kv,
            "head_dim": 8,
            "tie_word_embeddings": tied,
            **more,
        }
    )
    with torch.device(device):  # a tie would not outlive a move to the meta device
        return with_adapters(LlamaForCausalLM(config)) if peft else LlamaForCausalLM(config)


def with_adapters(model: nn.Module, rank: int = 4) -> nn.Module:
    """The model with LoRA on all seven projections, its B factors away from zero."""
    adapted: nn.Module = get_peft_model(model, LoraConfig(r=rank, lora_alpha=8, target_modules=PROJECTIONS))  # type: ignore[arg-type]
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return adapted


def tokens(*shape: int, seed: int = 0) -> Tensor:
    """Token ids."""
    return torch.randint(0, VOCABULARY, shape or (3, 11), generator=torch.Generator().manual_seed(seed))


def tiny(family: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny model of a family of transformers, and inputs to trace it with."""
    torch.manual_seed(0)
    ids = {"input_ids": tokens()}
    match family:
        case "llama":
            return tiny_llama(), ids
        case "llama with adapters":
            return tiny_llama(peft=True, tied=False), ids
        case "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=6, n_positions=32)
            ), ids
        case "bert":
            sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 80}
            config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **sizes)
            return BertForMaskedLM(config), {**ids, "attention_mask": torch.ones_like(ids["input_ids"])}
        case "t5":
            t5 = T5Config(vocab_size=VOCABULARY, d_model=48, d_kv=8, d_ff=80, num_layers=2, num_heads=6)
            return T5ForConditionalGeneration(t5), {**ids, "decoder_input_ids": tokens(3, 5)}
        case "mixtral":
            return MixtralForCausalLM(
                MixtralConfig(
                    vocab_size=VOCABULARY,
                    hidden_size=48,
                    intermediate_size=40,
                    num_hidden_layers=2,
                    num_attention_heads=6,
                    num_key_value_heads=2,
                    num_local_experts=4,
                )
            ), ids
    raise ValueError(family)

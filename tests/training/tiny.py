"""Tiny LLaMAs to tune, and texts of random tokens."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from graphprune.passes.slice_parameters import is_zero_where_masked
from graphprune.plan import PruningPlan
from graphprune.training.finetune import Windows

VOCABULARY = 61


def tiny_llama(*, kv_heads: int = 2, queries: int = 2, tied: bool = True, layers: int = 2) -> nn.Module:
    """Random weights, the same at every call."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=kv_heads * queries,
            num_key_value_heads=kv_heads,
            head_dim=8,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def tiny_with_adapters(**sizes: Any) -> nn.Module:
    """The same with LoRA of rank 4."""
    model = tiny_llama(**sizes)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))  # type: ignore[arg-type]


def random_windows(count: int = 40, length: int = 12) -> Tensor:
    """``[count, length]``, the same at every call."""
    return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1))


def plain_trainer(model: nn.Module, directory: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    """An unmodified Trainer, as a user would make it, with 20 steps of 4 windows."""
    settings: dict[str, Any] = {
        "max_steps": 20,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 7,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(str(directory), **{**settings, **arguments}),
        train_dataset=Windows(random_windows()),
        callbacks=list(callbacks),
    )


def unmasked(model: nn.Module, traced: Any, plan: PruningPlan) -> list[str]:
    """The parameters that hold something else than zeros in a pruned slice."""
    masks = plan.masks(traced)
    return [
        name
        for name, parameter in model.named_parameters()
        if not is_zero_where_masked(parameter.detach(), masks[name])
    ]

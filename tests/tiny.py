"""A tiny LLaMA with a tokenizer that reads any text, as a directory that ``from_pretrained`` loads."""

from pathlib import Path
from typing import Any

import torch


def save_tiny_llama(path: Path, **changes: Any) -> Path:
    """Two layers of width 32, two KV heads with two query heads each, tied embeddings, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).save_pretrained(path)
    save_byte_tokenizer(path)
    return path


def save_adapter(path: Path, base: Path, **changes: Any) -> Path:
    """LoRA of rank 4 on all projections of a model in a directory, with factors that matter, as peft saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    torch.manual_seed(1)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**settings, **changes}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(path)
    return path


def save_byte_tokenizer(path: Path) -> None:
    """A token for each byte, and one for the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, **{letter: index for index, letter in enumerate(alphabet, start=1)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>", pad_token="<end>"
    ).save_pretrained(path)

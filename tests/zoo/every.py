"""Every model type that transformers has, with its default config made small by one set of rules.

No rule is for one type: a config whose sizes hang together in a way that no rule knows gives a model that does not run,
and is not counted. ``tools/zoo_table.py every`` runs them; they are not part of the suite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto

from .language import Entry, fill_zeros

KINDS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "IMAGE_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "OBJECT_DETECTION",
    "CTC",
    "AUDIO_CLASSIFICATION",
    "TIME_SERIES_PREDICTION",
)
"""Of the classes of a type the first is taken."""

WIDTHS = dict.fromkeys(
    ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size", "encoder_hidden_size"), 32
)
INNER = dict.fromkeys(
    ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 48
)
DEPTHS = dict.fromkeys(
    (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "encoder_layers",
        "decoder_layers",
        "num_encoder_layers",
        "num_decoder_layers",
        "num_self_attends_per_block",
    ),
    2,
)
HEADS = dict.fromkeys(
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4
)
EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
TOKENS = {
    "vocab_size": 99,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
}
SMALL: Mapping[str, int] = {
    **WIDTHS,
    **INNER,
    **DEPTHS,
    **HEADS,
    **EXPERTS,
    **TOKENS,
    "num_key_value_heads": 2,
    "sliding_window": 16,
    "image_size": 32,
    "patch_size": 8,
    "num_queries": 10,
    "head_dim": 8,
    "d_kv": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
}
UNCHANGED = dict.fromkeys((*WIDTHS, *HEADS))
OTHERWISE: tuple[Mapping[str, int | None], ...] = (
    {},
    {"head_dim": 4},
    {"head_dim": None},
    {"rotary_dim": 8},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 4, "head_dim": 4},
    {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_d_ssm": 64, "mamba_n_groups": 1},
    {"mamba_ngroups": 1, "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_d_state": 8},
    {"num_heads": 8, "n_groups": 1, "state_size": 8},
    {"num_dense_layers": 1, "is_decoder": 1, "embedding_dim": 32},
    {"image_size": 64},
    {"image_size": 64, **UNCHANGED},
    {"image_size": None, "patch_size": None, **UNCHANGED},
)
"""Sizes that hang together in other ways, tried in turn; None leaves what the config says."""

LARGEST = 5_000_000
"""Parameters; what is larger takes minutes."""

BLOCKS = ("layer_types", "layers_block_type", "mlp_layer_types")
"""Lists with the kind of each layer, of which one of each kind stays."""


def every_type() -> dict[str, Entry]:
    """An entry for each model type of which transformers has a class of one of the :data:`KINDS`."""
    classes: dict[str, str] = {}
    for kind in KINDS:
        for name, found in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").items():
            classes.setdefault(name, found if isinstance(found, str) else found[0])
    return {name: _entry(name, class_name) for name, class_name in sorted(classes.items())}


def _entry(model_type: str, class_name: str) -> Entry:
    def entry() -> tuple[nn.Module, dict[str, Any]]:
        first: Exception | None = None
        for make in _ways(model_type, class_name):
            try:
                return make()
            except Exception as error:  # sizes that do not fit together fail in every way that there is
                first = first or error
        assert first is not None
        raise first

    return entry


def _ways(model_type: str, class_name: str) -> Iterator[Any]:
    model_class = getattr(transformers, class_name)
    for config_class in dict.fromkeys((CONFIG_MAPPING[model_type], model_class.config_class)):
        for other in OTHERWISE:
            yield lambda made=config_class, sizes={**SMALL, **other}: _built(model_class, made(), sizes)


def _built(model_class: Any, config: Any, sizes: Mapping[str, int | None]) -> tuple[nn.Module, dict[str, Any]]:
    shrink(config, sizes)
    config.use_cache = False
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class._from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"it has {size:,} parameters, more than {LARGEST:,}")
    model = model_class._from_config(config).eval().float()
    fill_zeros(model)
    inputs = _inputs(model, config)
    with torch.no_grad():
        model(**inputs)
    return model, inputs


def shrink(config: PreTrainedConfig, sizes: Mapping[str, int | None]) -> None:
    """Make a config and those within it small."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            shrink(value, sizes)
        elif name in BLOCKS and isinstance(value, (list, tuple)) and len(value) > 2:
            kinds = list(dict.fromkeys(value))
            setattr(config, name, kinds if len(kinds) > 1 else kinds * 2)
            sizes = {**sizes, "num_hidden_layers": max(2, len(kinds))}
    for name, size in sizes.items():
        named = config.attribute_map.get(name, name)
        value = vars(config).get(named)
        if (
            size is not None
            and isinstance(value, (int, float))
            and (not isinstance(value, bool) or name == "is_decoder")
        ):
            setattr(config, named, type(value)(size))


def _inputs(model: Any, config: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 99, (2, 8), generator=generator)
    match model.main_input_name:
        case "pixel_values":
            vision = getattr(config, "vision_config", config)
            side = getattr(vision, "image_size", None) or 32
            height, width = side if isinstance(side, (list, tuple)) else (side, side)
            channels = getattr(vision, "num_channels", 3)
            return {"pixel_values": torch.randn(2, channels, height, width, generator=generator)}
        case "input_values":
            return {"input_values": torch.randn(2, 800, generator=generator)}
        case "input_features":
            return {"input_features": torch.randn(2, 80, 64, generator=generator)}
        case _ if config.is_encoder_decoder:
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids[:, :6]}
        case _:
            return {"input_ids": ids}


EVERY = every_type()

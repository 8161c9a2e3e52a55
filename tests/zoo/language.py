"""Tiny random language models: decoders, encoders, encoder-decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Entry = Callable[[], tuple[nn.Module, dict[str, Any]]]
"""Makes a model and the keyword inputs to trace it with."""

VOCABULARY = 97


def fill_zeros(model: nn.Module) -> None:
    """Give values to weights that are zero at first, such as those of a head: they would hide what comes before."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def ids(*shape: int) -> torch.Tensor:
    """Token ids."""
    return torch.randint(3, VOCABULARY, shape or (3, 11), generator=torch.Generator().manual_seed(0))


def common(**more: Any) -> dict[str, Any]:
    """Sizes that most configs take under these names."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def causal(name: str, **more: Any) -> Entry:
    """A decoder of transformers by the stem of its class names."""
    return lambda: (build(f"{name}Config", f"{name}ForCausalLM", **common(**more)), {"input_ids": ids()})


def build(config: str, model: str, **sizes: Any) -> nn.Module:
    """A random transformers model of given sizes."""
    import transformers

    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**sizes))  # type: ignore[no-any-return]


def encoder(name: str, model: str = "ForMaskedLM", **more: Any) -> Entry:
    """An encoder of transformers."""
    return lambda: (build(f"{name}Config", f"{name}{model}", **common(**more)), {"input_ids": ids()})


def seq2seq(name: str, model: str = "ForConditionalGeneration", **sizes: Any) -> Entry:
    """An encoder-decoder of transformers."""
    return lambda: (
        build(f"{name}Config", f"{name}{model}", **sizes),
        {"input_ids": ids(), "decoder_input_ids": ids(3, 7)},
    )


def masked(entry: Entry) -> Entry:
    """The same, with a mask of the input that masks nothing."""

    def with_mask() -> tuple[nn.Module, dict[str, Any]]:
        model, inputs = entry()
        return model, {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}

    return with_mask


BART = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 48,
    "d_kv": 8,
    "d_ff": 80,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 6,
    "decoder_start_token_id": 0,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 64}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}

LANGUAGE: dict[str, Entry] = {
    "llama": causal("Llama", **GROUPED),
    "mistral": causal("Mistral", **GROUPED),
    "qwen2": causal("Qwen2", num_key_value_heads=2),
    "qwen3": causal("Qwen3", **GROUPED),
    "gemma": causal("Gemma", **GROUPED),
    "gemma2": causal("Gemma2", **GROUPED),
    "gemma3": lambda: (
        build("Gemma3TextConfig", "Gemma3ForCausalLM", **common(**GROUPED, query_pre_attn_scalar=8, sliding_window=5)),
        {"input_ids": ids()},
    ),
    "phi": causal("Phi"),
    "phi3": causal("Phi3", num_key_value_heads=2),
    "gpt2": lambda: (build("GPT2Config", "GPT2LMHeadModel", **GPT2), {"input_ids": ids()}),
    "gpt_neo": lambda: (
        build(
            "GPTNeoConfig",
            "GPTNeoForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=48,
            num_layers=2,
            num_heads=6,
            intermediate_size=80,
            max_position_embeddings=64,
            attention_types=[[["global", "local"], 1]],
            window_size=5,
        ),
        {"input_ids": ids()},
    ),
    "gpt_neox": causal("GPTNeoX", num_attention_heads=3),
    "gptj": lambda: (
        build("GPTJConfig", "GPTJForCausalLM", **GPT2, rotary_dim=4),
        {"input_ids": ids()},
    ),
    "codegen": lambda: (
        build("CodeGenConfig", "CodeGenForCausalLM", **{**GPT2, "n_head": 8, "n_embd": 64}, rotary_dim=4),
        {"input_ids": ids()},
    ),
    "opt": causal("OPT", ffn_dim=80, word_embed_proj_dim=48),
    "bloom": lambda: (
        build("BloomConfig", "BloomForCausalLM", vocab_size=VOCABULARY, hidden_size=48, n_layer=2, n_head=6),
        {"input_ids": ids()},
    ),
    "falcon": causal("Falcon", num_kv_heads=2, new_decoder_architecture=True),
    "stablelm": causal("StableLm", hidden_size=64, num_attention_heads=4, num_key_value_heads=2),
    "starcoder2": causal("Starcoder2", num_key_value_heads=2),
    "cohere": causal("Cohere", num_key_value_heads=2),
    "olmo2": causal("Olmo2", num_key_value_heads=2),
    "granite": causal("Granite", num_key_value_heads=2),
    "mixtral": causal("Mixtral", num_key_value_heads=2, num_local_experts=4),
    "qwen3_moe": causal("Qwen3Moe", **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=40),
    "deepseek_v3": causal(
        "DeepseekV3",
        num_key_value_heads=6,
        n_routed_experts=8,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=40,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
    ),
    "mamba": lambda: (
        build(
            "MambaConfig", "MambaForCausalLM", vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, state_size=4
        ),
        {"input_ids": ids()},
    ),
    "olmo": causal("Olmo", num_key_value_heads=2),
    "gpt_oss": causal("GptOss", **GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=5),
    "nemotron": causal("Nemotron", num_key_value_heads=2),
    "exaone4": causal("Exaone4", num_key_value_heads=2, sliding_window=5, sliding_window_pattern=2),
    "glm4": causal("Glm4", **GROUPED),
    "persimmon": causal("Persimmon"),
    "smollm3": causal("SmolLM3", num_key_value_heads=2),
    "phimoe": causal("Phimoe", num_key_value_heads=2, num_local_experts=4),
    "qwen2_moe": causal(
        "Qwen2Moe",
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=40,
    ),
    "cohere2": causal("Cohere2", num_key_value_heads=2, sliding_window=5),
    "mpt": lambda: (
        build("MptConfig", "MptForCausalLM", vocab_size=VOCABULARY, d_model=48, n_heads=6, n_layers=2, max_seq_len=64),
        {"input_ids": ids()},
    ),
    "gpt_bigcode": lambda: (
        build("GPTBigCodeConfig", "GPTBigCodeForCausalLM", **GPT2),
        {"input_ids": ids()},
    ),
    "mamba2": lambda: (
        build(
            "Mamba2Config",
            "Mamba2ForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=48,
            num_hidden_layers=2,
            state_size=8,
            num_heads=6,
            head_dim=16,
            n_groups=2,
            chunk_size=4,
        ),
        {"input_ids": ids()},
    ),
    "falcon_mamba": lambda: (
        build(
            "FalconMambaConfig",
            "FalconMambaForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=48,
            num_hidden_layers=2,
            state_size=4,
        ),
        {"input_ids": ids()},
    ),
    "jetmoe": causal("JetMoe", num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=6, kv_channels=8),
    "rwkv": lambda: (
        build(
            "RwkvConfig",
            "RwkvForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=48,
            attention_hidden_size=48,
            num_hidden_layers=2,
        ),
        {"input_ids": ids()},
    ),
    "bert": encoder("Bert"),
    "xlm_roberta": encoder("XLMRoberta"),
    "camembert": encoder("Camembert"),
    "mpnet": encoder("MPNet"),
    "layoutlm": encoder("LayoutLM"),
    "data2vec_text": encoder("Data2VecText"),
    "longformer": encoder("Longformer", attention_window=4),
    "convbert": encoder("ConvBert", embedding_size=48),
    "big_bird": encoder("BigBird", attention_type="original_full"),
    "funnel": lambda: (
        build(
            "FunnelConfig",
            "FunnelForMaskedLM",
            vocab_size=VOCABULARY,
            d_model=48,
            n_head=6,
            d_head=8,
            d_inner=80,
            block_sizes=[1, 1],
        ),
        {"input_ids": ids()},
    ),
    "roberta": encoder("Roberta"),
    "distilbert": lambda: (
        build(
            "DistilBertConfig",
            "DistilBertForMaskedLM",
            vocab_size=VOCABULARY,
            dim=48,
            hidden_dim=80,
            n_layers=2,
            n_heads=6,
            max_position_embeddings=64,
        ),
        {"input_ids": ids()},
    ),
    "electra": encoder("Electra", embedding_size=24),
    "albert": encoder("Albert", embedding_size=24),
    "xlm": lambda: (
        build("XLMConfig", "XLMWithLMHeadModel", vocab_size=VOCABULARY, emb_dim=48, n_layers=2, n_heads=6),
        {"input_ids": ids()},
    ),
    "roformer": encoder("RoFormer"),
    "xlnet": lambda: (
        build("XLNetConfig", "XLNetLMHeadModel", vocab_size=VOCABULARY, d_model=48, n_layer=2, n_head=6, d_inner=80),
        {"input_ids": ids()},
    ),
    "deberta_v2": encoder("DebertaV2"),
    "modernbert": encoder("ModernBert"),
    "t5": seq2seq("T5", **T5),
    "mt5": seq2seq("MT5", **T5),
    "bart": seq2seq("Bart", **BART),
    "pegasus": seq2seq("Pegasus", **BART),
    "marian": seq2seq("Marian", "MTModel", **BART),
    "mbart": seq2seq("MBart", **BART),
    "blenderbot": seq2seq("Blenderbot", **BART),
    "m2m_100": seq2seq("M2M100", **BART),
    "prophetnet": seq2seq(
        "ProphetNet",
        vocab_size=VOCABULARY,
        hidden_size=48,
        encoder_ffn_dim=80,
        decoder_ffn_dim=80,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=6,
        num_decoder_attention_heads=6,
        max_position_embeddings=64,
    ),
    "led": seq2seq(
        "LED",
        **{k: v for k, v in BART.items() if k != "max_position_embeddings"},
        attention_window=4,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
    ),
    "fsmt": seq2seq("FSMT", **BART, langs=["en", "de"], src_vocab_size=VOCABULARY, tgt_vocab_size=VOCABULARY),
    "longt5": masked(
        seq2seq("LongT5", **T5, local_radius=3, encoder_attention_type="transient-global", global_block_size=4)
    ),
    "switch_transformers": masked(seq2seq("SwitchTransformers", **T5, num_experts=4)),
    "whisper": lambda: (
        build(
            "WhisperConfig",
            "WhisperForConditionalGeneration",
            **{
                key: value
                for key, value in BART.items()
                if key not in ("max_position_embeddings", "forced_eos_token_id")
            },
            num_mel_bins=10,
            max_source_positions=13,
            max_target_positions=64,
        ),
        {"input_features": torch.randn(3, 10, 26), "decoder_input_ids": ids(3, 7)},
    ),
}

"""Small configs, written by hand, of types of transformers for text, sound, series and several things at once.

They are of types whose default config no general rule makes small (``every.py``), or that want images, sound or other
inputs. ``python tools/zoo_table.py sized_text`` runs them; they are not part of the suite.
"""

from __future__ import annotations

import torch

from .language import VOCABULARY, Entry, common
from .sized_entries import Config, Inputs, entry, ids, noise, ones, part, with_places, without


def with_image(count: int) -> Inputs:
    """Token ids with ``count`` places for an image, and the image."""
    return {"input_ids": with_places(3, count, 4), "pixel_values": noise(2, 3, 32, 32)}


def grid(side: int) -> torch.Tensor:
    """Where each patch of two images is."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([rows, columns], -1).reshape(1, -1, 2).repeat(2, 1, 1)


# fmt: off
COMMON = common()
GROUPED: Config = {"num_key_value_heads": 3, "head_dim": 10}
ROPE: Config = {"rope_type": "default", "rope_theta": 10000.0}
LAYERS = ["sliding_attention", "full_attention"]

BYTES: Config = {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 60}
ROPES: Config = dict.fromkeys(LAYERS, ROPE)
LATENT: Config = {
    "kv_lora_rank": 14, "q_lora_rank": 22, "qk_nope_head_dim": 10, "qk_rope_head_dim": 4, "v_head_dim": 12,
}
GEMMA3N: Config = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "max_position_embeddings": 64,
    "pad_token_id": 0, "sliding_window": 5, "layer_types": LAYERS * 2, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 14, "altup_num_inputs": 3, "num_kv_shared_layers": 2, "laurel_rank": 7,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
}
GEMMA4: Config = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "global_head_dim": 14,
    "max_position_embeddings": 64, "pad_token_id": 0, "sliding_window": 5, "layer_types": LAYERS,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 12,
}
QWEN4: Config = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "head_dim": 12, "max_position_embeddings": 64, "linear_key_head_dim": 10,
    "linear_value_head_dim": 14, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28, "num_experts_per_tok": 2, "num_experts": 5, "hc_count": 3, "hc_lowrank": 16,
    "layer_types": ["linear_attention", "full_attention"], "pad_token_id": 0,
}
LAYER_EMBEDDINGS: Config = {
    "eos_token_id": 2, "ple_layer_ids": [2], "ple_embed_dim": 32, "heads_per_ngram": 2, "ngram_vocab_size_base": 40,
    "make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 2, "ngram_size": 3,
}
INDEXER: Config = {
    "indexer_n_heads": 3, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 4,
    "indexer_compress_ratio": 2,
}
REFORMER: Config = {
    "attention_head_size": 8, "axial_pos_shape": (4, 4), "axial_pos_embds_dim": (16, 32), "feed_forward_size": 80,
    "hidden_size": 48, "is_decoder": True, "local_attn_chunk_length": 4, "max_position_embeddings": 16,
    "num_attention_heads": 6, "vocab_size": VOCABULARY,
}
DECODERS: dict[str, Entry] = {
    "blt": entry("BltForCausalLM", {"input_ids": ids(2, 12, below=60)}, vocab_size=60, max_position_embeddings=64,
        patch_size=4, encoder_hash_byte_group_size=[3, 4], encoder_hash_byte_group_vocab=50, max_patch_length=4,
        patcher_config={"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 5, "num_key_value_heads": 5,
            "vocab_size": 60, "intermediate_size": 28, "head_dim": 4},
        encoder_config={**BYTES, "num_hidden_layers": 1, "intermediate_size": 36, "hidden_size_global": 48},
        decoder_config={**BYTES, "num_hidden_layers": 2, "intermediate_size": 44, "hidden_size_global": 48},
        global_config={"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
            "intermediate_size": 56}),
    "cohere_compass_text": entry("CohereCompassTextModel", **COMMON, **GROUPED, layer_types=LAYERS, sliding_window=5,
        rope_parameters=ROPES),
    "dbrx": entry("DbrxForCausalLM", d_model=48, n_heads=6, n_layers=2, max_seq_len=64, vocab_size=VOCABULARY,
        attn_config={"kv_n_heads": 3, "clip_qkv": 8.0, "rope_theta": 10000.0},
        ffn_config={"hidden_size": 48, "ffn_hidden_size": 40, "moe_num_experts": 5, "moe_top_k": 2}),
    "deepseek_v2": entry("DeepseekV2ForCausalLM", **COMMON, **LATENT, num_key_value_heads=6, head_dim=4,
        first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=2, n_group=2, topk_group=1,
        topk_method="group_limited_greedy", num_experts_per_tok=2, moe_intermediate_size=20),
    "dots1": entry("Dots1ForCausalLM", **COMMON, **GROUPED, n_shared_experts=2, n_routed_experts=5,
        num_experts_per_tok=2, first_k_dense_replace=1, moe_intermediate_size=20, layer_types=LAYERS, sliding_window=5),
    "gemma3n_text": entry("Gemma3nForCausalLM", config_class="Gemma3nTextConfig", **GEMMA3N),
    "gemma4_text": entry("Gemma4ForCausalLM", config_class="Gemma4TextConfig", **GEMMA4),
    "gemma4_text_moe": entry("Gemma4ForCausalLM", config_class="Gemma4TextConfig",
        **{**GEMMA4, "num_hidden_layers": 4, "layer_types": LAYERS * 2}, num_kv_shared_layers=2,
        enable_moe_block=True, num_experts=5, top_k_experts=2, moe_intermediate_size=20, attention_k_eq_v=True,
        num_global_key_value_heads=2),
    "hunyuan_v1_dense": entry("HunYuanDenseV1ForCausalLM", **COMMON, **GROUPED),
    "hunyuan_v1_moe": entry("HunYuanMoEV1ForCausalLM", **COMMON, **GROUPED, num_experts=5, moe_topk=2),
    "lfm2_moe": entry("Lfm2MoeForCausalLM", **COMMON, num_key_value_heads=3, num_dense_layers=1, num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=20, layer_types=["conv", "full_attention"]),
    "longcat_flash": entry("LongcatFlashForCausalLM", **without(COMMON, "intermediate_size", "num_hidden_layers"),
        **LATENT, num_key_value_heads=6, head_dim=4, num_layers=2, ffn_hidden_size=80, moe_topk=2, n_routed_experts=6,
        zero_expert_num=2, expert_ffn_hidden_size=20),
    "ministral": entry("MinistralForCausalLM", **COMMON, **GROUPED, sliding_window=5, layer_types=LAYERS),
    "nemotron": entry("NemotronForCausalLM", **COMMON, **GROUPED),
    "qwen4_exp_text": entry("Qwen4ExpForCausalLM", config_class="Qwen4ExpTextConfig",
        **{**QWEN4, "layer_types": ["linear_attention"] * 2}),
    "qwen4_exp_text_ple": entry("Qwen4ExpForCausalLM", config_class="Qwen4ExpTextConfig",
        **{**QWEN4, "layer_types": ["linear_attention"] * 2}, **LAYER_EMBEDDINGS),
    "qwen4_exp_text_indexer": entry("Qwen4ExpForCausalLM", config_class="Qwen4ExpTextConfig", **QWEN4, **INDEXER),
    "recurrent_gemma": entry("RecurrentGemmaForCausalLM", num_hidden_layers=3, vocab_size=VOCABULARY, hidden_size=48,
        intermediate_size=160, num_attention_heads=6, num_key_value_heads=3, lru_width=48, attention_window_size=5,
        block_types=["recurrent", "attention", "recurrent"], head_dim=8),
    "reformer": entry("ReformerModelWithLMHead", {"input_ids": ids(2, 16)}, **REFORMER, attn_layers=["local", "lsh"],
        lsh_attn_chunk_length=4, num_buckets=4, hash_seed=0),
    "reformer_local": entry("ReformerModelWithLMHead", {"input_ids": ids(2, 16)}, **REFORMER,
        attn_layers=["local", "local"]),
    "zamba": entry("ZambaForCausalLM", **{**COMMON, "num_hidden_layers": 4},
        layers_block_type=["linear_attention", "hybrid"] * 2, num_key_value_heads=6, n_mamba_heads=2, mamba_d_state=6,
        mamba_dt_rank=5, use_mamba_kernels=False),
    "zamba2": entry("Zamba2ForCausalLM", **{**COMMON, "num_hidden_layers": 3},
        layers_block_type=["linear_attention", "hybrid", "hybrid"], mamba_d_state=6, n_mamba_heads=8, mamba_ngroups=2,
        chunk_size=4, num_key_value_heads=6, num_mem_blocks=1, use_shared_attention_adapter=True, adapter_rank=5,
        use_mem_rope=True, use_mamba_kernels=False),
}

TABLE: Inputs = {"input_ids": ids(2, 9), "token_type_ids": torch.zeros(2, 9, 7, dtype=torch.long)}
CANINE: Config = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 80,
    "max_position_embeddings": 64, "type_vocab_size": 3, "num_hash_functions": 4, "num_hash_buckets": 30,
    "local_transformer_stride": 8,
}
SQUEEZEBERT: Config = {
    **COMMON, "embedding_size": 48, "q_groups": 2, "k_groups": 2, "v_groups": 2, "intermediate_groups": 2,
    "output_groups": 2,
}
ENCODERS: dict[str, Entry] = {
    "esm": entry("EsmForMaskedLM", {"input_ids": ids(2, 9, below=32), "attention_mask": ones(2, 9)},
        **common(vocab_size=33), mask_token_id=32, position_embedding_type="rotary"),
    "luke": entry("LukeForMaskedLM", {"input_ids": ids(2, 9), "entity_ids": ids(2, 3, below=30),
        "entity_position_ids": ids(2, 3, 5, least=0, below=9), "entity_attention_mask": ones(2, 3)},
        **COMMON, entity_vocab_size=31, entity_emb_size=22),
    "perceiver": entry("PerceiverForMaskedLM", {"inputs": ids(2, 12), "attention_mask": ones(2, 12)}, num_latents=10,
        d_latents=48, d_model=40, num_blocks=1, num_self_attends_per_block=2, num_self_attention_heads=6,
        num_cross_attention_heads=4, qk_channels=24, v_channels=48, vocab_size=VOCABULARY, max_position_embeddings=12),
    "roc_bert": entry("RoCBertForMaskedLM",
        {"input_ids": ids(2, 9), "input_shape_ids": ids(2, 9), "input_pronunciation_ids": ids(2, 9, below=50)},
        **COMMON, pronunciation_embed_dim=22, pronunciation_vocab_size=50, shape_embed_dim=18,
        shape_vocab_size=VOCABULARY),
    "xmod": entry("XmodForMaskedLM", **COMMON, languages=["en_XX", "de_DE"], default_language="en_XX"),
    "tapas": entry("TapasForQuestionAnswering", {**TABLE, "attention_mask": ones(2, 9)}, **COMMON,
        type_vocab_sizes=(3, 8, 8, 2, 8, 8, 10), num_aggregation_labels=4),
    "tapas_mlm": entry("TapasForMaskedLM", TABLE, **COMMON, type_vocab_sizes=(3, 8, 8, 2, 8, 8, 10)),
    "flava_text": entry("FlavaTextModel", **COMMON),
    "splinter": entry("SplinterForQuestionAnswering", {"input_ids": with_places(4, 1, 4, token=95, below=90)}, **COMMON,
        question_token_id=95),
    "splinter_model": entry("SplinterModel", **COMMON),
    "canine": entry("CanineForTokenClassification", {"input_ids": ids(2, 16)}, **CANINE),
    "canine_qa": entry("CanineForQuestionAnswering", {"input_ids": ids(2, 16)}, **CANINE),
    "fnet": entry("FNetForMaskedLM", **without(COMMON, "num_attention_heads")),
    "nystromformer": entry("NystromformerForMaskedLM", {"input_ids": ids(2, 16)}, **COMMON, segment_means_seq_len=16,
        num_landmarks=4, conv_kernel_size=3),
    "mra": entry("MraForMaskedLM", {"input_ids": ids(2, 64)}, **COMMON),
    "yoso": entry("YosoForMaskedLM", {"input_ids": ids(2, 16)}, **COMMON, use_expectation=True),
    "yoso_conv": entry("YosoForMaskedLM", {"input_ids": ids(2, 16)}, **COMMON, use_expectation=True, conv_window=3),
    "ibert": entry("IBertForMaskedLM", **COMMON),
    "ibert_quant": entry("IBertForMaskedLM", **COMMON, quant_mode=True),
    "megatron-bert": entry("MegatronBertForMaskedLM", **COMMON),
    "rembert": entry("RemBertForMaskedLM", **COMMON, input_embedding_size=20, output_embedding_size=28),
    "squeezebert": entry("SqueezeBertForMaskedLM", **{**SQUEEZEBERT, "num_attention_heads": 8}),
    "squeezebert_heads": entry("SqueezeBertForMaskedLM", **SQUEEZEBERT),
    "mobilebert": entry("MobileBertForMaskedLM", **COMMON, embedding_size=24, intra_bottleneck_size=24,
        num_feedforward_networks=2),
    "mobilebert_plain": entry("MobileBertForMaskedLM", **COMMON, embedding_size=20, intra_bottleneck_size=24,
        use_bottleneck=False, num_feedforward_networks=1, trigram_input=False),
}

PHI4: Config = {
    **COMMON, "num_key_value_heads": 3, "original_max_position_embeddings": 64,
    "vision_config": {"hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 3, "num_attention_heads": 3,
        "image_size": 32, "patch_size": 8, "crop_size": 32, "image_token_id": 90},
    "audio_config": {"hidden_size": 28, "intermediate_size": 44, "num_blocks": 2, "num_attention_heads": 4,
        "left_chunk": 4, "ext_pw_out_channel": 28, "depthwise_separable_out_channel": 28, "input_size": 16,
        "nemo_conv_channels": 22, "audio_token_id": 91, "bias_max_distance": 20},
}
QWEN_VISION: Config = {
    "depth": 2, "hidden_size": 36, "intermediate_size": 52, "num_heads": 3, "patch_size": 4, "spatial_merge_size": 2,
    "temporal_patch_size": 2, "out_hidden_size": 48, "num_position_embeddings": 16,
}
QWEN_IMAGE: Inputs = {
    "input_ids": with_places(3, 4, 4), "pixel_values": noise(32, 96), "image_grid_thw": torch.tensor([[1, 4, 4]] * 2),
    "mm_token_type_ids": torch.tensor([[0] * 3 + [1] * 4 + [0] * 4] * 2),
}
VIT: Config = {
    "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8,
}
QWEN_TEXT: Config = {**COMMON, "num_key_value_heads": 3, "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]}}
QWEN_TOKENS: Config = {
    "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93,
}
QWEN2_VISION: Config = {
    "depth": 2, "embed_dim": 36, "hidden_size": 48, "mlp_ratio": 2, "num_heads": 3, "patch_size": 4,
}
QWEN_PLACED: Inputs = {**QWEN_IMAGE, "position_ids": torch.arange(11).expand(3, 2, 11)}
QWEN2_5_VISION: Config = {
    "depth": 2, "hidden_size": 36, "intermediate_size": 52, "num_heads": 3, "patch_size": 4, "window_size": 16,
    "out_hidden_size": 48, "fullatt_block_indexes": [1],
}
QWEN3_VL: Config = {
    "text_config": {**QWEN_TEXT, "head_dim": 8}, "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0]},
    **QWEN_TOKENS,
}
IDEFICS3: Config = {
    "vision_config": VIT, "text_config": {"model_type": "llama", **COMMON, **GROUPED}, "image_token_id": 90,
    "scale_factor": 2, "pad_token_id": 0,
}
IDEFICS3_IMAGE: Inputs = {
    "input_ids": with_places(3, 4, 4), "pixel_values": noise(2, 1, 3, 32, 32),
    "pixel_attention_mask": torch.ones(2, 1, 32, 32, dtype=torch.bool),
}
OPT: Config = {
    "model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 2, "ffn_dim": 80,
    "max_position_embeddings": 64, "word_embed_proj_dim": 48, "num_attention_heads": 6,
}
QFORMER: Config = {
    "vocab_size": VOCABULARY, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5,
    "intermediate_size": 60, "max_position_embeddings": 64, "cross_attention_frequency": 2, "encoder_hidden_size": 36,
}
FLORENCE2_TEXT: Config = {
    "vocab_size": VOCABULARY, "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 6,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 80, "decoder_ffn_dim": 68, "max_position_embeddings": 64,
}
JANUS_VISION: Config = {
    "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8,
    "mlp_ratio": 2.0, "projection_dim": 48, "depth": 2, "num_image_tokens": 16,
}
JANUS_CODES: Config = {
    "embed_dim": 6, "num_embeddings": 30, "latent_channels": 8, "base_channels": 32, "channel_multiplier": (1,),
    "num_res_blocks": 1, "num_patches": 4, "projection_dim": 48, "num_hidden_layers": 2, "image_token_embed_dim": 48,
}
CHAMELEON_CODES: Config = {
    "embed_dim": 12, "num_embeddings": 20, "latent_channels": 12, "resolution": 16, "base_channels": 32,
    "channel_multiplier": (1,), "num_res_blocks": 1,
}
LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
CHAMELEON_VOCABULARY: Config = {
    "<image>": 96, **{f"IMGIMG{str(code).translate(LETTERS)}Z": 60 + code for code in range(20)},
}
CHAMELEON_IMAGE: Inputs = {
    "input_ids": with_places(3, 256, 4, token=96, below=50), "pixel_values": noise(2, 3, 16, 16),
}
LXMERT = without(COMMON, "num_hidden_layers")
REGIONS: Inputs = {"input_ids": ids(2, 9), "visual_feats": noise(2, 5, 30), "visual_pos": noise(2, 5, 4)}
FLAVA: Config = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6}
LAYOUTLMV3: Config = {
    **COMMON, "max_2d_position_embeddings": 64, "coordinate_size": 8, "shape_size": 8, "input_size": 32,
    "patch_size": 8, "max_rel_pos": 16, "max_rel_2d_pos": 16, "rel_pos_bins": 8, "rel_2d_pos_bins": 8,
}
BOXED: Inputs = {
    "input_ids": ids(2, 9), "bbox": torch.tensor([3, 5, 12, 20]).expand(2, 9, 4), "attention_mask": ones(2, 9),
}
UDOP: Config = {
    "vocab_size": VOCABULARY, "d_model": 48, "d_kv": 10, "d_ff": 80, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 6, "max_2d_position_embeddings": 64, "image_size": 32, "patch_size": 8,
}
DOCUMENT: Inputs = {
    "input_ids": ids(2, 9), "bbox": torch.tensor([0.1, 0.2, 0.4, 0.6]).expand(2, 9, 4), "attention_mask": ones(2, 9),
}
MULTIMODAL: dict[str, Entry] = {
    "gemma4": entry("Gemma4ForConditionalGeneration", text_config=GEMMA4, image_token_id=90, video_token_id=91,
        audio_token_id=92, boi_token_id=93, boa_token_id=94),
    "gemma4_vision": entry("gemma4.modeling_gemma4.Gemma4VisionModel",
        {"pixel_values": noise(2, 36, 48), "pixel_position_ids": grid(6)}, config_class="Gemma4VisionConfig",
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3,
        head_dim=8, max_position_embeddings=64, pooling_kernel_size=3, patch_size=4, position_embedding_size=16),
    "phi4_multimodal": entry("Phi4MultimodalForCausalLM", **PHI4),
    "phi4_multimodal_audio": entry("Phi4MultimodalForCausalLM",
        {"input_ids": with_places(0, 4, 5, token=91), "audio_input_features": noise(2, 32, 16),
            "audio_embed_sizes": torch.tensor([4, 4])}, **PHI4),
    "perceiver_image": entry("PerceiverForImageClassificationLearned", {"inputs": noise(2, 3, 8, 8)}, num_latents=10,
        d_latents=48, d_model=64, num_blocks=1, num_self_attends_per_block=2, num_self_attention_heads=6,
        num_cross_attention_heads=1, image_size=8, num_labels=5),
    "qwen4_exp": entry("Qwen4ExpForConditionalGeneration", QWEN_IMAGE, text_config={**QWEN4, **INDEXER},
        vision_config=QWEN_VISION, **QWEN_TOKENS),
    "kosmos-2": entry("Kosmos2ForConditionalGeneration", {"input_ids": ids(2, 12), "pixel_values": noise(2, 3, 32, 32),
            "image_embeds_position_mask": torch.tensor([[0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]] * 2)},
        text_config={"vocab_size": VOCABULARY, "embed_dim": 48, "layers": 2, "ffn_dim": 80, "attention_heads": 6,
            "max_position_embeddings": 64}, vision_config=VIT, latent_query_num=5),
    "paligemma": entry("PaliGemmaForConditionalGeneration",
        {**with_image(16), "token_type_ids": torch.zeros(2, 23, dtype=torch.long)},
        text_config={"model_type": "gemma", **COMMON, **GROUPED},
        vision_config={"model_type": "siglip_vision_model", **VIT, "vision_use_head": False}, image_token_index=90,
        projection_dim=48),
    "qwen2_vl": entry("Qwen2VLForConditionalGeneration", QWEN_IMAGE, text_config=QWEN_TEXT, vision_config=QWEN2_VISION,
        **QWEN_TOKENS),
    "qwen2_vl_text": entry("Qwen2VLForConditionalGeneration", text_config=QWEN_TEXT,
        vision_config={**QWEN2_VISION, "depth": 1}, **QWEN_TOKENS),
    "qwen2_vl_pos": entry("Qwen2VLForConditionalGeneration", QWEN_PLACED, text_config=QWEN_TEXT,
        vision_config=QWEN2_VISION, **QWEN_TOKENS),
    "qwen2_5_vl": entry("Qwen2_5_VLForConditionalGeneration", QWEN_IMAGE, text_config=QWEN_TEXT,
        vision_config=QWEN2_5_VISION, **QWEN_TOKENS),
    "qwen2_5_vl_pos": entry("Qwen2_5_VLForConditionalGeneration", QWEN_PLACED, text_config=QWEN_TEXT,
        vision_config=QWEN2_5_VISION, **QWEN_TOKENS),
    "qwen3_vl": entry("Qwen3VLForConditionalGeneration", QWEN_IMAGE, **QWEN3_VL),
    "qwen3_vl_text": entry("Qwen3VLForConditionalGeneration", **QWEN3_VL),
    "qwen3_vl_pos": entry("Qwen3VLForConditionalGeneration", QWEN_PLACED, **QWEN3_VL),
    "idefics3": entry("Idefics3ForConditionalGeneration", IDEFICS3_IMAGE, **IDEFICS3),
    "idefics3_text": entry("Idefics3ForConditionalGeneration", **IDEFICS3),
    "smolvlm": entry("SmolVLMForConditionalGeneration", IDEFICS3_IMAGE, **IDEFICS3),
    "smolvlm_text": entry("SmolVLMForConditionalGeneration", **IDEFICS3),
    "internvl": entry("InternVLForConditionalGeneration", with_image(4),
        vision_config={**VIT, "image_size": (32, 32), "patch_size": (8, 8)},
        text_config={"model_type": "qwen2", **COMMON, "num_key_value_heads": 3}, image_token_id=90, image_seq_length=4),
    "mllama": entry("MllamaForConditionalGeneration", {"input_ids": ids(2, 8),
            "pixel_values": noise(2, 1, 2, 3, 16, 16), "aspect_ratio_ids": ones(2, 1),
            "aspect_ratio_mask": ones(2, 1, 2), "cross_attention_mask": ones(2, 8, 1, 2)},
        vision_config={"hidden_size": 36, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 3,
            "intermediate_size": 52, "vision_output_dim": 72, "image_size": 16, "patch_size": 8, "max_num_tiles": 2,
            "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2]]},
        text_config={**COMMON, "num_key_value_heads": 3, "cross_attention_layers": [1], "rope_parameters": ROPE},
        image_token_index=96),
    "instructblip": entry("InstructBlipForConditionalGeneration",
        {**with_image(6), "qformer_input_ids": ids(2, 5), "qformer_attention_mask": ones(2, 5),
            "attention_mask": ones(2, 13)}, vision_config=VIT, qformer_config=QFORMER, text_config=OPT,
        num_query_tokens=6, image_token_index=90),
    "florence2": entry("Florence2ForConditionalGeneration", {**with_image(17), "decoder_input_ids": ids(2, 7)},
        text_config={"model_type": "bart", **FLORENCE2_TEXT},
        vision_config={"depths": (1, 1), "patch_size": (7, 3), "patch_stride": (4, 2), "patch_padding": (3, 1),
            "patch_prenorm": (False, True), "embed_dim": (16, 36), "num_heads": (4, 3), "num_groups": (4, 3),
            "window_size": 4, "projection_dim": 48, "max_temporal_embeddings": 5, "max_position_embeddings": 10,
            "mlp_ratio": 2.0}, image_token_id=90),
    "janus": entry("JanusForConditionalGeneration", with_image(16),
        text_config={"model_type": "llama", **COMMON, **GROUPED}, vision_config=JANUS_VISION, vq_config=JANUS_CODES,
        image_token_id=90),
    "chameleon": entry("ChameleonForConditionalGeneration", vq_config=CHAMELEON_CODES,
        vocabulary_map=CHAMELEON_VOCABULARY, image_token_id=96, num_key_value_heads=3, **COMMON),
    "chameleon_image": entry("ChameleonForConditionalGeneration", CHAMELEON_IMAGE, vq_config=CHAMELEON_CODES,
        vocabulary_map=CHAMELEON_VOCABULARY, image_token_id=96, num_key_value_heads=3,
        **common(max_position_embeddings=300)),
    "lxmert": entry("LxmertModel", REGIONS, **LXMERT, l_layers=2, x_layers=2, r_layers=1, visual_feat_dim=30),
    "lxmert_qa": entry("LxmertForQuestionAnswering", REGIONS, **LXMERT, l_layers=1, x_layers=1, r_layers=1,
        visual_feat_dim=30, num_qa_labels=11),
    "lxmert_pretraining": entry("LxmertForPreTraining", REGIONS, **LXMERT, l_layers=1, x_layers=1, r_layers=1,
        visual_feat_dim=30, num_qa_labels=11, num_object_labels=13, num_attr_labels=12),
    "visual_bert": entry("VisualBertForPreTraining", {"input_ids": ids(2, 9), "attention_mask": ones(2, 9),
            "visual_embeds": noise(2, 5, 30), "visual_attention_mask": ones(2, 5), "visual_token_type_ids": ones(2, 5)},
        **COMMON, visual_embedding_dim=30),
    "flava": entry("FlavaModel",
        {"input_ids": ids(2, 9), "attention_mask": ones(2, 9), "pixel_values": noise(2, 3, 32, 32)},
        image_config={**FLAVA, "hidden_size": 36, "image_size": 32, "patch_size": 8}, text_config=COMMON,
        multimodal_config={**FLAVA, "hidden_size": 60}, hidden_size=60, projection_dim=20),
    "flava_codebook": entry("FlavaImageCodebook", {"pixel_values": noise(2, 3, 32, 32)}, hidden_size=8, vocab_size=30,
        num_blocks_per_group=1),
    "layoutlmv3": entry("LayoutLMv3ForTokenClassification", {**BOXED, "pixel_values": noise(2, 3, 32, 32)},
        **LAYOUTLMV3),
    "layoutlmv3_text": entry("LayoutLMv3ForTokenClassification", BOXED, **LAYOUTLMV3, visual_embed=False),
    "udop": entry("UdopForConditionalGeneration",
        {**DOCUMENT, "pixel_values": noise(2, 3, 32, 32), "decoder_input_ids": ids(2, 7)}, **UDOP),
    "udop_text": entry("UdopForConditionalGeneration", {**DOCUMENT, "decoder_input_ids": ids(2, 7)}, **UDOP),
}
"""Texts with images, sound or pages."""

T5: Config = {
    "model_type": "t5", "vocab_size": VOCABULARY, "d_model": 40, "d_kv": 6, "d_ff": 72, "num_layers": 2, "num_heads": 5,
}
ENCODEC: Config = {
    "hidden_size": 20, "num_filters": 4, "upsampling_ratios": [2, 2], "codebook_size": 32, "codebook_dim": 20,
    "num_lstm_layers": 1,
}
MUSICGEN: Config = {
    "vocab_size": 60, "max_position_embeddings": 64, "num_hidden_layers": 2, "ffn_dim": 80, "num_attention_heads": 6,
    "hidden_size": 48, "num_codebooks": 4, "pad_token_id": 0, "bos_token_id": 1,
}
MUSIC: Inputs = {"input_ids": ids(2, 9), "attention_mask": ones(2, 9), "decoder_input_ids": ids(8, 7, below=60)}
VIBEVOICE: Config = {
    "channels": 1, "kernel_size": 3, "num_filters": 6, "downsampling_ratios": [2, 4], "depths": [1, 1, 1],
    "ffn_expansion": 3,
}
VOXTRAL_AUDIO: Config = {
    "vocab_size": VOCABULARY, "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_mel_bins": 18, "max_position_embeddings": 64, "sliding_window": 10, "head_dim": 8,
}
WAV2VEC2: Config = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
    "intermediate_size": 80, "conv_depthwise_kernel_size": 3, "layerdrop": 0.0, "apply_spec_augment": False,
}
MIMI: Config = {
    "hidden_size": 20, "num_filters": 4, "upsampling_ratios": [2, 2], "codebook_size": 32, "codebook_dim": 12,
    "vector_quantization_hidden_dimension": 12, "num_quantizers": 4, "upsample_groups": 20, "num_hidden_layers": 2,
    "intermediate_size": 36, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 4,
    "max_position_embeddings": 64, "sliding_window": 10,
}
DEPTH_DECODER: Config = {
    "hidden_size": 20, "num_attention_heads": 4, "audio_vocab_size": 30, "ffn_dim": 28, "vocab_size": VOCABULARY,
    "input_size": 48, "num_codebooks": 3,
}
CSM_DEPTH: Config = {
    "num_codebooks": 3, "backbone_hidden_size": 48, "vocab_size": 40, "hidden_size": 36, "intermediate_size": 52,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 3, "rope_parameters": ROPE,
}
SPEECH: Config = {
    "vocab_size": VOCABULARY, "d_model": 48, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 6,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 68,
}
SEAMLESS: Config = {
    **without(SPEECH, "d_model"), "hidden_size": 48, "max_position_embeddings": 64, "t2u_vocab_size": 30,
}
VITS: Config = {
    "vocab_size": 38, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 52,
    "flow_size": 20, "spectrogram_bins": 17, "upsample_initial_channel": 16, "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
    "prior_encoder_num_flows": 2, "prior_encoder_num_wavenet_layers": 2, "posterior_encoder_num_wavenet_layers": 2,
    "duration_predictor_filter_channels": 14, "layerdrop": 0.0, "use_stochastic_duration_prediction": False,
}
BARK: Config = {
    "block_size": 32, "input_vocab_size": VOCABULARY, "output_vocab_size": VOCABULARY, "num_layers": 2, "num_heads": 6,
    "hidden_size": 48,
}
FASTSPEECH2: Config = {
    "hidden_size": 48, "vocab_size": 40, "num_mel_bins": 18, "encoder_num_attention_heads": 6, "encoder_layers": 2,
    "encoder_linear_units": 80, "decoder_layers": 1, "decoder_num_attention_heads": 4, "decoder_linear_units": 68,
    "speech_decoder_postnet_layers": 3, "speech_decoder_postnet_units": 22, "decoder_kernel_size": 5,
    "duration_predictor_channels": 26, "energy_predictor_channels": 28, "pitch_predictor_channels": 30,
    "pitch_predictor_layers": 2, "max_source_positions": 64,
}
DAC: Config = {
    "encoder_hidden_size": 6, "downsampling_ratios": [2, 4], "decoder_hidden_size": 40, "n_codebooks": 3,
    "codebook_size": 32, "codebook_dim": 4, "upsampling_ratios": [4, 2], "hidden_size": 24,
}
HUBERT: Config = {
    "vocab_size": 32, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 52,
    "conv_dim": (14, 22), "conv_stride": (4, 2), "conv_kernel": (8, 3), "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 3,
}
SOUND: dict[str, Entry] = {
    "granite_speech5_ctc": entry("GraniteSpeech5ForCTC", {"input_features": noise(2, 32, 72)}, vocab_size=VOCABULARY,
        encoder_config={"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 6, "num_mel_bins": 18, "head_dim": 10,
            "max_position_embeddings": 16, "context_size": 8, "conv_kernel_size": 3, "subsample_layers": [0]}),
    "lasr_ctc": entry("LasrForCTC", {"input_features": noise(2, 40, 18)}, vocab_size=VOCABULARY,
        encoder_config={"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 80,
            "conv_kernel_size": 8, "subsampling_conv_channels": 14, "num_mel_bins": 18, "max_position_embeddings": 64,
            "layerdrop": 0.0}),
    "parakeet_ctc": entry("ParakeetForCTC", {"input_features": noise(2, 40, 24)}, vocab_size=VOCABULARY, pad_token_id=0,
        encoder_config={"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 80,
            "conv_kernel_size": 3, "subsampling_conv_channels": 14, "subsampling_factor": 4, "num_mel_bins": 24,
            "max_position_embeddings": 64, "layerdrop": 0.0}),
    "musicgen": entry("MusicgenForConditionalGeneration", MUSIC, text_encoder=T5,
        audio_encoder={"model_type": "encodec", **ENCODEC}, decoder=MUSICGEN),
    "musicgen_text48": entry("MusicgenForConditionalGeneration", MUSIC, text_encoder={**T5, "d_model": 48},
        audio_encoder={"model_type": "encodec", **ENCODEC}, decoder=MUSICGEN),
    "musicgen_melody": entry("MusicgenMelodyForConditionalGeneration", MUSIC, text_encoder=T5,
        audio_encoder={"model_type": "encodec", **ENCODEC}, decoder=MUSICGEN, num_chroma=6, chroma_length=9),
    "musicgen_decoder": entry("MusicgenForCausalLM", {"input_ids": ids(8, 7, below=60)}, **MUSICGEN),
    "vibevoice_asr": entry("VibeVoiceAsrForConditionalGeneration",
        {"input_ids": with_places(0, 6, 5), "input_values": noise(2, 1, 48), "sample": False},
        acoustic_tokenizer_encoder_config={**VIBEVOICE, "hidden_size": 14},
        semantic_tokenizer_encoder_config={**VIBEVOICE, "hidden_size": 22},
        text_config={"model_type": "qwen2", **COMMON, "num_key_value_heads": 3}, audio_token_id=90,
        audio_bos_token_id=91, audio_eos_token_id=92, acoustic_tokenizer_chunk_size=48),
    "voxtral_realtime": entry("VoxtralRealtimeForConditionalGeneration",
        {"input_ids": ids(2, 5), "input_features": noise(2, 18, 40), "num_delay_tokens": 3}, audio_config=VOXTRAL_AUDIO,
        text_config={**COMMON, "num_key_value_heads": 3, "head_dim": 8, "sliding_window": 10}, hidden_size=48,
        audio_length_per_tok=8, downsample_factor=4),
    **{
        f"wav2vec2-bert-{kind}": entry("Wav2Vec2BertForCTC", {"input_features": noise(2, 14, 18)}, **WAV2VEC2,
            feature_projection_input_dim=18, position_embeddings_type=kind, max_source_positions=64)
        for kind in ("relative_key", "relative", "rotary")
    },
    "wav2vec2-bert-adapter": entry("Wav2Vec2BertForCTC", {"input_features": noise(2, 14, 18)}, **WAV2VEC2,
        feature_projection_input_dim=18, add_adapter=True, output_hidden_size=48, left_max_position_embeddings=9),
    **{
        f"wav2vec2-conformer-{kind}": entry("Wav2Vec2ConformerForCTC", {"input_values": noise(2, 300)}, **WAV2VEC2,
            conv_dim=(14, 22, 26), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4, position_embeddings_type=kind, max_source_positions=64)
        for kind in ("relative", "rotary")
    },
    "moshi": entry("MoshiForCausalLM", vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2,
        num_attention_heads=6, **GROUPED, ffn_dim=80, max_position_embeddings=64, sliding_window=16, num_codebooks=3,
        audio_vocab_size=30, audio_encoder_config=MIMI, depth_decoder_config={**DEPTH_DECODER, "num_hidden_layers": 1}),
    "csm": entry("CsmForConditionalGeneration", num_codebooks=3, vocab_size=40, text_vocab_size=VOCABULARY,
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, **GROUPED,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, codebook_pad_token_id=38, audio_token_id=90,
        audio_eos_token_id=91, depth_decoder_config=CSM_DEPTH, codec_config={"model_type": "mimi", **MIMI},
        rope_parameters=ROPE),
    "csm_depth": entry("CsmDepthDecoderForCausalLM",
        {"input_ids": ids(2, 3, below=38), "backbone_last_hidden_state": noise(2, 48)}, **CSM_DEPTH),
    "speech_to_text": entry("Speech2TextForConditionalGeneration",
        {"input_features": noise(2, 40, 18), "decoder_input_ids": ids(2, 7)}, **SPEECH, max_source_positions=64,
        max_target_positions=64, conv_channels=28, input_feat_per_channel=18),
    "seamless_m4t": entry("SeamlessM4TForTextToText", {"input_ids": ids(2, 9), "decoder_input_ids": ids(2, 7)},
        **SEAMLESS, speech_encoder_layers=1, speech_encoder_intermediate_size=20, t2u_encoder_layers=1,
        t2u_decoder_layers=1, speech_encoder_attention_heads=4, encoder_layerdrop=0.0, decoder_layerdrop=0.0),
    "vits": entry("VitsModel", {"input_ids": ids(2, 9, below=38)}, **VITS),
    "bark_semantic": entry("BarkSemanticModel", **BARK),
    "bark_coarse": entry("BarkCoarseModel", **BARK),
    "bark_fine": entry("BarkFineModel", {"codebook_idx": 2, "input_ids": ids(2, 36).view(2, 9, 4)}, **BARK,
        n_codes_total=4, n_codes_given=1),
    "fastspeech2_conformer": entry("FastSpeech2ConformerModel",
        {"input_ids": ids(2, 9, below=40), "attention_mask": ones(2, 9)}, **FASTSPEECH2),
    "fastspeech2_hifigan": entry("FastSpeech2ConformerHifiGan", {"spectrogram": noise(2, 8, 18)}, model_in_dim=18,
        upsample_initial_channel=32, upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3, 5],
        resblock_dilation_sizes=[[1, 3], [1, 3]], normalize_before=False),
    "dac": entry("DacModel", {"input_values": noise(2, 1, 64)}, **DAC),
    "xcodec": entry("XcodecModel", {"input_values": noise(2, 1, 320)}, target_bandwidths=(30.0,), codebook_size=32,
        codebook_dim=60, acoustic_model_config={"model_type": "dac", **DAC},
        semantic_model_config={"model_type": "hubert", **HUBERT}),
    "encodec": entry("EncodecModel", {"input_values": noise(2, 1, 64)}, **ENCODEC, target_bandwidths=(90.0,)),
    "mimi": entry("MimiModel", {"input_values": noise(2, 1, 64)}, **MIMI),
    "univnet": entry("UnivNetModel", {"input_features": noise(2, 12, 18), "noise_sequence": noise(2, 12, 14)},
        model_in_channels=14, model_hidden_channels=14, num_mel_bins=18, resblock_kernel_sizes=[3, 3],
        resblock_stride_sizes=[4, 2], resblock_dilation_sizes=[[1, 3], [1, 3]], kernel_predictor_num_blocks=1,
        kernel_predictor_hidden_channels=14),
    "pop2piano": entry("Pop2PianoForConditionalGeneration",
        {"inputs_embeds": noise(2, 9, 48), "decoder_input_ids": ids(2, 7)}, vocab_size=VOCABULARY,
        composer_vocab_size=5, d_model=48, d_kv=10, d_ff=80, num_layers=2, num_decoder_layers=2, num_heads=6),
    "gemma3n_audio": entry("gemma3n.modeling_gemma3n.Gemma3nAudioEncoder",
        {"audio_mel": noise(2, 40, 16), "audio_mel_mask": torch.zeros(2, 40, dtype=torch.bool)},
        config_class="Gemma3nAudioConfig", vocab_size=8, input_feat_size=16, hidden_size=48,
        conf_attention_chunk_size=4, conf_attention_context_left=5, conf_num_attention_heads=6,
        conf_num_hidden_layers=2, conf_conv_kernel_size=3, conf_reduction_factor=2, sscp_conv_channel_size=(14, 10)),
    "gemma4_audio": entry("gemma4.modeling_gemma4.Gemma4AudioModel",
        {"input_features": noise(2, 40, 16), "attention_mask": torch.ones(2, 40, dtype=torch.bool)},
        config_class="Gemma4AudioConfig", hidden_size=48, num_hidden_layers=2, num_attention_heads=6,
        subsampling_conv_channels=(16, 10), conv_kernel_size=3, attention_chunk_size=4, attention_context_left=5,
        output_proj_dims=36),
    "voxtral_realtime_audio": entry("voxtral_realtime.modeling_voxtral_realtime.VoxtralRealtimeEncoder",
        {"input_features": noise(2, 18, 40)}, **VOXTRAL_AUDIO),
    "seamless_m4t_speech": entry("SeamlessM4TForSpeechToText",
        {"input_features": noise(2, 24, 18), "decoder_input_ids": ids(2, 7)}, **SEAMLESS, speech_encoder_layers=2,
        speech_encoder_intermediate_size=52, t2u_encoder_layers=1, t2u_decoder_layers=1,
        speech_encoder_attention_heads=4, encoder_layerdrop=0.0, decoder_layerdrop=0.0, speech_encoder_layerdrop=0.0,
        feature_projection_input_dim=18, adaptor_kernel_size=3, adaptor_stride=2,
        conv_depthwise_kernel_size=3, max_source_positions=64),
    "seamless_m4t_units": entry("seamless_m4t.modeling_seamless_m4t.SeamlessM4TTextToUnitForConditionalGeneration",
        {"inputs_embeds": noise(2, 9, 48), "decoder_input_ids": ids(2, 7, below=30)}, **SEAMLESS,
        t2u_encoder_layers=2, t2u_decoder_layers=2, t2u_encoder_ffn_dim=52, t2u_decoder_ffn_dim=44,
        t2u_encoder_attention_heads=4, t2u_decoder_attention_heads=6, t2u_max_position_embeddings=64),
    "moshi_depth": entry("moshi.modeling_moshi.MoshiDepthDecoder",
        {"input_ids": ids(2, 3, below=28), "last_hidden_state": noise(2, 1, 48)}, **DEPTH_DECODER, num_hidden_layers=2,
        num_key_value_heads=4, head_dim=6, max_position_embeddings=3),
}
"""Speech and music, from texts or to them."""

TIMESFM: Config = {
    "patch_length": 8, "context_length": 32, "horizon_length": 12, "num_hidden_layers": 2, "hidden_size": 48,
    "intermediate_size": 80, "head_dim": 8, "num_attention_heads": 6, "quantiles": [0.1, 0.5, 0.9],
}
TIMESFM_PACES = torch.tensor([[0], [1]])
PATCHTST: Config = {
    "num_input_channels": 3, "context_length": 32, "patch_length": 4, "patch_stride": 4, "num_hidden_layers": 2,
    "d_model": 36, "num_attention_heads": 3, "ffn_dim": 52, "prediction_length": 6,
}
PATCHTSMIXER: Config = {
    "context_length": 32, "patch_length": 4, "num_input_channels": 3, "patch_stride": 4, "d_model": 20,
    "expansion_factor": 3, "num_layers": 2, "prediction_length": 6,
}
INFORMER: Config = {
    "prediction_length": 6, "context_length": 16, "lags_sequence": [1, 2, 3], "num_time_features": 2, "d_model": 36,
    "encoder_attention_heads": 3, "decoder_attention_heads": 6, "encoder_ffn_dim": 52, "decoder_ffn_dim": 44,
    "encoder_layers": 2, "decoder_layers": 2,
}
INFORMER_INPUTS: Inputs = {
    "past_values": noise(2, 19), "past_time_features": noise(2, 19, 2), "past_observed_mask": torch.ones(2, 19),
    "future_values": noise(2, 6), "future_time_features": noise(2, 6, 2),
}
DECISION: Config = {
    "state_dim": 7, "act_dim": 4, "hidden_size": 36, "max_ep_len": 30, "n_positions": 64, "n_layer": 2, "n_head": 3,
    "n_inner": 52,
}
SERIES: dict[str, Entry] = {
    "timesfm": entry("TimesFmModelForPrediction", {"past_values": noise(2, 32), "freq": torch.tensor([0, 1])},
        **TIMESFM),
    "timesfm_model": entry("TimesFmModel", {"past_values": noise(2, 32),
            "past_values_padding": torch.zeros(2, 32, dtype=torch.long), "freq": TIMESFM_PACES}, **TIMESFM),
    "timesfm_model_float": entry("TimesFmModel",
        {"past_values": noise(2, 32), "past_values_padding": torch.zeros(2, 32), "freq": TIMESFM_PACES}, **TIMESFM),
    "timesfm2_5": entry("TimesFm2_5ModelForPrediction", {"past_values": noise(2, 32)}, **TIMESFM, num_key_value_heads=6,
        output_quantile_len=20, decode_index=1, max_position_embeddings=32),
    "timesfm2_5_model": entry("TimesFm2_5Model", {"past_values": noise(2, 32)}, **TIMESFM, num_key_value_heads=6,
        output_quantile_len=20, decode_index=1, max_position_embeddings=32),
    "patchtst": entry("PatchTSTForPrediction", {"past_values": noise(2, 32, 3)}, **PATCHTST),
    "patchtst_channel": entry("PatchTSTForPrediction", {"past_values": noise(2, 32, 3)}, **PATCHTST,
        channel_attention=True, norm_type="layernorm", share_embedding=False, use_cls_token=False, pooling_type=None),
    "patchtst_classify": entry("PatchTSTForClassification", {"past_values": noise(2, 32, 3)},
        **without(PATCHTST, "prediction_length"), num_targets=5, use_cls_token=True),
    "patchtsmixer": entry("PatchTSMixerForPrediction", {"past_values": noise(2, 32, 3)}, **PATCHTSMIXER, loss="mse"),
    "patchtsmixer_mix": entry("PatchTSMixerForPrediction", {"past_values": noise(2, 32, 3)}, **PATCHTSMIXER, loss="mse",
        mode="mix_channel", self_attn=True, self_attn_heads=4, norm_mlp="BatchNorm"),
    "autoformer": entry("AutoformerForPrediction", INFORMER_INPUTS, **INFORMER, label_length=5, moving_average=5,
        autocorrelation_factor=1),
    "informer": entry("InformerForPrediction", INFORMER_INPUTS, **INFORMER, sampling_factor=2),
    "informer_plain": entry("InformerForPrediction", INFORMER_INPUTS, **INFORMER, distil=False, sampling_factor=2),
    "informer_full_plain": entry("InformerForPrediction", INFORMER_INPUTS, **INFORMER, attention_type="full",
        distil=False),
    "informer_full": entry("InformerForPrediction", INFORMER_INPUTS, **INFORMER, attention_type="full"),
    "time_series_transformer": entry("TimeSeriesTransformerForPrediction", INFORMER_INPUTS, **INFORMER),
    "decision_transformer": entry("DecisionTransformerModel", {"states": noise(2, 5, 7), "actions": noise(2, 5, 4),
        "rewards": noise(2, 5, 1), "returns_to_go": noise(2, 5, 1), "timesteps": torch.arange(5).expand(2, 5),
        "attention_mask": torch.ones(2, 5)}, **DECISION),
    "decision_gpt2": entry("DecisionTransformerGPT2Model", {"inputs_embeds": noise(2, 9, 36)}, **DECISION),
}

PARTS: dict[str, tuple[str, str, Inputs]] = {
    "vits.text_encoder": ("vits", "text_encoder",
        {"input_ids": ids(2, 9, below=38), "padding_mask": torch.ones(2, 9, 1), "attention_mask": ones(2, 9)}),
    "vits.decoder": ("vits", "decoder", {"spectrogram": noise(2, 20, 8)}),
    "vits.flow": ("vits", "flow", {"inputs": noise(2, 20, 8), "padding_mask": torch.ones(2, 1, 8), "reverse": True}),
    "vits.posterior_encoder": ("vits", "posterior_encoder",
        {"inputs": noise(2, 17, 8), "padding_mask": torch.ones(2, 1, 8)}),
    "fastspeech2_conformer.encoder": ("fastspeech2_conformer", "encoder", {"input_tensor": ids(2, 9, below=40)}),
    "fastspeech2_conformer.decoder": ("fastspeech2_conformer", "decoder", {"input_tensor": noise(2, 9, 48)}),
    "dac.encoder": ("dac", "encoder", {"hidden_state": noise(2, 1, 64)}),
    "dac.decoder": ("dac", "decoder", {"hidden_state": noise(2, 24, 8)}),
    "encodec.encoder": ("encodec", "encoder", {"hidden_states": noise(2, 1, 64)}),
    "encodec.decoder": ("encodec", "decoder", {"hidden_states": noise(2, 20, 16)}),
    "mimi.encoder_transformer": ("mimi", "encoder_transformer", {"hidden_states": noise(2, 9, 20)}),
    "mimi.encoder": ("mimi", "encoder", {"input_values": noise(2, 1, 64)}),
    "mimi.decoder": ("mimi", "decoder", {"latents": noise(2, 20, 16)}),
    "chameleon.vqmodel.encoder": ("chameleon", "model.vqmodel.encoder", {"pixel_values": noise(2, 3, 16, 16)}),
    "janus.vqmodel": ("janus", "model.vqmodel", {"pixel_values": noise(2, 3, 4, 4)}),
    "musicgen.audio_encoder.decoder": ("musicgen", "audio_encoder.decoder", {"hidden_states": noise(2, 20, 16)}),
    "qwen4_exp.language_model": ("qwen4_exp", "model.language_model", {"input_ids": ids(2, 9)}),
    "mllama.vision_model": ("mllama", "model.vision_model", {"pixel_values": noise(2, 1, 2, 3, 16, 16),
            "aspect_ratio_ids": ones(2, 1), "aspect_ratio_mask": ones(2, 1, 2)}),
    "flava.multimodal_model": ("flava", "multimodal_model", {"hidden_states": noise(2, 9, 60)}),
    "chameleon.model": ("chameleon", "model", {"input_ids": ids(2, 9)}),
    "chameleon_image.model": ("chameleon_image", "model", CHAMELEON_IMAGE),
}
"""Parts of the models above: of which entry, where in it, and the inputs."""
# fmt: on

WHOLE = {**DECODERS, **ENCODERS, **MULTIMODAL, **SOUND, **SERIES}
SIZED_TEXT: dict[str, Entry] = {
    **WHOLE,
    **{name: part(WHOLE[whole], path, inputs) for name, (whole, path, inputs) in PARTS.items()},
}

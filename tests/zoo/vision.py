"""Tiny random vision, audio and multimodal models of transformers."""

from __future__ import annotations

from typing import Any

import torch

from .language import VOCABULARY, Entry, build, ids


def image(size: int = 32, channels: int = 3) -> torch.Tensor:
    """Two random images."""
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def classifier(name: str, model: str = "ForImageClassification", size: int = 32, **sizes: Any) -> Entry:
    """A vision model of transformers on random images."""
    return lambda: (build(f"{name}Config", f"{name}{model}", **sizes), {"pixel_values": image(size)})


def _config(name: str, **sizes: Any) -> Any:
    """A part of another config."""
    import transformers

    return getattr(transformers, name)(**sizes)


TRANSFORMER: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 8,
}
HIERARCHY: dict[str, Any] = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32}
SMALL_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WAVE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "conv_dim": [16, 16],
    "conv_stride": [4, 4],
    "conv_kernel": [8, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}


def wave(name: str) -> Entry:
    """A speech model on raw sound."""
    return lambda: (build(f"{name}Config", f"{name}ForCTC", **WAVE), {"input_values": torch.randn(2, 400)})


def pair(name: str) -> Entry:
    """A model of images and texts."""
    return lambda: (
        build(f"{name}Config", f"{name}Model", text_config=SMALL_TEXT, vision_config=TRANSFORMER, projection_dim=20),
        {"input_ids": ids(2, 9), "pixel_values": image()},
    )


VISION: dict[str, Entry] = {
    "vit": classifier("ViT", **TRANSFORMER),
    "deit": classifier("DeiT", **TRANSFORMER),
    "beit": classifier("Beit", **TRANSFORMER, use_relative_position_bias=True),
    "dinov2": classifier("Dinov2", **{k: v for k, v in TRANSFORMER.items() if k != "intermediate_size"}),
    "swin": classifier("Swin", **HIERARCHY, patch_size=2),
    "swinv2": classifier("Swinv2", **HIERARCHY, patch_size=2),
    "convnext": classifier("ConvNext", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1]),
    "convnextv2": classifier("ConvNextV2", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1]),
    "resnet": classifier("ResNet", embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 1, 1]),
    "regnet": classifier(
        "RegNet", embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 1, 1], groups_width=8
    ),
    "mobilenet_v1": classifier("MobileNetV1", depth_multiplier=0.25, image_size=32),
    "mobilenet_v2": classifier("MobileNetV2", depth_multiplier=0.35, image_size=32),
    "efficientnet": classifier(
        "EfficientNet",
        width_coefficient=0.25,
        depth_coefficient=0.3,
        image_size=32,
        hidden_dim=320,
        depth_divisor=4,
    ),
    "segformer": classifier(
        "Segformer",
        "ForSemanticSegmentation",
        64,
        hidden_sizes=[8, 12, 16, 20],
        num_attention_heads=[1, 2, 4, 5],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=24,
        num_labels=7,
    ),
    "poolformer": classifier("PoolFormer", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1]),
    "pvt": classifier(
        "Pvt",
        size=64,
        image_size=64,
        hidden_sizes=[8, 12, 16, 20],
        num_attention_heads=[1, 2, 4, 5],
        depths=[1, 1, 1, 1],
    ),
    "dpt": lambda: (
        build(
            "DPTConfig",
            "DPTForSemanticSegmentation",
            **{**TRANSFORMER, "num_hidden_layers": 4},
            backbone_config=None,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 12, 16, 20],
            fusion_hidden_size=12,
            reassemble_factors=[4, 2, 1, 0.5],
            is_hybrid=False,
        ),
        {"pixel_values": image()},
    ),
    "levit": classifier("Levit", size=64, image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 3, 4]),
    "bit": classifier(
        "Bit",
        embedding_size=8,
        hidden_sizes=[16, 24, 32, 40],
        depths=[1, 2, 1, 1],
        num_groups=4,
        layer_type="bottleneck",
    ),
    "focalnet": classifier(
        "FocalNet",
        image_size=32,
        patch_size=2,
        embed_dim=12,
        depths=[1, 1, 1],
        hidden_sizes=[12, 24, 48],
        focal_levels=[2, 2, 2],
        focal_windows=[3, 3, 3],
    ),
    "cvt": classifier("Cvt", embed_dim=[12, 24, 48], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    "mobilevit": classifier(
        "MobileViT",
        image_size=64,
        size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        num_attention_heads=4,
    ),
    "mobilevitv2": classifier("MobileViTV2", image_size=64, size=64, width_multiplier=0.25),
    "glpn": classifier(
        "GLPN",
        "ForDepthEstimation",
        64,
        hidden_sizes=[8, 12, 16, 20],
        num_attention_heads=[1, 2, 4, 5],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
    ),
    "upernet": lambda: (
        build(
            "UperNetConfig",
            "UperNetForSemanticSegmentation",
            backbone_config=_config(
                "ConvNextConfig",
                hidden_sizes=[8, 12, 16, 20],
                depths=[1, 1, 1, 1],
                out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
            hidden_size=16,
            auxiliary_channels=12,
            auxiliary_in_channels=16,
            num_labels=7,
        ),
        {"pixel_values": image(64)},
    ),
    "yolos": lambda: (
        build(
            "YolosConfig",
            "YolosForObjectDetection",
            **{**TRANSFORMER, "image_size": [32, 32]},
            num_detection_tokens=5,
            use_mid_position_embeddings=False,
        ),
        {"pixel_values": image()},
    ),
    "detr": lambda: (
        build(
            "DetrConfig",
            "DetrForObjectDetection",
            d_model=48,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=80,
            decoder_ffn_dim=80,
            num_queries=5,
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=_config(
                "ResNetConfig",
                embedding_size=8,
                hidden_sizes=[16, 24, 32, 40],
                depths=[1, 1, 1, 1],
                out_features=["stage4"],
            ),
        ),
        {"pixel_values": image(64)},
    ),
    "mask2former": lambda: (
        build(
            "Mask2FormerConfig",
            "Mask2FormerForUniversalSegmentation",
            backbone_config=_config(
                "SwinConfig",
                embed_dim=12,
                depths=[1, 1, 1, 1],
                num_heads=[2, 2, 4, 4],
                window_size=4,
                image_size=64,
                patch_size=2,
                out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
            hidden_dim=64,
            feature_size=64,
            mask_feature_size=64,
            encoder_feedforward_dim=80,
            dim_feedforward=80,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=4,
            num_queries=5,
        ),
        {"pixel_values": image(64)},
    ),
    "sam_vision": lambda: (
        build(
            "SamVisionConfig",
            "SamVisionModel",
            **TRANSFORMER,
            mlp_dim=80,
            output_channels=16,
            global_attn_indexes=[1],
            window_size=2,
        ),
        {"pixel_values": image()},
    ),
    "vit_mae": lambda: (
        build(
            "ViTMAEConfig",
            "ViTMAEModel",
            **TRANSFORMER,
            mask_ratio=0.0,
            decoder_hidden_size=24,
            decoder_num_attention_heads=4,
            decoder_num_hidden_layers=1,
            decoder_intermediate_size=40,
        ),
        {"pixel_values": image(), "noise": torch.rand(2, 16)},
    ),
    "data2vec_vision": classifier("Data2VecVision", **TRANSFORMER),
    "dinov3": lambda: (build("DINOv3ViTConfig", "DINOv3ViTModel", **TRANSFORMER), {"pixel_values": image()}),
    "vilt": lambda: (
        build("ViltConfig", "ViltModel", **{**SMALL_TEXT, **TRANSFORMER}),
        {"input_ids": ids(2, 9), "pixel_values": image(), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.long)},
    ),
    "clip": pair("CLIP"),
    "siglip": pair("Siglip"),
    "blip": lambda: (
        build("BlipConfig", "BlipForConditionalGeneration", text_config=SMALL_TEXT, vision_config=TRANSFORMER),
        {"input_ids": ids(2, 9), "pixel_values": image()},
    ),
    "llava": lambda: (
        build(
            "LlavaConfig",
            "LlavaForConditionalGeneration",
            text_config=_config("LlamaConfig", **SMALL_TEXT),
            vision_config=_config("CLIPVisionConfig", **TRANSFORMER),
            image_token_index=90,
            vision_feature_layer=-1,
        ),
        {"input_ids": torch.cat([torch.full((2, 16), 90), ids(2, 9).clamp_max(80)], 1), "pixel_values": image()},
    ),
    "clap": lambda: (
        build("ClapTextConfig", "ClapTextModel", **SMALL_TEXT),
        {"input_ids": ids(2, 9)},
    ),
    "whisper_encoder": lambda: (
        build(
            "WhisperConfig",
            "WhisperForAudioClassification",
            vocab_size=VOCABULARY,
            d_model=48,
            encoder_layers=2,
            encoder_attention_heads=6,
            encoder_ffn_dim=80,
            num_mel_bins=10,
            max_source_positions=13,
            pad_token_id=0,
            classifier_proj_size=20,
        ),
        {"input_features": torch.randn(3, 10, 26)},
    ),
    "univnet": lambda: (
        build(
            "UnivNetConfig",
            "UnivNetModel",
            model_in_channels=8,
            model_hidden_channels=8,
            num_mel_bins=12,
            resblock_stride_sizes=[2, 2],
            resblock_kernel_sizes=[3, 3],
            resblock_dilation_sizes=[[1, 3], [1, 3]],
            kernel_predictor_hidden_channels=8,
            kernel_predictor_num_blocks=1,
        ),
        {"input_features": torch.randn(1, 7, 12), "noise_sequence": torch.randn(1, 7, 8)},
    ),
    "speecht5": lambda: (
        build(
            "SpeechT5Config",
            "SpeechT5ForSpeechToText",
            **{k: v for k, v in WAVE.items() if k in ("hidden_size", "conv_dim", "conv_stride", "conv_kernel")},
            vocab_size=VOCABULARY,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=80,
            decoder_ffn_dim=80,
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=4,
        ),
        {"input_values": torch.randn(2, 400), "decoder_input_ids": ids(2, 7)},
    ),
    "data2vec_audio": wave("Data2VecAudio"),
    "wavlm": wave("WavLM"),
    "sew": wave("SEW"),
    "wav2vec2": wave("Wav2Vec2"),
    "hubert": wave("Hubert"),
    "ast": lambda: (
        build(
            "ASTConfig",
            "ASTForAudioClassification",
            **{k: v for k, v in TRANSFORMER.items() if k != "image_size"},
            num_mel_bins=24,
            max_length=40,
        ),
        {"input_values": torch.randn(2, 40, 24)},
    ),
}

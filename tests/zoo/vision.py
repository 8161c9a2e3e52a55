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
    "dpt": classifier(
        "DPT",
        "ForDepthEstimation",
        **TRANSFORMER,
        backbone_out_indices=[0, 0, 1, 1],
        neck_hidden_sizes=[8, 12, 16, 20],
        fusion_hidden_size=12,
        reassemble_factors=[4, 2, 1, 0.5],
    ),
    "levit": classifier("Levit", size=64, image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 3, 4]),
    "clip": pair("CLIP"),
    "siglip": pair("Siglip"),
    "blip": lambda: (
        build("BlipConfig", "BlipForConditionalGeneration", text_config=SMALL_TEXT, vision_config=TRANSFORMER),
        {"input_ids": ids(2, 9), "pixel_values": image()},
    ),
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

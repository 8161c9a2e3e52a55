"""Small configs, written by hand, of types of transformers for images, with texts or without.

They are of types whose default config no general rule makes small (``every.py``), or that want images of another size,
masks or other inputs. ``python tools/zoo_table.py sized_images`` runs them; they are not part of the suite.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from . import sized_entries
from .language import Entry
from .sized_entries import Config, Inputs, changed, entry, ones, varied, without
from .vision import TRANSFORMER

ids = partial(sized_entries.ids, seed=3)
noise = partial(sized_entries.noise, seed=3)
with_places = partial(sized_entries.with_places, token=95, below=90, seed=3)


def pixels(height: int, width: int | None = None, channels: int = 3) -> Inputs:
    """Two images, square if no width is given."""
    return {"pixel_values": noise(2, channels, height, width or height)}


def sentence(rows: int, length: int) -> Inputs:
    """Token ids of texts that end with a token of their own, and their mask."""
    return {"input_ids": with_places(length, 1, 0, token=98, rows=rows), "attention_mask": ones(rows, length + 1)}


def points(size: int) -> Inputs:
    """Two images and two points in each."""
    return {**pixels(size), "input_points": noise(2, 1, 2, 2).abs() * 10, "input_labels": ones(2, 1, 2)}


def masks(size: int, side: int) -> Inputs:
    """Two images, two points and a mask for each."""
    return {**points(size), "input_masks": noise(2, 1, side, side)}


def let_through(model: nn.Module) -> None:
    """Raise the biases before the last ReLU, which lets something through then."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 1 and module.bias is not None:
            module.bias.data.fill_(1.0)


def name_answers(model: Any) -> None:
    """Say which tokens stand for yes and no."""
    model.yes_token_index, model.no_token_index = 5, 6


class Stages(nn.Module):
    """A resnet in place of a backbone of timm."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> SimpleNamespace:
        stages = list(self.inner(pixel_values, output_hidden_states=True).hidden_states[-4:])
        return SimpleNamespace(hidden_states=None, attentions=None, last_hidden_state=stages)


def wrap_backbone(model: Any) -> None:
    """Let a resnet answer as a backbone of timm does."""
    model.vision_encoder.backbone = Stages(model.vision_encoder.backbone)


def larger(whole: Entry) -> Entry:
    """The same model on images half as large again as its config says."""

    def build() -> tuple[nn.Module, dict[str, Any]]:
        model, inputs = whole()
        *before, height, width = inputs["pixel_values"].shape
        images = noise(*before, height + height // 2, width + width // 2)
        return model, {**inputs, "pixel_values": images, "interpolate_pos_encoding": True}

    return build


# fmt: off
TEXT: Config = {
    "vocab_size": 99, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 72,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}
FOUR_LAYERS: Config = {**TRANSFORMER, "num_hidden_layers": 4}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
WIDTHS = [8, 12, 16, 20]

SWIN: Config = {
    "embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [2, 3, 4, 6], "window_size": 4, "image_size": 64,
    "patch_size": 2,
}
SWIN2SR: Config = {
    "embed_dim": 24, "num_heads": [3, 4], "window_size": 4, "image_size": 32, "patch_size": 1, "mlp_ratio": 2.0,
}
EFFICIENTNET: Config = {
    "width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 32, "hidden_dim": 320, "depth_divisor": 4,
}
HGNET: Config = {
    "embedding_size": 8, "depths": [1, 1, 1, 1], "hidden_sizes": [24, 32, 40, 48], "stem_channels": [3, 8, 12],
    "stage_in_channels": [12, 24, 32, 40], "stage_mid_channels": [6, 10, 14, 18],
    "stage_out_channels": [24, 32, 40, 48], "stage_num_blocks": [1, 1, 2, 1], "stage_numb_of_layers": [2, 3, 2, 2],
}
HIERA: Config = {
    "embed_dim": 12, "image_size": [32, 32], "patch_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3],
    "mlp_ratio": 2.0, "depths": [1, 2], "num_heads": [2, 4], "num_query_pool": 1, "query_stride": [2, 2],
    "masked_unit_size": [2, 2], "masked_unit_attention": [True, False],
}
LEVIT: Config = {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
PVT: Config = {
    "image_size": 64, "hidden_sizes": WIDTHS, "num_attention_heads": [1, 2, 4, 5], "depths": [1, 1, 1, 2],
    "mlp_ratios": [2, 3, 2, 3],
}
RESNET: Config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
FOCALNET: Config = {
    "image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [1, 1, 1], "hidden_sizes": [12, 24, 48],
    "focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3],
}
MOBILEVIT: Config = {
    "image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
    "num_attention_heads": 4,
}
MOBILEVITV2: Config = {"image_size": 64, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1]}
SAPIENS2: Config = {
    **TRANSFORMER, "num_register_tokens": 2, "num_key_value_attention_heads": 3, "num_first_full_attention_layers": 1,
    "num_last_full_attention_layers": 0,
}
VIDEOMAE: Config = {
    **TRANSFORMER, "num_frames": 4, "tubelet_size": 2, "decoder_hidden_size": 24, "decoder_num_attention_heads": 4,
    "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 40,
}
VIDEO: Inputs = {"pixel_values": noise(2, 4, 3, 32, 32)}
VJEPA2: Config = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8, "crop_size": 32,
    "frames_per_clip": 4, "mlp_ratio": 2.0, "num_pooler_layers": 1, "pred_hidden_size": 24,
    "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2,
}
VITDET: Config = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "mlp_ratio": 2, "image_size": 32,
    "pretrain_image_size": 32, "patch_size": 4,
}
IMAGEGPT: Config = {"vocab_size": 50, "n_positions": 16, "n_embd": 48, "n_layer": 2, "n_head": 6}
CLASSIFIERS: dict[str, Entry] = {
    "audio-spectrogram-transformer": entry("ASTForAudioClassification", {"input_values": noise(2, 40, 24)},
        **without(TRANSFORMER, "image_size"), num_mel_bins=24, max_length=40),
    **{
        f"bit-{layer}": entry("BitForImageClassification", pixels(64), embedding_size=8, hidden_sizes=[16, 24, 32, 40],
            depths=[1, 2, 1, 1], num_groups=4, layer_type=layer)
        for layer in ("preactivation", "bottleneck")
    },
    "convnext": entry("ConvNextForImageClassification", pixels(64), hidden_sizes=WIDTHS, depths=[1, 1, 2, 1]),
    "convnextv2": entry("ConvNextV2ForImageClassification", pixels(64), hidden_sizes=WIDTHS, depths=[1, 1, 2, 1]),
    "dinov3_convnext": entry("DINOv3ConvNextModel", pixels(64), hidden_sizes=WIDTHS, depths=[1, 1, 2, 1]),
    "cvt": entry("CvtForImageClassification", pixels(64), embed_dim=[12, 24, 48], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    "donut-swin": entry("DonutSwinModel", pixels(64), **SWIN),
    "donut-swin-cls": entry("DonutSwinForImageClassification", pixels(64), **SWIN),
    "swin": entry("SwinForImageClassification", pixels(64), **SWIN),
    "swin-mim": entry("SwinForMaskedImageModeling", {**pixels(64), "bool_masked_pos": noise(2, 1024) > 0}, **SWIN,
        encoder_stride=16),
    "swinv2": entry("Swinv2ForImageClassification", pixels(64), **SWIN),
    "swin2sr": entry("Swin2SRForImageSuperResolution", pixels(32), **SWIN2SR, depths=[1, 2]),
    "swin2sr-direct": entry("Swin2SRForImageSuperResolution", pixels(32), **SWIN2SR, depths=[1, 1],
        upsampler="pixelshuffledirect", resi_connection="3conv"),
    "swin2sr-nearest": entry("Swin2SRForImageSuperResolution", pixels(32), **SWIN2SR, depths=[1, 1], upscale=4,
        upsampler="nearest+conv"),
    "efficientnet": entry("EfficientNetForImageClassification", pixels(32), **EFFICIENTNET),
    "hgnet_v2": entry("HGNetV2ForImageClassification", pixels(64), **HGNET),
    "hgnet_v2-lab": entry("HGNetV2ForImageClassification", pixels(64), **HGNET, use_learnable_affine_block=True),
    "hiera": entry("HieraForImageClassification", pixels(32), **HIERA),
    "hiera-3": entry("HieraForImageClassification", pixels(64),
        **{**HIERA, "image_size": [64, 64], "depths": [1, 2, 1], "num_heads": [1, 2, 4], "num_query_pool": 2,
            "masked_unit_size": [4, 4], "masked_unit_attention": [True, True, False]}),
    "levit": entry("LevitForImageClassification", pixels(64), **LEVIT),
    "levit-teacher": entry("LevitForImageClassificationWithTeacher", pixels(64), **LEVIT),
    "poolformer": entry("PoolFormerForImageClassification", pixels(64), hidden_sizes=WIDTHS, depths=[1, 1, 2, 1]),
    "pvt": entry("PvtForImageClassification", pixels(64), **PVT),
    "pvt_v2": entry("PvtV2ForImageClassification", pixels(64), **PVT),
    "pvt_v2-linear": entry("PvtV2ForImageClassification", pixels(64), **PVT, linear_attention=True),
    **{
        f"regnet-{layer}": entry("RegNetForImageClassification", pixels(64), embedding_size=8,
            hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 1, 1], groups_width=8, layer_type=layer)
        for layer in "xy"
    },
    **{
        f"resnet-{layer}": entry("ResNetForImageClassification", pixels(64),
            **{**without(RESNET, "model_type"), "depths": [1, 2, 1, 1]}, layer_type=layer)
        for layer in ("basic", "bottleneck")
    },
    "textnet": entry("TextNetForImageClassification", pixels(64), image_size=[64, 64], stem_out_channels=8,
        hidden_sizes=[8, 10, 12, 16, 20],
        conv_layer_kernel_sizes=[[[3, 3], [3, 1]], [[3, 3], [1, 3]], [[3, 3]], [[3, 3], [3, 1]]],
        conv_layer_strides=[[1, 2], [2, 1], [2], [2, 1]]),
    "focalnet": entry("FocalNetForImageClassification", pixels(32), **FOCALNET),
    "focalnet-all": entry("FocalNetForImageClassification", pixels(32), **FOCALNET, use_conv_embed=True,
        use_layerscale=True, use_post_layernorm=True, use_post_layernorm_in_modulation=True, normalize_modulator=True,
        encoder_stride=8),
    "mobilevit": entry("MobileViTForImageClassification", pixels(64), **MOBILEVIT),
    "mobilevit-seg": entry("MobileViTForSemanticSegmentation", pixels(64), **MOBILEVIT, aspp_out_channels=20,
        num_labels=5),
    "mobilevitv2": entry("MobileViTV2ForImageClassification", pixels(64), **MOBILEVITV2),
    "mobilevitv2-seg": entry("MobileViTV2ForSemanticSegmentation", pixels(64), **MOBILEVITV2, aspp_out_channels=20,
        num_labels=5),
    "mobilenet_v1": entry("MobileNetV1ForImageClassification", pixels(32), depth_multiplier=0.25, image_size=32),
    "data2vec-vision": entry("Data2VecVisionForImageClassification", pixels(32), **TRANSFORMER,
        use_relative_position_bias=True),
    "data2vec-vision-seg": entry("Data2VecVisionForSemanticSegmentation", pixels(32), **FOUR_LAYERS,
        out_indices=[0, 1, 2, 3], use_shared_relative_position_bias=True, auxiliary_channels=12, num_labels=5,
        pool_scales=[1, 2]),
    "dinov3_vit": entry("DINOv3ViTModel", pixels(32), **TRANSFORMER, num_register_tokens=3),
    "dinov3_vit-gated": entry("DINOv3ViTModel", pixels(32), **TRANSFORMER, use_gated_mlp=True, key_bias=True),
    "ijepa": entry("IJepaForImageClassification", pixels(32), **TRANSFORMER),
    "vit_msn": entry("ViTMSNForImageClassification", pixels(32), **TRANSFORMER),
    "sapiens2": entry("Sapiens2Model", pixels(32), **SAPIENS2),
    "videomae": entry("VideoMAEForVideoClassification", VIDEO, **VIDEOMAE),
    "videomae-pre": entry("VideoMAEForPreTraining",
        {**VIDEO, "bool_masked_pos": (torch.arange(32) % 3 > 0).expand(2, 32)}, **VIDEOMAE),
    "vivit": entry("VivitForVideoClassification", VIDEO, **without(TRANSFORMER, "patch_size"), num_frames=4,
        tubelet_size=[2, 8, 8]),
    **{
        f"timesformer-{kind}": entry("TimesformerForVideoClassification", VIDEO, **TRANSFORMER, num_frames=4,
            attention_type=kind)
        for kind in ("divided_space_time", "space_only", "joint_space_time")
    },
    "vjepa2": entry("VJEPA2ForVideoClassification", {"pixel_values_videos": noise(2, 4, 3, 32, 32)}, **VJEPA2),
    "vjepa2-model": entry("VJEPA2Model", {"pixel_values_videos": noise(2, 4, 3, 32, 32)}, **VJEPA2),
    "vitdet": entry("VitDetModel", pixels(32), **VITDET, window_size=4, window_block_indices=[0],
        residual_block_indices=[1], use_relative_position_embeddings=True),
    "mgp-str": entry("MgpstrForSceneTextRecognition", pixels(16, 32), image_size=[16, 32], max_token_length=5,
        num_character_labels=11, num_bpe_labels=13, num_wordpiece_labels=17, hidden_size=48, num_hidden_layers=2,
        num_attention_heads=6, mlp_ratio=2.0),
    "imagegpt": entry("ImageGPTForCausalImageModeling", {"input_ids": ids(2, 12, below=50)}, **IMAGEGPT),
    "imagegpt-cls": entry("ImageGPTForImageClassification", {"input_ids": ids(2, 12, below=50)}, **IMAGEGPT),
}

BROS: Config = {**TEXT, "hidden_size": 64, "num_attention_heads": 4, "dim_bbox": 8}
PLACED: Inputs = {"input_ids": ids(2, 8), "bbox": noise(2, 8, 8).abs()}
TEXT_MODELS: dict[str, Entry] = {
    "cpmant": entry("CpmAntForCausalLM", {"input_ids": ids(2, 8)}, vocab_size=99, hidden_size=32, num_attention_heads=4,
        dim_head=6, dim_ff=44, num_hidden_layers=2, position_bias_num_buckets=8, position_bias_max_distance=32,
        prompt_types=4, prompt_length=3, segment_types=4),
    "rwkv": entry("RwkvForCausalLM", {"input_ids": ids(2, 8)}, vocab_size=99, context_length=16, hidden_size=32,
        num_hidden_layers=2, attention_hidden_size=40, intermediate_size=56),
    "bros": entry("BrosForTokenClassification", PLACED, **BROS),
    "bros-spade": entry("BrosSpadeEEForTokenClassification", {"attention_mask": ones(2, 8), **PLACED}, **BROS),
    "bros-el": entry("BrosSpadeELForTokenClassification", PLACED, **BROS),
    "markuplm": entry("MarkupLMForTokenClassification", {"input_ids": ids(2, 8),
            "xpath_tags_seq": ids(2, 8, 5, below=10), "xpath_subs_seq": ids(2, 8, 5, below=10, seed=4)}, **TEXT,
        max_xpath_tag_unit_embeddings=12, max_xpath_subs_unit_embeddings=14, tag_pad_id=11, subs_pad_id=13,
        xpath_unit_hidden_size=8, max_depth=5),
}
"""Texts alone, or with where they stand on a page."""

DETR: Config = {
    "num_queries": 5, "encoder_layers": 1, "encoder_ffn_dim": 56, "encoder_attention_heads": 4, "decoder_layers": 2,
    "decoder_ffn_dim": 72, "decoder_attention_heads": 4, "num_labels": 5,
}
RESNET_LAST_STAGE: Config = {**RESNET, "out_features": ["stage4"]}
RESNET_STAGES: Config = {**RESNET, "out_features": STAGES}
RESNET_LAST_STAGES: Config = {**RESNET, "out_features": STAGES[1:]}
DEFORMABLE: Config = {
    "d_model": 64, "num_feature_levels": 3, "encoder_n_points": 2, "decoder_n_points": 3,
    "disable_custom_kernels": True,
}
RT_DETR: Config = {
    "encoder_hidden_dim": 32, "encoder_in_channels": [24, 32, 40], "encoder_layers": 1, "encoder_ffn_dim": 56,
    "encoder_attention_heads": 4, "d_model": 48, "num_queries": 6, "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 72, "decoder_n_points": 2, "decoder_layers": 2, "decoder_attention_heads": 4,
    "hidden_expansion": 0.5, "num_labels": 5,
}
RT_DETR_RESNET: Config = {**RESNET, "model_type": "rt_detr_resnet", "out_features": STAGES[1:]}
HGNET_LAST_STAGES: Config = {**HGNET, "model_type": "hgnet_v2", "out_features": STAGES[1:]}
RT_DETR_HGNET: Config = {**RT_DETR, "encoder_in_channels": [32, 40, 48]}
D_FINE: Config = {
    **RT_DETR_HGNET, "decoder_n_points": [2, 3, 2], "max_num_bins": 8, "lqe_hidden_dim": 12, "d_model": 32,
}
HGNET_STAGES: Config = {**HGNET, "model_type": "hgnet_v2", "out_features": STAGES}
LW_DETR_VIT: Config = {
    "model_type": "lw_detr_vit", "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 2,
    "image_size": 64, "pretrain_image_size": 64, "patch_size": 4, "num_windows": 4, "window_block_indices": [0, 2],
    "out_indices": [2, 4],
}
LW_DETR: Config = {
    "d_model": 32, "decoder_ffn_dim": 56, "decoder_n_points": 2, "decoder_layers": 2, "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4, "num_queries": 6, "group_detr": 2, "c2f_num_blocks": 1, "num_labels": 5,
}
RF_DETR_DINOV2: Config = {
    "model_type": "rf_detr_dinov2", "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 2,
    "image_size": 32, "patch_size": 4, "num_windows": 2, "out_features": ["stage2", "stage4"],
}
SWIN_LAST_STAGES: Config = {**SWIN, "model_type": "swin", "out_features": STAGES[1:]}
GROUNDING_DINO: Config = {
    "backbone_config": SWIN_LAST_STAGES, "text_config": {**TEXT, "model_type": "bert"}, "num_feature_levels": 3,
    "d_model": 32, "max_text_len": 16, "encoder_n_points": 2, "decoder_n_points": 2, "disable_custom_kernels": True,
}
DETECTORS: dict[str, Entry] = {
    "detr": entry("DetrForObjectDetection", pixels(64), **DETR, d_model=48, backbone_config=RESNET_LAST_STAGE),
    "detr-seg": entry("DetrForSegmentation", pixels(64),
        **{**DETR, "encoder_attention_heads": 8, "decoder_attention_heads": 8}, d_model=64,
        backbone_config=RESNET_STAGES),
    "conditional_detr": entry("ConditionalDetrForObjectDetection", pixels(64), **DETR, d_model=48,
        backbone_config=RESNET_LAST_STAGE),
    "dab-detr": entry("DabDetrForObjectDetection", pixels(64), **DETR, hidden_size=48,
        backbone_config=RESNET_LAST_STAGE),
    "table-transformer": entry("TableTransformerForObjectDetection", pixels(64), **DETR, d_model=48,
        backbone_config=RESNET_LAST_STAGE),
    "deformable_detr": entry("DeformableDetrForObjectDetection", pixels(64), **DETR, **DEFORMABLE,
        backbone_config=RESNET_LAST_STAGES),
    "deformable_detr-refine": entry("DeformableDetrForObjectDetection", pixels(64), **DETR, **DEFORMABLE,
        backbone_config=RESNET_LAST_STAGES, with_box_refine=True),
    "deformable_detr-two": entry("DeformableDetrForObjectDetection", pixels(64), **DETR, **DEFORMABLE,
        backbone_config=RESNET_LAST_STAGES, with_box_refine=True, two_stage=True, two_stage_num_proposals=5),
    "rt_detr": entry("RTDetrForObjectDetection", pixels(64), **RT_DETR, backbone_config=RT_DETR_RESNET),
    "rt_detr_v2": entry("RTDetrV2ForObjectDetection", pixels(64), **RT_DETR, backbone_config=RT_DETR_RESNET),
    "rt_detr_v2-discrete": entry("RTDetrV2ForObjectDetection", pixels(64), **RT_DETR, backbone_config=RT_DETR_RESNET,
        decoder_method="discrete"),
    "d_fine": entry("DFineForObjectDetection", pixels(64), **D_FINE, backbone_config=HGNET_LAST_STAGES),
    "deimv2": entry("Deimv2ForObjectDetection", pixels(64), **D_FINE, backbone_config=HGNET_LAST_STAGES),
    "pp_doclayout_v2": entry("PPDocLayoutV2ForObjectDetection", pixels(64), **RT_DETR_HGNET,
        backbone_config=HGNET_LAST_STAGES, class_thresholds=[0.5] * 5, class_order=[0, 1, 2, 3, 4],
        reading_order_config={"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 56,
            "num_hidden_layers": 1, "max_position_embeddings": 40, "coordinate_size": 8, "shape_size": 8,
            "num_classes": 5, "relation_bias_embed_dim": 4, "global_pointer_head_size": 6, "rel_pos_bins": 8,
            "rel_2d_pos_bins": 8}),
    "pp_doclayout_v3": entry("PPDocLayoutV3ForObjectDetection", pixels(64), **{**RT_DETR_HGNET, "d_model": 32},
        backbone_config=HGNET_STAGES, mask_feature_channels=[12, 20], x4_feat_dim=24, num_prototypes=8,
        global_pointer_head_size=6),
    "pp_doclayout_v4": entry("PPDocLayoutV4ForObjectDetection", pixels(64), **{**RT_DETR_HGNET, "d_model": 32},
        backbone_config=HGNET_LAST_STAGES, global_pointer_head_size=6, hidden_size=32),
    "lw_detr": entry("LwDetrForObjectDetection", pixels(64), **LW_DETR, projector_scale_factors=[1.0],
        backbone_config=LW_DETR_VIT),
    "lw_detr-2": entry("LwDetrForObjectDetection", pixels(64), **LW_DETR, projector_scale_factors=[2.0, 0.5],
        backbone_config=LW_DETR_VIT),
    "rf_detr": entry("RfDetrForObjectDetection", pixels(32), **LW_DETR, backbone_config=RF_DETR_DINOV2,
        intermediate_size=40),
    "rf_detr-seg": entry("RfDetrForInstanceSegmentation", pixels(32), **LW_DETR, backbone_config=RF_DETR_DINOV2,
        intermediate_size=40),
    "yolos": entry("YolosForObjectDetection", pixels(32), **{**TRANSFORMER, "image_size": [32, 32]},
        num_detection_tokens=5),
    "omdet-turbo": entry("OmDetTurboForObjectDetection", {**pixels(64), "classes_input_ids": ids(4, 6),
            "classes_attention_mask": ones(4, 6), "tasks_input_ids": ids(2, 6), "tasks_attention_mask": ones(2, 6),
            "classes_structure": torch.tensor([2, 2])},
        text_config={**TEXT, "model_type": "clip_text_model", "projection_dim": 20}, backbone_config=SWIN_LAST_STAGES,
        image_size=64, apply_layernorm_after_vision_backbone=False, disable_custom_kernels=True,
        text_projection_in_dim=40, text_projection_out_dim=40, task_encoder_hidden_dim=28, class_embed_dim=40,
        num_queries=5, encoder_hidden_dim=32, vision_features_channels=[32, 32, 32], encoder_in_channels=[24, 48, 96],
        encoder_attention_heads=4, encoder_dim_feedforward=56, decoder_hidden_dim=32, decoder_num_heads=4,
        decoder_num_layers=1, decoder_dim_feedforward=72, decoder_num_points=2),
    **{
        name: entry(f"{model}ForObjectDetection", {**pixels(64), "input_ids": ids(2, 8), "attention_mask": ones(2, 8),
            "token_type_ids": torch.zeros(2, 8, dtype=torch.long)}, **without(DETR, "num_labels"), **GROUNDING_DINO)
        for name, model in (("grounding-dino", "GroundingDino"), ("mm-grounding-dino", "MMGroundingDino"))
    },
}

DPT: Config = {"neck_hidden_sizes": WIDTHS, "fusion_hidden_size": 24, "reassemble_factors": [4, 2, 1, 0.5]}
DINOV2: Config = {
    "model_type": "dinov2", "hidden_size": 40, "num_hidden_layers": 4, "num_attention_heads": 5, "mlp_ratio": 2,
    "image_size": 32, "patch_size": 8, "out_features": STAGES, "reshape_hidden_states": False, "apply_layernorm": True,
}
DEPTH_ANYTHING: Config = {"reassemble_hidden_size": 40, "patch_size": 8, **DPT, "head_hidden_size": 10}
TIPSV2: Config = {
    "model_type": "tipsv2_vision_model", "hidden_size": 40, "num_hidden_layers": 4, "num_attention_heads": 5,
    "mlp_ratio": 2, "image_size": 32, "patch_size": 8, "out_indices": [1, 2, 3, 4], "apply_layernorm": True,
    "reshape_hidden_states": False,
}
BEIT: Config = {"model_type": "beit", **FOUR_LAYERS, "out_features": STAGES, "reshape_hidden_states": False}
ZOEDEPTH: Config = {
    **DPT, "backbone_config": BEIT, "num_relative_features": 12, "bottleneck_features": 24,
    "num_attractors": [6, 4, 2, 1], "bin_embedding_dim": 16,
}
DINOV2_PATCHES: Config = {
    "model_type": "dinov2", "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "mlp_ratio": 2,
    "image_size": 16, "patch_size": 4,
}
DEPTH_PRO: Config = {
    "fusion_hidden_size": 16, "patch_size": 16, "intermediate_hook_ids": [1, 0], "intermediate_feature_dims": [12, 20],
    "scaled_images_ratios": [0.5, 1.0], "scaled_images_overlap_ratios": [0.0, 0.5],
    "scaled_images_feature_dims": [24, 28], "merge_padding_value": 1, "image_model_config": DINOV2_PATCHES,
    "patch_model_config": DINOV2_PATCHES, "fov_model_config": DINOV2_PATCHES,
}
CONVNEXT: Config = {"model_type": "convnext", "hidden_sizes": WIDTHS, "depths": [1, 1, 1, 1], "out_features": STAGES}
UPERNET: Config = {"hidden_size": 24, "auxiliary_channels": 14, "auxiliary_in_channels": 16, "num_labels": 5}
SWIN_STAGES: Config = {**SWIN, "model_type": "swin", "out_features": STAGES}
MASKFORMER: Config = {"fpn_feature_size": 64, "mask_feature_size": 20, "num_labels": 5}
MASKFORMER_DECODER: Config = {
    "model_type": "detr", "d_model": 32, "num_queries": 5, "encoder_layers": 1, "encoder_ffn_dim": 56,
    "encoder_attention_heads": 4, "decoder_layers": 2, "decoder_ffn_dim": 72, "decoder_attention_heads": 4,
}
MASK2FORMER: Config = {
    "hidden_dim": 64, "feature_size": 64, "mask_feature_size": 64, "encoder_feedforward_dim": 72, "dim_feedforward": 88,
    "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4, "num_queries": 5, "num_labels": 5,
}
ONEFORMER: Config = {
    "backbone_config": SWIN_STAGES, "task_seq_len": 7, "text_encoder_width": 28, "text_encoder_context_length": 7,
    "text_encoder_num_layers": 1, "text_encoder_vocab_size": 99, "text_encoder_n_ctx": 2, "conv_dim": 64,
    "mask_dim": 64, "hidden_dim": 64, "encoder_feedforward_dim": 72, "encoder_layers": 1, "decoder_layers": 3,
    "num_attention_heads": 4, "dim_feedforward": 88, "num_queries": 5, "query_dec_layers": 1, "num_labels": 5,
}
EOMT: Config = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "image_size": 32, "patch_size": 8,
    "mlp_ratio": 2, "num_blocks": 1, "num_queries": 5, "num_register_tokens": 2, "num_upscale_blocks": 1,
    "num_labels": 5,
}
VITPOSE: Config = {
    "model_type": "vitpose_backbone", "image_size": [64, 32], "patch_size": [8, 8], "hidden_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 6, "mlp_ratio": 2, "out_features": ["stage2"],
}
SAPIENS2_HEAD: Config = {"upsample_out_channels": [20, 14], "conv_out_channels": [12, 10]}
MAPS: dict[str, Entry] = {
    "dpt": changed(entry("DPTForDepthEstimation", pixels(32), **FOUR_LAYERS, **DPT,
        backbone_out_indices=[0, 1, 2, 3]), let_through),
    "dpt-seg": entry("DPTForSemanticSegmentation", pixels(32), **FOUR_LAYERS, **DPT, backbone_out_indices=[0, 1, 2, 3],
        use_batch_norm_in_fusion_residual=True, readout_type="add"),
    "dpt-dinov2": changed(entry("DPTForDepthEstimation", pixels(32), **DPT, backbone_config=DINOV2), let_through),
    "depth_anything": changed(entry("DepthAnythingForDepthEstimation", pixels(32), **DEPTH_ANYTHING,
        backbone_config=DINOV2), let_through),
    "depth_anything-metric": changed(entry("DepthAnythingForDepthEstimation", pixels(32), **DEPTH_ANYTHING,
        backbone_config=DINOV2, depth_estimation_type="metric", max_depth=20), let_through),
    "prompt_depth_anything": changed(entry("PromptDepthAnythingForDepthEstimation",
        {**pixels(32), "prompt_depth": noise(2, 1, 8, 8).abs()}, **DEPTH_ANYTHING, backbone_config=DINOV2),
        let_through),
    "chmv2": entry("CHMv2ForDepthEstimation", pixels(32), patch_size=8, backbone_config={**FOUR_LAYERS,
            "model_type": "dinov3_vit", "out_features": STAGES, "reshape_hidden_states": True,
            "return_class_token": True, "apply_layernorm": True}, post_process_channels=WIDTHS, fusion_hidden_size=24,
        head_hidden_size=12, number_output_channels=14),
    **{
        f"tipsv2_dpt-{kind.lower()}": entry(f"Tipsv2DptFor{kind}Estimation", pixels(32), backbone_config=TIPSV2,
            neck_hidden_sizes=WIDTHS, fusion_hidden_size=24, num_depth_bins=14)
        for kind in ("Depth", "Normal")
    },
    "tipsv2_dpt-seg": entry("Tipsv2DptForSemanticSegmentation", pixels(32), backbone_config=TIPSV2,
        neck_hidden_sizes=WIDTHS, fusion_hidden_size=24, num_labels=7),
    "zoedepth": changed(entry("ZoeDepthForDepthEstimation", pixels(32), **ZOEDEPTH,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}]), let_through),
    "zoedepth-2": entry("ZoeDepthForDepthEstimation", pixels(32), **ZOEDEPTH,
        bin_configurations=[{"name": "nyu", "n_bins": 8, "min_depth": 0.001, "max_depth": 10.0},
            {"name": "kitti", "n_bins": 8, "min_depth": 0.001, "max_depth": 80.0}],
        num_patch_transformer_layers=4, patch_transformer_hidden_size=128, patch_transformer_intermediate_size=44,
        patch_transformer_num_attention_heads=4),
    "depth_pro": changed(entry("DepthProForDepthEstimation", pixels(32), **DEPTH_PRO), let_through),
    "depth_pro-fov": changed(entry("DepthProForDepthEstimation", pixels(32), **DEPTH_PRO, use_fov_model=True),
        let_through),
    "upernet": entry("UperNetForSemanticSegmentation", pixels(64), **UPERNET, backbone_config=CONVNEXT),
    "upernet-swin": entry("UperNetForSemanticSegmentation", pixels(64), **{**UPERNET, "auxiliary_in_channels": 48},
        backbone_config=SWIN_STAGES, pool_scales=[1, 2], auxiliary_concat_input=True),
    "maskformer": entry("MaskFormerForInstanceSegmentation", pixels(64), **MASKFORMER, backbone_config=SWIN_STAGES,
        decoder_config=MASKFORMER_DECODER),
    "maskformer-resnet": entry("MaskFormerForInstanceSegmentation", pixels(64),
        **{**MASKFORMER, "fpn_feature_size": 32}, backbone_config=RESNET_STAGES, decoder_config=MASKFORMER_DECODER),
    "mask2former": entry("Mask2FormerForUniversalSegmentation", pixels(64), **MASK2FORMER, backbone_config=SWIN_STAGES),
    "mask2former-pre": entry("Mask2FormerForUniversalSegmentation", pixels(64), **MASK2FORMER, pre_norm=True,
        enforce_input_projection=True, backbone_config=SWIN_STAGES),
    "oneformer": entry("OneFormerForUniversalSegmentation", {**pixels(64), "task_inputs": ids(2, 7)}, **ONEFORMER),
    "eomt": entry("EomtForUniversalSegmentation", pixels(32), **EOMT),
    "eomt-swiglu": entry("EomtForUniversalSegmentation", pixels(32), **EOMT, use_swiglu_ffn=True),
    "seggpt": entry("SegGptForImageSegmentation",
        {**pixels(32), "prompt_pixel_values": noise(2, 3, 32, 32, seed=4), "prompt_masks": noise(2, 3, 32, 32, seed=5)},
        hidden_size=48, num_hidden_layers=3, num_attention_heads=6, image_size=[64, 32], patch_size=8,
        pretrain_image_size=32, mlp_dim=72, decoder_hidden_size=12, merge_index=0,
        intermediate_hidden_state_indices=[0, 1, 2]),
    "vitmatte": entry("VitMatteForImageMatting", pixels(32, channels=4),
        backbone_config={**VITDET, "model_type": "vitdet", "num_channels": 4, "patch_size": 16,
            "out_features": ["stage2"]}, hidden_size=48, convstream_hidden_sizes=[8, 12, 16],
        fusion_hidden_sizes=[20, 14, 10, 6]),
    "vitpose": entry("VitPoseForPoseEstimation", pixels(64, 32), backbone_config=VITPOSE, num_labels=5),
    "vitpose-classic": entry("VitPoseForPoseEstimation", pixels(64, 32),
        backbone_config={**VITPOSE, "hidden_size": 12, "num_attention_heads": 3}, num_labels=5,
        use_simple_decoder=False),
    "vitpose-moe": entry("VitPoseForPoseEstimation", {**pixels(64, 32), "dataset_index": torch.tensor([0, 1])},
        backbone_config={**VITPOSE, "num_experts": 3, "part_features": 12}, num_labels=5),
    "sapiens2-seg": entry("Sapiens2ForSemanticSegmentation", pixels(32), **SAPIENS2, num_labels=5,
        head_config=SAPIENS2_HEAD),
    "sapiens2-pose": entry("Sapiens2ForPoseEstimation", pixels(32), **SAPIENS2, num_labels=5,
        head_config=SAPIENS2_HEAD),
    "sapiens2-normal": entry("Sapiens2ForNormalEstimation", pixels(32), **SAPIENS2, num_labels=5,
        head_config={**SAPIENS2_HEAD, "use_pixel_shuffle": True}),
}
"""A depth, a class or a mask for each place in an image; poses."""

KERNELS = {"long": 7, "mid": 5, "short": 3}
INTRACLASS: Config = {
    "reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0],
    **{f"vertical_long_to_small_conv_{name}ratio": [[k, 1], [1, 1], [k // 2, 0]] for name, k in KERNELS.items()},
    **{f"horizontal_small_to_long_conv_{name}ratio": [[1, k], [1, 1], [0, k // 2]] for name, k in KERNELS.items()},
    **{f"symmetric_conv_long_{name}ratio": [[k, k], [1, 1], [k // 2, k // 2]] for name, k in KERNELS.items()},
}
PP_OCR: Config = {
    "neck_out_channels": 32, "kernel_list": [3, 2, 2], "scale_factor_list": [1, 2, 4, 8],
    "intraclass_block_config": INTRACLASS,
}
LCNET: Config = {
    "model_type": "pp_lcnet_v4", "stem_channels": [3, 8, 12], "out_features": STAGES,
    "block_configs": [[[3, 12, 12, 1, True]], [[3, 12, 16, 2, False]], [[3, 16, 20, 2, False], [3, 20, 20, 1, True]],
        [[3, 20, 28, 2, False]]],
}
PAGES: dict[str, Entry] = {
    "pp_ocrv5_server_det": entry("PPOCRV5ServerDetForObjectDetection", pixels(64), backbone_config=HGNET_STAGES,
        **PP_OCR, intraclass_block_number=4),
    "pp_ocrv6_medium_det": entry("PPOCRV6MediumDetForObjectDetection", pixels(64), backbone_config=LCNET, **PP_OCR),
    "pp_ocrv6_small_det": entry("PPOCRV6SmallDetForObjectDetection", pixels(64), backbone_config=LCNET,
        neck_out_channels=24, layer_list_out_channels=[12, 16, 20, 28]),
}
"""Where the text on a page is."""

SAM_PROMPTS: Config = {"hidden_size": 32, "image_size": 32, "patch_size": 8, "mask_input_channels": 8}
SAM_DECODER: Config = {
    "hidden_size": 32, "mlp_dim": 56, "num_hidden_layers": 2, "num_attention_heads": 4, "iou_head_depth": 2,
    "iou_head_hidden_dim": 20,
}
SAM_VISION: Config = {
    "hidden_size": 48, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 6, "image_size": 32,
    "patch_size": 8, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 72, "num_pos_feats": 16,
}
SAM: Config = {
    "vision_config": SAM_VISION, "prompt_encoder_config": SAM_PROMPTS, "mask_decoder_config": SAM_DECODER,
}
SAM2_HIERA: Config = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 12, "num_attention_heads": 1, "image_size": [64, 64],
    "patch_kernel_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "query_stride": [2, 2],
    "window_positional_embedding_background_size": [2, 2], "num_query_pool_stages": 3, "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [12, 24, 48, 96], "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [8, 4, 4, 2], "global_attention_blocks": [3], "mlp_ratio": 2.0,
}
SAM2_VISION: Config = {
    "backbone_config": SAM2_HIERA, "backbone_channel_list": [96, 48, 24, 12],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32, "fpn_top_down_levels": [2, 3],
    "num_feature_levels": 3,
}
SAM2_PROMPTS: Config = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8}
SAM2_DECODER: Config = {**SAM_DECODER, "dynamic_multimask_via_stability": False}
EDGETAM_RESNET: Config = {**RESNET, "hidden_sizes": [12, 24, 48, 96], "downsample_in_first_stage": False}
SEGMENT_ANYTHING: dict[str, Entry] = {
    "sam": entry("SamModel", points(32), **SAM),
    "sam-boxes": entry("SamModel", {**pixels(32), "input_boxes": torch.tensor([[[2.0, 3.0, 14.0, 20.0]]] * 2)}, **SAM),
    "sam-masks": entry("SamModel", masks(32, 16), **SAM),
    "sam_hq": entry("SamHQModel", points(32), **{**SAM, "mask_decoder_config": {**SAM_DECODER, "vit_dim": 48}}),
    "sam2": entry("Sam2Model", points(64), vision_config=SAM2_VISION, prompt_encoder_config=SAM2_PROMPTS,
        mask_decoder_config=SAM2_DECODER),
    "sam2-masks": entry("Sam2Model", masks(64, 16), vision_config=SAM2_VISION, prompt_encoder_config=SAM2_PROMPTS,
        mask_decoder_config=SAM_DECODER),
    "sam2-vision": entry("Sam2VisionModel", pixels(64), **SAM2_VISION),
    "edgetam": changed(entry("EdgeTamModel", points(64),
        vision_config={**SAM2_VISION, "backbone_config": EDGETAM_RESNET}, prompt_encoder_config=SAM2_PROMPTS,
        mask_decoder_config=SAM2_DECODER), wrap_backbone),
}

CAPTION_TEXT: Config = {**TEXT, "eos_token_id": 98}
CAPTIONED: Inputs = {**pixels(32), **sentence(2, 8)}
LABELLED: Inputs = {**pixels(32), **sentence(4, 6)}
CLIPSEG: Config = {
    "text_config": CAPTION_TEXT, "vision_config": FOUR_LAYERS, "projection_dim": 20,
    "extract_layers": [0, 1, 2], "reduce_dim": 24, "decoder_intermediate_size": 44,
}
PROMPTED: Inputs = {**pixels(32), **sentence(2, 6)}
SIGLIP2: Config = {**without(TRANSFORMER, "image_size"), "num_patches": 16}
PATCHES: Inputs = {
    "pixel_values": noise(2, 16, 192), "pixel_attention_mask": ones(2, 16),
    "spatial_shapes": torch.tensor([[4, 4], [4, 4]]),
}
OPT: Config = {
    "model_type": "opt", "vocab_size": 99, "hidden_size": 40, "ffn_dim": 72, "num_hidden_layers": 2,
    "num_attention_heads": 5, "word_embed_proj_dim": 40, "max_position_embeddings": 32,
}
QFORMER: Config = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 56,
    "encoder_hidden_size": 48, "cross_attention_frequency": 2, "max_position_embeddings": 16,
}
BLIP2: Config = {
    "vision_config": TRANSFORMER, "num_query_tokens": 5, "image_token_index": 95, "image_text_hidden_size": 20,
}
BRIDGETOWER: Config = {
    "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2,
    "text_config": {**TEXT, "hidden_size": 48, "num_attention_heads": 6},
    "vision_config": {"hidden_size": 64, "num_hidden_layers": 3, "patch_size": 8, "image_size": 32},
}
BRIDGETOWER_CONTRASTIVE: Config = {
    **BRIDGETOWER, "hidden_size": 64, "num_attention_heads": 4,
    "text_config": {**TEXT, "hidden_size": 64, "num_attention_heads": 4},
}
PAIRS: dict[str, Entry] = {
    "altclip": entry("AltCLIPModel", CAPTIONED, text_config={**CAPTION_TEXT, "project_dim": 20},
        vision_config={**TRANSFORMER, "projection_dim": 20}, projection_dim=20),
    "chinese_clip": entry("ChineseCLIPModel", CAPTIONED, text_config=CAPTION_TEXT,
        vision_config={**TRANSFORMER, "projection_dim": 20}, projection_dim=20),
    "metaclip_2": entry("MetaClip2Model", CAPTIONED, text_config={**CAPTION_TEXT, "projection_dim": 20},
        vision_config={**TRANSFORMER, "projection_dim": 20}, projection_dim=20),
    "metaclip_2-cls": entry("MetaClip2ForImageClassification", pixels(32),
        text_config={**CAPTION_TEXT, "projection_dim": 20}, vision_config={**TRANSFORMER, "projection_dim": 20},
        projection_dim=20),
    "aimv2": entry("Aimv2Model", CAPTIONED, text_config=without(CAPTION_TEXT, "pad_token_id", "bos_token_id"),
        vision_config=TRANSFORMER, projection_dim=20),
    "aimv2-native": entry("Aimv2VisionModel", pixels(32), **TRANSFORMER, is_native=True),
    "aimv2-vision": entry("Aimv2VisionModel", pixels(32), **TRANSFORMER),
    "groupvit": entry("GroupViTModel", CAPTIONED, text_config=CAPTION_TEXT, projection_dim=20,
        projection_intermediate_dim=44, vision_config={**TRANSFORMER, "depths": [1, 1, 1], "num_hidden_layers": 3,
            "num_group_tokens": [6, 3, 0], "num_output_groups": [6, 3, 3]}),
    "align": entry("AlignModel", CAPTIONED, text_config=CAPTION_TEXT, vision_config=EFFICIENTNET, projection_dim=80),
    **{
        name: entry(f"{model}Model", LABELLED, text_config=CAPTION_TEXT, vision_config=TRANSFORMER, projection_dim=20)
        for name, model in (("owlvit", "OwlViT"), ("owlv2", "Owlv2"))
    },
    **{
        f"{name}-det": entry(f"{model}ForObjectDetection", LABELLED, text_config=CAPTION_TEXT,
            vision_config=TRANSFORMER, projection_dim=40)
        for name, model in (("owlvit", "OwlViT"), ("owlv2", "Owlv2"))
    },
    "clipseg": entry("CLIPSegForImageSegmentation", PROMPTED, **CLIPSEG),
    "clipseg-complex": entry("CLIPSegForImageSegmentation", PROMPTED, **CLIPSEG,
        use_complex_transposed_convolution=True),
    "x_clip": entry("XCLIPModel", {**VIDEO, **sentence(3, 6)}, text_config=CAPTION_TEXT,
        vision_config={**TRANSFORMER, "num_frames": 4, "mit_hidden_size": 20, "mit_intermediate_size": 36,
            "mit_num_hidden_layers": 1, "mit_num_attention_heads": 4}, projection_dim=20, prompt_layers=1,
        prompt_num_attention_heads=4),
    "siglip2": entry("Siglip2Model", {**PATCHES, "input_ids": ids(2, 8)},
        text_config={**CAPTION_TEXT, "hidden_size": 48, "num_attention_heads": 6, "projection_size": 48},
        vision_config=SIGLIP2),
    "siglip2-cls": entry("Siglip2ForImageClassification", PATCHES, text_config=CAPTION_TEXT, vision_config=SIGLIP2),
    "shieldgemma2": changed(entry("ShieldGemma2ForImageClassification",
        {**pixels(32), "input_ids": with_places(0, 4, 6), "attention_mask": ones(2, 10),
            "token_type_ids": pad(ones(2, 4), (0, 6))},
        text_config={**TEXT, "model_type": "gemma3_text", "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "sliding_window": 6},
        vision_config={"model_type": "siglip_vision_model", **TRANSFORMER, "vision_use_head": False},
        mm_tokens_per_image=4, boi_token_index=93, eoi_token_index=94, image_token_index=95), name_answers),
    "blip-2": entry("Blip2ForConditionalGeneration",
        {**pixels(32), "input_ids": with_places(0, 5, 6), "attention_mask": ones(2, 11)}, **BLIP2,
        qformer_config=QFORMER, text_config=OPT),
    "blip-2-itm": entry("Blip2ForImageTextRetrieval",
        {**pixels(32), "input_ids": ids(2, 6), "attention_mask": ones(2, 6), "use_image_text_matching_head": True},
        **BLIP2, qformer_config={**QFORMER, "cross_attention_frequency": 1, "use_qformer_text_input": True},
        text_config={**OPT, "num_hidden_layers": 1}),
    "git": entry("GitForCausalLM", CAPTIONED, **TEXT, vision_config=TRANSFORMER),
    "git-video": entry("GitForCausalLM", {**CAPTIONED, "pixel_values": noise(2, 3, 3, 32, 32)}, **TEXT,
        vision_config=TRANSFORMER, num_image_with_embedding=3),
    "bridgetower": entry("BridgeTowerForImageAndTextRetrieval", CAPTIONED, **BRIDGETOWER),
    "bridgetower-con": entry("BridgeTowerForContrastiveLearning", CAPTIONED, **BRIDGETOWER_CONTRASTIVE,
        contrastive_hidden_size=20, logit_scale_init_value=2.65),
    "bridgetower-unshared": entry("BridgeTowerForMaskedLM", CAPTIONED, **BRIDGETOWER,
        share_cross_modal_transformer_layers=False),
}
"""Images with texts."""

SUPERPOINT: Config = {
    "encoder_hidden_sizes": WIDTHS, "decoder_hidden_size": 28, "descriptor_decoder_dim": 32, "keypoint_threshold": 0.0,
}
LOFTR: Config = {
    "stage_num_blocks": [1, 1, 2, 2], "out_features": [8, 12, 16, 64], "hidden_size": 64, "num_attention_layers": 1,
    "num_attention_heads": 8,
}
KEYPOINTS: dict[str, Entry] = {
    "superpoint": entry("SuperPointForKeypointDetection", pixels(32), **SUPERPOINT),
    "superglue": entry("SuperGlueForKeypointMatching", {"pixel_values": noise(2, 2, 3, 32, 32)},
        keypoint_detector_config={**SUPERPOINT, "model_type": "superpoint"}, hidden_size=32,
        keypoint_encoder_sizes=[12, 20], gnn_layers_types=["self", "cross"], sinkhorn_iterations=3),
    "lightglue": entry("LightGlueForKeypointMatching", {"pixel_values": noise(2, 2, 3, 32, 32)},
        keypoint_detector_config={**SUPERPOINT, "model_type": "superpoint"}, descriptor_dim=32, num_hidden_layers=2,
        num_attention_heads=4, depth_confidence=-1.0, width_confidence=-1.0),
    "efficientloftr": entry("EfficientLoFTRForKeypointMatching", {"pixel_values": noise(2, 2, 3, 64, 64)}, **LOFTR),
    "efficientloftr-model": entry("EfficientLoFTRModel", {"pixel_values": noise(2, 2, 3, 64, 64)}, **LOFTR),
}

GPT2: Config = {
    "model_type": "gpt2", "vocab_size": 99, "n_embd": 40, "n_layer": 2, "n_head": 5, "n_positions": 32,
    "add_cross_attention": True, "is_decoder": True, "bos_token_id": 1, "eos_token_id": 2,
}
TROCR: Config = {
    "model_type": "trocr", "vocab_size": 99, "d_model": 40, "decoder_layers": 1, "decoder_attention_heads": 5,
    "decoder_ffn_dim": 72, "max_position_embeddings": 32, "cross_attention_hidden_size": 48,
}
MBART: Config = {
    "model_type": "mbart", "vocab_size": 99, "d_model": 48, "encoder_layers": 1, "decoder_layers": 1,
    "decoder_attention_heads": 6, "encoder_attention_heads": 6, "decoder_ffn_dim": 72, "encoder_ffn_dim": 72,
    "max_position_embeddings": 32, "add_cross_attention": True, "is_decoder": True,
}
WRITTEN: Inputs = {**pixels(32), "decoder_input_ids": ids(2, 6), "use_cache": False}
WRITERS: dict[str, Entry] = {
    "trocr": entry("TrOCRForCausalLM", {"input_ids": ids(2, 8), "encoder_hidden_states": noise(2, 10, 20)},
        vocab_size=99, d_model=48, decoder_layers=2, decoder_attention_heads=6, decoder_ffn_dim=72,
        max_position_embeddings=32, cross_attention_hidden_size=20),
    **{
        f"vision-encoder-decoder-{decoder['model_type']}": entry("VisionEncoderDecoderModel", WRITTEN,
            encoder={"model_type": "vit", **TRANSFORMER}, decoder=decoder)
        for decoder in (GPT2, TROCR, MBART)
    },
    "nougat": entry("VisionEncoderDecoderModel", {**WRITTEN, **pixels(64)},
        encoder={**SWIN, "model_type": "donut-swin"}, decoder={**MBART, "d_model": 96}),
    "got_ocr2": entry("GotOcr2ForConditionalGeneration", {**pixels(64), "input_ids": with_places(0, 4, 6)},
        image_token_index=95, image_seq_length=4, vision_config={"hidden_size": 48, "output_channels": 20,
            "num_hidden_layers": 2, "num_attention_heads": 6, "image_size": 64, "patch_size": 8, "window_size": 4,
            "global_attn_indexes": [1], "mlp_dim": 72},
        text_config={"model_type": "qwen2", **TEXT, "num_attention_heads": 4, "num_key_value_heads": 2}),
}
"""Texts from images."""

VARIED: dict[str, tuple[str, Inputs]] = {
    "yolos+size": ("yolos", pixels(48, 64)),
    "timesformer+frames": ("timesformer-divided_space_time", {"pixel_values": noise(2, 6, 3, 32, 32)}),
    "detr+mask": ("detr", {"pixel_mask": pad(ones(2, 64, 48), (0, 16))}),
    "rt_detr+float": ("rt_detr", pixels(64, 96)),
    "sam+single": ("sam", {"multimask_output": False}),
    "sam2+single": ("sam2-masks", {"multimask_output": False}),
    "swinv2+pad": ("swinv2", pixels(56, 72)),
    "siglip2+pad": ("siglip2",
        {"pixel_attention_mask": pad(ones(2, 12), (0, 4)), "spatial_shapes": torch.tensor([[3, 4], [4, 3]])}),
}
"""Other inputs of models above: of which, and what is given in place of its inputs."""

LARGER = (
    "ijepa", "vit_msn", "altclip", "metaclip_2", "clipseg", "x_clip", "owlvit-det", "blip-2", "git", "bridgetower",
    "chinese_clip", "donut-swin", "swin",
)
"""Those that take images of other sizes than their config says."""
# fmt: on

PLAIN: dict[str, Entry] = {
    **CLASSIFIERS,
    **TEXT_MODELS,
    **DETECTORS,
    **MAPS,
    **PAGES,
    **SEGMENT_ANYTHING,
    **PAIRS,
    **KEYPOINTS,
    **WRITERS,
}
SIZED_IMAGES: dict[str, Entry] = {
    **PLAIN,
    **{f"{name}+size": larger(PLAIN[name]) for name in LARGER},
    **{name: varied(PLAIN[whole], inputs) for name, (whole, inputs) in VARIED.items()},
}

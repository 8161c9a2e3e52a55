"""Models of other libraries with random weights: torchvision, diffusers, ultralytics and more.

They are not part of the suite: graphprune needs none of these libraries. ``tools/zoo_table.py libraries`` runs those
that are installed. A name is that of the library and of the model, with what it is on where that is a choice.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from graphprune.adapters import named_inputs

from .language import Entry, fill_zeros
from .vision import image

Made = Callable[[], Any]
"""Makes the inputs, positional ones in a tuple or all of them by name: random numbers are drawn in this order."""


def model(path: str, inputs: Made, *arguments: Any, **sizes: Any) -> Entry:
    """A model of ``module:function or class`` with its inputs."""

    def entry() -> tuple[torch.nn.Module, dict[str, Any]]:
        torch.manual_seed(0)
        module, _, name = path.partition(":")
        made = getattr(importlib.import_module(module), name)(*arguments, **sizes).eval()
        fill_zeros(made)
        given = inputs()
        return made, given if isinstance(given, dict) else named_inputs(made, given, {})[1]

    return entry


def noise(*shape: int) -> torch.Tensor:
    """Random numbers."""
    return torch.randn(*shape)


def pixels(size: int) -> Made:
    """Random images."""
    return lambda: (image(size),)


def volume(*sizes: int, channels: int = 1) -> Made:
    """A random volume, or a video."""
    return lambda: (noise(1, channels, *sizes),)


def steps() -> torch.Tensor:
    """The times of two noisy images."""
    return torch.tensor([1, 5])


def tokens(*shape: int) -> torch.Tensor:
    """Token ids."""
    return torch.randint(1, 99, shape)


def graph(kind: str, **sizes: Any) -> Entry:
    """A network of torch_geometric on ten nodes and thirty edges."""
    return model(
        f"torch_geometric.nn:{kind}", lambda: (noise(10, 8), torch.randint(0, 10, (2, 30))), 8, 32, 2, 4, **sizes
    )


VISION = {
    **{
        name: model(f"torchvision.models:{name}", pixels(96), weights=None)
        for name in (
            *("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "resnext50_32x4d", "wide_resnet50_2"),
            *("efficientnet_v2_s", "regnet_x_400mf", "convnext_tiny", "swin_v2_t", "mobilenet_v3_small", "densenet121"),
        )
    },
    "alexnet": model("torchvision.models:alexnet", pixels(224), weights=None),
    "googlenet": model("torchvision.models:googlenet", pixels(96), weights=None, init_weights=False),
    "vit": model(
        "torchvision.models:VisionTransformer",
        pixels(32),
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=10,
    ),
    "maxvit": model(
        "torchvision.models:MaxVit",
        pixels(64),
        input_size=(64, 64),
        stem_channels=16,
        block_channels=[16, 32],
        block_layers=[1, 1],
        head_dim=8,
        stochastic_depth_prob=0.0,
        partition_size=4,
        num_classes=10,
    ),
    "r3d": model("torchvision.models.video:r3d_18", volume(4, 32, 32, channels=3), weights=None),
    "r2plus1d": model("torchvision.models.video:r2plus1d_18", volume(4, 32, 32, channels=3), weights=None),
    "s3d": model("torchvision.models.video:s3d", volume(16, 224, 224, channels=3), weights=None),
    "mvit": model("torchvision.models.video:mvit_v1_b", volume(16, 224, 224, channels=3), weights=None),
    "swin3d": model("torchvision.models.video:swin3d_t", volume(8, 64, 64, channels=3), weights=None),
    "raft": model(
        "torchvision.models.optical_flow:raft_small",
        lambda: {"image1": noise(1, 3, 128, 128), "image2": noise(1, 3, 128, 128), "num_flow_updates": 2},
        weights=None,
    ),
    **{
        name: model(
            f"torchvision.models.detection:{name}",
            lambda: {"images": [noise(3, 64, 64)]},
            weights=None,
            weights_backbone=None,
            num_classes=5,
        )
        for name in ("retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large")
    },
    **{
        name: model(f"torchvision.models.segmentation:{name}", pixels(64), weights=None, weights_backbone=None)
        for name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "fcn_resnet50")
    },
}

SEGMENTATION = {
    f"{kind} on {encoder}": model(
        f"segmentation_models_pytorch:{kind}",
        pixels(224 if kind == "DPT" else 128),
        encoder_name=encoder,
        encoder_weights=None,
        classes=3,
    )
    for kind, encoders in {
        "Unet": (
            *("resnet18", "efficientnet-b0", "mit_b0", "timm-regnetx_002", "tu-convnext_atto", "mobilenet_v2"),
            *("densenet121", "mobileone_s0", "vgg11", "xception", "dpn68", "se_resnet50", "inceptionv4"),
        ),
        "DPT": ("tu-vit_tiny_patch16_224",),
        **dict.fromkeys(
            ("UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet"),
            ("resnet18",),
        ),
        "Segformer": ("resnet18",),
    }.items()
    for encoder in encoders
}

BLOCKS: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
CROSS: dict[str, Any] = {**BLOCKS, "cross_attention_dim": 24}
CODER: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
TRANSFORMER: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4}

DIFFUSION = {
    "UNet2DModel": model(
        "diffusers:UNet2DModel",
        lambda: (noise(2, 3, 16, 16), steps()),
        sample_size=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **BLOCKS,
    ),
    "UNet2DConditionModel": model(
        "diffusers:UNet2DConditionModel",
        lambda: (noise(2, 4, 16, 16), steps(), noise(2, 7, 24)),
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **CROSS,
    ),
    "UNet3DConditionModel": model(
        "diffusers:UNet3DConditionModel",
        lambda: (noise(1, 4, 3, 8, 8), torch.tensor([1]), noise(1, 7, 24)),
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        **CROSS,
    ),
    "ControlNetModel": model(
        "diffusers:ControlNetModel",
        lambda: (noise(2, 4, 16, 16), steps(), noise(2, 7, 24), noise(2, 3, 32, 32)),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(8, 16),
        **CROSS,
    ),
    "AutoencoderKL": model("diffusers:AutoencoderKL", pixels(16), layers_per_block=1, **CODER),
    "VQModel": model("diffusers:VQModel", pixels(16), num_vq_embeddings=16, **CODER),
    "AutoencoderTiny": model(
        "diffusers:AutoencoderTiny",
        pixels(16),
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ),
    "AutoencoderDC": model(
        "diffusers:AutoencoderDC",
        pixels(16),
        encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        attention_head_dim=8,
        latent_channels=4,
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    ),
    "DiTTransformer2DModel": model(
        "diffusers:DiTTransformer2DModel",
        lambda: {"hidden_states": noise(2, 4, 8, 8), "timestep": steps(), "class_labels": steps()},
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        **TRANSFORMER,
    ),
    "Transformer2DModel": model(
        "diffusers:Transformer2DModel",
        lambda: {"hidden_states": noise(2, 32, 8, 8), "encoder_hidden_states": noise(2, 5, 24)},
        num_layers=1,
        norm_num_groups=4,
        cross_attention_dim=24,
        **{**TRANSFORMER, "in_channels": 32},
    ),
    "PixArtTransformer2DModel": model(
        "diffusers:PixArtTransformer2DModel",
        lambda: {
            "hidden_states": noise(2, 4, 8, 8),
            "encoder_hidden_states": noise(2, 5, 24),
            "timestep": steps(),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        cross_attention_dim=32,
        caption_channels=24,
        **TRANSFORMER,
    ),
    "SD3Transformer2DModel": model(
        "diffusers:SD3Transformer2DModel",
        lambda: {
            "hidden_states": noise(2, 4, 16, 16),
            "encoder_hidden_states": noise(2, 5, 24),
            "pooled_projections": noise(2, 20),
            "timestep": steps(),
        },
        sample_size=16,
        patch_size=2,
        num_layers=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=20,
        out_channels=4,
        pos_embed_max_size=16,
        **TRANSFORMER,
    ),
    "FluxTransformer2DModel": model(
        "diffusers:FluxTransformer2DModel",
        lambda: {
            "hidden_states": noise(2, 16, 4),
            "encoder_hidden_states": noise(2, 5, 24),
            "pooled_projections": noise(2, 20),
            "timestep": steps() / 10,
            "img_ids": torch.randint(0, 4, (16, 3)).float(),
            "txt_ids": torch.zeros(5, 3),
        },
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        axes_dims_rope=(4, 4, 8),
    ),
    "AuraFlowTransformer2DModel": model(
        "diffusers:AuraFlowTransformer2DModel",
        lambda: {
            "hidden_states": noise(2, 4, 8, 8),
            "encoder_hidden_states": noise(2, 5, 24),
            "timestep": steps() / 10,
        },
        sample_size=8,
        patch_size=2,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        joint_attention_dim=24,
        caption_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=64,
        **TRANSFORMER,
    ),
    "SanaTransformer2DModel": model(
        "diffusers:SanaTransformer2DModel",
        lambda: {"hidden_states": noise(2, 4, 8, 8), "encoder_hidden_states": noise(2, 5, 24), "timestep": steps()},
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=8,
        **TRANSFORMER,
    ),
    "CogVideoXTransformer3DModel": model(
        "diffusers:CogVideoXTransformer3DModel",
        lambda: {
            "hidden_states": noise(1, 2, 4, 8, 8),
            "encoder_hidden_states": noise(1, 5, 24),
            "timestep": torch.tensor([3]),
        },
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=24,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        patch_size=2,
        max_text_seq_length=5,
    ),
    "LTXVideoTransformer3DModel": model(
        "diffusers:LTXVideoTransformer3DModel",
        lambda: {
            "hidden_states": noise(1, 16, 4),
            "encoder_hidden_states": noise(1, 5, 24),
            "timestep": torch.tensor([3]),
            "encoder_attention_mask": torch.ones(1, 5),
            "num_frames": 1,
            "height": 4,
            "width": 4,
        },
        out_channels=4,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=24,
        **TRANSFORMER,
    ),
    "HunyuanDiT2DModel": model(
        "diffusers:HunyuanDiT2DModel",
        lambda: {
            "hidden_states": noise(2, 4, 8, 8),
            "timestep": steps().float(),
            "encoder_hidden_states": noise(2, 4, 24),
            "text_embedding_mask": torch.ones(2, 4),
            "encoder_hidden_states_t5": noise(2, 4, 24),
            "text_embedding_mask_t5": torch.ones(2, 4),
            "image_meta_size": noise(2, 6),
            "style": torch.zeros(2, dtype=torch.long),
            "image_rotary_emb": (noise(16, 8), noise(16, 8)),
        },
        sample_size=8,
        num_layers=2,
        patch_size=2,
        cross_attention_dim=24,
        cross_attention_dim_t5=24,
        pooled_projection_dim=12,
        hidden_size=32,
        text_len=4,
        text_len_t5=4,
        activation_fn="gelu-approximate",
        mlp_ratio=4.0,
        **TRANSFORMER,
    ),
    "WanTransformer3DModel": model(
        "diffusers:WanTransformer3DModel",
        lambda: {
            "hidden_states": noise(1, 4, 2, 8, 8),
            "timestep": torch.tensor([3]),
            "encoder_hidden_states": noise(1, 5, 16),
        },
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        cross_attn_norm=True,
    ),
    "PriorTransformer": model(
        "diffusers:PriorTransformer",
        lambda: {
            "hidden_states": noise(2, 16),
            "timestep": steps(),
            "proj_embedding": noise(2, 16),
            "encoder_hidden_states": noise(2, 7, 16),
        },
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=16,
        num_embeddings=7,
        additional_embeddings=4,
    ),
    "StableCascadeUNet": model(
        "diffusers:StableCascadeUNet",
        lambda: {
            "sample": noise(2, 4, 8, 8),
            "timestep_ratio": steps() / 10,
            "clip_text_pooled": noise(2, 1, 16),
            "clip_text": noise(2, 5, 16),
            "clip_img": noise(2, 1, 16),
        },
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=16,
        patch_size=1,
        conditioning_dim=32,
        block_out_channels=(16, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
        clip_text_in_channels=16,
        clip_text_pooled_in_channels=16,
        clip_image_in_channels=16,
        clip_seq=1,
        switch_level=(False,),
    ),
}

VIT: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 10,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "mlp_dim": 48,
}
STAGES: dict[str, Any] = {"num_classes": 10, "dim": (16, 16, 32, 32), "depth": (1, 1, 1, 1)}

TRANSFORMERS_OF_VISION = {
    **{
        name: model(f"vit_pytorch.{name}:{kind}", pixels(32), **VIT, **more)
        for name, kind, more in (
            ("vit", "ViT", {}),
            ("simple_vit", "SimpleViT", {}),
            ("deepvit", "DeepViT", {}),
            ("cait", "CaiT", {"cls_depth": 1}),
            ("xcit", "XCiT", {"cls_depth": 1, "local_patch_kernel_size": 3}),
            ("parallel_vit", "ViT", {"num_parallel_branches": 2}),
            ("vit_for_small_dataset", "ViT", {}),
            ("rvt", "RvT", {}),
            ("simple_vit_with_register_tokens", "SimpleViT", {}),
            ("simple_vit_with_qk_norm", "SimpleViT", {}),
            ("simple_vit_with_fft", "SimpleViT", {"freq_patch_size": 8}),
            ("simple_vit_with_value_residual", "SimpleViT", {}),
            ("simple_vit_with_hyper_connections", "SimpleViT", {"num_residual_streams": 2}),
            ("normalized_vit", "nViT", {}),
            ("vit_with_patch_merger", "ViT", {"patch_merge_layer": 1, "patch_merge_num_tokens": 4}),
        )
    },
    "pit": model("vit_pytorch.pit:PiT", pixels(32), **{**VIT, "depth": (1, 1)}),
    "t2t": model(
        "vit_pytorch.t2t:T2TViT",
        pixels(32),
        image_size=32,
        num_classes=10,
        dim=32,
        depth=2,
        heads=4,
        mlp_dim=48,
        t2t_layers=((7, 4), (3, 2)),
    ),
    "cct": model(
        "vit_pytorch.cct:CCT",
        pixels(32),
        img_size=32,
        embedding_dim=32,
        n_conv_layers=1,
        num_layers=2,
        num_heads=4,
        mlp_ratio=2.0,
        num_classes=10,
    ),
    "cross_vit": model(
        "vit_pytorch.cross_vit:CrossViT",
        pixels(32),
        image_size=32,
        num_classes=10,
        depth=1,
        sm_dim=16,
        sm_patch_size=8,
        sm_enc_depth=1,
        sm_enc_heads=2,
        sm_enc_mlp_dim=32,
        lg_dim=32,
        lg_patch_size=16,
        lg_enc_depth=1,
        lg_enc_heads=2,
        lg_enc_mlp_dim=32,
        cross_attn_depth=1,
        cross_attn_heads=2,
    ),
    "levit": model(
        "vit_pytorch.levit:LeViT",
        pixels(64),
        image_size=64,
        num_classes=10,
        stages=2,
        dim=(32, 48),
        depth=1,
        heads=(2, 4),
        mlp_mult=2,
    ),
    "cvt": model(
        "vit_pytorch.cvt:CvT",
        pixels(64),
        num_classes=10,
        s1_emb_dim=16,
        s2_emb_dim=16,
        s3_emb_dim=16,
        s1_depth=1,
        s2_depth=1,
        s3_depth=1,
        s2_heads=2,
        s3_heads=2,
    ),
    "regionvit": model(
        "vit_pytorch.regionvit:RegionViT",
        pixels(64),
        window_size=2,
        tokenize_local_3_conv=False,
        use_peg=False,
        **STAGES,
    ),
    "crossformer": model(
        "vit_pytorch.crossformer:CrossFormer",
        pixels(224),
        num_classes=10,
        dim=(64, 64, 64, 64),
        depth=(1, 1, 1, 1),
    ),
    "scalable_vit": model(
        "vit_pytorch.scalable_vit:ScalableViT",
        pixels(64),
        num_classes=10,
        dim=16,
        heads=(2, 2, 2, 2),
        depth=(1, 1, 1, 1),
        ssa_dim_key=(8, 8, 8, 8),
        reduction_factor=(4, 2, 1, 1),
        window_size=(8, 4, None, None),
    ),
    "sep_vit": model(
        "vit_pytorch.sep_vit:SepViT",
        pixels(224),
        num_classes=10,
        dim=16,
        dim_head=8,
        heads=(1, 2, 4, 4),
        depth=(1, 1, 1, 1),
    ),
    "max_vit": model(
        "vit_pytorch.max_vit:MaxViT",
        pixels(64),
        num_classes=10,
        dim_conv_stem=16,
        dim=16,
        dim_head=8,
        depth=(1, 1),
        window_size=4,
        mbconv_expansion_rate=2,
        mbconv_shrinkage_rate=0.25,
    ),
    "nest": model(
        "vit_pytorch.nest:NesT",
        pixels(32),
        image_size=32,
        patch_size=4,
        dim=16,
        heads=2,
        num_hierarchies=3,
        block_repeats=(1, 1, 1),
        num_classes=10,
    ),
    "mobile_vit": model(
        "vit_pytorch.mobile_vit:MobileViT",
        pixels(64),
        image_size=(64, 64),
        dims=[32, 48, 64],
        channels=[16, 16, 24, 24, 32, 32, 40, 40, 48, 48, 64],
        num_classes=10,
    ),
}


def _x_transformer(kind: str, **options: Any) -> Entry:
    """A decoder over tokens, or an encoder over features, of x-transformers."""

    def entry() -> tuple[torch.nn.Module, dict[str, Any]]:
        torch.manual_seed(0)
        library = importlib.import_module("x_transformers")
        layers = getattr(library, kind)(dim=32, depth=2, heads=4, attn_dim_head=8, **options)
        if kind == "Encoder":
            return layers.eval(), {"x": noise(2, 16, 32)}
        made = library.TransformerWrapper(num_tokens=99, max_seq_len=32, attn_layers=layers)
        return made.eval(), {"x": tokens(2, 16)}

    return entry


X_TRANSFORMERS = {
    "Decoder with rotary positions": _x_transformer("Decoder", rotary_pos_emb=True, ff_glu=True, attn_kv_heads=2),
    "Decoder with ALiBi": _x_transformer(
        "Decoder", alibi_pos_bias=True, attn_qk_norm=True, use_rmsnorm=True, ff_swish=True
    ),
    "Encoder with gates": _x_transformer(
        "Encoder", gate_residual=True, attn_gate_values=True, sandwich_norm=True, attn_head_scale=True
    ),
    "Encoder with position biases": _x_transformer("Encoder", rel_pos_bias=True, macaron=True),
}

CLIP_VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 16}
CLIP_TEXT = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2}

MEDICINE = {
    "UNet": model(
        "monai.networks.nets:UNet",
        volume(16, 16, 16),
        3,
        1,
        2,
        channels=(8, 16, 32),
        strides=(2, 2),
        num_res_units=2,
    ),
    "SegResNet": model("monai.networks.nets:SegResNet", volume(16, 16, 16), 3, 8, 1, 2),
    "UNETR": model(
        "monai.networks.nets:UNETR",
        volume(32, 32, 32),
        1,
        2,
        (32, 32, 32),
        feature_size=8,
        hidden_size=48,
        mlp_dim=64,
        num_heads=4,
    ),
    "SwinUNETR": model(
        "monai.networks.nets:SwinUNETR",
        volume(64, 64, 64),
        in_channels=1,
        out_channels=2,
        feature_size=12,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 4, 4),
    ),
    "VNet": model("monai.networks.nets:VNet", volume(32, 32, 32), 3, 1, 2),
    "DynUNet": model(
        "monai.networks.nets:DynUNet",
        volume(16, 16, 16),
        3,
        1,
        2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[8, 16, 32],
    ),
    "AttentionUnet": model(
        "monai.networks.nets:AttentionUnet", volume(32, 32), 2, 1, 2, channels=(8, 16, 32), strides=(2, 2)
    ),
    "BasicUNetPlusPlus": model(
        "monai.networks.nets:BasicUNetPlusPlus", volume(32, 32), 2, 1, 2, features=(8, 8, 16, 16, 32, 8)
    ),
    "HighResNet": model("monai.networks.nets:HighResNet", volume(32, 32), 2, 1, 2),
    "VQVAE": model(
        "monai.networks.nets:VQVAE",
        volume(32, 32),
        2,
        1,
        1,
        channels=(8, 16),
        num_res_channels=(8, 16),
        num_res_layers=1,
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=8,
        embedding_dim=8,
    ),
}

SOUND = {
    "Conformer": model(
        "torchaudio.models:Conformer", lambda: (noise(2, 20, 16), torch.tensor([20, 20])), 16, 4, 32, 2, 3
    ),
    "Emformer": model(
        "torchaudio.models:Emformer",
        lambda: (noise(2, 13, 16), torch.tensor([13, 13])),
        16,
        4,
        32,
        2,
        4,
        right_context_length=1,
    ),
    "ConvTasNet": model(
        "torchaudio.models:ConvTasNet",
        lambda: (noise(2, 1, 400),),
        2,
        enc_num_feats=16,
        msk_num_feats=8,
        msk_num_hidden_feats=16,
        msk_num_layers=2,
        msk_num_stacks=1,
    ),
    "HDemucs": model(
        "torchaudio.models:HDemucs",
        lambda: (noise(1, 1, 4096),),
        ["voice", "rest"],
        audio_channels=1,
        channels=8,
        nfft=256,
        depth=3,
    ),
    "DeepSpeech": model("torchaudio.models:DeepSpeech", lambda: (noise(2, 1, 20, 16),), 16, 32, 10),
    "Wav2Letter": model("torchaudio.models:Wav2Letter", lambda: (noise(1, 16, 700),), 10, "mfcc", 16),
    "WaveRNN": model(
        "torchaudio.models:WaveRNN",
        lambda: (noise(1, 1, 40), noise(1, 1, 8, 14)),
        upsample_scales=[2, 2],
        n_classes=8,
        hop_length=4,
        n_res_block=1,
        n_rnn=16,
        n_fc=16,
        n_freq=8,
        n_hidden=8,
        n_output=8,
    ),
    "Tacotron2": model(
        "torchaudio.models:Tacotron2",
        lambda: (torch.randint(0, 20, (2, 6)), torch.tensor([6, 6]), noise(2, 8, 5), torch.tensor([5, 5])),
        n_symbol=20,
        symbol_embedding_dim=16,
        encoder_embedding_dim=16,
        n_mels=8,
        attention_rnn_dim=16,
        attention_hidden_dim=8,
        decoder_rnn_dim=16,
        prenet_dim=8,
        postnet_embedding_dim=16,
    ),
    "SquimObjective": model("torchaudio.models:squim_objective_base", lambda: (noise(1, 16000),)),
}


def _detector(settings: str, kind: str = "DetectionModel") -> Entry:
    """A model of ultralytics by its file of settings."""
    return model(f"ultralytics.nn.tasks:{kind}", lambda: {"x": torch.rand(1, 3, 64, 64)}, settings, verbose=False)


DETECTORS = {
    **{name: _detector(f"{name}.yaml") for name in ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n")},
    "yolov8n-seg": _detector("yolov8n-seg.yaml", "SegmentationModel"),
    "yolov8n-cls": _detector("yolov8n-cls.yaml", "ClassificationModel"),
    "yolo11n-pose": _detector("yolo11n-pose.yaml", "PoseModel"),
    "rtdetr-l": _detector("rtdetr-l.yaml", "RTDETRDetectionModel"),
}

LIBRARIES: dict[str, Entry] = {
    f"{library} {name}": entry
    for library, entries in {
        "torchvision": VISION,
        "segmentation_models_pytorch": SEGMENTATION,
        "diffusers": DIFFUSION,
        "vit-pytorch": TRANSFORMERS_OF_VISION,
        "x-transformers": X_TRANSFORMERS,
        "open_clip": {
            "CLIP": model(
                "open_clip.model:CLIP",
                lambda: (image(32), tokens(2, 16)),
                embed_dim=32,
                vision_cfg=CLIP_VISION,
                text_cfg=CLIP_TEXT,
            )
        },
        "torch_geometric": {
            "GCN": graph("GCN"),
            "GAT": graph("GAT", heads=4),
            "GraphSAGE": graph("GraphSAGE"),
            "GIN": graph("GIN"),
        },
        "monai": MEDICINE,
        "torchaudio": SOUND,
        "ultralytics": DETECTORS,
    }.items()
    for name, entry in entries.items()
}

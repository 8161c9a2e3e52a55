"""Vision models of timm with random weights, in their smallest sizes.

They are not part of the suite: timm needs torchvision, which does not import beside every build of torch.
``tools/zoo_table.py timm`` runs them where it does.
"""

from __future__ import annotations

from typing import Any

import torch

from .language import Entry, fill_zeros
from .vision import image


def timm(name: str, size: int = 64, **options: Any) -> Entry:
    """A model of timm by its name, on two random images of ``size`` pixels."""

    def entry() -> tuple[torch.nn.Module, dict[str, Any]]:
        from timm import create_model  # type: ignore[import-not-found,unused-ignore]

        torch.manual_seed(0)
        model = create_model(name, num_classes=10, **options).eval()
        fill_zeros(model)
        return model, {"x": image(size)}

    return entry


TIMM: dict[str, Entry] = {
    "densenet121": timm("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)),
    "vgg11": timm("vgg11", 32),
    "inception_v3": timm("inception_v3", 96),
    "mixer": timm("mixer_s32_224", img_size=64),
    "resmlp": timm("resmlp_12_224", img_size=64),
    "gmlp": timm("gmlp_s16_224", img_size=64),
    "mobilevit_xxs": timm("mobilevit_xxs"),
    "coat_lite_tiny": timm("coat_lite_tiny", img_size=64, embed_dims=(16, 24, 32, 40), serial_depths=(1, 1, 1, 1)),
    "coat_tiny": timm("coat_tiny", img_size=64, serial_depths=(1, 1, 1, 1), parallel_depth=1),
    "hrnet_w18_small": timm("hrnet_w18_small"),
    "resnest14d": timm("resnest14d"),
    "efficientvit_b0": timm("efficientvit_b0"),
    "efficientvit_m0": timm("efficientvit_m0", img_size=64),
    "convmixer": timm("convmixer_768_32"),
    "xcit_nano": timm("xcit_nano_12_p16_224", img_size=64, depth=2),
    "maxvit_pico": timm("maxvit_rmlp_pico_rw_256", img_size=64),
    "coatnet_nano": timm("coatnet_nano_rw_224", img_size=64),
    "edgenext_xx_small": timm("edgenext_xx_small"),
    "ghostnet": timm("ghostnet_050"),
    "repvgg_a0": timm("repvgg_a0"),
    "cspresnext50": timm("cspresnext50"),
    "dla34": timm("dla34"),
    "fastvit_t8": timm("fastvit_t8"),
    "tinynet_e": timm("tinynet_e"),
    "mobileone_s0": timm("mobileone_s0"),
    "mobilenetv3_small": timm("mobilenetv3_small_050"),
    "mobilenetv4_conv_small": timm("mobilenetv4_conv_small_050"),
    "efficientformer_l1": timm("efficientformer_l1", 224),
    "pit_tiny": timm("pit_ti_224", img_size=64),
    "nfnet_f0": timm("nfnet_f0", 64),
    "tiny_vit_5m": timm("tiny_vit_5m_224", 224),
    "twins_svt_small": timm("twins_svt_small", img_size=64),
    "cait_xxs24": timm("cait_xxs24_224", img_size=64, depth=2, embed_dim=48, num_heads=4),
    "visformer_tiny": timm("visformer_tiny", img_size=64),
    "crossvit_tiny": timm("crossvit_tiny_240", 240),
    "davit_tiny": timm("davit_tiny", depths=(1, 1, 1, 1), embed_dims=(24, 48, 96, 192), num_heads=(2, 4, 8, 16)),
    "nest_tiny": timm("nest_tiny", 64, img_size=64),
    "eva02_tiny": timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    "convit_tiny": timm("convit_tiny", img_size=64, depth=11),
    "volo_d1": timm("volo_d1_224", 64, img_size=64),
    "xception": timm("legacy_xception"),
    "lcnet_050": timm("lcnet_050"),
    "hgnet_tiny": timm("hgnetv2_b0"),
    "starnet_s1": timm("starnet_s1"),
    "res2net": timm("res2net50_26w_4s", layers=[1, 1, 1, 1]),
    "selecsls42": timm("selecsls42"),
    "sknet": timm("skresnet18"),
    "vovnet": timm("ese_vovnet19b_slim_dw"),
    "pvt_v2_b0": timm("pvt_v2_b0", 64),
    "dpn48b": timm("dpn48b"),
    "inception_next": timm("inception_next_atto"),
    "senet": timm("legacy_seresnet18"),
}

"""Inputs of transformers models from their configs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphprune.errors import CaptureError
from graphprune.sources.examples import candidates, trace_by_config

from ..zoo.language import LANGUAGE
from ..zoo.vision import VISION


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("t5", {"input_ids": [2, 13], "decoder_input_ids": [2, 13]}),
        # makes its mask itself, but not while it is captured
        ("switch_transformers", {"input_ids": [2, 13], "decoder_input_ids": [2, 13], "attention_mask": [2, 13]}),
        ("resnet", {"pixel_values": [2, 3, 224, 224]}),
        ("wav2vec2", {"input_values": [2, 16000]}),
        ("ast", {"input_values": [2, 40, 24]}),
        ("whisper", {"input_features": [2, 10, 26], "decoder_input_ids": [2, 13]}),
        ("clip", {"input_ids": [2, 13], "pixel_values": [2, 3, 32, 32]}),
    ],
)
def test_a_model_gets_what_its_config_tells_of(name: str, shapes: dict[str, list[int]]) -> None:
    model, _ = {**LANGUAGE, **VISION}[name]()
    traced = trace_by_config(model)
    assert {name: list(value.shape) for name, value in traced.kwargs.items()} == shapes


def test_sizes_of_an_image_that_is_not_square() -> None:
    model, _ = VISION["vit"]()
    model.config.image_size = [16, 32]
    assert [list(inputs["pixel_values"].shape) for inputs in candidates(model, batch=1, length=1)] == [[1, 3, 16, 32]]


def test_a_model_that_says_nothing_of_its_inputs() -> None:
    with pytest.raises(CaptureError) as caught:
        trace_by_config(nn.Linear(3, 4))
    assert str(caught.value) == (
        "the config of Linear does not tell the shapes of its inputs: name a function that gives model and inputs, "
        "file.py:function"
    )


def test_a_model_that_takes_something_else() -> None:
    model, _ = VISION["vit"]()
    model.config.num_channels = 7
    with pytest.raises(CaptureError, match=r"for other ones name a function that gives model and inputs") as caught:
        trace_by_config(model)
    assert isinstance(caught.value.__cause__, CaptureError)
    assert torch.is_grad_enabled()

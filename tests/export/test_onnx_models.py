"""Parts of encoder-decoders, and pruned decoders of many families, against generation in torch."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import graphprune as gp
from graphprune.errors import ExportError
from graphprune.onnx import generate

from ..zoo.language import LANGUAGE, ids
from ..zoo.vision import VISION

DECODERS = [
    "bloom",
    "cohere",
    "deepseek_v3",
    "exaone4",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3",
    "glm4",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "granite",
    "mistral",
    "mixtral",
    "nemotron",
    "olmo2",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "starcoder2",
]


def pruned(family: str) -> gp.CompactModel:
    """The tiny model of a family, with weights that make it sure of its next token, without a quarter of them."""
    model, inputs = LANGUAGE[family]()
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.15)
    return gp.prune(model.eval(), kwargs=inputs, ratio=0.25, form="module")


def greedy(model: Any, start: torch.Tensor, **inputs: Any) -> Any:
    settings = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(start, **settings, **inputs).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("family", DECODERS)
def test_pruned_decoders_continue_as_in_torch(family: str, tmp_path: Path) -> None:
    compact = pruned(family)
    gp.export_onnx(compact, tmp_path / "model.onnx", cache=True)
    start, mask = ids(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[1, :2] = 0
    found = generate(tmp_path / "model.onnx", start.numpy(), 40, attention_mask=mask.numpy())
    assert (found == greedy(compact.module, start, attention_mask=mask)).all()


def test_a_state_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    model, _ = LANGUAGE["mamba"]()
    with pytest.raises(
        ExportError, match=r"^the cache of MambaForCausalLM can't be captured \(.*\): export it without"
    ):
        gp.export_onnx(model.eval(), tmp_path / "model.onnx", cache=True)


@pytest.mark.slow
def test_a_cache_that_torch_can_not_follow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"^torch can't export MptForCausalLM to ONNX: .* Export it without cache=True$"
    ):
        gp.export_onnx(pruned("mpt"), tmp_path / "model.onnx", cache=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_and_decoder_are_files_of_their_own(family: str, tmp_path: Path) -> None:
    compact = pruned(family)
    encoder = gp.export_onnx(compact, tmp_path / "encoder.onnx", part="encoder")
    decoder = gp.export_onnx(compact, tmp_path / "decoder.onnx", part="decoder", cache=True)
    assert encoder.inputs == {"input_ids": ("batch", "sequence")}
    assert list(decoder.inputs)[:3] == ["input_ids", "encoder_hidden_states", "encoder_attention_mask"]
    text = ids(2, 9)
    session = onnxruntime.InferenceSession(str(encoder.path), providers=["CPUExecutionProvider"])
    (states,) = session.run(["last_hidden_state"], {"input_ids": text.numpy()})
    extra = {"encoder_hidden_states": states, "encoder_attention_mask": np.ones((2, 9), np.int64)}
    first = compact.module.config.decoder_start_token_id
    found = generate(decoder.path, [[first], [first]], 40, extra=extra)
    assert (found == greedy(compact.module, text)).all()
    with pytest.raises(ExportError, match="this file needs encoder_attention_mask, encoder_hidden_states too"):
        generate(decoder.path, [[first]], 1)


@pytest.mark.slow
def test_a_decoder_without_its_cache(tmp_path: Path) -> None:
    report = gp.export_onnx(pruned("bart"), tmp_path / "decoder.onnx", part="decoder")
    assert report.inputs == {
        "input_ids": ("batch", "sequence"),
        "encoder_hidden_states": ("batch", "encoder_sequence", 48),
        "encoder_attention_mask": ("batch", "encoder_sequence"),
    }
    assert report.outputs["logits"][:2] == ("batch", "sequence")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("family", ["vit", "resnet", "bert"])
def test_pruned_models_of_other_kinds(family: str, precision: Any, tmp_path: Path) -> None:
    model, inputs = {**LANGUAGE, **VISION}[family]()
    compact = gp.prune(model.eval(), kwargs=inputs, ratio=0.25, form="module")
    report = gp.export_onnx(compact, tmp_path / "model.onnx", precision=precision)
    assert report.checked
    assert list(report.inputs) == list(inputs)

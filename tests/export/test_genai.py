"""Directories for onnxruntime-genai, run in it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphprune as gp
from graphprune.errors import ExportError, OutputExistsError

from ..tiny import save_byte_tokenizer
from .test_onnx_cache import greedy, sharp, uneven
from .tiny import tiny_llama, tokens


def byte_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    save_byte_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


def continued(directory: Path, ids: torch.Tensor, new: int) -> Any:
    """Greedy tokens of onnxruntime-genai for one row."""
    genai = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(directory))
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=ids.shape[1] + new, do_sample=False)
    generator = genai.Generator(model, settings)
    generator.append_tokens(ids.numpy().astype(np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return generator.get_sequence(0)


def test_layers_of_different_sizes_run_in_genai(tmp_path: Path) -> None:
    compact = uneven(sharp(tiny_llama()))
    expected = greedy(compact.module, tokens(1, 7), 64)[0].tolist()
    compact.module.generation_config.eos_token_id = min(set(range(97)) - set(expected))  # so that no text ends
    report = gp.export_genai(compact, tmp_path / "out", tokenizer=byte_tokenizer(tmp_path / "tokenizer"))
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    decoder = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]["decoder"]
    assert (decoder["num_hidden_layers"], decoder["num_key_value_heads"], decoder["head_size"]) == (2, 4, 8)
    assert report.inputs["past_key_values.1.key"][1] == 2
    found = continued(tmp_path / "out", tokens(1, 7), 64)
    assert found.tolist() == expected


def test_what_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="exists already and is not overwritten"):
        gp.export_genai(tiny_llama(layers=1), tmp_path / "out", tokenizer=byte_tokenizer(tmp_path / "tokenizer"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(ExportError) as caught:
        gp.export_genai(torch.nn.Linear(3, 4), tmp_path / "out", tokenizer=tokenizer)
    assert str(caught.value) == (
        "neither the config of Linear nor its tokenizer says how many tokens it takes: set tokenizer.model_max_length"
    )
    assert not (tmp_path / "out").exists()

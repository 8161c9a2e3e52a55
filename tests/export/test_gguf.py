"""GGUF files: run by llama.cpp where its bindings are installed, and read back with the gguf package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from typer.testing import CliRunner

import graphprune as gp
from graphprune.cli.app import app
from graphprune.errors import ExportError, OutputExistsError

from ..zoo.language import LANGUAGE
from .tiny import compact_llama, tiny_llama

gguf = pytest.importorskip("gguf")


def saved(name: str, directory: Path) -> Any:
    """A model of the zoo with a third of it cut, saved as plain transformers in several files."""
    model, inputs = LANGUAGE[name]()
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)  # so that attention decides
    traced = gp.trace(model.eval(), (), inputs)
    plan = gp.select(traced, gp.score(traced, "random"), ratio=0.25, target="hf")
    compact = gp.rewrite(traced, plan)
    assert gp.save(compact, directory, max_shard_size="30KB").form == "transformers"
    return compact


def next_tokens(file: Path, ids: list[int]) -> list[int]:
    """What llama.cpp takes for the most likely token after each of some tokens."""
    llama = pytest.importorskip("cyllama.llama.llama_cpp")
    llama.disable_logging()
    llama.ggml_backend_load_all()
    settings = llama.LlamaContextParams()
    settings.n_ctx = settings.n_batch = 64
    settings.n_threads = 1
    settings.type_k = settings.type_v = gguf.GGMLQuantizationType.F32.value  # keys and values are float16 otherwise
    model = llama.LlamaModel(str(file), llama.LlamaModelParams())
    context = llama.LlamaContext(model, settings)
    batch = llama.LlamaBatch(n_tokens=64, embd=0, n_seq_max=1)
    batch.set_batch(ids, 0, True)
    context.decode(batch)
    sampler = llama.LlamaSampler(llama.LlamaSamplerChainParams())
    sampler.add_greedy()
    return [sampler.sample(context, place) for place in range(len(ids))]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_llama_cpp_goes_on_like_torch(tmp_path: Path, name: str) -> None:
    compact = saved(name, tmp_path / "out")
    report = gp.export_gguf(tmp_path / "out", tmp_path / "out.gguf", dtype="f32")
    ids = torch.randint(3, 97, (1, 24), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = compact.module(input_ids=ids).logits[0].argmax(-1).tolist()
    assert len(set(expected)) > 5
    assert next_tokens(report.path, ids[0].tolist()) == expected


@pytest.mark.parametrize(("dtype", "size"), [("f32", 4), ("f16", 2), ("bf16", 2)])
def test_what_a_file_says(tmp_path: Path, dtype: Any, size: int) -> None:
    compact = compact_llama(tiny_llama())
    gp.save(compact, tmp_path / "out")
    report = gp.export_gguf(tmp_path / "out", tmp_path / "out.gguf", dtype=dtype)
    reader = gguf.GGUFReader(report.path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["llama.attention.head_count"] == 2
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["llama.feed_forward_length"] == 40
    assert fields["graphprune.plan"] == compact.plan.digest
    assert fields["tokenizer.ggml.model"] == "no_vocab"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert report.tensors == len(tensors)
    assert sum(int(tensor.n_elements) for tensor in tensors.values()) == compact.parameter_count
    assert tensors["blk.1.ffn_down.weight"].n_bytes == 40 * 48 * size
    assert tensors["blk.1.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    up = compact.module.model.layers[1].mlp.up_proj.weight.detach().numpy()
    found = gguf.quants.dequantize(tensors["blk.1.ffn_up.weight"].data, tensors["blk.1.ffn_up.weight"].tensor_type)
    np.testing.assert_allclose(found, up, atol=0 if dtype == "f32" else 1e-3, rtol=0 if dtype == "f32" else 1e-2)


def byte_tokenizer(splitter: Any) -> Tokenizer:
    """All bytes, two merges, two added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet[:90], "in", "the"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("i", "n")]))
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens(["<tool>"])
    return tokenizer


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)


@pytest.mark.parametrize(("splitter", "name"), [(BYTES, "gpt-2"), (pre_tokenizers.Sequence([DIGITS, BYTES]), "smollm")])
def test_a_tokenizer_goes_along(tmp_path: Path, splitter: Any, name: str) -> None:
    gp.save(compact_llama(tiny_llama(layers=1)), tmp_path / "out")
    byte_tokenizer(splitter).save(str(tmp_path / "out" / "tokenizer.json"))
    report = gp.export_gguf(tmp_path / "out", tmp_path / "out.gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(report.path).fields.items()}
    assert report.tokens == 97
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", name)
    assert fields["tokenizer.ggml.tokens"][90:96] == ["in", "the", "<end>", "<tool>", "[PAD94]", "[PAD95]"]
    assert fields["tokenizer.ggml.token_type"][89:96] == [1, 1, 1, 3, 4, 5, 5]
    assert fields["tokenizer.ggml.merges"] == ["i n"]


def test_what_has_conventions_of_its_own(tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "out.gguf"

    def refused() -> str:
        with pytest.raises(ExportError) as caught:
            gp.export_gguf(out, file)
        assert not file.exists()
        return str(caught.value)

    gp.save(compact_llama(tiny_llama(layers=1)), out)
    config = json.loads((out / "config.json").read_text())
    command = (
        "convert the directory with the converter of llama.cpp, python convert_hf_to_gguf.py "
        f"{out} --outfile {file} --outtype f16"
    )
    byte_tokenizer(pre_tokenizers.Whitespace()).save(str(out / "tokenizer.json"))
    assert refused() == (
        f"the tokenizer in {out / 'tokenizer.json'} splits text in a way that has no name here: {command}"
    )
    (out / "config.json").write_text(json.dumps({**config, "architectures": ["GemmaForCausalLM"]}))
    assert refused() == f"GemmaForCausalLM has conventions of its own in GGUF: {command}"
    rope = {"rope_type": "yarn", "factor": 2.0}
    (out / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    assert refused() == f"rotary embedding of type 'yarn' has conventions of its own in GGUF: {command}"
    (out / "config.json").write_text(json.dumps({**config, "pruned": {}}))
    assert refused() == (
        "the layers of this model differ in size, for which llama.cpp has no form: prune with gp.select(…, "
        'target="hf"), which cuts them alike'
    )
    with pytest.raises(ExportError, match="dtype must be one of f32, f16, bf16, not 'q4'"):
        gp.export_gguf(out, file, dtype="q4")  # type: ignore[arg-type]
    file.write_text("mine")
    with pytest.raises(OutputExistsError):
        gp.export_gguf(out, file)
    assert file.read_text() == "mine"


def test_from_a_shell(tmp_path: Path) -> None:
    gp.save(compact_llama(tiny_llama(layers=1)), tmp_path / "out")
    command = ["gguf", str(tmp_path / "out"), "-o", str(tmp_path / "out.gguf"), "--dtype", "bf16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "bf16, 11 tensors, no tokenizer; llama.cpp runs it" in result.stdout
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert again.stderr.startswith(f"error: The file {tmp_path / 'out.gguf'} exists already and is not overwritten")

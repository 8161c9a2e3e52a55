"""Decoders with their cache as ONNX: names and sizes, generation in plain onnxruntime, fewer bits."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.errors import DiskFullError, ExportError, SourceError
from graphprune.export import onnx_graph
from graphprune.onnx import generate

from .tiny import described, half, tiny_llama, tokens, traced_llama

BYTES = {"fp16": 2, "int8": 1 + 4 / 32}
"""Bytes of a weight; of 32 integers one has a scale of 4 bytes."""


def sharp(model: Any) -> Any:
    """The model with weights that make it sure of its next token."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.15)
    return model


def uneven(model: nn.Module) -> gp.CompactModel:
    """The model with half of its channels, and half of the KV heads of its second layer only."""
    traced = traced_llama(model)
    plan = half(traced, lambda group: described(group) and ("layers.1" in group.name or group.kind == "channels"))
    return gp.rewrite(traced, plan)


def greedy(model: Any, ids: torch.Tensor, new: int, **inputs: Any) -> Any:
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, max_new_tokens=new, **settings, **inputs).numpy()


@pytest.fixture(scope="module")
def compact() -> gp.CompactModel:
    return uneven(sharp(tiny_llama()))


@pytest.fixture(scope="module")
def file(compact: gp.CompactModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnx_graph, "SHARED_BYTES", 0)
        report = gp.export_onnx(compact, path, cache=True)
    assert report.note is None
    assert max(report.relative) < 1e-5
    assert [each["input_ids"] for each in report.checked] == [(2, 3), (1, 4), (3, 1)]
    assert [each["past_key_values.1.key"] for each in report.checked] == [(2, 2, 5, 8), (1, 2, 0, 8), (3, 2, 6, 8)]
    return path


def test_names_and_sizes_are_what_runtimes_expect(file: Path) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    heads = {0: 4, 1: 2}
    tensors = [(layer, kind) for layer in heads for kind in ("key", "value")]
    assert {each.name: each.shape for each in session.get_inputs()} == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "total_sequence"],
        "position_ids": ["batch", "sequence"],
        **{f"past_key_values.{n}.{kind}": ["batch", heads[n], "past_sequence", 8] for n, kind in tensors},
    }
    outputs = {each.name: each.shape for each in session.get_outputs()}
    assert outputs.pop("logits") == ["batch", "sequence", 97]
    assert list(outputs) == [f"present.{n}.{kind}" for n, kind in tensors]


def test_greedy_tokens_are_those_of_torch(file: Path, compact: gp.CompactModel) -> None:
    ids, mask = tokens(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    expected = greedy(compact.module, ids, 64, attention_mask=mask)
    assert (generate(file, ids.tolist(), 64, attention_mask=mask.tolist()) == expected).all()


def test_a_row_ends_with_its_last_token(file: Path, compact: gp.CompactModel) -> None:
    (expected,) = greedy(compact.module, tokens(1, 7), 8)
    end = int(expected[9])
    first = 7 + list(expected[7:]).index(end)
    found = generate(file, tokens(1, 7).numpy(), 8, eos_token_id=end)
    assert found.tolist() == [expected[: first + 1].tolist()]


def test_the_file_is_as_large_as_its_weights_and_says_what_it_is(file: Path, compact: gp.CompactModel) -> None:
    model = onnx.load(str(file))
    stored = sum(len(each.raw_data) for each in model.graph.initializer)
    assert stored == pytest.approx(4 * compact.parameter_count, rel=0.01)
    used = {name for node in model.graph.node for name in node.input}
    assert {each.name for each in model.graph.initializer} <= used
    assert file.stat().st_size - stored < 200 * len(model.graph.node)
    facts = {each.key: each.value for each in model.metadata_props}
    assert facts == {
        "graphprune_version": gp.__version__,
        "precision": "fp32",
        "plan_digest": compact.plan.digest,
        "dense_model": compact.plan.model,
    }


def test_generation_needs_no_torch(file: Path) -> None:
    code = """
import sys
from graphprune.onnx import generate
print(generate(sys.argv[1], [[5, 6]], 3).shape, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 5) False\n"


@pytest.mark.parametrize(("precision", "near"), [("fp16", 5e-3), ("int8", 5e-2)])
def test_fewer_bits(precision: Any, near: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "SHARED_BYTES", 0)
    model = sharp(tiny_llama(hidden=64))
    report = gp.export_onnx(model, tmp_path / "model.onnx", cache=True, precision=precision)
    assert report.precision == precision
    assert report.note is None
    assert 1e-5 < max(report.relative) < near
    stored = sum(len(each.raw_data) for each in onnx.load(str(report.path)).graph.initializer)
    assert stored == pytest.approx(BYTES[precision] * model.num_parameters(), rel=0.05)
    found = generate(report.path, tokens(2, 7).numpy(), 16)
    assert (found == greedy(model, tokens(2, 7), 16)).mean() > 0.7


class NoCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Embedding(97, 8)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids)  # type: ignore[no-any-return]


def test_what_has_no_cache_is_refused(tmp_path: Path, compact: gp.CompactModel) -> None:
    target = tmp_path / "model.onnx"
    with pytest.raises(ExportError) as caught:
        gp.export_onnx(NoCache(), target, inputs={"input_ids": tokens()}, cache=True)
    assert str(caught.value) == (
        "the cache of NoCache can't be captured (NoCache.forward() got an unexpected keyword argument "
        "'past_key_values'): export it without cache=True"
    )
    with pytest.raises(ExportError, match="a cache grows, so its sizes can't be fixed"):
        gp.export_onnx(compact, target, cache=True, dynamic=False)
    graph = replace(compact, module_form=None, module_error="it was not asked for")
    with pytest.raises(ExportError, match="its graph has neither a cache nor parts"):
        gp.export_onnx(graph, target, cache=True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(program: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", full)
    with pytest.raises(DiskFullError, match=r"the disk that holds .* is full, so model\.onnx was not written"):
        gp.export_onnx(nn.Linear(3, 4), tmp_path / "model.onnx", inputs=torch.ones(2, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_cache_does_not_generate(tmp_path: Path) -> None:
    gp.export_onnx(NoCache(), tmp_path / "model.onnx", inputs={"input_ids": tokens()})
    with pytest.raises(ExportError, match="this file takes input_ids and no cache: export the decoder with cache=True"):
        generate(tmp_path / "model.onnx", [[1, 2]], 3)
    with pytest.raises(SourceError, match="there is no ONNX file"):
        generate(tmp_path / "other.onnx", [[1, 2]], 3)

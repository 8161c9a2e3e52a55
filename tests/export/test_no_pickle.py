"""Nothing that is written holds a pickle, which runs code when it is read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import graphprune as gp
from graphprune.version import __version__

from ..tiny import save_byte_tokenizer
from .test_directory import compact_mixer
from .tiny import add_adapters, any_prunable, compact_llama, half, tiny_llama, traced_llama

SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz"}
STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
"""How pickles of every protocol that torch writes begin."""


def pickles(directory: Path) -> Iterator[str]:
    """What is a pickle among the files in a directory, and among the members of those that are zip files."""
    for file in sorted(each for each in directory.rglob("*") if each.is_file()):
        if file.suffix in SUFFIXES or (file.suffix != ".safetensors" and file.read_bytes()[:2] in STARTS):
            yield file.name  # the first bytes of a safetensors file are the length of its header, which may be any
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    content = archive.read(member)
                    if (content and Path(member).suffix in SUFFIXES) or content[:2] in STARTS:
                        yield f"{file.name}: {member}"


def test_a_pickle_is_found(tmp_path: Path) -> None:
    (tmp_path / "weights.data").write_bytes(b"\x80\x04}\x94.")
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/data.pkl", b"}.")
        archive.writestr("model/constants", b"\x80\x02}q\x00.")
        archive.writestr("model/version", b"3")
    assert list(pickles(tmp_path)) == ["model.pt2: model/data.pkl", "model.pt2: model/constants", "weights.data"]


def graph_only() -> gp.CompactModel:
    """A LLaMA of which something is cut that no module form has: query heads, others in each group of them."""
    traced = traced_llama(tiny_llama(layers=1))
    compact = gp.rewrite(traced, half(traced, any_prunable), module_form=False)
    assert compact.module_form is None
    return compact


FORMS: dict[str, Any] = {
    "transformers": lambda: compact_llama(tiny_llama(layers=1)),
    "remote-code": lambda: compact_llama(add_adapters(tiny_llama()), per_layer=True),
    "per-layer": compact_mixer,
    "graph": graph_only,
}


@pytest.mark.parametrize("form", FORMS)
def test_directories_hold_no_pickle_and_say_their_plan(tmp_path: Path, form: str) -> None:
    from transformers import AutoTokenizer

    save_byte_tokenizer(tmp_path / "tokenizer")
    compact = FORMS[form]()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    report = gp.save(compact, tmp_path / "out", tokenizer, max_shard_size="30KB")
    assert report.form == form
    assert list(pickles(tmp_path)) == []
    files = list((tmp_path / "out").rglob("*.safetensors"))
    assert files
    for file in files:
        with safe_open(file, framework="pt") as stored:
            notes = stored.metadata()
        assert notes == {"format": "pt", "graphprune": __version__, "plan": compact.plan.digest}


def test_files_hold_no_pickle(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    compact = compact_llama(tiny_llama(layers=1))
    compact.plan.save(tmp_path / "plan.json")
    gp.save(compact, tmp_path / "out")
    gp.export_gguf(tmp_path / "out", tmp_path / "out.gguf")
    gp.export_onnx(compact, tmp_path / "out.onnx")
    assert {"plan.json", "out.gguf", "out.onnx"} <= {file.name for file in tmp_path.iterdir()}
    assert list(pickles(tmp_path)) == []

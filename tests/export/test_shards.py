"""Safetensors files written some rows at a time."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphprune.export import shards
from graphprune.export.shards import Cut, CutShard
from graphprune.passes.slice_parameters import slice_tensor
from graphprune.weight_files import read_header


def mask(*kept: int, size: int) -> Tensor:
    return torch.tensor([index in kept for index in range(size)])


TENSORS = {
    "bool": torch.tensor([True, False, True]),
    "rows": torch.randn(7, 6).to(torch.bfloat16),
    "both": torch.randn(7, 6),
    "experts": torch.randn(3, 4, 5).to(torch.float16),
    "number": torch.tensor(5),
    "empty": torch.zeros(0, 4),
    "whole": torch.randn(9),
}
MASKS = {
    "bool": [None],
    "rows": [mask(0, 5, 6, size=7), None],
    "both": [mask(2, size=7), mask(1, 2, 4, size=6)],
    "experts": [None, mask(0, 3, size=4), None],
    "number": [],
    "empty": [None, mask(1, size=4)],
    "whole": [None],
}


@pytest.mark.parametrize("block", [1, 50, 1 << 20], ids=["a row", "some rows", "all rows"])
def test_kept_slices_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(shards, "BLOCK", block)
    save_file(TENSORS, tmp_path / "dense.safetensors", metadata={"by": "hand"})
    cuts = {name: Cut(f"new.{name}", masks) for name, masks in MASKS.items()}
    shard = CutShard(read_header(tmp_path / "dense.safetensors"), cuts, {"plan": "0f"}, {"more": torch.arange(3.0)})
    shard.write(tmp_path / "cut.safetensors")
    written = load_file(tmp_path / "cut.safetensors")
    expected = {f"new.{name}": slice_tensor(TENSORS[name], masks) for name, masks in MASKS.items()}
    expected["more"] = torch.arange(3.0)
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor), name
    assert (tmp_path / "cut.safetensors").stat().st_size == shard.bytes
    with safe_open(tmp_path / "cut.safetensors", framework="pt") as stored:
        assert stored.metadata() == {"format": "pt", "by": "hand", "plan": "0f"}


def test_what_is_not_named_is_left_out(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "dense.safetensors")
    shard = CutShard(read_header(tmp_path / "dense.safetensors"), {"whole": Cut("whole", [None])})
    shard.write(tmp_path / "cut.safetensors")
    assert list(load_file(tmp_path / "cut.safetensors")) == ["whole"]


def test_a_file_of_another_cut_is_not_taken_for_this_one(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "dense.safetensors")
    source = read_header(tmp_path / "dense.safetensors")
    one = CutShard(source, {"whole": Cut("whole", [mask(0, 1, size=9)])})
    other = CutShard(source, {"whole": Cut("whole", [mask(0, 1, 2, size=9)])})
    assert not one.is_written(tmp_path / "cut.safetensors")
    one.write(tmp_path / "cut.safetensors")
    assert one.is_written(tmp_path / "cut.safetensors")
    assert not other.is_written(tmp_path / "cut.safetensors")

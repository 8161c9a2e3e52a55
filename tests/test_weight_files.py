"""What is where in safetensors checkpoints, and what is wrong with those that are broken."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from graphprune.errors import FileFormatError, GraphPruneError, SourceError
from graphprune.weight_files import INDEX, WEIGHTS, read_checkpoint, read_header, read_rows

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def sharded(directory: Path) -> Path:
    """Three tensors in two files."""
    save_file({"a": torch.arange(12.0).view(3, 4), "b": torch.tensor(3)}, directory / FIRST, metadata={"by": "hand"})
    save_file({"c": torch.ones(2, dtype=torch.bfloat16)}, directory / SECOND)
    write_index(directory, {"a": FIRST, "b": FIRST, "c": SECOND})
    return directory


def write_index(directory: Path, weight_map: Any) -> None:
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": weight_map}))


def test_a_sharded_checkpoint(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(sharded(tmp_path))
    assert [shard.file.name for shard in checkpoint.shards] == [FIRST, SECOND]
    assert {name: (stored.dtype, stored.shape, stored.bytes) for name, stored in checkpoint.tensors()} == {
        "a": ("F32", (3, 4), 48),
        "b": ("I64", (), 8),
        "c": ("BF16", (2,), 4),
    }
    assert checkpoint.shards[0].metadata == {"by": "hand"}
    assert checkpoint.index == {"metadata": {"total_size": 60}}


def test_a_single_file_comes_before_an_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, sharded(tmp_path) / WEIGHTS)
    checkpoint = read_checkpoint(tmp_path)
    assert [name for name, _ in checkpoint.tensors()] == ["a"]
    assert checkpoint.index is None


@pytest.mark.parametrize(("first", "count"), [(0, 3), (1, 2), (2, 1), (1, 0)])
def test_rows_are_those_of_the_tensor(tmp_path: Path, first: int, count: int) -> None:
    whole = torch.randn(3, 4, 2).to(torch.bfloat16)
    save_file({"before": torch.ones(5), "a": whole}, tmp_path / WEIGHTS)
    with (tmp_path / WEIGHTS).open("rb") as handle:
        rows = read_rows(handle, read_header(tmp_path / WEIGHTS).tensors["a"], first, count)
    assert torch.equal(rows, whole[first : first + count])


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4, 4)}, tmp_path / WEIGHTS)
    stored = read_header(tmp_path / WEIGHTS).tensors["a"]
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-8])
    with (tmp_path / WEIGHTS).open("rb") as handle, pytest.raises(FileFormatError) as caught:
        read_rows(handle, stored, 0, 4)
    assert str(caught.value) == (
        f"The weight file {tmp_path / WEIGHTS} has become shorter while it was read: get it again."
    )


def cut_off(directory: Path) -> None:
    (directory / SECOND).write_bytes((directory / SECOND).read_bytes()[:-1])


def other_type(directory: Path) -> None:
    header = json.dumps({"c": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (directory / SECOND).write_bytes(struct.pack("<Q", len(header)) + header + b"xx")


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (lambda d: (d / INDEX).unlink(), SourceError, "There is neither model.safetensors nor model.safetensors.index"),
        (
            lambda d: (d / SECOND).unlink(),
            SourceError,
            f"The weight file DIR/{SECOND} is missing, and {INDEX} names it",
        ),
        (lambda d: (d / INDEX).write_text("{"), FileFormatError, f"DIR/{INDEX} is not JSON ("),
        (lambda d: write_index(d, [FIRST]), FileFormatError, f"DIR/{INDEX} has no object weight_map: get the file"),
        (
            lambda d: write_index(d, {"a": "../secret.safetensors"}),
            FileFormatError,
            f"DIR/{INDEX} names the file '../secret.safetensors', and a part of a model lies beside its index: get",
        ),
        (
            lambda d: write_index(d, {"a": "/etc/passwd"}),
            FileFormatError,
            f"DIR/{INDEX} names the file '/etc/passwd', and a part of a model lies beside its index: get",
        ),
        (
            lambda d: write_index(d, {"a": SECOND, "b": FIRST, "c": SECOND}),
            FileFormatError,
            f"DIR/{INDEX} says that a is in {SECOND}, which it is not: get the whole model again.",
        ),
        (
            lambda d: write_index(d, {"a": FIRST, "c": SECOND}),
            FileFormatError,
            f"DIR/{FIRST} holds b, of which {INDEX} says nothing: get the whole model again.",
        ),
        (cut_off, FileFormatError, f"The weight file DIR/{SECOND} is truncated or corrupt ("),
        (other_type, FileFormatError, f"DIR/{SECOND} holds c as F8_E4M3, and only F64, F32, F16, BF16,"),
        (lambda d: (d / FIRST).write_bytes(b""), FileFormatError, f"The weight file DIR/{FIRST} is truncated or corr"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, damage: Callable[[Path], object], kind: type[GraphPruneError], message: str
) -> None:
    damage(sharded(tmp_path))
    with pytest.raises(kind) as caught:
        read_checkpoint(tmp_path)
    assert str(caught.value).startswith(message.replace("DIR", str(tmp_path)))

"""Checkpoints as they lie on the disk: which tensor is where in which safetensors file, and how it is read in parts.

::

    model.safetensors.index.json              weight_map: from the name of a tensor to its file
    model-00001-of-00008.safetensors          a header, then the values of each tensor, one after the other

Nothing but headers is read to know all of it. A checkpoint that does not fit into memory is read some rows at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .errors import FileFormatError, SourceError
from .files import check_safetensors, is_plain_name
from .quiet import first_line

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

TYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The types of tensors whose values can be cut one by one, as safetensors calls them."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: the name of its type, its shape, and where its values begin."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.numel * TYPES[self.dtype].itemsize

    @property
    def rows(self) -> int:
        """How many rows it is read in: the size of its first dim, and one for a single number."""
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True)
class Shard:
    """A safetensors file: its tensors in the order in which they lie there, and what else its header says."""

    file: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a directory. ``index`` is what the index file says beside the names; None for a single file."""

    directory: Path
    shards: tuple[Shard, ...]
    index: Mapping[str, Any] | None

    def tensors(self) -> Iterator[tuple[str, StoredTensor]]:
        """Every tensor with its name."""
        for shard in self.shards:
            yield from shard.tensors.items()


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read the headers of the safetensors files in a model directory, and hold them against its index.

    Raises:
        SourceError: there are none, or one that the index names is missing.
        FileFormatError: a file is truncated or corrupt, holds a type that can't be cut, or the index names a place
            outside the directory or does not agree with the files.
    """
    if (directory / WEIGHTS).is_file():
        return Checkpoint(directory, (read_header(directory / WEIGHTS),), None)
    if not (directory / INDEX).is_file():
        raise SourceError(
            f"There is neither {WEIGHTS} nor {INDEX} in {directory}: save the model as safetensors "
            "(save_pretrained), or get the whole of it."
        )
    index = read_index(directory / INDEX)
    weight_map: Mapping[str, str] = index["weight_map"]
    shards = tuple(read_header(directory / name) for name in sorted(set(weight_map.values())))
    found = {name: shard.file.name for shard in shards for name in shard.tensors}
    for name, file in weight_map.items():
        if found.get(name) != file:
            raise FileFormatError(f"{directory / INDEX} says that {name} is in {file}, which it is not: {_AGAIN}")
    for shard in shards:
        for name in shard.tensors:
            if weight_map.get(name) != shard.file.name:
                raise FileFormatError(f"{shard.file} holds {name}, of which {INDEX} says nothing: {_AGAIN}")
    return Checkpoint(directory, shards, {key: value for key, value in index.items() if key != "weight_map"})


_AGAIN = "get the whole model again."


def read_index(file: Path) -> dict[str, Any]:
    """The index of a checkpoint, whose ``weight_map`` names files that are there, beside it.

    Raises:
        SourceError: a file that it names is missing.
        FileFormatError: it is no index, or names a place outside its directory.
    """
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{file} is not JSON ({first_line(error)}): get the file again.") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FileFormatError(f"{file} has no object weight_map: get the file again.")
    for name in sorted(set(weight_map.values())):
        if not is_plain_name(name):
            raise FileFormatError(
                f"{file} names the file {name!r}, and a part of a model lies beside its index: {_AGAIN}"
            )
        if not (file.parent / name).is_file():
            raise SourceError(
                f"The weight file {file.parent / name} is missing, and {file.name} names it: get the whole model."
            )
    return index  # type: ignore[no-any-return]


def read_header(file: Path) -> Shard:
    """What lies where in a safetensors file.

    Raises:
        FileFormatError: the file is truncated or corrupt, or holds a tensor of a type that can't be cut.
    """
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(length, file.stat().st_size)))
        metadata = header.pop("__metadata__", {})
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        types = {name: str(entry["dtype"]) for name, entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        check_safetensors(file)  # says what is wrong in its own words
        raise FileFormatError(f"The header of {file} can't be read ({first_line(error)}): get it again.") from error
    for name, dtype in types.items():
        if dtype not in TYPES:
            raise FileFormatError(
                f"{file} holds {name} as {dtype}, and only {', '.join(TYPES)} can be cut: save it in one of them."
            )
    check_safetensors(file)
    tensors = {
        name: StoredTensor(types[name], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in entries
    }
    return Shard(file, tensors, metadata)


def read_rows(handle: BinaryIO, stored: StoredTensor, first: int, count: int) -> Tensor:
    """Some rows of a tensor, ``[count, ...]``, and nothing else of the file.

    Raises:
        FileFormatError: the file ends before them.
    """
    inner = stored.shape[1:]
    dtype = TYPES[stored.dtype]
    length = math.prod(inner) * dtype.itemsize
    values = torch.empty(count * length, dtype=torch.uint8)
    handle.seek(stored.start + first * length)
    if handle.readinto(values.numpy()) != len(values):  # type: ignore[attr-defined]
        raise FileFormatError(f"The weight file {handle.name} has become shorter while it was read: get it again.")
    return values.view(dtype).view(count, *inner)


def read_values(handle: BinaryIO, stored: StoredTensor, positions: range) -> Tensor:
    """Single values of a tensor, ``[len(positions)]``, by their positions in the order in which they lie there.

    Raises:
        FileFormatError: the file ends before them.
    """
    whole = StoredTensor(stored.dtype, (stored.numel,), stored.start)
    values = [read_rows(handle, whole, position, 1) for position in positions]
    return torch.cat(values) if values else torch.empty(0, dtype=TYPES[stored.dtype])

"""Safetensors files written some rows at a time: the kept slices of the tensors of another file.

The header comes first and says where each tensor lies, so the sizes must be known before the values are: they follow
from the masks. What is in memory is one block of rows, whatever the size of the file.

::

    model-00001-of-00008.safetensors   up_proj.weight [11008, 4096]   ->   [5504, 4096]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..passes.slice_parameters import DimMasks, slice_tensor
from ..weight_files import TYPES, Shard, StoredTensor, read_rows

_NAMES = {dtype: name for name, dtype in TYPES.items()}

BLOCK = 32 << 20
"""How many bytes are read at a time, where a row is not longer."""


@dataclass(frozen=True)
class Cut:
    """What becomes of a stored tensor: its new name, and the keep-mask of each dim, None where it stays whole."""

    name: str
    masks: DimMasks

    def shape(self, stored: StoredTensor) -> tuple[int, ...]:
        """The shape of what is kept."""
        return tuple(
            size if mask is None else int(mask.sum()) for size, mask in zip(stored.shape, self.masks, strict=True)
        )

    def bytes(self, stored: StoredTensor) -> int:
        """The size of what is kept."""
        return math.prod(self.shape(stored)) * TYPES[stored.dtype].itemsize


@dataclass(frozen=True)
class CutShard:
    """A file to be written: what is kept of another one, and tensors to be added.

    Tensors that ``cuts`` does not name are left out. ``notes`` go into the metadata.
    """

    source: Shard
    cuts: Mapping[str, Cut]
    notes: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def _order(self) -> list[str]:
        """The old names in the order in which they are written: large types first, so that each is aligned."""
        stored = self.source.tensors
        return sorted(self.cuts, key=lambda name: (-TYPES[stored[name].dtype].itemsize, stored[name].start))

    def sizes(self) -> dict[str, int]:
        """The bytes of each tensor in the file, in their order."""
        return {cut.name: cut.bytes(self.source.tensors[old]) for old in self._order() for cut in [self.cuts[old]]} | {
            name: tensor.nbytes for name, tensor in self.added.items()
        }

    def header(self) -> bytes:
        """All that comes before the values."""
        tensors = {
            cut.name: (self.source.tensors[old].dtype, cut.shape(self.source.tensors[old]))
            for old, cut in self.cuts.items()
        } | {name: (_NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in self.added.items()}
        header: dict[str, Any] = {"__metadata__": {"format": "pt", **self.source.metadata, **self.notes}}
        end = 0
        for name, size in self.sizes().items():
            start, end = end, end + size
            header[name] = {"dtype": tensors[name][0], "shape": tensors[name][1], "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return len(self.header()) + sum(self.sizes().values())

    def is_written(self, file: Path) -> bool:
        """Whether a file, which was written wholly or not at all, is this one."""
        header = self.header()
        if not file.is_file() or file.stat().st_size != self.bytes:
            return False
        with file.open("rb") as handle:
            return handle.read(len(header)) == header

    def write(self, file: Path) -> None:
        """Write the file.

        Raises:
            FileFormatError: the source has become shorter.
            OSError: as for any file.
        """
        with self.source.file.open("rb") as source, file.open("wb") as target:
            target.write(self.header())
            for old in self._order():
                _copy_rows(source, self.source.tensors[old], self.cuts[old].masks, target)
            for tensor in self.added.values():
                target.write(_bytes(tensor))


def _copy_rows(source: BinaryIO, stored: StoredTensor, masks: DimMasks, target: BinaryIO) -> None:
    """Append what is kept of a tensor to a file."""
    step = max(1, BLOCK * stored.rows // max(1, stored.bytes))
    for first in range(0, stored.rows, step):
        count = min(step, stored.rows - first)
        rows = None if not masks or masks[0] is None else masks[0][first : first + count]
        if rows is not None and not bool(rows.any()):
            continue
        block = read_rows(source, stored, first, count)
        target.write(_bytes(block if not stored.shape else _slice_kept(block, [rows, *masks[1:]])))


def _slice_kept(block: Tensor, masks: DimMasks) -> Tensor:
    """What is kept of a block; the block itself where that is all of it."""
    whole = [None if mask is None or bool(mask.all()) else mask for mask in masks]
    return block if all(mask is None for mask in whole) else slice_tensor(block, whole)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]

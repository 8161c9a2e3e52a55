"""Packed sequences, whose lengths are those of an example, as a choice of rows.

1. What ``pack_padded_sequence`` packs, step by step, the longest sequence first, are some rows of all steps of all
   sequences; ``pad_packed_sequence`` puts them back, and takes a row of its own where a sequence has ended.
2. A recurrent layer makes its first state for as many sequences as there are, and splits its input into steps; torch
   takes these numbers out of a tensor, which must be plain numbers here.

::

    pack_padded_sequence(x [3, 4, f], [4, 2, 1])  ->  index_select(x [12, f], [0, 4, 8, 1, 5, 2, 3])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import _VF, Tensor, nn
from torch._decomp import decompositions
from torch.utils._pytree import tree_map


@contextlib.contextmanager
def sequences_packed_by_example() -> Iterator[None]:
    """Within the context packed sequences have the lengths of the example, where torch.export computes values."""
    with (
        mock.patch.object(_VF, "_pack_padded_sequence", _packed),
        mock.patch.object(_VF, "_pad_packed_sequence", _padded),
        mock.patch.object(torch, "zeros", _with_plain_sizes(torch.zeros)),
        mock.patch.object(decompositions, "one_layer_lstm_data", _with_plain_steps(decompositions.one_layer_lstm_data)),
        mock.patch.object(decompositions, "one_layer_rnn_data", _with_plain_steps(decompositions.one_layer_rnn_data)),
    ):
        yield


def _with_plain_sizes(zeros: Any) -> Any:
    return lambda *sizes, **options: zeros(*tree_map(_plain, sizes), **options)


def _with_plain_steps(layer: Any) -> Any:
    return lambda *args, batch_sizes, **more: layer(*args, batch_sizes=_numbers(batch_sizes), **more)


def _plain(size: Any) -> Any:
    return int(size) if isinstance(size, Tensor) else size


def _numbers(values: Tensor) -> list[int]:
    return [int(value) for value in values.tolist()]


def _packed(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """The rows ``[sum of lengths, …]`` of ``x [steps, sequences, …]``, and how many sequences each step has."""
    ends = _numbers(lengths)
    if ends != sorted(ends, reverse=True) or min(ends) < 1:
        raise RuntimeError("lengths of packed sequences must be positive, and sorted unless enforce_sorted=False")
    x = x.transpose(0, 1) if batch_first else x
    rows = torch.tensor([step * len(ends) + row for step, row in _rows(ends)], device=x.device)
    counts = [sum(end > step for end in ends) for step in range(ends[0])]
    return x.flatten(0, 1).index_select(0, rows), torch.tensor(counts)


def _padded(data: Tensor, counts: Tensor, batch_first: bool, value: float, length: int) -> tuple[Tensor, Tensor]:
    """``[length, sequences, …]`` with ``value`` where a sequence has ended, and the lengths."""
    steps = _numbers(counts)
    ends = [sum(count > row for count in steps) for row in range(steps[0])]
    place = {at: index for index, at in enumerate(_rows(ends))}
    rows = [place.get((step, row), len(place)) for step in range(length) for row in range(len(ends))]
    ended = (*(0, 0) * (data.ndim - 1), 0, 1)
    x = nn.functional.pad(data, ended, value=value).index_select(0, torch.tensor(rows, device=data.device))
    x = x.unflatten(0, (length, len(ends)))
    return x.transpose(0, 1) if batch_first else x, torch.tensor(ends)


def _rows(ends: list[int]) -> list[tuple[int, int]]:
    """The step and the sequence of each row of packed sequences."""
    return [(step, row) for step in range(ends[0]) for row, end in enumerate(ends) if end > step]

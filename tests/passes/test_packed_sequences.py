"""Recurrent layers on packed sequences: captured by example, cut, and verified in both forms."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphprune as gp
from graphprune.errors import CaptureError

IDS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))


class Tagger(nn.Module):
    """A tag for each token."""

    def __init__(self, kind: Any, layers: int = 1, bidirectional: bool = False, value: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.up = nn.Linear(8, 10)
        self.rnn = kind(10, 6, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(12 if bidirectional else 6, 5)
        self.value = value

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        x = self.up(self.embedding(ids)).relu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        tags, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, padding_value=self.value)
        return self.head(tags)  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """A class for each sequence, from the last state; sequences come sorted, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(50, 8), nn.LSTM(8, 6), nn.Linear(12, 5)

    def forward(self, ids: Tensor, lengths: Any) -> Tensor:
        _, (hidden, cell) = self.rnn(pack_padded_sequence(self.embedding(ids.T), lengths))
        return self.head(torch.cat([hidden[-1], cell[-1]], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "lengths"),
    [
        (functools.partial(Tagger, nn.LSTM, 2, True), torch.tensor([5, 7, 3])),
        (functools.partial(Tagger, nn.GRU, 2), torch.tensor([5, 7, 3])),
        (functools.partial(Tagger, nn.RNN, 1, True), torch.tensor([1, 6, 6])),
        (functools.partial(Tagger, nn.GRU, value=-1.0), torch.tensor([5, 7, 3])),
        (Classifier, torch.tensor([7, 4, 1])),
        (Classifier, [7, 4, 1]),
    ],
    ids=["lstm", "gru", "rnn", "padded with ones", "last state", "lengths in a list"],
)
def test_half_of_a_model_on_packed_sequences(make: Any, lengths: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    with pytest.raises(CaptureError, match=r"a packed sequence; .* by_example=True"):
        gp.trace(model, (IDS, lengths))
    traced = gp.trace(model, (IDS, lengths), by_example=True)
    torch.testing.assert_close(traced.graph(IDS, lengths), model(IDS, lengths))
    assert {group.units for group in traced.groups.prunable} >= {8, 6}
    compact = gp.rewrite(traced, gp.select(traced, gp.score(traced, "magnitude"), ratio=0.5, scope="group"))
    assert compact.module_error is None
    assert compact.module.rnn.hidden_size < 6
    shorter = [max(1, int(each) - 1) for each in lengths]
    compact.module(IDS, torch.tensor(shorter) if isinstance(lengths, Tensor) else shorter)


def test_a_graph_says_which_lengths_it_was_captured_for() -> None:
    traced = gp.trace(Tagger(nn.LSTM).eval(), (IDS, torch.tensor([5, 7, 3])), by_example=True)
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        traced.graph(IDS, torch.tensor([4, 7, 3]))


def test_lengths_that_are_not_sorted() -> None:
    with pytest.raises(CaptureError, match="enforce_sorted"):
        gp.trace(Classifier().eval(), (IDS, torch.tensor([4, 7, 1])), by_example=True)

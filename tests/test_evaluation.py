import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from graphprune.evaluation import counted_tokens, forward_milliseconds, perplexity
from graphprune.sources import windows as cut

from .models import VOCABULARY, tiny_llama, tokens


class Bigram(torch.nn.Module):
    """After token t comes t + 1 mod 4 with probability ``p``, and each other token with (1 - p) / 3."""

    def __init__(self, p: float) -> None:
        super().__init__()
        table = torch.full((4, 4), (1 - p) / 3)
        for token in range(4):
            table[token, (token + 1) % 4] = p
        self.logits = torch.nn.Parameter(table.log())
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.dropout(self.logits[input_ids]))


def test_uniform_logits_give_the_size_of_the_vocabulary() -> None:
    windows = torch.randint(0, 7, (5, 6))
    assert perplexity(lambda input_ids: torch.zeros(*input_ids.shape, 7), windows) == pytest.approx(7)


def test_by_hand() -> None:
    # Four predicted tokens: three that follow (1/2 each), one that does not (1/6).
    windows = torch.tensor([[0, 1, 2], [3, 0, 2]])
    expected = (2 * 2 * 2 * 6) ** (1 / 4)
    assert perplexity(Bigram(0.5), windows) == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    windows = torch.randint(0, 4, (7, 5), generator=torch.Generator().manual_seed(0))
    expected = perplexity(Bigram(0.4), windows, batch_size=7)
    assert perplexity(Bigram(0.4), windows, batch_size=batch_size) == pytest.approx(expected)


def test_a_stride_by_hand() -> None:
    # Of the text 01201: all of the first but its first token, then the last of each.
    windows = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    assert counted_tokens(windows, stride=1) == 4
    assert perplexity(Bigram(0.5), windows, stride=1) == pytest.approx((2 * 2 * 6 * 2) ** (1 / 4))


class Numbers:
    """A tokenizer of texts of numbers."""

    def __call__(self, text: str, **_: bool) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize(("length", "stride"), [(5, None), (5, 5), (6, 5), (6, 2), (4, 1), (23, 7)])
def test_a_model_token_by_token(length: int, stride: int | None, batch_size: int | None) -> None:
    """Against the definition: each token by itself, predicted from what stands before it in its window."""
    model = tiny_llama().eval()
    ids = tokens(23).tolist()
    starts = range(0, len(ids) - length + 1, stride or length)
    losses = []
    for token in range(starts[-1] + length):
        start = min(start for start in starts if token < start + length)  # the first window that holds it
        if start < token:
            with torch.no_grad():
                last = model(input_ids=torch.tensor([ids[start:token]])).logits[0, -1].double()
            losses.append(float(last.exp().sum().log() - last[ids[token]]))
    windows = cut(Numbers(), " ".join(map(str, ids)), length, stride=stride)
    found = perplexity(model, windows, stride=stride, batch_size=batch_size)
    assert counted_tokens(windows, stride=stride) == len(losses)
    assert found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert abs(found - VOCABULARY) > 0.01  # not what a model that knows nothing would have


def test_a_module_runs_without_a_cache_and_keeps_its_setting() -> None:
    model: Any = tiny_llama()
    seen = []
    model.register_forward_hook(lambda _, __, output: seen.append(output.past_key_values))
    perplexity(model, tokens(2, 5))
    assert seen == [None]
    assert model.config.use_cache


@pytest.mark.parametrize("stride", [0, 4])
def test_a_stride_that_does_not_fit(stride: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^the stride must lie between 1 and the length of a window, 3, not {stride}$"
    ):
        perplexity(Bigram(0.5), torch.zeros(2, 3, dtype=torch.long), stride=stride)


def test_a_function_that_returns_an_array() -> None:
    model = Bigram(0.5).eval()
    windows = torch.tensor([[0, 1, 2, 3]])
    with_array = perplexity(lambda input_ids: model(input_ids=input_ids).logits.numpy(), windows)
    assert with_array == pytest.approx(2)


def test_the_mode_of_every_part_comes_back() -> None:
    model = Bigram(0.5).train()
    model.dropout.eval()
    assert perplexity(model, torch.tensor([[0, 1, 2]])) == pytest.approx(2)
    assert model.training
    assert not model.dropout.training


def test_no_gradient_is_recorded() -> None:
    seen = []
    model = Bigram(0.5)
    perplexity(lambda input_ids: seen.append(model(input_ids=input_ids).logits) or seen[-1], torch.tensor([[0, 1]]))
    assert not seen[0].requires_grad


def test_overflow_and_nan_are_numbers() -> None:
    certain_and_wrong = torch.tensor([0.0, -1e6]).expand(1, 2, 2)
    assert perplexity(lambda input_ids: certain_and_wrong, torch.tensor([[0, 1]])) == math.inf
    assert math.isnan(perplexity(lambda input_ids: certain_and_wrong * math.nan, torch.tensor([[0, 1]])))


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (4,)])
def test_windows_that_predict_nothing(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs windows \[n >= 1, length >= 2\]"):
        perplexity(Bigram(0.5), torch.zeros(shape, dtype=torch.long))


def test_forward_milliseconds_takes_the_least_and_does_not_count_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    durations = iter([9.0, 0.005, 0.002, 0.004])
    now = 0.0

    def forward() -> None:
        nonlocal now
        calls.append(now)
        now += next(durations)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert forward_milliseconds(forward, runs=3) == pytest.approx(2.0)
    assert len(calls) == 4

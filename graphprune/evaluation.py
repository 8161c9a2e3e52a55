"""Measuring a language model: perplexity on windows of tokens, and the time of a forward pass."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from .device import device_of, wait_for_device
from .passes.trace import inference_mode_of
from .progress import Progress, Watched

TOKENS_IN_BATCH = 1024
"""How many tokens go through a model at once, unless a window has more: logits are the largest tensor there is."""


def perplexity(
    model: Callable[..., Any],
    windows: torch.Tensor,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> float:
    """The exponential of the mean negative log likelihood over the tokens that count.

    Each window is run by itself. A token counts in the first window that holds it, where something stands before it in
    that window::

        windows of 4, stride 4     a[b c d] e[f g h]        each window but for its first token
        windows of 4, stride 2     a[b c d] c d[e f]        once each, from the second window on with 2 to look back at

    A module is put in evaluation mode for the measurement and back in its own mode after it.

    Args:
        model: called as ``model(input_ids=LongTensor[b, length])``; returns logits ``[b, length, vocabulary]``, as a
            tensor, a numpy array, or an object with ``.logits``. A module is a model, and so is a function that runs an
            onnxruntime session.
        windows: token ids ``[n, length]``, ``length >= 2``: windows of one text in order.
        stride: the number of tokens from the start of a window to that of the next, at most ``length``, which it is by
            default.
        batch_size: windows per call, by default as many as make 1024 tokens; it changes memory and speed, not the
            result.
        progress: called with the batches that are done, and how many there are.

    Returns:
        The perplexity, at least 1; ``inf`` where it overflows a float and ``nan`` where the logits hold one.

    Raises:
        ValueError: if ``windows`` predicts no token, or the stride leaves tokens out.
    """
    total = counted_tokens(windows, stride=stride)
    length = windows.shape[1]
    new = min(stride or length, length - 1)
    module = model if isinstance(model, torch.nn.Module) else None
    device = None if module is None else device_of(module)
    loss = 0.0
    batches = windows.split(batch_size or default_batch(length))
    with torch.no_grad() if module is None else inference_mode_of(module):
        for at, batch in enumerate(Watched(batches, progress)):
            logits = _logits(model(input_ids=batch.to(device) if device is not None else batch))
            # One window at a time: the log-softmax of a whole batch would double the largest tensor there is.
            for row, (scores, ids) in enumerate(zip(logits, batch, strict=True)):
                first = 1 if at == row == 0 else length - new
                targets = ids[first:].to(scores.device)
                loss += float(cross_entropy(scores[first - 1 : -1].float(), targets, reduction="sum"))
    try:
        return math.exp(loss / total)
    except OverflowError:
        return math.inf


def default_batch(length: int) -> int:
    """How many windows of a length are run at once."""
    return max(1, TOKENS_IN_BATCH // length)


def counted_tokens(windows: torch.Tensor, *, stride: int | None = None) -> int:
    """The number of tokens that :func:`perplexity` is a mean over; raises as that does."""
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise ValueError(f"perplexity needs windows [n >= 1, length >= 2], not {list(windows.shape)}")
    count, length = windows.shape
    if stride is not None and not 1 <= stride <= length:
        raise ValueError(f"the stride must lie between 1 and the length of a window, {length}, not {stride}")
    return int(length - 1 + (count - 1) * min(stride or length, length - 1))


def forward_milliseconds(forward: Callable[[], Any], *, runs: int = 5) -> float:
    """The least time in milliseconds of ``runs`` calls of ``forward``, after one call that is not counted.

    The least and not the mean, since what else the machine does only ever adds. What runs on an accelerator is waited
    for.
    """
    return interleaved_milliseconds([forward], runs=runs)[0]


def interleaved_milliseconds(
    forwards: Sequence[Callable[[], Any]], *, runs: int = 5, progress: Progress | None = None
) -> list[float]:
    """The least time of each of ``forwards``, as :func:`forward_milliseconds`, in rounds in which each runs once.

    What slows the machine down for a while then slows down all that are compared.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    with torch.no_grad():
        # the first round is not counted
        rounds = [[_seconds(forward) for forward in forwards] for _ in Watched(range(1 + runs), progress)][1:]
    return [min(times) * 1e3 for times in zip(*rounds, strict=True)]


def _seconds(forward: Callable[[], Any]) -> float:
    wait_for_device()
    start = time.perf_counter()
    forward()
    wait_for_device()
    return time.perf_counter() - start


def _logits(output: Any) -> torch.Tensor:
    return torch.as_tensor(getattr(output, "logits", output))

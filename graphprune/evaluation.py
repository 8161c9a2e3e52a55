"""Measuring a language model: perplexity on windows of tokens, and the time of a forward pass."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy


def perplexity(model: Callable[..., Any], windows: torch.Tensor, *, batch_size: int = 4) -> float:
    """The exponential of the mean negative log likelihood over all predicted tokens.

    Each window is scored by itself, from its second token on. A module is put in evaluation mode for the measurement
    and back in its own mode after it.

    Args:
        model: called as ``model(input_ids=LongTensor[b, length])``; returns logits ``[b, length, vocabulary]``, as a
            tensor, a numpy array, or an object with ``.logits``. A module is a model, and so is a function that runs an
            onnxruntime session.
        windows: token ids ``[n, length]``, ``length >= 2``.
        batch_size: windows per call; it changes memory and speed, not the result.

    Returns:
        The perplexity, at least 1; ``inf`` where it overflows a float and ``nan`` where the logits hold one.

    Raises:
        ValueError: if ``windows`` predicts no token.
    """
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise ValueError(f"perplexity needs windows [n >= 1, length >= 2], not {list(windows.shape)}")
    module = model if isinstance(model, torch.nn.Module) else None
    training = [part for part in module.modules() if part.training] if module is not None else []
    device = _device_of(module)
    total = 0.0
    try:
        for part in training:
            part.training = False
        with torch.no_grad():
            for batch in windows.split(batch_size):
                logits = _logits(model(input_ids=batch.to(device) if device is not None else batch))
                # One window at a time: the log-softmax of a whole batch would double the largest tensor there is.
                for row, ids in zip(logits, batch, strict=True):
                    loss = cross_entropy(row[:-1].float(), ids[1:].to(row.device), reduction="sum")
                    total += float(loss)
    finally:
        for part in training:
            part.training = True
    try:
        return math.exp(total / (windows.shape[0] * (windows.shape[1] - 1)))
    except OverflowError:
        return math.inf


def forward_milliseconds(forward: Callable[[], Any], *, runs: int = 5) -> float:
    """The least time in milliseconds of ``runs`` calls of ``forward``, after one call that is not counted.

    The least and not the mean, since what else the machine does only ever adds. ``forward`` must return only when its
    result is there (on an accelerator: synchronise in it).
    """
    return interleaved_milliseconds([forward], runs=runs)[0]


def interleaved_milliseconds(forwards: Sequence[Callable[[], Any]], *, runs: int = 5) -> list[float]:
    """The least time of each of ``forwards``, as :func:`forward_milliseconds`, in rounds in which each runs once.

    What slows the machine down for a while then slows down all that are compared.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    with torch.no_grad():
        for forward in forwards:
            forward()
        rounds = [[_seconds(forward) for forward in forwards] for _ in range(runs)]
    return [min(times) * 1e3 for times in zip(*rounds, strict=True)]


def _seconds(forward: Callable[[], Any]) -> float:
    start = time.perf_counter()
    forward()
    return time.perf_counter() - start


def _device_of(module: torch.nn.Module | None) -> torch.device | None:
    if module is None:
        return None
    parameter = next(module.parameters(), None)
    return parameter.device if parameter is not None else None


def _logits(output: Any) -> torch.Tensor:
    return torch.as_tensor(getattr(output, "logits", output))

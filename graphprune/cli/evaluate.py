"""``graphprune eval``: perplexity, size and speed of models, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..device import default_device, described, device_of
from ..errors import SourceError
from ..evaluation import counted_tokens, default_batch, interleaved_milliseconds, perplexity
from ..progress import Progress
from ..report.tables import Measurement, comparison_table, to_markdown
from ..sources.text import load_text, windows
from .console import counted, show, show_table
from .details import tell_module
from .dry_run import show_passes
from .models import Opened, loading, open_model, place_of


def evaluate(
    models: Sequence[str],
    *,
    text: str | None = None,
    split: str | None = None,
    whole: bool = False,
    window: int = 128,
    stride: int | None = None,
    limit: int = 200,
    batch_size: int | None = None,
    tokenizer: str | None = None,
    markdown: bool = False,
    dry_run: bool = False,
) -> None:
    """Print a table of the models: parameters, perplexity, milliseconds of a forward pass over one window, file size.

    Args:
        models: model directories, names on the hub, ONNX files.
        text: as :func:`graphprune.sources.load_text`.
        split: the split of a dataset to score.
        whole: score the whole text and not only the part that is held out of it.
        window: tokens in a window.
        stride: tokens from the start of a window to that of the next, the length of a window by default; which tokens
            count then is said in :func:`graphprune.evaluation.perplexity`.
        limit: at most so many windows from the start of the text.
        batch_size: windows in a forward pass.
        tokenizer: where the tokenizer of models that have none is; without it the first model that has one gives it.
        markdown: print the table in Markdown.
        dry_run: only say what would be measured; no weights are read.

    Raises:
        SourceError: a model, a tokenizer or a text is not there, or a number makes no sense.
        FileFormatError: a file is truncated or corrupt.
    """
    if limit < 1:
        raise SourceError(f"--windows {limit} scores nothing: give at least 1")
    if batch_size is not None and batch_size < 1:
        raise SourceError(f"--batch-size {batch_size} runs nothing: give at least 1")
    if whole and split is not None:
        raise SourceError(f"--whole scores more than the split {split}: give one of --whole and --split")
    source = load_text(text, split=split)
    content = source.train + source.held_out if whole else source.held_out
    opened: list[Opened] = []
    for name in () if dry_run else models:
        with loading(f"load {name}", lasting=False):
            opened.append(open_model(name, run=True))
    places = [(each.name, each.directory) for each in opened] or [(name, place_of(name)) for name in models]
    pieces = [windows(each, content, window, stride=stride)[:limit] for each in _tokenizers(places, tokenizer)]
    part = "the whole of" if whole else f"split {split} of" if split else "the held-out part of"
    counts = [counted_tokens(ids, stride=stride) for ids in pieces]
    apart = "" if stride in (None, window) else f", one every {stride}"
    said = f"{part} {source.name}, windows of {window} tokens{apart}; {_range(sorted(set(counts)))} tokens count"
    if dry_run:
        show(said)
        show()
        show_passes(models, [-(-len(ids) // (batch_size or default_batch(window))) for ids in pieces], counts)
        return
    rows: list[Measurement] = []
    for model, ids in zip(opened, pieces, strict=True):
        if model.module is not None:
            tell_module(model.module)
        with counted(f"perplexity of {model.name} on {len(ids)} windows of {window} tokens") as progress:
            rows.append(measured(model, ids, stride=stride, batch_size=batch_size, progress=progress))
    with counted(f"time a forward pass over {window} tokens") as progress:
        times = milliseconds(opened, [ids[:1] for ids in pieces], progress=progress)
    rows = [_with_time(row, model, time) for row, model, time in zip(rows, opened, times, strict=True)]
    table = comparison_table(rows)
    if markdown:
        show(to_markdown(table).rstrip())
        return
    show(said)
    if default_device().type != "cpu":
        show(f"torch on {described(default_device())}, onnxruntime on {described(torch.device('cpu'))}")
    show()
    show_table(table)


def measured(
    model: Opened,
    ids: torch.Tensor,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Perplexity and size of a model."""
    found = perplexity(model.forward, ids, stride=stride, batch_size=batch_size, progress=progress)
    return Measurement(model.name, model.parameters, perplexity=found, file_size=model.file_size)


def milliseconds(
    models: Sequence[Opened], ids: Sequence[torch.Tensor], *, runs: int = 5, progress: Progress | None = None
) -> list[float]:
    """The least time of a forward pass of each model over its ids, all measured in turn."""
    places = [torch.device("cpu") if model.module is None else device_of(model.module) for model in models]
    forwards = [
        partial(model.forward, input_ids=each.to(place)) for model, each, place in zip(models, ids, places, strict=True)
    ]
    return interleaved_milliseconds(forwards, runs=runs, progress=progress)


def _range(counts: Sequence[int]) -> str:
    """The number that all models have, or the least and the largest where their tokenizers differ."""
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _with_time(row: Measurement, model: Opened, time: float) -> Measurement:
    return replace(row, onnx_ms=time) if model.module is None else replace(row, torch_ms=time)


def _tokenizers(models: Sequence[tuple[str, Path]], other: str | None) -> list[Any]:
    """The tokenizer of each model: its own, else the one that is named, else that of the first model that has one."""
    from ..sources.model import tokenizer_in

    found: list[Any] = []
    for _, directory in models:
        try:
            found.append(tokenizer_in(directory))
        except SourceError:
            found.append(None)
    spare = tokenizer_in(Path(other)) if other is not None else next((each for each in found if each is not None), None)
    if spare is None:
        raise SourceError(
            f"There is no tokenizer beside {models[0][0]}: name a directory that has one with --tokenizer."
        )
    return [spare if each is None else each for each in found]

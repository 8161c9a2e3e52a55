"""The report that ``graphprune prune`` and ``graphprune demo`` write beside the model, once that is saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..budget import mac_cost
from ..compact import CompactModel
from ..device import described, device_of
from ..evaluation import counted_tokens, interleaved_milliseconds, perplexity
from ..pipeline import trace
from ..progress import Parts
from ..quiet import first_line
from ..report.run import RunReport, ScoreRow, report_run
from ..report.run_figures import can_draw
from ..report.run_page import NO_FIGURES, PAGE, write_report
from ..report.tables import Measurement
from ..sources.text import windows
from .apply import checked
from .console import counted, say, show
from .details import tell_files

if TYPE_CHECKING:
    from ..sources.text import TextSplit
    from ..training.config import PruneConfig
    from ..training.metrics import LoggedStep

DIRECTORY = "report"
"""The name of the directory of the report, beside what the run gave."""

MOST_WINDOWS = 32
"""So many held-out windows are scored at most: enough to see what pruning did, and a small part of what tuning took."""

RUNS = 5
"""How often each model is timed."""


@contextmanager
def or_warn(directory: Path) -> Iterator[None]:
    """Say in a line that there is no report, where the block fails: a run that has ended well is not to fail for it."""
    try:
        yield
    except Exception as error:
        say(f"warning: no report was written to {directory}: {type(error).__name__}: {first_line(error)}")


def measured_report(
    dense: nn.Module,
    compact: CompactModel,
    tokenizer: Any,
    split: TextSplit,
    config: PruneConfig,
    *,
    title: str,
    scores: Sequence[ScoreRow],
    history: Sequence[LoggedStep],
) -> RunReport:
    """The report of a run, for which both models are measured on the held-out part of its text."""
    device = device_of(compact.module)
    dense = dense.to(device)
    ids = windows(tokenizer, split.held_out, config.window)[:MOST_WINDOWS].to(device)
    with counted("count multiply-accumulates") as progress:
        # a batch of two: the graph of one would have no dim for the batch
        traced = trace(dense, kwargs={"input_ids": ids[:1].repeat(2, 1)}, progress=progress)
        cost = mac_cost(traced.inference)
        counts = compact.plan.counts(traced)
    with counted(f"perplexity of both models on {len(ids)} windows of {config.window} tokens") as progress:
        parts = Parts(progress, {"dense": 1, "pruned": 1})
        both = {"dense": dense, "pruned": compact.module}
        found = [perplexity(module, ids, progress=parts.part(name)) for name, module in both.items()]
    with counted("time both models") as progress:
        forwards = [partial(module, input_ids=ids[:1]) for module in (dense, compact.module)]
        dense_ms, ours_ms = interleaved_milliseconds(forwards, runs=RUNS, progress=progress)
    tuned = bool(history)
    models = (
        Measurement("dense", traced.parameter_count, cost({}) // 2, found[0], dense_ms),
        Measurement(
            "pruned, tuned" if tuned else "pruned", compact.parameter_count, cost(counts) // 2, found[1], ours_ms
        ),
    )
    notes = (
        f"Perplexity on the first {len(ids)} windows of {config.window} tokens of the held-out part of {split.name}: "
        f"{counted_tokens(ids):,} tokens count.",
        *((TUNED_AND_NOT,) if tuned else ()),
        f"MACs and time of a forward pass over one window of {config.window} tokens. The time is the least of {RUNS}, "
        f"both models in turn, on {described(device)}.",
        *made_up(config),
        f"The pruned model is {checked(compact)}.",
    )
    return report_run(
        traced,
        compact.plan,
        models,
        title=title,
        scores=scores,
        history=history,
        notes=notes,
        settings=asdict(config),
    )


TUNED_AND_NOT = (
    "The dense model was not tuned on this text, and the pruned one was: a lower perplexity says that tuning fits the "
    "text, not that pruning helps."
)


def made_up(config: PruneConfig) -> tuple[str, ...]:
    """What is to be said of scores where the weights that stay make up for others."""
    if config.make_up != "weights":
        return ()
    return (
        "Units were selected by what is lost once the others make up for them, which starts from the scores shown.",
    )


def write_and_tell(report: RunReport, directory: Path, *, place: Path | None = None) -> None:
    """Write a report, and say where it is; ``place`` is where the directory will lie in the end.

    Raises:
        OutputExistsError: the directory exists.
        DiskFullError: the disk is full.
    """
    with counted("write the report") as progress:
        write_report(report, directory, progress=progress)
    tell_files(directory)
    show(f"{(place or directory) / PAGE}: what was cut and what came of it, for a browser")
    if not can_draw():
        say(NO_FIGURES)

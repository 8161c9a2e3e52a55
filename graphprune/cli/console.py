"""What goes to the screen: results on stdout, progress on stderr, and nothing that other libraries say."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..report.tables import Table, to_rich

if TYPE_CHECKING:
    from types import TracebackType

PIPED_WIDTH = 240
"""Columns where the output is no terminal: wide enough that no table is broken."""

_LOUD = ("transformers", "huggingface_hub", "torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir", "peft")
_QUIET_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def stdout() -> Console:
    """The console for results. Made when it is needed: tests and pipes replace ``sys.stdout``."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for progress."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH, highlight=False, soft_wrap=False)


def say(line: str) -> None:
    """A line for the user about what goes on."""
    stderr().print(line, style="dim", markup=False, soft_wrap=True)


def show(line: str = "") -> None:
    """A line of the result, never broken."""
    stdout().print(line, markup=False, soft_wrap=True)


def show_table(table: Table) -> None:
    """A table as a result, its notes below it."""
    console = stdout()
    with console.capture() as captured:
        console.print(to_rich(table))
    for line in captured.get().splitlines():
        # No spaces at the end of a line, and what is styled already is not styled again.
        print(line.rstrip(), file=console.file)
    if table.notes:
        show()
    for note in table.notes:
        show(note)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings, log lines and progress bars of transformers, torch and onnx off the screen."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    before = {name: os.environ.get(name) for name in _QUIET_ENVIRONMENT}
    os.environ.update({name: value for name, value in _QUIET_ENVIRONMENT.items() if before[name] is None})
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Say what begins, and how long it took when it has ended.

    A terminal shows ``title …`` with a spinner meanwhile; a pipe gets one line at the end.
    """
    console, start = stderr(), time.perf_counter()
    with console.status(f"{title} …"):
        yield
    console.print(f"{title} ({duration(time.perf_counter() - start)})", style="dim", markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """``3.2 s`` or ``2 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


class TuningProgress:
    """The progress of tuning: a bar on a terminal, a line at every tenth on a pipe.

    Used as a context; called with step, total, loss and sparsity as often as they change.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.console = stderr()
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.last_tenth = -1
        self.start = time.perf_counter()

    def __enter__(self) -> TuningProgress:
        self.start = time.perf_counter()
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  pruned {task.fields[sparsity]}"),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=None, loss="–", sparsity="0.0%")
        return self

    def __call__(self, step: int, total: int, loss: float | None, sparsity: float) -> None:
        shown = "–" if loss is None else f"{loss:.3f}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, total=total, loss=shown, sparsity=f"{sparsity:.1%}")
            return
        tenth = step * 10 // max(1, total)
        if tenth > self.last_tenth:
            self.last_tenth = tenth
            say(f"{self.title}: step {step} of {total}, loss {shown}, pruned {sparsity:.1%}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if error is None:
            say(f"{self.title} ({duration(time.perf_counter() - self.start)})")

"""What goes to the screen: results on stdout, progress on stderr, and what other libraries say only when asked for."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from ..errors import UnknownNameError
from ..quiet import aloud
from ..report.tables import Table, file_size, to_rich

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from types import TracebackType


class Loudness(Enum):
    """How much is said beside results and errors."""

    QUIET = "nothing"
    USUAL = "what goes on"
    VERBOSE = "that in more detail, and what other libraries say"


_loudness: ContextVar[Loudness] = ContextVar("loudness", default=Loudness.USUAL)

PIPED_WIDTH = 240
"""Columns where the output is no terminal: wide enough that no table is broken."""

_LOUD = ("transformers", "huggingface_hub", "torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir", "peft")
_QUIET_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
_VERBOSE_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "info",
    "HF_HUB_VERBOSITY": "info",
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
    if _loudness.get() is not Loudness.QUIET:
        stderr().print(line, style="dim", markup=False, soft_wrap=True)


def is_verbose() -> bool:
    """Whether more is to be said than usual."""
    return _loudness.get() is Loudness.VERBOSE


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
def saying(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Within the context nothing is said but results, or more than usual.

    Raises:
        UnknownNameError: both at once.
    """
    if quiet and verbose:
        raise UnknownNameError("--quiet and --verbose can't both hold: give one of them")
    token = _loudness.set(Loudness.QUIET if quiet else Loudness.VERBOSE if verbose else Loudness.USUAL)
    try:
        yield
    finally:
        _loudness.reset(token)


@contextmanager
def libraries() -> Iterator[None]:
    """Keep the warnings, log lines and progress bars of transformers, torch and onnx off the screen, unless verbose."""
    if _loudness.get() is Loudness.VERBOSE:
        with aloud(), _environment(_VERBOSE_ENVIRONMENT):
            yield
        return
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with _environment(_QUIET_ENVIRONMENT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Within the context the variables are set that were not."""
    unset = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(unset)
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


class counted:
    """Says what begins, and how long it took when it has ended.

    A terminal shows a spinner and the time meanwhile, and once a step was reported a bar and the time that is left; a
    pipe gets one line at the end. Used as a context; called with the steps done, how many there are, and if need be the
    name of the next, which a pipe gets a line for. What is not ``lasting`` leaves no line behind.
    """

    def __init__(self, title: str, *, lasting: bool = True) -> None:
        self.title = title
        self.lasting = lasting or is_verbose()
        self.console = stderr()
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.estimate = Estimate()
        self.start = time.perf_counter()

    def __enter__(self) -> Self:
        self.start = time.perf_counter()
        if _loudness.get() is Loudness.VERBOSE:
            say(f"{self.title} …")
        elif self.console.is_terminal and _loudness.get() is Loudness.USUAL:
            self.bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
                _WhenCounted(BarColumn(bar_width=20)),
                _WhenCounted(TextColumn("{task.percentage:>3.0f}%")),
                TextColumn("{task.fields[more]}", markup=False, table_column=Column(no_wrap=True)),
                _TimeLeft(lambda now: self.estimate.left(now)),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=None, more="")
        return self

    def __call__(self, done: int, total: int, name: str = "") -> None:
        self.estimate = self.estimate.after(time.perf_counter(), done / max(1, total))
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, more=name)
        elif name:
            say(f"  {done + 1} of {total}: {name}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if error is None and self.lasting:
            say(f"{self.title} ({duration(time.perf_counter() - self.start)}{_peak()})")


@dataclass(frozen=True)
class Estimate:
    """How long work will still take, from two of its reports: when they came, and the share that was done by then.

    The first says when the work began, the last how far it is. From there the time left is counted down, as some steps
    take long; where it has run out and no step has come, it is not known.
    """

    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None

    def after(self, now: float, share: float) -> Estimate:
        """The estimate with one more report."""
        return Estimate(self.first or (now, share), (now, share))

    def left(self, now: float) -> float | None:
        """Seconds from now, or None."""
        if self.first is None or self.last is None:
            return None
        (began, at_first), (then, share) = self.first, self.last
        if share >= 1:
            return 0.0
        if share - at_first < SETTLED:
            return None
        left = (1 - share) * (then - began) / (share - at_first) - (now - then)
        return left if left > 0 else None


SETTLED = 0.02
"""From this share of the work on it is said how long the rest will take; before that it would jump about."""


def duration(seconds: float) -> str:
    """``3.2 s`` or ``2 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


class TuningProgress(counted):
    """The progress of tuning: a bar on a terminal, a line at every tenth on a pipe.

    Used as a context; called with step, total, loss and sparsity as often as they change.
    """

    last_tenth = -1

    def __call__(self, step: int, total: int, loss: float | None, sparsity: float) -> None:  # type: ignore[override]
        shown = "–" if loss is None else f"{loss:.3f}"
        if self.bar is not None:
            super().__call__(step, total, f"loss {shown}  pruned {sparsity:.1%}")
            return
        tenth = step * 10 // max(1, total)
        if tenth > self.last_tenth:
            self.last_tenth = tenth
            say(f"{self.title}: step {step} of {total}, loss {shown}, pruned {sparsity:.1%}")


class _WhenCounted(ProgressColumn):
    """A column that is empty as long as it is not known how many steps there are."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self.column = column

    def render(self, task: Task) -> RenderableType:
        return Text("") if task.total is None else self.column(task)


class _TimeLeft(ProgressColumn):
    """The time that is left, or where that is not known the time that went by."""

    max_refresh = 0.5

    def __init__(self, left: Callable[[float], float | None]) -> None:
        super().__init__()
        self.left = left

    def render(self, task: Task) -> RenderableType:
        left = self.left(time.perf_counter())
        if left is None:
            return Text(f"{duration(task.elapsed or 0)} so far", style="dim")
        return Text(f"{duration(left)} left", style="dim")


def _peak() -> str:
    """The most memory that this process has had, where that is asked for and known."""
    if _loudness.get() is not Loudness.VERBOSE or resource is None:
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f", at most {file_size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)} of memory so far"

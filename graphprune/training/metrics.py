"""What the loggers of a Trainer see of pruning: TensorBoard, Weights & Biases, and whatever else ``report_to`` names.

::

    {"loss": 2.31, "learning_rate": 1e-4, …}                          what the Trainer logs
    {…, "graphprune/sparsity": 0.12, "graphprune/kept_channels": 0.87}    what its loggers and its log_history get
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

SPARSITY, KEPT = "graphprune/sparsity", "graphprune/kept_"
"""The share that is pruned so far, in the unit of the budget; the share of the units of a kind that are kept."""


@dataclass(frozen=True)
class LoggedStep:
    """What a Trainer logged at a step: the mean loss since it last did, and the share that was pruned by then.

    ``sparsity`` is None where the Trainer did not prune.
    """

    step: int
    loss: float
    sparsity: float | None = None


def history_of(log_history: Iterable[Mapping[str, Any]]) -> tuple[LoggedStep, ...]:
    """The steps that a Trainer logged, from ``trainer.state.log_history``, which checkpoints hold."""
    return tuple(
        LoggedStep(int(entry["step"]), float(entry["loss"]), entry.get(SPARSITY))
        for entry in log_history
        if "loss" in entry
    )


class Metrics(TrainerCallback):
    """Adds metrics to what a Trainer logs of its training, for the callbacks that come after this one."""

    def __init__(self, metrics: Callable[[], Mapping[str, float]]):
        self.metrics = metrics

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if logs is not None and "loss" in logs:  # neither an evaluation nor the summary at the end
            found = self.metrics()
            logs.update(found)
            state.log_history[-1].update(found)  # a copy of the logs that was made before


def log_first(metrics: Callable[[], Mapping[str, float]]) -> None:
    """Called in an event of a callback: add these metrics to what the Trainer logs, before its loggers see it."""
    handler = _handler_above()
    if handler is not None:
        others = [each for each in handler.callbacks if not isinstance(each, Metrics)]
        handler.callbacks = [Metrics(metrics), *others]  # a new list: the handler is going through the one that it had


def _handler_above() -> CallbackHandler | None:
    """What calls the callbacks of a Trainer, which hands them neither itself nor the Trainer; it is among the callers.

    A callback that a user adds comes after the loggers of ``report_to``, too late for what these are to log.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    return None

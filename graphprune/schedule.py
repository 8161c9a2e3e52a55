"""Schedules of sparsity: the share to be pruned at a share of the training done (LoRAPrune, section 3.3).

Every schedule gives 0 until warm-up ends and the final ratio from the beginning of cool-down on. Between the two it is
a curve over ``t`` in (0, 1)::

    cubic        s_f · (1 − (1 − t)³)        fast at first, while there is much to choose from
    linear       s_f · t
    exponential  1 − (1 − s_f)^t             each step removes the same share of what is left
    one-shot     s_f                         all of it when warm-up ends
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from .errors import TrainingError

ROUNDING = 1e-9
"""Shares of a training that differ by less are the same: 1 - 0.1 is not 0.9."""


class Schedule(Protocol):
    """The ratio at ``progress``, the share of the training done, when ``final`` is the ratio at its end."""

    def __call__(self, progress: float, final: float, *, warmup: float = 0.1, cooldown: float = 0.1) -> float: ...


def cubic(progress: float, final: float, *, warmup: float = 0.1, cooldown: float = 0.1) -> float:
    """``final * (1 - (1 - t)**3)``"""
    return _between(progress, final, warmup, cooldown, lambda t: final * (1 - (1 - t) ** 3))


def linear(progress: float, final: float, *, warmup: float = 0.1, cooldown: float = 0.1) -> float:
    """``final * t``"""
    return _between(progress, final, warmup, cooldown, lambda t: final * t)


def exponential(progress: float, final: float, *, warmup: float = 0.1, cooldown: float = 0.1) -> float:
    """``1 - (1 - final)**t``"""
    return _between(progress, final, warmup, cooldown, lambda t: 1 - (1 - final) ** t)


def one_shot(progress: float, final: float, *, warmup: float = 0.1, cooldown: float = 0.1) -> float:
    """``final`` as soon as warm-up has ended."""
    return _between(progress, final, warmup, cooldown, lambda t: final)


SCHEDULES: Mapping[str, Schedule] = {
    "cubic": cubic,
    "linear": linear,
    "exponential": exponential,
    "one-shot": one_shot,
}


def schedule_by_name(name: str) -> Schedule:
    """The schedule of a name.

    Raises:
        TrainingError: there is no such schedule.
    """
    if name not in SCHEDULES:
        raise TrainingError(f"there is no schedule {name!r}: use one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def _between(progress: float, final: float, warmup: float, cooldown: float, curve: Callable[[float], float]) -> float:
    if progress >= 1 - cooldown - ROUNDING:
        return final
    if progress < warmup - ROUNDING:
        return 0.0
    return curve(min(1.0, max(0.0, (progress - warmup) / (1 - warmup - cooldown))))

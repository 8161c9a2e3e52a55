"""Criteria: how important a weight is. One file each."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ScoreError
from .base import Aggregation, Criterion, Need
from .fisher import Fisher
from .flap import Flap
from .lora import Lora
from .magnitude import Magnitude
from .random import Random
from .taylor import Taylor
from .wanda import WandaSp

CRITERIA: dict[str, Callable[..., Criterion]] = {
    "fisher": Fisher,
    "flap": Flap,
    "lora": Lora,
    "magnitude": Magnitude,
    "random": Random,
    "taylor": Taylor,
    "wanda_sp": WandaSp,
}


def criterion_by_name(name: str, **options: object) -> Criterion:
    """The criterion of a name, with options (``variant``, ``order``, ``level``, ``seed``) for it.

    Raises:
        ScoreError: there is no such criterion, or it has no such option.
    """
    if name not in CRITERIA:
        raise ScoreError(f"there is no criterion {name!r}: use one of {', '.join(sorted(CRITERIA))}, or pass an object")
    try:
        return CRITERIA[name](**options)
    except TypeError as error:
        raise ScoreError(f"the criterion {name!r} can't be made with {options}: {error}") from error


__all__ = [
    "CRITERIA",
    "Aggregation",
    "Criterion",
    "Fisher",
    "Flap",
    "Lora",
    "Magnitude",
    "Need",
    "Random",
    "Taylor",
    "WandaSp",
    "criterion_by_name",
]

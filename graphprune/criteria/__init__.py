"""Criteria: how important a weight is. One file each."""

from __future__ import annotations

from ..errors import ScoreError
from .base import Criterion
from .lora import Lora
from .magnitude import Magnitude
from .random import Random

CRITERIA: dict[str, type[Lora] | type[Magnitude] | type[Random]] = {
    "lora": Lora,
    "magnitude": Magnitude,
    "random": Random,
}


def criterion_by_name(name: str, **options: object) -> Criterion:
    """The criterion of a name, with options (``variant``, ``order``, ``seed``) for it.

    Raises:
        ScoreError: there is no such criterion, or it has no such option.
    """
    if name not in CRITERIA:
        raise ScoreError(f"there is no criterion {name!r}: use one of {', '.join(sorted(CRITERIA))}, or pass an object")
    try:
        return CRITERIA[name](**options)  # type: ignore[arg-type]
    except TypeError as error:
        raise ScoreError(f"the criterion {name!r} can't be made with {options}: {error}") from error


__all__ = ["CRITERIA", "Criterion", "Lora", "Magnitude", "Random", "criterion_by_name"]

"""The meaning of an axis, spelled out position by position: what clever code is compared with."""

from __future__ import annotations

import functools
from itertools import product

from graphprune.axes import Atom, Axis, Sum

Units = tuple[tuple[int, int], ...]
"""The units that a position belongs to, as pairs of an atom's id and an index, from the outermost factor inwards."""


@functools.cache
def positions(axis: Axis) -> tuple[Units, ...]:
    """For each position of an axis the units that it belongs to."""
    if isinstance(axis, Atom):
        return tuple(((axis.id, unit),) for unit in range(axis.size))
    if isinstance(axis, Sum):
        return tuple(place for term in axis.terms for place in positions(term))
    return tuple(sum(places, ()) for places in product(*map(positions, axis.factors)))

"""From kept units to keep-masks on axes: a mask on the atoms is the mask on every dim they make up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .axes import Atom, Axis, Product, Sum, parts


class SlotOutsideError(ValueError):
    """What is kept of an axis depends on the position in another dim, so it is no mask on the axis alone."""


@dataclass(frozen=True)
class Kept:
    """The units of a group that stay.

    ``mask`` is boolean, ``[units]``, or ``[slots, units]`` where each position of the atom ``slot`` keeps its own
    units; then every row keeps the same number.
    """

    mask: Tensor
    slot: Atom | None = None

    @cached_property
    def count(self) -> int:
        """How many units stay (in each slot)."""
        return int(self.mask.reshape(-1, self.mask.shape[-1])[0].sum())


Keep = Mapping[int, Kept]
"""From the id of an atom to its kept units; an atom that is missing stays whole."""


def kept_size(axis: Axis, keep: Keep) -> int:
    """The number of positions of a resolved axis that stay."""
    if isinstance(axis, Atom):
        return keep[axis.id].count if axis.id in keep else axis.size
    sizes = [kept_size(part, keep) for part in parts(axis)]
    return math.prod(sizes) if isinstance(axis, Product) else sum(sizes)


def keep_mask(axis: Axis, keep: Keep) -> Tensor | None:
    """The boolean mask ``[axis.size]`` of the positions that stay, or None where all do.

    Raises:
        SlotOutsideError: an atom keeps other units for each position of an axis that is not part of this one.
    """
    if kept_size(axis, keep) == axis.size:
        return None
    mask, slot = _mask(axis, keep)
    if slot is not None:
        raise SlotOutsideError(f"{axis} has an atom with slots outside the axis that gives the slots")
    return mask


def broadcast_masks(axes: Sequence[Axis], keep: Keep) -> list[Tensor | None]:
    """For each dim of a tensor its keep-mask, which broadcasts to the tensor; None where all positions stay.

    Where an atom keeps other units for each position of another dim, its mask has the positions of both.

    Raises:
        SlotOutsideError: an atom keeps other units for each position of an axis that the tensor does not have.
    """
    return [_broadcast_mask(dim, axes, keep) for dim in range(len(axes))]


def _broadcast_mask(dim: int, axes: Sequence[Axis], keep: Keep) -> Tensor | None:
    axis, shape = axes[dim], [1] * len(axes)
    shape[dim] = axis.size
    if kept_size(axis, keep) == axis.size:
        return None
    mask, slot = _mask(axis, keep)
    if slot is None:
        return mask.reshape(shape)
    for other, each in enumerate(axes):
        factors = each.factors if isinstance(each, Product) else (each,)
        if other != dim and slot in factors:
            inner = math.prod(factor.size for factor in factors[factors.index(slot) + 1 :])
            rows = mask[torch.arange(each.size) // inner % slot.size]
            shape[other] = each.size
            return (rows if other < dim else rows.T).reshape(shape)
    raise SlotOutsideError(f"{axis} has an atom with slots outside the tensor that gives the slots")


def _mask(axis: Axis, keep: Keep) -> tuple[Tensor, Atom | None]:
    """The mask ``[size]`` of an axis, or ``[slots, size]`` where it depends on an outer atom, with that atom."""
    match axis:
        case Atom(id=atom, size=size):
            kept = keep.get(atom)
            return (torch.ones(size, dtype=torch.bool), None) if kept is None else (kept.mask, kept.slot)
        case Sum(terms=terms):
            pieces = [_mask(term, keep) for term in terms]
            slot = next((slot for _, slot in pieces if slot is not None), None)
            if slot is None:
                return torch.cat([mask for mask, _ in pieces]), None
            rows = [mask if own else mask.expand(slot.size, -1) for mask, own in pieces]
            return torch.cat(rows, dim=1), slot
        case Product(factors=factors):
            return _product_mask(factors, [_mask(factor, keep) for factor in factors])


def _product_mask(factors: tuple[Axis, ...], pieces: list[tuple[Tensor, Atom | None]]) -> tuple[Tensor, Atom | None]:
    rank = len(factors)
    pending = next((slot for _, slot in pieces if slot is not None and slot not in factors), None)
    result = torch.ones(1, *(1 for _ in factors), dtype=torch.bool)
    for at, (mask, slot) in enumerate(pieces):
        shape = [1] * (rank + 1)
        shape[at + 1] = mask.shape[-1]
        if slot is not None:
            shape[factors.index(slot) + 1 if slot in factors else 0] = mask.shape[0]
        result = result & mask.reshape(shape)
    return (result.flatten(), None) if pending is None else (result.flatten(1), pending)


def fold(axis: Axis, values: Tensor, slots: Mapping[int, Atom]) -> dict[int, Tensor]:
    """Sum ``values[..., axis.size]``, one for each position, onto the units of each atom of the axis.

    Returns ``[units]`` for each atom id, or ``[slots, units]`` for the atoms in ``slots``. An atom that occurs twice in
    the axis gets both sums.
    """
    found: dict[int, Tensor] = {}
    _fold(axis, values.reshape(1, axis.size), (), slots, found)
    return found


def _fold(
    axis: Axis, values: Tensor, outer: tuple[Atom, ...], slots: Mapping[int, Atom], found: dict[int, Tensor]
) -> None:
    """``values`` is ``[positions of outer, axis.size]``: the leading dim runs over the atoms ``outer``, row-major."""
    match axis:
        case Atom(id=atom):
            slot = slots.get(atom)
            if slot in outer:
                grid = values.reshape(*(each.size for each in outer), axis.size)
                others = [dim for dim, each in enumerate(outer) if each != slot]
                summed = grid.sum(others) if others else grid
            else:
                summed = values.sum(0)
            found[atom] = found[atom] + summed if atom in found else summed
        case Sum(terms=terms):
            for term, piece in zip(terms, values.split([term.size for term in terms], dim=1), strict=True):
                _fold(term, piece, outer, slots, found)
        case Product(factors=factors):
            grid = values.reshape(-1, *(factor.size for factor in factors))
            for at, factor in enumerate(factors):
                before = [index for index, other in enumerate(factors[:at]) if isinstance(other, Atom)]
                others = [index + 1 for index in range(len(factors)) if index != at and index not in before]
                piece = grid.sum(others) if others else grid
                inner = tuple(other for other in factors[:at] if isinstance(other, Atom))
                _fold(factor, piece.reshape(-1, factor.size), (*outer, *inner), slots, found)

"""The steps from the importance of weights to the score of a unit (see :class:`graphprune.criteria.Aggregation`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .axes import Atom, Axis
from .criteria import Aggregation, Criterion
from .masks import fold
from .matrices import Matrix, summed_but
from .passes.slice_parameters import DimMasks, positions_of


@dataclass(frozen=True)
class Part:
    """What one dim of one parameter says about the units of a group: ``[units]`` or ``[slots, units]``.

    ``is_input``: products sum over this dim, so that the parameter takes in what the units hand on.
    """

    values: Tensor
    is_input: bool


def importance_by_dim(
    criterion: Criterion, matrix: Matrix, dims: Collection[int], kept: DimMasks = ()
) -> dict[int, Tensor] | None:
    """For some dims of a parameter one number for each position, in float32; None if the parameter says nothing.

    The importance of the weights at one position of one dim is reduced over all other dims. Positions that the masks
    ``kept`` of the dims leave out count as little as if they were cut, and their own numbers are zero.
    """
    rule = criterion.aggregation
    shape = matrix.shape
    masks = kept or [None] * len(shape)
    marginals: dict[int, Tensor] = {}
    for rows in matrix.blocks():
        block = criterion.importance(matrix, rows)
        if block is None:
            return None
        block = _without_removed(block.float(), masks, rows)
        if rule.weights == "l2":
            block = block.square()
        if not marginals:
            marginals = {dim: block.new_zeros(shape[dim]) for dim in dims}
        for dim, marginal in marginals.items():
            marginal[rows if dim == 0 else slice(None)] += summed_but(block, dim)
        del block  # before the next one is made
    sizes = [size if mask is None else int(mask.sum()) for size, mask in zip(shape, masks, strict=True)]
    return {
        dim: _position(each, rule, math.prod(sizes) // max(1, sizes[dim]), masks[dim])
        for dim, each in marginals.items()
    }


def _without_removed(block: Tensor, masks: DimMasks, rows: slice) -> Tensor:
    """Some rows of a parameter with zeros at the positions that its masks leave out."""
    for dim, mask in enumerate(masks):
        if mask is not None:
            gone = ~(mask[rows] if dim == 0 else mask)
            block = block.index_fill(dim, positions_of(gone, block), 0)
    return block


def _position(sums: Tensor, rule: Aggregation, weights: int, kept: Tensor | None) -> Tensor:
    """Steps 1 and 2, from sums over ``weights`` weights for each position."""
    match rule.weights:
        case "mean":
            sums = sums / max(1, weights)
        case "l2":
            sums = sums.sqrt()
        case "absolute sum":
            sums = sums.abs()
        case "sum":
            pass
    if not rule.standardised:
        return sums
    left = torch.ones_like(sums) if kept is None else kept.to(sums)
    count = int(left.sum())
    centred = (sums - (sums * left).sum() / max(1, count)) * left
    deviation = centred.square().sum().div(max(1, count - 1)).sqrt()
    return centred / deviation.clamp(min=torch.finfo(deviation.dtype).tiny)


def units_of(
    axis: Axis, marginal: Tensor, there: Tensor, rule: Aggregation, slots: Mapping[int, Atom]
) -> dict[int, Tensor]:
    """Steps 3 and 4: from numbers for the positions of an axis to units, by the id of their atom.

    ``there`` is 1 for the positions that the parameter still has, and 0 for those that were cut or masked.
    """
    found = fold(axis, marginal, slots)
    if rule.positions == "mean":
        counts = fold(axis, there.to(marginal), slots)
        found = {atom: values / counts[atom].clamp(min=1) for atom, values in found.items()}
    if rule.normalised:
        tiny = torch.finfo(marginal.dtype).tiny
        found = {atom: values / torch.linalg.vector_norm(values).clamp(min=tiny) for atom, values in found.items()}
    return found


def score_of(parts: Sequence[Part], rule: Aggregation) -> Tensor:
    """Steps 5 and 6: from what the members of a group say to the scores of its units."""
    inputs = [part for part in parts if part.is_input] if rule.dims == "inputs" else []
    # on the accelerator until the end: each transfer would wait for all work on it
    device = parts[0].values.device
    values = torch.stack([part.values.to(device) for part in inputs or parts])
    match rule.members:
        case "sum":
            score = values.sum(0)
        case "mean":
            score = values.mean(0)
        case "max":
            score = values.amax(0)
        case "product":
            score = values.prod(0)
    return (1 + score / (1 + score.abs())) / 2 if rule.bounded else score

"""Zeros in place of pruned units, in the model that is being trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..distributed import own_part, own_positions
from ..passes.slice_parameters import DimMasks, parameter_masks, zeroing_masks
from ..plan import PruningPlan
from ..program import fetch, has
from ..quantised import QuantisedWeight, quantised_weights
from ..traced import TracedModel


@dataclass(frozen=True)
class Slice:
    """Positions of one dim of what this process holds of a parameter, where there are zeros."""

    parameter: nn.Parameter | QuantisedWeight
    dim: int
    positions: Tensor
    """Indices, on the device of the parameter."""


def masks_of(traced: TracedModel, plan: PruningPlan) -> dict[str, DimMasks]:
    """The keep-masks of the parameters of which something goes. Buffers stay: they are not trained, and whatever they
    scale or shift is zero."""
    masks = zeroing_masks(traced.inference, parameter_masks(traced.inference, plan.keep(traced)))
    return {name: rows for name, rows in masks.items() if isinstance(traced.program.tensor(name), nn.Parameter)}


def removed_slices(
    traced: TracedModel, masks: Mapping[str, DimMasks], before: Mapping[str, DimMasks], *, trainable: bool
) -> list[Slice]:
    """What goes by ``masks``: of trainable parameters all of it, or of frozen ones what did not go ``before``."""
    quantised = {} if traced.stored is None else quantised_weights(traced.module)
    found: list[Slice] = []
    for name, rows in masks.items():
        stored = quantised.get(name)
        parameter = fetch(traced.module, name) if has(traced.module, name) else None
        if not isinstance(parameter, nn.Parameter) or parameter.requires_grad is not trainable:
            continue
        earlier = before.get(name, [None] * len(rows))
        for dim, (mask, old) in enumerate(zip(rows, earlier, strict=True)):
            if mask is None:
                continue
            gone = ~mask if trainable or old is None else old & ~mask
            positions = own_positions(parameter, dim, gone) if stored is None else gone.nonzero().flatten()
            if len(positions):
                found.append(Slice(parameter if stored is None else stored, dim, positions))
    return found


@torch.no_grad()
def zero(slices: Iterable[Slice]) -> None:
    """Write zeros into slices, in place."""
    for each in slices:
        if isinstance(each.parameter, QuantisedWeight):
            each.parameter.zero(each.dim, each.positions)
        else:
            own_part(each.parameter).index_fill_(each.dim, each.positions, 0)

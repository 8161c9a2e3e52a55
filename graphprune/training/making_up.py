"""Let the weights that stay make up for what is pruned while a model is trained.

The second moments of the inputs of matrices go into a moving average at each step, and at each pruning the base weights
that stay get what :mod:`graphprune.reconstruction` gives for the units that go with it. The adapters stay
as they are.

What others can make up for is not lost with a unit. With the second moments ``C`` of all inputs, and a ridge
added to them, what the other inputs do not predict of the inputs ``x_u`` of a unit is::

    r_u = x_u − C_uo·(C_oo)⁻¹·x_o = ((C⁻¹)_uu)⁻¹·(C⁻¹·x)_u

A criterion that scores by gates has them on ``r`` in place of ``x``. Scores of others are multiplied by the share that
is left of the unit's part in the outputs, where ``W_u`` takes in its inputs::

    tr(W_u·((C⁻¹)_uu)⁻¹·W_uᵀ) / tr(W_u·C_uu·W_uᵀ)

For a unit of one input it is ``1/((C⁻¹)_uu·C_uu)``, the part of its variance that the others don't explain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..axes import Atom
from ..device import device_of
from ..distributed import is_sharded, mean_of_processes
from ..errors import TrainingError
from ..gates import Gate, ValuesOfAtoms
from ..kinds import choose_groups
from ..masks import fold
from ..matrices import matrices
from ..passes.slice_parameters import DimMasks, mask_of_dim, masks_within, positions_of, widen
from ..program import fetch
from ..quantised import quantised_weights
from ..reconstruction import RIDGE, adding_moments, gates_of_matrices, least_squares
from ..scores import Scores
from ..traced import TracedModel

BLOCK = 256
"""Inputs whose units are found at a time."""

PREDICTING = 1.0
"""The ridge with which others predict a unit's inputs, for gates: what is learnt of one text is trusted less for
another, and some of the others will be pruned too."""


class MakingUp:
    """The second moments so far, and the weights that were changed.

    Args:
        traced: the model that is trained.
        decay: the weight of the moments before in their moving average, at each step.
        kinds: the kinds of groups that are pruned, None for all that are by default.

    Raises:
        TrainingError: weights are stored in few bits, or there is none that could make up.
    """

    def __init__(self, traced: TracedModel, decay: float, kinds: tuple[str, ...] | None = None):
        self.traced, self.decay = traced, decay
        self._names = {group.atom.id: group.name for group in choose_groups(traced, kinds)}
        self.moments: dict[str, Tensor] = {}
        """``[inputs, inputs]`` in float32 by parameter, of the inputs that are left."""
        self.has_changed = False
        self._newer: dict[Gate, Tensor] = {}
        self._inputs: dict[str, dict[int, Tensor]] = {}
        if traced.stored is not None and quantised_weights(traced.module):
            raise TrainingError("make_up='weights' changes base weights, and quantised ones can't be: use 'none'")
        self.gates = {g.parameter: g for g in gates_of_matrices(traced) if g.units & self._names.keys()}
        if not self.gates:
            raise TrainingError("no matrix takes in units that can be pruned, so none can make up: use make_up='none'")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context the inputs of matrices are seen in the forward passes."""
        self._newer = {}
        with adding_moments(self.traced.module, self.gates.values(), self._newer):
            yield

    def take(self) -> None:
        """Put what was seen in a step into the moving average."""
        for gate, newer in self._newer.items():
            name = gate.parameter
            self.moments[name] = self.moments[name].mul_(self.decay).add_(newer) if name in self.moments else newer
        self._newer = {}

    def agree(self) -> None:
        """Make the moments those of all processes together, which must all call this."""
        device = device_of(self.traced.module)
        self.moments = {name: each.to(device) for name, each in mean_of_processes(self.moments, device).items()}

    def unpredicted(self, before: Mapping[str, DimMasks], there: Mapping[str, DimMasks]) -> ValuesOfAtoms:
        """What gates are on: of the values that come to a matrix what those of other units don't predict.

        Args:
            before: the keep-masks of what is pruned so far, of the whole model.
            there: those of what was cut.
        """
        earlier = masks_within(before, there)

        def values(gate: Gate, x: Tensor) -> dict[int, Tensor]:
            if gate.parameter not in self.moments or self.gates[gate.parameter] != gate:
                return {}
            places, moments, inputs = self._left(gate, earlier, there)
            rows = x.movedim(gate.dim, -1)
            found: dict[int, Tensor] = {}
            with torch.autocast(x.device.type, enabled=False):
                parts = parts_unpredicted(rows[..., places].float(), moments, inputs, PREDICTING)
            for atom, part in parts.items():
                whole = torch.zeros_like(rows, dtype=torch.float32)
                whole[..., places] = part
                found[atom] = whole.movedim(-1, gate.dim)
            return found

        return values

    def lost(self, scores: Scores, before: Mapping[str, DimMasks], there: Mapping[str, DimMasks]) -> Scores:
        """The scores times the share of each unit's part in the outputs that the others can't make up for.

        Args:
            scores: those of the units by themselves.
            before: the keep-masks of what is pruned so far, of the whole model.
            there: those of what was cut.
        """
        known, earlier = matrices(self.traced), masks_within(before, there)
        whole: dict[str, Tensor] = {}
        left: dict[str, Tensor] = {}
        for name in self.moments:
            gate = self.gates[name]
            places, moments, inputs = self._left(gate, earlier, there)
            weight = known[name].effective(slice(None)).movedim(gate.weight_dim, 1)[:, places].float()
            for atom, parts in parts_in_outputs(weight, moments, inputs, RIDGE).items():
                group = self._names[atom]
                for sums, part in zip((whole, left), parts, strict=True):
                    values = part.cpu().reshape(scores[group].shape)
                    sums[group] = sums[group] + values if group in sums else values
        found = dict(scores)
        for group, part in whole.items():
            share = torch.where(part > 0, left[group] / part, torch.ones_like(part)).clamp(0, 1)
            found[group] = found[group] * share.to(found[group])
        return Scores(scores.criterion, found)

    def _left(
        self, gate: Gate, earlier: Mapping[str, DimMasks], there: Mapping[str, DimMasks]
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """The places of the inputs that are not pruned, of those that are there, their moments, and where among them
        those of each unit are."""
        moments = self.moments[gate.parameter]
        pruned = mask_of_dim(earlier, gate.parameter, gate.weight_dim)
        kept = torch.ones(len(moments), dtype=torch.bool) if pruned is None else pruned
        alive = widen(kept, [mask_of_dim(there, gate.parameter, gate.weight_dim)])
        place = torch.where(alive, alive.cumsum(0) - 1, -1)
        places = positions_of(kept, moments)
        inputs = {atom: place[each] for atom, each in self._inputs_of(gate).items()}
        return places, moments[places][:, places], inputs

    def _inputs_of(self, gate: Gate) -> dict[int, Tensor]:
        """The positions ``[units, n]`` of the inputs that each unit has, slots and units flattened, by atom."""
        if gate.parameter not in self._inputs:
            self._inputs[gate.parameter] = {
                atom: inputs
                for atom, inputs in inputs_of_units(gate, self.traced.groups.slots).items()
                if atom in gate.units & self._names.keys()
            }
        return self._inputs[gate.parameter]

    def update(
        self, masks: Mapping[str, DimMasks], before: Mapping[str, DimMasks], there: Mapping[str, DimMasks]
    ) -> None:
        """Change the base weights for what goes by ``masks`` and did not go ``before``, both of the whole model.

        Args:
            masks: the keep-masks of parameters of which something goes.
            before: those of the pruning before.
            there: those of what was cut.

        Raises:
            TrainingError: a weight is sharded.
        """
        known = matrices(self.traced)
        after, earlier = masks_within(masks, there), masks_within(before, there)
        for name, moments in self.moments.items():
            dim = self.gates[name].weight_dim
            kept = mask_of_dim(after, name, dim)
            if kept is None:
                continue
            old = mask_of_dim(earlier, name, dim)
            goes = ~kept if old is None else old & ~kept
            if goes.any():
                weight = known[name].weight
                if is_sharded(weight):
                    raise TrainingError("make_up='weights' needs whole weights, and they are sharded: use 'none'")
                update = least_squares(known[name], dim, moments, kept, goes, RIDGE)
                weight.data.add_(update.to(weight))
                self.has_changed = True

    def cut(self, masks: Mapping[str, DimMasks]) -> None:
        """Cut the moments as the model will be, by the keep-masks of what is left of it now."""
        for name, moments in self.moments.items():
            kept = mask_of_dim(masks, name, self.gates[name].weight_dim)
            if kept is not None:
                places = positions_of(kept, moments)
                self.moments[name] = moments[places][:, places]

    def weights(self) -> dict[str, Tensor]:
        """The base weights that have changed or may have, by name."""
        return {name: fetch(self.traced.module, name).detach() for name in self.gates} if self.has_changed else {}

    @torch.no_grad()
    def restore(self, moments: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint holds, in a model that is cut as it was then."""
        device = device_of(self.traced.module)
        self.moments = {name: each.to(device) for name, each in moments.items()}
        self.has_changed = bool(weights)
        for name, weight in weights.items():
            fetch(self.traced.module, name).copy_(weight)


def inputs_of_units(gate: Gate, slots: Mapping[int, Atom]) -> dict[int, Tensor]:
    """The positions ``[units, n]`` on the axis of a gate that each unit of each of its atoms has."""
    found: dict[int, list[Tensor]] = {}
    one_hot = torch.vmap(lambda row: fold(gate.axis, row, slots))
    for rows in torch.eye(gate.axis.size).split(BLOCK):
        for atom, units in one_hot(rows).items():
            found.setdefault(atom, []).append(units.flatten(1) > 0)
    has = {atom: torch.cat(blocks).T for atom, blocks in found.items()}
    return {atom: each.nonzero()[:, 1].reshape(len(each), -1) for atom, each in has.items()}


def parts_in_outputs(
    weight: Tensor, moments: Tensor, inputs: Mapping[int, Tensor], ridge: float
) -> dict[int, tuple[Tensor, Tensor]]:
    """What units have in the second moment of the outputs, and what of it the other inputs can't make up for.

    Args:
        weight: ``[outputs, inputs]``.
        moments: ``[inputs, inputs]``.
        inputs: by atom ``[units, n]``, positions of the inputs of each of its units; those that are gone are -1.
        ridge: what is added to the diagonal, as a share of it.

    Returns:
        Two tensors ``[units]`` by atom; both are zero for a unit without inputs.
    """
    scale, correlated, inverse = _inverted(moments, ridge)
    scaled = weight * scale

    def parts_of(inputs: Tensor) -> tuple[Tensor, Tensor]:
        whole, left = (weight.new_zeros(len(inputs)) for _ in range(2))
        if inputs.shape[1] == 1:
            alive = (inputs[:, 0] >= 0).nonzero().flatten()
            at = inputs[alive, 0].to(weight.device)
            energy = scaled[:, at].square().sum(0)
            whole[alive], left[alive] = energy * correlated.diagonal()[at], energy / inverse.diagonal()[at]
            return whole, left
        for unit, positions in enumerate(inputs):
            at = positions[positions >= 0].to(weight.device)
            own = scaled[:, at]
            for part, matrix in ((whole, correlated[at][:, at]), (left, torch.linalg.inv(inverse[at][:, at]))):
                part[unit] = ((own @ matrix) * own).sum()
        return whole, left

    return {atom: parts_of(each) for atom, each in inputs.items()}


def parts_unpredicted(x: Tensor, moments: Tensor, inputs: Mapping[int, Tensor], ridge: float) -> dict[int, Tensor]:
    """What of the inputs of units the inputs of the others don't predict, by atom, in the shape of ``x``.

    Args:
        x: ``[..., inputs]``.
        moments: ``[inputs, inputs]``.
        inputs: by atom ``[units, n]``, positions of the inputs of each of its units; those that are gone are -1.
        ridge: what is added to the diagonal, as a share of it.
    """
    scale, _, inverse = _inverted(moments, ridge)
    weighted = (x / scale) @ inverse

    def part_of(inputs: Tensor) -> Tensor:
        if inputs.shape[1] == 1:
            return weighted / inverse.diagonal() * scale
        part = torch.zeros_like(x)
        for positions in inputs:
            at = positions[positions >= 0].to(x.device)
            part[..., at] = torch.linalg.solve(inverse[at][:, at], weighted[..., at], left=False) * scale[at]
        return part

    return {atom: part_of(each) for atom, each in inputs.items()}


def _inverted(moments: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """The size of each input, the moments of inputs of size 1 with the ridge, and their inverse."""
    scale = moments.diagonal().clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    correlated = moments / scale[:, None] / scale
    correlated.diagonal().add_(ridge)
    return scale, correlated, torch.cholesky_inverse(torch.linalg.cholesky(correlated))

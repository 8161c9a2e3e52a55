"""Let the weights that stay make up for what is pruned while a model is trained.

The second moments of the inputs of matrices go into a moving average at the steps that score, and at each pruning the
base weights that stay get what :mod:`graphprune.reconstruction` gives for the units that go with it. The adapters stay
as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..distributed import is_sharded, mean_of_processes
from ..errors import TrainingError
from ..gates import Gate
from ..matrices import matrices
from ..passes.slice_parameters import DimMasks, masks_within
from ..program import fetch
from ..quantised import quantised_weights
from ..reconstruction import RIDGE, adding_moments, gates_of_matrices, least_squares
from ..traced import TracedModel


class MakingUp:
    """The second moments so far, and the weights that were changed.

    Args:
        traced: the model that is trained.
        decay: the weight of the earlier moments in their moving average.

    Raises:
        TrainingError: weights are stored in few bits, or there is none that could make up.
    """

    def __init__(self, traced: TracedModel, decay: float):
        self.traced, self.decay = traced, decay
        self.moments: dict[str, Tensor] = {}
        """``[inputs, inputs]`` in float32 by parameter, of the inputs that are left."""
        self.has_changed = False
        self._newer: dict[Gate, Tensor] = {}
        if traced.stored is not None and quantised_weights(traced.module):
            raise TrainingError("make_up='weights' changes base weights, and quantised ones can't be: use 'none'")
        self.gates = {gate.parameter: gate for gate in gates_of_matrices(traced)}
        if not self.gates:
            raise TrainingError("no matrix takes in units that can be pruned, so none can make up: use make_up='none'")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context the inputs of matrices are seen in the forward passes."""
        self._newer = {}
        with adding_moments(self.traced.module, self.gates.values(), self._newer):
            yield

    def take(self) -> None:
        """Put what was seen into the moving average; where several processes train, all must call this."""
        device = next(self.traced.module.parameters()).device
        newer = mean_of_processes({gate.parameter: moments for gate, moments in self._newer.items()}, device)
        for name, moments in newer.items():
            now = moments.to(device)
            self.moments[name] = self.moments[name].mul_(self.decay).add_(now) if name in self.moments else now
        self._newer = {}

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
            kept = after.get(name, {dim: None})[dim]
            if kept is None:
                continue
            old = earlier.get(name, {dim: None})[dim]
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
            kept = masks.get(name, {self.gates[name].weight_dim: None})[self.gates[name].weight_dim]
            if kept is not None:
                places = kept.nonzero().flatten().to(moments.device)
                self.moments[name] = moments[places][:, places]

    def weights(self) -> dict[str, Tensor]:
        """The base weights that have changed or may have, by name."""
        return {name: fetch(self.traced.module, name).detach() for name in self.gates} if self.has_changed else {}

    @torch.no_grad()
    def restore(self, moments: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint holds, in a model that is cut as it was then."""
        device = next(self.traced.module.parameters()).device
        self.moments = {name: each.to(device) for name, each in moments.items()}
        self.has_changed = bool(weights)
        for name, weight in weights.items():
            fetch(self.traced.module, name).copy_(weight)

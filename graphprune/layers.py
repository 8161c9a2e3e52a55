"""The layers of a model: the numbered modules that its parameters lie in.

::

    model.layers.3.self_attn.q_proj.weight   ->   model.layers.3
    encoder.stages.1.blocks.0.conv.weight    ->   encoder.stages.1
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .errors import PlanError
from .groups import PruningGroup
from .traced import TracedModel


def layer_of(parameter: str) -> str:
    """The outermost numbered module around a parameter; empty where there is none."""
    found = re.match(r"(?:.*?\.)??[0-9]+(?:\.[0-9]+)*(?=\.)", parameter)
    return found[0] if found else ""


def layers_of(traced: TracedModel) -> tuple[str, ...]:
    """The paths of the layers in which there are parameters, in the order of these."""
    found = (layer_of(info.name) for info in traced.table.values() if not info.is_buffer)
    return tuple(dict.fromkeys(path for path in found if path))


def home_of(group: PruningGroup) -> str:
    """The layer that a group counts for: the one that it leaves, if it is part of one or of two that follow each other.

    What more layers have in common (rotary frequencies, the residual width) is in none of them: the empty path.
    """
    found = dict.fromkeys(layer_of(member.parameter) for member in group.members)
    return next(iter(found)) if len(found) <= 2 else ""


def outside_layers(traced: TracedModel, groups: Iterable[PruningGroup], skipped: Sequence[int]) -> list[PruningGroup]:
    """Those of some groups that have no part in some layers, given by position; -1 is the last.

    Raises:
        PlanError: the model has no such layer.
    """
    layers = layers_of(traced)
    for index in skipped:
        if not -len(layers) <= index < len(layers):
            known = f"{len(layers)} layers ({layers[0]} to {layers[-1]})" if layers else "no layers"
            raise PlanError(f"skip_layers names layer {index}, but the model has {known}")
    whole = {layers[index] for index in skipped}
    return [g for g in groups if whole.isdisjoint(layer_of(member.parameter) for member in g.members)]

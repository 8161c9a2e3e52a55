"""The steps in which groups may be cut, and the price of each.

A group (or all groups that keep the same number of units) is a ladder whose rungs are the numbers of units that it may
keep. The price of a step is the importance of a parameter that leaves with it, relative to a mean that ``normalize``
says; with another ``scope`` steps go in another order, so that layers or groups give the same share.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import networkx as nx
import torch
from torch import Tensor

from .constraints import Constraints
from .errors import ScoreError
from .groups import PruningGroup
from .kinds import asked_as
from .layers import home_of
from .scores import Scores

Scope = Literal["global", "layer", "group"]
"""Where units compete: in the whole model, or in each layer, of which all give the same share of what their units hold,
or in each group, of which all give the same share of their units."""

Normalize = Literal["group", "group_l2", "kind", "kind_l2"]
"""What the importance of a parameter is relative to: the mean, or the root mean square (``l2``), over the parameters of
its group or of all groups of its kind."""


@dataclass(frozen=True)
class Ladder:
    """Groups that are cut alike, how much of them may be kept, and the price of each step down.

    The units of each group are dealt into the same number of ``parts``: one unit each where all have the same number.
    ``top`` is the number of parts to begin with, ``kept[i]`` that after step ``i``, ``prices[i]`` (float64) its price.
    """

    groups: tuple[PruningGroup, ...]
    parts: int
    top: int
    kept: Sequence[int]
    prices: Tensor

    def counts(self, kept: int) -> dict[int, int]:
        """The number of units of each group, by its atom, in some parts of it."""
        return {group.atom.id: group.units // self.parts * kept for group in self.groups}

    def held(self, kept: int) -> int:
        """The parameters in some parts of each group, where all else is whole."""
        return kept * sum(group.units // self.parts * _weight(group) for group in self.groups)


def build_ladders(
    groups: Sequence[PruningGroup],
    scores: Scores,
    homogeneous: bool,
    constraints: Constraints,
    gone: Mapping[str, Tensor],
    allowed: Mapping[str, Collection[int]] | None = None,
    ties: Iterable[Sequence[PruningGroup]] = (),
    *,
    scope: Scope = "global",
    normalize: Normalize | None = "group",
) -> list[Ladder]:
    """A ladder for each group, or for each family; the groups of a tie share theirs.

    ``gone`` marks the units that are removed already; ``allowed`` holds the numbers of units that a family may keep.
    """
    losses = {group.name: _losses(group, scores[group.name], gone.get(group.name)) for group in groups}
    means = _means(groups, losses, normalize)
    ladders: list[Ladder] = []
    for members in alike(groups, homogeneous, ties):
        parts = math.gcd(*(group.units for group in members))
        top = min(_kept_before(group, gone) * parts // group.units for group in members)
        rungs = _rungs(members, parts, top, constraints, allowed)
        whole = sum(group.units // parts * _weight(group) for group in members)
        lost = torch.zeros(parts + 1, dtype=torch.float64)
        for group in members:
            each = losses[group.name].reshape(parts, -1).sum(1) * _weight(group) / (means[group.name] * whole)
            lost[1:] += each.cumsum(0)
        left = torch.tensor([top, *rungs])
        prices = lost[parts - left].diff() / -left.diff()
        ladders.append(Ladder(tuple(members), parts, top, rungs, prices.cummax(0).values))
    match scope:
        case "global":
            return ladders
        case "layer":
            return _by_layer(ladders)
        case "group":
            return [replace(each, prices=1 - torch.tensor(each.kept).double() / each.parts) for each in ladders]


def _rungs(
    groups: Sequence[PruningGroup],
    parts: int,
    top: int,
    constraints: Constraints,
    allowed: Mapping[str, Collection[int]] | None,
) -> Sequence[int]:
    """The numbers of parts that each of some groups may keep, fewer than ``top``, from the largest on."""
    limits = {(g.units // parts, constraints.step([g]), constraints.least([g])) for g in groups}
    step = math.lcm(*(step // math.gcd(step, size) for size, step, _ in limits))
    least = max(1, *(-(-least // size) for size, _, least in limits))
    rungs = range((top - 1) // step * step, least - 1, -step)
    if allowed is None:
        return rungs
    families = {(g.units // parts, g.family) for g in groups}
    accepted = [(size, set(allowed[family])) for size, family in families]
    return [n for n in rungs if all(n * size in counts for size, counts in accepted)]


def alike(
    groups: Iterable[PruningGroup], homogeneous: bool, ties: Iterable[Sequence[PruningGroup]]
) -> list[list[PruningGroup]]:
    """The groups that keep the same number of units as each other: those of a family, if wanted, and of a tie."""
    graph: nx.Graph = nx.Graph()
    for group in groups:
        graph.add_edge(group.name, ("family", group.family) if homogeneous else group.name)
    for tie in ties:
        nx.add_path(graph, [group.name for group in tie])
    by_name = {group.name: group for group in groups}
    order = {name: index for index, name in enumerate(by_name)}
    parts = [
        sorted((n for n in part if n in by_name), key=order.__getitem__) for part in nx.connected_components(graph)
    ]
    return [[by_name[name] for name in names] for names in sorted(parts, key=lambda names: order[names[0]])]


def _by_layer(ladders: Sequence[Ladder]) -> list[Ladder]:
    """The steps of each layer in the order of their prices, priced by the share of the layer that is gone after each.

    What is cut alike in several layers, or is part of more than two, is a layer of its own.
    """
    layers: dict[str, list[int]] = {}
    for index, ladder in enumerate(ladders):
        homes = {home_of(group) for group in ladder.groups}
        layers.setdefault(homes.pop() if len(homes) == 1 else "", []).append(index)
    prices: list[list[float]] = [[] for _ in ladders]
    for indices in layers.values():
        whole = sum(ladders[index].held(ladders[index].parts) for index in indices)
        left = sum(ladders[index].held(ladders[index].top) for index in indices)
        before = {index: ladders[index].top for index in indices}
        steps = sorted((price, i, rung) for i in indices for rung, price in enumerate(ladders[i].prices.tolist()))
        for _, index, rung in steps:
            kept = ladders[index].kept[rung]
            left -= ladders[index].held(before[index] - kept)
            before[index] = kept
            prices[index].append(1 - left / whole)
    return [
        replace(ladder, prices=torch.tensor(each, dtype=torch.float64))
        for ladder, each in zip(ladders, prices, strict=True)
    ]


def _weight(group: PruningGroup) -> int:
    """The parameters of a unit; at least one, so that what has none can be compared."""
    return max(1, group.params_per_unit)


def _kept_before(group: PruningGroup, gone: Mapping[str, Tensor]) -> int:
    return group.units - int(gone[group.name][0].sum()) if group.name in gone else group.units


def _losses(group: PruningGroup, score: Tensor, gone: Tensor | None) -> Tensor:
    """The importance of a parameter of each unit in the order in which units go, ``[units]``.

    Units that are gone come first and weigh nothing.
    """
    rows = score.reshape(-1, group.units).double()
    if not torch.isfinite(rows).all():
        raise ScoreError(f"the scores of {group.name} are not finite: check the loss and the weights for NaN")
    if gone is not None:
        rows = rows.masked_fill(gone, -torch.inf)
    ordered = rows.sort(dim=1).values.nan_to_num(neginf=0.0).sum(0)
    return ordered / _weight(group)


def _means(
    groups: Sequence[PruningGroup], losses: Mapping[str, Tensor], normalize: Normalize | None
) -> dict[str, float]:
    """What the losses of each group are relative to; one where that would be nothing."""
    if normalize is None:
        return dict.fromkeys(losses, 1.0)
    power = 2 if normalize.endswith("_l2") else 1
    total: dict[str, float] = {}
    held: dict[str, int] = {}
    places = {group.name: asked_as(group) if normalize.startswith("kind") else group.name for group in groups}
    for group in groups:
        place = places[group.name]
        total[place] = total.get(place, 0.0) + float((losses[group.name] ** power).sum()) * _weight(group)
        held[place] = held.get(place, 0) + group.units * _weight(group)
    means = {place: (total[place] / held[place]) ** (1 / power) for place in total}
    return {name: means[place] if means[place] > 0 else 1.0 for name, place in places.items()}

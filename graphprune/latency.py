"""Measured time as a budget: how long the model runs when a family of groups keeps some of its units.

The graph is cut to each size and timed on the inputs that it was traced with. What a family saves is spread evenly over
its groups, sizes between those that were measured are interpolated, and savings of several families are added up.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from .budget import Counts
from .device import wait_for_device
from .errors import PlanError
from .files import reading, write_text_atomically
from .groups import PruningGroup
from .masks import Keep, Kept
from .passes.recompute_shapes import recompute_shapes
from .passes.slice_parameters import parameter_masks, slice_tensor
from .traced import TracedModel

SHARES = (0.75, 0.5, 0.25)
"""The shares of the units of a family at which it is timed unless other ones are given."""


@dataclass(frozen=True)
class LatencyTable:
    """Seconds that a model takes: as it is, and by family when its groups keep so many units.

    ``seconds[family]`` maps numbers of units to seconds of the whole model; a family that is missing saves nothing.
    """

    whole: float
    seconds: Mapping[str, Mapping[int, float]]

    def cost(self, traced: TracedModel) -> LatencyCost:
        """The budget of a model, in nanoseconds.

        Raises:
            PlanError: none of the families is one of the model.
        """
        families = [group.family for group in traced.groups]
        if not self.seconds.keys() & set(families):
            raise PlanError("the latency table is for another model: measure this one with gp.measure_latency(traced)")
        groups = [group for group in traced.groups if group.family in self.seconds]
        terms = tuple((g.atom.id, self._curve(g.units, g.family, families.count(g.family))) for g in groups)
        return LatencyCost(round(self.whole * 1e9), terms)

    def _curve(self, units: int, family: str, members: int) -> Curve:
        """Numbers of units, ascending, and nanoseconds that one group saves by them; fewer units never save less."""
        saved = 0.0
        points = [(units, 0.0)]
        for count, seconds in sorted(self.seconds[family].items(), reverse=True):
            if count < units:
                saved = max(saved, (self.whole - seconds) * 1e9 / members)
                points.append((count, saved))
        return tuple(reversed(points))

    def to_json(self) -> str:
        """The table as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the table to a file, wholly or not at all.

        Raises:
            OutputExistsError: the file exists and ``overwrite`` is false.
        """
        write_text_atomically(path, self.to_json(), overwrite=overwrite)

    @staticmethod
    def load(path: str | Path) -> LatencyTable:
        """Read a table from a file.

        Raises:
            FileFormatError: there is no such file, or it holds no table.
        """
        with reading(path, "a latency table"):
            body = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = {str(f): {int(n): float(s) for n, s in row.items()} for f, row in body["seconds"].items()}
            return LatencyTable(float(body["whole"]), rows)


Curve = tuple[tuple[int, float], ...]
"""Numbers of units, ascending, and the nanoseconds that are saved when so many are kept."""


@dataclass(frozen=True)
class LatencyCost:
    """Nanoseconds of a model that depend on how many units of each atom are kept."""

    constant: int
    terms: tuple[tuple[int, Curve], ...]

    def __call__(self, counts: Counts) -> int:
        return self.constant + sum(self.term(index, counts) for index in range(len(self.terms)))

    def term(self, index: int, counts: Counts) -> int:
        """What one term adds: nothing, or less."""
        atom, curve = self.terms[index]
        kept = counts.get(atom, curve[-1][0])
        above = bisect_left(curve, kept, key=lambda point: point[0])
        if above == 0:
            return -round(curve[0][1])
        if above == len(curve):
            return -round(curve[-1][1])
        (fewer, more_saved), (more, less_saved) = curve[above - 1], curve[above]
        return -round(more_saved + (less_saved - more_saved) * (kept - fewer) / (more - fewer))

    def by_atom(self) -> dict[int, list[int]]:
        """For each atom the indices of the terms that it is part of."""
        found: dict[int, list[int]] = {}
        for index, (atom, _) in enumerate(self.terms):
            found.setdefault(atom, []).append(index)
        return found


def measure_latency(traced: TracedModel, shares: Sequence[float] = SHARES, *, repeats: int = 5) -> LatencyTable:
    """Time a model as it is, and with each of these shares of the units of each of its families of groups.

    The time is the median of ``repeats`` runs of the graph, after one that is not counted. The model must have values.
    """
    seconds = {
        family: {count: _seconds(_cut(traced, members, count), traced, repeats) for count in _sizes(members[0], shares)}
        for family, members in _prunable(traced)
    }
    return LatencyTable(_seconds(traced.graph, traced, repeats), seconds)


def _prunable(traced: TracedModel) -> Iterator[tuple[str, list[PruningGroup]]]:
    members: dict[str, list[PruningGroup]] = {}
    for group in traced.groups.prunable:
        members.setdefault(group.family, []).append(group)
    yield from members.items()


def _sizes(group: PruningGroup, shares: Sequence[float]) -> list[int]:
    sizes = {max(1, round(group.units * share)) for share in shares}
    return sorted(size for size in sizes if size < group.units)


def _cut(traced: TracedModel, groups: Sequence[PruningGroup], count: int) -> fx.GraphModule:
    """The graph with the first ``count`` units of each of some groups."""
    program, inference = traced.program, traced.inference
    keep: Keep = {group.atom.id: Kept(torch.arange(group.units) < count) for group in groups}
    masks = parameter_masks(inference, keep)
    tensors = {
        name: slice_tensor(program.tensor(name).detach(), masks.get(name, ()))
        for name in dict.fromkeys([*program.table, *inference.parameter_dims])
    }
    return recompute_shapes(program, inference, keep, tensors)


def _seconds(graph: fx.GraphModule, traced: TracedModel, repeats: int) -> float:
    """The median time of a run on the inputs that the model was traced with."""
    inputs = tree_leaves((traced.args, dict(traced.kwargs)))
    times: list[float] = []
    with torch.no_grad():
        for _ in range(1 + repeats):
            wait_for_device()
            start = time.perf_counter()
            fx.Interpreter(graph).run(*inputs, enable_io_processing=False)
            wait_for_device()
            times.append(time.perf_counter() - start)
    return median(times[1:])

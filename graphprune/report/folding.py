"""The groups of a model by its modules, layers that are alike folded into one.

::

    model.layers.0.mlp:channels, …, model.layers.29.mlp:channels   ->   Part "model" > "layers" > "0" of 0–29 > "mlp"

Layers are alike that have the same groups (but for the number of the layer in names and reasons) and the same
parameters with the same dims in them; they need not follow each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..groups import PruningGroup
from ..tables import any_layer
from ..traced import TracedModel


@dataclass(frozen=True)
class Part:
    """A module, or a parameter that groups are named after, with what is in it.

    Of layers that are alike there is the first, and ``layers`` are the numbers of all of them.
    """

    name: str
    groups: tuple[PruningGroup, ...]
    parts: tuple[Part, ...]
    layers: tuple[int, ...] = ()

    @property
    def shown(self) -> tuple[Part, ...]:
        """The parts in which there are groups."""
        return tuple(part for part in self.parts if part.groups or part.shown)

    def first_alike(self, path: str) -> str:
        """A path below this part with the first of the layers that are alike in place of each."""
        name, _, rest = path.partition(".")
        part = next((each for each in self.parts if name in each.names), None)
        if part is None:
            return path
        return f"{part.name}.{part.first_alike(rest)}" if rest else part.name

    @property
    def names(self) -> frozenset[str]:
        """The names of the layers that are folded into this part, or its own."""
        return frozenset(map(str, self.layers)) or frozenset((self.name,))


@dataclass
class _Module:
    """A part while it is made."""

    groups: list[PruningGroup] = field(default_factory=list)
    dims: list[object] = field(default_factory=list)
    parts: dict[str, _Module] = field(default_factory=dict)

    def at(self, path: str) -> _Module:
        module = self
        for name in path.split("."):
            module = module.parts.setdefault(name, _Module())
        return module


def parts_of(
    traced: TracedModel, groups: Iterable[PruningGroup], costs: Mapping[int, int], *, fold: bool = True
) -> Part:
    """The whole model as a part, with some of its groups.

    ``costs`` are the MACs of a unit by atom, which layers that are alike have in common, too.
    """
    root = _Module()
    wanted = list(groups)
    states: dict[tuple[str, int], list[str]] = defaultdict(list)
    for group in wanted:
        for member in group.members:
            states[member.parameter, member.dim].append(f"{group.kind} {group.status}")
    # In the order of the model: that of the graph may differ from layer to layer.
    used = traced.inference.parameter_dims
    for name in [
        *(name for name in traced.table if name in used),
        *(name for name in used if name not in traced.table),
    ]:
        axes = traced.inference.axes(name)
        root.at(name).dims = [(axis.size, tuple(sorted(states[name, dim]))) for dim, axis in enumerate(axes)]
    for group in wanted:
        root.at(group.name.rpartition(":")[0]).groups.append(group)
    return _part("", root, (), costs, fold)


def label_of(group: PruningGroup) -> str:
    """What tells a group from the others of its module: its kind, numbered where there are several."""
    return group.name.rpartition(":")[2]


def numbers_text(numbers: Sequence[int]) -> str:
    """``0–29``, or ``0–3, 5, …, 29`` for more than three runs."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    return ", ".join(texts if len(texts) <= 3 else [*texts[:2], "…", texts[-1]])


def _part(name: str, module: _Module, layers: tuple[int, ...], costs: Mapping[int, int], fold: bool) -> Part:
    alike: dict[object, list[str]] = defaultdict(list)
    for each, inner in module.parts.items():
        alike[_content(inner, costs) if fold and each.isdecimal() else each].append(each)
    parts = tuple(
        _part(names[0], module.parts[names[0]], tuple(map(int, names)) if names[0].isdecimal() else (), costs, fold)
        for names in alike.values()
    )
    return Part(name, tuple(module.groups), parts, layers)


def _content(module: _Module, costs: Mapping[int, int]) -> object:
    """What two layers that are alike have in common."""
    groups = tuple(
        (
            label_of(group),
            group.kind,
            group.units,
            None if group.slot is None else group.slot.size,
            group.params_per_unit,
            costs[group.atom.id],
            len(group.members),
            group.status,
            any_layer(group.reason),
        )
        for group in module.groups
    )
    parts = tuple((name, _content(inner, costs)) for name, inner in module.parts.items())
    return groups, tuple(module.dims), parts

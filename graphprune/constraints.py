"""What a plan must keep to beside its budget: where to cut, by how much at most, and what to keep alike.

::

    gp.Constraints(
        only="model.layers.*.mlp",                       # nothing outside these modules
        ignore=["*.layers.0", "*.layers.29"],            # nothing that has a part in these
        multiple_of=64, min_units={"heads": 4},
        fixed={"model.layers.7.mlp:channels": 512},      # neither more nor less
        tied=[["encoder.mlp:channels", "decoder.mlp:channels"]],
    )
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import get_args

from .errors import BudgetError, PlanError
from .groups import Kind, PruningGroup
from .plan import KeptUnits
from .traced import TracedModel

PerKind = int | Mapping[str, int]
"""One number for every kind of group, or a number for each kind by name."""

MOST_NAMED = 5
"""An error names at most so many groups."""


@dataclass(frozen=True)
class Constraints:
    """What holds for every plan that :func:`graphprune.select` makes with it.

    ``multiple_of``: what is kept is a multiple of this; a number holds for channels, a mapping for the kinds in it.
    ``min_units``: a group keeps at least as many units.
    ``only``, ``ignore``: globs on module paths, each standing for the modules that match and all within them. A group
    is cut if every parameter of it is in ``only`` and none is in ``ignore``: what is coupled to a module outside can't
    be cut inside alone.
    ``fixed``: by the name of a group, how many units stay or which ones. It is cut so whatever ``kinds``, ``only`` and
    ``ignore`` say, and what it removes counts for the budget.
    ``tied``: lists of names of groups that keep the same number of units, each the ones that matter most in it.

    Raises:
        PlanError: a number is less than one, or there is no such kind.
    """

    multiple_of: PerKind = 1
    min_units: PerKind = 1
    only: str | Sequence[str] = ()
    ignore: str | Sequence[str] = ()
    fixed: Mapping[str, int | KeptUnits] = field(default_factory=dict)
    tied: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        for name, given in (("multiple_of", self.multiple_of), ("min_units", self.min_units)):
            for kind, number in given.items() if isinstance(given, Mapping) else [(None, given)]:
                if kind is not None and kind not in get_args(Kind):
                    raise PlanError(f"{name} names a kind {kind!r}; there are {', '.join(get_args(Kind))}")
                if number < 1:
                    raise PlanError(f"{name} must be at least 1, not {number}")

    def step(self, groups: Iterable[PruningGroup]) -> int:
        """The number that the kept units of groups with the same number of units are a multiple of."""
        by_kind = self.multiple_of if isinstance(self.multiple_of, Mapping) else {"channels": self.multiple_of}
        return math.lcm(*(by_kind.get(group.kind, 1) for group in groups))

    def least(self, groups: Iterable[PruningGroup]) -> int:
        """The number of units that groups with the same number of units keep at least."""
        least = self.min_units
        return max(
            max(group.least, least.get(group.kind, 1) if isinstance(least, Mapping) else least) for group in groups
        )

    def choose(self, traced: TracedModel, groups: Sequence[PruningGroup]) -> list[PruningGroup]:
        """Those of ``groups`` that ``only`` and ``ignore`` leave to be cut.

        Raises:
            PlanError: a glob matches no module that has parameters in a group.
            BudgetError: nothing can be cut where a glob of ``only`` points to; names what is there, and why it stays.
        """
        only, ignore = _globs(self.only), _globs(self.ignore)
        if not only and not ignore:
            return list(groups)
        owners = {group.name: _owners(traced, group) for group in traced.groups}
        for name, globs in (("only", only), ("ignore", ignore)):
            for glob in globs:
                if not any(_inside(paths, [glob]) for rows in owners.values() for paths in rows):
                    raise PlanError(f"{name}={glob!r} matches no module with parameters that the graph uses")
        chosen = [group for group in groups if not self._outside(owners[group.name])]
        for glob in only:
            there = [g for g in traced.groups if any(_inside(paths, [glob]) for paths in owners[g.name])]
            if not any(group in chosen for group in there):
                raise BudgetError(f"only={glob!r} leaves nothing to be cut: {self._why_not(there, groups, owners)}")
        return chosen

    def pointed_at(self, traced: TracedModel, groups: Iterable[PruningGroup]) -> dict[str, list[PruningGroup]]:
        """Of some groups, those that have a part where each glob of ``only`` points to."""
        owners = [(group, _owners(traced, group)) for group in groups]
        return {
            glob: [group for group, rows in owners if any(_inside(paths, [glob]) for paths in rows)]
            for glob in _globs(self.only)
        }

    def _outside(self, owners: Sequence[Sequence[str]]) -> str | None:
        """Why ``only`` and ``ignore`` rule a group out; None if they do not."""
        only, ignore = _globs(self.only), _globs(self.ignore)
        for paths in owners:
            if only and not _inside(paths, only):
                return f"it has {paths[0]} outside"
            if _inside(paths, ignore):
                return f"{paths[0]} is ignored"
        return None

    def _why_not(
        self,
        there: Sequence[PruningGroup],
        wanted: Sequence[PruningGroup],
        owners: Mapping[str, Sequence[Sequence[str]]],
    ) -> str:
        rows = []
        for group in there:
            reason = group.reason
            if group in wanted:
                reason = self._outside(owners[group.name]) or ""
            rows.append(f"{group.name} ({reason or 'its kind was not asked for'})")
        more = f"; and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
        return "; ".join(rows[:MOST_NAMED]) + more

    def fixed_groups(self, traced: TracedModel) -> dict[str, PruningGroup]:
        """The groups that are fixed, by name.

        Raises:
            PlanError: there is no such group, it can't be cut, or what is fixed does not fit its units.
        """
        found = {name: _named(traced, name, "fixed") for name in self.fixed}
        for name, group in found.items():
            given = self.fixed[name]
            count = given if isinstance(given, int) else len(given)
            if not 1 <= count <= group.units:
                raise PlanError(f"fixed keeps {count} units of {name}, which has {group.units}")
            if count < group.least:
                raise PlanError(
                    f"fixed keeps {count} units of {name}, but {group.least} are chosen at once: fix at least as many"
                )
        return found

    def ties(self, traced: TracedModel, groups: Sequence[PruningGroup]) -> list[list[PruningGroup]]:
        """The groups of each tie.

        Raises:
            PlanError: there is no such group, it is not one of ``groups``, or their numbers of units differ.
        """
        ties = [[_named(traced, name, "tied") for name in names] for names in self.tied]
        for tie in ties:
            for group in tie:
                if group.name in self.fixed:
                    raise PlanError(f"{group.name} is tied and fixed: fix all groups of its tie, or none")
                if group not in groups:
                    raise PlanError(
                        f"{group.name} is tied, but may not be cut in this way: check kinds, only and ignore"
                    )
                if group.units != tie[0].units:
                    names, units = f"{tie[0].name} and {group.name}", f"{tie[0].units} and {group.units}"
                    raise PlanError(f"{names} can't be tied: they have {units} units")
        return ties


def _named(traced: TracedModel, name: str, what: str) -> PruningGroup:
    group = next((group for group in traced.groups if group.name == name), None)
    if group is None:
        raise PlanError(f"{what} names a group {name!r} that the model does not have")
    if group not in traced.groups.cuttable:
        raise PlanError(f"{what} names {name}, which can't be cut: {group.reason}")
    return group


def _globs(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _owners(traced: TracedModel, group: PruningGroup) -> list[list[str]]:
    """For each parameter of a group the modules that have it, one for each of its names."""
    table = traced.table
    infos = [table[name] for name in dict.fromkeys(member.parameter for member in group.members) if name in table]
    return [[name.rpartition(".")[0] for name in (i.name, *i.aliases)] for i in infos if not i.is_buffer]


def _inside(paths: Iterable[str], globs: Iterable[str]) -> bool:
    """Whether one of some modules, or a module around it, matches a glob."""
    around = [above for path in paths for above in accumulate(path.split("."), lambda a, b: f"{a}.{b}")]
    return any(fnmatchcase(path, glob) for path in around for glob in globs)

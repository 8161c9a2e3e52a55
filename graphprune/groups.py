"""Pruning groups: what must be cut together, and why some of it can't be cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .axes import Atom, Axis, atoms, parts
from .tables import groups_table, to_html

Kind = Literal["channels", "heads", "repeats", "head_dims", "experts", "lora_rank"]
Status = Literal["prunable", "statistics", "rank", "frozen"]


@dataclass(frozen=True)
class Member:
    """One dim of one parameter that loses positions with the group.

    ``axis`` is the dim's whole axis tree, ``text`` the same in the project's notation.
    """

    parameter: str
    dim: int
    axis: Axis
    text: str

    def __str__(self) -> str:
        return f"{self.parameter}[{self.dim}]: {self.text}"


@dataclass(frozen=True)
class PruningGroup:
    """Members that lose the same units together.

    ``units`` is how many units there are, ``params_per_unit`` how many parameters leave with one unit of a model that
    is otherwise whole, ``family`` is shared by the groups that play the same part in different layers. ``frozen`` and
    ``statistics`` say why the group can't be cut, or is not cut unless asked for. ``slot`` is the atom within each of
    whose positions the group may keep different units, as long as all keep the same number. ``least`` is how many
    units must stay: as many experts as a router chooses.
    """

    name: str
    kind: Kind
    family: str
    atom: Atom
    members: tuple[Member, ...]
    params_per_unit: int
    frozen: str | None
    statistics: str | None
    slot: Atom | None = None
    least: int = 1

    @property
    def units(self) -> int:
        return self.atom.size

    @property
    def status(self) -> Status:
        """``prunable``: cut by default; ``statistics`` and ``rank``: only when asked for; ``frozen``: never."""
        if self.frozen is not None:
            return "frozen"
        if self.kind == "lora_rank":
            return "rank"
        return "statistics" if self.statistics is not None else "prunable"

    @property
    def reason(self) -> str:
        """Why the group is not cut by default; empty where it is."""
        if self.frozen is not None:
            return self.frozen
        if self.kind == "lora_rank":
            return "the rank of an adapter is cut only when asked for"
        return self.statistics or ""


@dataclass(frozen=True)
class Groups(Sequence[PruningGroup]):
    """The groups of a traced model, in the order in which its parameters come; found by position or by name."""

    rows: tuple[PruningGroup, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PruningGroup]:
        return iter(self.rows)

    def __getitem__(self, key: int | slice | str) -> PruningGroup:  # type: ignore[override]
        if isinstance(key, str):
            found = next((group for group in self.rows if group.name == key), None)
            if found is None:
                raise KeyError(f"there is no group {key!r}; the groups are {', '.join(group.name for group in self)}")
            return found
        if isinstance(key, slice):
            raise TypeError("groups are found by position or by name")
        return self.rows[key]

    @property
    def prunable(self) -> tuple[PruningGroup, ...]:
        """The groups that are cut by default."""
        return tuple(group for group in self.rows if group.status == "prunable")

    @property
    def cuttable(self) -> tuple[PruningGroup, ...]:
        """The groups that are cut by default or when they are asked for by their kind."""
        return tuple(group for group in self.rows if group.status != "frozen")

    @property
    def by_atom(self) -> dict[int, PruningGroup]:
        """The groups that can be cut, by the ids of their atoms."""
        return {group.atom.id: group for group in self.cuttable}

    @property
    def slots(self) -> dict[int, Atom]:
        """Of the groups of :attr:`by_atom` those with slots: the atom that gives them."""
        return {atom: group.slot for atom, group in self.by_atom.items() if group.slot is not None}

    def __str__(self) -> str:
        rows = [("group", "kind", "units", "members", "params/unit", "status")]
        rows += [
            (
                g.name,
                g.kind,
                str(g.units),
                str(len(g.members)),
                str(g.params_per_unit),
                f"{g.status} {g.reason}".strip(),
            )
            for g in self
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def _repr_html_(self) -> str:
        """For a notebook: a row for the groups that are alike but for their layer."""
        return to_html(groups_table(self))


def share_per_unit(axis: Axis, atom: Atom) -> float:
    """The share of an axis's positions that leave with one unit of ``atom``."""
    return _positions(axis, atom) / axis.size if axis.size else 0.0


def _positions(axis: Axis, atom: Atom) -> float:
    """Positions of an axis that belong to one unit of an atom that occurs in it."""
    if axis == atom:
        return 1.0
    if isinstance(axis, Atom):
        return 0.0
    if hasattr(axis, "factors"):
        missed = 1.0
        for factor in parts(axis):
            missed *= 1 - _positions(factor, atom) / factor.size
        return axis.size * (1 - missed)
    return sum(_positions(term, atom) for term in parts(axis))


def occurs(axis: Axis, atom: Atom) -> bool:
    """Whether an atom is part of an axis."""
    return any(other.id == atom.id for other in atoms(axis))

"""The pruning plan: which units of which groups are kept. Plain JSON, hand-readable.

::

    {
      "format": "graphprune-plan/1",
      "model": "7c1f0e5a9b2d4c38",
      "weights": "09d3f2a417c65be8",
      "about": {"ratio": 0.2, "criterion": "lora"},
      "groups": {
        "model.layers.0.mlp:channels": {"units": 1536, "kept": "0-11 13-40 42-1535"},
        "model.layers.0.self_attn:head_dims": {"units": 64, "kept": ["0-30 33", "1-32"]}
      }
    }

A group with a list keeps other units in each slot (in each head, say). Groups that are not named stay whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import FileFormatError, PlanError
from .files import reading, write_text_atomically
from .masks import Keep, Kept, keep_mask
from .tables import plan_table, to_html

if TYPE_CHECKING:
    from .traced import TracedModel

FORMAT = "graphprune-plan/1"

KeptUnits = tuple[int, ...] | tuple[tuple[int, ...], ...]
"""The indices of kept units in ascending order, or one such tuple for each slot."""


@dataclass(frozen=True)
class GroupPlan:
    """What stays of one group."""

    units: int
    kept: KeptUnits

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The kept units of each slot; one row where the group has no slots."""
        if self.kept and isinstance(self.kept[0], tuple):
            return self.kept
        return (self.kept,)  # type: ignore[return-value]

    @property
    def count(self) -> int:
        """How many units are kept (in each slot)."""
        return len(self.rows[0])

    @property
    def has_slots(self) -> bool:
        return bool(self.kept) and isinstance(self.kept[0], tuple)

    def mask(self) -> Tensor:
        """Boolean ``[units]``, or ``[slots, units]``."""
        mask = torch.zeros(len(self.rows), self.units, dtype=torch.bool)
        for row, kept in enumerate(self.rows):
            mask[row, list(kept)] = True
        return mask if self.has_slots else mask[0]


@dataclass(frozen=True)
class PruningPlan:
    """What stays of each group of one model.

    ``model`` is the fingerprint of the model that the plan is for; ``about`` says how it came to be. ``weights`` is the
    digest of the values that the weights had then, None where they had none (see :mod:`graphprune.revision`).
    """

    model: str
    groups: Mapping[str, GroupPlan]
    about: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def check_model(self, fingerprint: str) -> None:
        """Check that the plan is for the model with this fingerprint.

        Raises:
            PlanError: it is for another one.
        """
        if fingerprint != self.model:
            raise PlanError(
                f"the plan was made for a model with fingerprint {self.model}, this one has {fingerprint}: "
                "use the model that it was made for, or make a new plan with gp.select"
            )

    def check_weights(self, weights: str | None) -> None:
        """Check that the plan was made for weights with this digest; None, on either side, is not compared.

        Raises:
            PlanError: it was made for others.
        """
        if None not in (weights, self.weights) and weights != self.weights:
            raise PlanError(
                f"the plan was made for weights with digest {self.weights}, and these, of the same shapes, have "
                f"{weights}: use the revision that it was made for, or cut these on purpose with --other-weights "
                "(other_weights=True)"
            )

    def counts(self, traced: TracedModel) -> dict[int, int]:
        """How many units are kept, by atom; a budget costs what is left by them.

        Raises:
            PlanError: as :meth:`keep`.
        """
        return {atom: kept.count for atom, kept in self.keep(traced).items()}

    def keep(self, traced: TracedModel) -> Keep:
        """The kept units by atom.

        Raises:
            PlanError: the plan is for another model, or names a group that the model has not or that is frozen.
        """
        self.check_model(traced.fingerprint)
        keep: dict[int, Kept] = {}
        names = {group.name: group for group in traced.groups}
        for name, plan in self.groups.items():
            group = names.get(name)
            if group is None:
                raise PlanError(f"the plan names a group {name!r} that the model does not have")
            if plan.units != group.units:
                raise PlanError(f"the plan says that {name} has {plan.units} units, but it has {group.units}")
            problem = unit_problem(name, plan.units, plan.rows)
            if problem is not None:
                raise PlanError(problem)
            if plan.count == plan.units:
                continue
            if group.frozen is not None:
                raise PlanError(f"the plan cuts {name}, which can't be cut: {group.frozen}")
            if plan.count < group.least:
                raise PlanError(
                    f"the plan keeps {plan.count} units of {name}, but {group.least} are chosen at once: "
                    "keep at least as many"
                )
            if plan.has_slots and (group.slot is None or len(plan.rows) != group.slot.size):
                slots = 0 if group.slot is None else group.slot.size
                raise PlanError(f"the plan gives {name} {len(plan.rows)} slots, but it has {slots}")
            keep[group.atom.id] = Kept(plan.mask(), group.slot if plan.has_slots else None)
        return keep

    def masks(self, traced: TracedModel) -> dict[str, list[Tensor | None]]:
        """For every parameter, by its name in ``named_parameters()``, the keep-mask of each dim; None where all stays.

        Tied parameters are there once. Buffers are not: they are cut, and masking leaves them as they are.
        """
        keep = self.keep(traced)
        known = traced.inference.parameter_dims
        return {
            info.name: [
                keep_mask(axis, keep) for axis in (traced.inference.axes(info.name) if info.name in known else ())
            ]
            or [None] * len(info.shape)
            for info in traced.table.values()
            if not info.is_buffer
        }

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name what the plan cuts of which model; not how it came to be."""
        text = PruningPlan(self.model, dict(sorted(self.groups.items()))).to_json()
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _repr_html_(self) -> str:
        """For a notebook: what is kept of the groups, a row for those that are alike but for their layer."""
        about = ", ".join(
            f"{name} {value}" for name, value in self.about.items() if isinstance(value, str | int | float)
        )
        title = f"PruningPlan of {self.digest} for the model {self.model}"
        return to_html(plan_table(self.groups), f"{title}: {about}" if about else title)

    def to_json(self) -> str:
        """The plan as JSON text."""
        groups = {
            name: {
                "units": plan.units,
                "kept": [_ranges(row) for row in plan.rows] if plan.has_slots else _ranges(plan.rows[0]),
            }
            for name, plan in self.groups.items()
        }
        weights = {} if self.weights is None else {"weights": self.weights}
        body = {"format": FORMAT, "model": self.model, **weights, "about": dict(self.about), "groups": groups}
        return json.dumps(body, indent=2) + "\n"

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the plan to a file, wholly or not at all.

        Raises:
            OutputExistsError: the file exists and ``overwrite`` is false.
        """
        write_text_atomically(path, self.to_json(), overwrite=overwrite)

    @staticmethod
    def from_json(text: str, name: str = "the text") -> PruningPlan:
        """Read a plan from JSON text; ``name`` is what errors call it.

        Raises:
            FileFormatError: the text is not a plan.
        """
        with reading(name, "a pruning plan"):
            body = json.loads(text)
            if body["format"] != FORMAT:
                raise ValueError(f"its format is {body['format']!r}, not {FORMAT!r}")
            groups = {str(key): _group_plan(str(key), value) for key, value in body["groups"].items()}
            weights = None if body.get("weights") is None else str(body["weights"])
            return PruningPlan(str(body["model"]), groups, dict(body.get("about", {})), weights)

    @staticmethod
    def load(path: str | Path) -> PruningPlan:
        """Read a plan from a file.

        Raises:
            FileFormatError: there is no such file, or it is not a plan.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(f"the plan {path} can't be read: {error}") from error
        return PruningPlan.from_json(text, str(path))


def _group_plan(name: str, value: Mapping[str, Any]) -> GroupPlan:
    units, kept = int(value["units"]), value["kept"]
    rows = [_indices(row, units) for row in (kept if isinstance(kept, list) else [kept])]
    problem = unit_problem(name, units, rows)
    if problem is not None:
        raise ValueError(problem)
    return GroupPlan(units, tuple(rows) if isinstance(kept, list) else rows[0])


def unit_problem(name: str, units: int, rows: Sequence[Sequence[int]]) -> str | None:
    """What is wrong with the kept units of a group; None if nothing is."""
    for row in rows:
        if not row or row[0] < 0 or row[-1] >= units or any(a >= b for a, b in pairwise(row)):
            return f"the kept units of {name} must be some of 0-{units - 1}, each once and in order"
    if len({len(row) for row in rows}) != 1:
        return f"every slot of {name} must keep the same number of units"
    return None


def _ranges(indices: Iterable[int]) -> str:
    """``0-3 5 7-9``"""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _indices(text: str, units: int) -> tuple[int, ...]:
    indices: list[int] = []
    for run in text.split():
        first, _, last = run.partition("-")
        # no more than can be right, however large a number the text has
        indices.extend(range(int(first), min(int(last or first), units) + 1))
    return tuple(sorted(indices))

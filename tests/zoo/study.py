"""What pruning does to one model of the zoo, as one row of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import graphprune as gp
from graphprune.budget import parameter_cost
from graphprune.expressible import module_cuts
from graphprune.groups import PruningGroup
from graphprune.kinds import asked_as
from graphprune.plan import GroupPlan, PruningPlan
from graphprune.traced import TracedModel

from .language import Entry

UNINTERESTING = ("it is a dim of an input", "it is a dim of an output")
"""Reasons to freeze that say nothing about an architecture."""


@dataclass(frozen=True)
class Row:
    """One model: what can be cut of it, and what happened when half of every group was.

    ``problem`` says at which step nothing more could be done, and why; the numbers after that step are then zero.
    """

    name: str
    problem: str | None = None
    groups: int = 0
    prunable: int = 0
    share: float = 0.0
    """The parameters that belong to a unit of a prunable group, of all."""

    largest: float = 0.0
    """The share that goes when every group keeps one unit."""

    before: int = 0
    after: int = 0
    planned: int = 0
    """The parameters that the plan should leave."""

    graph_error: float | None = None
    module_error: float | None = None
    module_groups: int = 0
    """The groups that the module form can cut."""

    module_problem: str | None = None
    frozen: tuple[tuple[str, int], ...] = field(default_factory=tuple)
    """Why groups are not cut, and how many each."""

    by_example: bool = False
    """Whether it was captured as it goes for its example inputs."""

    asked: tuple[tuple[str, int], ...] = ()
    """The groups that are cut only when asked for, by the word for their kind."""

    asked_error: float | None = None
    asked_problem: str | None = None


def half(traced: TracedModel, groups: Sequence[PruningGroup], *, slots: bool = True) -> PruningPlan:
    """Half of the units of each of these groups, chosen at random; per slot where there are slots."""
    generator = torch.Generator().manual_seed(1)
    plans: dict[str, GroupPlan] = {}
    for group in groups:
        rows = group.slot.size if slots and group.slot is not None else 1
        count = max(group.least, group.units // 2)
        kept = tuple(
            tuple(sorted(torch.randperm(group.units, generator=generator)[:count].tolist())) for _ in range(rows)
        )
        plans[group.name] = GroupPlan(group.units, kept if slots and group.slot is not None else kept[0])
    return PruningPlan(traced.fingerprint, plans)


def study(name: str, entry: Entry, *, asked: bool = False) -> Row:
    """Trace a model, cut half of all groups in graph form, and half of what the module form can cut in that.

    ``asked``: then also half of what is cut only when asked for, in graph form.
    """
    try:
        model, inputs = entry()
    except Exception as error:
        return Row(name, f"it is not built: {_line(error)}")
    by_example = False
    try:
        traced = gp.trace(model, (), inputs)
    except gp.GraphPruneError as error:
        by_example = "by_example=True" in str(error)
        if not by_example:
            return Row(name, f"it is not traced: {_line(error)}")
        try:
            traced = gp.trace(model, (), inputs, by_example=True)
        except gp.GraphPruneError as other:
            return Row(name, f"it is not traced: {_line(other)}")
    groups = traced.groups.prunable
    cost = parameter_cost(traced)
    whole = cost({})
    reasons = Counter(reason(group) for group in traced.groups if group.status != "prunable" and group.units > 1)
    row: dict[str, Any] = {
        "name": name,
        "by_example": by_example,
        "groups": len(traced.groups),
        "prunable": len(groups),
        "share": 1 - cost({group.atom.id: 0 for group in groups}) / whole,
        "largest": 1 - cost({group.atom.id: 1 for group in groups}) / whole,
        "before": whole,
        "frozen": tuple(reasons.most_common()),
        **(_asked(traced) if asked else {}),
    }
    if not groups:
        some = any(group.status == "statistics" for group in traced.groups)
        return Row(**row, problem=f"nothing of it {'is cut unless asked for' if some else 'can be cut'}")
    plan = half(traced, groups)
    try:
        compact = gp.rewrite(traced, plan)
    except gp.GraphPruneError as error:
        return Row(**row, problem=f"it is not cut: {_line(error)}")
    row["after"] = sum(parameter.numel() for parameter in compact.graph.parameters())
    row["planned"] = cost(plan.counts(traced))
    row["graph_error"] = None if compact.report is None else compact.report.graph_error
    if compact.module_form is not None:
        row["module_groups"] = len(groups)
        row["module_error"] = None if compact.report is None else compact.report.module_error
        return Row(**row)
    cuts = module_cuts(traced, traced.groups.prunable)
    expressed, _ = cuts.choose([group for group in groups if group.units // 2 in cuts.counts.get(group.family, ())])
    row["module_groups"] = len(expressed)
    if not expressed:
        return Row(**row, module_problem=compact.module_error)
    try:
        compact = gp.rewrite(traced, half(traced, expressed))
    except gp.GraphPruneError as error:
        return Row(**row, module_problem=_line(error))
    row["module_error"] = None if compact.report is None else compact.report.module_error
    return Row(**row, module_problem=compact.module_error)


def _asked(traced: TracedModel) -> dict[str, Any]:
    """What becomes of half of the units that are cut only when asked for, in the terms of a row."""
    groups = [g for g in traced.groups if g.status == "statistics" and g.least < g.units]
    if not groups:
        return {}
    row: dict[str, Any] = {"asked": tuple(Counter(asked_as(group) for group in groups).most_common())}
    try:
        compact = gp.rewrite(traced, half(traced, groups), module_form=False)
    except gp.GraphPruneError as error:
        return row | {"asked_problem": _line(error)}
    return row | {"asked_error": None if compact.report is None else compact.report.graph_error}


def reason(group: PruningGroup) -> str:
    """Why a group is not cut, without the place where that shows."""
    return group.reason.split(" at ")[0]


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

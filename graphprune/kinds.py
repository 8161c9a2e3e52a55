"""Which groups are cut: by default, or of the kinds that are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import BudgetError, PlanError
from .groups import PruningGroup
from .traced import TracedModel


def asked_as(group: PruningGroup) -> str:
    """The word for a group in ``kinds``: its kind, or ``"statistics"`` where that is why it is not cut by default.

    Experts have a word of their own, though a statistic is taken over them too.
    """
    return "statistics" if group.status == "statistics" and group.kind != "experts" else group.kind


def choose_groups(traced: TracedModel, kinds: Sequence[str] | None) -> list[PruningGroup]:
    """The groups of some kinds that may be cut; None stands for those that are cut by default.

    Raises:
        BudgetError: there are none; says why.
        PlanError: there is no group of a kind.
    """
    if kinds is None:
        groups = list(traced.groups.prunable)
    else:
        known = {asked_as(group) for group in traced.groups}
        for kind in kinds:
            if kind not in known:
                raise PlanError(f"no group of this model is of kind {kind!r}; there are {', '.join(sorted(known))}")
        groups = [group for group in traced.groups.cuttable if asked_as(group) in kinds]
    if not groups:
        raise BudgetError(f"nothing of this model can be cut: {what_holds(traced)}")
    return groups


def what_holds(traced: TracedModel) -> str:
    """What holds a model that can't be cut: the largest frozen groups and their reasons."""
    held = sorted((g for g in traced.groups if g.status != "prunable"), key=lambda g: -g.params_per_unit * g.units)
    return "; ".join(f"{group.name} ({group.reason})" for group in held[:3]) or "no parameter of it is in the graph"

"""Trace a random model, prune it at random, and compare every value."""

from __future__ import annotations

import re
from collections import Counter

import torch

import graphprune as gp
from graphprune.errors import VerificationError
from graphprune.plan import GroupPlan, PruningPlan
from graphprune.traced import TracedModel
from tests.lockstep import check_lockstep, random_plan
from tests.properties.programs import Program, model

NO_EFFECT = "zeroing the pruned units does not change"


def problem(steps: Program, seed: int, seen: Counter[str] | None = None) -> str | None:
    """What is wrong with a pruned random model: a crash, or a value that differs. None where nothing is."""
    try:
        module = model(steps, seed)
        traced = gp.trace(module, module.first)
        plan = random_plan(traced, seed, slots=seed % 3 != 0)
        cut = check_lockstep(traced, plan, tolerance=1e-8)
        _rewrite(traced, plan)
        asked = statistics_plan(traced, seed)
        if asked.groups:
            _rewrite(traced, asked)
        if seen is not None:
            seen["statistics"] += len(asked.groups)
            seen["models"] += 1
            seen["groups cut"] += len(plan.groups)
            seen["slots"] += any(group.has_slots for group in plan.groups.values())
            seen["values cut"] += cut
            seen["models with a cut"] += bool(plan.groups)
    except Exception as error:  # every kind of crash is a finding
        return f"{type(error).__name__}: {error}"
    return None


def _rewrite(traced: TracedModel, plan: PruningPlan) -> None:
    try:
        gp.rewrite(traced, plan, module_form=False)
    except VerificationError as error:
        if NO_EFFECT not in str(error):  # a model may end in something that is the same whatever is cut
            raise


def statistics_plan(traced: TracedModel, seed: int) -> PruningPlan:
    """Some units of every group that is cut only when asked for, since a normalisation takes a statistic over it."""
    generator = torch.Generator().manual_seed(seed)
    plans: dict[str, GroupPlan] = {}
    for group in traced.groups.cuttable:
        if group.status == "statistics":
            kept = 1 + int(torch.randint(group.units - 1, (1,), generator=generator))
            chosen = torch.randperm(group.units, generator=generator)[:kept]
            plans[group.name] = GroupPlan(group.units, tuple(sorted(chosen.tolist())))
    return PruningPlan(traced.fingerprint, plans)


def kind(message: str | None) -> str | None:
    """A message without what differs between two sizes of the same model."""
    return None if message is None else re.sub(r"%?[0-9_.e+-]+|\[.*", "", message.splitlines()[0])[:60]

"""Trace a random model, prune it at random, and compare every value."""

from __future__ import annotations

import re
from collections import Counter

import graphprune as gp
from tests.lockstep import check_lockstep, random_plan, statistics_plan, verified
from tests.properties.programs import Program, model


def problem(steps: Program, seed: int, seen: Counter[str] | None = None) -> str | None:
    """What is wrong with a pruned random model: a crash, or a value that differs. None where nothing is."""
    try:
        module = model(steps, seed)
        traced = gp.trace(module, module.first)
        plan = random_plan(traced, seed, slots=seed % 3 != 0)
        cut = check_lockstep(traced, plan, tolerance=1e-8)
        verified(traced, plan)
        asked = statistics_plan(traced, seed)
        if asked.groups:
            verified(traced, asked)
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


def kind(message: str | None) -> str | None:
    """A message without what differs between two sizes of the same model."""
    return None if message is None else re.sub(r"%?[0-9_.e+-]+|\[.*", "", message.splitlines()[0])[:60]

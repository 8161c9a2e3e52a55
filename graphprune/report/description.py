"""A traced model in the form for machines: plain dictionaries with stable keys, for JSON."""

from __future__ import annotations

from typing import Any

from ..budget import parameter_cost
from ..groups import PruningGroup
from ..traced import TracedModel

FORMAT = "graphprune-groups/1"


def describe(traced: TracedModel) -> dict[str, Any]:
    """What ``graphprune inspect --json`` prints.

    ::

        {"format": "graphprune-groups/1",
         "model": {"class": …, "fingerprint": …, "parameters": …, "removable": …},
         "groups": [{"name": …, "family": …, "kind": …, "status": …, "reason": …, "units": …, "slots": …,
                     "params_per_unit": …, "members": [{"parameter": …, "dim": …, "axis": …}]}]}
    """
    return {
        "format": FORMAT,
        "model": {
            "class": type(traced.module).__name__,
            "fingerprint": traced.fingerprint,
            "parameters": traced.parameter_count,
            "removable": removable(traced),
        },
        "groups": [_describe_group(group) for group in traced.groups],
    }


def removable(traced: TracedModel) -> int:
    """How many parameters go when every group that is cut by default keeps one unit."""
    cost = parameter_cost(traced)
    return cost({}) - cost({group.atom.id: 1 for group in traced.groups.prunable})


def _describe_group(group: PruningGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "family": group.family,
        "kind": group.kind,
        "status": group.status,
        "reason": group.reason or None,
        "units": group.units,
        "slots": None if group.slot is None else group.slot.size,
        "params_per_unit": group.params_per_unit,
        "members": [{"parameter": each.parameter, "dim": each.dim, "axis": each.text} for each in group.members],
    }

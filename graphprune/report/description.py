"""A traced model in the form for machines: plain dictionaries with stable keys, for JSON."""

from __future__ import annotations

from typing import Any

from ..budget import mac_cost, parameter_cost
from ..groups import PruningGroup
from ..rules import Dims
from ..traced import TracedModel

FORMAT = "graphprune-groups/2"
"""The form of :func:`describe`, whose schema is ``docs/groups.schema.json``."""


def describe(traced: TracedModel) -> dict[str, Any]:
    """What ``graphprune inspect --json`` prints.

    ::

        {"format": "graphprune-groups/2",
         "model": {"class": …, "fingerprint": …, "parameters": …, "removable": …,
                   "inputs": {name: [size, …], …}},
         "groups": [{"name": …, "family": …, "kind": …, "status": …, "reason": …, "units": …, "slots": …,
                     "params_per_unit": …, "macs_per_unit": …, "members": [{"parameter": …, "dim": …, "axis": …}]}]}
    """
    macs = macs_per_unit(traced)
    return {
        "format": FORMAT,
        "model": {
            "class": type(traced.module).__name__,
            "fingerprint": traced.fingerprint,
            "parameters": traced.parameter_count,
            "removable": removable(traced),
            "inputs": input_shapes(traced),
        },
        "groups": [_describe_group(group, macs[group.atom.id]) for group in traced.groups],
    }


def removable(traced: TracedModel) -> int:
    """How many parameters go when every group that is cut by default keeps one unit."""
    cost = parameter_cost(traced)
    return cost({}) - cost({group.atom.id: 1 for group in traced.groups.prunable})


def input_shapes(traced: TracedModel) -> dict[str, list[int]]:
    """The shapes of the tensors that the model was traced with, by the names that its graph has for them."""
    dims = {node: traced.inference.dims.get(node) for node in traced.graph.graph.find_nodes(op="placeholder")}
    return {
        str(node.target): [axis.size for axis in found.axes] for node, found in dims.items() if isinstance(found, Dims)
    }


def macs_per_unit(traced: TracedModel) -> dict[int, int]:
    """For the atom of each group the multiply-accumulates, for the traced inputs, that leave with its first unit."""
    cost = mac_cost(traced.inference)
    terms = cost.by_atom()
    return {
        group.atom.id: sum(
            cost.term(term, {}) - cost.term(term, {group.atom.id: group.units - 1})
            for term in terms.get(group.atom.id, ())
        )
        for group in traced.groups
    }


def _describe_group(group: PruningGroup, macs: int) -> dict[str, Any]:
    return {
        "name": group.name,
        "family": group.family,
        "kind": group.kind,
        "status": group.status,
        "reason": group.reason or None,
        "units": group.units,
        "slots": None if group.slot is None else group.slot.size,
        "params_per_unit": group.params_per_unit,
        "macs_per_unit": macs,
        "members": [{"parameter": each.parameter, "dim": each.dim, "axis": each.text} for each in group.members],
    }

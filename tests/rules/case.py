"""One row of the table of rules: a small module, which of its parameter dims can be cut, and why others can't."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.axes import atoms
from graphprune.groups import PruningGroup
from graphprune.rules.registry import operator_name
from graphprune.traced import TracedModel

aten = torch.ops.aten


@dataclass(frozen=True)
class Case:
    """``fn(p, *inputs)`` with parameters of ``p`` of given shapes.

    Shapes are text: ``"3 a*b"`` has two dims, and each letter is a small random size, an attribute of ``p``. ``cut``,
    ``statistics`` and ``frozen`` name dims as ``up:1``: some unit of the first can be cut, some of the second if asked
    for, none of the third, for a reason with that text.
    """

    ops: str
    fn: Callable[..., Any]
    shapes: Mapping[str, str]
    cut: str
    statistics: str
    frozen: Mapping[str, str]
    inputs: Sequence[str | Tensor]
    buffers: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        """The operators that the case is there for, as rules are registered."""
        return {op if "::" in op else f"aten::{op}" for op in self.ops.split()}


def case(
    ops: str,
    fn: Callable[..., Any],
    cut: str = "",
    statistics: str = "",
    frozen: Mapping[str, str] | None = None,
    inputs: Sequence[str | Tensor] = ("2 3",),
    buffers: Mapping[str, str] | None = None,
    **shapes: str,
) -> Case:
    """A case; ``shapes`` are the parameters."""
    return Case(ops, fn, shapes, cut, statistics, frozen or {}, inputs, buffers or {})


class Small(nn.Module):
    """The module of a case."""

    def __init__(self, chosen: Case, seed: int):
        super().__init__()
        self.chosen = chosen
        sizes = dict(zip("abcdefg", random.Random(seed).sample(range(2, 9), 7), strict=True))
        for letter, size in sizes.items():
            setattr(self, letter, size)
        generator = torch.Generator().manual_seed(seed)

        def values(shape: str) -> Tensor:
            dims = [eval(each, {}, sizes) for each in shape.split()]
            return 0.5 * torch.randn(dims, generator=generator, dtype=torch.float64)

        for name, shape in chosen.shapes.items():
            self.register_parameter(name, nn.Parameter(values(shape)))
        for name, shape in chosen.buffers.items():
            self.register_buffer(name, values(shape).abs() + 0.5)
        self.inputs = tuple(values(each) if isinstance(each, str) else each for each in chosen.inputs)

    def forward(self, *inputs: Tensor) -> Any:
        return self.chosen.fn(self, *inputs)


def traced_case(chosen: Case, seed: int) -> TracedModel:
    """A case with random sizes, traced."""
    module = Small(chosen, seed)
    return gp.trace(module, module.inputs)


def called(traced: TracedModel) -> set[str]:
    """The names of the operators in a graph."""
    return {operator_name(node.target) for node in traced.graph.graph.nodes if node.op == "call_function"}


def groups_at(traced: TracedModel, place: str) -> list[PruningGroup]:
    """The groups of a parameter's dim."""
    name, dim = place.split(":")
    own = set(atoms(traced.inference.axes(name)[int(dim)]))
    return [group for group in traced.groups if group.atom in own]


def statuses(traced: TracedModel, place: str) -> set[str]:
    """What becomes of the units of a parameter's dim."""
    return {group.status for group in groups_at(traced, place)}


def reasons(traced: TracedModel, place: str) -> str:
    """Why the units of a parameter's dim are not cut."""
    return "; ".join(group.reason for group in groups_at(traced, place))

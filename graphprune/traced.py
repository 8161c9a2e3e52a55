"""The traced model as a user meets it: graph, groups, dependency graph and explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx
from torch import fx, nn

from .groups import Groups
from .program import Inference, ParameterInfo, Program


@dataclass(frozen=True, eq=False)
class TracedModel:
    """What ``gp.trace`` returns: a module with its graph, the axes of every tensor and the pruning groups."""

    program: Program
    inference: Inference = field(repr=False)
    dependency_graph: nx.MultiGraph = field(repr=False)
    """Atoms and their couplings (see :func:`graphprune.passes.build_groups.dependency_graph`)."""
    groups: Groups = field(repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each pass took."""

    @property
    def module(self) -> nn.Module:
        """The module that was traced; its parameters are those of the graph."""
        return self.program.module

    @property
    def graph(self) -> fx.GraphModule:
        """The graph of ATen operators, runnable with the arguments that the module was traced with."""
        return self.program.graph

    @property
    def args(self) -> tuple[Any, ...]:
        return self.program.args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        return self.program.kwargs

    @property
    def table(self) -> Mapping[str, ParameterInfo]:
        """The parameters and buffers of the module by name."""
        return self.program.table

    @property
    def fingerprint(self) -> str:
        """What a plan for this model is stamped with: a hash of parameter names and shapes."""
        return self.program.fingerprint

    @cached_property
    def parameter_count(self) -> int:
        """The number of parameters, tied ones counted once."""
        return self.program.parameter_count

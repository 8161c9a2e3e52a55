"""The traced model as a user meets it: graph, groups, dependency graph and explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx
from torch import fx, nn

from .explain import Explanation, explain
from .groups import Groups, PruningGroup
from .program import Inference, ParameterInfo, Program, written
from .tables import groups_table, to_html


@dataclass(frozen=True)
class Stored:
    """A module as it is stored, and the inputs for it."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


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
    stored: Stored | None = field(default=None, repr=False)
    """The module itself where its weights are in few bits: the program then is of a copy with plain weights, without
    values."""
    by_example: bool = False
    """Whether branches on the values of tensors were captured as they go for the example inputs."""
    weights: str | None = None
    """The digest of the weights when the model was traced, which they may lose since (see :mod:`.revision`)."""

    @property
    def module(self) -> nn.Module:
        """The module that was traced; its parameters are those of the graph, unless they are stored in few bits."""
        return self.program.module if self.stored is None else self.stored.module

    @cached_property
    def graph(self) -> fx.GraphModule:
        """The graph of ATen operators, runnable with the arguments that the module was traced with."""
        return written(self.program.graph)

    @property
    def args(self) -> tuple[Any, ...]:
        return self.program.args if self.stored is None else self.stored.args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        return self.program.kwargs if self.stored is None else self.stored.kwargs

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

    def _repr_html_(self) -> str:
        """For a notebook: what was traced, and its groups."""
        title = f"{type(self.module).__name__}: {self.parameter_count:,} parameters, fingerprint {self.fingerprint}"
        return to_html(groups_table(self.groups), title)

    def explain(self, what: PruningGroup | str, other: PruningGroup | str | None = None) -> Explanation:
        """Why a group is cut or not, what the dims of a parameter are, or why two of them are cut together.

        ``what`` and ``other`` are a group, or the name of a group, of a parameter (``"layer.weight"``) or of one dim
        of it (``"layer.weight[0]"``). Of a group this gives the members, the calls that couple them and, where it is
        frozen, those from its first member to the one that freezes it; of two, the shortest path of calls between them.
        Print the result.

        Raises:
            UnknownNameError: the model has no group and no parameter of that name.
        """
        return explain(self, what, other)

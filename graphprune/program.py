"""The traced model: a graph, its parameter table, the axes of every tensor and the groups that follow from them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule

from .axes import Axis, Solver
from .rules import Dims, Result


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter, buffer or constant of the traced model.

    ``name`` is the first name that the module has for it; ``aliases`` are the other ones (tied weights).
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    is_buffer: bool

    @property
    def numel(self) -> int:
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Inference:
    """The result of axis inference: the dims of every node and of every parameter in the graph."""

    solver: Solver[fx.Node]
    dims: Mapping[fx.Node, Result]
    remembered: Mapping[fx.Node, tuple[Axis, ...]]
    parameter_dims: Mapping[str, Dims]
    canonical: Mapping[str, str]
    """From a get_attr target of the graph to the name of the parameter in the table."""
    unmasked: frozenset[tuple[str, int]] = frozenset()
    """Dims of parameters whose pruned units are not zero in a masked model, since it divides by their length."""

    least: Mapping[int, int] = field(default_factory=dict)
    """The atoms of axes that calls choose positions of, and how many units of each must stay for that."""

    def axes(self, parameter: str) -> tuple[Axis, ...]:
        """The axes of a parameter's dims."""
        return tuple(self.solver.resolve(axis) for axis in self.parameter_dims[parameter].axes)


def parameter_table(module: nn.Module) -> dict[str, ParameterInfo]:
    """Every parameter and buffer of a module by its first name."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, tuple[torch.Tensor, bool]] = {}
    named: list[tuple[str, torch.Tensor, bool]] = []
    named += [(name, each, False) for name, each in module.named_parameters(remove_duplicate=False)]
    named += [(name, each, True) for name, each in module.named_buffers(remove_duplicate=False)]
    for name, tensor, is_buffer in named:
        names.setdefault(id(tensor), []).append(name)
        tensors.setdefault(id(tensor), (tensor, is_buffer))
    return {
        names[key][0]: ParameterInfo(names[key][0], tuple(names[key][1:]), tuple(tensor.shape), is_buffer)
        for key, (tensor, is_buffer) in tensors.items()
    }


def shapes_by_name(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter and buffer of a module, by each of its names."""
    return {name: info.shape for info in parameter_table(module).values() for name in (info.name, *info.aliases)}


def fingerprint(table: Mapping[str, ParameterInfo]) -> str:
    """What a plan is made for: the names and shapes of the parameters, as 16 hexadecimal digits."""
    rows = sorted((info.name, list(info.shape)) for info in table.values() if not info.is_buffer)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Program:
    """A module, the graph of it and its parameter table.

    ``graph`` shares its parameters with ``module``; ``args`` and ``kwargs`` are the inputs that it was traced with.
    """

    module: nn.Module
    graph: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    table: Mapping[str, ParameterInfo] = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.table)

    def tensor(self, name: str) -> torch.Tensor:
        """A parameter, buffer or graph constant by its name in the table."""
        try:
            return fetch(self.module, name)
        except AttributeError:
            return fetch(self.graph, name)

    @property
    def parameter_count(self) -> int:
        """The number of parameters, tied ones counted once."""
        return sum(info.numel for info in self.table.values() if not info.is_buffer)


def unwritten(root: nn.Module | dict[str, Any], graph: fx.Graph) -> fx.GraphModule:
    """A graph module whose code is written when it is asked for: passes interpret graphs, and change them often."""
    return _LazyGraphModule(root, graph)


def written(graph: fx.GraphModule) -> fx.GraphModule:
    """A graph module itself, with its code, as whoever calls, compiles or exports it expects it."""
    for each in graph.modules():
        if isinstance(each, _LazyGraphModule):
            each.real_recompile()
    return graph


def copied_call(node: fx.Node, graph: fx.Graph, value: Callable[[fx.Node], Any]) -> fx.Node:
    """A copy of a node in a graph, with ``value`` of each node that it takes, in half the time of ``graph.node_copy``.

    That looks for symbolic sizes among the arguments of each call, to warn of them.
    """
    copied = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
    copied._update_args_kwargs(fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value))
    copied.meta.update(node.meta)
    return copied


def attribute_at(module: nn.Module, path: str) -> Any:
    """What stands at a dotted path below a module, found without asking each module for each name that it may have.

    Raises:
        AttributeError: there is nothing.
    """
    *owners, name = path.split(".")
    for each in owners:
        child = module._modules.get(each)
        module = getattr(module, each) if child is None else child
    found = module._parameters.get(name)
    return getattr(module, name) if found is None else found


def fetch(module: nn.Module, name: str) -> torch.Tensor:
    """The tensor at a dotted path below a module."""
    tensor = attribute_at(module, name)
    if not isinstance(tensor, torch.Tensor):
        raise AttributeError(f"{name} is not a tensor")
    return tensor


def has(module: nn.Module, name: str) -> bool:
    """Whether there is a tensor at a dotted path below a module."""
    try:
        fetch(module, name)
    except AttributeError:
        return False
    return True


def location(node: fx.Node) -> str:
    """Where a call stands: ``model.layers.0.mlp (modeling_llama.py:120)``."""
    path, source = module_path(node), source_line(node)
    return f"{path or node.name} ({source})" if source else path or node.name


def module_path(node: fx.Node) -> str:
    """The module that makes a call: ``model.layers.0.mlp``; empty where the graph does not tell."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    return modules[-1][0] if modules else ""


def source_line(node: fx.Node) -> str:
    """The line of code that makes a call: ``modeling_llama.py:120``; empty where the graph does not tell."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    return f"{frames[-1][0].rsplit('/', 1)[-1]}:{frames[-1][1]}" if frames else ""

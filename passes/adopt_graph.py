"""Take a graph of ATen operators that was captured elsewhere: an ``ExportedProgram``, or the ``fx.GraphModule`` of one.

1. The guards that torch puts before a graph, which check its inputs, are dropped.
2. What is left is tidied as a graph that is captured here (see ``trace.py``).

::

    torch.export.export(model, args), make_fx(model)(*args)   ->   get_attr layers.0.weight; placeholder x; …
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from ..errors import CaptureError
from ..program import copied_call
from .functional_writes import is_mutating
from .trace import functional_graph_of, tidy

OPERATORS = (torch._ops.OpOverload, torch._ops.HigherOrderOperator)


def module_of(exported: ExportedProgram) -> fx.GraphModule:
    """The graph of an exported program, made functional, with the parameters of the program."""
    return plain(functional_graph_of(exported))


def plain(module: nn.Module) -> fx.GraphModule:
    """A graph module over the same tensors, without guards, that may be put into eval mode as any module."""
    if not isinstance(module, fx.GraphModule):
        raise CaptureError(f"a {type(module).__name__} holds no graph: trace the module that was exported")
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op != "call_module" or node.users:
            copies[node] = copied_call(node, graph, copies.__getitem__)
    graph.set_codegen(module.graph._codegen)
    return fx.GraphModule(module, graph)


def is_captured(module: nn.Module) -> bool:
    """Whether a module is a graph of ATen operators with the shapes of their results, none of which writes in place."""
    return isinstance(module, fx.GraphModule) and all(map(_is_captured, module.graph.nodes))


def _is_captured(node: fx.Node) -> bool:
    match node.op:
        case "placeholder":
            return "val" in node.meta
        case "call_function":
            known = isinstance(node.target, OPERATORS) and ("val" in node.meta or not node.users)
            return (known or node.target is operator.getitem or _is_arithmetic(node)) and not is_mutating(node)
        case "call_module":
            return not node.users  # the guards of an exported graph
    return node.op in ("get_attr", "output")


def _is_arithmetic(node: fx.Node) -> bool:
    """Whether a call computes with sizes."""
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool, int, float))


def adopt_graph(module: fx.GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> fx.GraphModule:
    """The graph of a captured module, over the same tensors, as :func:`graphprune.passes.trace.trace` would give it.

    Raises:
        CaptureError: the inputs have other shapes than those that the graph was captured with.
    """
    graph = plain(module)
    for node, value in zip(graph.graph.find_nodes(op="placeholder"), tree_leaves((args, dict(kwargs))), strict=False):
        expected, found = getattr(node.meta["val"], "shape", ()), getattr(value, "shape", ())
        if len(expected) != len(found) or any(
            isinstance(a, int) and a != b for a, b in zip(expected, found, strict=True)
        ):
            raise CaptureError(
                f"the graph was captured with {node.target} of shape {_text(expected)}, not {_text(found)}: give it "
                "inputs of that shape, or capture it again with these"
            )
    tidy(graph)
    graph.recompile()
    return graph


def _text(shape: Any) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"

"""Give every dim of every tensor in a graph its axis, by one walk over the nodes.

1. Parameters, buffers and constants get a new axis for each dim; a tied parameter has the same axes under each name.
2. Inputs and outputs of the graph are frozen.
3. Each call is handed to the axis rule of its operator; without a rule everything that touches it is frozen.

::

    q_proj.weight: a b        linear(x, q_proj.weight)       … a
                              view(…, [2, 7, 6, 8])          … (h d) with a = (h d)
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx

from ..axes import Solver
from ..program import Inference, ParameterInfo, Program, fetch
from ..rules import Call, Dims, Result, axis_rules
from ..rules.registry import bound_arguments, operator_name, shape_of


def infer_axes(program: Program) -> Inference:
    """The axes of a traced graph. Work is linear in its nodes."""
    solver: Solver[fx.Node] = Solver()
    known: dict[fx.Node, Result] = {}
    remembered: dict[fx.Node, tuple[object, ...]] = {}
    parameter_dims: dict[str, Dims] = {}
    names = {alias: info.name for info in program.table.values() for alias in (info.name, *info.aliases)}
    canonical: dict[str, str] = {}
    for node in program.graph.graph.nodes:
        match node.op:
            case "get_attr":
                canonical[node.target] = name = names.get(node.target, node.target)
                tensor = _attribute(program.graph, node.target)
                if tensor is None:
                    continue  # a sub-graph of a higher-order operator
                if name not in parameter_dims:
                    zero = name in program.table and not program.table[name].is_buffer
                    parameter_dims[name] = Dims(
                        tuple(solver.fresh(size) for size in tensor.shape), (zero,) * tensor.ndim
                    )
                known[node] = parameter_dims[name]
            case "placeholder":
                shape = shape_of(node.meta.get("val")) or ()
                dims = Dims(tuple(solver.fresh(size) for size in shape), (False,) * len(shape))
                for axis in dims.axes:
                    solver.freeze(axis, "it is a dim of an input", node)
                known[node] = dims
            case "output":
                used: list[fx.Node] = []
                fx.map_arg(node.args, used.append)
                for each in used:
                    result = known.get(each)
                    for dims in result if isinstance(result, tuple) else (result,):
                        for axis in dims.axes if dims else ():
                            solver.freeze(axis, "it is a dim of an output", each)
            case _:
                known[node] = _infer_call(node, solver, known, remembered)
    return Inference(solver, known, remembered, parameter_dims, canonical)  # type: ignore[arg-type]


def _infer_call(
    node: fx.Node,
    solver: Solver[fx.Node],
    known: Mapping[fx.Node, Result],
    remembered: dict[fx.Node, tuple[object, ...]],
) -> Result:
    if node.target is operator.getitem:
        source = known.get(node.args[0])  # type: ignore[arg-type]
        if isinstance(source, tuple):
            return source[node.args[1]]  # type: ignore[index]
    call = Call(node, solver, known, remembered, bound_arguments(node))  # type: ignore[arg-type]
    rule = axis_rules.get(operator_name(node.target))
    if rule is None:
        if not call.tensors():
            return call.fixed_outputs(f"there is no axis rule for {node.target}") if "val" in node.meta else None
        return call.opaque(f"there is no axis rule for {node.target}; add one with @axis_rule")
    result = rule(call)
    _check_sizes(node, result)
    return result


def _check_sizes(node: fx.Node, result: Result) -> None:
    """A rule whose axes do not have the sizes of the tensor is a defect: stop before it does harm."""
    value = node.meta.get("val")
    pairs = zip(result, value, strict=True) if isinstance(result, tuple) else [(result, value)]
    for dims, tensor in pairs:
        shape = shape_of(tensor)
        if dims is not None and shape is not None and tuple(axis.size for axis in dims.axes) != shape:
            raise AssertionError(f"the axis rule of {node.target} gave {[str(axis) for axis in dims.axes]} for {shape}")


def _attribute(graph: fx.GraphModule, target: str) -> torch.Tensor | None:
    try:
        return fetch(graph, target)
    except AttributeError:
        return None


def info_of(program: Program, name: str) -> ParameterInfo:
    """The table's row for a parameter, or one made up for a constant of the graph."""
    if name in program.table:
        return program.table[name]
    return ParameterInfo(name, (), tuple(fetch(program.graph, name).shape), is_buffer=True)

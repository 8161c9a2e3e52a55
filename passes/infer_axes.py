"""Give every dim of every tensor in a graph its axis, by one walk over the nodes.

1. Parameters, buffers and constants get a new axis for each dim; a tied parameter has the same axes under each name.
2. Inputs and outputs of the graph are frozen.
3. Graphs inside the graph (the branches of a condition, the body of a loop) are walked with the dims that enter them.
4. Each call is handed to the axis rule of its operator; without a rule everything that touches it is frozen.
5. Parameters that nothing uses, and those that are views of the same memory, are frozen.
6. Where a call divides by the length of what is masked (weight norm, DoRA), the walk is done once more with those
   parameters as they are: what they are multiplied with is zero, and that is enough.

::

    q_proj.weight: a b        linear(x, q_proj.weight)       … a
                              view(…, [2, 7, 6, 8])          … (h d) with a = (h d)
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ..axes import Atom, Axis, Solver, Sum, atoms
from ..errors import CaptureError
from ..program import Inference, ParameterInfo, Program, fetch
from ..rules import Call, Dims, Result, axis_rules, control_rules
from ..rules.pointwise import never_zero
from ..rules.positions import computed_with, handed_on, takes_positions
from ..rules.registry import DATA_SIZED, bound_arguments, operator_name, shape_of

INPUT, OUTPUT = "it is a dim of an input", "it is a dim of an output"

ParameterDim = tuple[str, int]
"""A dim of a parameter: the parameter's name in the table, and the dim's position."""


def infer_axes(program: Program, unseen: Iterable[tuple[ParameterDim, ParameterDim]] = ()) -> Inference:
    """The axes of a traced graph. Work is linear in its nodes.

    ``unseen`` are dims that are the same axis though the graph does not show it: the first of each pair is of a
    parameter that the graph does not use, such as a factor of an adapter that is not active.
    """
    walk = _walked(program, frozenset())
    for _ in range(ROUNDS):
        needed = walk.unmasked | _divided_by(walk)
        if needed == walk.unmasked:
            break
        again = _walked(program, needed)
        if _free(again) <= _free(walk):
            break  # what is gained at one place would be lost at another
        walk = again
    coupled: set[ParameterDim] = set()
    for first, second in unseen:
        if first[0] not in walk.used and second[0] in walk.used:
            walk.solver.unify(walk.parameter(first[0]).axes[first[1]], walk.parameter(second[0]).axes[second[1]])
            coupled.add(first)
    for name in walk.parameter_dims.keys() - walk.used:
        for dim, axis in enumerate(walk.parameter_dims[name].axes):
            if (name, dim) not in coupled:
                walk.solver.freeze(axis, "nothing in the graph uses it")
    for axis in _left_out(walk):
        walk.solver.freeze(axis, "the example inputs do not come to these positions")
    for name, other in overlapping({name: program.tensor(name) for name in sorted(walk.used & walk.names.keys())}):
        for axis in (*walk.parameter_dims[name].axes, *walk.parameter_dims[other].axes):
            walk.solver.freeze(axis, f"{name} and {other} are views of the same memory, which the cut would part")
    least = _least(walk)
    return Inference(
        walk.solver, walk.known, walk.remembered, walk.parameter_dims, walk.canonical, walk.unmasked, least
    )


def _left_out(walk: _Walk) -> list[Atom]:
    """The parts of dims of parameters that are sliced off before anything is computed with them: positions of a table
    that is longer than the example."""
    own = {
        atom
        for name in walk.used & walk.parameter_dims.keys()
        for axis in walk.parameter_dims[name].axes
        if isinstance(resolved := walk.solver.resolve(axis), Sum)
        for atom in atoms(resolved)
    }
    for node, result in walk.known.items() if own else ():
        if node.op != "get_attr":
            for dims in (result,) if isinstance(result, Dims) else result or ():
                for axis in dims.axes if isinstance(dims, Dims) else ():
                    own.difference_update(atoms(walk.solver.resolve(axis)))
    return sorted(own, key=lambda atom: atom.id)


ROUNDS = 3
"""How often the graph is walked again with other units masked."""


def _walked(program: Program, unmasked: frozenset[ParameterDim]) -> _Walk:
    walk = _Walk(program, unmasked)
    walk.graph(program.graph, "", None)
    return walk


def _least(walk: _Walk) -> dict[int, int]:
    """How many units must stay of each atom, so that calls find as many positions as they choose.

    Of an axis made of several the largest has them all; if it is too small, nothing of the axis is cut.
    """
    least: dict[int, int] = {}
    for axis, count in walk.chosen:
        found = sorted(set(atoms(walk.solver.resolve(axis))), key=lambda atom: (-atom.size, atom.id))
        if found and found[0].size < count:
            walk.solver.freeze(axis, f"{count} of its positions are chosen together")
        for atom, needed in zip(found, (count, *[1] * len(found)), strict=False):
            least[atom.id] = max(needed, least.get(atom.id, 1))
    return least


def _divided_by(walk: _Walk) -> frozenset[ParameterDim]:
    """The dims of parameters from which come the zeros that some call divides by: one may do without masking them."""
    found: set[ParameterDim] = set()
    for node, axis, only in walk.singular:
        singular = set(atoms(walk.solver.resolve(axis)))
        only = only if node.op == "get_attr" else None
        for name in {walk.names.get(each, each) for each in _sources(node)} & walk.parameter_dims.keys():
            found |= {
                (name, dim)
                for dim, (own, zero) in enumerate(walk.parameter_dims[name])
                if zero and only in (None, dim) and singular & set(atoms(walk.solver.resolve(own)))
            }
    return frozenset(found)


def _sources(node: fx.Node) -> Iterator[str]:
    """The attributes that a node is computed from."""
    seen, waiting = {node}, [node]
    while waiting:
        each = waiting.pop()
        if each.op == "get_attr":
            yield str(each.target)
        waiting.extend(other for other in each.all_input_nodes if other not in seen)
        seen.update(each.all_input_nodes)


def _free(walk: _Walk) -> int:
    """How many positions of parameters' dims are not frozen."""
    return sum(
        axis.size
        for dims in walk.parameter_dims.values()
        for axis in dims.axes
        if not any(atom.id in walk.solver.frozen for atom in atoms(walk.solver.resolve(axis)))
    )


def overlapping(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Tensors that share memory with the one that begins before them, and that one. On the meta device none do."""
    spans = []
    for name, tensor in tensors.items():
        if not tensor.is_meta and tensor.numel() and tensor.layout == torch.strided:
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            spans.append((tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size(), name))
    end, reaching = 0, ""
    for first, after, name in sorted(spans):
        if first < end:
            yield reaching, name
        if after > end:
            end, reaching = after, name


@dataclass
class _Walk:
    """The state of one inference: what is known of each node, in the graph and in the graphs inside it."""

    program: Program
    unmasked: frozenset[ParameterDim]
    solver: Solver[fx.Node] = field(default_factory=Solver)
    known: dict[fx.Node, Result] = field(default_factory=dict)
    remembered: dict[fx.Node, tuple[Axis, ...]] = field(default_factory=dict)
    parameter_dims: dict[str, Dims] = field(default_factory=dict)
    canonical: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    singular: list[tuple[fx.Node, Axis, int | None]] = field(default_factory=list)
    chosen: list[tuple[Axis, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        table = self.program.table.values()
        self.names = {alias: info.name for info in table for alias in (info.name, *info.aliases)}

    def graph(self, module: fx.GraphModule, path: str, inputs: Sequence[Dims | None] | None) -> list[Dims | None]:
        """Walk over a graph, ``inputs`` given for one inside another; returns the dims of its outputs."""
        given = iter(inputs or ())
        for node in module.graph.nodes:
            match node.op:
                case "get_attr":
                    self.known[node] = self._attribute(module, node.target, path)
                    if node.users:
                        self.used.add(self.names.get(path + node.target, path + node.target))
                case "placeholder":
                    self.known[node] = self._input(node) if inputs is None else next(given)
                case "output":
                    results = self._flat(node.args[0])
                    if inputs is None:
                        self._freeze_outputs(node, results)
                    return results
                case _:
                    self.known[node] = self._call(module, node, path)
        return []

    def _attribute(self, module: fx.GraphModule, target: str, path: str) -> Dims | None:
        full = path + target
        name = self.names.get(full, full)
        try:
            tensor = fetch(module, target)
        except AttributeError:
            return None  # a graph inside this one
        self.canonical[full] = name
        return self.parameter(name, tensor)

    def parameter(self, name: str, tensor: Tensor | None = None) -> Dims:
        """The dims of a parameter, buffer or constant by its name in the table."""
        if name not in self.parameter_dims:
            tensor = self.program.tensor(name) if tensor is None else tensor
            zero = name in self.program.table and not self.program.table[name].is_buffer
            axes = tuple(self.solver.fresh(size) for size in tensor.shape)
            masked = tuple(zero and (name, dim) not in self.unmasked for dim in range(tensor.ndim))
            self.parameter_dims[name] = Dims(axes, masked)
        return self.parameter_dims[name]

    def _input(self, node: fx.Node) -> Dims:
        shape = shape_of(node.meta.get("val")) or ()
        dims = Dims(tuple(self.solver.fresh(size) for size in shape), (False,) * len(shape))
        for axis in dims.axes:
            self.solver.freeze(axis, INPUT, node)
        return dims

    def _flat(self, outputs: Any) -> list[Dims | None]:
        found: list[Dims | None] = []
        for each in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            result = self.known.get(each) if isinstance(each, fx.Node) else None
            found.extend(result if isinstance(result, tuple) else [result])
        return found

    def _freeze_outputs(self, node: fx.Node, results: Sequence[Dims | None]) -> None:
        sources: list[fx.Node] = []
        fx.map_arg(node.args, sources.append)
        for each in sources:
            result = self.known.get(each)
            for dims in result if isinstance(result, tuple) else (result,):
                for axis in dims.axes if dims else ():
                    self.solver.freeze(axis, OUTPUT, each)
                if dims and dims.points_at is not None:
                    self.solver.freeze(dims.points_at, "the numbers of its positions are an output", each)

    def _call(self, module: fx.GraphModule, node: fx.Node, path: str) -> Result:
        if node.target is operator.getitem:
            source = self.known.get(node.args[0])  # type: ignore[arg-type]
            if isinstance(source, tuple):
                return source[node.args[1]]  # type: ignore[index]
        call = Call(node, self.solver, self.known, self.remembered, bound_arguments(node), self.singular, self.chosen)
        name = operator_name(node.target)
        control = control_rules.get(name)
        if control is not None:

            def run(graph: fx.Node, inputs: Sequence[Dims | None]) -> list[Dims | None]:
                inner = module.get_submodule(str(graph.target))
                if not isinstance(inner, fx.GraphModule):
                    raise CaptureError(f"{graph.target} of {name} is not a graph")
                return self.graph(inner, f"{path}{graph.target}.", inputs)

            return control(call, run)
        pointing = takes_positions(call)
        for axis in computed_with(call, name) if pointing else ():
            call.freeze(axis, "the model computes with the numbers of its positions")
        rule = axis_rules.get(name)
        if rule is None and _is_pointwise(node):
            rule = never_zero
        if rule is None:
            if not call.tensors():
                return call.fixed_outputs(f"there is no axis rule for {node.target}") if "val" in node.meta else None
            return call.opaque(f"there is no axis rule for {node.target}; add one with @gp.rule")
        try:
            result = rule(call)
            result = handed_on(call, name, result) if pointing else result
            _check_sizes(node, result)
        except (ValueError, TypeError, LookupError, ArithmeticError, AssertionError):
            # only that two sizes which depend on data are the same can't always be seen from their expressions
            if not call.data_sized:
                raise
            return call.opaque(DATA_SIZED)
        return result


def _is_pointwise(node: fx.Node) -> bool:
    """Whether an operator says of itself that each number of its one result comes of those at the same place."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags and isinstance(node.meta.get("val"), Tensor)


def _check_sizes(node: fx.Node, result: Result) -> None:
    """A rule whose axes do not have the sizes of the tensor is a defect: stop before it does harm."""
    value = node.meta.get("val")
    if value is None:
        return  # a call that only checks something
    pairs = zip(result, value, strict=True) if isinstance(result, tuple) else [(result, value)]
    for dims, tensor in pairs:
        shape = shape_of(tensor)
        if dims is not None and shape is not None and tuple(axis.size for axis in dims.axes) != shape:
            raise AssertionError(f"the axis rule of {node.target} gave {[str(axis) for axis in dims.axes]} for {shape}")


def info_of(program: Program, name: str) -> ParameterInfo:
    """The table's row for a parameter, or one made up for a constant of the graph."""
    if name in program.table:
        return program.table[name]
    return ParameterInfo(name, (), tuple(fetch(program.graph, name).shape), is_buffer=True)

"""Gates: what the loss of each sample says about multiplying all values of a unit by a number near 1.

A gate ``m`` stands before every weight that takes a unit in. Its derivative at 1 is the sum of ``x·∂L/∂x`` over the
values ``x`` of the unit there, and needs the gradients of activations only, which a backward pass makes in any case.

What comes to a weight in the middle of a module, as to the matrices of experts, can't be seen from outside. The gate is
on the weight there, ``W·m``, and its derivative the sum of ``W·∂L/∂W`` over what a unit is multiplied by. The gradient
of one weight at a time is held for that, and a batch is one sample: ``(Σ_s g_s)²`` in place of ``Σ_s g_s²``, which is
as much where the derivatives ``g_s`` of samples are about zero in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from .axes import Axis, atoms
from .distributed import is_sharded
from .errors import ScoreError
from .masks import fold
from .matrices import Matrix, matrices, summed_but, wrapped_weights
from .passes.slice_parameters import DimMasks, mask_of_dim, widen
from .rules import Dims
from .traced import TracedModel


@dataclass(frozen=True)
class Gate:
    """A place where units pass: a dim, counted from the end, of the only input or the only output of a module.

    ``parameter`` is the weight of the module with the units in ``weight_dim``.
    """

    module: str
    at_input: bool
    dim: int
    axis: Axis
    parameter: str
    weight_dim: int
    units: frozenset[int]
    """The atoms whose units are gated here."""
    share: float
    """What the derivative here counts for."""


def find_gates(traced: TracedModel, *, at_factors: bool = False) -> tuple[Gate, ...]:
    """Where to gate the units of the groups that can be cut.

    That is every module whose weight sums over the units; with ``at_factors``, where it takes in a product, the module
    that gives one of the factors: ``m·(a·b) = (m·a)·b``. Where units are summed over in a product of two values (those
    of queries and keys in attention), they are gated at the output of the module that the smaller value comes from, or,
    where one module gives both, at both with half the count: two gates in a product are the square of one.
    """
    groups = traced.groups.by_atom
    weighted = _weighted_calls(traced)
    given = _given(weighted)
    found: dict[Gate, None] = {}
    summed: set[int] = set()
    for node, call in weighted:
        taken = call.taken()
        if taken is not None:
            units = _summed(node, taken, traced) & groups.keys()
            gates = list(_gates_at(taken, call, units, traced))
            if at_factors:
                gates = _at_factor(taken, call, gates, given, traced) or gates
            summed |= {atom for gate in gates for atom in gate.units}
            found |= dict.fromkeys(gates)
    for node in traced.graph.graph.nodes:
        values = {value: _summed(node, value, traced) & groups.keys() - summed for value in _values(node)}
        for atom in dict.fromkeys(atom for units in values.values() for atom in units):
            factors = [value for value, units in values.items() if atom in units]
            if len(factors) > 1:
                found |= dict.fromkeys(_gates_at_factors(factors, atom, given, traced))
    return tuple(found)


@dataclass(frozen=True)
class WeightGate:
    """A weight whose values in ``dim`` take units in, in the middle of a module."""

    parameter: str
    dim: int
    axis: Axis
    units: frozenset[int]
    """The atoms whose units are gated here."""


def find_weight_gates(traced: TracedModel, units: set[int]) -> tuple[WeightGate, ...]:
    """Where to gate the units of some atoms at the weights that take them in.

    Those are weights, also with adapters, that a call sums over the units of together with a value.
    """
    able = {
        name
        for name, matrix in matrices(traced).items()
        if not matrix.is_adapter and matrix.stored is None and not is_sharded(matrix.weight)
    }
    made_of: dict[fx.Node, frozenset[str]] = {}
    found: dict[WeightGate, None] = {}
    for node in traced.graph.graph.nodes:
        if node.op == "get_attr":
            made_of[node] = frozenset({traced.inference.canonical.get(str(node.target), str(node.target))})
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs:
            continue
        values = [each for each in inputs if each not in made_of]
        if not values:
            made_of[node] = frozenset[str]().union(*(made_of[each] for each in inputs))
            continue
        there = {atom for value in values for atom in _atoms_of(_axes(value, traced))}
        for each in inputs:
            taken = _summed(node, each, traced) & units & there if each in made_of else set()
            for name in sorted(made_of[each] & able) if taken else ():
                for dim, axis in enumerate(traced.inference.axes(name)):
                    if here := taken & atom_ids(axis):
                        found[WeightGate(name, dim, axis, frozenset(here))] = None
    return tuple(found)


def atom_ids(axis: Axis) -> set[int]:
    """The ids of the atoms of an axis."""
    return {atom.id for atom in atoms(axis)}


@dataclass(frozen=True)
class _Call:
    """One call of a module with a weight: its nodes, and the name of the weight."""

    module: str
    weight: str
    nodes: frozenset[fx.Node]

    def taken(self) -> fx.Node | None:
        """The only value that the call takes from outside."""
        found = {each for node in self.nodes for each in _values(node) if each not in self.nodes}
        return found.pop() if len(found) == 1 else None

    def given(self) -> fx.Node | None:
        """The only value of the call that is used outside."""
        found = [node for node in self.nodes if any(user not in self.nodes for user in node.users)]
        return found[0] if len(found) == 1 else None


def _weighted_calls(traced: TracedModel) -> list[tuple[fx.Node, _Call]]:
    """The nodes that take a weight of a module, adapters aside, and the call of the module."""
    weights = {name for name, matrix in matrices(traced).items() if not matrix.is_adapter}
    wrapped = {name: path for path, name in wrapped_weights(traced)}
    nodes: dict[tuple[str, str], set[fx.Node]] = {}
    takers: list[tuple[fx.Node, str]] = []
    for node in traced.graph.graph.nodes:
        if node.op != "call_function":
            continue
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            nodes.setdefault((path, key), set()).add(node)
        names = (traced.inference.canonical.get(str(each.target)) for each in node.all_input_nodes)
        takers += [(node, name) for name in names if name in weights]
    calls: list[tuple[fx.Node, _Call]] = []
    for node, weight in takers:
        module = wrapped.get(weight, weight.rpartition(".")[0])
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            if path == module:
                calls.append((node, _Call(module, weight, frozenset(nodes[path, key]))))
    return calls


def _given(weighted: list[tuple[fx.Node, _Call]]) -> dict[fx.Node, list[_Call]]:
    """The calls that give a value."""
    found: dict[fx.Node, list[_Call]] = {}
    for _, call in weighted:
        node = call.given()
        if node is not None:
            found.setdefault(node, []).append(call)
    return found


def _source(
    value: fx.Node, atom: int, given: Mapping[fx.Node, list[_Call]], traced: TracedModel
) -> tuple[fx.Node, _Call] | None:
    """The output of a module with the units of an atom in its weight that a value comes from, and the call of it."""
    at: fx.Node | None = value
    while at is not None:
        for call in given.get(at, ()):
            if atom in _atoms_of(traced.inference.axes(call.weight)):
                return at, call
        at = next((each for each in _values(at) if atom in _atoms_of(_axes(each, traced))), None)
    return None


def _gates_at_factors(
    factors: list[fx.Node], atom: int, given: Mapping[fx.Node, list[_Call]], traced: TracedModel
) -> Iterator[Gate]:
    """Gates of the units of an atom over which a call sums a product of these values; together they are one gate."""
    found = [_source(value, atom, given, traced) for value in factors]
    sources = [source for source in found if source is not None]
    slot = traced.groups.slots.get(atom)
    able = [each for each in sources if slot is None or slot.id in _atoms_of(_axes(each[0], traced))]
    if able and len({call.module for _, call in sources}) == len(factors):
        # each alone has the whole derivative, and all hold what no one else does
        smallest = min(able, key=lambda source: math.prod(axis.size for axis in _axes(source[0], traced)))
        yield from _gates_at(*smallest, {atom}, traced, at_input=False)
        return
    for source in sources:
        yield from _gates_at(*source, {atom}, traced, at_input=False, share=1 / len(factors))


def _at_factor(
    taken: fx.Node, call: _Call, gates: list[Gate], given: Mapping[fx.Node, list[_Call]], traced: TracedModel
) -> list[Gate]:
    """The gates of a product that a call takes, at a module that gives nothing but a factor of it, if there is one."""
    if taken.target is not torch.ops.aten.mul.Tensor or not set(taken.users) <= call.nodes:
        return []
    for factor in reversed(_values(taken)):
        if set(factor.users) != {taken} or not _same_shape(factor, taken):
            continue
        for source in given.get(factor, ()):
            moved = [
                each
                for gate in gates
                for each in _gates_at(factor, source, set(gate.units), traced, at_input=False)
                if (each.dim, each.axis, each.units) == (gate.dim, gate.axis, gate.units)
            ]
            if len(moved) == len(gates):
                return moved
    return []


def _same_shape(one: fx.Node, other: fx.Node) -> bool:
    """Whether two values are tensors of one shape."""
    shapes = [value.shape for value in (one.meta.get("val"), other.meta.get("val")) if isinstance(value, Tensor)]
    return len(shapes) == 2 and shapes[0] == shapes[1]


def _gates_at(
    value: fx.Node, call: _Call, units: set[int], traced: TracedModel, *, at_input: bool = True, share: float = 1.0
) -> Iterator[Gate]:
    """A gate for each dim of a value in which some units are."""
    axes, weight_axes = _axes(value, traced), traced.inference.axes(call.weight)
    for dim, axis in enumerate(axes):
        here = units & atom_ids(axis)
        weight_dim = next((at for at, each in enumerate(weight_axes) if here & atom_ids(each)), None)
        if weight_dim is not None:
            yield Gate(call.module, at_input, dim - len(axes), axis, call.weight, weight_dim, frozenset(here), share)


def _values(node: fx.Node) -> list[fx.Node]:
    """What a call computes with, parameters and buffers aside."""
    return [each for each in node.all_input_nodes if each.op != "get_attr"]


def _summed(node: fx.Node, value: fx.Node, traced: TracedModel) -> set[int]:
    """The atoms of a value that the result of a call does not have."""
    result = traced.inference.dims.get(node)
    if node.op != "call_function" or not isinstance(result, Dims):
        return set()
    return _atoms_of(_axes(value, traced)) - _atoms_of(_axes(node, traced))


def _atoms_of(axes: tuple[Axis, ...]) -> set[int]:
    return {atom for axis in axes for atom in atom_ids(axis)}


def _axes(node: fx.Node, traced: TracedModel) -> tuple[Axis, ...]:
    """The axes of a value; of one that is several tensors those of all."""
    result = traced.inference.dims.get(node)
    tensors = result if isinstance(result, tuple) else (result,)
    axes = [axis for dims in tensors if dims is not None for axis in dims.axes]
    return tuple(traced.inference.solver.resolve(axis) for axis in axes)


ValuesOfAtoms = Callable[[Gate, Tensor], Mapping[int, Tensor]]
"""What of the values at a gate counts for units of some atoms, in place of all: tensors of the same shape."""


class Gates:
    """Collects the derivatives of gates while a model runs forward and backward, within :meth:`watching`.

    Raises:
        ScoreError: on leaving, a module was not given what it was traced with.
    """

    def __init__(self, traced: TracedModel, *, slots: bool = True, at_factors: bool = True):
        self.traced = traced
        # a backward pass holds the factors of a product in any case, and the product only where a later one needs it
        self.gates = find_gates(traced, at_factors=at_factors)
        self._names = {atom: group.name for atom, group in traced.groups.by_atom.items()}
        gated = {atom for gate in self.gates for atom in gate.units}
        missing = {group.atom.id for group in traced.groups.prunable} - gated
        self.weight_gates = find_weight_gates(traced, missing) if missing else ()
        self._slots = traced.groups.slots if slots else {}
        self._there: Mapping[str, DimMasks] = {}
        self._values: ValuesOfAtoms | None = None
        self._run = 0
        self._seen: dict[tuple[str, int, int], Tensor] = {}
        """Derivatives ``[samples, units]`` or ``[samples, slots, units]`` by group, run of the model and samples."""

    @contextmanager
    def watching(
        self, there: Mapping[str, DimMasks] | None = None, values: ValuesOfAtoms | None = None
    ) -> Iterator[None]:
        """Within the context what the module computes is watched.

        ``there`` holds the keep-masks of the parameters that were cut since the model was traced. With ``values`` the
        gates of some atoms are on a part of the values only; it must not be at the factors of a product.
        """
        self._there, self._values = there or {}, values
        known = matrices(self.traced) if self.weight_gates else {}
        with ExitStack() as stack:
            stack.callback(self.traced.module.register_forward_pre_hook(self._begin).remove)
            for gate in self.gates:
                module = self.traced.module.get_submodule(gate.module)
                if gate.at_input:
                    handle = module.register_forward_pre_hook(self._input_hook(gate), with_kwargs=True)
                else:
                    handle = module.register_forward_hook(self._output_hook(gate))
                stack.callback(handle.remove)
            for weight_gate in self.weight_gates:
                stack.enter_context(self._watching_weight(weight_gate, known[weight_gate.parameter]))
            yield

    @contextmanager
    def _watching_weight(self, gate: WeightGate, matrix: Matrix) -> Iterator[None]:
        """Within the context the gradients of a weight are seen, and kept only where it is trained."""
        weight = matrix.weight
        is_trained = weight.requires_grad
        with ExitStack() as stack:
            stack.callback(weight.requires_grad_, is_trained)
            weight.requires_grad_()
            stack.callback(weight.register_hook(lambda gradient: self._keep_of_weight(gate, matrix, gradient)).remove)
            if not is_trained:
                stack.callback(weight.register_post_accumulate_grad_hook(_drop_gradient).remove)
            yield

    def take(self) -> dict[str, Tensor]:
        """The mean square of the derivatives over samples for each group, and begin anew.

        The numbers are relative: they add up to 1, so that the scale of a loss has no part in them.
        """
        sums: dict[str, Tensor] = {}
        for (name, _, _), derivatives in self._seen.items():
            square = derivatives.square().sum(0)
            sums[name] = sums[name] + square if name in sums else square
        self._seen = {}
        total = sum(float(value.sum()) for value in sums.values())
        return {name: (value / total if total > 0 else value).cpu() for name, value in sums.items()}

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._run += 1

    def _input_hook(self, gate: Gate) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            values: list[Any] = [*args, *kwargs.values()]
            place = next((at for at, each in enumerate(values) if isinstance(each, Tensor)), None)
            values[place or 0] = self._gated(gate, values[place or 0])
            return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))

        return hook

    def _output_hook(self, gate: Gate) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if type(output) is tuple:  # as layers give that return their bias beside it, or None
                return tuple(self._gated(gate, each) if isinstance(each, Tensor) else each for each in output)
            return self._gated(gate, output)

        return hook

    def _gated(self, gate: Gate, x: Any) -> Any:
        """The same values as a tensor of its own, whose gradient is what comes back through this place only."""
        mask = mask_of_dim(self._there, gate.parameter, gate.weight_dim)
        size = gate.axis.size if mask is None else int(mask.sum())
        if not isinstance(x, Tensor) or x.ndim < -gate.dim or x.shape[gate.dim] != size:
            raise ScoreError(
                f"{gate.module} is not called as it was traced: its input or output must hold {size} units"
            )
        if not torch.is_grad_enabled():
            return x
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        values, run = x.detach(), self._run
        x.register_hook(lambda gradient: self._keep(gate, mask, run, values, gradient * gate.share))
        return x

    def _keep(self, gate: Gate, mask: Tensor | None, run: int, x: Tensor, gradient: Tensor) -> None:
        feature = gate.dim % x.ndim
        parts = {} if self._values is None else self._values(gate, x)
        seen: list[tuple[Set[int], Tensor]] = [({atom}, part) for atom, part in parts.items()]
        if rest := gate.units - parts.keys():
            seen.append((rest, x))
        for units, values in seen:
            product = (values.float() * gradient.float()).movedim(feature, -1)
            samples = product.reshape(product.shape[0] if feature > 0 else 1, -1, product.shape[-1]).sum(1)
            self._add(gate, run, widen(samples, [None, mask]), units)

    def _keep_of_weight(self, gate: WeightGate, matrix: Matrix, gradient: Tensor) -> None:
        derivatives = torch.zeros(gradient.shape[gate.dim], device=gradient.device)
        for rows in matrix.blocks():
            product = matrix.effective(rows).float() * gradient[rows].float()
            derivatives[rows if gate.dim == 0 else slice(None)] += summed_but(product, gate.dim)
        mask = mask_of_dim(self._there, gate.parameter, gate.dim)
        self._add(gate, self._run, widen(derivatives[None], [None, mask]), gate.units)

    def _add(self, gate: Gate | WeightGate, run: int, samples: Tensor, units: Set[int]) -> None:
        """Add derivatives ``[samples, size of the axis]`` to those of the units of some atoms of a gate."""
        for atom, derivatives in torch.vmap(lambda row: fold(gate.axis, row, self._slots))(samples).items():
            if atom in units:
                key = self._names[atom], run, len(derivatives)
                self._seen[key] = self._seen[key] + derivatives if key in self._seen else derivatives


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None

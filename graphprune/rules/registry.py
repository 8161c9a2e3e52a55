"""How an axis rule is written and found.

An axis rule says, for one call of an operator, which dims of its inputs and outputs are the same axis. A rule is
registered on the operator's name, for all its overloads::

    @axis_rule("linear")
    def linear(call: Call) -> Dims:
        '''``... i, o i, o -> ... o``'''

Operators with numbers in their arguments that follow from axes (view sizes, split sizes, groups, …) also have a resize
rule, which gives the new arguments for a graph whose axes were cut. No rule means that every axis touching the call is
frozen, with that as the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from torch import fx

from ..axes import MAX_TERMS, Axis, Solver, terms_of


@dataclass(frozen=True, slots=True)
class Dims:
    """What inference knows of one tensor: for each dim its axis and whether a masked unit of it holds only zeros.

    ``points_at`` is the axis of which the values of the tensor are positions (see :mod:`graphprune.rules.positions`).
    """

    axes: tuple[Axis, ...]
    zero: tuple[bool, ...]
    points_at: Axis | None = None

    def __len__(self) -> int:
        return len(self.axes)

    def __iter__(self) -> Iterator[tuple[Axis, bool]]:
        return iter(zip(self.axes, self.zero, strict=True))

    def take(self, order: Iterable[int]) -> Dims:
        """The dims at these positions, in this order."""
        order = tuple(order)
        return Dims(tuple(self.axes[dim] for dim in order), tuple(self.zero[dim] for dim in order))

    def replace(self, dim: int, axis: Axis, zero: bool) -> Dims:
        """The same with another axis at ``dim``."""
        axes, zeros = list(self.axes), list(self.zero)
        axes[dim], zeros[dim] = axis, zero
        return Dims(tuple(axes), tuple(zeros))


F = TypeVar("F")
Result = Dims | tuple[Dims | None, ...] | None
Rule = Callable[["Call"], Result]
ResizeRule = Callable[["Resize"], Mapping[str, Any]]

axis_rules: dict[str, Rule] = {}
resize_rules: dict[str, ResizeRule] = {}
cut_afterwards: set[str] = set()


def axis_rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register an axis rule for operators: ``"add"`` stands for ``"aten::add"``, other namespaces are written out.

    Raises:
        ValueError: an operator has a rule already.
    """
    return _register(axis_rules, operators)


def resize_rule(*operators: str) -> Callable[[ResizeRule], ResizeRule]:
    """Register a resize rule: a function from the resized call to the arguments that change, by their schema names."""
    return _register(resize_rules, operators)


def cut_after(*operators: str) -> Callable[[Rule], Rule]:
    """Say that operators make all positions of their result, of which the compact graph then takes the kept ones."""

    def register(rule: Rule) -> Rule:
        cut_afterwards.update(f"aten::{operator}" for operator in operators)
        return rule

    return register


def _register(registry: dict[str, F], operators: Iterable[str]) -> Callable[[F], F]:
    def register(rule: F) -> F:
        for operator in operators:
            name = operator if "::" in operator else f"aten::{operator}"
            if name in registry:
                raise ValueError(f"{name} has a rule already: {registry[name]}")
            registry[name] = rule
        return rule

    return register


@cache
def operator_name(target: Any) -> str:
    """The name under which rules are registered: ``aten::add`` for every overload of add."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order::{target.name()}"
    return f"python::{getattr(target, '__name__', target)}"


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by their names in the operator's schema, defaults put in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {str(index): value for index, value in enumerate(node.args)} | dict(node.kwargs)
    names, defaults = _signature(node.target)
    return {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}


@cache
def _signature(target: torch._ops.OpOverload) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The arguments of an operator in order, and what each is where it isn't given."""
    arguments = target._schema.arguments
    defaults = {each.name: each.default_value if each.has_default_value() else None for each in arguments}
    return tuple(defaults), defaults


def is_known(size: Any) -> bool:
    """Whether a size or a bound is a number, or was one when the model was traced: it does not depend on data."""
    return isinstance(size, int) or size.node.hint is not None


def size_hint(size: Any) -> int:
    """A dim's size as a number; a symbolic size counts with the size it was traced with.

    One that depends on data counts with the size that it had for the example, if this was followed, or else with a
    number made up for each of its symbols: equal expressions stay equal, and other sizes are unlikely to be.
    """
    if isinstance(size, int):
        return size
    if is_known(size):
        return int(size.node.hint)
    expression = size.node.expr
    made_up = {symbol: MADE_UP + 2 * int(re.sub(r"\D", "", symbol.name)) for symbol in expression.free_symbols}
    seen = getattr(size.node.shape_env, "real_tensor_prop_unbacked_vals", {})
    return max(0, int(expression.xreplace(made_up | {symbol: seen[symbol] for symbol in made_up.keys() & seen.keys()})))


DATA_SIZED = "its size depends on data"

MADE_UP = 659
"""What the first size that depends on data counts with."""


def is_data_sized(value: Any) -> bool:
    """Whether a tensor, or one of some tensors, has a dim whose size depends on data."""
    if isinstance(value, (tuple, list)):
        return any(map(is_data_sized, value))
    return isinstance(value, torch.Tensor) and not all(map(is_known, value.shape))


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a node's value, or None where it is not a tensor."""
    return tuple(size_hint(size) for size in value.shape) if isinstance(value, torch.Tensor) else None


@dataclass(frozen=True)
class Call:
    """One call of an operator, as an axis rule sees it."""

    node: fx.Node
    solver: Solver[fx.Node]
    known: Mapping[fx.Node, Result]
    memory: dict[fx.Node, tuple[Axis, ...]]
    arguments: Mapping[str, Any]
    singular: list[tuple[fx.Node, Axis, int | None]] = field(default_factory=list)
    """Where calls are not finite since masked units are zero: what they divide by, its axis, and the dim if known."""

    chosen: list[tuple[Axis, int]] = field(default_factory=list)
    """The axes that calls choose positions of, and how many."""

    def __getitem__(self, name: str) -> Any:
        """An argument by its schema name, as the graph has it (nodes for tensors)."""
        return self.arguments[name]

    def dims(self, name: str) -> Dims | None:
        """The dims of a tensor argument, None where it is not a tensor."""
        return self.dims_of(self.arguments.get(name))

    def tensor(self, name: str) -> Dims:
        """The dims of an argument that must be a tensor."""
        dims = self.dims(name)
        if dims is None:
            raise TypeError(f"argument {name} of {self.node.format_node()} is not a tensor")
        return dims

    def dims_of(self, value: Any) -> Dims | None:
        known = self.known.get(value) if isinstance(value, fx.Node) else None
        return known if isinstance(known, Dims) else None

    def tensors(self) -> list[Dims]:
        """The dims of every tensor argument, those in lists included, in order."""
        nodes: list[fx.Node] = []
        fx.map_arg(list(self.arguments.values()), nodes.append)
        found: list[Dims] = []
        for node in nodes:
            known = self.known.get(node)
            found.extend(each for each in (known if isinstance(known, tuple) else (known,)) if each is not None)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the call's only output."""
        shape = shape_of(self.node.meta["val"])
        if shape is None:
            raise TypeError(f"{self.node.format_node()} does not return one tensor")
        return shape

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """The shapes of the call's outputs."""
        return tuple(shape_of(value) for value in self.node.meta["val"])

    def fresh(self, size: int) -> Axis:
        return self.solver.fresh(size)

    def resolve(self, axis: Axis) -> Axis:
        return self.solver.resolve(axis)

    def unify(self, a: Axis, b: Axis) -> None:
        """Make two axes the same; sizes that depend on data may be the same without being seen to be."""
        if a.size != b.size and self.data_sized:
            self.freeze(a, DATA_SIZED)
            self.freeze(b, DATA_SIZED)
        else:
            self.solver.unify(a, b, self.node)

    @property
    def data_sized(self) -> bool:
        """Whether a size in what the call takes or gives depends on data."""
        return any(is_data_sized(each.meta.get("val")) for each in (self.node, *self.node.all_input_nodes))

    def split(self, axis: Axis, sizes: list[int]) -> list[Axis]:
        return self.solver.split(axis, sizes, self.node)

    def bounded(self, axis: Axis) -> Axis:
        """The axis itself, or a frozen one in its place if it has more pieces than an axis may have."""
        if len(terms_of(axis)) <= MAX_TERMS:
            return axis
        whole = self.fresh(axis.size)
        self.unify(whole, axis)
        return whole

    def freeze(self, axis: Axis, reason: str) -> None:
        self.solver.freeze(axis, reason, self.node)

    def fixed(self, size: int, reason: str) -> Axis:
        """A new axis that is frozen from the start."""
        axis = self.fresh(size)
        self.freeze(axis, reason)
        return axis

    def statistics(self, axis: Axis, what: str) -> None:
        """``what`` takes a statistic over ``axis``, which counts what is kept of it."""
        self.solver.mark_statistics(axis, f"{what} takes a statistic over it", self.node)

    def compared(self, axis: Axis, what: str) -> None:
        """``what`` finds the best position of ``axis``, which is a statistic: one that is masked is never the best."""
        self.solver.mark_statistics(axis, f"{what} compares its positions", self.node)

    def summed(self, axis: Axis, zero: bool, what: str) -> None:
        """``what`` adds up over ``axis``: sound where masked units are zero."""
        if not zero:
            self.freeze(axis, f"{what} adds up over it, and its masked units are not zero")

    def not_finite(self, name: str, axis: Axis, reason: str, dim: int | None = None) -> None:
        """The call is not finite where masked units of an argument, along a dim, are zero: they may not be masked."""
        self.singular.append((self.arguments[name], axis, dim))
        self.freeze(axis, reason)

    def chooses(self, axis: Axis, count: int, what: str) -> None:
        """``what`` chooses ``count`` positions of ``axis``, with masked units never among them."""
        self.solver.mark_statistics(axis, f"{what} chooses some of its positions", self.node, anew=True)
        self.chosen.append((axis, count))

    def remember(self, *axes: Axis) -> None:
        """Keep axes for the resize rule of this call, which finds them in ``Resize.remembered``."""
        self.memory[self.node] = axes

    def opaque(self, reason: str) -> Result:
        """Freeze everything that touches the call: the sound answer where nothing better is known."""
        for dims in self.tensors():
            for axis in (*dims.axes, *([] if dims.points_at is None else [dims.points_at])):
                self.freeze(axis, reason)
        return self.fixed_outputs(reason)

    def fixed_outputs(self, reason: str) -> Result:
        """Outputs whose axes are all new and frozen."""

        def fixed(shape: tuple[int, ...] | None) -> Dims | None:
            if shape is None:
                return None
            return Dims(tuple(self.fixed(size, reason) for size in shape), (False,) * len(shape))

        value = self.node.meta.get("val")
        if isinstance(value, (tuple, list)):
            return tuple(fixed(shape_of(each)) for each in value)
        return fixed(shape_of(value))


@dataclass(frozen=True)
class Resize:
    """One call of an operator in a graph whose axes were cut, as a resize rule sees it."""

    node: fx.Node
    arguments: Mapping[str, Any]
    result: Result
    inputs: Mapping[fx.Node, Result]
    remembered: tuple[Axis, ...]
    size: Callable[[Axis], int]
    """The number of positions of an axis that are kept."""

    open_size: Callable[[fx.Node, Axis], fx.Node]
    """The same of an axis with a part whose size is open, from the call that gives the size of all of it."""

    def kept(self, size: Any, axis: Axis) -> Any:
        """A size of an axis as it is in the compact graph; -1 stays what it is."""
        if isinstance(size, fx.Node):
            return self.open_size(size, axis)
        return size if size == -1 else self.size(axis)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def dims(self) -> Dims:
        """The dims of the call's only output."""
        if not isinstance(self.result, Dims):
            raise TypeError(f"{self.node.format_node()} does not return one tensor")
        return self.result

    def input(self, name: str) -> Dims:
        """The dims of a tensor argument."""
        dims = self.inputs[self.arguments[name]]
        if not isinstance(dims, Dims):
            raise TypeError(f"argument {name} of {self.node.format_node()} is not a tensor")
        return dims


def dim_index(dim: int, rank: int) -> int:
    """A dim counted from the front; negative dims count from the end."""
    return dim + rank if dim < 0 else dim

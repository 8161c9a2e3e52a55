"""What a model costs once it is cut: exact parameter and MAC counts from the axes, for any number of kept units.

A matrix whose rows are in one group and whose columns are in another is counted with what is left of both, so a count
is what the compact model really has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import fx

from .axes import Atom, Axis, Product, atoms, parts
from .program import Inference
from .rules import Dims
from .rules.contraction import einsum_axes
from .rules.registry import operator_name
from .traced import TracedModel

Of = Literal["parameters", "base", "prunable", "macs"]
"""What a ratio is a share of: all parameters that were traced, those without adapters, those of the groups that may be
cut, or multiply-accumulates for the traced inputs."""

Counts = Mapping[int, int]
"""Kept units by atom id; an atom that is missing stays whole."""


class Budget(Protocol):
    """A cost that depends on how many units of each atom are kept: a constant plus a sum of terms."""

    @property
    def constant(self) -> int: ...

    @property
    def terms(self) -> Sequence[object]: ...

    def __call__(self, counts: Counts) -> int: ...

    def term(self, index: int, counts: Counts) -> int:
        """What one term adds."""
        ...

    def by_atom(self) -> Mapping[int, Sequence[int]]:
        """For each atom the indices of the terms that it is part of."""
        ...


@dataclass(frozen=True)
class Cost:
    """A cost that depends on how many units of each atom are kept: a constant plus a sum of products of axes."""

    constant: int
    terms: tuple[tuple[Axis, ...], ...]

    def __call__(self, counts: Counts) -> int:
        return self.constant + sum(term_size(term, counts) for term in self.terms)

    def term(self, index: int, counts: Counts) -> int:
        """What one term adds."""
        return term_size(self.terms[index], counts)

    def by_atom(self) -> dict[int, list[int]]:
        """For each atom the indices of the terms that it is part of."""
        found: dict[int, list[int]] = {}
        for index, term in enumerate(self.terms):
            for atom in {atom.id for axis in term for atom in atoms(axis)}:
                found.setdefault(atom, []).append(index)
        return found


def term_size(term: Iterable[Axis], counts: Counts) -> int:
    """The product of the kept sizes of some axes."""
    return math.prod(size(axis, counts) for axis in term)


def size(axis: Axis, counts: Counts) -> int:
    """The number of positions of a resolved axis that are kept."""
    if isinstance(axis, Atom):
        return counts.get(axis.id, axis.size)
    sizes = [size(part, counts) for part in parts(axis)]
    return math.prod(sizes) if isinstance(axis, Product) else sum(sizes)


def parameter_cost(traced: TracedModel, counted: Callable[[str], bool] = lambda name: True) -> Cost:
    """The number of parameters, tied ones once, of those whose names are ``counted``."""
    inference = traced.inference
    infos = [info for info in traced.table.values() if not info.is_buffer and counted(info.name)]
    inside = [info for info in infos if info.name in inference.parameter_dims]
    outside = sum(info.numel for info in infos if info.name not in inference.parameter_dims)
    return Cost(outside, tuple(inference.axes(info.name) for info in inside))


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to a LoRA adapter, by the names that peft gives."""
    return ".lora_" in f".{name}"


def mac_cost(inference: Inference) -> Cost:
    """The multiply-accumulates of every product of tensors in the graph, for the traced inputs."""
    terms: list[tuple[Axis, ...]] = []
    for node, result in inference.dims.items():
        first = result[0] if isinstance(result, tuple) and result else result
        if node.op == "call_function" and isinstance(first, Dims):
            terms.extend(_macs(node, first, inference))
    resolved = (tuple(inference.solver.resolve(axis) for axis in term) for term in terms)
    return Cost(0, tuple(resolved))


def _macs(node: fx.Node, result: Dims, inference: Inference) -> Iterable[tuple[Axis, ...]]:
    operands = [inference.dims.get(each) for each in node.all_input_nodes]
    dims = [each for each in operands if isinstance(each, Dims)]
    name = operator_name(node.target).removeprefix("aten::")
    if name in ("linear", "matmul", "mm", "bmm", "mv", "_grouped_mm", "transformers::grouped_mm_fallback"):
        if len(dims) >= 2:
            yield (*result.axes, dims[0].axes[-1])
    elif name == "einsum" and len(dims) == 2:
        yield tuple(einsum_axes(str(node.args[0]), dims).values())
    elif name in ("addmm", "baddbmm", "addmv") and len(dims) == 3:
        yield (*result.axes, dims[1].axes[-1])
    elif name.startswith("conv") or name == "_convolution":
        weight = dims[1].axes
        inner = weight[0] if "transpose" in name else weight[1]
        yield (*result.axes, inner, *weight[2:])
    elif name in ("scaled_dot_product_attention", "higher_order::flex_attention"):
        query, key = dims[0], dims[1]
        yield (*result.axes[:-1], key.axes[-2], query.axes[-1])
        yield (*result.axes[:-1], key.axes[-2], result.axes[-1])

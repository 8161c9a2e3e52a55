"""Axis types: what the positions of one tensor dim are made of.

::

    Axis = Atom(size)              one indivisible run of channels, heads, …
         | Product(f1, …, fk)      row-major flattening, size = product of sizes   (view, reshape)
         | Sum(s1, …, sk)          concatenation,        size = sum of sizes       (cat, split, slice)

The notation of reprs, errors and docs: a product is ``(a b)``, a sum is ``(a + b)``, and the axis with one position
is ``1``. Constructors normalise, so that equal axes compare equal: products and sums are flat, factors of one vanish,
and a sum distributes over the factors to its right, ``((a + b) c) == ((a c) + (b c))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, slots=True)
class Atom:
    """A run of ``size`` positions that nothing in the graph has split so far."""

    id: int
    size: int

    def __str__(self) -> str:
        return f"a{self.id}:{self.size}"


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major flattening of its factors. Build it with :func:`product`, which normalises."""

    factors: tuple[Axis, ...]
    size: int

    def __str__(self) -> str:
        return "(" + " ".join(map(str, self.factors)) + ")" if self.factors else "1"


@dataclass(frozen=True, slots=True)
class Sum:
    """Concatenation of its terms. Build it with :func:`concat`, which normalises."""

    terms: tuple[Axis, ...]
    size: int

    def __str__(self) -> str:
        return "(" + " + ".join(map(str, self.terms)) + ")" if self.terms else "0"


Axis = Atom | Product | Sum

ONE = Product((), 1)
"""The axis with a single position: broadcast dims, keepdim results. Never prunable."""

EMPTY = Sum((), 0)
"""The axis without positions."""


def product(*axes: Axis) -> Axis:
    """The row-major flattening of ``axes``, normalised."""
    factors: list[Axis] = []
    for axis in axes:
        if isinstance(axis, Product):
            factors.extend(axis.factors)
        else:
            factors.append(axis)
    factors = [axis for axis in factors if axis.size != 1]
    if not factors:
        return ONE
    if not all(axis.size for axis in factors):
        return EMPTY
    if len(factors) == 1:
        return factors[0]
    for index, axis in enumerate(factors[:-1]):
        if isinstance(axis, Sum):
            inner = factors[index + 1 :]
            return product(*factors[:index], concat(*(product(term, *inner) for term in axis.terms)))
    return Product(tuple(factors), math.prod(axis.size for axis in factors))


def concat(*axes: Axis) -> Axis:
    """The concatenation of ``axes``, normalised."""
    terms: list[Axis] = []
    for axis in axes:
        if isinstance(axis, Sum):
            terms.extend(axis.terms)
        elif axis.size:
            terms.append(axis)
    if len(terms) == 1:
        return terms[0]
    return Sum(tuple(terms), sum(axis.size for axis in terms)) if terms else EMPTY


def parts(axis: Axis) -> tuple[Axis, ...]:
    """The direct parts of an axis: factors, terms, or nothing for an atom."""
    if isinstance(axis, Atom):
        return ()
    return axis.factors if isinstance(axis, Product) else axis.terms


def atoms(axis: Axis) -> Iterator[Atom]:
    """The atoms of an axis in row-major order, one for each place where it occurs."""
    return iter((axis,)) if isinstance(axis, Atom) else chain.from_iterable(map(atoms, parts(axis)))


def factors_of(axis: Axis) -> tuple[Axis, ...]:
    """An axis seen as a product: its factors, or itself alone."""
    return axis.factors if isinstance(axis, Product) else (axis,)


def terms_of(axis: Axis) -> tuple[Axis, ...]:
    """An axis seen as a sum: its terms, or itself alone."""
    return axis.terms if isinstance(axis, Sum) else (axis,)

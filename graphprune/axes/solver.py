"""Unification of axes: what two dims that meet in an operator must have in common.

The solver knows nothing of tensors or operators. It holds the bindings of atoms to finer axes, the atoms that are
frozen, the ones that a normalisation takes statistics over, and a log of every coupling and of every freeze that went
from axis to axis, with its cause, from which groups and explanations are built.

The work of :meth:`Solver.unify` is linear in the number of parts of the two axes. A sum may have at most
:data:`MAX_TERMS` terms, and a piece may be cut again at most :data:`MAX_DEPTH` times: an axis that the graph cuts into
more pieces is frozen, so the whole inference is linear in the graph however long it is.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from .algebra import ONE, Atom, Axis, Product, atoms, concat, factors_of, parts, product, terms_of

Cause = TypeVar("Cause")

MAX_TERMS = 512
MAX_DEPTH = 128
"""How often pieces may be cut again: the depth of an axis tree, and so of the recursion over it."""


@dataclass(frozen=True, slots=True)
class Coupling(Generic[Cause]):
    """Atom ``a`` and atom ``b`` were unified (``part=False``), or ``b`` is a part that ``a`` was refined into."""

    a: int
    b: int
    cause: Cause | None
    part: bool


@dataclass(frozen=True, slots=True)
class Freeze(Generic[Cause]):
    """Why an atom can't be cut, and the atom that was marked so at first: the mark goes over to what is bound to it."""

    reason: str
    cause: Cause | None
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Spread(Generic[Cause]):
    """Atom ``a`` was frozen since it met ``b``, which is frozen and is not the same axis."""

    a: int
    b: int
    cause: Cause | None


@dataclass
class Solver(Generic[Cause]):
    """State of one inference. ``Cause`` is whatever the caller wants to find on couplings: here, fx nodes."""

    sizes: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    bindings: dict[int, Axis] = field(default_factory=dict)
    couplings: list[Coupling[Cause]] = field(default_factory=list)
    spreads: list[Spread[Cause]] = field(default_factory=list)
    frozen: dict[int, Freeze[Cause]] = field(default_factory=dict)
    statistics: dict[int, Freeze[Cause]] = field(default_factory=dict)
    _resolved: dict[int, tuple[Axis, Axis]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Axes that are no atoms, by their ids, and what they are with as many bindings as when that was noted."""

    _noted_at: int = field(default=0, init=False, repr=False, compare=False)

    def fresh(self, size: int) -> Axis:
        """A new axis of ``size`` positions about which nothing is known; ``ONE`` if there is just one."""
        return ONE if size == 1 else self._atom(size)

    def _atom(self, size: int) -> Atom:
        self.sizes.append(size)
        self.depths.append(0)
        return Atom(len(self.sizes) - 1, size)

    def resolve(self, axis: Axis) -> Axis:
        """The axis with every binding put in."""
        if isinstance(axis, Atom):
            chain = []
            end: Axis = axis
            while isinstance(end, Atom) and (bound := self.bindings.get(end.id)) is not None:
                chain.append(end.id)
                end = bound
            if not isinstance(end, Atom):
                end = self.resolve(end)
            for atom in chain:
                self.bindings[atom] = end
            return end
        if self._noted_at != len(self.bindings):
            self._resolved.clear()
            self._noted_at = len(self.bindings)
        elif (noted := self._resolved.get(id(axis))) is not None:
            return noted[1]
        old = parts(axis)
        new = [self.resolve(part) for part in old]
        same = all(map(operator.is_, new, old))
        result = axis if same else product(*new) if isinstance(axis, Product) else concat(*new)
        self._resolved[id(axis)] = axis, result
        return result

    def freeze(self, axis: Axis, reason: str, cause: Cause | None = None) -> None:
        """Nothing of ``axis`` may be cut; the first reason that is given stays."""
        self._mark(self.frozen, axis, Freeze(reason, cause))

    def mark_statistics(self, axis: Axis, reason: str, cause: Cause | None = None, *, anew: bool = False) -> None:
        """A statistic is taken over ``axis``: masking its units is not the same as removing them.

        The first reason that is given stays, unless one is marked ``anew``.
        """
        if anew:
            for atom in atoms(self.resolve(axis)):
                self.statistics.pop(atom.id, None)
        self._mark(self.statistics, axis, Freeze(reason, cause))

    def _mark(self, marks: dict[int, Freeze[Cause]], axis: Axis, mark: Freeze[Cause]) -> None:
        for atom in atoms(self.resolve(axis)):
            marks.setdefault(atom.id, mark if mark.place is not None else replace(mark, place=atom.id))

    def is_frozen(self, axis: Axis) -> bool:
        """Whether every atom of ``axis`` is frozen (so also where it has none)."""
        return all(atom.id in self.frozen for atom in atoms(self.resolve(axis)))

    def unify(self, a: Axis, b: Axis, cause: Cause | None = None) -> None:
        """Make ``a`` and ``b``, of the same size, the same axis; freeze what has no common refinement."""
        ends = (a.id, b.id) if isinstance(a, Atom) and isinstance(b, Atom) else None
        a, b = self.resolve(a), self.resolve(b)
        if a == b:
            return
        if a.size != b.size:
            raise ValueError(f"axes of different sizes can't be unified: {a} has {a.size}, {b} has {b.size}")
        if isinstance(a, Atom) and isinstance(b, Atom):
            older, newer = sorted((a, b), key=lambda atom: atom.id)
            # the log holds the axes that met in the call, and not what they had become: paths in it are explanations
            self._bind(newer, older, cause, ends)
        elif max(len(terms_of(a)), len(terms_of(b))) > MAX_TERMS or max(self._depth(a), self._depth(b)) >= MAX_DEPTH:
            self._freeze_both(a, b, f"the graph cuts it into more than {MAX_TERMS} pieces", cause)
        elif not any(atoms(a)) or not any(atoms(b)):
            self._freeze_both(a, b, "the graph takes its positions one by one", cause)
        elif isinstance(a, Atom):
            self._bind(a, b, cause)
        elif isinstance(b, Atom):
            self._bind(b, a, cause)
        elif self.is_frozen(a) or self.is_frozen(b):
            self._freeze_both(a, b, "it meets an axis that is frozen", cause)
        elif isinstance(a, Product) and isinstance(b, Product):
            self._align_factors(list(a.factors), list(b.factors), cause)
        else:
            self._align_terms(list(terms_of(a)), list(terms_of(b)), cause)

    def split(self, axis: Axis, sizes: list[int], cause: Cause | None = None) -> list[Axis]:
        """The consecutive pieces of ``axis`` with the given sizes (a slice, a split, a chunk)."""
        pieces = [self.fresh(size) if size else concat() for size in sizes]
        axis = self.resolve(axis)
        if self.is_frozen(axis):
            self._freeze_both(axis, concat(*pieces), "it is a piece of an axis that is frozen", cause)
        else:
            self.unify(axis, concat(*pieces), cause)
        return [self.resolve(piece) for piece in pieces]

    def _depth(self, axis: Axis) -> int:
        return max((self.depths[atom.id] for atom in atoms(axis)), default=0)

    def _freeze_both(self, a: Axis, b: Axis, reason: str, cause: Cause | None) -> None:
        """Freeze all of ``a`` and ``b``: for the reason of the other where that is frozen, else for ``reason``."""
        for axis, other in ((a, b), (b, a)):
            first = next((atom.id for atom in atoms(other) if atom.id in self.frozen), None)
            if first is None:
                self._mark(self.frozen, axis, Freeze(reason, cause))
                continue
            met = {atom.id for atom in atoms(axis) if atom.id not in self.frozen}
            self.spreads.extend(Spread(atom, first, cause) for atom in sorted(met))
            self._mark(self.frozen, axis, self.frozen[first])

    def _bind(self, atom: Atom, axis: Axis, cause: Cause | None, ends: tuple[int, int] | None = None) -> None:
        """Replace ``atom`` by ``axis`` everywhere; its marks go over to what it is made of."""
        part = not isinstance(axis, Atom)
        for other in {other.id for other in atoms(axis)}:
            self.couplings.append(Coupling(*(ends or (atom.id, other)), cause, part))
            self.depths[other] = max(self.depths[other], self.depths[atom.id] + part)
        for marks in (self.frozen, self.statistics):
            if atom.id in marks:
                self._mark(marks, axis, marks[atom.id])
        self.bindings[atom.id] = axis

    def _align_factors(self, left: list[Axis], right: list[Axis], cause: Cause | None) -> None:
        """Unify two products from the innermost factor outwards, splitting factors by their common divisor.

        Where they have none, the same is done from the outermost factor inwards, and what is left between is frozen.
        """
        while left and right:
            a, b = self._innermost(left), self._innermost(right)
            if a.size < b.size:
                a, b, left, right = b, a, right, left
            if a.size == b.size:
                self.unify(a, b, cause)
            elif a.size % b.size == 0:
                outer = self.fresh(a.size // b.size)
                self.unify(a, product(outer, b), cause)
                left.append(outer)
            elif isinstance(a, Atom) and isinstance(b, Atom) and (common := math.gcd(a.size, b.size)) > 1:
                left.append(a)
                right.extend(self._divide(b, b.size // common, cause))
            else:
                self._align_outer([*left, a], [*right, b], cause)
                return

    def _align_outer(self, left: list[Axis], right: list[Axis], cause: Cause | None) -> None:
        """Unify two products from the outermost factor inwards; freeze what is left where no divisor is common."""
        while True:
            a, b = self._outermost(left), self._outermost(right)
            common = math.gcd(a.size, b.size) if isinstance(a, Atom) and isinstance(b, Atom) else 1
            if common == 1:
                break
            outer = []
            for axis, rest in ((a, left), (b, right)):
                first, *inner = self._divide(axis, common, cause) if axis.size > common else (axis,)
                rest[:0] = inner
                outer.append(first)
            self.unify(outer[0], outer[1], cause)
        rest_a, rest_b = product(a, *map(self.resolve, left)), product(b, *map(self.resolve, right))
        self._freeze_both(rest_a, rest_b, f"it is cut as {rest_a} here and as {rest_b} there", cause)

    def _divide(self, axis: Axis, outer: int, cause: Cause | None) -> tuple[Axis, Axis]:
        """An atom cut into a product, the outer factor of which has ``outer`` positions."""
        pieces = self.fresh(outer), self.fresh(axis.size // outer)
        self.unify(axis, product(*pieces), cause)
        return pieces

    def _innermost(self, factors: list[Axis]) -> Axis:
        """Take the innermost factor; one that has been refined meanwhile is split up."""
        axis = self.resolve(factors.pop())
        factors.extend(factors_of(axis)[:-1])
        return factors_of(axis)[-1]

    def _outermost(self, factors: list[Axis]) -> Axis:
        """Take the outermost factor; one that has been refined meanwhile is split up."""
        axis = self.resolve(factors.pop(0))
        factors[:0] = factors_of(axis)[1:]
        return factors_of(axis)[0]

    def _align_terms(self, left: list[Axis], right: list[Axis], cause: Cause | None) -> None:
        """Unify two sums from the first term on, splitting the longer term at the end of the shorter one."""
        left.reverse()
        right.reverse()
        while left and right:
            a, b = self.resolve(left.pop()), self.resolve(right.pop())
            left.extend(reversed(terms_of(a)[1:]))
            right.extend(reversed(terms_of(b)[1:]))
            a, b = terms_of(a)[0], terms_of(b)[0]
            if a.size < b.size:
                a, b, left, right = b, a, right, left
            if a.size == b.size:
                self.unify(a, b, cause)
                continue
            pieces = self._cut(a, b.size, cause)
            if pieces is None:
                rest_a, rest_b = concat(a, *reversed(left)), concat(b, *reversed(right))
                self._freeze_both(rest_a, rest_b, f"it is cut as {rest_a} here and as {rest_b} there", cause)
                return
            self.unify(pieces[0], b, cause)
            left.append(pieces[1])

    def _cut(self, axis: Axis, at: int, cause: Cause | None) -> tuple[Axis, Axis] | None:
        """``axis`` cut after its first ``at`` positions; None where that falls inside an inner factor, or too deep."""
        if isinstance(axis, Atom):
            if self._depth(axis) >= MAX_DEPTH:
                return None
            pieces = self.fresh(at), self.fresh(axis.size - at)
            self._bind(axis, concat(*pieces), cause)
            return pieces
        outer, inner = factors_of(axis)[0], product(*factors_of(axis)[1:])
        if at % inner.size:
            return None
        cut = self._cut(outer, at // inner.size, cause)
        return None if cut is None else (product(cut[0], inner), product(cut[1], inner))

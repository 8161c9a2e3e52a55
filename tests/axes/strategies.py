"""Random axes, and the notation of the tables: numbers are atoms of that size, ``(2 3)`` products, ``(2 + 3)`` sums."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from graphprune.axes import ONE, Atom, Axis, Product, Solver, Sum, atoms, concat, product
from graphprune.axes.algebra import parts
from tests.positions import positions

POOL: list[Axis] = [ONE, *(Atom(index, size) for index, size in enumerate((2, 2, 3, 4, 5)))]
AXES = st.recursive(
    st.sampled_from(POOL),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda axes: product(*axes)),
        st.lists(inner, max_size=3).map(lambda axes: concat(*axes)),
    ),
    max_leaves=6,
)
"""Axes over a few atoms, some of them several times."""


def is_normal(axis: Axis) -> bool:
    """Whether an axis is in normal form: flat, without units, sums distributed over what is to their right."""
    if isinstance(axis, Product):
        inner = axis.factors
        flat = len(inner) != 1 and not any(isinstance(each, Product) or each.size <= 1 for each in inner)
        return flat and not any(isinstance(each, Sum) for each in inner[:-1]) and all(map(is_normal, inner))
    if isinstance(axis, Sum):
        return len(axis.terms) != 1 and all(
            each.size and not isinstance(each, Sum) and is_normal(each) for each in axis.terms
        )
    return axis.size > 0


def units(solver: Solver[str], axis: Axis) -> set[frozenset[int]]:
    """What can be cut from an axis: for each unit of each atom that is not frozen, its positions."""
    places = positions(solver.resolve(axis))
    free = {unit for place in places for unit in place if unit[0] not in solver.frozen}
    return {frozenset(index for index, place in enumerate(places) if unit in place) for unit in free}


def labelled(solver: Solver[str], axis: Axis) -> list[frozenset[tuple[int, int]]]:
    """The free units of each position: where two axes agree in this, every keep-mask on one is that on the other."""
    return [frozenset(u for u in place if u[0] not in solver.frozen) for place in positions(solver.resolve(axis))]


@st.composite
def trees(draw: st.DrawFn, solver: Solver[str], size: int, depth: int = 3) -> Axis:
    """A random way to cut ``size`` positions into new atoms."""
    kind = draw(st.sampled_from(["atom", "product", "sum"])) if depth and size > 1 else "atom"
    if kind == "product":
        inner = draw(st.sampled_from([each for each in range(1, size + 1) if size % each == 0]))
        return product(draw(trees(solver, size // inner, depth - 1)), draw(trees(solver, inner, depth - 1)))
    if kind == "sum":
        left = draw(st.integers(1, size - 1))
        return concat(draw(trees(solver, left, depth - 1)), draw(trees(solver, size - left, depth - 1)))
    return solver.fresh(size)


def parse(text: str, solver: Solver[str]) -> Axis:
    """An axis from its notation; each number is a new atom."""
    tokens = re.findall(r"\d+|[()+]", text)

    def read() -> Axis:
        token = tokens.pop(0)
        if token != "(":
            return solver.fresh(int(token))
        terms: list[list[Axis]] = [[]]
        while tokens[0] != ")":
            if tokens[0] == "+":
                tokens.pop(0)
                terms.append([])
            else:
                terms[-1].append(read())
        tokens.pop(0)
        return concat(*(product(*term) for term in terms))

    return read()


def sizes(axis: Axis) -> str:
    """An axis in the notation, with sizes for its atoms."""
    return re.sub(r"a\d+:", "", str(axis))


def names(axis: Axis, known: dict[Atom, str] | None = None) -> str:
    """An axis in the notation, with letters for its atoms in the order in which they occur."""
    known = {} if known is None else known
    for atom in atoms(axis):
        known.setdefault(atom, chr(ord("a") + len(known)))
    if isinstance(axis, Atom):
        return known[axis]
    sign = " " if isinstance(axis, Product) else " + "
    return "(" + sign.join(names(part, known) for part in parts(axis)) + ")"

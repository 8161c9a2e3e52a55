"""The laws of products and sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.axes import EMPTY, ONE, Atom, Axis, atoms, concat, factors_of, product, terms_of
from tests.axes.strategies import AXES, is_normal
from tests.positions import Units, positions

A, B, C = Atom(0, 2), Atom(1, 3), Atom(2, 4)


@given(AXES)
def test_every_axis_is_in_normal_form(axis: Axis) -> None:
    assert is_normal(axis)
    assert len(positions(axis)) == axis.size


@given(AXES, AXES, AXES)
def test_products_and_sums_are_flat(a: Axis, b: Axis, c: Axis) -> None:
    assert product(a, product(b, c)) == product(product(a, b), c) == product(a, b, c)
    assert concat(a, concat(b, c)) == concat(concat(a, b), c) == concat(a, b, c)


@given(AXES)
def test_units_vanish(a: Axis) -> None:
    assert product(a) == product(ONE, a) == product(a, ONE) == a
    assert concat(a) == concat(EMPTY, a) == concat(a, EMPTY) == a
    assert product(a, EMPTY) == product(EMPTY, a) == EMPTY


@given(AXES, AXES, AXES)
def test_sums_distribute_to_the_right(a: Axis, b: Axis, c: Axis) -> None:
    assert product(concat(a, b), c) == concat(product(a, c), product(b, c))
    assert product(A, concat(a, b), c) == product(A, concat(product(a, c), product(b, c)))


@given(st.lists(AXES, max_size=3))
def test_constructors_keep_the_meaning(axes: list[Axis]) -> None:
    assert positions(concat(*axes)) == tuple(place for axis in axes for place in positions(axis))
    grid: tuple[Units, ...] = ((),)
    for axis in axes:
        grid = tuple(outer + inner for outer in grid for inner in positions(axis))
    assert positions(product(*axes)) == grid


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        (A, "a0:2"),
        (ONE, "1"),
        (EMPTY, "0"),
        (product(A, B), "(a0:2 a1:3)"),
        (concat(A, B, A), "(a0:2 + a1:3 + a0:2)"),
        (product(concat(A, B), C), "((a0:2 a2:4) + (a1:3 a2:4))"),
        (product(C, concat(A, B)), "(a2:4 (a0:2 + a1:3))"),
    ],
)
def test_notation(axis: Axis, text: str) -> None:
    assert str(axis) == text


def test_parts() -> None:
    axis = product(C, concat(A, B))
    assert list(atoms(axis)) == [C, A, B]
    assert factors_of(axis) == (C, concat(A, B))
    assert factors_of(A) == terms_of(A) == (A,)
    assert terms_of(concat(A, B)) == (A, B)

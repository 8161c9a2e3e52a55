"""Unification: its laws, the cases that models are made of, and its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.axes import MAX_TERMS, Axis, Solver, atoms, concat, product, terms_of
from tests.axes.strategies import labelled, names, parse, sizes, trees, units
from tests.positions import positions

SIZES = st.sampled_from([1, 2, 4, 6, 12, 24, 30])


@given(st.data(), SIZES)
def test_unified_axes_are_equal_in_all_that_can_be_cut(data: st.DataObject, size: int) -> None:
    solver: Solver[str] = Solver()
    a, b = data.draw(trees(solver, size)), data.draw(trees(solver, size))
    solver.unify(a, b)
    assert labelled(solver, a) == labelled(solver, b)
    if solver.resolve(a) != solver.resolve(b):
        assert solver.frozen


@given(st.data(), SIZES)
def test_sizes_are_kept(data: st.DataObject, size: int) -> None:
    solver: Solver[str] = Solver()
    axes = [data.draw(trees(solver, size)) for _ in range(3)]
    for other in axes[1:]:
        solver.unify(axes[0], other)
    assert {solver.resolve(axis).size for axis in axes} == {size}
    assert {len(positions(solver.resolve(axis))) for axis in axes} == {size}


@given(st.data(), SIZES)
def test_unifying_again_changes_nothing(data: st.DataObject, size: int) -> None:
    solver: Solver[str] = Solver()
    a, b = data.draw(trees(solver, size)), data.draw(trees(solver, size))
    solver.unify(a, b)
    before, conflict = units(solver, a), bool(solver.frozen)
    solver.unify(a, b)
    solver.unify(b, a)
    assert units(solver, a) <= before  # the second time a conflict may be found further inside
    assert conflict or units(solver, a) == before


@given(st.data(), SIZES)
def test_the_order_of_two_does_not_matter(data: st.DataObject, size: int) -> None:
    solver: Solver[str] = Solver()
    a, b = data.draw(trees(solver, size)), data.draw(trees(solver, size))
    other: Solver[str] = Solver(sizes=list(solver.sizes), depths=list(solver.depths))
    solver.unify(a, b)
    other.unify(b, a)
    assert units(solver, a) == units(other, a)
    assert units(solver, b) == units(other, b)


@given(st.data(), SIZES)
def test_three_axes_agree_whatever_comes_first(data: st.DataObject, size: int) -> None:
    solver: Solver[str] = Solver()
    axes = [data.draw(trees(solver, size)) for _ in range(3)]
    pairs = data.draw(st.permutations([(0, 1), (1, 2), (0, 2)]))
    for one, two in pairs:
        solver.unify(axes[one], axes[two])
    assert labelled(solver, axes[0]) == labelled(solver, axes[1]) == labelled(solver, axes[2])


@given(st.data(), SIZES)
def test_a_frozen_part_freezes_what_it_meets(data: st.DataObject, size: int) -> None:
    solver: Solver[str] = Solver()
    a, b = data.draw(trees(solver, size)), data.draw(trees(solver, size))
    solver.freeze(a, "why")
    solver.unify(a, b)
    assert solver.is_frozen(b)
    assert {mark.reason for mark in solver.frozen.values()} <= {"why", "the graph takes its positions one by one"}


@given(st.data(), SIZES)
def test_pieces_make_up_the_whole(data: st.DataObject, size: int) -> None:
    solver: Solver[str] = Solver()
    axis = data.draw(trees(solver, size))
    first = data.draw(st.integers(0, size))
    pieces = solver.split(axis, [first, size - first])
    assert [piece.size for piece in pieces] == [first, size - first]
    assert labelled(solver, concat(*pieces)) == labelled(solver, axis)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("12", "12", "12"),
        ("12", "(3 4)", "(3 4)"),
        ("(3 4)", "(3 4)", "(3 4)"),
        ("(2 6)", "(4 3)", "(2 2 3)"),
        ("(6 4)", "(2 12)", "(2 3 4)"),
        ("(6 4)", "(2 3 4)", "(2 3 4)"),
        ("(2 1 3)", "6", "(2 3)"),
        ("12", "(5 + 7)", "(5 + 7)"),
        ("(5 + 7)", "(3 + 9)", "(3 + 2 + 7)"),
        ("(1 + 11)", "(11 + 1)", "(1 + 10 + 1)"),
        ("((5 + 7) 2)", "24", "((5 2) + (7 2))"),
        ("(4 + 8)", "(6 2)", "((2 2) + (4 2))"),
        ("(2 (3 + 4))", "(2 7)", "(2 (3 + 4))"),
        ("(2 (3 + 4))", "14", "(2 (3 + 4))"),
        ("(2 (3 + 3))", "(4 3)", "(2 (3 + 3))"),
        ("(2 (3 + 4) 5)", "(2 7 5)", "(2 ((3 5) + (4 5)))"),
        ("(3 4)", "(4 3)", None),
        ("(5 + 7)", "(6 2)", None),
    ],
)
def test_the_common_refinement(one: str, other: str, both: str | None) -> None:
    solver: Solver[str] = Solver()
    a, b = parse(one, solver), parse(other, solver)
    solver.unify(a, b)
    if both is None:
        assert solver.is_frozen(a)
        assert solver.is_frozen(b)
    else:
        assert sizes(solver.resolve(a)) == sizes(solver.resolve(b)) == both
        assert solver.resolve(a) == solver.resolve(b)
        assert not solver.frozen


@pytest.mark.parametrize(
    ("one", "other", "first", "second"),
    [
        ("(4 6)", "(6 4)", "(2 [2 3] 2)", "(2 [3 2] 2)"),
        ("(4 12)", "(6 8)", "(2 [2 3] 4)", "(2 [3 2] 4)"),
        ("(3 4 5)", "(4 3 5)", "([3 4] 5)", "([4 3] 5)"),
        ("(5 3 4)", "(5 4 3)", "(5 [3 4])", "(5 [4 3])"),
        ("(4 (2 + 3))", "(10 2)", "", ""),
    ],
)
def test_what_two_ways_to_count_have_in_common_stays_free(one: str, other: str, first: str, second: str) -> None:
    """What is frozen stands in brackets; the same atoms are outside of them."""
    solver: Solver[str] = Solver()
    a, b = parse(one, solver), parse(other, solver)
    solver.unify(a, b)
    shown = [
        " ".join(f"[{x.size}]" if x.id in solver.frozen else f"{x.size}" for x in atoms(solver.resolve(axis)))
        for axis in (a, b)
    ]
    if first:
        assert [f"({text.replace('] [', ' ')})" for text in shown] == [first, second]
        free = [[x for x in atoms(solver.resolve(axis)) if x.id not in solver.frozen] for axis in (a, b)]
        assert free[0] == free[1]
    assert labelled(solver, a) == labelled(solver, b)


def test_twelve_as_three_by_four_and_four_by_three_is_frozen_with_the_reason() -> None:
    solver: Solver[str] = Solver()
    a, b = parse("(3 4)", solver), parse("(4 3)", solver)
    solver.unify(a, b, "view")
    marks = set(solver.frozen.values())
    assert {mark.reason for mark in marks} == {"it is cut as (a0:3 a1:4) here and as (a2:4 a3:3) there"}
    assert {mark.cause for mark in marks} == {"view"}


def test_what_is_inside_a_conflict_stays_free() -> None:
    solver: Solver[str] = Solver()
    a, b = parse("(3 4 5)", solver), parse("(4 3 5)", solver)
    solver.unify(a, b)
    assert len(units(solver, a)) == 5


def test_axes_of_different_sizes() -> None:
    solver: Solver[str] = Solver()
    with pytest.raises(ValueError, match=r"can't be unified: a0:3 has 3, a1:4 has 4"):
        solver.unify(solver.fresh(3), solver.fresh(4))


def rotated(solver: Solver[str], heads: Axis) -> None:
    """What rotary embedding does to the dims of a head: the second half comes before the first."""
    first, second = solver.split(heads, [heads.size // 2, heads.size // 2])
    solver.unify(concat(second, first), heads)


def test_rotary_ties_both_halves() -> None:
    solver: Solver[str] = Solver()
    rows, head, dims = solver.fresh(24), solver.fresh(3), solver.fresh(8)
    solver.unify(rows, product(head, dims))
    rotated(solver, dims)
    assert names(solver.resolve(rows)) == "(a (b + b))"


def test_grouped_queries() -> None:
    solver: Solver[str] = Solver()
    query, key, dims = solver.fresh(48), solver.fresh(16), solver.fresh(8)
    group, repeat = solver.fresh(2), solver.fresh(3)
    solver.unify(key, product(group, dims))
    solver.unify(query, product(solver.fresh(6), solver.fresh(8)))
    solver.unify(query, product(group, repeat, dims))
    rotated(solver, dims)
    known: dict = {}
    assert names(solver.resolve(key), known) == "(a (b + b))"
    assert names(solver.resolve(query), known) == "(a c (b + b))"


def test_fused_qkv_one_after_the_other() -> None:
    solver: Solver[str] = Solver()
    rows, (head, dims, value) = solver.fresh(72), (solver.fresh(3), solver.fresh(8), solver.fresh(8))
    query, key, values = solver.split(rows, [24, 24, 24])
    for piece, inner in ((query, dims), (key, dims), (values, value)):
        solver.unify(piece, product(head, inner))
    assert names(solver.resolve(rows)) == "((a b) + (a b) + (a c))"


def test_fused_qkv_interleaved() -> None:
    solver: Solver[str] = Solver()
    rows, head, width = solver.fresh(72), solver.fresh(3), solver.fresh(24)
    solver.unify(rows, product(head, width))
    query, key, _ = solver.split(width, [8, 8, 8])
    solver.unify(query, key)
    assert names(solver.resolve(rows)) == "(a (b + b + c))"


def test_marks_go_over_to_the_parts() -> None:
    solver: Solver[str] = Solver()
    whole, part = solver.fresh(12), solver.fresh(4)
    solver.mark_statistics(whole, "mean")
    solver.unify(whole, product(solver.fresh(3), part))
    solver.freeze(part, "first")
    solver.freeze(whole, "second")
    assert solver.statistics[part.id].reason == "mean"  # type: ignore[union-attr]
    assert solver.frozen[part.id].reason == "first"  # type: ignore[union-attr]


LONG = 100_000


def longest(solver: Solver[str]) -> int:
    """The most terms of any axis, every one resolved."""
    return max(len(terms_of(axis)) for axis in solver.bindings.values())


def test_a_long_chain_of_equal_axes() -> None:
    solver: Solver[str] = Solver()
    first = last = solver.fresh(8)
    for _ in range(LONG):
        following = solver.fresh(8)
        solver.unify(last, following)
        last = following
    assert solver.resolve(last) == solver.resolve(first)
    assert len(solver.couplings) == LONG


def test_a_long_chain_of_views() -> None:
    solver: Solver[str] = Solver()
    first = last = solver.fresh(64)
    for index in range(LONG // 10):
        following = product(solver.fresh(8), solver.fresh(8)) if index % 2 else solver.fresh(64)
        solver.unify(last, following)
        last = following
    assert sizes(solver.resolve(first)) == "(8 8)"
    assert len(solver.couplings) < LONG


def test_a_long_chain_of_slices_is_frozen_before_it_is_too_deep() -> None:
    solver: Solver[str] = Solver()
    first = last = solver.fresh(LONG + 2)
    for _ in range(LONG):
        _, last = solver.split(last, [1, last.size - 1])
    assert solver.is_frozen(last)
    assert len(terms_of(solver.resolve(first))) <= MAX_TERMS
    assert longest(solver) <= MAX_TERMS


@pytest.mark.parametrize("pieces", [MAX_TERMS, MAX_TERMS + 1])
def test_a_sum_of_too_many_pieces_is_frozen(pieces: int) -> None:
    solver: Solver[str] = Solver()
    axis = solver.fresh(2 * pieces)
    solver.split(axis, [2] * pieces)
    assert solver.is_frozen(axis) == (pieces > MAX_TERMS)
    reasons = {mark.reason for mark in solver.frozen.values()}
    assert reasons <= {f"the graph cuts it into more than {MAX_TERMS} pieces"}


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=400), st.integers(1, 9))
def test_sums_cut_at_many_places(widths: list[int], at: int) -> None:
    solver: Solver[str] = Solver()
    size = sum(widths) + at
    coarse, fine = concat(solver.fresh(at), solver.fresh(size - at)), concat(*map(solver.fresh, [*widths, at]))
    solver.unify(coarse, fine)
    assert labelled(solver, coarse) == labelled(solver, fine)

"""Masks on axes and sums onto units, against a brute force over positions."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from graphprune.axes import Atom, Axis, atoms, concat, product
from graphprune.budget import size
from graphprune.masks import Keep, Kept, fold, keep_mask, kept_size
from tests.lockstep import kept_at
from tests.positions import positions

A, B, C, D = Atom(0, 2), Atom(1, 3), Atom(2, 4), Atom(3, 2)
PLAIN = [
    A,
    C,
    product(A, C),
    concat(C, A, C),
    product(A, concat(C, C)),
    concat(product(A, C), product(A, B)),
    product(C, A, A),
]
SLOTTED = [
    product(A, B),
    product(A, concat(B, B)),
    product(A, C, B),
    product(A, C, concat(B, B, D)),
    concat(product(A, B), product(A, C), product(A, B)),
    product(A, concat(product(C, B), B)),
]
"""Axes in which B stands in slots of A."""


@st.composite
def kept(draw: st.DrawFn, atom: Atom, slot: Atom | None = None) -> Kept:
    count = draw(st.integers(1, atom.size))
    rows = [draw(st.permutations(range(atom.size)))[:count] for _ in range(1 if slot is None else slot.size)]
    mask = torch.zeros(len(rows), atom.size, dtype=torch.bool)
    for row, units in enumerate(rows):
        mask[row, list(units)] = True
    return Kept(mask[0] if slot is None else mask, slot)


def check_mask(axis: Axis, keep: Keep) -> None:
    expected = kept_at(axis, keep, {})
    found = keep_mask(axis, keep)
    assert expected.all() if found is None else found.equal(expected)
    assert kept_size(axis, keep) == int(expected.sum()) == size(axis, {atom: each.count for atom, each in keep.items()})


@given(st.sampled_from(PLAIN + SLOTTED), kept(A), kept(B), kept(C))
def test_masks(axis: Axis, a: Kept, b: Kept, c: Kept) -> None:
    check_mask(axis, {A.id: a, B.id: b, C.id: c})


@given(st.sampled_from(SLOTTED), st.one_of(st.none(), kept(A)), kept(B, A), kept(C))
def test_masks_with_slots(axis: Axis, a: Kept | None, b: Kept, c: Kept) -> None:
    check_mask(axis, {B.id: b, C.id: c} | ({} if a is None else {A.id: a}))


@given(st.sampled_from(PLAIN + SLOTTED), st.booleans(), st.integers(0, 99))
def test_sums_onto_units(axis: Axis, slotted: bool, seed: int) -> None:
    values = torch.rand(axis.size, generator=torch.Generator().manual_seed(seed))
    slots = {B.id: A} if slotted and axis in SLOTTED else {}
    expected = {atom.id: torch.zeros(A.size if atom.id in slots else 1, atom.size) for atom in atoms(axis)}
    for value, units in zip(values, positions(axis), strict=True):
        for atom, unit in units:
            expected[atom][dict(units)[A.id] if atom in slots else 0, unit] += value
    found = fold(axis, values, slots)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(sums.reshape(-1, sums.shape[-1]), expected[atom]) for atom, sums in found.items())

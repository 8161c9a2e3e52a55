"""Random models are pruned at random and verified, value by value: none unequal, none crashing."""

from __future__ import annotations

from collections import Counter

import pytest

from graphprune.rules import axis_rules
from tests.properties.check import kind, problem
from tests.properties.programs import BLOCKS, Step, describe, model, program, smallest, without

FAST, SLOW, BATCH = 40, 2000, 10
FIRST_SLOW = 1000


def check(seeds: range) -> Counter[str]:
    """Check random programs; one that fails is printed in the smallest form that fails in the same way."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        steps = program(seed)
        found = problem(steps, seed, seen)
        if found is not None:
            small = smallest(steps, lambda shorter, seed=seed, found=found: kind(problem(shorter, seed)) == kind(found))  # type: ignore[misc]
            pytest.fail(f"program({seed}): {problem(small, seed)}\n{describe(small)}")
    return seen


@pytest.mark.parametrize("start", range(0, FAST, BATCH))
def test_some_random_models(start: int) -> None:
    seen = check(range(start, start + BATCH))
    assert seen["models with a cut"] >= BATCH // 2
    assert seen["values cut"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("start", range(FIRST_SLOW, FIRST_SLOW + SLOW, 100))
def test_thousands_of_random_models(start: int) -> None:
    seen = check(range(start, start + 100))
    assert seen["models with a cut"] >= 90
    assert seen["slots"] > 0
    assert seen["statistics"] > 0


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_by_itself(name: str) -> None:
    """Twice in a row, so that what one leaves the other gets."""
    count = BLOCKS[name].__code__.co_argcount - 1
    for seed in range(2):
        steps = (Step("linear", (0,), seed), Step(name, (1,) * count, seed + 2), Step(name, (2,) * count, seed + 4))
        found = problem(steps, seed)
        assert found is None, f"{found}\n{describe(steps)}"


BROKEN = {
    "aten::softmax": ("aten::relu", "distribution"),
    "aten::exp": ("aten::relu", "linear"),
    "aten::cumsum": ("aten::relu", "distribution"),
    "aten::flip": ("aten::relu", "moved"),
    "aten::var": ("aten::sum", "reduced"),
    "aten::mean": ("aten::sum", "reduced"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that is given the rule of another one."""
    other, block = BROKEN[name]
    monkeypatch.setitem(axis_rules, name, axis_rules[other])
    programs = [
        (Step("linear", (0,), 7 * seed), Step(block, (1,), seed), Step("linear", (2,), 3)) for seed in range(40)
    ]
    assert any(problem(steps, 0) is not None for steps in programs)


def test_programs_are_the_same_each_time() -> None:
    steps = program(5)
    assert program(5) == steps
    first, second = model(steps).state_dict(), model(steps).state_dict()
    assert first.keys() == second.keys()
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_what_fails_is_made_small() -> None:
    steps = program(7)
    assert len(steps) > 3
    culprit = steps[2].block
    small = smallest(steps, lambda shorter: any(step.block == culprit for step in shorter))
    assert [step.block for step in small] == [culprit]
    assert describe(small).startswith(f"v1 = {culprit}(")
    assert without(steps[:2], 0)[0].reads <= (0,) * 4

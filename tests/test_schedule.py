"""Schedules of sparsity."""

import pytest

from graphprune.errors import TrainingError
from graphprune.schedule import SCHEDULES, cubic, schedule_by_name


@pytest.mark.parametrize(
    ("progress", "ratio"),
    [(0, 0), (0.05, 0), (0.1, 0), (0.3, 0.5 * (1 - 0.75**3)), (0.5, 0.4375), (0.9, 0.5), (0.95, 0.5), (1, 0.5)],
)
def test_cubic(progress: float, ratio: float) -> None:
    assert cubic(progress, 0.5) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("name", "ratio"), [("cubic", 0.4375), ("linear", 0.25), ("exponential", 1 - 0.5**0.5), ("one-shot", 0.5)]
)
def test_halfway(name: str, ratio: float) -> None:
    assert SCHEDULES[name](0.5, 0.5) == pytest.approx(ratio)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_never_falls_and_ends_at_the_final_ratio(name: str) -> None:
    values = [SCHEDULES[name](step / 100, 0.3, warmup=0.2, cooldown=0.25) for step in range(101)]
    assert values == sorted(values)
    assert values[19] == 0
    assert values[20] == (0.3 if name == "one-shot" else 0)
    assert all(0 < value <= 0.3 for value in values[21:75])
    assert values[75:] == [0.3] * 26


def test_no_warmup_and_no_cooldown() -> None:
    assert cubic(0, 0.5, warmup=0, cooldown=0) == 0
    assert cubic(1, 0.5, warmup=0, cooldown=0) == 0.5


def test_an_unknown_schedule() -> None:
    with pytest.raises(TrainingError) as error:
        schedule_by_name("steep")
    assert str(error.value) == "there is no schedule 'steep': use one of cubic, linear, exponential, one-shot"

"""What happens at each step: when units are scored, how much is pruned, and a training loop without a Trainer."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader

import graphprune as gp
from graphprune.errors import TrainingError
from graphprune.schedule import SCHEDULES
from graphprune.training.finetune import Windows

from .processes import BATCH, CONFIG, STEPS, train
from .tiny import random_windows, tiny_llama, tiny_with_adapters, unmasked


@pytest.fixture(scope="module")
def traced() -> gp.TracedModel:
    return gp.trace(tiny_llama())


def pruner_of(traced: gp.TracedModel, steps: int, **settings: Any) -> gp.Pruner:
    """A pruner that needs no gradients, and so no training around it."""
    return gp.Pruner(traced, gp.PruneConfig(**{"ratio": 0.3, "criterion": "magnitude", **settings}), steps)


def shares(pruner: gp.Pruner, steps: int) -> list[float]:
    """The share that is pruned after each step."""
    found = []
    for number in range(1, steps + 1):
        with pruner.step(number):
            pass
        found.append(pruner.removed)
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_schedule_is_followed(name: str, traced: gp.TracedModel) -> None:
    pruner = pruner_of(traced, 20, schedule=name, interval=1, warmup=0.25, cooldown=0.2)
    found = shares(pruner, 20)
    wanted = [SCHEDULES[name](step / 20, 0.3, warmup=0.25, cooldown=0.2) for step in range(1, 21)]
    assert found == pytest.approx(wanted, abs=0.01)
    assert found[:4] == [0] * 4
    assert len(set(found[:16])) > 5 if name != "one-shot" else set(found) == {0, found[-1]}
    assert found[15:] == [found[-1]] * 5
    assert pruner.plan.about["step"] == 16


@pytest.mark.parametrize(("interval", "changes"), [(1, list(range(3, 19))), (5, [5, 10, 15, 18]), (50, [18])])
def test_units_are_pruned_at_every_interval_and_where_cooldown_begins(
    interval: int, changes: list[int], traced: gp.TracedModel
) -> None:
    pruner = pruner_of(traced, 20, schedule="linear", interval=interval)
    assert [step for step in range(1, 21) if step <= 18 and pruner.is_due(step) and pruner.target(step)] == changes
    found = [0.0, *shares(pruner, 20)]
    grown = [step for step in range(1, 21) if found[step] > found[step - 1]]
    assert set(grown) <= set(changes)
    assert grown[-1] == 18
    assert not any(pruner.is_due(step) for step in range(18, 30))


@pytest.mark.parametrize(
    ("steps", "cooldown", "last"), [(1, 0.0, 1), (1, 0.9, 1), (3, 0.0, 3), (10, 0.1, 9), (7, 0.25, 6), (1000, 0.1, 900)]
)
def test_the_last_step_at_which_something_is_pruned(
    steps: int, cooldown: float, last: int, traced: gp.TracedModel
) -> None:
    pruner = pruner_of(traced, steps, cooldown=cooldown, warmup=0, interval=10**6)
    assert pruner.last_step == last
    assert pruner.target(last) == 0.3
    with pruner.step(last):
        pass
    assert pruner.removed == pytest.approx(0.3, abs=0.01)


def test_a_training_that_ends_early_is_pruned_as_far_as_it_came(traced: gp.TracedModel) -> None:
    pruner = pruner_of(traced, 20, schedule="linear", interval=1, warmup=0, cooldown=0)
    assert shares(pruner, 10)[-1] == pytest.approx(0.15, abs=0.01)


def test_the_step_that_a_gradient_scaler_leaves_out_is_made_up_for() -> None:
    """Also the last one: what it did not prune goes with the next."""
    model = tiny_with_adapters()
    pruner = gp.Pruner(gp.trace(model), CONFIG, STEPS)
    ids = random_windows()[:2]
    model(input_ids=ids, labels=ids).loss.backward()
    gradient = next(p.grad for p in model.parameters() if p.grad is not None)
    whole = gradient.clone()
    gradient.fill_(math.inf)
    with pytest.raises(TrainingError, match=r"^the loss or its gradients are not finite at step 9: "):
        pruner.before_step(9)
    pruner.before_step(9, scaled=True)
    assert not pruner.plan.groups
    gradient.copy_(whole)
    pruner.before_step(10, scaled=True)
    assert pruner.removed == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_scores_are_a_moving_average(decay: float) -> None:
    model = tiny_llama()
    traced = gp.trace(model)
    pruner = pruner_of(traced, 100, interval=1, warmup=0.5, decay=decay)
    expected: dict[str, torch.Tensor] = {}
    for number in range(1, 4):
        newest = gp.score(traced, "magnitude")
        expected = {n: v if number == 1 else decay * expected[n] + (1 - decay) * v for n, v in newest.items()}
        with pruner.step(number), torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert pruner.scores is not None
    assert pruner.scores.keys() == {group.name for group in traced.groups.prunable}
    for name, values in pruner.scores.items():
        assert torch.allclose(values, expected[name]), name


def test_nothing_is_cut_before_something_is_pruned(traced: gp.TracedModel) -> None:
    with pytest.raises(TrainingError, match=r"^nothing is pruned yet: train beyond the warm-up first$"):
        pruner_of(traced, 10).compact()


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(True)
    yield Accelerator(cpu=True, mixed_precision="no", gradient_accumulation_steps=2)
    AcceleratorState._reset_state(True)


def test_a_loop_with_accelerate_and_accumulated_gradients(accelerator: Accelerator) -> None:
    """It makes the plan of a loop without accelerate, whose batches are twice as large."""
    model = tiny_with_adapters()
    pruner = gp.Pruner(gp.trace(model), CONFIG, STEPS)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    loader: Any = DataLoader(Windows(random_windows(BATCH * STEPS)), batch_size=BATCH // 2)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)  # type: ignore[assignment]
    step = 0
    for batch in loader:
        with accelerator.accumulate(wrapped):
            accelerator.backward(wrapped(**batch).loss)
            if accelerator.sync_gradients:
                step += 1
                with pruner.step(step):
                    optimizer.step()
            optimizer.zero_grad()
    assert step == STEPS
    assert unmasked(model, pruner.traced, pruner.plan) == []
    assert pruner.plan == train(lambda module: module).plan
    assert pruner.compact(adapters="merge").ratio == pytest.approx(0.3, abs=0.01)

"""Pruning by gates while training: seen in the forward and backward passes of the steps that are due."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import graphprune as gp
from graphprune.errors import TrainingError

from .tiny import plain_trainer, random_windows, tiny_with_adapters

SETTINGS: dict[str, Any] = {"ratio": 0.3, "criterion": "fisher", "normalize": None, "interval": 3}


@pytest.mark.parametrize("more", [{}, {"compaction": 0.1}], ids=str)
def test_a_model_is_pruned_by_gates_in_an_unmodified_trainer(more: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_with_adapters()
    callback = gp.LoRAPruneCallback(**SETTINGS, **more)
    hooks: list[bool] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            hooks.append(any(module._forward_pre_hooks for module in kwargs["model"].modules()))

    trainer = plain_trainer(model, tmp_path, callback, save_strategy="no")
    trainer.callback_handler.callbacks.insert(0, Watch())
    trainer.train()
    due = [step for step, seen in enumerate(hooks, start=1) if seen]
    assert due == [3, 6, 9, 12, 15, 18]
    assert callback.pruner.removed == pytest.approx(0.3, abs=0.01)
    assert callback.scores is not None
    assert callback.scores.criterion == "fisher"
    assert callback.compact().report is not None


@pytest.mark.slow
def test_accumulated_and_checkpointed_passes_give_what_plain_ones_give(tmp_path: Path) -> None:
    scores = []
    for name, settings in {"plain": {}, "checkpointed": {"gradient_checkpointing": True}}.items():
        torch.manual_seed(0)
        callback = gp.LoRAPruneCallback(**SETTINGS)
        plain_trainer(tiny_with_adapters(), tmp_path / name, callback, save_strategy="no", **settings).train()
        scores.append(callback.scores)
    first, second = scores
    assert first is not None
    assert second is not None
    for group in first:
        torch.testing.assert_close(first[group], second[group], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (SETTINGS, "the criterion 'fisher' has seen no backward pass"),
        ({"ratio": 0.5, "make_up": "weights"}, "making up has seen no forward pass"),
    ],
)
def test_a_plain_loop_is_told_to_watch_where_the_first_step_is_due(settings: dict[str, Any], what: str) -> None:
    model = tiny_with_adapters()
    windows = random_windows()[:2]
    pruner = gp.Pruner(gp.trace(model), gp.PruneConfig(**{**settings, "interval": 1}), 4)
    model(input_ids=windows, labels=windows).loss.backward()
    with pytest.raises(TrainingError) as caught:
        pruner.before_step(1)
    assert str(caught.value) == (
        f"{what} before step 1: call pruner.watch(number) before the forward passes of each step"
    )
    pruner.watch(1)
    model(input_ids=windows, labels=windows).loss.backward()
    with pruner.step(1):
        pass
    assert pruner.scores is not None

"""What the loggers of a Trainer see of pruning, and the history that a run keeps."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

import graphprune as gp
from graphprune.training.metrics import LoggedStep, history_of

from .tiny import plain_trainer, tiny_with_adapters


class Recorder(TrainerCallback):
    """A logger as TensorBoard's: made by the Trainer from ``report_to``, and called before a user's callbacks."""

    seen: list[tuple[int, dict[str, float]]]

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.seen.append((state.global_step, dict(logs)))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, float]]]:
    """What a logger gets that ``report_to="recorder"`` names."""
    monkeypatch.setattr(Recorder, "seen", [], raising=False)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    return Recorder.seen


def test_loggers_get_what_is_pruned_at_each_pruning(seen: list[tuple[int, dict[str, float]]], tmp_path: Path) -> None:
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=4)
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, callback, report_to="recorder", save_strategy="no")
    trainer.train()
    of_steps = {step: logs for step, logs in seen if "loss" in logs}
    assert list(of_steps) == [4, 8, 12, 16, 18]  # the default of the Trainer is each 500
    shares = [logs["graphprune/sparsity"] for logs in of_steps.values()]
    assert shares == sorted(shares)
    assert of_steps[18].items() >= callback.pruner.metrics.items()
    assert callback.pruner.metrics["graphprune/sparsity"] == callback.pruner.removed
    kept = sum(group.count for name, group in callback.plan.groups.items() if name.endswith(":channels"))
    assert of_steps[18]["graphprune/kept_channels"] == pytest.approx(kept / 96)
    assert set(of_steps[18]) == {"loss", "grad_norm", "learning_rate", "epoch", *callback.pruner.metrics}
    assert callback.history == tuple(
        LoggedStep(step, logs["loss"], logs["graphprune/sparsity"]) for step, logs in of_steps.items()
    )
    assert all("graphprune/sparsity" not in logs for _, logs in seen if "loss" not in logs)


@pytest.mark.slow
def test_a_trainer_that_logs_as_it_was_told_logs_all_of_it(
    seen: list[tuple[int, dict[str, float]]], tmp_path: Path
) -> None:
    callback = gp.LoRAPruneCallback(ratio=0.3, interval=50)
    arguments: dict[str, Any] = {"report_to": "recorder", "save_strategy": "no", "max_steps": 4}
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, callback, logging_steps=1, **arguments)
    trainer.train()
    trainer.train()  # the metrics are there once, of the training that is going on
    steps = [step for step, logs in seen if "graphprune/sparsity" in logs]
    assert steps == [1, 2, 3, 4, 1, 2, 3, 4]
    assert sum("Metrics" in type(each).__name__ for each in trainer.callback_handler.callbacks) == 1

    seen.clear()
    plain_trainer(
        tiny_with_adapters(),
        tmp_path,
        gp.LoRAPruneCallback(ratio=0.3, interval=1),
        logging_strategy="no",
        **arguments,
    ).train()
    assert not [logs for _, logs in seen if "loss" in logs]


@pytest.mark.slow
def test_the_history_goes_on_in_a_resumed_training(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ratio": 0.3, "interval": 3}
    whole, resumed = gp.LoRAPruneCallback(**settings), gp.LoRAPruneCallback(**settings)
    assert whole.history == ()
    plain_trainer(tiny_with_adapters(), tmp_path, whole, logging_steps=2).train()
    trainer = plain_trainer(tiny_with_adapters(), tmp_path, resumed, logging_steps=2)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-14"))
    # 16 and not 15: a step at which something is pruned is logged beside those that the Trainer logs
    assert [each.step for each in resumed.history] == [2, 3, 4, 6, 8, 9, 10, 12, 14, 15, 16, 18, 20]
    assert resumed.history == whole.history


def test_logs_without_pruning() -> None:
    assert history_of([{"loss": 2.0, "step": 1}, {"eval_loss": 1.0, "step": 1}]) == (LoggedStep(1, 2.0, None),)

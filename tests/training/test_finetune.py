"""A run of fine-tuning and pruning: its result, its directory, and what an interruption leaves."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import graphprune as gp
from graphprune.errors import FileFormatError, OutputExistsError, TrainingError, TrainingInterrupted
from graphprune.training.config import PruneConfig
from graphprune.training.finetune import TuneProgress, TuneResult, prune_while_tuning

from .tiny import random_windows, tiny_llama, unmasked

ROOT = Path(__file__).resolve().parents[2]

CONFIG = PruneConfig(ratio=0.3, steps=18, interval=3, lora_rank=4, learning_rate=1e-2, save_steps=7)


def run(directory: Path, config: PruneConfig = CONFIG, **options: object) -> TuneResult:
    return prune_while_tuning(tiny_llama(), None, random_windows(), config, directory, **options)  # type: ignore[arg-type]


def assert_same(result: TuneResult, expected: TuneResult) -> None:
    assert result.plan == expected.plan
    assert result.history == expected.history
    assert [each.step for each in result.history] == list(range(1, len(result.history) + 1))
    assert result.scores is not None
    assert expected.scores is not None
    assert all(torch.equal(result.scores[name], value) for name, value in expected.scores.items())
    pairs = zip(result.traced.module.named_parameters(), expected.traced.module.parameters(), strict=True)
    for (name, value), other in pairs:
        assert torch.equal(value, other), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    return run(tmp_path_factory.mktemp("uninterrupted") / "run")


def test_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[TuneProgress] = []
    result = run(tmp_path / "run", progress=seen.append)
    assert [each.step for each in seen] == list(range(1, 19))
    assert (seen[0].total, seen[0].sparsity, seen[0].target) == (18, 0, 0.3)
    assert seen[-1].sparsity == pytest.approx(0.3, abs=0.01)
    assert result.losses == tuple(each.loss for each in seen)
    assert unmasked(result.traced.module, result.traced, result.plan) == []
    compact = gp.rewrite(result.traced, result.plan, adapters="merge")
    assert compact.ratio == pytest.approx(seen[-1].sparsity)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint-14",
        "checkpoint-18",
        "config.json",
        "run.json",
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_settings_that_a_run_saves_reproduce_it(tmp_path: Path, uninterrupted: TuneResult) -> None:
    run(tmp_path / "first", CONFIG)
    saved = PruneConfig.from_json((tmp_path / "first" / "config.json").read_text(encoding="utf-8"))
    assert saved == CONFIG
    assert_same(run(tmp_path / "second", saved), uninterrupted)


def test_homogeneous(tmp_path: Path) -> None:
    result = run(tmp_path / "run", replace(CONFIG, homogeneous=True))
    compact = gp.rewrite(result.traced, result.plan, adapters="merge")
    families: dict[str, set[int]] = {}
    for name, group in result.plan.groups.items():
        families.setdefault(result.traced.groups[name].family, set()).add(group.count)
    assert all(len(counts) == 1 for counts in families.values())
    assert compact.ratio == pytest.approx(0.3, abs=0.05)


def press_ctrl_c_at(step: int, now: TuneProgress) -> None:
    if now.step == step:
        os.kill(os.getpid(), signal.SIGINT)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("step", [7, *(pytest.param(step, marks=SLOW) for step in (1, 10, 18))])
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(step: int, tmp_path: Path, uninterrupted: TuneResult) -> None:
    directory = tmp_path / "run"
    with pytest.raises(TrainingInterrupted) as error:
        run(directory, progress=lambda now: press_ctrl_c_at(step, now))
    assert str(error.value) == (
        f"interrupted; {directory / f'checkpoint-{step}'} holds step {step} of 18: go on from it with --resume"
    )
    assert_same(run(directory, resume=True), uninterrupted)
    assert_same(run(directory, resume=True), uninterrupted)  # from the end there is nothing to do


@pytest.mark.slow
def test_a_keyboard_interrupt_of_the_caller(tmp_path: Path, uninterrupted: TuneResult) -> None:
    def stop(now: TuneProgress) -> None:
        if now.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted, match="holds step 5 of 18"):
        run(tmp_path / "run", progress=stop)
    assert_same(run(tmp_path / "run", resume=True), uninterrupted)


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path: Path, uninterrupted: TuneResult) -> None:
    directory = tmp_path / "run"
    run(directory)
    (directory / "checkpoint-18" / "graphprune").rename(tmp_path / "state")
    assert_same(run(directory, resume=True), uninterrupted)


KILLS = ["step 1", "step 3", "step 10", "step 18", "scored 3", "masked 3", "masked 12"]
KILLS += [f"write {number}" for number in range(1, 56, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("where", KILLS)
def test_a_run_that_was_killed(where: str, tmp_path: Path, uninterrupted: TuneResult) -> None:
    """See ``killed.py`` for what the places are called."""
    directory = tmp_path / "run"
    command = [sys.executable, "-m", "tests.training.killed", str(directory), where]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert_same(run(directory, resume=True), uninterrupted)


@pytest.mark.slow
def test_half_of_an_old_checkpoint_is_not_gone_on_from(tmp_path: Path, uninterrupted: TuneResult) -> None:
    """Killed while it was removed, it was changed last, and would outlive the newer ones."""
    directory = tmp_path / "run"
    run(directory, replace(CONFIG, save_steps=3))
    (directory / "checkpoint-15" / "optimizer.pt").unlink()
    assert_same(run(directory, replace(CONFIG, save_steps=3), resume=True), uninterrupted)
    assert [path.name for path in directory.glob("checkpoint-*")] == ["checkpoint-18"]


@pytest.mark.slow
def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path, uninterrupted: TuneResult) -> None:
    directory = tmp_path / "run"
    run(directory)
    for path in directory.glob("checkpoint-*"):
        path.rename(tmp_path / path.name)
    assert_same(run(directory, resume=True), uninterrupted)


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    run(directory)
    damaged = directory / "checkpoint-18" / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(FileFormatError) as error:
        run(directory, resume=True)
    assert str(error.value).startswith(f"{damaged} is damaged (")
    assert str(error.value).endswith(f"remove {directory / 'checkpoint-18'} to go on from the checkpoint before it")


def test_a_directory_that_exists(tmp_path: Path) -> None:
    run(tmp_path / "run", replace(CONFIG, steps=1))
    with pytest.raises(OutputExistsError) as error:
        run(tmp_path / "run")
    assert str(error.value) == (
        f"The directory {tmp_path / 'run'} holds a run already: go on with it with --resume, or give another name."
    )


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        run(tmp_path / "run", resume=True)
    assert str(error.value) == f"there is no run in {tmp_path / 'run'} to go on with: start it without --resume"


def test_another_run(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    run(directory, replace(CONFIG, steps=1))
    with pytest.raises(TrainingError) as error:
        run(directory, resume=True)
    assert str(error.value) == (
        f"{directory} is of a run with steps=1 and not 18: go on with the same settings, or start a new run"
    )
    with pytest.raises(TrainingError) as error:
        prune_while_tuning(tiny_llama(layers=1), None, random_windows(), CONFIG, directory, resume=True)
    assert str(error.value) == f"the run in {directory} is of another model: go on with that, or start a new run"
    with pytest.raises(TrainingError) as error:
        prune_while_tuning(tiny_llama(), None, random_windows()[1:], CONFIG, directory, resume=True)
    assert str(error.value) == f"the run in {directory} is of another text: go on with that, or start a new run"


def test_a_run_that_fails_at_its_beginning_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(gp.GraphPruneError, match="can't be removed"):
        run(tmp_path / "run", replace(CONFIG, ratio=0.99))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_submodule("model.norm").weight[0] = torch.nan  # type: ignore[index]
    with pytest.raises(TrainingError, match=r"^the loss or its gradients are not finite at step 1: "):
        prune_while_tuning(model, None, random_windows(), CONFIG, tmp_path / "run")


def test_windows_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as error:
        prune_while_tuning(tiny_llama(), None, random_windows()[0], CONFIG, tmp_path / "run")
    assert str(error.value) == "tuning needs windows of token ids [n >= 1, length >= 2], not [12]"

"""Two processes that train one model: each ends with the plan that one process alone makes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import graphprune as gp
from graphprune.distributed import own_positions
from graphprune.errors import TrainingError
from graphprune.passes.slice_parameters import is_zero_where_masked

from .processes import BATCH, CONFIG, sharded, train, train_with_cuts, train_with_trainer
from .tiny import tiny_with_adapters

ROOT = Path(__file__).resolve().parents[2]


def run(mode: str, directory: Path) -> list[gp.PruningPlan]:
    """The plan of each of two processes."""
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--module", "tests.training.processes", mode, str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [gp.PruningPlan.load(directory / f"plan-{rank}.json") for rank in range(2)]


def assert_trained_as(pruner: gp.Pruner, directory: Path) -> None:
    """Both processes have the weights that one process alone ends with, and zeros for what is pruned."""
    first, second = (load_file(directory / f"weights-{rank}.safetensors") for rank in range(2))
    masks = pruner.plan.masks(pruner.traced)
    for name, expected in pruner.traced.module.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], expected, atol=1e-4), name
        assert is_zero_where_masked(first[name], masks[name]), name


@pytest.fixture(scope="module")
def alone() -> gp.Pruner:
    return train(lambda model: model)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "ddp with accumulation", "fsdp", "callback with fsdp"])
def test_two_processes_make_the_plan_that_one_makes(mode: str, alone: gp.Pruner, tmp_path: Path) -> None:
    assert run(mode, tmp_path) == [alone.plan, alone.plan]
    assert_trained_as(alone, tmp_path)


@pytest.mark.slow
def test_two_processes_with_a_trainer(tmp_path: Path) -> None:
    expected = train_with_trainer(tmp_path / "alone", BATCH)
    assert run("trainer with ddp", tmp_path) == [expected.plan, expected.plan]
    assert_trained_as(expected, tmp_path)


@pytest.mark.slow
def test_two_processes_cut_the_model_on_the_way(tmp_path: Path) -> None:
    expected = train_with_cuts(tmp_path / "alone", BATCH)
    assert run("trainer with ddp that cuts", tmp_path) == [expected.plan, expected.plan]
    first, second = (load_file(tmp_path / f"weights-{rank}.safetensors") for rank in range(2))
    for name, weight in expected.traced.module.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], weight, atol=1e-4), name


@pytest.mark.slow
def test_a_wrapper_with_a_hook_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as error:
        run("ddp with a hook", tmp_path)
    assert (
        "TrainingError: compaction can't cut a model in a DistributedDataParallel with a communication hook: use "
        "compaction=None"
    ) in str(error.value)


@pytest.mark.slow
def test_two_processes_go_on_between_two_prunings(tmp_path: Path) -> None:
    """Each has seen other inputs since the last one, whose second moments are in the checkpoint."""
    plans = run("trainer with ddp that goes on", tmp_path)
    for rank, plan in enumerate(plans):
        assert plan == gp.PruningPlan.load(tmp_path / f"plan-without-a-stop-{rank}.json")
        expected = load_file(tmp_path / f"weights-without-a-stop-{rank}.safetensors")
        found = load_file(tmp_path / f"weights-{rank}.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.slow
def test_scores_are_averaged_where_gradients_are_not(tmp_path: Path) -> None:
    """Without a wrapper that averages gradients each process trains a model of its own, and would prune it alone."""
    first, second = run("gradients of their own", tmp_path)
    assert first == second
    weights = [load_file(tmp_path / f"weights-{rank}.safetensors") for rank in range(2)]
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_sharded_model_is_traced_before_it_is_sharded() -> None:
    model = sharded(tiny_with_adapters())
    with pytest.raises(TrainingError) as error:
        gp.LoRAPruneCallback(ratio=0.3).begin(model, 10)
    assert str(error.value) == (
        "the model is sharded already and can't be traced: give this callback to the Trainer when that is made, "
        "Trainer(callbacks=[…])"
    )


@pytest.mark.usefixtures("one_process")
def test_parts_that_are_interleaved_are_refused() -> None:
    mesh = init_device_mesh("cpu", (1, 1))
    weight = DTensor.from_local(torch.ones(4, 2), mesh, [_StridedShard(0, split_factor=1), Shard(0)])
    assert own_positions(weight, 1, torch.tensor([False, True])).tolist() == [1]
    with pytest.raises(TrainingError) as error:
        own_positions(weight, 0, torch.ones(4, dtype=torch.bool))
    assert str(error.value) == (
        f"a parameter is sharded by {weight.placements[0]!r}, which can't be masked: use fully_shard alone"
    )


@pytest.mark.usefixtures("one_process")
def test_a_sharded_model_is_not_cut_in_parts() -> None:
    pruner = train(sharded)
    assert pruner.plan.about["ratio"] == CONFIG.ratio
    with pytest.raises(TrainingError) as error:
        pruner.compact()
    assert str(error.value) == (
        "each process holds a part of the model only: load its full state dict into a model that is not sharded, and "
        "cut that with gp.rewrite(gp.trace(model), pruner.plan)"
    )
    whole = tiny_with_adapters()
    options = StateDictOptions(full_state_dict=True)
    whole.load_state_dict(get_model_state_dict(pruner.traced.module, options=options))
    compact = gp.rewrite(gp.trace(whole), pruner.plan, adapters="merge")
    assert compact.ratio == pytest.approx(CONFIG.ratio, abs=0.01)

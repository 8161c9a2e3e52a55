"""A training by one of two processes, for ``torchrun``: writes the plan, and the whole weights, that the process ends
with.

    torchrun --nproc-per-node 2 --module tests.training.processes MODE DIRECTORY
"""

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerControl, TrainerState, TrainingArguments

import graphprune as gp
from graphprune.distributed import whole

from .test_compaction import After, Before, language_batch
from .tiny import plain_trainer, random_windows, tiny_with_adapters

CONFIG = gp.PruneConfig(ratio=0.3, interval=2)
STEPS = 10
BATCH = 4
MIDDLE = 6
"""The step after which a training stops, which is between two prunings where it matters."""


def train(wrap: Callable[[nn.Module], Any], rank: int = 0, world: int = 1, accumulation: int = 1) -> gp.Pruner:
    """Each step goes through ``BATCH`` windows, of which each process has its share."""
    model = tiny_with_adapters()
    pruner = gp.Pruner(gp.trace(model), CONFIG, STEPS)
    wrapped = wrap(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for number, batch in enumerate(random_windows(BATCH * STEPS).split(BATCH), start=1):
        own = batch.chunk(world)[rank]
        for part, piece in enumerate(own.chunk(accumulation), start=1):
            last = part == accumulation
            with contextlib.nullcontext() if last or world == 1 else wrapped.no_sync():
                (wrapped(input_ids=piece, labels=piece).loss / accumulation).backward()
        with pruner.step(number):
            optimizer.step()
        optimizer.zero_grad()
    return pruner


def train_with_trainer(directory: Path, batch: int, **arguments: Any) -> gp.Pruner:
    """The same with a Trainer."""
    callback = gp.LoRAPruneCallback(config=CONFIG)
    settings: dict[str, Any] = {"per_device_train_batch_size": batch, "max_steps": STEPS, "save_strategy": "no"}
    plain_trainer(tiny_with_adapters(), directory, callback, **settings, **arguments).train()
    return callback.pruner


def train_with_cuts(directory: Path, batch: int, **arguments: Any) -> gp.Pruner:
    """The same with a Trainer, in which the model is cut; what it computes, and its gradients, are compared."""
    callback = gp.LoRAPruneCallback(config=replace(CONFIG, compaction=0.1))
    before = Before(callback, language_batch)
    after = After(before)
    settings: dict[str, Any] = {"per_device_train_batch_size": batch, "max_steps": STEPS, "save_strategy": "no"}
    settings |= {"max_grad_norm": 0.0, **arguments}
    plain_trainer(tiny_with_adapters(), directory, before, callback, after, **settings).train()
    assert after.cuts > 1
    return callback.pruner


def train_on(directory: Path, batch: int, **arguments: Any) -> gp.Pruner:
    """A training that goes on from between two prunings, after one without a stop, which writes what it ends with."""
    settings: dict[str, Any] = {"per_device_train_batch_size": batch, "max_steps": STEPS, "save_steps": MIDDLE}
    config = replace(CONFIG, make_up="weights", compaction=0.1, interval=4)

    def go(resume: str | None) -> gp.Pruner:
        callback = gp.LoRAPruneCallback(config=config)
        trainer = plain_trainer(tiny_with_adapters(), directory, callback, **settings, **arguments)
        trainer.train(resume_from_checkpoint=resume)
        return callback.pruner

    pruner = go(None)
    pruner.plan.save(directory / f"plan-without-a-stop-{dist.get_rank()}.json")
    save_file(weights(pruner.traced.module), directory / f"weights-without-a-stop-{dist.get_rank()}.safetensors")
    dist.barrier()
    return go(str(directory / f"checkpoint-{MIDDLE}"))


def train_with_callback(rank: int, world: int) -> gp.Pruner:
    """The same by the events of a Trainer with FSDP, which itself shards a model on accelerators only."""
    model = tiny_with_adapters()
    callback = gp.LoRAPruneCallback(config=CONFIG)
    arguments, state, control = (
        TrainingArguments("unused", use_cpu=True),
        TrainerState(max_steps=STEPS),
        TrainerControl(),
    )
    arguments.fsdp = True
    callback.on_init_end(arguments, state, control, model=model)
    sharded(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    callback.on_train_begin(arguments, state, control, model=model)
    assert all(parameter.is_meta for parameter in callback.traced.graph.parameters())
    for batch in random_windows(BATCH * STEPS).split(BATCH):
        own = batch.chunk(world)[rank]
        model(input_ids=own, labels=own).loss.backward()
        callback.on_pre_optimizer_step(arguments, state, control)
        optimizer.step()
        callback.on_optimizer_step(arguments, state, control)
        optimizer.zero_grad()
        state.global_step += 1
    return callback.pruner


def sharded(model: nn.Module) -> nn.Module:
    """The model with each layer sharded by itself, as is usual."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.get_submodule("base_model.model.model.layers").children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter in whole, by name."""
    return {name: whole(parameter.detach()).clone() for name, parameter in model.named_parameters()}


def main(mode: str, directory: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not mode.startswith("trainer"):
        dist.init_process_group("gloo")
    match mode:
        case "ddp":
            pruner = train(DistributedDataParallel, rank, world)
        case "ddp with accumulation":
            pruner = train(DistributedDataParallel, rank, world, accumulation=2)
        case "ddp with a hook":
            model = DistributedDataParallel(tiny_with_adapters())
            model.register_comm_hook(None, fp16_compress_hook)
            pruner = gp.Pruner(gp.trace(model.module), replace(CONFIG, compaction=0.1), STEPS)
        case "gradients of their own":
            pruner = train(lambda model: model, rank, world)
        case "fsdp":
            pruner = train(sharded, rank, world)
        case "trainer with ddp":
            pruner = train_with_trainer(directory, BATCH // world, ddp_backend="gloo")
        case "trainer with ddp that cuts":
            pruner = train_with_cuts(directory, BATCH // world, ddp_backend="gloo")
        case "trainer with ddp that goes on":
            pruner = train_on(directory, BATCH // world, ddp_backend="gloo")
        case "callback with fsdp":
            pruner = train_with_callback(rank, world)
        case _:
            raise ValueError(mode)
    pruner.plan.save(directory / f"plan-{rank}.json")
    save_file(weights(pruner.traced.module), directory / f"weights-{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

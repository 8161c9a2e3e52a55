"""Training on several processes: tensors of which each process holds a part, and what all processes agree on.

torch.distributed is looked at only where a program uses it already: this costs nothing to those that don't. Whatever
says that all processes must call it waits for them.
"""

from __future__ import annotations

import gc
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import TrainingError


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, as ``fully_shard`` makes of parameters."""
    if "torch.distributed.tensor" not in sys.modules:
        return False  # whoever has made a DTensor has imported it
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from the parts of all processes, which must all call this; a plain tensor itself."""
    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return gathered


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; a plain tensor itself."""
    if not is_sharded(tensor):
        return tensor
    part: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return part


def own_positions(tensor: Tensor, dim: int, mask: Tensor) -> Tensor:
    """Where a mask ``[tensor.shape[dim]]`` is true, as positions of a dim of the part that this process holds.

    Raises:
        TrainingError: the parts are not runs of positions.
    """
    if is_sharded(tensor):
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        kinds = (Replicate, Shard)
        unknown = [each for each in tensor.placements if type(each) not in kinds and getattr(each, "dim", dim) == dim]  # type: ignore[attr-defined]
        if unknown:  # tensor parallelism on the same dim, of which parts are interleaved
            raise TrainingError(
                f"a parameter is sharded by {unknown[0]!r}, which can't be masked: use fully_shard alone"
            )
        placements = [Shard(0) if each.is_shard(dim) else Replicate() for each in tensor.placements]  # type: ignore[attr-defined]
        # the mask is on every process already: nothing is sent
        mask = distribute_tensor(mask, tensor.device_mesh, placements, src_data_rank=None).to_local()  # type: ignore[attr-defined]
    return mask.nonzero().flatten().to(own_part(tensor).device)


def has_others() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """Whether this process is the one that writes for all."""
    return not has_others() or dist.get_rank() == 0


def mean_of_processes(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The mean over all processes, which must all call this with tensors of the same names and shapes.

    Every process gets the same values to the bit, and values that are the same everywhere stay as they are.
    """
    if not has_others() or not tensors:
        return tensors
    # sums of some equal numbers in single precision are exact in double precision
    flat = torch.cat([tensor.flatten().double() for tensor in tensors.values()]).to(device)
    dist.all_reduce(flat)
    flat = (flat / dist.get_world_size()).cpu()
    pieces = flat.split([tensor.numel() for tensor in tensors.values()])
    return {
        name: piece.reshape(tensor.shape).to(tensor.dtype)
        for (name, tensor), piece in zip(tensors.items(), pieces, strict=True)
    }


def in_every_process(fact: bool, device: torch.device) -> bool:
    """Whether something holds in every process; all must call this."""
    if not has_others():
        return fact
    flag = torch.tensor(int(fact), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)


def wrappers_of(module: nn.Module) -> list[DistributedDataParallel]:
    """Every ``DistributedDataParallel`` around a module, which is told of none: they are found among all objects."""
    if not has_others():
        return []
    # type() and not isinstance(), which asks lazily loaded modules for their class
    found = [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    return [each for each in found if any(inner is module for inner in each.modules())]


def check_wrappers(module: nn.Module) -> None:
    """Guard against a ``DistributedDataParallel`` around a module that can't get other sizes.

    Raises:
        TrainingError: there is one; says why.
    """
    for wrapper in wrappers_of(module):
        reasons = {
            "a communication hook": "comm_hook" in wrapper._get_ddp_logging_data(),
            "a process group of its own": wrapper.process_group != dist.group.WORLD,
            "mixed precision": wrapper.mixed_precision is not None,
        }
        for what, holds in reasons.items():
            if holds:
                raise TrainingError(
                    f"compaction can't cut a model in a DistributedDataParallel with {what}: use compaction=None"
                )


def take_new_sizes(module: nn.Module) -> None:
    """Let each ``DistributedDataParallel`` around a module begin anew with its parameters as they are.

    What reduces gradients has buckets in the sizes of the parameters, and hooks where these get their gradients. All of
    it is made again as when the wrapper comes out of a pickle; all processes must call this between the same two steps.
    """
    for wrapper in wrappers_of(module):
        wrapper.__setstate__(wrapper.__getstate__())

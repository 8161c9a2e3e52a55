"""Which values the weights of a model have, in 16 hexadecimal digits: a plan says so of those that it was chosen on.

A few values of each parameter, at fixed positions, so that it costs nothing and a file can be asked for them alone.
They are rounded to bfloat16: weights that were stored in float32 and are loaded in bfloat16 are the same. Adapters do
not count, and names are those without them.

::

    layers.0.q_proj.weight [64, 64]   ->   64 values, every 64th   ->   bfloat16   ->   sha256
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .adapters import plain_modules
from .weight_files import Checkpoint, read_values

SAMPLE = 64
"""How many values of a parameter are looked at."""


def positions(count: int) -> range:
    """Where a parameter of ``count`` values is looked at, in the order in which they lie there."""
    step = max(1, count // SAMPLE)
    return range(0, min(count, SAMPLE * step), step)


def weights_digest(module: nn.Module) -> str | None:
    """The digest of the weights of a module; None where some have no values, or only a part of them.

    The weights of ``module`` are those that its adapters were put on, tied ones once by the first of their names.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, child in plain_modules(module):
        for name, parameter in child._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            values = parameter.detach()
            # sharded, fake and packed tensors are of classes of their own
            if values.is_meta or type(values) not in (Tensor, nn.Parameter):
                return None
            at = positions(values.numel())
            found[f"{path}.{name}" if path else name] = values.flatten()[at.start : at.stop : at.step]
    return _digest(found)


def stored_digest(checkpoint: Checkpoint, names: Mapping[str, str]) -> str:
    """The digest of the weights in the files of a checkpoint, of which nothing but the sampled values is read.

    ``names`` gives for the name of each parameter in the checkpoint that in the model.

    Raises:
        FileFormatError: a file has become shorter.
    """
    found: dict[str, Tensor] = {}
    for shard in checkpoint.shards:
        with shard.file.open("rb") as handle:
            for stored, tensor in shard.tensors.items():
                if stored in names:
                    found[names[stored]] = read_values(handle, tensor, positions(tensor.numel))
    return _digest(found)


def _digest(samples: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(samples.items()):
        parts = torch.view_as_real(values) if values.is_complex() else values
        rounded = parts.float().bfloat16().flatten().cpu()
        digest.update(json.dumps([name, rounded.view(torch.int16).tolist()]).encode())
    return digest.hexdigest()[:16]

"""Modules with fewer bits in their weights, as the files that are exported of them have.

1. ``fp16``: the weights are halves. Buffers that are not saved (the frequencies of rotary embeddings) stay in single
   precision, as they do where transformers loads a model in halves.
2. ``int8``: matrices have 8 bits and a scale for each run of ``BLOCK``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from ..errors import ExportError

Precision = Literal["fp32", "fp16", "int8"]

BLOCK = 32
"""How many weights have one scale."""

LARGEST = 127
"""The largest of the integers that weights become."""


def check_precision(name: str) -> None:
    """Refuse what is no precision.

    Raises:
        ExportError: names those that there are.
    """
    if name not in get_args(Precision):
        raise ExportError(f"there is no precision {name!r}: ask for {', '.join(get_args(Precision))}")


def halved(module: nn.Module) -> nn.Module:
    """A copy of a module with its weights, and the buffers that are saved with them, as halves.

    Raises:
        ExportError: a weight is too large for a half.
    """
    result = copy.deepcopy(module)
    for name, tensor in result.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point():
            continue
        half = tensor.detach().half()
        if not half.isfinite().all() and tensor.isfinite().all():
            raise ExportError(f"{name} has values beyond 65504, which no half can hold: export it as fp32")
        tensor.data = half
    return result


def rounded(module: nn.Module) -> nn.Module:
    """A copy of a module with every matrix rounded to 8 bits, in runs of ``BLOCK`` along its last dim."""
    result = copy.deepcopy(module)
    for parameter in result.parameters():
        if parameter.ndim == 2 and parameter.is_floating_point():
            padded = functional.pad(parameter.detach(), (0, -parameter.shape[1] % BLOCK))
            runs = padded.unflatten(1, (-1, BLOCK))
            scales = (runs.abs().amax(-1, keepdim=True) / (LARGEST)).clamp_min(torch.finfo(runs.dtype).tiny)
            parameter.data = ((runs / scales).round() * scales).flatten(1)[:, : parameter.shape[1]]
    return result


def stored_bytes(parameters: Iterable[Tensor], precision: Precision) -> int:
    """How large a file with these parameters is about; they need no values. Each is in it once."""
    return sum(_stored_bytes(each.shape, precision) for each in parameters)


def _stored_bytes(shape: Sequence[int], precision: Precision) -> int:
    if precision == "int8" and len(shape) == 2:
        return shape[0] * -(-shape[1] // BLOCK) * (BLOCK + 4)  # bytes, and a scale for each run of them
    return math.prod(shape) * (2 if precision == "fp16" else 4)


def half_inputs(inputs: Any) -> Any:
    """Inputs with halves in place of wider floats."""
    return tree_map(
        lambda value: value.half() if isinstance(value, Tensor) and value.is_floating_point() else value, inputs
    )

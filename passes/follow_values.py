"""Let torch.export compute the values of tensors while it captures a model, so that it can branch on them.

torch does so for its draft of an export, which asks for kernels where this finds none; what it has no answer to there
is settled here by the values of the example.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch._decomp
import torch._functorch.config
import torch.fx.experimental._config
from torch import nn
from torch._subclasses import FakeTensorMode, fake_utils, meta_utils
from torch.utils._pytree import tree_leaves, tree_map

from .packed_sequences import sequences_packed_by_example


@contextlib.contextmanager
def values_followed() -> Iterator[None]:
    """Within the context torch.export computes the values of tensors too, and looks them up where it needs them."""

    def copied(dst: torch.Tensor, src: torch.Tensor | None) -> None:
        # torch itself leaves the memory of a parameter as it finds it, and fails at what is expanded
        if src is not None and type(src) in (torch.Tensor, nn.Parameter):
            places = tuple(slice(None if step else 1) for step in dst.stride())
            dst[places].copy_(src[places])

    def unchecked(*args: Any, **kwargs: Any) -> None:
        """torch compares what it knows of a result with the result, which fails where a place depends on data."""

    def inferred(mode: FakeTensorMode, func: Any, path: Any, fake: Any, real: Any) -> Any:
        try:
            return infer(mode, func, path, fake, real)
        except RuntimeError:  # of what torch can't compare it says nothing better
            return fake, False

    def unbound(x: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, ...]:
        """torch's own splits into pieces of one position each, and finds no such number among the sizes."""
        return tuple(x.select(dim, at) for at in range(int(x.shape[dim])))

    def made_of(data: Any, **options: Any) -> torch.Tensor:
        """A tensor of numbers and tensors of one number: torch reads the memory of these, of which here is none."""
        if not any(isinstance(each, torch.Tensor) for each in tree_leaves(data)):
            return made(data, **options)
        if isinstance(data, torch.Tensor):
            return data.detach().clone().to(**options)
        return torch.stack([made_of(each) for each in data]).to(**options)

    def in_numpy(tensor: torch.Tensor, **options: Any) -> Any:
        """The values of the example, where torch has no memory to share."""
        if type(tensor) in (torch.Tensor, nn.Parameter):
            return numpy(tensor, **options)
        kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
        return np.array(tree_map(kind.type, tensor.tolist()), kind)

    def value_hashed(size: torch.SymInt) -> int:
        return hash(int(size))

    infer, made, numpy = FakeTensorMode._maybe_infer_fake, torch.tensor, torch.Tensor.numpy
    with (
        torch._functorch.config.patch(
            fake_tensor_propagate_real_tensors=True, generate_fake_kernels_from_real_mismatches=True
        ),
        # a size that depends on data is no symbol of a result once it was found to be its value
        torch.fx.experimental._config.patch(  # type: ignore[attr-defined]
            soft_pending_unbacked_not_found_error=True
        ),
        mock.patch.object(meta_utils, "_safe_copy", copied),
        mock.patch.object(fake_utils, "_check_fake_real_tensors", unchecked),
        mock.patch.object(FakeTensorMode, "_maybe_infer_fake", inferred),
        mock.patch.object(torch.SymInt, "__hash__", value_hashed),
        mock.patch.object(torch, "tensor", made_of),
        mock.patch.object(torch.Tensor, "numpy", in_numpy),
        mock.patch.dict(torch._decomp.decomposition_table),
        sequences_packed_by_example(),
    ):
        # torch takes the number that this gives for a tensor; without it the number is read as elsewhere
        torch._decomp.decomposition_table.pop(torch.ops.aten.item.default, None)
        torch._decomp.decomposition_table[torch.ops.aten.unbind.int] = unbound
        yield

"""Cut the parameters of a traced model to what a plan keeps, or zero what it does not keep.

::

    q_proj.weight: (kv rep (half + half)) hidden     [576, 576]  ->  [384, 576]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..masks import Keep, keep_mask
from ..program import Inference

DimMasks = Sequence[Tensor | None]
"""The keep-mask of each dim of a tensor, None where the dim stays whole."""


def parameter_masks(inference: Inference, keep: Keep, names: Iterable[str] | None = None) -> dict[str, DimMasks]:
    """The keep-masks of every parameter, buffer and constant of which something goes."""
    masks: dict[str, DimMasks] = {}
    for name in inference.parameter_dims if names is None else names:
        rows = [keep_mask(axis, keep) for axis in inference.axes(name)]
        if any(row is not None for row in rows):
            masks[name] = rows
    return masks


def zeroing_masks(inference: Inference, masks: Mapping[str, DimMasks]) -> dict[str, DimMasks]:
    """The masks by which zeros are written: without the dims that a masked model needs as they are."""
    return {
        name: [None if (name, dim) in inference.unmasked else row for dim, row in enumerate(rows)]
        for name, rows in masks.items()
    }


def mask_of_dim(masks: Mapping[str, DimMasks], name: str, dim: int) -> Tensor | None:
    """The keep-mask of one dim of a tensor, None where all of it stays."""
    return masks[name][dim] if name in masks else None


def slice_tensor(tensor: Tensor, masks: DimMasks) -> Tensor:
    """A new tensor of the positions that stay."""
    result = tensor
    for dim, mask in enumerate(masks):
        if mask is not None:
            result = selected(result, dim, positions_of(mask, result))
    return result.clone() if result is tensor else result


def positions_of(mask: Tensor, tensor: Tensor) -> Tensor:
    """The positions, ascending, at which a mask of a dim of a tensor is true, on the device of the tensor."""
    return mask.nonzero().flatten().to(tensor.device)


def selected(tensor: Tensor, dim: int, kept: Tensor, out: Tensor | None = None) -> Tensor:
    """Some positions of a dim. Columns of types with 2 or 8 bytes are gathered in half the time, or less."""
    if 0 < dim == tensor.ndim - 1 and tensor.is_floating_point() and tensor.element_size() > 1:
        return torch.gather(tensor, dim, kept.expand(*tensor.shape[:-1], -1), out=out)
    return torch.index_select(tensor, dim, kept, out=out)


def widen(tensor: Tensor, masks: DimMasks) -> Tensor:
    """The inverse of :func:`slice_tensor`: the tensor at the positions that stay, and zeros at those that go."""
    result = tensor
    for dim, mask in enumerate(masks):
        if mask is not None:
            shape = (*result.shape[:dim], len(mask), *result.shape[dim + 1 :])
            result = result.new_zeros(shape).index_copy_(dim, positions_of(mask, result), result)
    return result


def zero_masked(tensor: Tensor, masks: DimMasks) -> Tensor:
    """A copy of a tensor with zeros at the positions that go."""
    return zero_masked_(tensor.detach().clone(), masks)


def zero_masked_(tensor: Tensor, masks: DimMasks) -> Tensor:
    """The same in the tensor itself, which must not be one that gradients are taken of."""
    for dim, mask in enumerate(masks):
        if mask is not None:
            tensor.index_fill_(dim, positions_of(~mask, tensor), 0)
    return tensor


def masks_within(masks: Mapping[str, DimMasks], there: Mapping[str, DimMasks]) -> dict[str, DimMasks]:
    """The same masks for tensors of which only what the masks of ``there`` keep is left."""
    found: dict[str, DimMasks] = {}
    for name, rows in masks.items():
        left = there.get(name, [None] * len(rows))
        inner = [
            mask if mask is None or present is None else mask[present] for mask, present in zip(rows, left, strict=True)
        ]
        inner = [None if mask is None or bool(mask.all()) else mask for mask in inner]
        if any(mask is not None for mask in inner):
            found[name] = inner
    return found


def is_zero_where_masked(tensor: Tensor, masks: DimMasks) -> bool:
    """Whether every position that goes holds zero already."""
    return all(mask is None or _is_zero(tensor, dim, (~mask).nonzero().flatten()) for dim, mask in enumerate(masks))


def _is_zero(tensor: Tensor, dim: int, positions: Tensor) -> bool:
    first = positions[:1].to(tensor.device)  # most often it says enough
    return not torch.any(tensor.index_select(dim, first)) and not torch.any(
        tensor.index_select(dim, positions.to(tensor.device))
    )


def is_constant(tensor: Tensor) -> bool:
    """Whether a tensor has numbers, and all are the same."""
    first = tensor[(slice(0, 1),) * tensor.ndim]
    rows = tensor[:2] if tensor.ndim else tensor  # most often they say enough
    return tensor.numel() > 0 and bool((rows == first).all()) and bool((tensor == first).all())

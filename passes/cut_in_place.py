"""Cut a tensor in place, within the memory that it has, and give the rest of that memory back to the system.

A new tensor takes more time for the pages of memory that the system has to find and to empty for it than for the
numbers that are copied into it: half of the rows of a matrix of 46 MB take 16 ms, and 4 where the pages are there. So
what is kept moves to the front of the old tensor, since nothing has to move back; the pages behind it are released.

::

    rows 0 3 5 of [6, 4]     |aaaa|....|....|bbbb|....|cccc|  ->  |aaaa|bbbb|cccc|
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from torch import Tensor

from .slice_parameters import DimMasks, positions_of, selected, slice_tensor

LEAST = 1 << 23
"""Bytes of a tensor below which a new one takes no longer."""

BLOCK = 1 << 16
"""Numbers that are moved at a time where what is written to is still to be read."""


def cut_tensor_(tensor: Tensor, masks: DimMasks) -> None:
    """Cut a tensor to the positions that stay, in place, with its gradient; what else it held is freed, and is lost."""
    gradient, tensor.grad = tensor.grad, None
    within = any(mask is not None for mask in masks) and _can_be_cut_within(tensor.data)
    cut = _cut_within(tensor.data, masks) if within else slice_tensor(tensor.data, masks)
    if tensor.requires_grad:
        # a graph that still lives keeps the node that adds up gradients of the old shape, up to a change of type
        tensor.data = cut.new_empty(0, dtype=torch.half if tensor.dtype != torch.half else torch.float)
    tensor.data = cut
    if gradient is not None:
        tensor.grad = slice_tensor(gradient, masks)


def _can_be_cut_within(tensor: Tensor) -> bool:
    """Whether a tensor is large, and alone in memory of this process of which a part can be given back."""
    return (
        sys.platform == "linux"
        and type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_complex()
        and tensor.nbytes >= LEAST
        and tensor.nbytes == tensor.untyped_storage().nbytes()
        and tensor.is_contiguous()
        and not tensor.is_shared()
    )


def _cut_within(tensor: Tensor, masks: DimMasks) -> Tensor:
    """The positions that stay, in the memory of the tensor."""
    numbers, left = tensor.view(-1), tensor
    for dim, mask in enumerate(masks):
        if mask is not None:
            kept = positions_of(mask, tensor)
            shape = torch.Size((*left.shape[:dim], len(kept), *left.shape[dim + 1 :]))
            target = numbers[: shape.numel()].view(shape)
            _move(left, dim, kept, target)
            left = target
    # a storage that ends where the tensor does, and holds on to the old one
    own = torch.from_numpy(numbers.view(torch.uint8).numpy()[: left.nbytes]).view(tensor.dtype).view(left.shape)
    return own if _released(tensor.data_ptr() + own.nbytes, tensor.data_ptr() + tensor.nbytes) else own.clone()


def _move(source: Tensor, dim: int, kept: Tensor, target: Tensor) -> None:
    """Write the kept positions to where they come to lie, from the first rows on.

    Half of a tensor is moved in runs of 1, 2, 4, 8, … rows: what stands further back than all of a run is to be written
    to is not in its way. Short runs go by way of other memory, together.
    """
    rows = len(target)
    few = max(1, BLOCK // max(1, source[:1].numel()))
    done = 0
    while done < rows:
        free = int(kept[done]) if dim == 0 else done * source[:1].numel() // max(1, target[:1].numel())
        end = min(max(free, done + few), rows)
        run = slice(done, end)
        block, positions = (source[free:], kept[run] - free) if dim == 0 else (source[run], kept)
        if end <= free:
            selected(block, dim, positions, out=target[run])
        else:
            target[run] = selected(block, dim, positions)
        done = end


def _released(start: int, end: int) -> bool:
    """Whether the system took back the whole pages between two addresses of memory that is not needed any more."""
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if first >= last:
        return True
    advise = ctypes.CDLL(None).madvise
    return bool(advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(mmap.MADV_DONTNEED)) == 0)

"""Operators that rearrange positions without computing: view, permute, slice, split, cat, expand and their kin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..axes import ONE, Axis, atoms, concat, product
from .registry import Call, Dims, Resize, Result, axis_rule, dim_index, is_data_sized, is_known, resize_rule, size_hint


def resized_shape(resize: Resize, shape: Sequence[Any]) -> list[Any]:
    """A shape argument with the kept sizes in it."""
    first = len(shape) - len(resize.dims)
    kept = [resize.kept(entry, axis) for entry, axis in zip(shape[first:], resize.dims.axes, strict=True)]
    return [*shape[:first], *kept]


def reshaped(call: Call, x: Dims, shape: tuple[int, ...]) -> Dims:
    """``x`` in row-major order with another shape: runs of dims with the same number of positions correspond."""
    if 0 in shape:
        return Dims(tuple(call.fixed(size, "it is a view of an empty tensor") for size in shape), (False,) * len(shape))
    source = [(axis, zero) for axis, zero in x if axis.size != 1]
    target = [(index, size) for index, size in enumerate(shape) if size != 1]
    axes: list[Axis] = [ONE] * len(shape)
    zeros = [False] * len(shape)
    while target:
        run, left, right = [source.pop()], [target.pop()], 1
        have, want = run[0][0].size, left[0][1]
        while have != want:
            if have < want:
                run.insert(0, source.pop())
                have *= run[0][0].size
            else:
                left.insert(0, target.pop())
                want *= left[0][1]
                right += 1
        whole = product(*(axis for axis, _ in run))
        masked = [axis for axis, flag in run if not flag and not call.solver.is_frozen(axis)]
        if len(left) == 1:
            axes[left[0][0]] = whole
        else:
            pieces = [call.fresh(size) for _, size in left]
            call.unify(whole, product(*pieces))
            for (index, _), piece in zip(left, pieces, strict=True):
                axes[index] = call.resolve(piece)
        not_zero = {atom for axis in masked for atom in atoms(call.resolve(axis))}
        for index, _ in left:
            zeros[index] = not_zero.isdisjoint(atoms(call.resolve(axes[index])))
    return Dims(tuple(axes), tuple(zeros))


@axis_rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def view(call: Call) -> Result:
    """``(a b) -> a b``, ``a b -> (a b)``: the same positions in row-major order."""
    if call.arguments.get("dtype") is not None:
        return call.opaque("its bytes are seen as another type")
    result = reshaped(call, call.tensor("self"), call.shape)
    other = call.dims("other")
    if other is not None:  # the shape is that of another tensor, whatever is cut from it
        for axis, like in zip(result.axes, other.axes, strict=True):
            call.unify(axis, like)
    return result


@resize_rule("view", "reshape", "_unsafe_view")
def resize_view(resize: Resize) -> Mapping[str, Any]:
    name = "size" if "size" in resize.arguments else "shape"
    return {name: resized_shape(resize, resize[name])}


@resize_rule("unflatten")
def resize_unflatten(resize: Resize) -> Mapping[str, Any]:
    dim = dim_index(resize["dim"], len(resize.input("self")))
    shape = resize["sizes"]
    axes = resize.dims.axes[dim : dim + len(shape)]
    return {"sizes": [resize.kept(entry, axis) for entry, axis in zip(shape, axes, strict=True)]}


@dataclass(frozen=True)
class Windows:
    """A strided view of a dense tensor: its first and its last dims are dims of the tensor, what is between is not."""

    first: int
    last: int

    def between(self, rank: int) -> range:
        """The dims that windows run over, in a tensor of this rank."""
        return range(self.first, rank - self.last)


def windows(dense: Sequence[int], shape: Sequence[int], stride: Sequence[int]) -> Windows:
    """Which dims of a view with ``shape`` and ``stride`` over a tensor of shape ``dense`` are dims of that tensor."""
    own = dense_strides(dense)
    most, last = min(len(dense), len(shape)), 0
    while last < most and dense[-1 - last] == shape[-1 - last] and stride[-1 - last] == own[-1 - last]:
        span = math.prod(dense[len(dense) - 1 - last :])
        if any(step % span for step in stride[: len(stride) - 1 - last]):
            break
        last += 1
    first = 0
    while first < most - last and dense[first] == shape[first] and stride[first] == own[first]:
        inside = zip(shape[first + 1 :], stride[first + 1 :], strict=True)
        if sum((size - 1) * step for size, step in inside) >= own[first]:
            break
        first += 1
    return Windows(first, last)


def dense_strides(shape: Sequence[int]) -> list[int]:
    """The strides of a tensor whose positions lie one after the other."""
    return [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]


@axis_rule("as_strided")
def as_strided(call: Call) -> Result:
    """``a b c -> a i j c``: windows over b, which is frozen; a and c stay where every window has all of them."""
    x, value = call.tensor("self"), call["self"].meta["val"]
    if call.data_sized or call["storage_offset"] or not value.is_contiguous():
        return call.opaque("it is seen with other strides")
    found = windows([axis.size for axis in x.axes], call.shape, call["stride"])
    for dim in found.between(len(x)):
        call.freeze(x.axes[dim], "windows run over it")
    inside = [call.fixed(call.shape[dim], "it is made of windows") for dim in found.between(len(call.shape))]
    around = x.take([*range(found.first), *range(len(x) - found.last, len(x))])
    axes, zero = list(around.axes), list(around.zero)
    axes[found.first : found.first], zero[found.first : found.first] = inside, [False] * len(inside)
    return Dims(tuple(axes), tuple(zero))


@resize_rule("as_strided")
def resize_as_strided(resize: Resize) -> Mapping[str, Any]:
    """The steps between windows are counted in what is left of the dims after them."""
    x, dims = resize.input("self"), resize.dims
    stride = list(resize["stride"])
    found = windows([axis.size for axis in x.axes], [axis.size for axis in dims.axes], stride)
    left = dense_strides([resize.size(axis) for axis in x.axes])
    before = math.prod(axis.size for axis in x.axes[len(x) - found.last :])
    after = math.prod(resize.size(axis) for axis in x.axes[len(x) - found.last :])
    for dim in found.between(len(dims)):
        stride[dim] = stride[dim] // before * after
    stride[: found.first] = left[: found.first]
    stride[len(dims) - found.last :] = left[len(x) - found.last :]
    return {"size": [resize.size(axis) for axis in dims.axes], "stride": stride}


@axis_rule("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "adjoint", "mT")
def permute(call: Call) -> Result:
    """``a b -> b a``"""
    x = call.tensor("self")
    return x.take(permutation(call, len(x)))


@axis_rule("numpy_T")
def numpy_t(call: Call) -> Result:
    """``a b c -> c b a``"""
    x = call.tensor("self")
    return x.take(reversed(range(len(x))))


def permutation(call: Call, rank: int) -> list[int]:
    """For each dim of the result, the dim of the input that it is."""
    order = list(range(rank))
    arguments = call.arguments
    if "dims" in arguments:
        return [dim_index(dim, rank) for dim in call["dims"]]
    if "source" in arguments:
        as_list = [
            value if isinstance(value, (list, tuple)) else [value] for value in (call["source"], call["destination"])
        ]
        source, destination = ([dim_index(dim, rank) for dim in dims] for dims in as_list)
        rest = [dim for dim in order if dim not in source]
        for target, dim in sorted(zip(destination, source, strict=True)):
            rest.insert(target, dim)
        return rest
    if "dim0" in arguments or "axis0" in arguments:
        first, second = ("dim0", "dim1") if "dim0" in arguments else ("axis0", "axis1")
        a, b = dim_index(call[first], rank), dim_index(call[second], rank)
    elif rank >= 2:
        a, b = rank - 2, rank - 1
    else:
        return order
    order[a], order[b] = order[b], order[a]
    return order


@axis_rule("unsqueeze")
def unsqueeze(call: Call) -> Result:
    """``a b -> a 1 b``"""
    x = call.tensor("self")
    dim = dim_index(call["dim"], len(x) + 1)
    return Dims((*x.axes[:dim], ONE, *x.axes[dim:]), (*x.zero[:dim], False, *x.zero[dim:]))


@axis_rule("squeeze")
def squeeze(call: Call) -> Result:
    """``a 1 b -> a b``"""
    x = call.tensor("self")
    dims = call.arguments.get("dim")
    chosen = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim_index(dim, len(x)) for dim in chosen}
    return x.take(dim for dim in range(len(x)) if dim not in gone or x.axes[dim].size != 1)


@resize_rule("squeeze")
def resize_squeeze(resize: Resize) -> Mapping[str, Any]:
    """Squeeze would also drop an axis of which one unit is kept: name the dims that had one position before."""
    x = resize.input("self")
    dims = resize.arguments.get("dim")
    chosen = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    return {"dim": [dim for dim in chosen if x.axes[dim].size == 1]}


def sliced(call: Call, x: Dims, dim: int, start: int, length: int) -> Dims:
    """Positions ``start`` to ``start + length`` of a dim; the axes before, of and after them are remembered."""
    axis = x.axes[dim]
    if length == axis.size:
        return x
    before, kept, after = call.split(axis, [start, length, axis.size - start - length])
    call.remember(before, kept, after)
    return x.replace(dim, kept, x.zero[dim])


def bound(value: Any, size: int, default: int) -> int | None:
    """A slice bound as a position from the front, None where it depends on data."""
    if value is None:
        return default
    if isinstance(value, fx.Node):
        value = value.meta.get("val")
        if not isinstance(value, (int, torch.SymInt)) or not is_known(value):
            return None
    position = size_hint(value)
    return max(0, min(size, position + size if position < 0 else position))


@axis_rule("slice", "slice_copy")
def slice_(call: Call) -> Result:
    """``(a + b + c) -> b``; a step that divides the axis gives ``(a step) -> a``."""
    x = call.tensor("self")
    dim, step = dim_index(call["dim"], len(x)), call["step"]
    axis = x.axes[dim]
    start, end = bound(call["start"], axis.size, 0), bound(call["end"], axis.size, axis.size)
    length = call.shape[dim]
    if start is None or end is None:
        call.freeze(axis, "it is sliced at a position that depends on data")
        return x.replace(dim, call.fixed(length, "it is a slice at a position that depends on data"), False)
    if step == 1:
        return sliced(call, x, dim, start, length)
    taken = every(call, axis, start, end, step, length)
    return x.replace(dim, taken, x.zero[dim])


def every(call: Call, axis: Axis, start: int, end: int, step: int, length: int) -> Axis:
    """One of every ``step`` positions of ``(a step)`` is ``a``; an axis that the step does not divide is frozen."""
    if start >= step or axis.size % step or end != axis.size:
        call.freeze(axis, f"one of every {step} positions of it is taken")
        return call.fixed(length, f"it is one of every {step} positions of another axis")
    outer, inner = call.fresh(axis.size // step), call.fixed(step, f"{TURNS} {step} positions is taken")
    call.unify(axis, product(outer, inner))
    call.remember(axis)
    return call.resolve(outer)


@resize_rule("slice", "slice_copy")
def resize_slice(resize: Resize) -> Mapping[str, Any]:
    """New bounds: what is kept before the slice, and up to its end."""
    if not resize.remembered:
        dim = dim_index(resize["dim"], len(resize.dims))
        axis = resize.dims.axes[dim]
        return {"end": resize.size(axis)} if resize["end"] == axis.size and resize["step"] == 1 else {}
    if len(resize.remembered) == 1:
        end = resize["end"]
        return {"end": resize.size(resize.remembered[0])} if end is not None and end > 0 else {}
    before, kept, _ = resize.remembered
    start = resize.size(before)
    from_end = any(isinstance(each, int) and each < 0 for each in (resize["start"], resize["end"]))
    if start == before.size and resize.size(kept) == kept.size and not from_end:
        return {}  # what is cut comes after the slice, or is not cut at all
    bounds = {"start": start, "end": start + resize.size(kept)}
    return {name: value for name, value in bounds.items() if not isinstance(resize[name], fx.Node)}


@axis_rule("narrow", "narrow_copy")
def narrow(call: Call) -> Result:
    """``(a + b + c) -> b``"""
    x = call.tensor("self")
    dim = dim_index(call["dim"], len(x))
    start = bound(call["start"], x.axes[dim].size, 0)
    if start is None:
        call.freeze(x.axes[dim], "it is sliced at a position that depends on data")
        return x.replace(dim, call.fixed(call.shape[dim], "it is a slice at a position that depends on data"), False)
    return sliced(call, x, dim, start, call.shape[dim])


@resize_rule("narrow", "narrow_copy")
def resize_narrow(resize: Resize) -> Mapping[str, Any]:
    if not resize.remembered:
        return {"length": resize.size(resize.dims.axes[dim_index(resize["dim"], len(resize.dims))])}
    before, kept, _ = resize.remembered
    return {"start": resize.size(before), "length": resize.size(kept)}


TURNS = "one of every"
STACKED = "it counts tensors that are stacked"
"""How the reasons begin why an axis is frozen whose positions take turns."""

ONE_BY_ONE = "its positions are taken one by one"


@axis_rule("select", "select_copy")
def select(call: Call) -> Result:
    """``a b -> b``: one position of a is taken, so a is frozen."""
    x = call.tensor("self")
    dim = dim_index(call["dim"], len(x))
    call.freeze(x.axes[dim], ONE_BY_ONE)
    return x.take(other for other in range(len(x)) if other != dim)


@axis_rule("unbind")
def unbind(call: Call) -> Result:
    """``a b -> b, …, b``: the positions of a are taken one by one, so a is frozen."""
    x = call.tensor("self")
    dim = dim_index(call["dim"], len(x))
    call.freeze(x.axes[dim], ONE_BY_ONE)
    return (x.take(other for other in range(len(x)) if other != dim),) * x.axes[dim].size


@axis_rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy")
def split(call: Call) -> Result:
    """``(a + b + …) -> a, b, …``"""
    x = call.tensor("self")
    dim = dim_index(call["dim"], len(x))
    sizes = [shape[dim] for shape in call.shapes if shape is not None]
    if is_data_sized(call.node.meta["val"]) and sum(sizes) != x.axes[dim].size:
        reason = "it is split at positions that depend on data"
        call.freeze(x.axes[dim], reason)
        return tuple(x.replace(dim, call.fixed(size, reason), False) for size in sizes)
    pieces = call.split(x.axes[dim], sizes)
    call.remember(*pieces)
    return tuple(x.replace(dim, piece, x.zero[dim]) for piece in pieces)


@resize_rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy")
def resize_split(resize: Resize) -> Mapping[str, Any]:
    """Pieces may now differ in size: every split becomes one with explicit sizes."""
    if all(resize.size(piece) == piece.size for piece in resize.remembered):
        return {}  # the sizes may depend on data
    return {"split_sizes": [resize.size(piece) for piece in resize.remembered]}


@axis_rule("cat", "concat", "concatenate")
def cat(call: Call) -> Result:
    """``a, b -> (a + b)``"""
    rank = len(call.shape)
    operands = [dims for dims in call.tensors() if len(dims) == rank]  # an old kind of empty tensor has one dim
    return joined(call, operands, dim_index(call["dim"], rank))


@axis_rule("hstack", "vstack")
def hstack(call: Call) -> Result:
    """``cat`` along the second dim or the first; a vector is a row for vstack."""
    operands, rank = call.tensors(), len(call.shape)
    if call.node.target.__name__.startswith("vstack"):  # type: ignore[union-attr]
        rows = [Dims((ONE,) * (rank - len(x)) + x.axes, (False,) * (rank - len(x)) + x.zero) for x in operands]
        return joined(call, rows, 0)
    return joined(call, operands, min(1, rank - 1)) if all(map(len, operands)) else call.opaque("numbers are joined")


def joined(call: Call, operands: Sequence[Dims], dim: int) -> Dims:
    """The operands one after the other along a dim; their other dims are the same axes."""
    rank = len(operands[0])
    axes: list[Axis] = []
    for other in range(rank):
        meeting = [dims.axes[other] for dims in operands]
        if other == dim:
            axes.append(call.bounded(concat(*meeting)))
        else:
            for axis in meeting[1:]:
                call.unify(meeting[0], axis)
            axes.append(call.resolve(meeting[0]))
    zero = (
        all(dims.zero[other] or call.solver.is_frozen(dims.axes[other]) for dims in operands) for other in range(rank)
    )
    return Dims(tuple(axes), tuple(zero))


@axis_rule("block_diag")
def block_diag(call: Call) -> Result:
    """``a b, c d -> (a + c) (b + d)``, zero between the blocks."""
    blocks = [Dims((ONE,) * (2 - len(x)) + x.axes, (False,) * (2 - len(x)) + x.zero) for x in call.tensors()]
    axes = [call.bounded(concat(*(block.axes[dim] for block in blocks))) for dim in range(2)]
    zero = [all(block.zero[dim] or block.axes[dim].size == 1 for block in blocks) for dim in range(2)]
    return Dims(tuple(axes), tuple(zero))


@axis_rule("stack")
def stack(call: Call) -> Result:
    """``b, …, b -> a b``: a counts the tensors, so it is frozen."""
    operands = call.tensors()
    dim = dim_index(call["dim"], len(call.shape))
    axes: list[Axis] = []
    for other in range(len(operands[0])):
        for dims in operands[1:]:
            call.unify(operands[0].axes[other], dims.axes[other])
        axes.append(call.resolve(operands[0].axes[other]))
    zeros = [all(dims.zero[other] for dims in operands) for other in range(len(operands[0]))]
    axes.insert(dim, call.fixed(len(operands), STACKED))
    zeros.insert(dim, False)
    return Dims(tuple(axes), tuple(zeros))


@axis_rule("expand", "broadcast_to", "expand_as", "expand_copy")
def expand(call: Call) -> Result:
    """``1 -> a``: a dim of one position becomes a new axis, which no parameter of the source owns."""
    x, shape = call.tensor("self"), call.shape
    new = len(shape) - len(x)
    axes: list[Axis] = []
    zeros: list[bool] = []
    for index, size in enumerate(shape):
        if index >= new and x.axes[index - new].size == size:
            axes.append(x.axes[index - new])
            zeros.append(x.zero[index - new])
        else:
            axes.append(call.fresh(size))
            zeros.append(False)
    other = call.dims("other")
    for axis, like in zip(axes[::-1], (other.axes if other else ())[::-1], strict=False):
        if axis.size == like.size:
            call.unify(axis, like)
    return Dims(tuple(axes), tuple(zeros))


@resize_rule("expand", "broadcast_to", "expand_copy")
def resize_expand(resize: Resize) -> Mapping[str, Any]:
    return {"size": resized_shape(resize, resize["size"])}


@axis_rule("repeat", "tile")
def repeat(call: Call) -> Result:
    """``a -> (r a)``: the whole axis r times over."""
    x, shape = call.tensor("self"), call.shape
    new = len(shape) - len(x)
    axes: list[Axis] = [call.fresh(size) for size in shape[:new]]
    repeats = [call.fresh(size // axis.size) for axis, size in zip(x.axes, shape[new:], strict=True)]
    axes.extend(product(times, axis) for times, axis in zip(repeats, x.axes, strict=True))
    call.remember(*axes[:new], *repeats)
    same = (zero and axis.size == size for (axis, zero), size in zip(x, shape[new:], strict=True))
    return Dims(tuple(axes), (False,) * new + tuple(same))


@resize_rule("repeat", "tile")
def resize_repeat(resize: Resize) -> Mapping[str, Any]:
    name = "repeats" if "repeats" in resize.arguments else "dims"
    times = resize[name]
    return {name: [resize.size(axis) for axis in resize.remembered[-len(times) :]]}


@axis_rule("repeat_interleave")
def repeat_interleave(call: Call) -> Result:
    """``a -> (a r)``: each position r times."""
    x, often = call.dims("self"), "it is repeated as often as data says"
    if x is None or call["dim"] is None:
        return call.opaque(often)
    dim = dim_index(call["dim"], len(x))
    if not isinstance(call.arguments.get("repeats"), int):
        for axis in (x.axes[dim], *(each for dims in call.tensors()[1:] for each in dims.axes)):
            call.freeze(axis, often)
        return x.replace(dim, call.fixed(call.shape[dim], often), False)
    times = call.fresh(call["repeats"])
    call.remember(times)
    return x.replace(dim, product(x.axes[dim], times), False)


@resize_rule("repeat_interleave")
def resize_repeat_interleave(resize: Resize) -> Mapping[str, Any]:
    if not resize.remembered:
        return {}  # repeated as often as data says
    (times,) = resize.remembered
    return {"repeats": resize.size(times), "output_size": None}


@axis_rule("constant_pad_nd", "pad")
def pad(call: Call) -> Result:
    """``a -> (1…1 + a + 1…1)``: what is added is frozen, and what is cut off too."""
    x = call.tensor("self")
    widths = list(call["pad"])
    # masked units of other dims are padded too: they are zero no more if the padding is not
    result = x if call["value"] in (None, 0) else Dims(x.axes, (False,) * len(x))
    for index in range(len(widths) // 2):
        dim = len(x) - 1 - index
        before, after = widths[2 * index], widths[2 * index + 1]
        axis = x.axes[dim]
        if before == after == 0:
            continue
        reason: str | None = None
        if isinstance(before, fx.Node) or isinstance(after, fx.Node):
            reason = "it is padded by what follows from other sizes"
        elif before < 0 or after < 0 or call.arguments.get("mode", "constant") != "constant":
            reason = "it is padded with its own positions or cut by padding"
        if reason is not None:
            call.freeze(axis, reason)
            result = result.replace(dim, call.fixed(call.shape[dim], "it is padded"), False)
        else:
            edges = [call.fixed(width, "it is padding") if width else concat() for width in (before, after)]
            result = result.replace(dim, concat(edges[0], axis, edges[1]), result.zero[dim])
    return result


@axis_rule("flip", "fliplr", "flipud", "rot90")
def flip(call: Call) -> Result:
    """``a -> a reversed``: frozen, since kept units would have to change places."""
    x = call.tensor("self")
    dims = call.arguments.get("dims", range(len(x)))
    for dim in dims:
        call.freeze(x.axes[dim], "it is flipped")
    return x if tuple(axis.size for axis in x.axes) == call.shape else call.opaque("it is rotated")


@axis_rule("roll")
def roll(call: Call) -> Result:
    """``a -> a shifted``: frozen, since kept units would have to change places."""
    x = call.tensor("self")
    for dim in call["dims"] or range(len(x)):
        call.freeze(x.axes[dim], "it is rolled")
    return x


@axis_rule("tril", "triu")
def triangle(call: Call) -> Result:
    """``... i j -> ... i j``: positions of the last two dims are compared, so they are frozen."""
    x = call.tensor("self")
    for axis in x.axes[-2:]:
        call.freeze(axis, "a triangle of it is taken")
    return x


@axis_rule("diagonal", "diag", "diag_embed", "trace")
def diagonal(call: Call) -> Result:
    """Positions of two dims are compared, so everything is frozen."""
    return call.opaque("a diagonal is taken")


@axis_rule("diff")
def diff(call: Call) -> Result:
    """Neighbouring positions are subtracted, also those of what is put before and after: the dim is frozen."""
    dim = dim_index(call["dim"], len(call.shape))
    x = joined(call, call.tensors(), dim)
    call.freeze(x.axes[dim], "differences of its neighbours are taken")
    return x.replace(dim, call.fixed(call.shape[dim], "it holds differences of neighbours"), False)


@axis_rule("slice_scatter")
def slice_scatter(call: Call) -> Result:
    """``(a + b + c), b -> (a + b + c)``: b is written over; a step that divides the axis has ``(a step), a``."""
    x, source = call.tensor("self"), call.tensor("src")
    dim, step = dim_index(call["dim"], len(x)), call["step"]
    axis = x.axes[dim]
    start, end = bound(call["start"], axis.size, 0), bound(call["end"], axis.size, axis.size)
    if start is None or end is None:
        for each in (axis, source.axes[dim]):
            call.freeze(each, "it is written over at a position that depends on data")
        part = x.replace(dim, source.axes[dim], False)
    elif step == 1:
        part = sliced(call, x, dim, start, max(0, end - start))
    else:
        part = x.replace(dim, every(call, axis, start, end, step, source.axes[dim].size), x.zero[dim])
    for one, other in zip(part.axes, source.axes, strict=True):
        call.unify(one, other)
    return Dims(tuple(map(call.resolve, x.axes)), tuple(a and b for a, b in zip(part.zero, source.zero, strict=True)))


@resize_rule("slice_scatter")
def resize_slice_scatter(resize: Resize) -> Mapping[str, Any]:
    """New bounds, as for a slice."""
    if len(resize.remembered) == 1:
        end = resize["end"]
        return {"end": resize.size(resize.remembered[0])} if isinstance(end, int) and end > 0 else {}
    if not resize.remembered:
        dim = dim_index(resize["dim"], len(resize.dims))
        whole = resize["step"] == 1 and resize.dims.axes[dim].size == resize.input("src").axes[dim].size
        return {"start": None, "end": None} if whole else {}
    before, written, _ = resize.remembered
    return {"start": resize.size(before), "end": resize.size(before) + resize.size(written)}


@axis_rule("select_scatter")
def select_scatter(call: Call) -> Result:
    """``a b, b -> a b``: one position of a is written over, so a is frozen."""
    x, source = call.tensor("self"), call.tensor("src")
    dim = dim_index(call["dim"], len(x))
    call.freeze(x.axes[dim], "its positions are written one by one")
    rest = [other for other in range(len(x)) if other != dim]
    for other, axis in zip(rest, source.axes, strict=True):
        call.unify(x.axes[other], axis)
    zero = [x.zero[other] and source.zero[rest.index(other)] if other != dim else False for other in range(len(x))]
    return Dims(x.axes, tuple(zero))

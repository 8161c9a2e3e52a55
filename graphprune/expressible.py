"""Which groups the module form can cut, and which numbers of units a config can express.

Nothing here knows a model: one unit of every group of a family is cut, and the patched module is run beside the graph
form, or built anew from its patched config. Both are filled with random numbers that take next to no memory
(:func:`patterned`), so that a module form that runs but computes something else is seen too: attention that divides by
the root of its new head size, position slopes that follow from the new number of heads. A model without values can't be
run, and shapes decide.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .adapters import without_adapters
from .errors import GraphPruneError
from .groups import PruningGroup
from .masks import Keep, Kept, kept_size
from .passes.patch_modules import patch_modules
from .passes.recompute_shapes import recompute_shapes
from .passes.slice_parameters import parameter_masks, slice_tensor
from .passes.trace import inference_mode_of
from .passes.verify import same_values
from .program import fetch, parameter_table
from .quiet import first_line, quietly
from .traced import TracedModel

MOST_COUNTED = 256
"""Groups with more units than this are channels of some kind: any number of them is taken to be fine for a config."""

STEP = 8
"""How many numbers of any type kernels want aligned at most: 16 bytes of 16-bit numbers."""

Answer = TypeVar("Answer")


def _once_per_model(question: Callable[[TracedModel], Answer]) -> Callable[[TracedModel], Answer]:
    """Keep the answers for as long as the traced models live: selection asks at every step of a schedule."""
    answers: WeakKeyDictionary[TracedModel, Answer] = WeakKeyDictionary()

    @wraps(question)
    def ask(traced: TracedModel) -> Answer:
        if traced not in answers:
            answers[traced] = question(traced)
        return answers[traced]

    return ask


def is_configured(traced: TracedModel) -> bool:
    """Whether the model is one of transformers, built from a config."""
    return _config(traced.module) is not None


@_once_per_model
def module_counts(traced: TracedModel) -> dict[str, tuple[int, ...]]:
    """For each family of groups that the module form can cut, the numbers of units that it may keep.

    Those are all numbers, or the multiples of ``STEP`` where the module runs with such a number but not with any: the
    kernels of experts want rows that are aligned.
    """
    check = _check_of(traced)
    found: dict[str, tuple[int, ...]] = {}
    for family, members in _families(traced.groups.cuttable):
        units = members[0].units
        for step in (1, STEP):
            counts = tuple(range((units - 1) // step * step, 0, -step))
            if counts and check(traced, {g.atom.id: Kept(torch.arange(g.units) < counts[0]) for g in members}):
                found[family] = counts
                break
    return found


def _check_of(traced: TracedModel) -> Callable[[TracedModel, Keep], bool]:
    """The check that the whole model passes: by values in float64 or in its own types, or by shapes."""
    if any(traced.program.tensor(name).is_meta for name in traced.table):
        return _runs
    return _agrees_in_float64 if _agrees_in_float64(traced, {}) else _agrees


def _agrees_in_float64(traced: TracedModel, keep: Keep) -> bool:
    return _agrees(traced, keep, torch.float64)


def _agrees(traced: TracedModel, keep: Keep, dtype: torch.dtype | None = None) -> bool:
    """Whether the two forms compute the same from the same random numbers, in a type or in the model's own types."""
    tensors = _random_tensors(traced, keep, dtype)
    try:
        module = patch_modules(traced.program, traced.inference, traced.groups, keep, tensors)
        graph = recompute_shapes(traced.program, traced.inference, keep, tensors)
    except GraphPruneError:
        return False
    return same_values(traced.program, graph, module, dtype)


def _random_tensors(traced: TracedModel, keep: Keep, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Random parameters and the true buffers of a compact model, on the host."""
    program, inference = traced.program, traced.inference
    masks = parameter_masks(inference, keep)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys([*traced.table, *inference.parameter_dims]):
        info = traced.table.get(name)
        original = (fetch(program.graph, name) if info is None else program.tensor(name)).detach()
        if info is None or info.is_buffer or not original.is_floating_point():
            tensors[name] = slice_tensor(original, masks.get(name, [None] * original.ndim)).cpu()
        else:
            known = name in inference.parameter_dims
            shape = [kept_size(axis, keep) for axis in inference.axes(name)] if known else info.shape
            tensors[name] = patterned(shape, dtype or original.dtype, generator)
            if len(shape) == 1:  # scales about one and shifts about zero let through what comes before them
                row = slice_tensor(original, masks.get(name, [None])).cpu()
                tensors[name] = row.to(tensors[name]) + 0.1 * tensors[name]
    return tensors


def patterned(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random numbers that take little memory, since they repeat.

    Each anti-diagonal of a matrix is one number, and a stack of matrices holds the same one, moved on by some places:
    grouped matmuls want matrices that are dense.
    """
    *stack, rows, columns = (1, 1, *shape)[-max(2, len(shape)) :]
    strides = [*[STEP] * len(stack), columns, 1] if stack else [1, 1]
    needed = 1 + sum((size - 1) * stride for size, stride in zip((*stack, rows, columns), strides, strict=True))
    scale = (2 / max(1, math.prod(shape[1:]))) ** 0.5 if len(shape) > 1 else 1.0
    line = torch.randn(max(1, needed), generator=generator).to(dtype) * scale
    return line.as_strided(tuple(shape), strides[len(strides) - len(shape) :])


@_once_per_model
def config_counts(traced: TracedModel) -> dict[str, tuple[int, ...]]:
    """For each family that the config of a transformers model can express, the numbers of units that it accepts.

    All groups of the family then keep the same number. A family with a buffer that is not saved (rotary frequencies) is
    not among them: it would be computed anew from the config.
    """
    found: dict[str, tuple[int, ...]] = {}
    config = _config(traced.module)
    if config is None:
        return found
    for family, members in _families(traced.groups.cuttable):
        units = members[0].units
        if members[0].kind == "lora_rank":
            found[family] = tuple(range(units - 1, 0, -1))  # no config knows of adapters
            continue
        if any(_is_computed(traced, member.parameter) for group in members for member in group.members):
            continue
        patched = _config(probe(traced, members, units - 1, device="meta")).to_dict()
        changed = {name: value for name, value in config.to_dict().items() if value != patched[name]}
        counts = list(range(units - 1, 0, -1))
        if units <= MOST_COUNTED:
            counts = [n for n in counts if _accepts(config, {name: old * n // units for name, old in changed.items()})]
        if counts and misfit(without_adapters(probe(traced, members, counts[0], device="meta"))) is None:
            found[family] = tuple(counts)
    return found


def _accepts(config: Any, changes: Mapping[str, Any]) -> bool:
    """Whether a config can be made with some numbers changed."""
    try:
        type(config)(**{**config.to_dict(), **changes})
    except Exception:  # whatever a config finds wrong with its numbers
        return False
    return True


def probe(traced: TracedModel, groups: Sequence[PruningGroup], count: int, device: str = "cpu") -> nn.Module:
    """The module form, full of zeros, with the first ``count`` units of each of these groups."""
    keep: Keep = {g.atom.id: Kept(torch.arange(g.units) < count) for g in groups}
    return zero_module(traced, keep, device)


def zero_module(traced: TracedModel, keep: Keep, device: str = "cpu") -> nn.Module:
    """The module form with zeros for its values; on the meta device where only its shapes are of interest."""
    tensors: dict[str, Tensor] = {}
    for name, info in traced.table.items():
        known = name in traced.inference.parameter_dims
        shape = [kept_size(axis, keep) for axis in traced.inference.axes(name)] if known else info.shape
        tensors[name] = torch.zeros(shape, dtype=traced.program.tensor(name).dtype, device=device)
    return patch_modules(traced.program, traced.inference, traced.groups, keep, tensors)


def is_transformers_model(module: nn.Module) -> bool:
    """Whether ``module`` is one of transformers, without adapters around it."""
    from transformers import PreTrainedModel

    return isinstance(module, PreTrainedModel)


def misfit(module: nn.Module) -> str | None:
    """What distinguishes a transformers model from the one that its own config makes, in shapes; None for nothing."""
    config: Any = copy.deepcopy(module.config)
    kind: Any = type(module)
    try:
        # as from_pretrained makes it, so that what a config checks about itself is checked
        with quietly(), torch.device("meta"):
            made = kind(type(config).from_dict(config.to_dict()))
    except Exception as error:  # whatever a config or a constructor finds wrong with its numbers
        return f"its config makes no {kind.__name__}: {first_line(error)}"
    found, wanted = _shapes(module), _shapes(made)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            ours, theirs = (list(each[name]) if name in each else "missing" for each in (found, wanted))
            return f"{name} is {ours} here and {theirs} in the model that the config makes"
    return None


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for info in parameter_table(module).values() for name in (info.name, *info.aliases)}


def _config(module: nn.Module) -> Any:
    """The config of a transformers model, with or without adapters around it; None for other modules."""
    config = getattr(getattr(module, "base_model", module), "config", None) or getattr(module, "config", None)
    return config if hasattr(config, "to_dict") else None


def _is_computed(traced: TracedModel, name: str) -> bool:
    """Whether a tensor is a buffer that no checkpoint holds."""
    info = traced.table.get(name)
    if info is None or not info.is_buffer:
        return False
    owner, _, attribute = name.rpartition(".")
    return attribute in traced.module.get_submodule(owner)._non_persistent_buffers_set


def _runs(traced: TracedModel, keep: Keep) -> bool:
    """Whether the module form, full of zeros, runs on inputs like those that the model was traced with."""
    module = zero_module(traced, keep)

    def on_host(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.zeros_like(value, device="cpu") if value.is_meta else value.cpu()

    args, kwargs = tree_map(on_host, tuple(traced.args)), tree_map(on_host, dict(traced.kwargs))
    try:
        with inference_mode_of(module):
            module(*args, **kwargs)
    except Exception:  # whatever a forward finds wrong with its shapes
        return False
    return True


def _families(groups: Iterable[PruningGroup]) -> Iterator[tuple[str, list[PruningGroup]]]:
    members: dict[str, list[PruningGroup]] = {}
    for group in groups:
        members.setdefault(group.family, []).append(group)
    yield from members.items()

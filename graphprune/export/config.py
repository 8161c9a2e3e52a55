"""Whether the config of a transformers model can say what a plan does, so that plain ``from_pretrained`` loads it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import without_adapters
from ..axes import Atom
from ..errors import GraphPruneError
from ..groups import PruningGroup
from ..masks import Keep, Kept
from ..passes.patch_modules import patch_modules
from ..passes.slice_parameters import parameter_masks
from ..program import parameter_table
from ..traced import TracedModel
from .quiet import first_line, quietly


def is_transformers_model(module: nn.Module) -> bool:
    """Whether ``module`` is one of transformers, without adapters around it."""
    from transformers import PreTrainedModel

    return isinstance(module, PreTrainedModel)


def expressible(traced: TracedModel, groups: Sequence[PruningGroup]) -> frozenset[str]:
    """The families of ``groups`` that a transformers config has a number for: cut alike in every layer, they need no
    graphprune to be loaded. All families, where the model is not one of transformers and so has no such config.
    """
    families: dict[str, list[PruningGroup]] = {}
    for group in groups:
        families.setdefault(group.family, []).append(group)
    # a config may refuse single numbers (heads that do not divide the width): one that it takes is enough
    return frozenset(
        family
        for family, members in families.items()
        if any(refusal(traced, {group.atom: kept for group in members}) is None for kept in _probes(members[0].units))
    )


def _probes(units: int) -> list[int]:
    return sorted({max(1, units // 2), max(1, units // 4), max(1, units - 1)} - {units})


def refusal(traced: TracedModel, counts: Mapping[Atom, int]) -> str | None:
    """Why the model's config can't say that these many units stay of these groups, or None where it can.

    The answer costs no memory: the cut model and the one that its config makes are compared on the meta device.
    """
    keep: Keep = {atom.id: Kept(torch.arange(atom.size) < kept) for atom, kept in counts.items()}
    program, inference = traced.program, traced.inference
    masks = parameter_masks(inference, keep)
    tensors: dict[str, Tensor] = {}
    for name, info in program.table.items():
        rows = masks.get(name, [None] * len(info.shape))
        shape = [size if row is None else int(row.sum()) for size, row in zip(info.shape, rows, strict=True)]
        tensors[name] = torch.empty(shape, dtype=program.tensor(name).dtype, device="meta")
    try:
        with quietly():
            module = without_adapters(patch_modules(program, inference, traced.groups, keep, tensors))
    except GraphPruneError as error:
        return str(error)
    if not is_transformers_model(module):
        return None
    computed = [name for name in masks if name in program.table and program.table[name].is_buffer]
    stored = without_adapters(program.module).state_dict(keep_vars=True)
    kept = {id(tensor) for tensor in stored.values()}
    for name in computed:
        if id(program.tensor(name)) not in kept:
            return f"{name} is computed from the config, which can't say which positions of it stay"
    return misfit(module)


def misfit(module: nn.Module) -> str | None:
    """What distinguishes a transformers model from the one that its own config makes, in shapes; None for nothing."""
    config: Any = copy.deepcopy(module.config)
    kind: Any = type(module)
    try:
        # as from_pretrained makes it, so that what a config checks about itself is checked
        with quietly(), torch.device("meta"):
            made = kind(type(config).from_dict(config.to_dict()))
    except Exception as error:
        return f"its config makes no {kind.__name__}: {first_line(error)}"
    found, wanted = _shapes(module), _shapes(made)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            ours, theirs = (list(each[name]) if name in each else "missing" for each in (found, wanted))
            return f"{name} is {ours} here and {theirs} in the model that the config makes"
    return None


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for info in parameter_table(module).values() for name in (info.name, *info.aliases)}

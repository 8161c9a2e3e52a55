"""Whether the config of a transformers model says all of its sizes, so that plain ``from_pretrained`` loads it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..program import parameter_table
from .quiet import first_line, quietly


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

"""Biases that a config can say: ``gp.compensate`` gives biases to some layers, and a config has them in all of a kind.

::

    o_proj.bias, down_proj.bias     ->     LlamaConfig(attention_bias=True, mlp_bias=True), zeros in q_proj.bias, …
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any

import torch
from torch import nn

from ..adapters import shared_copy
from ..program import shapes_by_name
from ..quiet import quietly

MOST_SWITCHES = 4
"""Every choice of so many switches is tried at most."""


def with_said_biases(plain: Any) -> nn.Module | None:
    """A model whose config says that it has biases, in place of one that has some and a config without.

    It shares the tensors of ``plain``; biases that the config brings along and ``plain`` lacks are zeros. None where no
    switch of the config makes the shapes of ``plain``.
    """
    shapes = shapes_by_name(plain)
    if all(name in _made(plain, ()) for name in shapes):
        return None  # biases are not what the config lacks
    for switches in _choices(plain.config):
        made = _made(plain, switches)
        added = made.keys() - shapes.keys()
        if all(made.get(name) == shape for name, shape in shapes.items()) and all(_is_bias(name) for name in added):
            model: Any = shared_copy(plain)
            for name in added:
                path, _, attribute = name.rpartition(".")
                layer = model.get_submodule(path)
                setattr(layer, attribute, nn.Parameter(layer.weight.new_zeros(made[name]), layer.weight.requires_grad))
            for switch in switches:
                setattr(model.config, switch, True)
            return model  # type: ignore[no-any-return]
    return None


def _choices(config: Any) -> Iterator[tuple[str, ...]]:
    """The switches of a config for biases that are off, few of them first."""
    off = [name for name, value in vars(config).items() if "bias" in name and value is False][:MOST_SWITCHES]
    return chain.from_iterable(combinations(off, count) for count in range(1, len(off) + 1))


def _made(plain: Any, switches: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes in the model that the config makes with some switches on; none where it makes no model."""
    config = copy.deepcopy(plain.config)
    for switch in switches:
        setattr(config, switch, True)
    try:
        with quietly(), torch.device("meta"):
            return shapes_by_name(type(plain)(type(config).from_dict(config.to_dict())))
    except Exception:  # whatever a config or a constructor finds wrong with its numbers
        return {}


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"

"""How the entries of ``sized_text`` and ``sized_images`` are built, and the inputs that both have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import transformers
from torch import nn

from .language import VOCABULARY, Entry, fill_zeros

Config = dict[str, Any]
"""Settings of a config, by name."""

Inputs = dict[str, Any]
"""Keyword inputs of a model."""


def ids(*shape: int, least: int = 3, below: int = VOCABULARY, seed: int = 0) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(least, below, shape, generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random numbers, such as of images or of sound."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ones(*shape: int) -> torch.Tensor:
    """A mask that masks nothing."""
    return torch.ones(*shape, dtype=torch.long)


def with_places(
    before: int, count: int, after: int, *, token: int = 90, below: int = 80, rows: int = 2, seed: int = 0
) -> torch.Tensor:
    """Token ids with ``count`` times ``token``, in whose place an image or sound comes, between others."""
    places = torch.full((rows, count), token)
    return torch.cat([ids(rows, before, below=below, seed=seed), places, ids(rows, after, below=below, seed=seed)], 1)


def without(config: Config, *names: str) -> Config:
    """The settings but for those named."""
    return {name: value for name, value in config.items() if name not in names}


def entry(model: str, inputs: Inputs | None = None, /, *, config_class: str | None = None, **settings: Any) -> Entry:
    """A model by the name of its class, after that of its module where transformers itself does not have it.

    The inputs are token ids if none are given; ``config_class`` is for a model whose own class of configs is another.
    """
    given = {"input_ids": ids(2, 9)} if inputs is None else inputs

    def build() -> tuple[nn.Module, dict[str, Any]]:
        model_class = _class(model)
        config = (_class(config_class) if config_class else model_class.config_class)(**copy.deepcopy(settings))
        for each in (config, *(getattr(config, name, None) for name in ("text_config", "encoder", "decoder"))):
            if hasattr(each, "use_cache"):
                each.use_cache = False
        torch.manual_seed(0)
        built = model_class(config).eval().float()
        fill_zeros(built)
        return built, copy.deepcopy(given)

    return build


def _class(name: str) -> Any:
    module, _, last = name.rpartition(".")
    return getattr(import_module(f"transformers.models.{module}") if module else transformers, last)


def changed(whole: Entry, change: Callable[[Any], None]) -> Entry:
    """The same, with a change of the model in place."""

    def build() -> tuple[nn.Module, dict[str, Any]]:
        model, inputs = whole()
        change(model)
        return model, inputs

    return build


def part(whole: Entry, path: str, inputs: Inputs) -> Entry:
    """A sub-module of another entry's model, with inputs of its own."""
    return lambda: (whole()[0].get_submodule(path), copy.deepcopy(inputs))


def varied(whole: Entry, inputs: Inputs) -> Entry:
    """The same model with other inputs in place of those of the same names, or beside them."""

    def build() -> tuple[nn.Module, dict[str, Any]]:
        model, before = whole()
        return model, {**before, **copy.deepcopy(inputs)}

    return build

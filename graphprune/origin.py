"""What a compact model remembers of the dense model that it was cut from: enough to build its module again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .adapters import plain_modules
from .program import Program

Size = int | tuple[int, ...]

Sizes = Mapping[str, Mapping[str, Size]]
"""For each module by its path the attributes that the compact model has other numbers in."""


@dataclass(frozen=True)
class Origin:
    """The dense model without its weights.

    ``architecture`` is the full name of its class, ``config`` a copy of its config, where it has one. ``sizes`` and
    ``config_sizes`` are the numbers that the compact module and its configs have in place of the dense ones; paths are
    those of the model without adapters. ``args`` and ``kwargs`` are the inputs that it was traced with.
    """

    architecture: str
    config: Any | None
    sizes: Sizes
    config_sizes: Sizes
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)


def origin_of(program: Program, compact: nn.Module | None) -> Origin:
    """The origin of the module form ``compact``, or of a graph form where that is None."""
    dense = dict(plain_modules(program.module))
    root = dense[""]
    modules = {} if compact is None else dict(plain_modules(compact))
    sizes = {path: dict(_changes(vars(dense[path]), vars(child))) for path, child in modules.items()}
    configs = {
        path: dict(_changes(vars(dense[path].config), vars(config))) for path, config in configs_of(modules).items()
    }
    return Origin(
        architecture=f"{type(root).__module__}.{type(root).__qualname__}",
        config=copy.deepcopy(vars(root).get("config")),
        sizes={path: changes for path, changes in sizes.items() if changes},
        config_sizes={path: changes for path, changes in configs.items() if changes},
        args=program.args,
        kwargs=program.kwargs,
    )


def configs_of(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Each config object among ``modules``, by the path of the first module that holds it."""
    found: dict[int, str] = {}
    for path, child in modules.items():
        config = vars(child).get("config")
        if hasattr(config, "__dict__"):
            found.setdefault(id(config), path)
    return {path: vars(modules[path])["config"] for path in found.values()}


def _changes(dense: Mapping[str, Any], compact: Mapping[str, Any]) -> Iterator[tuple[str, Size]]:
    for name, value in compact.items():
        if _is_size(value) and _is_size(dense.get(name)) and value != dense[name]:
            yield name, value


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_size(each) for each in value)
    return isinstance(value, int) and not isinstance(value, bool)

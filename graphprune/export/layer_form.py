"""Models that are made by giving a dense module other tensors and other numbers, which only ``gp.load`` does.

It is the form of modules that are not of transformers, and of classes that transformers does not export.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..adapters import plain_modules
from ..errors import ExportError, FileFormatError, PlanError
from ..origin import Origin, Sizes, configs_of
from ..program import fingerprint, parameter_table
from ..quiet import first_line, quietly
from ..weight_files import WEIGHTS
from .graph_form import read_graph
from .manifest import (
    DENSE_CONFIG,
    read_object,
    read_plan,
    require_class,
    require_safetensors,
    stored_tensors,
    write_generation_config,
    write_json,
)


def write_layers(plain: nn.Module, directory: Path) -> None:
    """Store every tensor of a model, each once."""
    tensors, _ = plain_tensors(plain)
    save_file(_separate(tensors), directory / WEIGHTS, metadata={"format": "pt"})


def write_dense_config(plain: nn.Module, origin: Origin, directory: Path) -> None:
    """Store the config of the dense model of transformers, not under the name that transformers looks for."""
    config = {**origin.config.to_dict(), "dtype": str(plain.dtype).removeprefix("torch.")}  # type: ignore[union-attr]
    write_json(directory / DENSE_CONFIG, config)
    write_generation_config(directory, plain)


def read_layers(directory: Path, about: Mapping[str, Any], model: nn.Module | None) -> nn.Module:
    """The model in a directory; ``model`` is the dense one where it is not of transformers.

    Raises:
        FileFormatError: a file is missing, truncated or corrupt, or does not fit the others.
        ExportError: ``model`` is needed and was not given.
        PlanError: ``model`` is not made as the dense model was.
    """
    tensors = stored_tensors(directory)
    if (directory / DENSE_CONFIG).is_file() and model is None:
        module = _dense_on_meta(directory, about)
    elif model is not None:
        module = model
        _add_biases(module, tensors)
        if about["dense"] is not None and fingerprint(parameter_table(model)) != about["dense"]:
            raise PlanError(
                f"{type(model).__name__} has other parameters than the dense {about['architecture']} that {directory} "
                "was cut from: make it with the same sizes as that one, and without adapters"
            )
    else:
        raise ExportError(
            f"{directory} holds a {about['architecture']}, which gp.load can't make by itself: give it the dense "
            "module, gp.load(path, model=…); it may be on the meta device"
        )
    modules = dict(plain_modules(module))
    _set_sizes(modules, about["sizes"])
    configs = configs_of(modules)
    for path, changes in about["config_sizes"].items():
        vars(configs[path]).update(changes)
    _put_tensors(module, tensors, about["aliases"], directory)
    if (directory / "generation_config.json").is_file():
        from transformers import GenerationConfig

        with quietly():
            module.generation_config = GenerationConfig.from_pretrained(directory)  # type: ignore[assignment]
    return module


def read_cut_graph(directory: Path, about: Mapping[str, Any], model: nn.Module | None) -> nn.Module:
    """The graph of a model that has a graph form only; arguments and errors as for :func:`read_layers`."""
    require_safetensors(directory / WEIGHTS)
    if model is None and not (directory / DENSE_CONFIG).is_file():
        raise ExportError(
            f"{directory} holds the graph of a {about['architecture']}, which gp.load can't make by itself: give it "
            "the dense module, gp.load(path, model=…); it may be on the meta device"
        )
    dense = _dense_on_meta(directory, about) if model is None else model
    with safe_open(directory / WEIGHTS, framework="pt") as stored:
        _add_biases(dense, stored.keys())
    return read_graph(dense, read_plan(directory), about, directory / WEIGHTS)


def plain_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters and buffers of the model without adapters by their first names, and the other names they have."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for path, child in plain_modules(module):
        for name, tensor in (*child._parameters.items(), *child._buffers.items()):
            full = f"{path}.{name}" if path else name
            if tensor is None:
                continue
            if id(tensor) in first:
                aliases[full] = first[id(tensor)]
            else:
                first[id(tensor)] = full
                tensors[full] = tensor.detach()
    return tensors, aliases


def _dense_on_meta(directory: Path, about: Mapping[str, Any]) -> nn.Module:
    kind = require_class(about)
    config = read_object(directory / DENSE_CONFIG)
    try:
        with quietly(), torch.device("meta"):
            return kind(kind.config_class.from_dict(config))  # type: ignore[no-any-return]
    except Exception as error:
        raise FileFormatError(
            f"{directory / DENSE_CONFIG} makes no {kind.__name__} ({first_line(error)}): save the model again"
        ) from error


def _add_biases(dense: nn.Module, stored: Iterable[str]) -> None:
    """Give layers the biases that are stored and they lack, as :func:`graphprune.compensate` did before the cut."""
    names = set(stored)
    for path, child in dense.named_modules():
        if child._parameters.get("bias", child) is None and (f"{path}.bias" if path else "bias") in names:
            weight: Any = child.weight
            child.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), weight.requires_grad)


def _set_sizes(modules: Mapping[str, nn.Module], sizes: Sizes) -> None:
    for path, changes in sizes.items():
        for name, value in changes.items():
            setattr(modules[path], name, tuple(value) if isinstance(value, Iterable) else value)


def _put_tensors(module: nn.Module, tensors: Mapping[str, Tensor], aliases: Mapping[str, str], place: Path) -> None:
    """Put tensors in place of a module's own, and tie the aliases to them."""
    owners = {
        f"{path}.{name}" if path else name: (child, name)
        for path, child in plain_modules(module)
        for name in (*child._parameters, *child._buffers)
    }
    placed: dict[str, Tensor] = {}
    for name in [*tensors, *aliases]:
        if name not in owners:
            raise FileFormatError(f"{place} holds {name}, which the model does not have: save the model again")
        child, attribute = owners[name]
        old = getattr(child, attribute)
        tensor = placed[aliases[name]] if name in aliases else tensors[name]
        if attribute in child._parameters and not isinstance(tensor, nn.Parameter):
            trained = old is None or old.requires_grad
            tensor = nn.Parameter(tensor, requires_grad=trained and tensor.is_floating_point())
        placed[name] = tensor
        setattr(child, attribute, tensor)
    lacking = [
        n for n, (child, attribute) in owners.items() if n not in placed and getattr(child, attribute) is not None
    ]
    if lacking:
        raise FileFormatError(f"{place} lacks {lacking[0]}, which the model has: save the model again")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, no two in the same storage, as safetensors wants them."""
    storages: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return result

"""Adapters that were kept, in a directory of their own as peft saves them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..adapters import adapter_layers, plain_modules
from ..device import device_of
from ..errors import FileFormatError
from ..files import is_plain_name
from ..quiet import first_line, quietly
from .manifest import read_object, require_safetensors, write_json


def write_adapters(module: Any, directory: Path, base: str) -> dict[str, Any]:
    """Save adapters as peft does; their configs name the model that they are for and the ranks that they now have.

    Returns what :func:`read_adapters` needs to know.
    """
    with quietly():
        module.save_pretrained(directory, save_embedding_layers=False)
    for name in module.peft_config:
        file = _folder(directory, name) / "adapter_config.json"
        config = read_object(file)
        config["base_model_name_or_path"] = base
        if isinstance(config.get("init_lora_weights"), str):
            config["init_lora_weights"] = True  # PiSSA and its kin changed the base, which is saved as it is now
        ranks, alphas = _new_ranks(module, name, rank_stabilised=bool(config.get("use_rslora")))
        if ranks:
            config["rank_pattern"], config["alpha_pattern"] = ranks, alphas
        write_json(file, config)
    active = module.active_adapters
    return {"names": list(module.peft_config), "active": list(active() if callable(active) else active)}


def read_adapters(base: nn.Module, directory: Path, about: Mapping[str, Any]) -> nn.Module:
    """A model with the adapters that were written for it.

    Raises:
        FileFormatError: a file is missing, truncated or corrupt, or an adapter has a name that leads elsewhere.
    """
    from peft import PeftModel

    names = [str(name) for name in about["names"]]
    for name in names:
        if not is_plain_name(name):
            raise FileFormatError(f"the adapter {name!r} does not lie in {directory}: save the model again")
        read_object(_folder(directory, name) / "adapter_config.json")
        require_safetensors(_folder(directory, name) / "adapter_model.safetensors")
    device = str(device_of(base))
    try:
        with quietly():
            first, *others = names
            folder = _folder(directory, first)
            model: Any = PeftModel.from_pretrained(base, folder, adapter_name=first, torch_device=device)
            for name in others:
                model.load_adapter(_folder(directory, name), adapter_name=name, torch_device=device)
            model.base_model.set_adapter(list(about["active"]))
    except Exception as error:
        raise FileFormatError(
            f"{directory} can't be loaded by peft ({first_line(error)}): save the model again"
        ) from error
    return model  # type: ignore[no-any-return]


def _folder(directory: Path, name: str) -> Path:
    return directory if name == "default" else directory / name


def _new_ranks(model: nn.Module, adapter: str, *, rank_stabilised: bool) -> tuple[dict[str, int], dict[str, float]]:
    """The ranks and alphas, by path, of all layers of an adapter; empty where none of its ranks was cut."""
    layers = {id(layer) for layer in adapter_layers(model).values()}
    paths = {id(child): path for path, child in _tuner_paths(model)}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    cut = False
    for layer in adapter_layers(model).values():
        found: Any = layer
        factor = getattr(found, "lora_A", {}), getattr(found, "lora_embedding_A", {})
        if id(layer) not in layers or not any(adapter in each for each in factor):
            continue
        rank = int(factor[0][adapter].weight.shape[0] if adapter in factor[0] else factor[1][adapter].shape[0])
        path = paths[id(layer)]
        ranks[path] = rank
        alphas[path] = float(found.scaling[adapter]) * (math.sqrt(rank) if rank_stabilised else rank)
        cut = cut or rank != found.r[adapter]
    return (ranks, alphas) if cut else ({}, {})


def _tuner_paths(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The layers of adapters with the paths that the layers inside them have without adapters."""
    plain = {id(child): path for path, child in plain_modules(model)}
    for layer in adapter_layers(model).values():
        base: Any = layer
        yield plain[id(base.get_base_layer())], layer

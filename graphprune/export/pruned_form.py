"""Models whose layers differ in size in the form that transformers loads with ``trust_remote_code=True``.

Beside the weights lies ``modeling_pruned.py``, always the same file, and the sizes stand in config.json
(see :mod:`.modeling_pruned`). graphprune itself never runs code of a directory: it has that module of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..origin import Origin, Sizes, configs_of
from ..quiet import first_line, quietly
from . import modeling_pruned
from .modeling_pruned import FILE, PREFIX

ENTRY = "pruned"
"""The entry of config.json that has the sizes."""


def pruned_class(kind: type) -> Any:
    """The class that makes models of a class of transformers in other sizes.

    Raises:
        ExportError: transformers does not export the class by its name.
    """
    import transformers

    if getattr(transformers, kind.__name__, None) is not kind:
        raise ExportError(f"transformers has no {kind.__name__} among what it exports")
    return getattr(modeling_pruned, f"{PREFIX}{kind.__name__}")


def is_pruned(module: nn.Module) -> bool:
    """Whether a module was loaded from this form: what says its sizes is more than its config."""
    return isinstance(getattr(getattr(module, "config", None), ENTRY, None), Mapping)


def dense_origin(plain: Any, origin: Origin) -> Origin:
    """The origin of a model that was cut again after it was loaded from this form: the first dense model.

    ::

        the origin of PrunedLlamaForCausalLM, 40 -> 30     ->     the origin of LlamaForCausalLM, 80 -> 30
    """
    if not is_pruned(plain):
        return origin
    config: Any = copy.deepcopy(origin.config)
    pruned = getattr(config, ENTRY)
    modeling_pruned.set_numbers(modeling_pruned.reachable(config, pruned), 0)
    for name in (ENTRY, "auto_map"):
        delattr(config, name)
    kind = _base_class(type(plain))
    before = {
        each["module"]: {name: is_now for name, (_, is_now) in each["numbers"].items()} for each in pruned["configs"]
    }
    return replace(
        origin,
        architecture=f"{kind.__module__}.{kind.__qualname__}",
        config=config,
        sizes=_merged(pruned["sizes"], origin.sizes),
        config_sizes=_merged(before, origin.config_sizes),
    )


def _merged(before: Sizes, after: Sizes) -> Sizes:
    return {path: {**before.get(path, {}), **after.get(path, {})} for path in {**before, **after}}


def _base_class(kind: type) -> type:
    """transformers' own class, which a class may be made from."""
    import transformers

    return next((each for each in kind.__mro__ if getattr(transformers, each.__name__, None) is each), kind)


def pruned_form(plain: nn.Module, origin: Origin) -> Any:
    """The same model, with the same tensors, as one that ``save_pretrained`` saves with all that loading it needs.

    Buffers that transformers computes (rotary frequencies) are stored too.

    Raises:
        ExportError: it is more than a dense model with smaller tensors and other numbers; says what.
    """
    base: Any = _base_class(type(plain))
    kind: Any = pruned_class(base)
    config: Any = copy.deepcopy(origin.config)
    tensors = dict(_named_tensors(plain))
    config.auto_map = {auto: f"{FILE.removesuffix('.py')}.{kind.__name__}" for auto in auto_classes(base)}
    if not config.auto_map:
        raise ExportError(f"no AutoModel class of transformers makes a {base.__name__}")
    setattr(config, ENTRY, _sizes(plain, base, origin, tensors))
    try:
        with quietly(), torch.device("meta"):
            model = kind(type(config).from_dict(config.to_dict()))
        wanted = model.state_dict().keys()
        model.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
        model.tie_weights()
    except Exception as error:  # whatever a config or a constructor finds wrong with its numbers
        raise ExportError(f"cut to its sizes, {base.__name__} can't be made: {first_line(error)}") from error
    for name, tensor in _named_tensors(model):
        if name not in tensors or tensors[name].shape != tensor.shape:
            ours, theirs = list(tensors[name].shape) if name in tensors else "missing", list(tensor.shape)
            raise ExportError(f"{name} is {ours} here and {theirs} in the model that is made from its sizes")
    model.generation_config = getattr(plain, "generation_config", None)
    return model.train(plain.training)


def auto_classes(kind: type) -> list[str]:
    """The names of the ``AutoModel…`` classes that make models of a class of transformers."""
    from transformers.models.auto import modeling_auto

    autos = {name: each for name, each in vars(modeling_auto).items() if isinstance(each, type)}
    names = {name: getattr(getattr(auto, "_model_mapping", None), "_model_mapping", {}) for name, auto in autos.items()}
    return [
        name
        for name, by_type in names.items()
        if any(kind.__name__ in (each if isinstance(each, tuple) else (each,)) for each in by_type.values())
    ]


def _sizes(plain: nn.Module, kind: Any, origin: Origin, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What distinguishes a model from the dense one."""
    config: Any = copy.deepcopy(origin.config)
    with quietly(), torch.device("meta"):
        dense = kind(type(config).from_dict(config.to_dict()))
    whole = dict(_named_tensors(dense))
    modules = dict(dense.named_modules())
    configs = configs_of(modules)
    reachable = dict(_inner_configs(dense.config))
    buffers = [name for name in tensors if name in whole and _is_computed(dense, name)]
    return {
        "shapes": {
            name: list(tensor.shape)
            for name, tensor in tensors.items()
            if name not in whole or whole[name].shape != tensor.shape
        },
        "sizes": {path: dict(changes) for path, changes in origin.sizes.items()},
        "configs": [
            {
                "module": path,
                "config": reachable.get(id(configs[path])),
                "numbers": {name: [vars(configs[path]).get(name), value] for name, value in changes.items()},
            }
            for path, changes in origin.config_sizes.items()
        ],
        "buffers": [
            name for name in buffers if tensors[name].is_floating_point() or whole[name].shape != tensors[name].shape
        ],
    }


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _inner_configs(config: Any, path: str = "") -> Iterator[tuple[int, str]]:
    """The configs in a config, itself among them, by their ids."""
    yield id(config), path
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            yield from _inner_configs(value, f"{path}.{name}" if path else name)


def _is_computed(module: nn.Module, name: str) -> bool:
    """Whether a tensor is a buffer that no checkpoint holds."""
    path, _, attribute = name.rpartition(".")
    return attribute in module.get_submodule(path)._non_persistent_buffers_set

"""Models of transformers whose layers differ in size, as graphprune cuts them.

This file stands beside the weights of such a model, always the same, and transformers loads them by it::

    AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)

It needs nothing but torch and transformers. ``PrunedLlamaForCausalLM``, which config.json names, is transformers' own
``LlamaForCausalLM``, made from the config of the dense model and cut to the sizes in the entry ``pruned`` of
config.json before weights are loaded::

    "pruned": {
      "shapes": {"model.layers.0.mlp.up_proj.weight": [40, 48]},    tensors that are smaller, and biases that were added
      "sizes": {"model.layers.0.self_attn": {"num_key_value_groups": 1}},              the numbers of modules
      "configs": [{"module": "", "config": "", "numbers": {"intermediate_size": [80, 40]}}],   and of configs, [was, is]
      "buffers": ["model.rotary_emb.inv_freq"]                      what is stored, though transformers would compute it
    }
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import transformers
from torch import nn

PREFIX = "Pruned"
FILE = "modeling_pruned.py"


class PrunedModel:
    """What makes a model of transformers smaller; stands before its class in the list of bases."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        pruned = getattr(config, "pruned", None)
        if not isinstance(pruned, Mapping):
            raise ValueError(f"this config has no entry pruned, so there are no sizes for {type(self).__name__}")
        set_numbers(reachable(config, pruned), 0)  # as on disk, also where it is the config of a model that was made
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        _cut(self, pruned)  # type: ignore[arg-type]  # the class after this one is a module
        set_numbers(_held(self, pruned), 1)  # type: ignore[arg-type]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers saves a model, with this file beside it."""
        with self._as_on_disk():
            super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            target = Path(save_directory) / FILE
            if not (target.exists() and target.samefile(__file__)):
                shutil.copyfile(__file__, target)

    @contextlib.contextmanager
    def _as_on_disk(self) -> Iterator[None]:
        """Meanwhile the config has the numbers of the dense model, and names this file wherever it came from."""
        model: Any = self
        config = model.config
        config.auto_map = {auto: name.rpartition("--")[2] for auto, name in config.auto_map.items()}
        numbers = _held(model, config.pruned)
        set_numbers(numbers, 0)
        try:
            yield
        finally:
            set_numbers(numbers, 1)


Numbers = list[tuple[Any, Mapping[str, Any]]]
"""Configs with the numbers to set in them, each ``[in the dense model, in this one]``."""


def _held(model: nn.Module, pruned: Mapping[str, Any]) -> Numbers:
    """The configs that modules hold."""
    return [(model.get_submodule(each["module"]).config, each["numbers"]) for each in pruned["configs"]]


def reachable(config: Any, pruned: Mapping[str, Any]) -> Numbers:
    """Those that a config holds."""
    found = [each for each in pruned["configs"] if each["config"] is not None]
    return [(reduce(getattr, filter(None, each["config"].split(".")), config), each["numbers"]) for each in found]


def set_numbers(numbers: Numbers, which: int) -> None:
    for config, changes in numbers:
        for name, values in changes.items():
            config.__dict__[name] = _plain(values[which])


def _cut(model: nn.Module, pruned: Mapping[str, Any]) -> None:
    """Give a dense model, full or on the meta device, the sizes of a pruned one."""
    replaced: dict[int, Any] = {}
    for name, shape in pruned["shapes"].items():
        owner, attribute = _owner(model, name)
        old = getattr(owner, attribute)
        if old is None:  # a bias that the family does without
            new: Any = nn.Parameter(owner.weight.new_zeros(shape))
        elif tuple(old.shape) == tuple(shape):
            continue  # the other name of a tensor that was cut already
        elif id(old) in replaced:
            new = replaced[id(old)]
        else:
            if len(shape) != old.ndim or any(not 0 < n <= dense for n, dense in zip(shape, old.shape, strict=True)):
                raise ValueError(f"config.json cuts {name} to {list(shape)}, and it is {list(old.shape)}")
            kept = old.detach()[tuple(slice(n) for n in shape)].clone()
            new = nn.Parameter(kept, old.requires_grad) if isinstance(old, nn.Parameter) else kept
        if old is not None:
            replaced[id(old)] = new
        setattr(owner, attribute, new)
    for path, changes in pruned["sizes"].items():
        module = _module(model, path)
        for name, value in changes.items():
            setattr(module, name, _plain(value))
    for name in pruned["buffers"]:
        owner, attribute = _owner(model, name)
        owner._non_persistent_buffers_set.discard(attribute)  # so that it is loaded and saved


def _owner(model: nn.Module, name: str) -> tuple[Any, str]:
    path, _, attribute = name.rpartition(".")
    owner = _module(model, path)
    if attribute not in {**owner._parameters, **owner._buffers}:
        raise ValueError(f"config.json names {name}, which {type(model).__name__} does not have")
    return owner, attribute


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"config.json names {path}, which {type(model).__name__} does not have") from error


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def __getattr__(name: str) -> type:
    """``PrunedLlamaForCausalLM`` from ``LlamaForCausalLM``, and so on."""
    base = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if not (isinstance(base, type) and issubclass(base, transformers.PreTrainedModel)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = type(name, (PrunedModel, base), {"__module__": __name__, "__doc__": f"A {base.__name__} of other sizes."})
    setattr(sys.modules[__name__], name, made)
    return made

"""State dicts of a model that is cut while it is trained, and of its optimiser: those of the whole model.

A checkpoint then is the same thing however often the model was cut before it was written: the adapters in it fit the
model that they were made for, training goes on from it in a model that is loaded anew, and the best checkpoint can be
loaded after further cuts. Positions that are gone hold zeros.

::

    lora_B.weight [1100, 8]   state_dict()  ->  [1536, 8]   load_state_dict()  ->  [1100, 8]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import adapter_layers
from ..passes.slice_parameters import DimMasks, slice_tensor, widen
from ..program import fetch
from ..traced import TracedModel


class Wholeness:
    """While it is attached, state dicts are those of the whole model, and such ones can be loaded.

    Of a model with adapters only what is trained is made whole: nothing else of it goes into a checkpoint.
    """

    def __init__(
        self, traced: TracedModel, there: Mapping[str, DimMasks], optimizer: torch.optim.Optimizer | None = None
    ):
        module = traced.module
        keys = _keys(traced, there)
        whole = {name: traced.table[name].shape for name in there}
        left = {name: tuple(fetch(module, name).shape) for name in there}
        masks = {id(fetch(module, name)): (rows, whole[name]) for name, rows in there.items()}

        # functions and no methods: a copy of the module would copy what a method belongs to
        def widened(module: nn.Module, state: MutableMapping[str, Any], prefix: str, metadata: Any) -> None:
            made: dict[str, Tensor] = {}
            for key, name in keys.items():
                tensor = state.get(prefix + key)
                if tensor is not None and tuple(tensor.shape) == left[name]:
                    if name not in made:  # once for all names of a tied weight, which stays tied
                        made[name] = widen(tensor.detach(), there[name])
                    state[prefix + key] = made[name]

        def narrowed(module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
            for key, name in keys.items():
                tensor = state.get(prefix + key)
                if tensor is not None and tuple(tensor.shape) == whole[name]:
                    state[prefix + key] = slice_tensor(tensor, there[name])

        def widened_states(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            return _mapped(optimizer, state, masks, whole=True)

        def narrowed_states(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            return _mapped(optimizer, state, masks, whole=False)

        self._hooks: list[tuple[Callable[[Any], Any], Any]] = [
            (module.register_state_dict_post_hook, widened),
            (module.register_load_state_dict_pre_hook, narrowed),
        ]
        if optimizer is not None:
            self._hooks.append((optimizer.register_state_dict_post_hook, widened_states))
            self._hooks.append((optimizer.register_load_state_dict_pre_hook, narrowed_states))
        self._handles: list[Any] = []

    def attach(self) -> None:
        """State dicts are those of the whole model."""
        self._handles = [register(hook) for register, hook in self._hooks]

    def detach(self) -> None:
        """State dicts are those of the model as it is."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the context it is not attached."""
        was_attached = bool(self._handles)
        self.detach()
        try:
            yield
        finally:
            if was_attached:
                self.attach()


def torch_optimizer(optimizer: Any) -> Any:
    """The optimiser that accelerate has wrapped, or the optimiser itself."""
    while isinstance(
        inner := vars(optimizer).get("optimizer") if optimizer is not None else None, torch.optim.Optimizer
    ):
        optimizer = inner
    return optimizer


def _keys(traced: TracedModel, there: Mapping[str, DimMasks]) -> dict[str, str]:
    """The keys of state dicts that are made whole, with the names of what they stand for in the table."""
    adapted = bool(adapter_layers(traced.module))
    names = [name for name in there if not adapted or fetch(traced.module, name).requires_grad]
    return {key: name for name in names for key in (name, *traced.table[name].aliases)}


def _mapped(
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    masks: Mapping[int, tuple[DimMasks, tuple[int, ...]]],
    *,
    whole: bool,
) -> dict[str, Any]:
    """A state dict of an optimiser with the tensors of cut parameters made whole, or cut."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries = dict(state["state"])
    for index, parameter in enumerate(parameters):
        if id(parameter) not in masks or index not in entries:
            continue
        rows, shape = masks[id(parameter)]
        wanted, convert = (tuple(parameter.shape), widen) if whole else (shape, slice_tensor)
        entries[index] = {
            key: convert(value, rows) if isinstance(value, Tensor) and tuple(value.shape) == wanted else value
            for key, value in entries[index].items()
        }
    return {**state, "state": entries}

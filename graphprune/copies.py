"""Copy a module with all that it holds."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn


def deep_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy of a module, in which ``memo`` stands for what it names by its id, as in :func:`copy.deepcopy`.

    Tensors that were computed from others, which torch does not copy, are detached ones of the same values. Functions
    that the module holds, its hooks among them, refer to the copy where they referred to the module or to a part of it:
    by what they enclose, and by the dicts and lists of their file that the module holds too.

    Raises:
        Exception: whatever a part of the module raises when it is copied.
    """
    for child in module.modules():
        computed = (each for each in _tensors(vars(child)) if each.grad_fn is not None)
        memo |= {id(each): each.detach() for each in computed if id(each) not in memo}
        # each module has eight dicts of hooks, and copying an empty one by its class takes as long as a small module
        memo |= {id(each): OrderedDict() for each in vars(child).values() if type(each) is OrderedDict and not each}
    copied: nn.Module = copy.deepcopy(module, memo)
    for child in copied.modules():
        for held in [vars(child), *(each for each in vars(child).values() if isinstance(each, dict))]:
            held.update({name: _following(each, memo) for name, each in held.items() if isinstance(each, FunctionType)})
    return copied


def _tensors(held: Tensor | dict[Any, Any] | list[Any] | tuple[Any, ...]) -> list[Tensor]:
    """The tensors in dicts, lists and tuples."""
    if isinstance(held, Tensor):
        return [held]
    values = held.values() if isinstance(held, dict) else held
    return [tensor for each in values if isinstance(each, (Tensor, dict, list, tuple)) for tensor in _tensors(each)]


def _following(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """A function that refers to the copies of what it refers to; the function itself where there are none."""

    def followed(value: Any) -> Any:
        if isinstance(value, MethodType):
            return MethodType(value.__func__, followed(value.__self__))
        return memo.get(id(value), value)

    closure = [_contents(cell) for cell in function.__closure__ or ()]
    used = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    held = {name: each for name, each in used.items() if isinstance(each, (dict, list)) and id(each) in memo}
    if not held and not any(_refers(each, memo) for each in closure):
        return function
    result = FunctionType(
        function.__code__,
        {**function.__globals__, **{name: followed(each) for name, each in held.items()}},
        function.__name__,
        function.__defaults__,
        tuple(CellType() if each is EMPTY else CellType(followed(each)) for each in closure),
    )
    result.__kwdefaults__ = function.__kwdefaults__
    result.__dict__.update(function.__dict__)
    return result


def _refers(value: Any, memo: dict[int, Any]) -> bool:
    return id(value.__self__ if isinstance(value, MethodType) else value) in memo


EMPTY = object()


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return EMPTY

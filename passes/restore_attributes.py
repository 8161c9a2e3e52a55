"""See to it that a capture leaves a module as it was, and see what a forward keeps in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor

from ..errors import RewriteError
from ..quiet import first_line


@contextlib.contextmanager
def assignments_watched(module: nn.Module) -> Iterator[list[str]]:
    """A list of the buffers to which a forward assigns another tensor within the context, as a first call may do.

    torch.export forgets what was assigned.
    """
    owners = [
        child
        for child in module.modules()
        if any(True for _ in child.buffers(recurse=False)) and not isinstance(child, torch.jit.ScriptModule)
    ]
    assigned: list[str] = []
    before: dict[nn.Module, dict[str, torch.Tensor]] = {}

    def note(child: nn.Module, inputs: Any) -> None:
        if not torch.compiler.is_dynamo_compiling():  # which would have to capture what is done here
            before[child] = dict(child.named_buffers(recurse=False))

    def compare(child: nn.Module, inputs: Any, outputs: Any) -> None:
        if not torch.compiler.is_dynamo_compiling():
            known = before.get(child, {})
            buffers = child.named_buffers(recurse=False)
            assigned.extend(name for name, each in buffers if each is not known.get(name, each))

    hooks = [child.register_forward_pre_hook(note) for child in owners]
    hooks += [child.register_forward_hook(compare) for child in owners]
    try:
        yield assigned
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def computed_when_called(module: nn.Module) -> Iterator[None]:
    """Within the context what parts of a module compute of their weights when they are set to evaluation is computed
    once more where they are called, so that a capture sees how.

    ::

        def train(self, mode=True):
            ...
            self.ab = None if mode else self.attention_biases[:, self.indices]
    """
    kept: dict[nn.Module, list[dict[str, Any]]] = {}

    def compute(child: nn.Module, inputs: Any) -> None:
        kept.setdefault(child, []).append(dict(vars(child)))
        child.eval()

    def forget(child: nn.Module, inputs: Any, outputs: Any) -> None:
        vars(child).update(kept[child].pop())

    hooks = []
    for child in with_modes_of_their_own(module):
        before = dict(vars(child))
        child.eval()
        if any(isinstance(each, torch.Tensor) and before.get(name) is not each for name, each in vars(child).items()):
            hooks.append(child.register_forward_pre_hook(compute))
            hooks.append(child.register_forward_hook(forget, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def compute_anew(module: nn.Module) -> None:
    """Let parts of a module in evaluation mode compute anew what they compute of their weights when they are set to it.

    Raises:
        RewriteError: one of them can't.
    """
    with modes_kept(module) as training:
        for child in with_modes_of_their_own(module):
            try:
                if not training[child]:
                    child.train()  # which forgets what there is
                    child.eval()
            except Exception as error:
                name = type(child).__name__
                raise RewriteError(f"{name} can't be set to evaluation once it is cut: {first_line(error)}") from error


@contextlib.contextmanager
def modes_kept(module: nn.Module) -> Iterator[dict[nn.Module, bool]]:
    """Whether each part of a module is in training, which it is again after the context."""
    training = {child: child.training for child in module.modules()}
    try:
        yield training
    finally:
        for child, mode in training.items():
            child.training = mode


def with_modes_of_their_own(module: nn.Module) -> list[nn.Module]:
    """The parts of a module that do something when they are set to train or to evaluation."""
    return [child for child in module.modules() if type(child).train is not nn.Module.train]


@contextlib.contextmanager
def buffers_watched(module: nn.Module) -> Iterator[list[nn.Module]]:
    """A list of the modules in which a capture within the context makes a buffer.

    The graph takes it for one that was there before.
    """
    made: list[nn.Module] = []
    known = {id(buffer) for child in module.modules() for buffer in child._buffers.values()}
    try:
        yield made
    finally:
        for child in module.modules():
            latest = (each for each in child._buffers.values() if id(each) not in known)
            if any(isinstance(each, FakeTensor) for each in latest):
                made.append(child)


@contextlib.contextmanager
def attributes_restored(module: nn.Module) -> Iterator[None]:
    """After the context a module is as it was before, whatever its forward put into its attributes.

    A capture leaves tensors without values there, and a verification some in its own type; torch.export puts copies in
    place of dicts and lists, in which hooks would no longer find what they wrote to.
    """
    restore = restoring(module)
    try:
        yield
    finally:
        restore()


def restoring(module: nn.Module) -> Callable[[], None]:
    """A function that puts back into the attributes of a module what is in them now."""
    held = [(each, dict(vars(each)), _containers(each)) for each in _holders(module)]

    def restore() -> None:
        for each, attributes, containers in held:
            vars(each).clear()
            vars(each).update(attributes)
            for container, contents in containers:
                container.clear()
                container.update(contents) if isinstance(container, dict) else container.extend(contents)

    return restore


def _holders(module: nn.Module) -> list[Any]:
    """The modules in a module, and the objects that they hold, and these in turn.

    Such as a table that is computed when it is first asked for, or the distribution that a policy draws from.
    """
    found: dict[int, Any] = {id(child): child for child in module.modules()}
    latest = list(found.values())
    for _ in range(DEEP):
        objects = [each for holder in latest for each in vars(holder).values() if hasattr(each, "__dict__")]
        latest = [each for each in objects if not isinstance(each, NO_HOLDERS) and id(each) not in found]
        found |= {id(each): each for each in latest}
    return list(found.values())


DEEP = 3
"""How deep objects are looked for in objects."""

NO_HOLDERS = (torch.Tensor, dict, list, type, ModuleType, FunctionType, MethodType)
"""What has attributes and is not looked into: dicts and lists are what a holder holds, and a module has many."""


def _containers(holder: Any) -> list[tuple[Any, Any]]:
    """The dicts and lists that a module or an object holds, and what is in them."""
    found = [each for each in vars(holder).values() if isinstance(each, (dict, list))]
    return [(each, dict(each) if isinstance(each, dict) else list(each)) for each in found]

"""What accelerate does to a model for training: it wraps ``forward``, and shards the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import Any

from torch import fx, nn


@contextmanager
def as_it_was_made(model: nn.Module) -> Iterator[None]:
    """Within the context each module has the ``forward`` of its class, and not what trainers put in its place.

    accelerate wraps it (mixed precision), and TRL adds a loss to it. Either would run the original in every copy of the
    module. A ``forward`` that is no wrapper of the class's own stays, and so do accelerate's hooks, which load weights.
    """
    patched: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in model.modules():
        attributes = vars(module)
        if "forward" not in attributes or "_hf_hook" in attributes:
            continue
        original = attributes.get("_original_forward", attributes["forward"])
        wraps_own = unwrap(getattr(original, "__func__", original)) is unwrap(type(module).forward)
        if wraps_own or "_original_forward" in attributes:
            names = ("forward", "_original_forward")
            patched.append((attributes, {name: attributes.pop(name) for name in names if name in attributes}))
            if not wraps_own:
                module.forward = original
    try:
        yield
    finally:
        for attributes, before in patched:
            attributes.update(before)


def forget_parameters(graph: fx.GraphModule) -> None:
    """Leave nothing but the shapes of a graph's parameters, which sharding has replaced in the module."""
    for module in graph.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad))

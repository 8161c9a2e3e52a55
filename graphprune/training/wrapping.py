"""What accelerate does to a model for training: it wraps ``forward``, and shards the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx, nn


@contextmanager
def as_it_was_made(model: nn.Module) -> Iterator[None]:
    """Within the context the model has its own ``forward``, and not accelerate's around it (mixed precision)."""
    names = ("forward", "_original_forward")
    attributes = vars(model)
    patched = {name: attributes.pop(name) for name in names} if "_original_forward" in attributes else {}
    original = patched.get("_original_forward")
    if original is not None and getattr(original, "__func__", None) is not type(model).forward:
        model.forward = original
    try:
        yield
    finally:
        if patched:
            attributes.update(patched)


def forget_parameters(graph: fx.GraphModule) -> None:
    """Leave nothing but the shapes of a graph's parameters, which sharding has replaced in the module."""
    for module in graph.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad))

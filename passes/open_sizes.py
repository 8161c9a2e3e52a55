"""Stop torch.export where sizes follow from those of the inputs in too intricate a way to be kept open.

A size is an expression of the open ones, and torch compares expressions at every view. In most models they stay short.
Where images are padded to whole windows, each stage adds to them, and a capture that takes seconds takes an hour:

    vit       1                            beit       (h // 8) (w // 8) + 1
    segformer (((h - 1) // 4 - 7) // 8 + 1) (((w - 1) // 4 - 7) // 8 + 1)
    swin      b (h // 2 + Mod(4 - Mod(h // 2, 4), 4)) // 4 · (w // 2 + Mod(4 - Mod(w // 2, 4), 4)) // 4 …
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

OPERATIONS = 24
"""The most in one size. Of the architectures tried, those with windows have 29 in the first block and 121 in the second
stage, all others 11 at most."""


class IntricateSizes(BaseException):
    """A size has more than :data:`OPERATIONS`. No Exception: torch.onnx would capture the module in other ways then."""


@contextlib.contextmanager
def bounded_sizes(module: nn.Module) -> Iterator[None]:
    """Within the context a capture ends where what a child of the module takes has a size that is too intricate.

    Raises:
        IntricateSizes: says which child.
    """

    def check(child: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_dynamo_compiling():  # which would have to capture what is done here
            return
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and any(map(_is_intricate, value.shape)):
                raise IntricateSizes(f"what {names[id(child)]} takes has sizes that follow from them in intricate ways")

    names = {id(child): name or type(child).__name__ for name, child in module.named_modules()}
    hooks = [child.register_forward_pre_hook(check, with_kwargs=True) for child in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_intricate(size: Any) -> bool:
    expression = getattr(size.node, "expr", None) if isinstance(size, torch.SymInt) else None
    return expression is not None and bool(expression.count_ops() > OPERATIONS)

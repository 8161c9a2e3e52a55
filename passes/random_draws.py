"""See to it that a model that draws random numbers in its forward draws the same ones in each run, also once it is cut.

Every operator that draws begins from a seed of its own, its number in the order of the run. Where the tensor that it
fills is cut, it fills a whole one, of which the kept slice stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from ..masks import Keep, SlotOutsideError, keep_mask
from ..program import Inference, Program
from ..rules import Dims
from ..rules.creation import RANDOM_FILLS
from ..rules.registry import bound_arguments
from .slice_parameters import DimMasks, slice_tensor

Made = list[tuple[fx.Node | None, tuple[int, ...]]]
"""The draws of a run in order: at which node of the graph each was made, and the shape of what was drawn."""

CutDraws = Mapping[int, tuple[tuple[int, ...], DimMasks]]
"""By the number of a draw in the order of a run: the shape that it has in the original, and which positions stay."""


def draws(node: fx.Node) -> bool:
    """Whether a call draws random numbers; dropout does so only in training."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    arguments = bound_arguments(node)
    rates = [arguments.get(name) for name in ("p", "dropout_p", "dropout")]
    return 0 not in rates and not any(arguments.get(name) is False for name in ("train", "training"))


FILLING = (*RANDOM_FILLS, "normal_.default", "bernoulli.p", "bernoulli_.float")
"""Operators, or overloads, that fill a tensor with numbers that do not depend on what is in it."""


def _fills(operator: Any) -> bool:
    overload = str(operator).removeprefix("aten.")
    return overload in FILLING or overload.split(".")[0].removesuffix("_") in FILLING


class SeededDraws(TorchDispatchMode):
    """Gives every call that draws random numbers a seed, and notes at which node of a graph it was made."""

    def __init__(self, cut: CutDraws):
        super().__init__()  # type: ignore[no-untyped-call]
        self.cut = cut
        self.node: fx.Node | None = None
        self.made: Made = []
        self.supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return func(*args, **kwargs)
        at = len(self.made)
        torch.manual_seed(at)
        if kwargs.get("generator") is not None:
            kwargs = {**kwargs, "generator": None}  # the model's own one stays where it is
        if at in self.cut and _fills(func):
            shape, masks = self.cut[at]
            part = slice_tensor(func(args[0].new_empty(shape), *args[1:], **kwargs), masks)
            result = args[0].copy_(part) if func._schema.is_mutable else part
        else:
            result = func(*args, **kwargs)
        self.made.append((self.node, tuple(result.shape) if isinstance(result, Tensor) else ()))
        return result


@contextmanager
def drawing(program: Program, cut: CutDraws | None = None) -> Iterator[SeededDraws | None]:
    """Within the context a program draws the same random numbers each time; torch's generators are as before after it.

    A mode is given where there is something to note: not where nothing is drawn, nor with graphs inside the graph,
    which no mode goes into.
    """
    graphs = [each for each in program.graph.modules() if isinstance(each, fx.GraphModule)]
    if not any(draws(node) for graph in graphs for node in graph.graph.nodes):
        yield None
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if len(graphs) > 1:
            yield None
            return
        with SeededDraws(cut or {}) as mode:
            yield mode


def cut_draws(made: Made, inference: Inference, keep: Keep) -> CutDraws:
    """Of the draws that were made in a run of the masked graph, those of which something goes."""
    found: dict[int, tuple[tuple[int, ...], DimMasks]] = {}
    for at, (node, shape) in enumerate(made):
        dims = inference.dims.get(node) if node is not None else None
        if isinstance(dims, Dims) and len(dims) == len(shape):
            axes = [inference.solver.resolve(axis) for axis in dims.axes]
            pairs = zip(axes, shape, strict=True)
            with suppress(SlotOutsideError):
                masks = [keep_mask(axis, keep) if axis.size == size else None for axis, size in pairs]
                if any(mask is not None for mask in masks):
                    found[at] = (shape, masks)
    return found

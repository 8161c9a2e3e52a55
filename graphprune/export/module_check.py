"""Whether the module form of a model without values is right, where there is nothing to verify it by.

A module form is a guess (see :mod:`graphprune.passes.patch_modules`) that verification takes or drops. For a model on
the meta device it is compared with the graph form, on random weights that take hardly any memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..errors import ExportError
from ..expressible import patterned
from ..masks import Keep
from ..passes.patch_modules import patch_modules
from ..passes.recompute_shapes import recompute_shapes
from ..passes.slice_parameters import parameter_masks, slice_tensor
from ..passes.verify import same_values
from ..traced import TracedModel
from .graph_form import filled


def check_module_form(traced: TracedModel, keep: Keep, buffers: Mapping[str, Tensor]) -> None:
    """Compare the two forms of what is kept of a traced language model on the meta device.

    ``buffers`` are the values of those that no checkpoint holds, by their names in the table.

    Raises:
        ExportError: they compute something else, or the graph has constants whose values are not known.
    """
    tensors = _random_tensors(traced, keep, buffers)
    config: Any = traced.module.config
    vocabulary = int(config.vocab_size)
    generator = torch.Generator().manual_seed(0)

    def made(value: Any) -> Any:
        return torch.randint(0, vocabulary, value.shape, generator=generator) if isinstance(value, Tensor) else value

    program = traced.program
    on_host = replace(program, args=tree_map(made, program.args), kwargs=tree_map(made, dict(program.kwargs)))
    module = patch_modules(program, traced.inference, traced.groups, keep, tensors)
    graph = filled(recompute_shapes(program, traced.inference, keep, tensors), tensors)
    if not same_values(on_host, lambda: graph, module, None):
        raise ExportError(
            f"a {type(traced.module).__name__} whose sizes are those of the plan computes something else than the "
            "masked model, so the plan has a graph form only: load the model, and use gp.rewrite and gp.save"
        )


def _random_tensors(traced: TracedModel, keep: Keep, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    masks = parameter_masks(traced.inference, keep)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys([*traced.table, *traced.inference.parameter_dims]):
        kept = slice_tensor(buffers.get(name, traced.program.tensor(name)).detach(), masks.get(name, ()))
        if kept.is_meta and name not in traced.table:
            raise ExportError(
                f"the graph of {type(traced.module).__name__} has constants, and their values are not known without "
                "its weights: load the model, and use gp.rewrite and gp.save"
            )
        if kept.is_meta and not kept.is_floating_point():
            kept = torch.zeros(kept.shape, dtype=kept.dtype)
        elif kept.is_meta:
            kept = patterned(kept.shape, kept.dtype, generator)
            if kept.ndim < 2 or traced.table[name].is_buffer:
                kept = 1 + 0.1 * kept  # scales and variances about one let through what comes before them
        tensors[name] = kept
    return tensors

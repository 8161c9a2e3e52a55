"""Make up for removed units with biases: what they gave on average stays (FLAP, arXiv 2312.11983, section 3.3).

A layer that takes in removed units loses ``W[:, removed] @ x[removed]``. The mean of that over data is a constant,
which its bias can hold::

    x @ W.T + b     ->     x[kept] @ W[:, kept].T + b + W[:, removed] @ mean(x[removed])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .activations import input_statistics
from .adapters import shared_copy
from .errors import RewriteError
from .matrices import Inputs, Matrix, matrices
from .passes.slice_parameters import DimMasks, parameter_masks
from .pipeline import changed_model
from .plan import PruningPlan
from .traced import TracedModel


def compensate(traced: TracedModel, plan: PruningPlan, data: Iterable[Any]) -> tuple[TracedModel, PruningPlan]:
    """The model with the mean contribution of the units that a plan removes in its biases, and the plan for it.

    ::

        traced, plan = gp.compensate(traced, plan, batches)
        compact = gp.rewrite(traced, plan)

    The original is not changed: the result is a copy that shares all its tensors but these biases, traced with the same
    inputs. A layer without a bias gets one. The masked model, which the compact one is compared with, has these biases
    too. ``data`` is batches as for :func:`graphprune.score`; the means are those in the dense model.

    Raises:
        PlanError: the plan is for another model.
        RewriteError: what takes in removed units is no layer that can have a bias.
        ScoreError: there is no batch.
    """
    masks = parameter_masks(traced.inference, plan.keep(traced))
    cut = {name: matrix for name, matrix in matrices(traced).items() if name in masks and not matrix.is_adapter}
    inputs = input_statistics(traced.module, {name: matrix.weight for name, matrix in cut.items()}, data)
    module = shared_copy(traced.module)
    added: list[str] = []
    for name, matrix in cut.items():
        if name not in inputs or all(masks[name][dim] is None for dim in inputs[name].dims):
            continue  # it takes in nothing that goes
        layer = _layer(module, name)
        shift = lost_mean(matrix, inputs[name], masks[name])
        bias = layer.bias
        if isinstance(bias, Tensor):
            layer.bias = nn.Parameter(bias.detach() + shift.to(bias), bias.requires_grad)
        else:
            layer.bias = nn.Parameter(shift.to(matrix.weight), matrix.weight.requires_grad)
        added.append(name.removesuffix("weight") + "bias")
    other, carried = changed_model(traced, module, plan, compensated=True)
    for name in added:
        if name not in other.inference.parameter_dims:
            raise RewriteError(f"{name} can't make up for removed units: the model does not use it")
    return other, carried


def lost_mean(matrix: Matrix, inputs: Inputs, masks: DimMasks) -> Tensor:
    """``W'[:, removed] @ mean(x[removed])``: for each output what the removed inputs of a weight give on average."""
    outputs = [dim for dim in (0, 1) if dim not in inputs.dims]
    total = torch.zeros(matrix.weight.shape[outputs[0]], dtype=torch.float64, device=matrix.weight.device)
    for rows in matrix.blocks():
        lost = matrix.effective(rows).double() * inputs.mean[rows]
        kept = torch.ones((), device=lost.device)
        for dim in inputs.dims:
            mask = masks[dim]
            if mask is not None:
                shape = [-1 if at == dim else 1 for at in range(lost.ndim)]
                kept = kept * (mask[rows] if dim == 0 else mask).to(kept).reshape(shape)
        lost = lost * (1 - kept)
        others = [dim for dim in range(lost.ndim) if dim != outputs[0]]
        if outputs[0] == 0:
            total[rows] = lost.sum(others)
        else:
            total += lost.sum(others)
    return total


def _layer(module: nn.Module, name: str) -> Any:
    """The layer of a weight, in which every output has a bias that is added to it.

    Raises:
        RewriteError: the parameter is not the weight of such a layer.
    """
    path, _, attribute = name.rpartition(".")
    layer: Any = module.get_submodule(path)
    spread = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    if attribute != "weight" or "bias" not in layer._parameters or isinstance(layer, spread):
        raise RewriteError(
            f"{name} takes in removed units and is not the weight of a layer whose bias could make up for them: "
            "leave its groups whole, with gp.select(..., ignore=…), or don't compensate"
        )
    return layer

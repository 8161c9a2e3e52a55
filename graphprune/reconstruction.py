"""Make up for removed units with the weights that stay: least squares over data.

A layer that takes in removed units G loses ``W_G·x_G``, and what stays of its inputs, K, says part of that again. With
``C = Σ x·xᵀ`` over data the weights that come nearest to the outputs of the whole layer are (as in SparseGPT,
arXiv 2301.00774, equation 2, with ridge regression)::

    W_K  ←  W_K + W_G·C_GK·(C_KK + ridge·diag(C_KK))⁻¹
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .activations import run
from .adapters import shared_copy
from .gates import Gate, find_gates
from .gradients import at_least_one
from .matrices import Matrix, matrices
from .passes.slice_parameters import mask_of_dim, parameter_masks, positions_of
from .passes.trace import evaluation_mode
from .pipeline import changed_model
from .plan import PruningPlan
from .traced import TracedModel

ELEMENTS = 1 << 28
"""Elements of second moments that are held together; more take another pass over the data."""

RIDGE = 0.1
"""Less fits the data that the moments are from, and not the next: see docs/criteria.md."""


def reconstruct(
    traced: TracedModel, plan: PruningPlan, data: Iterable[Any], *, ridge: float = RIDGE
) -> tuple[TracedModel, PruningPlan]:
    """The model whose remaining weights make up for the units that a plan removes, and the plan for it.

    ::

        traced, plan = gp.reconstruct(traced, plan, batches)
        compact = gp.rewrite(traced, plan)

    The original is not changed: the result is a copy that shares all its tensors but these weights, traced with the
    same inputs. Layers whose weight is a matrix of their own are reconstructed, each by itself from its inputs in the
    dense model, and others stay as they are. ``data`` is batches as for :func:`graphprune.score`, with more tokens in
    all than a layer has inputs.

    Raises:
        PlanError: the plan is for another model.
        ScoreError: there is no batch.
    """
    masks = parameter_masks(traced.inference, plan.keep(traced))
    known = matrices(traced)
    work: dict[Gate, Tensor] = {}
    for gate in gates_of_matrices(traced):
        kept = mask_of_dim(masks, gate.parameter, gate.weight_dim)
        if kept is not None:
            work[gate] = kept
    module = shared_copy(traced.module)
    batches = data if isinstance(data, Sequence) else list(data)  # it is gone through for each round
    for gates in _rounds(work):
        for gate, moments in second_moments(traced.module, gates, batches).items():
            matrix = known[gate.parameter]
            update = least_squares(matrix, gate.weight_dim, moments, work[gate], ~work[gate], ridge)
            path, _, attribute = gate.parameter.rpartition(".")
            changed = nn.Parameter(matrix.weight.detach() + update.to(matrix.weight), matrix.weight.requires_grad)
            module.get_submodule(path).register_parameter(attribute, changed)
    return changed_model(traced, module, plan, reconstructed=True)


def gates_of_matrices(traced: TracedModel) -> tuple[Gate, ...]:
    """Where units go into a weight that can make up for them: a matrix that nothing else uses."""
    known = matrices(traced)
    return tuple(
        gate
        for gate in find_gates(traced)
        if gate.at_input and not traced.table[gate.parameter].aliases and known[gate.parameter].weight.ndim == 2
    )


def second_moments(module: nn.Module, gates: Iterable[Gate], batches: Iterable[Any]) -> dict[Gate, Tensor]:
    """``Σ x·xᵀ`` over all samples at some inputs, ``[units, units]`` in float32.

    Raises:
        ScoreError: there is no batch.
    """
    moments: dict[Gate, Tensor] = {}
    with evaluation_mode(module), torch.no_grad(), adding_moments(module, gates, moments):
        for batch in at_least_one(batches, "reconstruct"):
            run(module, batch)
    return moments


@contextmanager
def adding_moments(module: nn.Module, gates: Iterable[Gate], moments: dict[Gate, Tensor]) -> Iterator[None]:
    """Within the context the second moments of the inputs that come to gates are added to ``moments``."""

    def watch(gate: Gate) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            x = next(each for each in (*args, *kwargs.values()) if isinstance(each, Tensor))
            rows = x.detach().movedim(gate.dim, -1).reshape(-1, x.shape[gate.dim]).float()
            with torch.autocast(x.device.type, enabled=False):
                product = rows.T @ rows
            moments[gate] = moments[gate].add_(product) if gate in moments else product

        return hook

    with ExitStack() as stack:
        for gate in gates:
            handle = module.get_submodule(gate.module).register_forward_pre_hook(watch(gate), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def least_squares(matrix: Matrix, dim: int, moments: Tensor, kept: Tensor, goes: Tensor, ridge: float) -> Tensor:
    """What is added to a weight whose inputs that are ``kept``, in ``dim``, make up for those that go; else zero."""
    weight = matrix.effective(slice(None)).double().movedim(dim, 1)
    stays, leaves = (positions_of(mask, weight) for mask in (kept, goes))
    second = moments.double()
    inner = second[stays][:, stays]
    diagonal = inner.diagonal()
    # an input that is always zero has no moment to regularise with
    least = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny) * 1e-6
    factor = torch.linalg.cholesky(inner + torch.diag(ridge * diagonal + least))
    update = torch.zeros_like(weight)
    update[:, stays] = torch.cholesky_solve(second[stays][:, leaves] @ weight[:, leaves].T, factor).T
    return update.movedim(1, dim)


def _rounds(gates: Mapping[Gate, Tensor]) -> Iterator[list[Gate]]:
    """The gates in groups whose second moments fit into memory together."""
    batch: list[Gate] = []
    for gate, kept in gates.items():
        if batch and sum(each.axis.size**2 for each in batch) + len(kept) ** 2 > ELEMENTS:
            yield batch
            batch = []
        batch.append(gate)
    if batch:
        yield batch

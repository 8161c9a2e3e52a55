"""From a criterion to the scores of units: what it needs is collected, and what it says of weights brought together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .activations import input_statistics
from .aggregate import Part, importance_by_dim, score_of, units_of
from .axes import atoms
from .criteria import Criterion, criterion_by_name
from .errors import ScoreError
from .gates import Gates
from .gradients import Loss, at_least_one, backward_over, dense_gradients, gradients_of, loss_of, only_trainable
from .groups import PruningGroup
from .matrices import Gradients, Inputs, Matrix, gathered, matrices
from .passes.slice_parameters import DimMasks, widen
from .scores import Scores
from .traced import TracedModel


def score(
    traced: TracedModel,
    criterion: str | Criterion = "magnitude",
    *,
    data: Iterable[Any] | None = None,
    loss: Loss = loss_of,
    slots: bool = True,
    **options: object,
) -> Scores:
    """The score of each unit of each group that can be cut (also of those that are cut only when asked for).

    ``data`` is batches for criteria that need gradients or activations: mappings of the model's arguments. ``loss`` is
    a function of the module and a batch; without it the model returns its loss as those of transformers do (``labels``
    are the ``input_ids`` where there are none). With the gradients of adapters the score is the mean over batches;
    without data those that the adapters have are taken. Dense gradients and activations are collected over all batches
    first. ``slots`` scores per slot where groups have slots. ``options`` go to a criterion given by its name.

    Raises:
        ScoreError: the criterion is unknown, lacks what it needs, or gives values that are not finite.
    """
    chosen = criterion_by_name(criterion, **options) if isinstance(criterion, str) else criterion
    if "gates" in chosen.needs:
        return score_units(traced, chosen, gates=_gates(traced, chosen, data, loss, slots))
    if data is not None and len(chosen.needs) > 1 and not isinstance(data, Sequence):
        data = list(data)  # it is gone through once for each need
    gradients, inputs = _collect(traced, chosen, data, loss)
    if data is None or "lora_gradients" not in chosen.needs:
        return score_units(traced, chosen, slots=slots, gradients=gradients, inputs=inputs)
    total: dict[str, Tensor] = {}
    batches = 0
    for batch in at_least_one(data):
        with gradients_of(traced.module, batch, loss):
            scores = score_units(traced, chosen, slots=slots, gradients=gradients, inputs=inputs)
        total = {name: total[name] + value if name in total else value for name, value in scores.items()}
        batches += 1
    return Scores(chosen.name, {name: value / batches for name, value in total.items()})


def _collect(
    traced: TracedModel, criterion: Criterion, data: Iterable[Any] | None, loss: Loss
) -> tuple[dict[str, Gradients], dict[str, Inputs]]:
    """The dense gradients and the statistics of activations that a criterion needs, by parameter."""
    dense = [need for need in ("gradients", "squared_gradients") if need in criterion.needs]
    if not dense and "activations" not in criterion.needs:
        return {}, {}
    if data is None:
        what = "activations" if not dense else "dense gradients"
        raise ScoreError(
            f"the criterion {criterion.name!r} needs {what}, and there is nothing to get them from: "
            "give gp.score data, batches to run the model on"
        )
    if traced.stored is not None:
        what = "dense gradients" if dense else "activations"
        raise ScoreError(
            f"the criterion {criterion.name!r} needs {what}, which are not taken of weights in few bits: use 'lora' or "
            "'magnitude'"
        )
    groups = traced.groups.by_atom
    wanted = {
        name: matrix.weight
        for name, matrix in matrices(traced).items()
        if any(_owners(dim, matrix, groups, traced) for dim in range(matrix.weight.ndim))
    }
    gradients = dense_gradients(traced.module, wanted, data, loss, dense) if dense else {}
    inputs = input_statistics(traced.module, wanted, data) if "activations" in criterion.needs else {}
    return gradients, inputs


def _gates(
    traced: TracedModel, criterion: Criterion, data: Iterable[Any] | None, loss: Loss, slots: bool
) -> dict[str, Tensor]:
    """What is seen at the gates over batches, without keeping a gradient of any weight."""
    if data is None:
        raise ScoreError(
            f"the criterion {criterion.name!r} needs the gradients of activations, and there is nothing to get them "
            "from: give gp.score data, batches to run the model on"
        )
    gates = Gates(traced, slots=slots)
    with only_trainable(traced.module, ()), gates.watching():
        backward_over(traced.module, data, loss)
    return gates.take()


def score_units(
    traced: TracedModel,
    criterion: Criterion,
    *,
    slots: bool = True,
    there: Mapping[str, DimMasks] | None = None,
    kept: Mapping[str, DimMasks] | None = None,
    gradients: Mapping[str, Gradients] | None = None,
    inputs: Mapping[str, Inputs] | None = None,
    gates: Mapping[str, Tensor] | None = None,
) -> Scores:
    """Scores from the weights and the gradients of adapters as they are now, and what was collected before.

    ``there`` holds the keep-masks of the parameters that were cut since the model was traced, and ``kept`` those of
    what is left of them and is masked. Both make the same of the scores: what is gone counts nowhere.
    """
    if gates is not None:
        scores = dict(criterion.of_units(gates))
    else:
        scores = _of_weights(traced, criterion, slots, there or {}, kept or {}, gradients or {}, inputs or {})
    for name, values in scores.items():
        if not torch.isfinite(values).all():
            raise ScoreError(f"the scores of {name} are not finite: check the loss and the weights for NaN")
    _check_complete(traced, criterion, scores)
    return Scores(criterion.name, scores)


def _of_weights(
    traced: TracedModel,
    criterion: Criterion,
    slots: bool,
    there: Mapping[str, DimMasks],
    kept: Mapping[str, DimMasks],
    gradients: Mapping[str, Gradients],
    inputs: Mapping[str, Inputs],
) -> dict[str, Tensor]:
    groups = traced.groups.by_atom
    slot_of = traced.groups.slots if slots else {}
    rule = criterion.aggregation
    parts: dict[str, list[Part]] = {}
    for matrix in matrices(traced).values():
        axes = traced.inference.axes(matrix.name)
        owners = [_owners(axis_index, matrix, groups, traced) for axis_index in range(len(axes))]
        if not any(owners):
            continue
        cut, masked = (masks.get(matrix.name, [None] * len(axes)) for masks in (there, kept))
        seen = replace(gathered(matrix), gradients=gradients.get(matrix.name), inputs=inputs.get(matrix.name), cut=cut)
        marginals = importance_by_dim(criterion, seen, masked)
        if marginals is None:
            continue
        for dim, (axis, wanted, marginal, mask) in enumerate(zip(axes, owners, marginals, cut, strict=True)):
            is_input = seen.inputs is not None and dim in seen.inputs.dims
            present = masked[dim]
            left = widen(torch.ones_like(marginal) if present is None else present.to(marginal), [mask])
            for atom, values in units_of(axis, widen(marginal, [mask]), left, rule, slot_of).items():
                if atom in wanted:
                    parts.setdefault(wanted[atom].name, []).append(Part(values, is_input))
    return {group.name: score_of(parts[group.name], rule).cpu() for group in traced.groups if group.name in parts}


def _owners(
    dim: int, matrix: Matrix, groups: Mapping[int, PruningGroup], traced: TracedModel
) -> dict[int, PruningGroup]:
    """The groups that a dim of a parameter gives importance to.

    The factors of an adapter count for its rank only: for everything else they are part of the weight that they adapt.
    """
    found = {atom.id: groups[atom.id] for atom in atoms(traced.inference.axes(matrix.name)[dim]) if atom.id in groups}
    return {atom: group for atom, group in found.items() if (group.kind == "lora_rank") == matrix.is_adapter}


def require_adapters(traced: TracedModel, criterion: Criterion) -> None:
    """Check that every group that can be cut has a parameter with adapters, for a criterion that looks at no other.

    Raises:
        ScoreError: as scoring would.
    """
    groups = traced.groups.by_atom
    covered = {
        group.name: torch.empty(0)
        for matrix in matrices(traced).values()
        if matrix.adapters
        for dim in range(matrix.weight.ndim)
        for group in _owners(dim, matrix, groups, traced).values()
    }
    _check_complete(traced, criterion, covered)


def _check_complete(traced: TracedModel, criterion: Criterion, sums: Mapping[str, Tensor]) -> None:
    missing = [group.name for group in traced.groups.prunable if group.name not in sums]
    if missing:
        remedy = "put adapters on its modules" if "lora_gradients" in criterion.needs else "use another criterion"
        more = f" and {len(missing) - 1} more groups" if len(missing) > 1 else ""
        raise ScoreError(f"the criterion {criterion.name!r} says nothing about {missing[0]}{more}: {remedy}")

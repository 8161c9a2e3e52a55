"""From a criterion to the scores of units: what it needs is collected, and what it says of weights brought together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
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
from .groups import Groups, PruningGroup
from .kinds import choose_groups
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
    kinds: Sequence[str] | None = None,
    **options: object,
) -> Scores:
    """The score of each unit of each group that can be cut (also of those that are cut only when asked for).

    ``data`` is batches for criteria that need gradients or activations: mappings of the model's arguments. ``loss`` is
    a function of the module and a batch; without it the model returns its loss as those of transformers do (``labels``
    are the ``input_ids`` where there are none). With the gradients of adapters the score is the mean over batches;
    without data those that the adapters have are taken. Dense gradients and activations are collected over all batches
    first. ``slots`` scores per slot where groups have slots. ``kinds`` are those that :func:`graphprune.select` will be
    asked for: what else could be cut is not looked at, which takes about half as long for heads and channels, whose
    matrices hold a residual width in their other dim. ``options`` go to a criterion given by its name.

    Raises:
        ScoreError: the criterion is unknown, lacks what it needs, or gives values that are not finite.
        PlanError: there is no group of a kind.
        BudgetError: no group of these kinds can be cut.
    """
    chosen = criterion_by_name(criterion, **options) if isinstance(criterion, str) else criterion
    groups = traced.groups if kinds is None else Groups(tuple(choose_groups(traced, kinds)))
    if "gates" in chosen.needs:
        return score_units(traced, chosen, groups, gates=_gates(traced, chosen, data, loss, slots))
    if data is not None and len(chosen.needs) > 1 and not isinstance(data, Sequence):
        data = list(data)  # it is gone through once for each need
    gradients, inputs = _collect(traced, chosen, groups, data, loss)
    if data is None or "lora_gradients" not in chosen.needs:
        return score_units(traced, chosen, groups, slots=slots, gradients=gradients, inputs=inputs)
    total: dict[str, Tensor] = {}
    batches = 0
    for batch in at_least_one(data):
        with gradients_of(traced.module, batch, loss):
            scores = score_units(traced, chosen, groups, slots=slots, gradients=gradients, inputs=inputs)
        total = {name: total[name] + value if name in total else value for name, value in scores.items()}
        batches += 1
    return Scores(chosen.name, {name: value / batches for name, value in total.items()})


def _collect(
    traced: TracedModel,
    criterion: Criterion,
    groups: Groups,
    data: Iterable[Any] | None,
    loss: Loss,
) -> tuple[dict[str, Gradients], dict[str, Inputs]]:
    """The dense gradients and the statistics of activations that a criterion needs for groups, by parameter."""
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
    by_atom = groups.by_atom
    wanted = {name: matrix.weight for name, matrix in matrices(traced).items() if any(_owners(matrix, by_atom, traced))}
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
    groups: Groups,
    *,
    slots: bool = True,
    there: Mapping[str, DimMasks] | None = None,
    kept: Mapping[str, DimMasks] | None = None,
    gradients: Mapping[str, Gradients] | None = None,
    inputs: Mapping[str, Inputs] | None = None,
    gates: Mapping[str, Tensor] | None = None,
) -> Scores:
    """Scores of groups from the weights and the gradients of adapters as they are now, and what was collected before.

    ``there`` holds the keep-masks of the parameters that were cut since the model was traced, and ``kept`` those of
    what is left of them and is masked. Both make the same of the scores: what is gone counts nowhere.
    """
    if gates is not None:
        names = {group.name for group in groups}
        scores = {name: values for name, values in criterion.of_units(gates).items() if name in names}
    else:
        scores = _of_weights(traced, criterion, groups, slots, there or {}, kept or {}, gradients or {}, inputs or {})
    for name, values in scores.items():
        if not torch.isfinite(values).all():
            raise ScoreError(f"the scores of {name} are not finite: check the loss and the weights for NaN")
    _check_complete(criterion, groups, scores)
    return Scores(criterion.name, scores)


def _of_weights(
    traced: TracedModel,
    criterion: Criterion,
    groups: Groups,
    slots: bool,
    there: Mapping[str, DimMasks],
    kept: Mapping[str, DimMasks],
    gradients: Mapping[str, Gradients],
    inputs: Mapping[str, Inputs],
) -> dict[str, Tensor]:
    by_atom = groups.by_atom
    slot_of = traced.groups.slots if slots else {}
    rule = criterion.aggregation
    parts: dict[str, list[Part]] = {}
    for matrix in matrices(traced).values():
        axes = traced.inference.axes(matrix.name)
        owners = _owners(matrix, by_atom, traced)
        dims = [dim for dim, owned in enumerate(owners) if owned]
        if not dims:
            continue
        cut, masked = (masks.get(matrix.name, [None] * len(axes)) for masks in (there, kept))
        seen = replace(gathered(matrix), gradients=gradients.get(matrix.name), inputs=inputs.get(matrix.name), cut=cut)
        marginals = importance_by_dim(criterion, seen, dims, masked)
        for dim, marginal in ({} if marginals is None else marginals).items():
            is_input = seen.inputs is not None and dim in seen.inputs.dims
            present, mask = masked[dim], cut[dim]
            left = widen(torch.ones_like(marginal) if present is None else present.to(marginal), [mask])
            for atom, values in units_of(axes[dim], widen(marginal, [mask]), left, rule, slot_of).items():
                if atom in owners[dim]:
                    parts.setdefault(owners[dim][atom].name, []).append(Part(values, is_input))
    return {group.name: score_of(parts[group.name], rule).cpu() for group in groups if group.name in parts}


def _owners(matrix: Matrix, groups: Mapping[int, PruningGroup], traced: TracedModel) -> list[dict[int, PruningGroup]]:
    """The groups that each dim of a parameter gives importance to, by their atoms.

    The factors of an adapter count for its rank only: for everything else they are part of the weight that they adapt.
    """
    return [
        {
            atom.id: groups[atom.id]
            for atom in atoms(axis)
            if atom.id in groups and (groups[atom.id].kind == "lora_rank") == matrix.is_adapter
        }
        for axis in traced.inference.axes(matrix.name)
    ]


def require_adapters(traced: TracedModel, criterion: Criterion, groups: Groups) -> None:
    """Check that each of some groups has a parameter with adapters, for a criterion that looks at no other.

    Raises:
        ScoreError: as scoring would.
    """
    by_atom = groups.by_atom
    covered = {
        group.name
        for matrix in matrices(traced).values()
        if matrix.adapters
        for owned in _owners(matrix, by_atom, traced)
        for group in owned.values()
    }
    _check_complete(criterion, groups, covered)


def _check_complete(criterion: Criterion, groups: Groups, scored: Container[str]) -> None:
    missing = [group.name for group in groups.prunable if group.name not in scored]
    if missing:
        remedy = "put adapters on its modules" if "lora_gradients" in criterion.needs else "use another criterion"
        more = f" and {len(missing) - 1} more groups" if len(missing) > 1 else ""
        raise ScoreError(f"the criterion {criterion.name!r} says nothing about {missing[0]}{more}: {remedy}")

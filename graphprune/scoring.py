"""From a criterion to the scores of units: the sum of the importance of every weight that leaves with a unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .axes import atoms
from .criteria import Criterion, criterion_by_name
from .errors import ScoreError
from .groups import PruningGroup
from .masks import fold
from .matrices import Matrix, gathered, matrices
from .scores import Scores
from .traced import TracedModel


def score(
    traced: TracedModel,
    criterion: str | Criterion = "magnitude",
    *,
    data: Iterable[Any] | None = None,
    slots: bool = True,
    **options: object,
) -> Scores:
    """The score of each unit of each group that can be cut (also of those that are cut only when asked for).

    ``data`` is batches for criteria that need gradients: mappings of the model's arguments (``labels`` are the
    ``input_ids`` where there are none); the score is the mean over batches. Without data the gradients that the
    adapters have are taken. ``slots`` scores per slot where groups have slots. ``options`` go to a criterion given by
    its name.

    Raises:
        ScoreError: the criterion is unknown, lacks what it needs, or gives values that are not finite.
    """
    chosen = criterion_by_name(criterion, **options) if isinstance(criterion, str) else criterion
    if data is None or not chosen.needs_gradients:
        return score_units(traced, chosen, slots=slots)
    total: dict[str, Tensor] = {}
    batches = 0
    for batch in data:
        with _gradients_of(traced.module, batch):
            scores = score_units(traced, chosen, slots=slots)
        total = {name: total[name] + value if name in total else value for name, value in scores.items()}
        batches += 1
    if not batches:
        raise ScoreError("there are no batches to score on: data is empty")
    return Scores(chosen.name, {name: value / batches for name, value in total.items()})


def score_units(traced: TracedModel, criterion: Criterion, *, slots: bool = True) -> Scores:
    """Scores from the weights and gradients as they are now."""
    groups = {group.atom.id: group for group in traced.groups if group.status != "frozen"}
    slot_of = {atom: group.slot for atom, group in groups.items() if slots and group.slot is not None}
    sums: dict[str, Tensor] = {}
    for matrix in matrices(traced).values():
        axes = traced.inference.axes(matrix.name)
        owners = [_owners(axis_index, matrix, groups, traced) for axis_index in range(len(axes))]
        if not any(owners):
            continue
        marginals = importance_by_dim(criterion, gathered(matrix))
        if marginals is None:
            continue
        for axis, wanted, marginal in zip(axes, owners, marginals, strict=True):
            for atom, values in fold(axis, marginal, slot_of).items():
                group = wanted.get(atom)
                if group is not None:
                    # on the accelerator until the end: each transfer would wait for all work on it
                    earlier = sums.get(group.name)
                    sums[group.name] = values if earlier is None else earlier + values.to(earlier.device)
    sums = {group.name: sums[group.name].cpu() for group in traced.groups if group.name in sums}
    for name, values in sums.items():
        if not torch.isfinite(values).all():
            raise ScoreError(f"the scores of {name} are not finite: check the loss and the weights for NaN")
    _check_complete(traced, criterion, sums)
    return Scores(criterion.name, sums)


def _owners(
    dim: int, matrix: Matrix, groups: Mapping[int, PruningGroup], traced: TracedModel
) -> dict[int, PruningGroup]:
    """The groups that a dim of a parameter gives importance to.

    The factors of an adapter count for its rank only: for everything else they are part of the weight that they adapt.
    """
    found = {atom.id: groups[atom.id] for atom in atoms(traced.inference.axes(matrix.name)[dim]) if atom.id in groups}
    return {atom: group for atom, group in found.items() if (group.kind == "lora_rank") == matrix.is_adapter}


def importance_by_dim(criterion: Criterion, matrix: Matrix) -> list[Tensor] | None:
    """For each dim of a parameter, the importance summed over all other dims, in float32; None if it says nothing."""
    shape = matrix.weight.shape
    marginals: list[Tensor] = []
    for rows in matrix.blocks():
        block = criterion.importance(matrix, rows)
        if block is None:
            return None
        block = block.float()
        if not marginals:
            marginals = [block.new_zeros(size) for size in shape]
        for dim in range(len(shape)):
            others = [other for other in range(len(shape)) if other != dim]
            summed = block.sum(others) if others else block
            if dim == 0:
                marginals[0][rows] += summed
            else:
                marginals[dim] += summed
    return marginals


def _check_complete(traced: TracedModel, criterion: Criterion, sums: Mapping[str, Tensor]) -> None:
    missing = [group.name for group in traced.groups.prunable if group.name not in sums]
    if missing:
        remedy = "put adapters on its modules" if criterion.needs_gradients else "use another criterion"
        more = f" and {len(missing) - 1} more groups" if len(missing) > 1 else ""
        raise ScoreError(f"the criterion {criterion.name!r} says nothing about {missing[0]}{more}: {remedy}")


class _gradients_of:
    """Within the context the trainable parameters have the gradients of the loss on one batch, and no others."""

    def __init__(self, module: nn.Module, batch: Any):
        self.module, self.batch = module, batch

    def __enter__(self) -> None:
        self.training = {child: child.training for child in self.module.modules()}
        self.before = {parameter: parameter.grad for parameter in self.module.parameters()}
        for parameter in self.before:
            parameter.grad = None
        self.module.eval()
        with torch.enable_grad():
            loss = loss_of(self.module, self.batch)
            if not torch.isfinite(loss):
                self.__exit__()
                raise ScoreError(f"the loss on a batch is {float(loss.detach())}: check the data and the weights")
            loss.backward()

    def __exit__(self, *_: object) -> None:
        for parameter, gradient in self.before.items():
            parameter.grad = gradient
        for child, mode in self.training.items():
            child.training = mode


def loss_of(module: nn.Module, batch: Any) -> Tensor:
    """The loss of a model on one batch, by transformers' convention.

    Raises:
        ScoreError: the model returns no loss.
    """
    inputs = dict(batch) if isinstance(batch, Mapping) else {"input_ids": batch}
    if "labels" not in inputs and "input_ids" in inputs:
        inputs["labels"] = inputs["input_ids"]
    loss = getattr(module(**inputs), "loss", None)
    if not isinstance(loss, Tensor):
        raise ScoreError(f"{type(module).__name__} returns no loss on a batch with {', '.join(inputs)}")
    return loss

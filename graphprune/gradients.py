"""Gradients for criteria: of what is trained, on one batch, and dense ones of weights, over many."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .errors import ScoreError
from .matrices import Gradients
from .passes.trace import evaluation_mode

Loss = Callable[[nn.Module, Any], Tensor]
"""The loss of a model on one batch."""


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
        raise ScoreError(
            f"{type(module).__name__} returns no loss on a batch with {', '.join(inputs)}: "
            "give gp.score a function loss(module, batch)"
        )
    return loss


Batch = TypeVar("Batch")


def at_least_one(batches: Iterable[Batch], purpose: str = "score") -> Iterator[Batch]:
    """The batches, one after the other.

    Raises:
        ScoreError: in the end, if there was none.
    """
    found = False
    for batch in batches:
        found = True
        yield batch
    if not found:
        raise ScoreError(f"there are no batches to {purpose} on: data is empty")


@contextmanager
def gradients_of(module: nn.Module, batch: Any, loss: Loss) -> Iterator[None]:
    """Within the context the trainable parameters have the gradients of the loss on one batch, and no others.

    Raises:
        ScoreError: the loss is not finite.
    """
    before = {parameter: parameter.grad for parameter in module.parameters()}
    try:
        for parameter in before:
            parameter.grad = None
        with evaluation_mode(module):
            _backward(module, batch, loss)
            yield
    finally:
        for parameter, gradient in before.items():
            parameter.grad = gradient


def dense_gradients(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    batches: Iterable[Any],
    loss: Loss,
    wanted: Collection[str],
) -> dict[str, Gradients]:
    """Dense gradients of parameters, trained or not: the mean over batches, and that of the square of each batch's.

    ``wanted`` has ``"gradients"`` for the mean and ``"squared_gradients"`` for the mean square; each takes as much
    memory as the parameters in float32. The gradient of one batch is added to them where the backward pass makes it,
    parameter by parameter, and is gone before the next one. The module is left as it was, also when this fails.

    Raises:
        ScoreError: a parameter can't have a gradient, the loss is not finite, or there is no batch.
    """
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise ScoreError(
                f"{name} holds {str(parameter.dtype).removeprefix('torch.')} and can't have a dense gradient: "
                "use the criterion 'lora', or load the model without quantisation"
            )
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}

    def collect(name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                return
            gradient = gradient.float()
            if "squared_gradients" in wanted:
                _add(squares, name, gradient.square())
            if "gradients" in wanted:
                _add(sums, name, gradient)

        return hook

    count = 0
    with ExitStack() as stack:
        stack.enter_context(only_trainable(module, parameters.values()))
        stack.enter_context(evaluation_mode(module))
        for name, parameter in parameters.items():
            stack.callback(parameter.register_post_accumulate_grad_hook(collect(name)).remove)
        for batch in at_least_one(batches):
            _backward(module, batch, loss)
            count += 1

    def mean(name: str, total: dict[str, Tensor], need: str) -> Tensor | None:
        if need not in wanted:
            return None
        if name in total:
            return total[name].div_(count)
        # the loss does not depend on it
        return torch.zeros((), device=parameters[name].device).expand(parameters[name].shape)

    return {
        name: Gradients(mean(name, sums, "gradients"), mean(name, squares, "squared_gradients")) for name in parameters
    }


def backward_over(module: nn.Module, batches: Iterable[Any], loss: Loss) -> None:
    """Run a module in evaluation mode forward and backward on batches.

    Raises:
        ScoreError: the loss is not finite, or there is no batch.
    """
    with evaluation_mode(module):
        for batch in at_least_one(batches):
            _backward(module, batch, loss)


def _add(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in totals:
        totals[name].add_(value)
    else:
        totals[name] = value


@contextmanager
def only_trainable(module: nn.Module, wanted: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the context exactly some parameters of a module are trainable, and none has a gradient yet."""
    before = {parameter: (parameter.requires_grad, parameter.grad) for parameter in module.parameters()}
    chosen = set(wanted)
    try:
        for parameter in before:
            parameter.grad = None
            parameter.requires_grad_(parameter in chosen)
        yield
    finally:
        for parameter, (trainable, gradient) in before.items():
            parameter.requires_grad_(trainable)
            parameter.grad = gradient


def _backward(module: nn.Module, batch: Any, loss: Loss) -> None:
    with torch.enable_grad():
        value = loss(module, batch)
        if not torch.isfinite(value):
            raise ScoreError(f"the loss on a batch is {float(value.detach())}: check the data and the weights")
        value.backward()

"""Dense gradients over batches, against torch.autograd batch by batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import ScoreError
from graphprune.gradients import dense_gradients


def loss(module: nn.Module, batch: Any) -> Tensor:
    value: Tensor = module(batch).square().mean()
    return value


def network() -> nn.Sequential:
    """Linear, dropout (which is off while scores are made), linear; only the first weight is trained."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)).requires_grad_(False).train()
    module[0].weight.requires_grad_(True)
    module[0].weight.grad = torch.ones(5, 4)
    return module


def state(module: nn.Module) -> list[Any]:
    return [(p.requires_grad, p.grad, p.detach().clone()) for p in module.parameters()] + [
        child.training for child in module.modules()
    ]


def assert_same(before: list[Any], after: list[Any]) -> None:
    for old, new in zip(before, after, strict=True):
        if isinstance(old, bool):
            assert old == new
            continue
        assert old[0] == new[0]
        assert old[1] is new[1]
        assert torch.equal(old[2], new[2])


@pytest.mark.parametrize("wanted", [["gradients"], ["squared_gradients"], ["gradients", "squared_gradients"]])
def test_means_over_batches(wanted: list[str]) -> None:
    module = network()
    batches = [torch.randn(6, 4) for _ in range(3)]
    before = state(module)
    names = ("0.weight", "2.weight", "2.bias")
    parameters = {name: module.get_parameter(name) for name in names}
    found = dense_gradients(module, parameters, batches, loss, wanted)
    assert_same(before, state(module))
    copied = network().eval().requires_grad_(True)
    for name in names:
        each = [torch.autograd.grad(loss(copied, batch), copied.get_parameter(name))[0] for batch in batches]
        expected = {"gradients": torch.stack(each).mean(0), "squared_gradients": torch.stack(each).square().mean(0)}
        for need, value in (("gradients", found[name].mean), ("squared_gradients", found[name].square)):
            assert (value is not None) == (need in wanted)
            assert value is None or torch.allclose(value, expected[need], rtol=1e-4, atol=1e-7)


def test_a_parameter_that_the_loss_does_not_reach() -> None:
    module = network()
    module.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    found = dense_gradients(
        module, {"unused": module.get_parameter("unused")}, [torch.randn(2, 4)], part_of, ["gradients"]
    )
    assert torch.equal(found["unused"].mean_of(slice(0, 2)), torch.zeros(2, 2))


def part_of(module: nn.Module, batch: Any) -> Tensor:
    """A loss that depends on another parameter too, by nothing."""
    return loss(module, batch) + 0 * module.get_parameter("unused")[:0].sum()


def test_everything_is_restored_when_the_loss_fails() -> None:
    module = network()
    before = state(module)

    def failing(module: nn.Module, batch: Any) -> Tensor:
        value = loss(module, batch)
        if float(batch[0, 0]) == 7:
            raise RuntimeError("out of memory")
        return value

    bad = torch.full((2, 4), 7.0)
    with pytest.raises(RuntimeError, match="out of memory"):
        dense_gradients(module, dict(module.named_parameters()), [torch.randn(2, 4), bad], failing, ["gradients"])
    assert_same(before, state(module))
    with pytest.raises(ScoreError, match=r"^the loss on a batch is nan: check the data and the weights$"):
        dense_gradients(module, dict(module.named_parameters()), [bad * torch.nan], loss, ["gradients"])
    assert_same(before, state(module))
    loss(module.eval(), torch.randn(2, 4)).backward()
    assert module[2].weight.grad is None, "no hook and no request for a gradient is left behind"


def test_a_parameter_that_can_have_no_gradient() -> None:
    module = network()
    codes = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ScoreError) as error:
        dense_gradients(module, {"codes": codes}, [torch.randn(2, 4)], loss, ["gradients"])
    assert str(error.value) == (
        "codes holds int8 and can't have a dense gradient: use the criterion 'lora', or load the model without "
        "quantisation"
    )

"""What parameters are multiplied with, against the same inputs written down by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune.activations import input_statistics
from graphprune.errors import ScoreError
from graphprune.matrices import Inputs


class Uses(nn.Module):
    """One weight, and a function of it and of the input."""

    def __init__(self, shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Any]):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.weight)


def seen(module: nn.Module, *batches: Any) -> dict[str, Inputs]:
    return input_statistics(module, dict(module.named_parameters()), batches)


def check(inputs: Inputs, samples: Tensor, dims: set[int], place: Callable[[Tensor], Tensor]) -> None:
    """``samples`` is ``[n, features]``; ``place`` brings a number for each feature into the shape of the weight."""
    assert inputs.dims == dims
    for found, expected in (
        (inputs.mean, samples.mean(0)),
        (inputs.variance, samples.var(0)),
        (inputs.square, samples.square().sum(0)),
    ):
        assert torch.allclose(found, place(expected).expand(found.shape), rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Case:
    """A use of a weight ``shape`` on an input ``x``, by which each row of ``x`` as ``[n, features]`` is a sample."""

    function: Callable[[Tensor, Tensor], Any]
    shape: tuple[int, ...]
    x: tuple[int, ...]
    dims: set[int]
    place: Callable[[Tensor], Tensor]
    samples: Callable[[Tensor], Tensor] = lambda x: x.reshape(-1, x.shape[-1])


def pixels(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2)


CASES = {
    "linear": Case(F.linear, (5, 4), (2, 3, 4), {1}, lambda each: each),
    "linear with bias": Case(lambda x, w: F.linear(x, w, torch.ones(5)), (5, 4), (2, 3, 4), {1}, lambda each: each),
    "x @ W": Case(lambda x, w: x @ w, (4, 5), (2, 3, 4), {0}, lambda each: each[:, None]),
    "x @ W.T": Case(lambda x, w: x @ w.T, (5, 4), (6, 4), {1}, lambda each: each),
    "W @ x": Case(lambda x, w: w @ x.T, (5, 4), (6, 4), {1}, lambda each: each),
    "W @ x, broadcast": Case(lambda x, w: w @ x.mT, (5, 4), (2, 6, 4), {1}, lambda each: each),
    "addmm": Case(lambda x, w: torch.addmm(torch.ones(5), x, w), (4, 5), (6, 4), {0}, lambda each: each[:, None]),
    "vector": Case(lambda x, w: x @ w, (4,), (6, 4), {0}, lambda each: each),
    "dot": Case(lambda x, w: [row @ w for row in x], (4,), (6, 4), {0}, lambda each: each),
    "einsum": Case(lambda x, w: torch.einsum("bti,oi->bto", x, w), (5, 4), (2, 3, 4), {1}, lambda each: each),
    "einsum of heads": Case(lambda x, w: torch.einsum("bi,hdi->bhd", x, w), (2, 3, 4), (6, 4), {2}, lambda each: each),
    "over two dims": Case(
        lambda x, w: x @ w.flatten(0, 1), (2, 3, 5), (4, 6), {0, 1}, lambda each: each.reshape(2, 3, 1)
    ),
    "fused": Case(lambda x, w: [F.linear(x, part) for part in w.chunk(2)], (6, 4), (3, 4), {1}, lambda each: each),
    "used twice": Case(
        lambda x, w: x @ w + x @ w, (4, 5), (3, 4), {0}, lambda each: each[:, None], lambda x: x.repeat(2, 1)
    ),
    "conv": Case(
        lambda x, w: F.conv2d(x, w, torch.ones(5)), (5, 3, 2, 2), (2, 3, 4, 4), {1}, lambda e: e[:, None, None], pixels
    ),
    "conv of one signal": Case(
        lambda x, w: F.conv1d(x, w), (5, 3, 2), (3, 8), {1}, lambda each: each[:, None], lambda x: x.T
    ),
    "conv with groups": Case(
        lambda x, w: F.conv1d(x, w, groups=2),
        (6, 2, 3),
        (2, 4, 8),
        {1},
        lambda each: each.reshape(2, 1, 2).expand(2, 3, 2).reshape(6, 2, 1),
        pixels,
    ),
    "depthwise": Case(
        lambda x, w: F.conv1d(x, w, groups=4), (4, 1, 3), (2, 4, 8), set(), lambda each: each[:, None, None], pixels
    ),
    "transposed conv": Case(
        lambda x, w: F.conv_transpose1d(x, w), (3, 5, 2), (2, 3, 8), {0}, lambda each: each[:, None, None], pixels
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_use(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    batches = [3 * torch.randn(case.x) + 1 for _ in range(2)]
    module = Uses(case.shape, case.function)
    samples = torch.cat([case.samples(x) for x in batches])
    check(seen(module, *batches)["weight"], samples, case.dims, case.place)


def test_parts_of_a_weight_have_inputs_of_their_own() -> None:
    torch.manual_seed(0)
    module = Uses((6, 4), lambda x, w: F.linear(F.linear(x, w[:4]), w[4:]))
    x = torch.randn(5, 4)
    inputs = seen(module, x)["weight"]
    inner = x @ module.weight.detach()[:4].T
    expected = torch.cat([x.var(0).expand(4, 4), inner.var(0).expand(2, 4)])
    assert torch.allclose(inputs.variance, expected, rtol=1e-5)


def test_experts_see_what_is_handed_to_them() -> None:
    torch.manual_seed(0)
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)
    module = Uses((3, 8, 16), lambda x, w: torch._grouped_mm(x, w, offs=ends))
    x = torch.randn(7, 8)
    inputs = seen(module.bfloat16(), x.bfloat16())["weight"]
    x = x.bfloat16().float()
    expected = torch.stack([x[:2].square().sum(0), torch.zeros(8), x[2:].square().sum(0)])
    assert torch.allclose(inputs.square, expected[:, :, None].expand(3, 8, 16), rtol=1e-4)
    assert inputs.dims == {1}


def test_whole_layers_of_torch() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    caught: list[Tensor] = []
    layer.linear1.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    x = torch.randn(2, 5, 8)
    inputs = seen(layer, x)
    check(inputs["self_attn.in_proj_weight"], x.reshape(-1, 8), {1}, lambda each: each)
    check(inputs["linear1.weight"], caught[0].detach().reshape(-1, 8), {1}, lambda each: each)
    assert inputs.keys() >= {"self_attn.out_proj.weight", "linear2.weight"}
    lstm = seen(nn.LSTM(4, 3), torch.randn(5, 2, 4))
    assert lstm.keys() == {"weight_ih_l0", "weight_hh_l0"}
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_is_in_no_product_is_left_out_and_the_module_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    inputs = seen(module, torch.tensor([[1, 2, 4]]))
    assert inputs.keys() == {"3.weight"}
    assert all(child.training for child in module.modules())
    with pytest.raises(ScoreError, match=r"^there are no batches to score on: data is empty$"):
        seen(module)

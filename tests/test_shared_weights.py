"""Weights that are used twice, tied, views of each other, or made by parametrizations; and buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from transformers import ViTConfig, ViTModel

import graphprune as gp
from graphprune.plan import GroupPlan, PruningPlan
from graphprune.traced import TracedModel
from tests.lockstep import check_lockstep, random_plan
from tests.models import tiny


def prune_half(traced: TracedModel, tolerance: float = 1e-5) -> gp.CompactModel:
    """Half of every group is cut and every value compared."""
    plan = random_plan(traced, half=True)
    assert check_lockstep(traced, plan, tolerance) > 0
    return gp.rewrite(traced, plan)


def reason(traced: TracedModel, name: str) -> str:
    return traced.groups[name].reason.partition(" at ")[0]


class Small(nn.Module):
    """``function(self, x)`` with parameters and buffers of given shapes."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], buffers: dict[str, Any] | None = None, **shapes: Any):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        for name, shape in (buffers or {}).items():
            self.register_buffer(name, torch.randn(shape).abs() + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
ROTARY = {"cos": (1, 4), "sin": (1, 4)}

USED_TWICE: dict[str, nn.Module] = {
    "up and down": Small(lambda p, x: (x @ p.up.T).relu() @ p.up, up=(8, 6)),
    "two inputs": Small(lambda p, x: (x @ p.up + x.flip(0) @ p.up).relu() @ p.down, up=(6, 8), down=(8, 2)),
    "einsum and linear": Small(
        lambda p, x: torch.einsum("bi,oi->bo", x, p.up).tanh() @ p.down + F.linear(x, p.up) @ p.down,
        up=(8, 6),
        down=(8, 2),
    ),
    "layer scale": Small(
        lambda p, x: (x @ p.up).relu() * p.scale @ p.down + p.scale @ p.down, up=(6, 8), scale=8, down=(8, 2)
    ),
    "embedding": Small(lambda p, x: F.embedding((x > 0).long(), p.table) @ p.table.T, table=(5, 8)),
    "a power": Small(lambda p, x: (x @ p.up) @ p.square @ p.square @ p.down, up=(6, 8), square=(8, 8), down=(8, 2)),
    "a table of angles": Small(
        lambda p, x: ((x @ p.q) * p.cos + (x @ p.q).tanh() * p.sin) @ p.down, ROTARY, q=(6, 4), down=(4, 2)
    ),
    "a bias for two layers": Small(
        lambda p, x: ((x @ p.up + p.bias).relu() @ p.mid + p.bias).relu() @ p.down,
        up=(6, 8),
        mid=(8, 8),
        bias=8,
        down=(8, 2),
    ),
}


@pytest.mark.parametrize("name", USED_TWICE)
def test_weights_that_are_used_twice(name: str) -> None:
    traced = gp.trace(USED_TWICE[name], X)
    compact = prune_half(traced)
    assert compact.parameter_count < traced.parameter_count


def test_tied_weights_stay_tied() -> None:
    model, inputs = tiny("t5")
    traced = gp.trace(model, kwargs=inputs)
    plan = random_plan(traced, half=True)
    assert check_lockstep(traced, plan, 1e-5) > 0
    compact = gp.rewrite(traced, plan)
    assert compact.module is not None
    assert compact.module.lm_head.weight is compact.module.shared.weight
    assert compact.module.encoder.embed_tokens.weight is compact.module.shared.weight


def test_position_biases_that_layers_share() -> None:
    model, inputs = tiny("t5")
    traced = gp.trace(model, kwargs=inputs)
    heads = [
        group for group in traced.groups.prunable if any("relative_attention_bias" in str(m) for m in group.members)
    ]
    assert len(heads) == 2  # of the encoder, of the decoder
    for group in heads:
        assert sum(".q.weight" in str(member) for member in group.members) == 2


class WindowAttention(nn.Module):
    """Attention in windows of 3 x 3, as in Swin: a table of biases, looked up with a buffer of relative positions."""

    def __init__(self, dim: int = 24, num_heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.randn(25, num_heads))
        places = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        offsets = places[:, None] - places[None] + 2
        self.register_buffer("index", 5 * offsets[..., 0] + offsets[..., 1])
        self.index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        batch, places, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, places, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(places, places, -1).permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + bias.unsqueeze(0)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, places, -1))  # type: ignore[no-any-return]


def test_a_table_of_position_biases_that_a_buffer_looks_up() -> None:
    model = WindowAttention().eval()
    traced = gp.trace(model, torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0)))
    group = next(group for group in traced.groups.prunable if group.kind == "heads")
    assert {("table", 1), ("qkv.weight", 0), ("proj.weight", 1)} <= {(m.parameter, m.dim) for m in group.members}
    plan = PruningPlan(traced.fingerprint, {group.name: GroupPlan(4, (0, 3))})
    assert check_lockstep(traced, plan, 1e-5) > 0
    compact = gp.rewrite(traced, plan)
    assert compact.module_error is None
    assert compact.module is not None
    assert torch.equal(compact.module.table, model.table[:, [0, 3]])
    assert torch.equal(compact.module.index, model.index)


def test_statistics_of_batch_norm_are_cut() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 2, 1)).eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    compact = prune_half(gp.trace(model, torch.randn(2, 3, 9)))
    assert compact.module is not None
    assert compact.module[1].running_var.shape == (4,)


def test_learned_positions() -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes))
    traced = gp.trace(model, kwargs={"pixel_values": torch.randn(2, 3, 16, 16)})
    assert prune_half(traced).parameter_count < traced.parameter_count


# --- views ------------------------------------------------------------------------------------------------------------


class Views(nn.Module):
    """Two weights in one piece of memory."""

    def __init__(self, first: slice, second: slice, used: bool = True):
        super().__init__()
        torch.manual_seed(0)
        memory = torch.randn(16, 6)
        self.a, self.b = nn.Parameter(memory[first]), nn.Parameter(memory[second])
        self.down, self.used = nn.Parameter(torch.randn(2, 8)), used

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(x @ self.a.T)
        return (hidden + torch.tanh(x @ self.b.T) if self.used else hidden) @ self.down.T


@pytest.mark.parametrize("second", [slice(0, 8), slice(4, 12)], ids=["the same", "overlapping"])
def test_views_of_the_same_memory_are_frozen(second: slice) -> None:
    traced = gp.trace(Views(slice(0, 8), second), X)
    assert reason(traced, "model:channels.1") == "a and b are views of the same memory, which the cut would part"
    assert traced.groups.prunable == ()


@pytest.mark.parametrize(
    "module", [Views(slice(0, 8), slice(8, 16)), Views(slice(0, 8), slice(4, 12), used=False)], ids=["apart", "unused"]
)
def test_views_that_do_not_matter_are_cut(module: nn.Module) -> None:
    compact = prune_half(gp.trace(module, X))
    assert compact.module_error is None


def test_a_buffer_that_is_a_view_of_a_weight() -> None:
    module = Small(lambda p, x: (x @ p.up.T).relu() @ p.down + (x[:, :3] @ p.part.T) @ p.down, up=(8, 6), down=(8, 2))
    module.register_buffer("part", module.up.data[:, :3])
    traced = gp.trace(module, X)
    assert "are views of the same memory, which the cut would part" in reason(traced, "model:channels")


# --- parametrizations -------------------------------------------------------------------------------------------------


def parametrized(change: Callable[..., nn.Module], layer: int = 0, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    change(model[layer], **options)
    return model


@pytest.mark.parametrize("change", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
def test_weight_norm(change: Any) -> None:
    for layer in (0, 2):  # along the rows whose length it divides by, and along what goes into it
        prune_half(gp.trace(parametrized(change, layer=layer), X))


def test_weight_norm_that_was_folded() -> None:
    model = parametrized(parametrizations.weight_norm)
    parametrize.remove_parametrizations(model[0], "weight")
    assert prune_half(gp.trace(model, X)).module_error is None


@pytest.mark.parametrize("change", [parametrizations.spectral_norm, nn.utils.spectral_norm], ids=["new", "old"])
@pytest.mark.parametrize("layer", [0, 2])
def test_spectral_norm(change: Any, layer: int) -> None:
    prune_half(gp.trace(parametrized(change, layer), X))


def test_orthogonal_weights() -> None:
    """The triangle that the weight is made from stays whole; what it is multiplied by can be cut."""
    traced = gp.trace(parametrized(parametrizations.orthogonal), X)
    assert reason(traced, "0.parametrizations.weight.original:channels.1") == "a triangle of it is taken"
    prune_half(traced)
    traced = gp.trace(parametrized(parametrizations.orthogonal, layer=2), X)
    for group in traced.groups:
        if any("original" in member.parameter for member in group.members):
            assert group.frozen is not None


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def test_a_parametrization_of_ones_own() -> None:
    torch.manual_seed(0)
    square = nn.Linear(8, 8)
    parametrize.register_parametrization(square, "weight", Symmetric())
    traced = gp.trace(nn.Sequential(nn.Linear(6, 8), square, nn.Linear(8, 4)), X)
    assert reason(traced, "model:channels") == "a triangle of it is taken"

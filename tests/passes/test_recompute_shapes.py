"""Rewriting a graph, text in, text out: which numbers change and which stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import graphprune as gp
from graphprune.passes.recompute_shapes import recompute_shapes
from graphprune.passes.slice_parameters import parameter_masks, slice_tensor


class Module(nn.Module):
    """``up`` makes 12 channels of 3 features, ``down`` takes what ``f`` makes of them."""

    def __init__(self, f: Callable[..., Any], up: tuple[int, ...], down: int) -> None:
        super().__init__()
        self.f = f
        self.up, self.down = nn.Parameter(torch.randn(up)), nn.Parameter(torch.randn(2, down))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(self.f(x, self.up), self.down)


def text(graph: fx.GraphModule) -> str:
    """The calls of a graph with the arguments that are no tensors."""
    lines = []
    for node in graph.graph.nodes:
        if node.op == "call_function":
            given = [str(value) for value in (*node.args, *node.kwargs.values()) if not isinstance(value, fx.Node)]
            lines.append(" ".join([str(node.target).removeprefix("aten.").partition(".")[0], *given]))
    return "; ".join(line for line in lines if " " in line and "getitem" not in line)


def rewritten(module: nn.Module, x: torch.Tensor, keep_half_of: int) -> tuple[str, str]:
    """Text of a graph before and after the first half of the group with so many units is kept."""
    traced = gp.trace(module, x)
    groups = [group for group in traced.groups.prunable if group.units == keep_half_of]
    plan = gp.PruningPlan(
        traced.fingerprint, {g.name: gp.GroupPlan(g.units, tuple(range(g.units // 2))) for g in groups}
    )
    keep = plan.keep(traced)
    masks = parameter_masks(traced.inference, keep)
    tensors = {name: slice_tensor(traced.program.tensor(name), masks.get(name, ())) for name in traced.table}
    return text(traced.graph), text(recompute_shapes(traced.program, traced.inference, keep, tensors))


X, IMAGE = torch.randn(5, 3), torch.randn(5, 3, 6, 6)
CASES = [
    (
        lambda x, w: F.linear(x, w).view(5, 4, 3).sum(1),
        (12, 3),
        3,
        4,
        "reshape [5, 4, 3]; sum [1]",
        "reshape [5, 2, 3]; sum [1]",
    ),
    (
        lambda x, w: F.linear(x, w).view(5, -1, 3).sum(1),
        (12, 3),
        3,
        4,
        "reshape [5, -1, 3]; sum [1]",
        "reshape [5, -1, 3]; sum [1]",
    ),
    (
        lambda x, w: F.linear(x, w).unflatten(1, (4, -1)).sum(1),
        (12, 3),
        3,
        4,
        "unflatten 1 [4, -1]; sum [1]",
        "unflatten 1 [2, -1]; sum [1]",
    ),
    (lambda x, w: F.linear(x, w)[:, 8:], (12, 3), 4, 4, "slice 1 8 9223372036854775807", "slice 1 8 10"),
    (lambda x, w: F.linear(x, w)[:, 8:], (12, 3), 4, 8, "slice 1 8 9223372036854775807", "slice 1 4 8"),
    (lambda x, w: F.linear(x, w)[:, :-4], (12, 3), 8, 8, "slice 1 0 -4", "slice 1 0 4"),
    (lambda x, w: F.linear(x, w).narrow(1, 8, 4), (12, 3), 4, 8, "narrow 1 8 4", "narrow 1 4 4"),
    (lambda x, w: F.linear(x, w).chunk(2, 1)[0], (12, 3), 6, 6, "chunk 2 1", "split_with_sizes [3, 3] 1"),
    (
        lambda x, w: F.linear(x, w).split([4, 8], 1)[1],
        (12, 3),
        8,
        8,
        "split_with_sizes [4, 8] 1",
        "split_with_sizes [4, 4] 1",
    ),
    (lambda x, w: w.expand(5, 12), (1, 12), 12, 12, "expand [5, 12]", "expand [5, 6]"),
    (lambda x, w: F.linear(x, w).repeat(1, 2), (12, 3), 24, 12, "repeat [1, 2]", "repeat [1, 2]"),
    (lambda x, w: F.linear(x, w).repeat(1, 2), (12, 3), 24, 2, "repeat [1, 2]", "repeat [1, 1]"),
    (
        lambda x, w: F.linear(x, w).repeat_interleave(2, 1),
        (12, 3),
        24,
        2,
        "repeat_interleave 2 1",
        "repeat_interleave 1 1",
    ),
    (
        lambda x, w: F.linear(x, w)[:, None].squeeze(),
        (12, 3),
        12,
        12,
        "unsqueeze 1",
        "unsqueeze 1; squeeze [1]",
    ),
    (lambda x, w: torch.zeros(12) + F.linear(x, w), (12, 3), 12, 12, "zeros [12]", "zeros [6]"),
    (
        lambda x, w: torch.cat([F.linear(x, w).cos(), x], 1)[:, :-3],
        (12, 3),
        12,
        12,
        "cat [cos, x] 1; slice 1 0 -3",
        "cat [cos, x] 1; slice 1 0 6",
    ),
    (
        lambda x, w: (y := torch.cat([x, F.linear(x, w)], 1))[:, -12:] + y[:, :-12].sum(),
        (12, 3),
        12,
        12,
        "cat [x, linear] 1; slice 1 -12 9223372036854775807; slice 1 0 -12",
        "cat [x, linear] 1; slice 1 3 9; slice 1 0 3",
    ),
]


@pytest.mark.parametrize(
    ("f", "up", "down", "units", "before", "after"), CASES, ids=[str(index) for index in range(len(CASES))]
)
def test_numbers_follow_from_axes(
    f: Callable[..., Any], up: tuple[int, ...], down: int, units: int, before: str, after: str
) -> None:
    found = rewritten(Module(f, up, down), X, units)
    assert [each.replace(" cpu False", "") for each in found] == [before, after]


def test_open_sizes_follow_in_part() -> None:
    """``4·batch`` rows, and twice as many of them: the second is made from a size of what is cut already."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 24), nn.Linear(24, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.up(x).reshape(x.shape[0] * 4, 6)
            pairs = rows.flatten().unflatten(0, (rows.shape[0] // 2, 2, 6)).relu()
            whole = pairs + torch.zeros(rows.shape[0] // 2, 2, 6)
            return self.down(whole.reshape(-1, 24))  # type: ignore[no-any-return]

    traced = gp.trace(Rows(), X, dynamic=True)
    plans = {group.name: gp.GroupPlan(group.units, (0,)) for group in traced.groups.prunable}
    assert sorted(plan.units for plan in plans.values()) == [2, 2, 6]
    compact = gp.rewrite(traced, gp.PruningPlan(traced.fingerprint, plans), module_form=False)
    assert compact.graph.up.weight.shape == (1, 3)
    assert compact.graph(torch.randn(7, 3)).shape == (7, 2)


def test_groups_of_a_convolution_follow() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1))
    before, after = rewritten(module, IMAGE, 4)
    assert "conv2d [1, 1] [0, 0] [1, 1] 8; group_norm 4" in before
    assert "conv2d [1, 1] [0, 0] [1, 1] 4; group_norm 2" in after


def test_the_original_scale_of_attention_is_kept() -> None:
    def attend(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        query = F.linear(x, w)[None]
        return F.scaled_dot_product_attention(query, query, x[None])

    before, after = rewritten(Module(attend, (16, 3), 3), X, 16)
    assert before == "unsqueeze 0; unsqueeze 0"
    assert after == "unsqueeze 0; unsqueeze 0; scaled_dot_product_attention 0.25"


def test_positions_that_are_counted_are_chosen_afterwards() -> None:
    before, after = rewritten(Module(lambda x, w: F.linear(x, w) + torch.arange(12), (12, 3), 12), X, 12)
    assert before.startswith("arange")
    assert "index_select 0" in after

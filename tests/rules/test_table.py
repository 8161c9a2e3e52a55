"""Every axis rule is sound: what it leaves to be cut can be cut, value by value, and what it freezes has a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import graphprune as gp
from graphprune.rules import axis_rules, resize_rules
from tests.lockstep import check_lockstep, random_plan, statistics_plan, verified
from tests.rules.case import Case, Small, called, case, reasons, statuses, traced_case
from tests.rules.table import TABLE

IDS = [f"{index}-{each.ops.split()[0]}" for index, each in enumerate(TABLE)]

RANDOM = "draws random numbers: see tests/passes/test_random_draws.py"
NOT_CAPTURED = "never in a graph that torch.export captures"
NO_CASE = {
    "aten::_grouped_mm": "takes bfloat16 rows of a multiple of 16 bytes; grouped_mm_fallback has the same rule",
    "aten::_unsafe_view": "becomes reshape when it is captured",
    **dict.fromkeys(["aten::view_as", "aten::reshape_as", "aten::expand_as"], "see test_shapes_of_other_tensors"),
    **dict.fromkeys(["aten::zeros_like", "aten::ones_like", "aten::full_like"], "see test_tensors_like_others"),
    "higher_order::flex_attention": "see test_attention_with_functions_of_positions",
    "aten::copy_": "see test_a_buffer_that_is_written",
    "torchvision::deform_conv2d": "see test_a_convolution_at_places_that_are_computed",
    "aten::_native_batch_norm_legit_functional": "see test_a_norm_that_torch_writes_anew",
    "aten::cuda": "needs a GPU",
    "aten::cudnn_batch_norm": "needs a GPU",
    "aten::pin_memory": "needs a GPU",
    **dict.fromkeys(["aten::bernoulli", "aten::rand", "aten::rand_like", "aten::randint", "aten::randn"], RANDOM),
    **dict.fromkeys(["aten::randn_like", "aten::randperm", "aten::multinomial", "aten::randint_like"], RANDOM),
    **dict.fromkeys(["aten::cauchy", "aten::exponential", "aten::geometric", "aten::log_normal"], RANDOM),
    **dict.fromkeys(["aten::normal_functional", "aten::random", "aten::uniform"], RANDOM),
    **dict.fromkeys(["aten::allclose", "aten::equal", "aten::is_nonzero", "aten::conj", "aten::cpu"], NOT_CAPTURED),
    **dict.fromkeys(["aten::lift_fresh", "aten::size", "aten::numel", "aten::sym_stride"], NOT_CAPTURED),
    **dict.fromkeys(["aten::_assert_tensor_metadata", "aten::sym_constrain_range"], NOT_CAPTURED),
    **dict.fromkeys(["aten::sym_constrain_range_for_size"], NOT_CAPTURED),
    **dict.fromkeys(["aten::_autocast_to_full_precision", "aten::_autocast_to_reduced_precision"], NOT_CAPTURED),
    **dict.fromkeys(["aten::sym_size", "aten::sym_numel"], "see test_sizes_that_are_inputs"),
}
"""Operators with a rule that have no case, and why."""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_what_the_rule_says_holds_for_every_value(row: Case, seed: int) -> None:
    traced = traced_case(row, seed)
    assert row.names <= called(traced)
    for place in row.cut.split():
        assert "prunable" in statuses(traced, place), f"{place} can't be cut: {reasons(traced, place)}"
    for place in row.statistics.split():
        assert "statistics" in statuses(traced, place), f"{place}: {reasons(traced, place)}"
    for place, reason in row.frozen.items():
        assert statuses(traced, place) == {"frozen"}
        assert reason in reasons(traced, place)
    if row.cut:
        for each in range(2):
            assert check_lockstep(traced, random_plan(traced, seed=each, slots=each == 0)) > 0


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.cut], ids=[i for i, row in zip(IDS, TABLE, strict=True) if row.cut]
)
def test_the_compact_model_is_verified(row: Case) -> None:
    traced = traced_case(row, seed=7)
    compact = gp.rewrite(traced, random_plan(traced), module_form=False)
    assert compact.report is not None
    assert compact.report.graph_error is not None
    assert compact.parameter_count < traced.parameter_count


@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if row.statistics],
    ids=[i for i, row in zip(IDS, TABLE, strict=True) if row.statistics],
)
def test_what_is_asked_for_counts_what_is_kept(row: Case) -> None:
    traced = traced_case(row, seed=8)
    found = [verified(traced, statistics_plan(traced, seed)) for seed in range(4)]
    assert any(found)  # and not all: the best position may be one that stays
    for compact in found:
        assert compact is None or compact.parameter_count < traced.parameter_count


def test_rules_are_for_operators_that_exist() -> None:
    names = [name.split("::") for name in {*axis_rules, *resize_rules} if not name.startswith("torchvision::")]
    assert [name for space, name in names if not hasattr(getattr(torch.ops, space), name)] == []


def test_sizes_that_are_inputs() -> None:
    row = case(
        "sym_size sym_numel",
        lambda p, x: (x @ p.up).relu().view(-1, x.shape[0], p.a) @ p.down * x.numel(),
        up="3 a",
        down="a 2",
    )
    module = Small(row, 0)
    traced = gp.trace(module, module.inputs, dynamic=True)
    assert row.names <= called(traced)
    assert check_lockstep(traced, random_plan(traced)) > 0


def check_with_open_sizes_only(row: Case) -> None:
    """Operators that are in a graph where sizes are open, and sound there, and are written with numbers elsewhere."""
    module = Small(row, 0)
    traced = gp.trace(module, module.inputs, dynamic=True)
    assert row.names <= called(traced)
    assert check_lockstep(traced, random_plan(traced)) > 0
    assert not row.names & called(gp.trace(module, module.inputs))


def test_shapes_of_other_tensors() -> None:
    row = case(
        "view_as reshape_as expand_as",
        lambda p, x: (
            (
                (x @ p.up).flatten().view_as(x @ p.other)
                + (x @ p.up).flatten().reshape_as(x @ p.other)
                + p.row.expand_as(x @ p.other)
            )
            @ p.down
        ),
        up="3 a",
        other="3 a",
        row="a",
        down="a 2",
    )
    check_with_open_sizes_only(row)


def test_tensors_like_others() -> None:
    row = case(
        "full_like zeros_like ones_like",
        lambda p, x: (
            (torch.full_like(x @ p.up, 2) + torch.zeros_like(x @ p.up) + torch.ones_like(x @ p.up))
            * (x @ p.up)
            @ p.down
        ),
        up="3 a",
        down="a 2",
    )
    check_with_open_sizes_only(row)


class Flexible(nn.Module):
    """Attention with a function of scores, and with a mask of blocks."""

    def __init__(self, score: Any = None, mask: Any = None, kv: int = 4) -> None:
        super().__init__()
        self.score, self.kv = score, kv
        self.mask = None if mask is None else create_block_mask(mask, None, None, 16, 16, device="cpu")
        self.q, self.k, self.v = nn.Linear(8, 16), nn.Linear(8, 4 * kv), nn.Linear(8, 4 * kv)
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (each(x).unflatten(-1, (-1, 4)).transpose(1, 2) for each in (self.q, self.k, self.v))
        y = flex_attention(q, k, v, self.score, self.mask, enable_gqa=self.kv != 4)
        assert isinstance(y, torch.Tensor)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


FLEXIBLE = {
    "plain": (Flexible(), True),
    "two heads for one": (Flexible(kv=2), True),
    "causal": (Flexible(lambda score, b, h, i, j: torch.where(i >= j, score, -float("inf"))), True),
    "a mask of blocks": (Flexible(mask=lambda b, h, i, j: i >= j), True),
    "slopes": (Flexible(lambda score, b, h, i, j: score + (j - i) * 2.0**-h), False),
    "a mask by heads": (Flexible(mask=lambda b, h, i, j: (i >= j) | (h < 2)), False),
}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", FLEXIBLE)
def test_attention_with_functions_of_positions(name: str) -> None:
    module, cut = FLEXIBLE[name]
    traced = gp.trace(module.double(), torch.randn(2, 16, 8, dtype=torch.float64))
    heads = [group for group in traced.groups if group.kind == "heads" and group.units == module.kv]
    assert {group.status for group in heads} == {"prunable" if cut else "frozen"}
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    assert compact.report is not None
    assert compact.graph.get_parameter("q.weight").shape[0] < 16


def test_a_size_that_is_added_is_not_zero() -> None:
    module = Small(case("add", lambda p, x: (x @ p.up + x.shape[0]).sum(-1), up="3 a"), 0)
    traced = gp.trace(module, module.inputs, dynamic=True)
    assert "its masked units are not zero" in reasons(traced, "up:1")


class Counting(nn.Module):
    """Keeps what it saw last in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 6, dtype=torch.float64)
        self.register_buffer("last", torch.zeros(6, dtype=torch.float64))
        self.down = nn.Linear(6, 2, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.up(x)
        self.last.copy_(hidden[0])
        return self.down(hidden)


def test_a_buffer_that_is_written() -> None:
    traced = gp.trace(Counting(), (torch.ones(2, 3, dtype=torch.float64),))
    assert "aten::copy_" in called(traced)
    compact = gp.rewrite(traced, random_plan(traced, half=True), module_form=False)
    assert compact.graph.last.shape == (3,)
    compact.graph(torch.ones(2, 3, dtype=torch.float64))
    assert compact.graph.last.any()


def test_every_axis_rule_has_a_case() -> None:
    covered = {name for row in TABLE for name in row.names}
    assert sorted(axis_rules.keys() - covered - NO_CASE.keys()) == []
    assert sorted(NO_CASE.keys() & covered) == []


def test_every_resize_rule_has_an_axis_rule() -> None:
    assert resize_rules.keys() <= axis_rules.keys()


def test_a_norm_that_torch_writes_anew() -> None:
    """Where something is written in place that can't be replaced, torch takes the graph through a pass of its own."""

    class Adaptive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.up(x)
            flat = y.flatten(0, 1)[None]
            mean, spread = torch.zeros(flat.shape[1]), torch.ones(flat.shape[1])
            y = torch.nn.functional.batch_norm(flat, mean, spread, None, None, True).view(y.shape).relu_()
            return self.down(y)  # type: ignore[no-any-return]

    traced = gp.trace(Adaptive(), torch.randn(2, 3, 8, 8))
    assert "aten::_native_batch_norm_legit_functional" in called(traced)
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    assert compact.module.up.out_channels == 4


@pytest.mark.parametrize(("groups", "parts", "mask"), [(1, 1, True), (1, 2, False), (2, 2, True), (4, 1, False)])
def test_a_convolution_at_places_that_are_computed(groups: int, parts: int, mask: bool) -> None:
    ops: Any = pytest.importorskip("torchvision.ops", exc_type=ImportError)

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.deformed = nn.Conv2d(3, 16, 3), ops.DeformConv2d(16, 24, 3, padding=1, groups=groups)
            self.places, self.weights = nn.Conv2d(16, 18 * parts, 1), nn.Conv2d(16, 9 * parts, 1)
            self.down = nn.Conv2d(24, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.up(x).relu()
            x = self.deformed(x, self.places(x), self.weights(x).sigmoid() if mask else None)
            return self.down(x.relu())  # type: ignore[no-any-return]

    traced = gp.trace(Deformed(), torch.randn(2, 3, 8, 8))
    assert len(traced.groups.prunable) >= 2
    report = gp.rewrite(traced, random_plan(traced, half=True)).report
    assert report is not None
    assert report.module_error is not None

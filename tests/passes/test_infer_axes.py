"""Axis inference on whole graphs: where axes begin, what ties share, and what happens without a rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.rules import Call, Dims, Result, axis_rules
from tests.models import tiny_llama, tokens

X = torch.zeros(2, 3)


class Op(nn.Module):
    """``down(f(up(x)))``"""

    def __init__(self, f) -> None:
        super().__init__()
        self.up, self.down, self.f = nn.Linear(3, 8, bias=False), nn.Linear(8, 2, bias=False), f

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.f(self.up(x)))


def test_no_rule_freezes_and_says_so() -> None:
    traced = gp.trace(Op(lambda x: x + torch.trapz(x)[:, None]), X)
    reason = traced.groups["model:channels"].reason
    assert reason.startswith("there is no axis rule for aten.trapz.dx; add one with @")


def test_an_operator_that_says_that_it_is_pointwise_needs_no_rule() -> None:
    assert gp.trace(Op(lambda x: torch.special.bessel_j0(x) + torch.heaviside(x, x[:, :1])), X).groups.prunable


def test_positions_that_the_example_does_not_come_to() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.up, self.down = nn.Parameter(torch.randn(64, 3)), nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x + self.table[: len(x)]).relu())  # type: ignore[no-any-return]

    groups = gp.trace(Positions(), X).groups
    assert [group.units for group in groups.prunable] == [8]
    assert [g.units for g in groups if g.reason == "the example inputs do not come to these positions"] == [62]


def test_inputs_and_outputs_are_frozen() -> None:
    traced = gp.trace(Op(torch.relu), X)
    assert traced.groups["up.weight:channels"].reason == "it is a dim of an input at x"
    assert traced.groups["down.weight:channels"].reason.startswith("it is a dim of an output at down (linear.py:")
    assert [group.name for group in traced.groups.prunable] == ["model:channels"]


def test_a_rule_with_wrong_sizes_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: Call) -> Result:
        x = call.tensor("self")
        return Dims((*x.axes, call.fresh(3)), (*x.zero, False))

    monkeypatch.setitem(axis_rules, "aten::relu", wrong)
    with pytest.raises(AssertionError, match=r"the axis rule of aten.relu.default gave .* for \(2, 8\)"):
        gp.trace(Op(torch.relu), X)


def test_a_rule_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(axis_rules, "aten::trapz", axis_rules["aten::sum"])
    assert gp.trace(Op(lambda x: torch.trapz(x.relu(), dim=0)), X).groups.prunable


def test_tied_weights_share_their_axes() -> None:
    traced = gp.trace(tiny_llama(tied=True), kwargs={"input_ids": tokens()})
    assert traced.table["model.embed_tokens.weight"].aliases == ("lm_head.weight",)
    assert "lm_head.weight" not in traced.inference.parameter_dims
    assert {"model.embed_tokens.weight"} == {name for name in traced.inference.canonical.values() if "embed" in name}


def test_a_module_used_twice_has_one_axis() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.same, self.down = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.same(self.same(self.up(x))))

    traced = gp.trace(Twice(), X)
    (group,) = traced.groups.prunable
    assert sorted(str(member) for member in group.members) == [
        "down.weight[1]: a:8",
        "same.bias[0]: a:8",
        "same.weight[0]: a:8",
        "same.weight[1]: a:8",
        "up.bias[0]: a:8",
        "up.weight[0]: a:8",
    ]


def test_a_constant_of_the_graph_is_cut_too() -> None:
    table = torch.randn(8)
    traced = gp.trace(Op(lambda h: h * table.clone().cos()), torch.randn(2, 3))
    plan = gp.PruningPlan(traced.fingerprint, {"model:channels": gp.GroupPlan(8, (0, 3, 5))})
    assert gp.rewrite(traced, plan, module_form=False).report is not None


def test_the_work_is_linear_in_the_graph() -> None:
    """Couplings and atoms grow by the same amount with each layer."""

    def work(layers: int) -> tuple[int, int]:
        model = tiny_llama(num_hidden_layers=layers, device="meta")
        solver = gp.trace(model, kwargs={"input_ids": tokens().to("meta")}).inference.solver
        return len(solver.couplings), len(solver.sizes)

    one, two, four = work(1), work(2), work(4)
    assert [c - b for b, c in zip(two, four, strict=True)] == [2 * (b - a) for a, b in zip(one, two, strict=True)]


def test_padding_by_what_follows_from_an_open_size() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:  # [batch, length, 3], in windows of four
            padded = nn.functional.pad(self.up(x), (0, 0, 0, -x.shape[1] % 4))
            return self.down(padded.unflatten(1, (-1, 4)).relu())  # type: ignore[no-any-return]

    traced = gp.trace(Windows(), torch.rand(2, 7, 3), dynamic=True)
    assert [group.units for group in traced.groups.prunable] == [8]
    compact = gp.rewrite(traced, gp.select(traced, gp.score(traced), ratio=0.4))
    x = torch.rand(3, 11, 3)
    torch.testing.assert_close(compact.graph(x), compact.module(x))

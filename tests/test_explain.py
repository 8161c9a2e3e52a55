"""Explanations: what is said of groups, of parameters, and of two things that are cut together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import graphprune as gp
from graphprune.cli import app
from graphprune.errors import UnknownNameError
from graphprune.traced import TracedModel
from tests.models import tiny, tiny_llama, tokens

from .tiny import save_tiny_llama

GOLDEN = Path(__file__).parent / "golden" / "explain.txt"


@pytest.fixture(scope="module")
def llama() -> TracedModel:
    return gp.trace(tiny_llama(device="meta", num_hidden_layers=1), kwargs={"input_ids": tokens().to("meta")})


QUESTIONS = [
    ("model.layers.0.mlp:channels",),
    ("model:channels",),
    ("model.layers.0.self_attn:repeats",),
    ("model.layers.0.self_attn.q_proj.weight",),
    ("lm_head.weight[0]",),
    ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight[0]"),
    ("model.layers.0.mlp.gate_proj.weight[0]", "model.layers.0.mlp.down_proj.weight[1]"),
    ("model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.up_proj.weight[1]"),
    ("model.layers.0.mlp.gate_proj.weight[0]", "model.layers.0.self_attn.o_proj.weight[1]"),
    ("model.layers.0.self_attn:heads", "model.layers.0.self_attn.o_proj.weight[1]"),
    ("lm_head.weight", "model.embed_tokens.weight"),
]


def test_golden_text(llama: TracedModel) -> None:
    """Line numbers of transformers and torch differ from version to version."""
    said = [f"? {' | '.join(each)}\n{llama.explain(*each)}\n" for each in QUESTIONS]
    assert re.sub(r"\.py:\d+", ".py:N", "\n".join(said)) == GOLDEN.read_text(encoding="utf-8")


def test_the_calls_that_lead_to_what_freezes_a_group() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.side = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.up(x) + self.side(x)).exp()

    traced = gp.trace(Added(), torch.ones(2, 3))
    found = traced.explain(traced.groups[0])
    assert found.start == "up.weight[0]"
    assert found.end is not None
    assert found.end.startswith("it is a dim of an output: exp in ")
    there = traced.explain("up.weight[0]", "side.bias")
    assert [step.operator for step in there.steps] == ["add", "linear"]
    assert str(there).startswith(
        "up.weight[0] and side.bias are cut together (model:channels.1)\n    up.weight[0]\n  = add"
    )


def test_paths_name_the_calls_where_axes_really_met() -> None:
    """Not only those that first joined each of them to a third."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(3, 4, bias=False) for _ in range(3))
            self.out = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b, c = self.a(x), self.b(x), self.c(x)
            return self.out((a + b) * (b * c))  # type: ignore[no-any-return]

    found = gp.trace(Chain(), torch.ones(2, 3)).explain("a.weight[0]", "c.weight[0]")
    assert [step.operator for step in found.steps] == ["add", "mul"]


def test_a_freeze_that_went_over_from_another_axis() -> None:
    """The heads meet pieces of the input, of which there is no common refinement."""

    class Met(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.scale = nn.Linear(12, 12), nn.Buffer(torch.ones(3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = x.split([5, 7], 1)
            heads = self.up(x).view(-1, 3, 4) * self.scale
            return (heads.flatten(1) + torch.cat([first.relu(), second.tanh()], 1)).sum(1)  # type: ignore[no-any-return]

    traced = gp.trace(Met(), torch.ones(2, 12))
    heads = next(group for group in traced.groups if group.kind == "heads")
    found = traced.explain(heads)
    assert heads.frozen == "it is a dim of an input at x"
    assert (found.start, found.end) == ("up.weight[0]", "it is a dim of an input: x")
    assert [step.operator for step in found.steps] == ["reshape", "mul", "add", "split_with_sizes"]
    assert all(re.fullmatch(r"\w+ \(test_explain\.py:\d+\)", step.place) for step in found.steps)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_every_step_names_a_module_and_a_line(name: str) -> None:
    model, inputs = tiny(name)
    traced = gp.trace(model, kwargs=inputs)
    modules = {path for path, _ in model.named_modules()}
    steps = [step for group in traced.groups for step in traced.explain(group).steps]
    for group in traced.groups:
        first, last = group.members[0], group.members[-1]
        found = traced.explain(f"{first.parameter}[{first.dim}]", f"{last.parameter}[{last.dim}]")
        assert "cut together" in found.about
        steps += found.steps
    assert len(steps) > 10
    for step in steps:
        place = re.fullmatch(r"([\w.]+) \(\w+\.py:\d+\)", step.place)
        assert place is not None, step
        assert place[1] in modules


def test_parameters_that_nothing_uses() -> None:
    module = nn.Linear(3, 4)
    module.left = nn.Parameter(torch.zeros(5))
    traced = gp.trace(module, torch.ones(2, 3))
    assert str(traced.explain("left")) == (
        "left [5]\n  [0]: c:5\n    left:channels: 5 units, frozen, since nothing in the graph uses it"
    )
    assert str(traced.explain("left", "weight")) == (
        "left and weight are not coupled: no unit of one goes with a unit of the other"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0.weihgt", "there is no group and no parameter '0.weihgt' in the model; near are 0.weight, 2.weight"),
        ("zzzzzzzz", "there is no group and no parameter 'zzzzzzzz' in the model"),
        ("0.weight[2]", "0.weight has 2 dims, so there is no 0.weight[2]"),
    ],
)
def test_a_name_that_is_not_there(name: str, message: str) -> None:
    traced = gp.trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)), torch.ones(2, 3))
    with pytest.raises(UnknownNameError) as caught:
        traced.explain(name)
    assert str(caught.value).startswith(message)


def test_on_the_command_line(tmp_path: Path) -> None:
    model = str(save_tiny_llama(tmp_path / "tiny"))
    group, up = "model.layers.0.mlp:channels", "model.layers.0.mlp.up_proj.weight"

    def said(*options: str) -> str:
        result = CliRunner().invoke(app, ["inspect", model, *options])
        assert result.exit_code == (2 if result.stderr else 0), result.output
        return result.stdout or result.stderr.splitlines()[-1]

    assert said("--group", group).startswith(f"{group}: 48 units of 96 parameters, prunable\n  ")
    assert said("--param", up).startswith(f"{up} [48, 32]\n  [0]: g:48\n    {group}: 48 units, prunable\n")
    why = said("--why", f"{up}[0]", "model.layers.0.mlp.down_proj.weight")
    assert "are cut together (model.layers.0.mlp:channels)\n" in why
    assert "  = mul in model.layers.0.mlp (" in why
    assert said("--group", up) == f"error: {up} is a parameter and no group: --param says which groups it is in"
    assert said("--param", group) == f"error: {group} is a group and no parameter: --group says what it is"
    assert said("--group", "mlp:chanels").startswith("error: there is no group and no parameter 'mlp:chanels' in the")
    assert said("--json", "--group", group).startswith("error: Invalid value for --json and --group: give one of them")

"""Graphs that were captured elsewhere: pruned as those that are captured here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import graphprune as gp
from graphprune.errors import CaptureError, RewriteError
from tests.lockstep import check_lockstep, random_plan
from tests.models import tiny_llama, tokens

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
AUTO = torch.export.Dim.AUTO
NO_MODULE = (
    "there is no module form of this model: it was traced from a graph of operators, which has no modules; use its "
    "graph form (.graph)"
)


class Split(nn.Module):
    """Has a number in its code that follows from a width."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        hidden = self.up(x).relu_().view(x.shape[0], 2, 4) * scale
        return {"y": self.down(hidden.flatten(1))}


INPUTS: dict[str, Any] = {"scale": torch.tensor(2.0)}


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def exported(module: nn.Module, *args: Any, **options: Any) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(module.eval(), args, strict=False, **options)


def test_an_exported_transformer() -> None:
    model = tiny_llama()
    model.config.use_cache = False  # type: ignore[union-attr]
    traced = gp.trace(exported(model, tokens()))
    here = gp.trace(model, tokens())
    assert str(traced.groups) == str(here.groups)
    assert str(traced.explain("model.layers.0.mlp:channels")) == str(here.explain("model.layers.0.mlp:channels"))
    plan = random_plan(here)
    assert traced.fingerprint == here.fingerprint
    compact, expected = gp.rewrite(traced, plan), gp.rewrite(here, plan)
    assert compact.report is not None
    assert compact.parameter_count == expected.parameter_count
    assert torch.equal(compact(tokens()).logits, expected.graph(tokens()).logits)
    with pytest.raises(RewriteError) as caught:
        _ = compact.module
    assert str(caught.value) == NO_MODULE


@pytest.mark.parametrize("guards", [True, False])
def test_the_graph_of_an_exported_program(guards: bool) -> None:
    program = exported(Split(), X, kwargs=INPUTS).run_decompositions({})
    for model, given in ((program, ()), (program.module(check_guards=guards), ((X,), INPUTS))):
        traced = gp.trace(model, *given)
        assert [group.kind for group in traced.groups.prunable] == ["heads", "head_dims"]
        assert check_lockstep(traced, random_plan(traced, half=True), 1e-5) > 0


def test_writes_in_place_are_made_functional() -> None:
    program = exported(Split(), X, kwargs=INPUTS)
    assert any("relu_" in str(node.target) for node in program.graph.nodes)
    assert not any("relu_" in str(node.target) for node in gp.trace(program).graph.graph.nodes)


def test_writes_in_place_in_another_mode_are_made_functional() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            y = super().forward(input)
            with torch.autocast("cpu", enabled=False):
                return (y * 2).relu_()

    module = Doubled(4, 6)
    x = torch.randn(2, 4)
    traced = gp.trace(torch.export.export(module, (x,), strict=False))
    assert [str(node.target) for node in traced.graph.graph.nodes if node.op == "call_function"][1:] == [
        "aten.mul.Tensor",
        "aten.relu.default",
    ]
    assert torch.equal(traced.graph(x), module(x))


def test_open_sizes_stay_open() -> None:
    program = exported(mlp(), X, dynamic_shapes=[{0: AUTO}])
    compact = gp.prune(program, ratio=0.3)
    assert compact(torch.ones(7, 3)).shape == (7, 2)
    assert gp.trace(program, torch.ones(5, 3)).groups.prunable


def test_inputs_of_other_shapes_are_refused() -> None:
    with pytest.raises(CaptureError) as caught:
        gp.trace(exported(nn.Linear(3, 4), X), torch.ones(5, 3))
    assert str(caught.value) == (
        "the graph was captured with input of shape [2, 3], not [5, 3]: give it inputs of that shape, or capture it "
        "again with these"
    )


def test_a_graph_of_make_fx() -> None:
    graph = make_fx(mlp().requires_grad_(False), pre_dispatch=True)(X)
    compact = gp.prune(graph, X, ratio=0.3)
    assert compact.report is not None
    assert compact.ratio > 0.2
    assert compact.module_error == "it was traced from a graph of operators, which has no modules"


def test_a_symbolic_trace_is_a_module() -> None:
    compact = gp.prune(fx.symbolic_trace(mlp()), X, ratio=0.3)
    assert isinstance(compact.module, fx.GraphModule)
    assert compact.module(X).shape == (2, 2)
    assert compact.module.get_submodule("0").out_features < 8
    compact = gp.prune(fx.symbolic_trace(Split()), X, INPUTS, ratio=0.5)
    assert compact.module_error is not None
    assert compact.module_error.startswith("the module form does not run: shape '[2, 2, 4]' is invalid")

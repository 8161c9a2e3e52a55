"""Capturing: the graph computes what the module computes, and the module stays as it was."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import CaptureError
from tests.lockstep import random_plan
from tests.models import tiny, tiny_llama, tokens

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


class Modes(nn.Linear):
    """Switches gradients and autocast on inside."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.enable_grad():
            y = super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return y.relu() + 1


class MadeInside(nn.Sequential):
    """Makes numbers where autocast is off, as rotary positions are made."""

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self[0](input)
        with torch.autocast("cuda", enabled=False):
            places = torch.linspace(-1, 1, len(y))[:, None] + torch.arange(len(y))[:, None]
        return self[1](y * places)  # type: ignore[no-any-return]


class InPlace(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        y.relu_().add_(1)
        return y.view(-1)


class Branching(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if input.sum() > 0 else input


def operators(traced: gp.TracedModel) -> list[str]:
    return [str(node.target) for node in traced.graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("module", [Modes(3, 4), InPlace(3, 4)], ids=["modes", "in place"])
def test_the_graph_is_flat_and_functional(module: nn.Module) -> None:
    traced = gp.trace(module, (X,))
    assert torch.equal(traced.graph(X), module(X))
    assert not any("wrap" in name or name.split(".")[-2].endswith("_") for name in operators(traced))


def test_what_is_made_in_another_mode_is_made_anew() -> None:
    module = MadeInside(nn.Linear(3, 8), nn.Linear(8, 2))
    assert gp.prune(module, (X,), ratio=0.3).report is not None


def test_views_become_reshapes() -> None:
    assert "aten.view.default" not in operators(gp.trace(InPlace(3, 4), (X,)))


class Unused(nn.Module):
    """Of what it computes beside its output nobody sees anything."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.other, self.down = nn.Linear(3, 8), nn.Linear(8, 5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        y.softmax(-1).log()
        self.other(y).softmax(-1)
        return self.down(y)  # type: ignore[no-any-return]


def test_what_nobody_uses_freezes_nothing_but_its_weights_go_on_fitting() -> None:
    traced = gp.trace(Unused(), (X,))
    assert [name.split(".")[1] for name in operators(traced)] == ["linear"] * 3
    compact = gp.prune(Unused(), (X,), ratio=0.5)
    assert compact.module_error is None
    width = compact.module.get_parameter("up.weight").shape[0]
    assert 0 < width < 8
    assert compact.module.get_parameter("other.weight").shape[1] == width


@pytest.mark.parametrize("family", ["llama", "llama with adapters", "gpt2", "bert", "t5", "mixtral"])
def test_the_graph_computes_what_the_model_computes(family: str) -> None:
    model, inputs = tiny(family)
    graph = gp.trace(model, kwargs=inputs).graph
    with torch.no_grad():
        expected, found = model.eval()(**inputs, use_cache=False), graph(**inputs)
    assert torch.allclose(expected.logits, found.logits, atol=1e-5)


def test_the_module_stays_as_it_was() -> None:
    model = tiny_llama(peft=True)
    model.train()
    inner: Any = model.get_submodule("base_model.model.model")
    inner.layers[0].eval()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    modes = {name: module.training for name, module in model.named_modules()}
    tensors = {name: (p, p.grad, p.requires_grad) for name, p in model.named_parameters()}
    gp.trace(model, kwargs={"input_ids": tokens()})
    assert inner.config.use_cache
    assert modes == {name: module.training for name, module in model.named_modules()}
    for name, parameter in model.named_parameters():
        before, grad, requires_grad = tensors[name]
        assert parameter is before
        assert parameter.grad is grad
        assert parameter.requires_grad == requires_grad


def test_strided_views_are_taken_in_the_order_of_memory() -> None:
    """Two windows over the rows of ``[rows, heads, dims]`` seen as ``[heads, rows, dims]``."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            heads = self.up(x).view(6, 3, 4).transpose(0, 1)
            windows = heads.as_strided([3, 2, 4, 4], [4, 24, 12, 1])
            return self.down(windows.sum((1, 2)).flatten())

    traced = gp.trace(Windows(), torch.randn(6, 3))
    assert {group.units for group in traced.groups.prunable} == {3, 4}
    compact = gp.rewrite(traced, random_plan(traced, half=True), module_form=False)
    assert compact.report is not None
    assert compact.graph.up.weight.shape == (2, 3)


def test_pairs_that_would_begin_at_an_odd_place_are_still_complex_numbers() -> None:
    class Rotated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 10), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            plain, turned = self.up(x).split([6, 4], -1)
            pairs = torch.view_as_complex(turned.reshape(-1, 2, 2)) * torch.polar(torch.ones(2), torch.ones(2))
            return self.down(torch.cat([plain.relu(), torch.view_as_real(pairs).flatten(1)], -1))

    traced = gp.trace(Rotated(), torch.randn(6, 3))
    [group] = [each for each in traced.groups.prunable if each.units == 6]
    plan = gp.PruningPlan(traced.fingerprint, {group.name: gp.GroupPlan(6, (0, 2, 3))})
    assert gp.rewrite(traced, plan, module_form=False).graph.up.weight.shape == (7, 3)


def test_the_module_stays_as_it_was_when_it_can_not_be_captured() -> None:
    module = Branching(3, 3).train()
    with pytest.raises(CaptureError, match=r"^Branching can't be captured: its forward "):
        gp.trace(module, (X,))
    assert module.training


def test_parameters_are_shared_with_the_module() -> None:
    module = nn.Linear(3, 4)
    traced = gp.trace(module, X)
    assert traced.program.tensor("weight") is module.weight
    assert dict(traced.graph.named_parameters())["weight"] is module.weight


def test_inputs_that_are_not_given() -> None:
    assert gp.trace(tiny_llama()).kwargs["input_ids"].shape == (2, 13)
    with pytest.raises(CaptureError, match=r"^Linear needs example inputs: gp\.trace\(model, args=\(…,\), kwargs="):
        gp.trace(nn.Linear(3, 4))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_inputs_in_every_form(device: str) -> None:
    module, x = nn.Linear(3, 4, device=device), X.to(device)
    for traced in (
        gp.trace(module, x),
        gp.trace(module, (x,)),
        gp.trace(module, {"input": x}),
        gp.trace(module, kwargs={"input": x}),
    ):
        assert operators(traced) == ["aten.linear.default"]


def test_a_part_of_a_model() -> None:
    model: Any = tiny_llama()
    traced = gp.trace(model.model.layers[0].mlp, torch.randn(2, 5, 48))
    assert [str(member) for member in traced.groups.prunable[0].members] == [
        "gate_proj.weight[0]: a:80",
        "up_proj.weight[0]: a:80",
        "down_proj.weight[1]: a:80",
    ]


@pytest.mark.parametrize("registered", ["at first", "without a value", "in a forward", "never"])
@pytest.mark.parametrize("run_before", [False, True])
def test_a_buffer_that_a_first_call_makes(run_before: bool, registered: str) -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.where, self.down = nn.Linear(3, 8), nn.Linear(1, 8), nn.Linear(8, 2)
            if registered in ("at first", "without a value"):
                places = torch.zeros(1, 1) if registered == "at first" else None
                self.register_buffer("places", places, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            known = getattr(self, "places", None)
            if known is None or known.shape[0] != x.shape[0]:
                places = torch.arange(float(x.shape[0]))[:, None]
                if registered == "in a forward":
                    self.register_buffer("places", places, persistent=False)
                self.places = places
            return self.down((self.up(x) + self.where(self.places)).relu())  # type: ignore[no-any-return]

    x, module = torch.rand(4, 3), Places()
    if run_before:
        module(x)
    traced = gp.trace(module, x)
    torch.testing.assert_close(traced.graph(x), module(x))
    report = gp.rewrite(traced, gp.select(traced, gp.score(traced), ratio=0.4)).report
    assert report is not None
    assert report.dtype == "float64"


def test_a_table_that_an_object_makes_when_it_is_first_asked_for() -> None:
    class Table:
        @functools.cached_property
        def places(self) -> Tensor:
            return torch.tensor([3, 0, 2, 1])

    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down, self.table = nn.Linear(3, 8), nn.Linear(8, 2), Table()

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x).relu())[self.table.places]  # type: ignore[no-any-return]

    x, module = torch.rand(4, 3), Looked()
    compact = gp.prune(module, (x,), ratio=0.4)
    assert compact.report is not None
    assert module(x).isfinite().all()


def test_a_cache_in_which_a_forward_keeps_what_it_computes() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)
            self.known: dict[int, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            rows = int((x * 0).exp().sum(0)[0].item())
            if rows not in self.known:
                self.known[rows] = torch.arange(float(x.shape[0]))[:, None]
            return self.down((self.up(x) * self.known[rows]).relu())  # type: ignore[no-any-return]

    x, module = torch.rand(4, 3), Cached()
    assert gp.prune(module, (x,), ratio=0.4, by_example=True).report is not None
    assert all(type(rows) is int and type(places) is Tensor for rows, places in module.known.items())


def test_a_layer_that_is_moved_to_where_it_is() -> None:
    class Moves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.up = self.up.to(x.dtype)
            return self.down(self.up(x).relu())  # type: ignore[no-any-return]

    x, module = torch.rand(4, 3), Moves()
    traced = gp.trace(module, x)
    torch.testing.assert_close(traced.graph(x), module(x))
    assert nn.Module.to.__module__ == "torch.nn.modules.module"


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_condition_over_modules_with_buffers(dynamic: bool) -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm, self.down = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            branches = (lambda a: self.norm(self.up(a)).relu(), lambda a: self.norm(self.up(a)).tanh())
            return self.down(torch.cond(x.sum() > 0, *branches, (x,)))  # type: ignore[no-any-return]

    x, module = torch.rand(4, 3), Chooses().eval()
    torch.testing.assert_close(gp.trace(module, x, dynamic=dynamic).graph(x), module(x))


@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.autocast("cpu", enabled=False)])
def test_what_is_called_in_a_mode_stands_in_its_module_though_something_is_written(mode: Any) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Sequential(nn.Linear(3, 8), nn.ReLU(inplace=True)), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            with mode():
                inside = self.inner(x)
            y = inside.clone()
            y[:, 0] = y[:, 1]
            return self.out(y), inside.sum()

    traced = gp.trace(Writes().eval(), torch.rand(4, 3))
    linear = next(node for node in traced.graph.graph.nodes if "linear" in str(node.target))
    assert list(linear.meta["nn_module_stack"].values())[-1][0] == "inner.0"

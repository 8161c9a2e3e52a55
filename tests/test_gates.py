"""The derivatives of gates, against differences of the loss when the weights behind a gate are scaled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import graphprune as gp
from graphprune.axes import atoms
from graphprune.errors import ScoreError
from graphprune.gates import Gates, find_gates
from graphprune.masks import fold

TOKENS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(1))


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        initializer_range=0.3,
    )
    model: nn.Module = LlamaForCausalLM(config).double().eval()
    return model


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=50, n_positions=16, initializer_range=0.3)
    model: nn.Module = GPT2LMHeadModel(config).double().eval()
    return model


class Convolutions(nn.Module):
    """A block whose channels go into two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 6, 3, padding=1)
        self.plain = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x).tanh())

    def rest(self, x: Tensor) -> Tensor:
        """From the channels of the first convolution on."""
        x = self.wide(x).relu() + self.plain(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def by_weights(traced: gp.TracedModel, losses: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The mean square over samples of the derivative of each gate, up to a factor, from dense gradients.

    Multiplying the weights that sum over a unit does what multiplying the unit does.
    """
    expected: dict[str, Tensor] = {}
    for loss in losses():
        traced.module.zero_grad()
        loss.backward(retain_graph=True)
        derivatives: dict[str, Tensor] = {}
        for gate in find_gates(traced):
            weight = traced.module.get_parameter(gate.parameter)
            if not gate.at_input or weight.grad is None:
                continue
            others = [dim for dim in range(weight.ndim) if dim != gate.weight_dim]
            slots = {group.atom.id: group.slot for group in traced.groups if group.slot is not None}
            axis = traced.inference.axes(gate.parameter)[gate.weight_dim]
            folded = fold(axis, (weight.detach() * weight.grad).sum(others), slots)
            for group in traced.groups.prunable:
                if group.atom.id in gate.units:
                    value = folded[group.atom.id]
                    derivatives[group.name] = derivatives.get(group.name, torch.zeros(())) + value
        for name, value in derivatives.items():
            expected[name] = expected.get(name, torch.zeros(())) + value.square()
    traced.module.zero_grad()
    return expected


def assert_proportional(scores: gp.Scores, expected: Mapping[str, Tensor]) -> None:
    """Scores are relative to each other: one factor for all."""
    factor = sum(float(scores[name].sum()) for name in expected) / sum(float(v.sum()) for v in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(scores[name].double(), value.double() * factor, rtol=1e-3, atol=1e-7)


def token_losses(model: Any, tokens: Tensor) -> Tensor:
    """The loss of each sample; transformers' own would round it to float32."""
    logits = model(input_ids=tokens).logits
    losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses.mean(1)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_fisher_is_the_mean_square_of_the_derivatives_of_the_samples(make: Callable[[], nn.Module]) -> None:
    model = make()
    traced = gp.trace(model)
    scores = gp.score(traced, "fisher", data=[TOKENS], loss=lambda module, batch: token_losses(module, batch).mean())
    expected = by_weights(traced, lambda: token_losses(model, TOKENS))
    assert {name.rpartition(":")[2] for name in expected} >= {"heads", "head_dims", "channels"}
    assert_proportional(scores, expected)


def test_a_unit_that_two_modules_take_in_has_the_sum_of_both() -> None:
    model = Convolutions()
    x, labels = torch.randn(4, 3, 6, 6).double(), torch.tensor([0, 1, 2, 3])
    traced = gp.trace(model, (x[:2],))
    scores = gp.score(
        traced, "fisher", data=[x], loss=lambda module, batch: nn.functional.cross_entropy(module(batch), labels)
    )
    units = torch.ones(4, 8, 1, 1, dtype=torch.float64, requires_grad=True)
    losses = nn.functional.cross_entropy(model.rest(model.first(x).tanh() * units), labels, reduction="sum")
    (derivatives,) = torch.autograd.grad(losses, units)
    scored = next(scores[g.name] for g in traced.groups.prunable if g.members[0].parameter == "first.weight")
    expected = derivatives[..., 0, 0].square().sum(0)
    torch.testing.assert_close(scored.double() / scored.sum(), expected / expected.sum(), rtol=1e-3, atol=1e-7)


def test_no_weight_gets_a_gradient_and_nothing_is_left_behind() -> None:
    model = llama()
    traced = gp.trace(model)
    gp.score(traced, "fisher", data=[{"input_ids": TOKENS}])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_head_dims_of_queries_and_keys_are_gated_in_each_layer() -> None:
    traced = gp.trace(llama())
    outputs = [(gate.module, gate.share) for gate in find_gates(traced) if not gate.at_input]
    layers = ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    assert outputs == [(f"{layer}.k_proj", 1.0) for layer in layers], "there are fewer keys than queries"


def test_head_dims_of_keys_have_the_derivative_that_those_of_queries_have() -> None:
    model = llama()
    traced = gp.trace(model)
    scores = gp.score(traced, "fisher", data=[TOKENS], loss=lambda module, batch: token_losses(module, batch).mean())
    expected = by_weights(traced, lambda: token_losses(model, TOKENS))
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)]
    (group,) = [
        g for g in traced.groups.cuttable if g.kind == "head_dims" and set(names) <= {m.parameter for m in g.members}
    ]
    squares = torch.zeros(())
    for loss in token_losses(model, TOKENS):
        derivatives = torch.zeros(())
        for name in names:
            weight = model.get_parameter(name)
            (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
            by_row = (weight * gradient).sum(1).detach()
            derivatives = derivatives + fold(traced.inference.axes(name)[0], by_row, {})[group.atom.id]
        squares = squares + derivatives.square()
    assert_proportional(scores, {**expected, group.name: squares})


def test_head_dims_of_queries_and_keys_have_the_derivative_of_one_gate() -> None:
    """Also where one module gives both: the gate of GPT-2's is on the queries and on the keys, each for half."""
    model = gpt2()
    traced = gp.trace(model)
    scores = gp.score(traced, "fisher", data=[TOKENS], loss=lambda module, batch: token_losses(module, batch).mean())
    fused = "transformer.h.0.attn.c_attn"
    weight, bias = model.get_parameter(f"{fused}.weight"), model.get_parameter(f"{fused}.bias")
    queries = traced.inference.axes(f"{fused}.bias")[0].terms[0]  # type: ignore[union-attr]
    group = next(g for g in traced.groups.prunable if g.kind == "head_dims" and g.atom in atoms(queries))
    expected = torch.zeros(())
    for loss in token_losses(model, TOKENS):
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert weight.grad is not None
        assert bias.grad is not None
        scaled = ((weight * weight.grad).sum(0) + bias * bias.grad).detach()
        slots = {} if group.slot is None else {group.atom.id: group.slot}
        expected = expected + fold(queries, scaled[: queries.size], slots)[group.atom.id].square()
    assert_proportional(scores, {**by_weights(traced, lambda: token_losses(model, TOKENS)), group.name: expected})


def test_a_product_is_gated_at_a_factor() -> None:
    """That the derivative is that of the product is shown above."""
    traced = gp.trace(llama())
    products, factors = find_gates(traced), find_gates(traced, at_factors=True)
    assert len(products) == len(factors)
    moved = [(gate.module, other.module) for gate, other in zip(products, factors, strict=True) if gate != other]
    layers = ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert moved == [(f"{layer}.down_proj", f"{layer}.up_proj") for layer in layers]


def test_a_product_that_something_else_takes_in_is_gated_itself() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.row = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 6)
            self.c, self.d = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            both, shared = self.a(x) * self.b(x), self.row(y) * x.mean(1, keepdim=True)
            result: Tensor = self.c(both) + self.d(shared) + both.sum()
            return result

    traced = gp.trace(Product(), (torch.randn(2, 4), torch.randn(1, 4)))
    assert [(gate.module, gate.at_input) for gate in find_gates(traced, at_factors=True)] == [("c", True), ("d", True)]


def test_a_module_that_returns_more_than_a_tensor_is_gated() -> None:
    class WithNone(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            return super().forward(x), None

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(4, 6), WithNone(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.c(self.a(x) * self.b(x)[0])
            return y

    model, x, labels = Model(), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    traced = gp.trace(model, (x,))
    assert [(gate.module, gate.at_input) for gate in find_gates(traced, at_factors=True)] == [("b", False)]

    def losses(reduction: str) -> Tensor:
        return nn.functional.cross_entropy(model(x), labels, reduction=reduction)

    scores = gp.score(traced, "fisher", data=[x], loss=lambda module, batch: losses("mean"))
    assert_proportional(scores, by_weights(traced, lambda: losses("none")))


def test_what_can_be_cut_without_slots_is_scored_without_them() -> None:
    traced = gp.trace(llama())
    data = [{"input_ids": TOKENS}]
    scores = gp.score(traced, "fisher", data=data, slots=False)
    assert all(scores[group.name].shape == (group.units,) for group in traced.groups.prunable)


def test_without_data_there_is_nothing_to_see() -> None:
    message = (
        "the criterion 'fisher' needs the gradients of activations, and there is nothing to get them from: "
        "give gp.score data, batches to run the model on"
    )
    with pytest.raises(ScoreError) as caught:
        gp.score(gp.trace(llama()), "fisher")
    assert str(caught.value) == message


def test_a_module_that_is_called_otherwise_than_traced_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    gates = Gates(gp.trace(model, (torch.randn(2, 4),)))
    with gates.watching(), pytest.raises(ScoreError) as caught:
        model[2](torch.randn(2, 5))
    assert str(caught.value) == "2 is not called as it was traced: its input or output must hold 6 units"


class ScoredByAVector(nn.Module):
    """Units that a vector takes in, which is no weight of a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.vector = nn.Linear(4, 6), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.up(x)) @ self.vector


def test_units_that_a_vector_takes_in() -> None:
    model = ScoredByAVector()
    x = torch.randn(5, 4)
    traced = gp.trace(model, x)
    scores = gp.score(traced, "fisher", data=[{"x": x}], loss=lambda module, batch: module(**batch).square().mean())
    gate = torch.ones(6, requires_grad=True)
    loss = (torch.relu(model.up(x)) @ (model.vector.detach() * gate)).square().mean()
    (derivative,) = torch.autograd.grad(loss, gate)
    (found,) = scores.values()
    torch.testing.assert_close(found, derivative.square() / derivative.square().sum())

"""Weights that make up for removed units."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphprune as gp
from graphprune.errors import ScoreError
from graphprune.passes.slice_parameters import parameter_masks
from tests.models import tiny, tiny_llama, tokens
from tests.test_compensation import outputs

BATCHES = [{"input_ids": tokens(4, 32, seed=seed)} for seed in range(4)]


@pytest.mark.parametrize(
    ("family", "path"), [("llama", "model.layers.1.mlp.down_proj"), ("gpt2", "transformer.h.1.mlp.c_proj")]
)
def test_a_layer_comes_nearer_to_what_it_gave(family: str, path: str) -> None:
    model, example = tiny(family)
    traced = gp.trace(model, kwargs=example)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = gp.score(traced, "magnitude")
    plan = gp.select(traced, scores, ratio=0.05, only=path.rpartition(".")[0])
    dense, plain = outputs(model, path), outputs(gp.rewrite(traced, plan).module, path)
    other, carried = gp.reconstruct(traced, plan, BATCHES)
    compact = gp.rewrite(other, carried)
    assert compact.module_error is None
    # on batches that it has not seen
    assert (outputs(compact.module, path) - dense).norm() < 0.9 * (plain - dense).norm()
    assert compact.parameter_count == gp.rewrite(traced, plan).parameter_count
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("peft", [False, True])
def test_the_weights_are_those_of_ridge_regression(peft: bool) -> None:
    """With sqrt(ridge)-scaled rows put below the inputs, as ridge regression is written as plain least squares."""
    traced = gp.trace(tiny_llama(peft=peft, tied=not peft), kwargs=BATCHES[0])
    model: Any = traced.module
    prefix, inside = ("base_model.model.", ".base_layer") if peft else ("", "")
    group = next(g for g in traced.groups.prunable if "layers.1.mlp" in g.name)
    constraints = gp.Constraints(fixed={group.name: group.units // 2})
    plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.3, constraints=constraints, of="base")
    name = f"{prefix}model.layers.1.mlp.down_proj"
    caught: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: caught.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for batch in BATCHES:
            model.eval()(**batch)
    handle.remove()
    other, _ = gp.reconstruct(traced, plan, BATCHES, ridge=0.5)
    kept = parameter_masks(traced.inference, plan.keep(traced))[f"{name}{inside}.weight"][1]
    assert kept is not None
    x = torch.cat(caught).double()
    weight = model.get_parameter(f"{name}{inside}.weight").detach().double()
    lost = weight[:, ~kept]
    if peft:
        layer = model.get_submodule(name)
        factors = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
        lost = lost + factors.detach().double()[:, ~kept]
    inputs, targets = x[:, kept], x[:, ~kept] @ lost.T
    penalty = torch.diag((0.5 * inputs.square().sum(0)).sqrt())
    update = torch.linalg.lstsq(
        torch.cat([inputs, penalty]), torch.cat([targets, targets.new_zeros(len(penalty), targets.shape[1])])
    )
    found = other.module.get_parameter(f"{name}{inside}.weight").detach().double()
    torch.testing.assert_close(found[:, kept], weight[:, kept] + update.solution.T, rtol=1e-3, atol=1e-5)
    assert torch.equal(found[:, ~kept], weight[:, ~kept])


def test_there_must_be_data() -> None:
    traced = gp.trace(tiny_llama(), kwargs=BATCHES[0])
    plan = gp.select(traced, gp.score(traced, "magnitude"), ratio=0.2)
    with pytest.raises(ScoreError) as caught:
        gp.reconstruct(traced, plan, [])
    assert str(caught.value) == "there are no batches to reconstruct on: data is empty"

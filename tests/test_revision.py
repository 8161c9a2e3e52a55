"""The digest of weights: that of the dense weights as they were traced, however they are stored or wrapped."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.errors import PlanError
from graphprune.revision import positions, stored_digest, weights_digest
from graphprune.weight_files import read_checkpoint

from .export.tiny import add_adapters, tiny_llama, tokens, traced_llama


def test_positions() -> None:
    assert list(positions(0)) == []
    assert list(positions(3)) == [0, 1, 2]
    assert list(positions(127)) == list(range(64))
    assert list(positions(640)) == list(range(0, 640, 10))
    assert len(positions(1_000_003)) == 64


def test_other_values_in_one_parameter() -> None:
    model = tiny_llama()
    digest = weights_digest(model)
    assert digest == weights_digest(copy.deepcopy(model))
    model.model.norm.weight.data[-1] += 0.1
    assert weights_digest(model) != digest


def test_equal_values_of_parameters_that_changed_places() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    swapped = nn.ModuleDict({"a": model["b"], "b": model["a"]})
    assert weights_digest(model) != weights_digest(swapped)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_have_the_digest_of_the_model(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    """Also of the model that is loaded in float32, and of one with adapters."""
    model = tiny_llama(tied=tied, dtype=dtype)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    names = {name: name for name, _ in model.named_parameters()}
    stored = stored_digest(read_checkpoint(tmp_path), names)
    assert stored == weights_digest(model) == weights_digest(model.float())
    assert stored == weights_digest(add_adapters(model, modules_to_save=["norm"]))


def test_weights_in_another_order_in_memory() -> None:
    layer = nn.Linear(6, 70, bias=False)
    turned = nn.Linear(6, 70, bias=False)
    turned.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    assert not turned.weight.is_contiguous()
    assert weights_digest(layer) == weights_digest(turned)


def test_a_model_without_values_has_none() -> None:
    with torch.device("meta"):
        model = tiny_llama()
    assert weights_digest(model) is None
    plan = gp.PruningPlan("7c1f", {})
    plan.check_weights("09d3")
    gp.PruningPlan("7c1f", {}, weights="09d3").check_weights(None)


def test_plans_keep_it() -> None:
    """What a plan becomes on its way (JSON, merged adapters, an earlier plan) is for the weights that were first."""
    adapted = traced_llama(add_adapters(tiny_llama()))
    assert adapted.weights == weights_digest(tiny_llama())
    plan = gp.select(adapted, gp.score(adapted, "magnitude"), ratio=0.2)
    assert plan.weights == adapted.weights
    assert gp.PruningPlan.from_json(plan.to_json()) == plan
    _, merged = gp.merge_adapters(adapted, plan)
    assert merged.weights == plan.weights
    with torch.no_grad():
        for parameter in adapted.module.parameters():
            parameter.mul_(0.5)
    again = traced_llama(adapted.module)
    assert again.weights != adapted.weights
    assert gp.select(again, gp.score(again, "magnitude"), ratio=0.4, within=plan).weights == plan.weights
    with pytest.raises(PlanError, match="the plan was made for weights with digest"):
        plan.check_weights(again.weights)


def test_training_keeps_it() -> None:
    """Masking puts zeros into the dense weights, and training changes them: the plan is for what was there before."""
    model = tiny_llama()
    digest = weights_digest(model)
    pruner = gp.Pruner(gp.trace(model), gp.PruneConfig(ratio=0.3, criterion="magnitude", interval=1, steps=3), 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in (1, 2, 3):
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        with pruner.step(step):
            optimizer.step()
        optimizer.zero_grad()
    assert pruner.plan.groups
    assert pruner.plan.weights == digest != weights_digest(model)
    resumed = gp.Pruner(gp.trace(model), pruner.config, 3)
    resumed.restore(pruner.plan, pruner.scores)
    assert resumed.plan.weights == digest

"""Weights that make up, at each pruning, for the units that go with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import graphprune as gp
from graphprune.errors import TrainingInterrupted
from graphprune.gates import find_gates
from graphprune.reconstruction import RIDGE
from graphprune.scores import Scores
from graphprune.training.finetune import TuneProgress, TuneResult, prune_while_tuning
from graphprune.training.making_up import PREDICTING, inputs_of_units, parts_in_outputs, parts_unpredicted

from .test_finetune import assert_same
from .tiny import random_windows, tiny_llama, tiny_with_adapters

CONFIG = gp.PruneConfig(
    ratio=0.5, steps=12, interval=2, decay=0.5, make_up="weights", lora_rank=4, learning_rate=1e-2, save_steps=20
)


DOWN = "base_model.model.model.layers.1.mlp.down_proj.base_layer.weight"


def two_steps(model: Any, pruner: gp.Pruner) -> Iterator[None]:
    """A loop of two steps that leave the weights as they are, but for what is pruned; goes on after each."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    pruner.watch(1)
    for number, windows in enumerate(random_windows(16).split(8), start=1):
        model(input_ids=windows, labels=windows).loss.backward()
        with pruner.step(number):
            optimizer.step()
        optimizer.zero_grad()
        yield


def test_the_weights_are_those_of_ridge_regression() -> None:
    """In a loop of two steps that both prune, on inputs of both: the first counts for half."""
    model: Any = tiny_with_adapters()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    config = replace(CONFIG, interval=1, kinds=("channels",), ratio=0.3, cooldown=0.0, warmup=0.0)
    pruner = gp.Pruner(gp.trace(model), config, 2)
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(0, -2)))

    def effective() -> Tensor:
        return layer.get_delta_weight("default").detach() + layer.base_layer.weight.detach()  # type: ignore[no-any-return]

    weights = [effective()]
    for _ in two_steps(model, pruner):
        weights += [layer.base_layer.weight.detach().clone(), effective()]
    kept = pruner.plan.masks(pruner.traced)[DOWN][1]
    assert kept is not None
    before = weights[1].any(0)
    goes = before & ~kept
    assert goes.any()
    scaled = torch.cat([seen[0] * 0.5**0.5, seen[1]]).double()
    inputs, targets = scaled[:, kept], scaled[:, goes] @ weights[2].double()[:, goes].T
    penalty = torch.diag((RIDGE * inputs.square().sum(0)).sqrt())
    rows = torch.cat([inputs, penalty])
    update = torch.linalg.lstsq(rows, torch.cat([targets, targets.new_zeros(len(penalty), targets.shape[1])]))
    expected = weights[1].double()[:, kept] + update.solution.T
    torch.testing.assert_close(weights[3].double()[:, kept], expected, rtol=1e-3, atol=1e-5)
    assert not weights[3][:, ~kept].any()


@pytest.mark.slow
@pytest.mark.parametrize("compaction", [None, 0.2])
def test_a_run_that_is_interrupted_goes_on_to_the_same(compaction: float | None, tmp_path: Path) -> None:
    config = replace(CONFIG, compaction=compaction)

    def run(name: str, **options: Any) -> TuneResult:
        return prune_while_tuning(tiny_llama(), None, random_windows(), config, tmp_path / name, **options)

    def stop(now: TuneProgress) -> None:
        if now.step == 7:
            raise KeyboardInterrupt

    expected = run("whole")
    with pytest.raises(TrainingInterrupted):
        run("interrupted", progress=stop)
    for _ in range(2):  # from the middle, and from the end, where there is nothing to do
        assert_same(run("interrupted", resume=True), expected)
    base = dict(tiny_llama().named_parameters())
    compact = expected.compact(adapters="merge")
    assert compact.report is not None
    kept = expected.traced.module.get_parameter("base_model.model.model.layers.0.mlp.down_proj.base_layer.weight")
    assert not torch.isin(kept[kept != 0], base["model.layers.0.mlp.down_proj.weight"]).any()


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["lora", "fisher"])
def test_a_model_that_is_cut_on_the_way_is_made_up_alike(criterion: str, tmp_path: Path) -> None:
    def run(name: str, compaction: float | None) -> TuneResult:
        config = replace(CONFIG, criterion=criterion, compaction=compaction, lora_dropout=0.0)
        return prune_while_tuning(tiny_llama(), None, random_windows(), config, tmp_path / name)

    masked, cut = run("masked", None), run("cut", 0.2)
    assert masked.plan == cut.plan
    assert masked.losses == pytest.approx(cut.losses, rel=1e-4)


@pytest.mark.parametrize("width", [1, 3])
def test_what_the_others_cannot_make_up_for(width: int) -> None:
    """It is the Schur complement: the second moment of what is left once the others have predicted a unit."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(200, 12, generator=generator), torch.randn(5, 12, generator=generator)
    x[:, :6] += x[:, 6:]
    moments = x.T @ x
    inputs = torch.randperm(12, generator=generator).reshape(-1, width)
    inputs[0, 0] = -1
    whole, left = parts_in_outputs(weight, moments, {0: inputs}, 0.1)[0]
    ridged = (moments + 0.1 * moments.diagonal().diag()).double()
    for unit, positions in enumerate(inputs):
        own = torch.zeros(12, dtype=torch.bool)
        own[positions[positions >= 0]] = True
        inner = ridged[own][:, own]
        across = ridged[own][:, ~own]
        complement = inner - across @ torch.linalg.solve(ridged[~own][:, ~own], across.T)
        taken = weight[:, own].double()
        assert float(whole[unit]) == pytest.approx(float((taken @ inner @ taken.T).trace()), rel=1e-4)
        assert float(left[unit]) == pytest.approx(float((taken @ complement @ taken.T).trace()), rel=1e-4)


@pytest.mark.parametrize("width", [1, 3])
def test_what_the_others_do_not_predict(width: int) -> None:
    """It is what ridge regression on the inputs of the other units leaves."""
    generator = torch.Generator().manual_seed(0)
    seen, x = torch.randn(200, 12, generator=generator), torch.randn(2, 7, 12, generator=generator)
    seen[:, :6] += seen[:, 6:]
    inputs = torch.randperm(12, generator=generator).reshape(-1, width)
    left = parts_unpredicted(x, seen.T @ seen, {0: inputs}, 0.1)[0].double()
    ridged = (seen.T @ seen + 0.1 * (seen.T @ seen).diagonal().diag()).double()
    for positions in inputs:
        own = torch.zeros(12, dtype=torch.bool)
        own[positions] = True
        predicted = x[..., ~own].double() @ torch.linalg.solve(ridged[~own][:, ~own], ridged[~own][:, own])
        torch.testing.assert_close(left[..., own], x[..., own].double() - predicted, rtol=1e-4, atol=1e-4)


def test_gates_are_on_what_the_others_do_not_predict() -> None:
    """Of two steps that score the second counts, with the moments of the first; half-way something is pruned."""
    model: Any = tiny_with_adapters()
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    config = replace(
        CONFIG,
        criterion="fisher",
        interval=1,
        decay=0.0,
        kinds=("channels",),
        ratio=0.2,
        warmup=0.0,
        lora_dropout=0.0,
    )
    pruner = gp.Pruner(gp.trace(model), config, 4)
    seen: list[Tensor] = []
    gradients: list[Tensor] = []

    def see(_: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach().clone())
        args[0].register_hook(gradients.append)

    layer.register_forward_pre_hook(see)
    steps = two_steps(model, pruner)
    next(steps)
    kept = pruner.plan.masks(pruner.traced)[DOWN][1]
    assert kept is not None
    assert 0 < int(kept.sum()) < len(kept)
    next(steps)
    assert pruner.scores is not None
    alive = kept.nonzero().flatten()
    x, gradient = (each.double()[..., alive] for each in (seen[1], gradients[1]))
    rows = seen[0].double().flatten(0, 1)[:, alive]
    moments = rows.T @ rows
    ridged = moments + PREDICTING * moments.diagonal().diag()
    inverse = torch.linalg.inv(ridged)
    left = x @ inverse / inverse.diagonal()
    expected = (left * gradient).sum(1).square().sum(0)
    name = next(group.name for group in pruner.traced.groups if "layers.1.mlp" in group.name)
    found = pruner.scores[name].double()[alive]
    torch.testing.assert_close(found / found.sum(), expected / expected.sum(), rtol=1e-3, atol=1e-6)
    plain = (x * gradient).sum(1).square().sum(0)
    assert not torch.allclose(plain / plain.sum(), expected / expected.sum(), rtol=0.1)


def test_the_inputs_of_units() -> None:
    """In a LLaMA with four query heads on two KV heads, each query head has its own eight inputs of o_proj."""
    traced = gp.trace(tiny_llama())
    gates = {gate.parameter: gate for gate in find_gates(traced) if gate.at_input}
    gate = gates["model.layers.0.self_attn.o_proj.weight"]
    kinds = {
        traced.groups.by_atom[atom].kind: inputs
        for atom, inputs in inputs_of_units(gate, traced.groups.slots).items()
        if atom in gate.units
    }
    assert kinds["heads"].tolist() == torch.arange(32).reshape(2, 16).tolist()
    assert kinds["repeats"].tolist() == torch.arange(32).reshape(4, 8).tolist()


def test_what_others_can_make_up_for_is_not_lost() -> None:
    """Channel 5 is twice channel 4, so either can go, as long as the other stays."""
    model: Any = tiny_with_adapters(tied=False)
    mlp = model.base_model.model.model.layers[0].mlp
    with torch.no_grad():
        mlp.gate_proj.base_layer.weight[5] = mlp.gate_proj.base_layer.weight[4]
        mlp.up_proj.base_layer.weight[5] = 2 * mlp.up_proj.base_layer.weight[4]
    pruner = gp.Pruner(gp.trace(model), CONFIG, 4)
    assert pruner.making_up is not None
    with pruner.making_up.watching():
        model(input_ids=random_windows())
    pruner.making_up.take()
    group = next(name for name in (each.name for each in pruner.traced.groups) if "layers.0.mlp" in name)
    alike = {name: torch.ones_like(score) for name, score in gp.score(pruner.traced, "magnitude").items()}
    lost = pruner.making_up.lost(Scores("alike", alike), {}, {})[group]
    assert sorted(lost.argsort()[:2].tolist()) == [4, 5]

"""Scores against the dense formulas, weight by weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.criteria import CRITERIA, Criterion, Flap, Lora, Magnitude, Random, Taylor, WandaSp, criterion_by_name
from graphprune.criteria.taylor import Level, Order
from graphprune.errors import PlanError, ScoreError
from graphprune.kinds import choose_groups
from graphprune.matrices import Matrix, matrices
from graphprune.scores import Scores
from graphprune.traced import TracedModel
from tests.models import tiny_llama, tokens
from tests.positions import positions

BATCH = {"input_ids": tokens(4, 16, seed=1)}
ORDERS: tuple[Order, ...] = ("first", "second", "mixed")
TAYLOR: list[tuple[Order, Level]] = [(order, "element") for order in ORDERS] + [(order, "vector") for order in ORDERS]


@pytest.fixture
def llama() -> TracedModel:
    return gp.trace(tiny_llama(peft=True, tied=False, num_hidden_layers=1), kwargs={"input_ids": tokens()})


def backward(traced: TracedModel) -> None:
    """Gradients of the loss on the batch, in the adapters."""
    traced.module.eval()
    traced.module(**BATCH, labels=BATCH["input_ids"]).loss.backward()


def dense(matrix: Matrix) -> tuple[Tensor, Tensor | None]:
    """``W' = W + s·B·A`` and ``Ĝ = ∂B·A + B·∂A − ∂B·∂A``, both whole."""
    weight, gradient = matrix.weight.detach().clone(), None
    for adapter in matrix.adapters:
        a, b = adapter.a.detach(), adapter.b.detach()
        weight = weight + adapter.scale * b @ a
        if adapter.a.grad is not None and adapter.b.grad is not None:
            gradient = adapter.b.grad @ a + b @ adapter.a.grad - adapter.b.grad @ adapter.a.grad
    return weight, gradient


def importance(matrix: Matrix, criterion: str, order: int = 2) -> Tensor | None:
    """The importance of each weight of a matrix."""
    weight, gradient = dense(matrix)
    match criterion:
        case "magnitude":
            return weight.abs() ** order
        case "random":
            return Random().importance(matrix, slice(None))
        case _ if matrix.is_adapter:
            assert matrix.weight.grad is not None
            change = (matrix.weight * matrix.weight.grad).detach()
            return change.square() if criterion == "paper" else change.abs()
        case _ if gradient is None:
            return None
        case "paper":
            return (gradient * weight).square()
        case "released":
            return (gradient * weight).abs()
    raise ValueError(criterion)


def brute(traced: TracedModel, criterion: str, *, slots: bool = True, **options: Any) -> dict[str, Tensor]:
    """Every weight's importance, added to the units that it leaves with, one position after the other."""
    found: dict[str, Tensor] = {}
    values = {name: (m, importance(m, criterion, **options)) for name, m in matrices(traced).items()}
    for group in traced.groups:
        if group.status == "frozen":
            continue
        total = torch.zeros(group.slot.size if slots and group.slot else 1, group.units)
        for member in group.members:
            sums = torch.zeros_like(total)
            matrix, weights = values.get(member.parameter, (None, None))
            if matrix is None or weights is None or (group.kind == "lora_rank") != matrix.is_adapter:
                continue
            for units, piece in zip(positions(member.axis), weights.movedim(member.dim, 0), strict=True):
                for atom, unit in units:
                    if atom == group.atom.id:
                        slot = dict(units)[group.slot.id] if slots and group.slot else 0
                        sums[slot, unit] += piece.sum()
            # the released code divides what each matrix says by its norm, before it adds the matrices
            total += sums / sums.norm() if criterion == "released" else sums
        found[group.name] = total if slots and group.slot else total[0]
    return found


def same(scores: Scores, expected: dict[str, Tensor]) -> None:
    assert scores.keys() == expected.keys()
    for name, value in scores.items():
        assert value.shape == expected[name].shape
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-7 * float(expected[name].abs().max())), name


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("order", [1, 2])
def test_magnitude(llama: TracedModel, order: int, slots: bool) -> None:
    same(gp.score(llama, "magnitude", order=order, slots=slots), brute(llama, "magnitude", order=order, slots=slots))


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_lora(llama: TracedModel, variant: str, slots: bool) -> None:
    backward(llama)
    scores = gp.score(llama, "lora", variant=variant, slots=slots)
    expected = brute(llama, variant, slots=slots)
    same(scores, {name: value for name, value in expected.items() if name in scores})
    assert scores.keys() >= {group.name for group in llama.groups.prunable}


def test_random(llama: TracedModel) -> None:
    scores = gp.score(llama, "random")
    same(scores, brute(llama, "random"))
    same(gp.score(llama, "random"), dict(scores))
    other = gp.score(llama, "random", seed=1)
    assert not any(torch.equal(other[name], value) for name, value in scores.items())


@pytest.mark.parametrize("kinds", [["heads"], ["head_dims", "channels"], ["statistics"], ["lora_rank", "repeats"]])
def test_kinds_have_the_same_scores_alone(llama: TracedModel, kinds: list[str]) -> None:
    backward(llama)
    criteria: list[Criterion] = [Lora(), Lora("released"), Magnitude(), Taylor(), WandaSp(), Flap()]
    for criterion in [*criteria, criterion_by_name("fisher")]:
        whole, alone = (gp.score(llama, criterion, data=[BATCH], kinds=each) for each in (None, kinds))
        wanted = {group.name for group in choose_groups(llama, kinds)}
        assert alone
        same(alone, {name: value for name, value in whole.items() if name in wanted})


def test_other_kinds_are_not_looked_at(llama: TracedModel) -> None:
    seen: set[str] = set()

    class Watching(Magnitude):
        def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
            seen.add(next((part for part in matrix.name.split(".") if part.endswith("_proj")), matrix.name))
            return super().importance(matrix, rows)

    gp.score(llama, Watching(), kinds=["channels"])
    assert seen == {"gate_proj", "up_proj", "down_proj"}
    with pytest.raises(
        ScoreError, match=r"^the scores have nothing for .*: score the model that is pruned, with all kinds"
    ):
        gp.select(llama, gp.score(llama, kinds=["channels"]), ratio=0.1)
    with pytest.raises(
        PlanError, match=r"^no group of this model is of kind 'head'; there are channels, head_dims, heads"
    ):
        gp.score(llama, kinds=["head"])


def test_blocks_do_not_change_a_score(llama: TracedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    criteria: list[Criterion] = [Lora(), Lora("released"), Magnitude(1), Random(), *(Taylor(o, v) for o, v in TAYLOR)]
    criteria += [WandaSp(), Flap()]
    whole = [dict(gp.score(llama, criterion, data=[BATCH])) for criterion in criteria]
    monkeypatch.setattr("graphprune.matrices.BLOCK", 1000)
    for criterion, expected in zip(criteria, whole, strict=True):
        same(gp.score(llama, criterion, data=[BATCH]), expected)


def test_batches_are_averaged_and_leave_no_trace(llama: TracedModel) -> None:
    backward(llama)
    expected = dict(gp.score(llama, "lora"))
    before = {name: (p.grad, None if p.grad is None else p.grad.clone()) for name, p in llama.module.named_parameters()}
    llama.module.train()
    same(gp.score(llama, "lora", data=[BATCH, BATCH]), expected)
    assert llama.module.training
    for name, parameter in llama.module.named_parameters():
        grad, copied = before[name]
        assert parameter.grad is grad
        assert grad is None or torch.equal(grad, copied)


def test_no_gradient_of_a_weight_is_made(llama: TracedModel) -> None:
    class Watching(Criterion):
        name, needs = "watching", frozenset({"lora_gradients"})

        def importance(self, matrix: Matrix, rows: slice) -> Tensor:
            base = [p for name, p in llama.module.named_parameters() if ".lora_" not in name]
            assert all(p.grad is None and not p.requires_grad for p in base)
            return matrix.weight.detach()[rows].abs()

    gp.score(llama, Watching(), data=[BATCH])


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        ("lora", {}, "have no gradients: run a backward pass first, or give gp.score data to run one on"),
        ("lora", {"data": []}, "there are no batches to score on: data is empty"),
        ("taylor", {"data": []}, "there are no batches to score on: data is empty"),
        ("flap", {"data": []}, "there are no batches to score on: data is empty"),
        (
            "taylor",
            {},
            "the criterion 'taylor' needs dense gradients, and there is nothing to get them from: give gp.score data, "
            "batches to run the model on",
        ),
        (
            "wanda_sp",
            {},
            "the criterion 'wanda_sp' needs activations, and there is nothing to get them from: give gp.score data, "
            "batches to run the model on",
        ),
        ("taylor", {"order": "third"}, "order must be one of first, second, mixed for taylor, not 'third'"),
        (
            "best",
            {},
            f"there is no criterion 'best': use one of {', '.join(sorted(CRITERIA))}, or pass an object",
        ),
        ("magnitude", {"seed": 3}, "the criterion 'magnitude' can't be made with {'seed': 3}: "),
    ],
)
def test_what_is_missing(llama: TracedModel, criterion: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoreError) as caught:
        gp.score(llama, criterion, **options)
    assert message in str(caught.value)


def test_a_model_without_adapters() -> None:
    traced = gp.trace(tiny_llama(num_hidden_layers=1), kwargs={"input_ids": tokens()})
    with pytest.raises(
        ScoreError, match=r"^the criterion 'lora' says nothing about .* and 4 more groups: put adapters on its"
    ):
        gp.score(traced, "lora")


def test_values_that_are_not_finite(llama: TracedModel) -> None:
    with torch.no_grad():
        next(p for name, p in llama.module.named_parameters() if "gate_proj.base_layer" in name)[3, 3] = float("nan")
    with pytest.raises(ScoreError, match=r"^the scores of .* are not finite: check the loss and the weights"):
        gp.score(llama, "magnitude")
    with pytest.raises(ScoreError, match="the loss on a batch is nan: check the data and the weights"):
        gp.score(llama, "lora", data=[BATCH])
    assert not any(p.requires_grad and p.grad is not None for p in llama.module.parameters())


def test_a_model_that_returns_no_loss() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    traced = gp.trace(module, torch.ones(2, 3))
    with pytest.raises(ScoreError, match="Sequential returns no loss on a batch with input"):
        gp.score(traced, "lora", data=[{"input": torch.ones(2, 3)}])


def test_moving_average() -> None:
    old, new = Scores("lora", {"g": torch.tensor([1.0, 0.0])}), Scores("lora", {"g": torch.tensor([0.0, 2.0])})
    assert torch.allclose(old.moving_average(new, 0.9)["g"], torch.tensor([0.9, 0.2]))

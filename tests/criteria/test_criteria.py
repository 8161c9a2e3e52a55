"""Every criterion on every kind of model, and criteria of one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import graphprune as gp
from graphprune.criteria import CRITERIA, Aggregation, Criterion, Need
from graphprune.matrices import Matrix
from tests.models import PROJECTIONS, tiny_llama, tokens, with_adapters

DOCS = Path(__file__).resolve().parents[2] / "docs" / "criteria.md"
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("magnitude", {"order": 1}),
    ("magnitude", {"order": 2}),
    ("random", {}),
    ("lora", {"variant": "paper"}),
    ("lora", {"variant": "released"}),
    ("taylor", {"order": "first"}),
    ("taylor", {"order": "second"}),
    ("taylor", {"order": "mixed", "level": "vector"}),
    ("wanda_sp", {}),
    ("flap", {}),
]
OPTIONS += [(name, {}) for name in CRITERIA if name not in dict(OPTIONS)]


def adapted_llama() -> nn.Module:
    """Grouped-query attention, biases everywhere, and two active adapters on each projection."""
    model: Any = with_adapters(tiny_llama(num_hidden_layers=1, tied=False, attention_bias=True, mlp_bias=True))
    model.add_adapter("other", LoraConfig(r=3, lora_alpha=3, target_modules=PROJECTIONS))
    model.base_model.set_adapter(["default", "other"])
    for name, parameter in model.named_parameters():
        if "bias" in name or "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model  # type: ignore[no-any-return]


def adapted_convolutions() -> nn.Module:
    """Convolutions, of which some have groups, with a norm between them, and adapters on those that can have some."""
    from peft import get_peft_model

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 12, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(12, 5, 3),
    )
    adapted: nn.Module = get_peft_model(model, LoraConfig(r=2, target_modules=["0", "4", "6"]))  # type: ignore[arg-type]
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return adapted


@pytest.fixture(scope="module")
def language() -> gp.TracedModel:
    return gp.trace(adapted_llama(), kwargs={"input_ids": tokens()})


@pytest.fixture(scope="module")
def images() -> gp.TracedModel:
    return gp.trace(adapted_convolutions(), torch.randn(2, 3, 10, 10))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_grouped_queries_biases_and_several_adapters(
    language: gp.TracedModel, name: str, options: dict[str, Any]
) -> None:
    data = [{"input_ids": tokens(2, 16, seed=seed)} for seed in range(2)]
    scores = gp.score(language, name, data=data, **options)
    check(language, scores)
    assert {group.kind for group in language.groups.prunable} == {"heads", "repeats", "head_dims", "channels"}


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_convolutions(images: gp.TracedModel, name: str, options: dict[str, Any]) -> None:
    def loss(module: nn.Module, batch: Any) -> Tensor:
        value: Tensor = module(*batch).square().mean()
        return value

    data = [(torch.randn(2, 3, 10, 10),) for _ in range(2)]
    check(images, gp.score(images, name, data=data, loss=loss, **options))


def check(traced: gp.TracedModel, scores: gp.Scores) -> None:
    """Every group that is cut by default has a score for each unit, and they tell units apart."""
    for group in traced.groups.prunable:
        values = scores[group.name]
        assert values.shape[-1] == group.units
        assert (values > 0).all()
        assert values.std() > 0


def test_the_examples_of_the_documentation() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## A criterion of your own")[2]
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    traced = gp.trace(tiny_llama(num_hidden_layers=1), kwargs={"input_ids": tokens()})
    space: dict[str, Any] = {"traced": traced, "batches": [{"input_ids": tokens(2, 16)}]}
    exec(code, space)
    model: Any = traced.module
    mlp = model.model.layers[0].mlp
    power = gp.score(traced, space["FourthPower"]())["model.layers.0.mlp:channels"]
    expected = (mlp.gate_proj.weight**4).sum(1) + (mlp.up_proj.weight**4).sum(1) + (mlp.down_proj.weight**4).sum(0)
    assert torch.allclose(power, expected.detach(), rtol=1e-4)
    caught: list[Tensor] = []
    mlp.down_proj.register_forward_pre_hook(lambda _, args: caught.append(args[0].detach().flatten(0, -2)))
    with torch.no_grad():
        model(**space["batches"][0])
    spread = (mlp.down_proj.weight.detach().abs() * caught[0].std(0)).mean(0)
    assert torch.allclose(space["scores"]["model.layers.0.mlp:channels"], spread, rtol=1e-3)


@dataclass(frozen=True)
class Weight(Criterion):
    """The weights themselves, brought together by a rule."""

    rule: Aggregation
    name: str = "weight"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"activations"})

    @property
    def aggregation(self) -> Aggregation:
        return self.rule

    def importance(self, matrix: Matrix, rows: slice) -> Tensor | None:
        return matrix.effective(rows) if matrix.weight.ndim == 2 else None


UP = torch.tensor([[1.0, -3.0], [2.0, 2.0], [0.0, 4.0]])
DOWN = torch.tensor([[2.0, 0.0, -1.0]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Aggregation(), [-2 + 2, 4 + 0, 4 - 1]),
        (Aggregation(weights="mean"), [-1 + 2, 2 + 0, 2 - 1]),
        (Aggregation(weights="l2"), [10**0.5 + 2, 8**0.5, 4 + 1]),
        (Aggregation(weights="absolute sum"), [2 + 2, 4, 4 + 1]),
        (Aggregation(members="mean"), [0, 2, 1.5]),
        (Aggregation(members="max"), [2, 4, 4]),
        (Aggregation(members="product"), [-4, 0, -4]),
        (Aggregation(dims="inputs"), [2, 0, -1]),
        (Aggregation(dims="inputs", normalised=True), [2 / 5**0.5, 0, -1 / 5**0.5]),
        (Aggregation(dims="inputs", standardised=True), [(2 - 1 / 3) / 1.527525, -1 / 3 / 1.527525, -4 / 3 / 1.527525]),
        (Aggregation(dims="inputs", bounded=True), [5 / 6, 1 / 2, 1 / 4]),
    ],
)
def test_the_steps_of_an_aggregation(rule: Aggregation, expected: list[float]) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        module[0].weight.copy_(UP)
        module[2].weight.copy_(DOWN)
    x = torch.randn(4, 2)
    scores = gp.score(gp.trace(module, x), Weight(rule), data=[x])
    (values,) = scores.values()
    assert torch.allclose(values, torch.tensor(expected, dtype=torch.float32), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5,), (3, 4), (2, 3, 4)], ids=str)
def test_magnitudes_of_any_shape_and_type(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    matrix = Matrix("weight", nn.Parameter(torch.randn(shape).to(dtype)))
    for rows in matrix.blocks():
        weights = matrix.effective(rows)
        found, squares = (gp.criteria.Magnitude(order).importance(matrix, rows) for order in (1, 2))
        assert torch.equal(found, weights.abs())
        assert torch.equal(squares, weights.square())


def test_random_scores_of_a_model_without_values() -> None:
    with torch.device("meta"):
        model = tiny_llama(num_hidden_layers=1)
    traced = gp.trace(model, kwargs={"input_ids": tokens().to("meta")})
    assert all(not values.is_meta for values in gp.score(traced, "random").values())


def test_heads_are_means_over_their_positions() -> None:
    traced = gp.trace(tiny_llama(num_hidden_layers=1), kwargs={"input_ids": tokens()})
    model: Any = traced.module
    rule = Aggregation(weights="sum", positions="mean", dims="inputs")
    scores = gp.score(traced, Weight(rule), data=[{"input_ids": tokens()}])
    weight = model.model.layers[0].self_attn.o_proj.weight.detach()
    expected = weight.sum(0).reshape(2, 3 * 8).mean(1)
    assert torch.allclose(scores["model.layers.0.self_attn:heads"], expected, atol=1e-5)


class Chooses(nn.Module):
    """A layer in both branches of a condition, or without one."""

    def __init__(self, by_condition: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)
        self.by_condition = by_condition

    def forward(self, x: Tensor) -> Tensor:
        branches = (lambda a: self.up(a).relu(), lambda a: self.up(a).tanh())
        return self.down(torch.cond(x.sum() > 0, *branches, (x,)) if self.by_condition else branches[0](x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["wanda_sp", "flap"])
def test_activations_are_watched_in_the_branch_of_a_condition(name: str) -> None:
    x = torch.rand(16, 3, generator=torch.Generator().manual_seed(0))
    plain, chosen = (gp.score(gp.trace(Chooses(by_condition), x), name, data=[x]) for by_condition in (False, True))
    assert len(chosen) == 1
    for a, b in zip(plain.by_group.values(), chosen.by_group.values(), strict=True):
        torch.testing.assert_close(a, b)
    gp.trace(Chooses(True), x)  # what was compiled for a condition does not stand in the way of a capture

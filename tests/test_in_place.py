"""The module that was traced becomes the compact one, equal to what ``gp.rewrite`` makes beside the original."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune import in_place
from graphprune.errors import PlanError, RewriteError, VerificationError
from graphprune.passes.patch_modules import set_sizes
from tests.lockstep import random_plan
from tests.models import tiny, tiny_llama, tokens

Model = tuple[nn.Module, dict[str, Tensor]]


class Pictures(nn.Module):
    """Two convolutions with BatchNorm, fresh: its statistics are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.classes = nn.Conv2d(8, 12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.second(self.norm(self.first(x)).relu()).relu().mean((2, 3)))


def pictures() -> Model:
    torch.manual_seed(0)
    return Pictures(), {"x": torch.randn(2, 3, 9, 9)}


def adapted() -> Model:
    return tiny_llama(peft=True), {"input_ids": tokens()}


MODELS: dict[str, Callable[[], Model]] = {
    "llama": lambda: tiny("llama"),
    "gpt2": lambda: tiny("gpt2"),
    "convolutions": pictures,
    "adapters": adapted,
}


def outputs(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Any = module.eval()(**inputs)
    return found if isinstance(found, Tensor) else found.logits


def held(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict(keep_vars=True))


@pytest.mark.parametrize(
    ("name", "width"), [*((name, False) for name in MODELS), ("llama", True), ("gpt2", True), ("adapters", True)]
)
def test_it_equals_the_compact_model_beside_the_original(name: str, width: bool) -> None:
    model, inputs = MODELS[name]()
    beside = copy.deepcopy(model)
    other = gp.trace(beside, kwargs=inputs)
    kinds = ["heads", "head_dims", "channels", "statistics"] if width else None
    plan = gp.select(other, gp.score(other, "random"), ratio=0.4, kinds=kinds, scope="group", form="module")
    expected = gp.rewrite(other, plan)
    before = held(model)
    compact = gp.rewrite(gp.trace(model, kwargs=inputs), plan, in_place=True)
    assert compact.module is model
    after, wanted = held(model), held(expected.module)
    assert after.keys() == before.keys() == wanted.keys()
    for key, tensor in after.items():
        assert tensor is before[key]
        assert torch.equal(tensor, wanted[key]), key
        assert tensor.requires_grad == wanted[key].requires_grad
    assert torch.equal(outputs(compact.module, inputs), outputs(expected.module, inputs))
    assert compact.parameter_count == expected.parameter_count < compact.dense_parameters == expected.dense_parameters
    assert compact.origin is not None
    assert expected.origin is not None
    assert (compact.origin.sizes, compact.origin.config_sizes) == (expected.origin.sizes, expected.origin.config_sizes)
    assert compact.report is not None
    assert compact.report.dtype == "the model's own types"
    assert max(compact.report.module_error or 0, compact.report.graph_error or 0) < 1e-5 < compact.report.effect


def test_both_forms_share_the_parameters() -> None:
    model: Any = tiny_llama()
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    compact = gp.rewrite(traced, random_plan(traced, half=True), in_place=True)
    assert {id(each) for each in compact.graph.parameters()} == {id(each) for each in model.parameters()}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.intermediate_size == 40
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
        assert torch.allclose(compact.graph(input_ids=tokens()).logits, model(tokens(), use_cache=False).logits)


def test_what_was_held_is_freed_before_the_next_tensor_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny("llama")
    traced = gp.trace(model, kwargs=inputs)
    old: list[weakref.ref[torch.UntypedStorage]] = []
    left: list[int] = []
    cut = in_place.cut_tensor_

    def watched(tensor: Tensor, masks: Any) -> None:
        storage = tensor.untyped_storage()
        left.append(sum(each() is not None for each in old))
        old.append(weakref.ref(storage))
        del storage
        cut(tensor, masks)

    monkeypatch.setattr(in_place, "cut_tensor_", watched)
    gp.rewrite(traced, random_plan(traced, half=True), in_place=True)
    assert len(left) > 10
    assert set(left) == {0}


def test_gradients_are_cut_and_training_goes_on() -> None:
    model: Any = tiny_llama()
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    model(tokens(), labels=tokens()).loss.backward()
    gp.rewrite(traced, random_plan(traced, half=True), in_place=True)
    assert all(each.grad.shape == each.shape for each in model.parameters())
    model(tokens(), labels=tokens()).loss.backward()


def test_what_was_masked_before_is_cut_too() -> None:
    model, inputs = tiny("llama")
    traced = gp.trace(model, kwargs=inputs)
    plan = random_plan(traced, half=True)
    with torch.no_grad():
        for name, rows in plan.masks(traced).items():
            in_place.zero_masked_(traced.program.tensor(name).detach(), rows)
    expected = gp.rewrite(gp.trace(copy.deepcopy(model), kwargs=inputs), plan)
    compact = gp.rewrite(traced, plan, in_place=True)
    for (_, found), (_, wanted) in zip(compact.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_model_without_values() -> None:
    model = tiny_llama(device="meta")
    traced = gp.trace(model, kwargs={"input_ids": tokens().to("meta")})
    compact = gp.rewrite(traced, random_plan(traced, half=True), in_place=True)
    assert compact.report is None
    assert compact.module is model
    assert 0.3 < compact.ratio < 0.6


def unchanged(model: nn.Module, inputs: dict[str, Tensor], error: type[Exception], match: str, **options: Any) -> None:
    """The rewrite is refused, and leaves every tensor as it was."""
    traced = gp.trace(model, kwargs=inputs)
    plan = options.pop("plan", None) or random_plan(traced, half=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=match):
        gp.rewrite(traced, plan, in_place=True, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_plan_for_another_model_leaves_the_module_as_it_was() -> None:
    other = gp.trace(tiny_llama(kv=6, rep=1), kwargs={"input_ids": tokens()})
    plan = random_plan(other, half=True)
    unchanged(*tiny("llama"), PlanError, "the plan was made for a model with fingerprint", plan=plan)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"adapters": "merge"},
            r"^in_place=True keeps adapters: merge them into the model before it is traced$",
        ),
        (
            {"module_form": False},
            r'^in_place=True makes a module form: leave out module_form=False and statistics="masked"$',
        ),
        (
            {"statistics": "masked"},
            r'^in_place=True makes a module form: leave out module_form=False and statistics="masked"$',
        ),
    ],
    ids=["merge", "graph", "statistics"],
)
def test_what_does_not_go_together(options: dict[str, Any], match: str) -> None:
    unchanged(*adapted(), RewriteError, match, **options)


def test_a_graph_of_operators_is_refused() -> None:
    model, inputs = pictures()
    traced = gp.trace(torch.export.export(model.eval(), (), inputs))
    with pytest.raises(
        RewriteError, match=r"^a graph of operators has no modules to cut in place: use in_place=False$"
    ):
        gp.rewrite(traced, random_plan(traced, half=True), in_place=True)


def test_tensors_in_the_memory_of_each_other_are_refused() -> None:
    model: Any
    model, inputs = pictures()
    traced = gp.trace(model, kwargs=inputs)
    model.second.bias.data = model.second.weight.detach().flatten()[:12]
    before = model.second.weight.detach().clone()
    match = (
        r"^second\.weight lies in the memory of second\.bias, so they can't be cut in place one by one: use in_place=F"
    )
    with pytest.raises(RewriteError, match=match):
        gp.rewrite(traced, random_plan(traced, half=True), in_place=True)
    assert torch.equal(model.second.weight, before)


class Fixed(nn.Module):
    """A module with a size in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).view(-1, 8))


def test_a_module_without_a_compact_form_is_left_as_it_was() -> None:
    match = r"^the module form does not run \(.*\); the model is as it was; use in_place=False, or gp\.select"
    unchanged(Fixed(), {"x": torch.randn(4, 3)}, RewriteError, match)


def test_a_module_that_looks_at_values_is_left_as_it_was_too() -> None:
    class Branching(Fixed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    model, x = Branching(), torch.randn(4, 3)
    traced = gp.trace(model, args=x, by_example=True)
    with pytest.raises(RewriteError, match=r"^the module form does not run \(.*\); the model is as it was"):
        gp.rewrite(traced, random_plan(traced, half=True), in_place=True)
    assert model.up.weight.shape == (8, 3)


def test_a_module_that_was_cut_before_is_refused() -> None:
    model, inputs = tiny("llama")
    traced = gp.trace(model, kwargs=inputs)
    plan = random_plan(traced, half=True)
    gp.rewrite(traced, plan, in_place=True)
    with pytest.raises(RewriteError, match="has another shape than when the model was traced: trace it again"):
        gp.rewrite(traced, plan, in_place=True)


def test_units_that_do_not_matter_can_not_be_verified() -> None:
    class Useless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x.sum(-1, keepdim=True) + 0 * self.down(self.up(x).relu())

    model = Useless()
    traced = gp.trace(model, args=torch.randn(4, 3))
    match = (
        r"^zeroing the pruned units does not change what the model computes on the inputs that it was traced with, so "
        r"nothing could be verified: trace it with longer or more varied inputs; the model itself was changed and must "
        r"be loaded again, and can be cut with in_place=False$"
    )
    with pytest.raises(VerificationError, match=match):
        gp.rewrite(traced, random_plan(traced, half=True), in_place=True)


def test_a_wrong_slice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = in_place.cut_tensor_

    def wrong(tensor: Tensor, masks: Any) -> None:
        cut(tensor, [mask if mask is None else mask.roll(1) for mask in masks] if tensor.ndim == 1 else masks)

    monkeypatch.setattr(in_place, "cut_tensor_", wrong)
    model, inputs = pictures()
    traced = gp.trace(model, kwargs=inputs)
    match = (
        r"^the module form differs from the masked model by .*; the model itself was changed and must be loaded again"
    )
    with pytest.raises(VerificationError, match=match):
        gp.rewrite(traced, random_plan(traced, half=True), in_place=True)


def test_a_wrong_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(module: nn.Module, *rest: Any) -> None:
        set_sizes(module, *rest)
        if module is model:
            model.model.layers[0].self_attn.scaling = 9.0

    monkeypatch.setattr(in_place, "set_sizes", none)
    model: Any = tiny_llama()
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    with pytest.raises(VerificationError, match=r"^the module form differs from the masked model by .*was changed"):
        gp.rewrite(traced, random_plan(traced, half=True), in_place=True)


def test_all_in_one_call() -> None:
    model = tiny_llama()
    compact = gp.prune(model, kwargs={"input_ids": tokens()}, ratio=0.2, in_place=True)
    assert compact.module is model
    assert abs(compact.ratio - 0.2) <= 0.02

"""Verification catches what is wrong: an index, a constant, a member that was forgotten, a rule that is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import graphprune as gp
from graphprune import pipeline
from graphprune.errors import VerificationError
from graphprune.passes import verify
from graphprune.passes.recompute_shapes import recompute_shapes
from graphprune.passes.slice_parameters import DimMasks, parameter_masks, slice_tensor
from graphprune.rules import Call, Dims, Result, axis_rules
from graphprune.traced import TracedModel
from tests.lockstep import random_plan
from tests.models import tiny_llama, tokens


@pytest.fixture(scope="module")
def llama() -> TracedModel:
    return gp.trace(tiny_llama(num_hidden_layers=1), kwargs={"input_ids": tokens()})


def rewritten(traced: TracedModel, seed: int = 1) -> gp.CompactModel:
    return gp.rewrite(traced, random_plan(traced, seed, slots=False), module_form=False)


def test_what_a_report_says(llama: TracedModel) -> None:
    report = gp.rewrite(llama, random_plan(llama, half=True)).report
    assert report is not None
    assert report.dtype == "float64"
    assert report.graph_error is not None
    assert report.module_error is not None
    assert max(report.graph_error, report.module_error) < 1e-12
    assert report.effect > 0.01
    assert re.fullmatch(
        r"graph form differs by \S+, module form differs by \S+ from the masked model \(float64\); "
        r"the pruned units matter by \S+",
        str(report),
    )


def test_a_model_without_values_has_no_report() -> None:
    traced = gp.trace(tiny_llama(device="meta", num_hidden_layers=1), kwargs={"input_ids": tokens().to("meta")})
    assert rewritten(traced).report is None


def test_the_original_is_not_touched(llama: TracedModel) -> None:
    before = {name: parameter.clone() for name, parameter in llama.module.named_parameters()}
    rewritten(llama)
    assert all(torch.equal(parameter, before[name]) for name, parameter in llama.module.named_parameters())


@pytest.mark.parametrize("name", ["q_proj", "v_proj", "o_proj", "down_proj"])
def test_a_wrong_index(llama: TracedModel, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    target = next(each for each in llama.table if name in each)
    original = llama.program.tensor(target)

    def wrong(tensor: Tensor, masks: DimMasks) -> Tensor:
        shifted = [mask if mask is None else mask.roll(1) for mask in masks]
        return slice_tensor(tensor, shifted if tensor.data_ptr() == original.data_ptr() else masks)

    monkeypatch.setattr(pipeline, "slice_tensor", wrong)
    with pytest.raises(VerificationError, match=f"^{re.escape(target)} of the compact model is not the kept slice"):
        rewritten(llama)


def mutated(change: Callable[[fx.Node], bool]) -> Callable[..., fx.GraphModule]:
    """Rewriting that gets the first call wrong which ``change`` changes."""

    def rewrite(*arguments: Any) -> fx.GraphModule:
        graph = recompute_shapes(*arguments)
        assert any(change(node) for node in graph.graph.nodes), "there is nothing to get wrong"
        graph.recompile()
        return graph

    return rewrite


def operator(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def wrong_scale(node: fx.Node) -> bool:
    if operator(node) != "scaled_dot_product_attention":
        return False
    node.kwargs = {**node.kwargs, "scale": 0.5}
    return True


def no_scale(node: fx.Node) -> bool:
    if operator(node) != "scaled_dot_product_attention":
        return False
    node.kwargs = {name: value for name, value in node.kwargs.items() if name != "scale"}
    return True


def wrong_eps(node: fx.Node) -> bool:
    if operator(node) != "add" or not isinstance(node.args[1], float):
        return False
    node.args = (node.args[0], 0.1)
    return True


def wrong_rotation(node: fx.Node) -> bool:
    if operator(node) != "slice" or node.args[2] != 0 or not isinstance(node.args[3], int):
        return False
    node.args = (*node.args[:3], node.args[3] + 1)
    return True


def wrong_view(node: fx.Node) -> bool:
    if operator(node) not in ("view", "reshape") or not isinstance(node.args[1], list | tuple) or len(node.args[1]) < 4:
        return False
    sizes = list(node.args[1])
    node.args = (node.args[0], [*sizes[:-2], sizes[-1], sizes[-2]])
    return True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            wrong_scale,
            "first at aten.scaled_dot_product_attention.default in model.layers.0.self_attn",
        ),
        (no_scale, "first at aten.scaled_dot_product_attention.default in model.layers.0.self_attn"),
        (wrong_eps, "first at aten.add.Tensor in model.layers.0.input_layernorm (modeling_llama.py"),
        (wrong_rotation, "first at aten.slice.Tensor in model (modeling_llama.py"),
        (wrong_view, "the graph form does not run: "),
    ],
)
def test_a_wrong_constant(
    llama: TracedModel, monkeypatch: pytest.MonkeyPatch, change: Callable[[fx.Node], bool], message: str
) -> None:
    monkeypatch.setattr(pipeline, "recompute_shapes", mutated(change))
    with pytest.raises(VerificationError, match=re.escape(message)):
        rewritten(llama)


class Fused(nn.Module):
    """A fused projection, cut into halves that mean different things."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(3, 16), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).split([8, 8], -1)
        return self.down(gate.sigmoid() * value)


def fused() -> TracedModel:
    return gp.trace(Fused(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))


def wrong_split(node: fx.Node) -> bool:
    if operator(node) != "split_with_sizes":
        return False
    first, second = node.args[1]
    node.args = (node.args[0], [first - 1, second + 1], *node.args[2:])
    return True


def test_a_wrong_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "recompute_shapes", mutated(wrong_split))
    with pytest.raises(VerificationError, match="the graph form does not run: "):
        rewritten(fused())


Masks = Mapping[str, DimMasks]


def forgotten(masks: Masks) -> Masks:
    """One parameter keeps all of its units."""
    return {name: rows for name, rows in masks.items() if not name.endswith("up_proj.weight")}


def other_units(masks: Masks) -> Masks:
    """One parameter loses as many units as it should, but others."""
    return {
        name: [row if row is None else row.flip(0) for row in rows] if name.endswith("up_proj.weight") else rows
        for name, rows in masks.items()
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (forgotten, "the graph form does not run: The size of tensor a"),
        (other_units, "first at model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_a_missing_member(
    llama: TracedModel, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Masks], Masks], message: str
) -> None:
    for module in (pipeline, verify):
        monkeypatch.setattr(module, "parameter_masks", lambda *arguments: wrong(parameter_masks(*arguments)))
    with pytest.raises(VerificationError, match=re.escape(message)):
        rewritten(llama)


def passes_through(call: Call) -> Result:
    """Any operator taken for one that works position by position and keeps zeros."""
    return call.tensors()[0]


def cat_of_nothing(call: Call) -> Result:
    """``a, b -> c``: the result of cat taken for something new."""
    return Dims(tuple(call.fresh(size) for size in call.shape), (False,) * len(call.shape))


def not_summed(call: Call) -> Result:
    """A contraction that unifies nothing."""
    x, weight = call.tensors()[:2]
    return Dims((*x.axes[:-1], weight.axes[0]), (*x.zero[:-1], True))


class Two(nn.Module):
    """``down(f(up(x), other(x)))``"""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f = f
        self.up, self.other, self.down = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.f(self.up(x), self.other(x)))


BROKEN = [
    ("softmax", lambda a, b: a.softmax(-1), 8, passes_through, "aten.softmax.int"),
    ("layer_norm", lambda a, b: F.layer_norm(a, (8,)), 8, passes_through, ""),
    ("cumprod", lambda a, b: a.cumprod(-1), 8, passes_through, "aten.cumprod.default"),
    ("flip", lambda a, b: a.flip(-1), 8, passes_through, "aten.flip.default"),
    ("roll", lambda a, b: a.roll(1, -1), 8, passes_through, "aten.roll.default"),
    ("mean", lambda a, b: a * b.mean(-1, keepdim=True), 8, "sum", "aten.mean.dim"),
    ("exp", lambda a, b: a * b.exp().sum(-1, keepdim=True), 8, passes_through, "aten.sum.dim_IntList"),
    ("cat", lambda a, b: torch.cat([a, b], -1), 16, cat_of_nothing, ""),
    ("linear", lambda a, b: a, 8, not_summed, ""),
    ("sort", lambda a, b: a.sort(-1).values, 8, lambda call: (call.tensor("self"),) * 2, ""),
]


@pytest.mark.parametrize(("name", "f", "width", "rule", "where"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, f: Callable[..., Tensor], width: int, rule: Any, where: str
) -> None:
    monkeypatch.setitem(axis_rules, f"aten::{name}", axis_rules[f"aten::{rule}"] if isinstance(rule, str) else rule)
    traced = gp.trace(Two(f, width), torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert traced.groups.prunable, "the broken rule lets nothing be cut"
    with pytest.raises(VerificationError, match=f"the graph form (differs .* first at {where}|does not run)"):
        rewritten(traced)


def test_units_that_do_not_matter_are_refused() -> None:
    traced = gp.trace(Two(lambda a, b: (a + b) * 0), torch.ones(4, 3))
    with pytest.raises(
        VerificationError, match="zeroing the pruned units does not change what the model computes on the"
    ):
        rewritten(traced)


def test_a_fresh_adapter_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zeros of a fresh B factor would hide a wrong slice of it: the check runs on noise."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(num_hidden_layers=1), LoraConfig(r=4, target_modules=["gate_proj"]))  # type: ignore[arg-type]
    traced = gp.trace(model, kwargs={"input_ids": tokens()})

    def wrong(masks: Masks) -> Masks:
        return {
            n: [r if r is None else r.flip(0) for r in rows] if "lora_B" in n else rows for n, rows in masks.items()
        }

    for module in (pipeline, verify):
        monkeypatch.setattr(module, "parameter_masks", lambda *arguments: wrong(parameter_masks(*arguments)))
    with pytest.raises(VerificationError, match=r"first at .*gate_proj\.lora_B\.default\.weight"):
        rewritten(traced)


def test_a_branch_that_begins_as_nothing_is_checked_all_the_same() -> None:
    """The zero scale of the norm at its end would hide what is cut: the check runs on noise."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.norm = nn.Linear(3, 8), nn.Linear(8, 3), nn.LayerNorm(3)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.norm(self.down(self.up(x).relu()))  # type: ignore[no-any-return]

    traced = gp.trace(Branch(), torch.randn(4, 3))
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    assert compact.report is not None
    assert compact.report.effect > 1e-3
    assert compact.module.up.out_features == 4
    assert not any(compact.module.get_parameter(f"norm.{name}").any() for name in ("weight", "bias"))


def test_zeros_beside_what_is_cut_stay_zero_where_they_hide_nothing() -> None:
    """Noise in them would outweigh weights that are small (SAM begins at 1e-10)."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.shift = nn.Linear(3, 8), nn.Linear(8, 2), nn.Parameter(torch.zeros(2))
            nn.init.normal_(self.down.weight, std=1e-20)
            nn.init.zeros_(self.down.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x)) + self.shift  # type: ignore[no-any-return]

    traced = gp.trace(Small(), torch.randn(4, 3))
    report = gp.rewrite(traced, random_plan(traced, half=True)).report
    assert report is not None
    assert report.effect > 1e-3


def test_a_model_that_goes_another_way_while_it_is_captured_is_refused() -> None:
    traced = gp.trace(Two(lambda a, b: a + b * torch.compiler.is_compiling()), torch.ones(4, 3))
    with pytest.raises(VerificationError, match="which goes another way while it is captured"):
        rewritten(traced)


def test_a_module_form_that_is_wrong_where_weights_let_little_through_is_refused() -> None:
    """Heads are told from their dims by a number that stays: two of 4 dims would become one of 8."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
            for each in (self.q, self.k):
                nn.init.normal_(each.weight, std=3e-6)
                nn.init.zeros_(each.bias)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (each(x).unflatten(-1, (-1, 8)).transpose(0, 1) for each in (self.q, self.k, self.v))
            return self.o(((q @ k.mT) / 8**0.5).softmax(-1).matmul(v).transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    traced = gp.trace(Attention(), torch.randn(6, 32))
    plans = {group.name: gp.GroupPlan(group.units, tuple(range(group.units // 2))) for group in traced.groups.prunable}
    compact = gp.rewrite(traced, gp.PruningPlan(traced.fingerprint, plans))
    assert compact.module_form is None
    assert "the module form differs from the masked model" in str(compact.module_error)


def test_what_matters_less_than_rounding_is_not_verified_by_it() -> None:
    """The masked model is the dense one to 1e-7, and a wrong cut would be too."""
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        module[2].weight[:, 4:] *= 1e-7
    traced = gp.trace(module, torch.randn(4, 3))
    [group] = traced.groups.prunable
    report = gp.rewrite(traced, gp.PruningPlan(traced.fingerprint, {group.name: gp.GroupPlan(8, (0, 1, 2, 3))})).report
    assert report is not None
    assert report.tolerance == report.effect / 10 < 1e-7


def written_row_by_row(a: Tensor, b: Tensor) -> Tensor:
    """A tensor of the default type that is written through views of it."""
    made = torch.zeros(a.shape)
    for at, row in enumerate(a):
        made[at] = row.relu() + b[at]
    made[:, ::2].mul_(2.0)
    return made


def test_what_is_written_into_a_tensor_of_the_default_type_is_checked_in_float64() -> None:
    report = rewritten(gp.trace(Two(written_row_by_row), torch.ones(4, 3))).report
    assert report is not None
    assert report.dtype == "float64"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_of_any_type_are_checked_in_float64(dtype: torch.dtype) -> None:
    module = Two(torch.add).to(dtype)
    report = rewritten(gp.trace(module, torch.ones(4, 3, dtype=dtype))).report
    assert report is not None
    assert report.dtype == "float64"


def test_memory_that_holds_copies_of_files_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    full = psutil.virtual_memory()._replace(free=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: full)
    assert verify.fits_in_float64(1, torch.device("cpu"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: full._replace(available=0))
    assert not verify.fits_in_float64(1, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_without_room_for_float64_are_widened_call_by_call(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_free_bytes", lambda device: 0)
    module = tiny_llama().to(dtype)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    report = rewritten(gp.trace(module)).report
    assert report is not None
    assert report.dtype == "float32"
    assert report.tolerance == verify.TOLERANCE
    assert report.graph_error is not None
    assert 0 < report.graph_error < 1e-5 < report.effect
    after = module.state_dict()
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )


def test_a_wrong_cut_of_widened_halves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_free_bytes", lambda device: 0)
    traced = gp.trace(tiny_llama().to(torch.bfloat16))

    def wrong(*arguments: Any) -> dict[str, DimMasks]:
        masks = parameter_masks(*arguments)
        return {
            n: [r if r is None else r.flip(0) for r in rows] if "up_proj" in n else rows for n, rows in masks.items()
        }

    for module in (pipeline, verify):
        monkeypatch.setattr(module, "parameter_masks", wrong)
    with pytest.raises(VerificationError, match="differs from the masked model"):
        rewritten(traced)


def test_halves_that_can_only_run_in_their_own_type_have_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch looks at the type of a BatchNorm's weight before any call could be widened
    monkeypatch.setattr(verify, "_free_bytes", lambda device: 0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    report = rewritten(gp.trace(module.bfloat16(), torch.randn(2, 3, 8, 8).bfloat16())).report
    assert report is not None
    assert report.dtype == "the model's own types"
    assert report.tolerance == verify.HALF_TOLERANCE


def test_differences() -> None:
    one, nan = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert verify.difference([one], [one]) == 0
    assert verify.difference([one], [torch.ones(3)]) == float("inf")
    assert verify.difference([one], [nan]) == float("inf")
    assert verify.difference([nan], [nan]) == 0
    assert verify.difference([one / 0], [-one / 0]) == float("inf")
    assert verify.difference([torch.tensor([1.0, -3e38])], [torch.tensor([2.0, -3e38])]) == 1
    assert verify.difference([torch.ones(2, dtype=torch.int64)], [torch.zeros(2, dtype=torch.int64)]) == float("inf")
    assert verify.difference([2 * one], [3 * one]) == 0.5


def test_integers_among_the_buffers() -> None:
    class Shuffled(Two):
        def __init__(self) -> None:
            super().__init__(lambda a, b: a)
            self.register_buffer("order", torch.tensor([2, 0, 1]))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.index_select(1, self.get_buffer("order")))

    report = rewritten(gp.trace(Shuffled(), torch.ones(4, 3))).report
    assert report is not None
    assert report.dtype == "float64"


class Either(Two):
    def forward(self, x: Tensor) -> Tensor:
        branches = (lambda a, b: a.relu() + b, lambda a, b: (a.float() * b.tanh()).to(a.dtype))
        return self.down(torch.cond(x.sum() > 0, *branches, (self.up(x), self.other(x))))  # type: ignore[no-any-return]


def test_a_condition_in_halves_without_room_for_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_free_bytes", lambda device: 0)
    for _ in range(2):  # what one verification compiles does not stand in the way of the next capture
        report = rewritten(gp.trace(Either(torch.add).bfloat16(), torch.ones(4, 3).bfloat16())).report
        assert report is not None
        assert report.dtype == "float32"


def test_a_condition_is_checked_too() -> None:
    traced = gp.trace(Either(torch.add), (torch.ones(4, 3),))
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    assert compact.module_form is not None
    assert compact.report is not None
    assert compact.report.dtype == "float64"


def test_the_least_number_of_a_type_in_the_outputs() -> None:
    """It stands in the graph as a number, is another one in another type, and outweighs all that is computed."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.down(self.up(x).relu())
            return y.masked_fill(torch.eye(len(y), 4, dtype=torch.bool), torch.finfo(y.dtype).min)

    torch.manual_seed(0)
    compact = gp.prune(Masked(), (torch.randn(2, 3),), ratio=0.3)
    assert "(float64); the pruned units matter by" in str(compact.report)

"""What other pruners crash on, leave whole without a word, or get silently wrong: each is pruned and verified here, or
frozen with its reason, and what was asked for and can't be cut is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import graphprune as gp
from graphprune.errors import BudgetError, PlanError
from graphprune.plan import GroupPlan, PruningPlan
from graphprune.traced import TracedModel
from tests.lockstep import check_lockstep, random_plan
from tests.models import tiny, tiny_llama, tokens
from tests.zoo.language import LANGUAGE

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
ORDER = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])


class Two(nn.Module):
    """``down(function(up(x), side(x)))``, with ``width`` channels in and ``out`` channels out of the function."""

    def __init__(self, function: Callable[..., Tensor], out: int = 8, **parameters: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.up, self.side, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(out, 2)
        for name, shape in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        extra = [parameter for name, parameter in self._parameters.items()]
        return self.down(self.function(self.up(x), self.side(x), *extra))  # type: ignore[no-any-return]


def loses(traced: TracedModel, parameter: str) -> bool:
    """Whether a parameter is cut where half of every group is, and every value of the graph is then right."""
    plan = random_plan(traced, half=True)
    assert check_lockstep(traced, plan, 1e-5) > 0
    compact = gp.rewrite(traced, plan, module_form=False)
    return compact.graph.get_parameter(parameter).numel() < traced.program.tensor(parameter).numel()


PRUNED: dict[str, Two] = {
    "channel shuffle": Two(lambda a, b: F.channel_shuffle(a[..., None, None], 2).flatten(1) + b),
    "shuffle by view and transpose": Two(lambda a, b: a.view(-1, 2, 4).transpose(1, 2).flatten(1) + b),
    "pixel shuffle": Two(lambda a, b: F.pixel_shuffle((a + b)[..., None, None], 2).flatten(1)),
    "pixel unshuffle": Two(lambda a, b: F.pixel_unshuffle((a + b).view(-1, 2, 2, 2), 2).flatten(1)),
    "stack and sum": Two(lambda a, b: torch.stack([a, b.relu()], 1).sum(1)),
    "stack and interleave": Two(lambda a, b: torch.stack([a, b.relu()], -1).flatten(1), 16),
    "cat and split": Two(lambda a, b: torch.cat([a, b], 1).split([8, 8], 1)[1].relu() + a),
    "repeat": Two(lambda a, b: (a + b).repeat(1, 2), 16),
    "repeat_interleave": Two(lambda a, b: (a + b).repeat_interleave(2, -1), 16),
    "mean of another": Two(lambda a, b: a * b.mean(-1, keepdim=True)),
    "broadcast gate": Two(lambda a, b: a * b.sigmoid()),
    "a parameter transposed": Two(lambda a, b, w: (a + b) @ w.T, 5, w=(5, 8)),
    "a parameter in einsum": Two(lambda a, b, w: torch.einsum("bi,oi->bo", a + b, w), 5, w=(5, 8)),
    "layer scale": Two(lambda a, b, scale: a + scale * b, scale=8),
    "experts as one parameter": Two(
        lambda a, b, w: torch.einsum("bi,eio->beo", a + b, w).relu().sum(1), 5, w=(3, 8, 5)
    ),
}


@pytest.mark.parametrize("name", PRUNED)
def test_what_is_pruned(name: str) -> None:
    assert loses(gp.trace(PRUNED[name], X), "up.weight")


FROZEN: dict[str, tuple[Two, str]] = {
    "roll": (Two(lambda a, b: a.roll(2, -1) + b), "it is rolled"),
    "flip": (Two(lambda a, b: a.flip(-1) + b), "it is flipped"),
    "log_softmax": (Two(lambda a, b: a.log_softmax(-1) + b), "softmax normalises over it"),
    "gather": (Two(lambda a, b: a.gather(1, ORDER.expand(3, 8)) + b), "its positions are named by data (gather)"),
    "index": (Two(lambda a, b: a[:, ORDER] + b), "its positions are named by data (index)"),
    "sort": (Two(lambda a, b: a.sort(-1).values + b), "aten.sort.default runs along it"),
    "median": (Two(lambda a, b: b + a.median(-1, True)[0]), "aten.median.dim compares its positions"),
    "sum of exp": (
        Two(lambda a, b: b + a.exp().sum(-1, keepdim=True)),
        "sum adds up over it, and its masked units are not zero",
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_frozen_says_why(name: str) -> None:
    module, reason = FROZEN[name]
    traced = gp.trace(module, X)
    group = next(g for g in traced.groups if any(str(m).startswith("up.weight[0]") for m in g.members))
    assert group.frozen is not None
    assert re.fullmatch(re.escape(reason) + r" at \w+ \(test_peer_breaks\.py:\d+\)", group.frozen)
    assert traced.explain(group).end is not None
    assert not traced.groups.prunable or not loses(traced, "up.weight")
    with pytest.raises(PlanError) as named:
        ask(traced, constraints=gp.Constraints(fixed={group.name: 4}))
    assert str(named.value) == f"fixed names {group.name}, which can't be cut: {group.reason}"
    with pytest.raises(BudgetError) as pointed:
        ask(traced, only="up")
    assert str(pointed.value).startswith(("only='up' leaves nothing to be cut: ", "nothing of this model can be cut: "))
    assert f"{group.name} ({group.reason})" in str(pointed.value)


def ask(traced: TracedModel, **options: Any) -> PruningPlan:
    return gp.select(traced, gp.score(traced, "random"), ratio=0.1, **options)


ASKED: dict[str, tuple[Two, str]] = {
    "mean": (Two(lambda a, b: a * b.mean(-1, keepdim=True)), "mean takes a statistic over it"),
    "softmax": (Two(lambda a, b: a * b.softmax(-1).square().sum(-1, keepdim=True)), "softmax normalises over it"),
    "max": (Two(lambda a, b: a * b.amax(-1, keepdim=True)), "amax compares its positions"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_counts_only_what_is_kept_is_a_statistic(name: str) -> None:
    module, reason = ASKED[name]
    traced = gp.trace(module, X)
    group = traced.groups["side:channels"]
    assert (group.status, group.reason.partition(" at ")[0]) == ("statistics", reason)
    plan = ask(traced, kinds=["statistics"])
    assert "side:channels" in plan.groups
    assert gp.rewrite(traced, plan).module is not None


def test_a_kind_that_is_not_there_is_named() -> None:
    traced = gp.trace(Two(lambda a, b: a.log_softmax(-1) + b), X)
    with pytest.raises(BudgetError, match=r"^nothing of this model can be cut: .*softmax normalises over it"):
        ask(traced, kinds=["channels"])
    with pytest.raises(PlanError, match=r"^no group of this model is of kind 'heads'; there are channels"):
        ask(traced, kinds=["heads"])


# --- modules and weights that are used twice --------------------------------------------------------------------------


class Twice(nn.Module):
    """A module that is called twice, as a step of its own and after itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.same, self.down = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.same(self.up(x)).relu()
        return self.down(hidden + self.same(hidden).tanh())  # type: ignore[no-any-return]


def test_a_module_that_is_used_twice() -> None:
    traced = gp.trace(Twice(), X)
    assert loses(traced, "same.weight")
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    assert tuple(compact.module.get_parameter("same.weight").shape) == (4, 4)


def test_a_tied_embedding_stays_tied_when_its_width_is_cut() -> None:
    traced = gp.trace(tiny_llama(tied=True, num_hidden_layers=1), kwargs={"input_ids": tokens()})
    compact = gp.rewrite(traced, ask(traced, kinds=["statistics"]))
    module: Any = compact.module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert module.lm_head.weight.shape[1] < 48


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_states_of_layers_and_directions_side_by_side(kind: Any) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cells = kind(6, 8, num_layers=2, bidirectional=True, batch_first=True)
            self.down = nn.Linear(4 * 8, 2)

        def forward(self, x: Tensor) -> Tensor:
            states = self.cells(x)[1]
            last = states[0] if isinstance(states, tuple) else states
            return self.down(last.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    compact = gp.prune(Classifier(), torch.randn(2, 5, 6), ratio=0.5)
    assert compact.module_error is None
    assert compact.module.get_parameter("down.weight").shape[1] < 32


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind: Any) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.cells, self.down = nn.Linear(6, 8), kind(8, 10, batch_first=True), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.cells(self.up(x))[0])  # type: ignore[no-any-return]

    traced = gp.trace(Tagger(), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)))
    assert loses(traced, "cells.weight_ih_l0")
    assert loses(traced, "cells.weight_hh_l0")
    assert gp.rewrite(traced, random_plan(traced, half=True)).module_error is None


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kv", "rep"), [(2, 2), (3, 3), (4, 1)], ids=["two per KV head", "nine on three", "one each"])
def test_heads_are_cut_to_any_number(kv: int, rep: int) -> None:
    model = tiny_llama(kv=kv, rep=rep, num_hidden_layers=1, hidden_size=8 * kv * rep)
    traced = gp.trace(model, kwargs={"input_ids": tokens()})
    group = traced.groups["model.layers.0.self_attn:heads"]
    assert group.units == kv
    for kept in range(1, kv):
        plan = PruningPlan(traced.fingerprint, {group.name: GroupPlan(kv, tuple(range(kept)))})
        compact = gp.rewrite(traced, plan)
        assert compact.report is not None
        assert compact.module.get_parameter("model.layers.0.self_attn.k_proj.weight").shape[0] == 8 * kept
        assert compact.module.get_parameter("model.layers.0.self_attn.q_proj.weight").shape[0] == 8 * kept * rep


def test_head_dims_go_with_their_head_and_are_not_mixed() -> None:
    """Rows of different heads are never taken for one another: each head loses its own, as many as every other."""
    traced = gp.trace(tiny_llama(num_hidden_layers=1), kwargs={"input_ids": tokens()})
    names = [group.name for group in traced.groups.prunable if group.kind == "head_dims"]
    assert len(names) == 2
    plan = random_plan(traced, half=True)
    chosen = PruningPlan(traced.fingerprint, {name: plan.groups[name] for name in names})
    assert check_lockstep(traced, chosen, 1e-5) > 0
    graph = gp.rewrite(traced, chosen, module_form=False).graph
    assert graph.get_parameter("model.layers.0.self_attn.v_proj.weight").shape[0] == 2 * 4
    assert graph.get_parameter("model.layers.0.self_attn.q_proj.weight").shape[0] == 6 * 4


@pytest.mark.parametrize(
    ("name", "parameter", "kind"),
    [
        ("qwen3", "model.layers.0.self_attn.q_proj.weight", "heads"),  # norms of queries and keys
        ("opt", "model.decoder.layers.0.self_attn.q_proj.weight", "heads"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "heads"),  # Conv1D, fused
        ("gpt2", "transformer.h.0.mlp.c_fc.weight", "channels"),
        ("mixtral", "model.layers.0.mlp.experts.gate_up_proj", "channels"),  # experts as 3-D parameters, fused
        ("t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "heads"),  # shared by layers
    ],
)
def test_parts_of_models_that_others_leave_whole(name: str, parameter: str, kind: str) -> None:
    model, inputs = LANGUAGE[name]() if name in ("qwen3", "opt") else tiny(name)
    traced = gp.trace(model, (), inputs)
    group = next(
        g for g in traced.groups.prunable if g.kind == kind and any(m.parameter == parameter for m in g.members)
    )
    plan = random_plan(traced, half=True)
    compact = gp.rewrite(traced, PruningPlan(traced.fingerprint, {group.name: plan.groups[group.name]}))
    assert compact.report is not None
    assert compact.report.module_error is not None
    after = compact.module.get_parameter(parameter).numel()
    assert after < traced.program.tensor(parameter).numel()


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False], ids=["base frozen", "base trained"])
def test_factors_are_cut_with_their_weights_and_ranks_stay(frozen: bool) -> None:
    adapted: Any = get_peft_model(Twice(), LoraConfig(r=4, target_modules=["up", "same"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
        parameter.requires_grad_("lora_" in name or not frozen)
    traced = gp.trace(adapted, X)
    compact = gp.rewrite(traced, random_plan(traced, half=True))
    layer = compact.module.get_submodule("base_model.model.same")
    assert layer.get_parameter("base_layer.weight").shape == (4, 4)
    assert layer.get_parameter("lora_A.default.weight").shape == (4, 4)
    assert {g.status for g in traced.groups if g.kind == "lora_rank"} == {"rank"}
    assert compact.module.get_parameter("base_model.model.up.lora_A.default.weight").shape == (4, 6)

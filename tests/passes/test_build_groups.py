"""Groups of a tiny LLaMA: exactly these, each with what really leaves with one unit."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.groups import PruningGroup
from graphprune.plan import GroupPlan, PruningPlan
from graphprune.traced import TracedModel
from tests.models import tiny_llama, tokens


def traced_llama(**options: Any) -> TracedModel:
    model = tiny_llama(device="meta", **options)
    return gp.trace(model, kwargs={"input_ids": tokens().to("meta")})


def row(group: PruningGroup) -> str:
    """``path kind units params-per-unit status``, paths without what peft puts in front."""
    path = (
        (group.name.rpartition(":")[0]).replace("base_model.model.model", "model").replace("base_model.model", "model")
    )
    return f"{path} {group.kind} {group.units} {group.params_per_unit} {group.status}"


ENDS = {True: [], False: ["lm_head.weight channels 97 48 frozen"]}
LLAMA = {
    (2, 3): """
        model.layers.{n}.self_attn heads 2 3072 prunable
        model.layers.{n}.self_attn repeats 3 1536 prunable
        model.layers.{n}.self_attn head_dims 8 384 prunable
        model.layers.{n}.mlp channels 80 144 prunable""",
    (6, 1): """
        model.layers.{n}.self_attn heads 6 1536 prunable
        model.layers.{n}.self_attn head_dims 8 576 prunable
        model.layers.{n}.mlp channels 80 144 prunable""",
    (1, 4): """
        model.layers.{n}.self_attn heads 4 768 prunable
        model.layers.{n}.self_attn head_dims 8 240 prunable
        model.layers.{n}.mlp channels 80 144 prunable""",
}
WIDTH = {(2, 3): 838, (6, 1): 966, (1, 4): 742}
ROTARY = {(2, 3): 1536, (6, 1): 2304, (1, 4): 960}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("heads", LLAMA, ids=["grouped", "one for one", "one for all"])
def test_the_groups_of_llama(heads: tuple[int, int], tied: bool) -> None:
    traced = traced_llama(kv=heads[0], rep=heads[1], tied=tied)
    expected = [
        "model.embed_tokens.weight channels 97 48 frozen",
        f"model channels 48 {WIDTH[heads] + (0 if tied else 97)} statistics",
        f"model.layers head_dims 4 {ROTARY[heads]} prunable",
        *ENDS[tied],
    ]
    for layer in range(2):
        expected += [line.strip().format(n=layer) for line in LLAMA[heads].strip().splitlines()]
    assert sorted(map(row, traced.groups)) == sorted(expected)


ONE_LAYER = """
    model.embed_tokens.weight channels 97 48 frozen
    model channels 48 496 statistics
    model.layers.0.self_attn heads 2 3328 prunable
    model.layers.0.self_attn repeats 3 1664 prunable
    model.layers.0.self_attn head_dims 4 832 prunable
    model.layers.0.self_attn.q_proj lora_rank 4 96 rank
    model.layers.0.self_attn.k_proj lora_rank 4 64 rank
    model.layers.0.self_attn head_dims 8 416 prunable
    model.layers.0.self_attn.v_proj lora_rank 4 64 rank
    model.layers.0.self_attn.o_proj lora_rank 4 96 rank
    model.layers.0.mlp channels 80 156 prunable
    model.layers.0.mlp.gate_proj lora_rank 4 128 rank
    model.layers.0.mlp.up_proj lora_rank 4 128 rank
    model.layers.0.mlp.down_proj lora_rank 4 128 rank
"""


def test_the_groups_of_llama_with_adapters() -> None:
    traced = traced_llama(peft=True, num_hidden_layers=1)
    assert list(map(row, traced.groups)) == [line.strip() for line in ONE_LAYER.strip().splitlines()]


def test_reasons() -> None:
    traced = traced_llama(tied=False)
    reasons = {group.name: re.sub(r" \(\S+\.py:\d+\)", "", group.reason) for group in traced.groups if group.reason}
    assert reasons == {
        "model.embed_tokens.weight:channels": "its positions are named by data (embedding) at model.embed_tokens",
        "model:channels": "mean takes a statistic over it at model.layers.0.input_layernorm",
        "lm_head.weight:channels": "it is a dim of an output at lm_head",
    }


def test_members_and_slots() -> None:
    groups = traced_llama(num_hidden_layers=1).groups
    heads, repeats = groups["model.layers.0.self_attn:heads"], groups["model.layers.0.self_attn:repeats"]
    assert [str(member).removeprefix("model.layers.0.self_attn.") for member in heads.members] == [
        "q_proj.weight[0]: (c:2 d:3 (e:4 + e:4))",
        "k_proj.weight[0]: (c:2 (e:4 + e:4))",
        "v_proj.weight[0]: (c:2 f:8)",
        "o_proj.weight[1]: (c:2 d:3 f:8)",
    ]
    assert heads.slot is None
    assert repeats.slot == heads.atom
    values = groups["model.layers.0.self_attn:head_dims.2"]
    assert values.slot == heads.atom
    assert groups["model.layers.0.self_attn:head_dims.1"].slot is None  # the rotary table is shared by all heads


def test_families_go_over_layers() -> None:
    groups = traced_llama().groups
    families = {group.family for group in groups.prunable}
    assert len(groups.prunable) == 9
    assert len(families) == 5


@pytest.mark.parametrize(
    "options",
    [{}, {"kv": 6, "rep": 1, "tied": False}, {"kv": 1, "rep": 4}, {"peft": True}],
    ids=["grouped", "untied", "one for all", "adapters"],
)
def test_what_leaves_with_one_unit_is_counted_right(options: dict[str, Any]) -> None:
    traced = traced_llama(num_hidden_layers=1, **options)
    for group in traced.groups:
        if group.status == "frozen":
            continue
        plan = PruningPlan(traced.fingerprint, {group.name: GroupPlan(group.units, tuple(range(1, group.units)))})
        compact = gp.rewrite(traced, plan, module_form=False)
        assert traced.parameter_count - compact.parameter_count == group.params_per_unit, group.name


def test_the_dependency_graph_leads_from_queries_to_keys() -> None:
    import networkx as nx

    traced = traced_llama(num_hidden_layers=1)
    query, key = (traced.inference.parameter_dims[f"model.layers.0.self_attn.{n}_proj.weight"].axes[0] for n in "qk")
    path = nx.shortest_path(traced.dependency_graph, query.id, key.id)  # type: ignore[union-attr]
    assert len(path) > 2
    edges = [traced.dependency_graph.get_edge_data(a, b) for a, b in pairwise(path)]
    assert all(edge[0]["node"].op == "call_function" for edge in edges)


def test_groups_by_name_and_position() -> None:
    groups = traced_llama(num_hidden_layers=1).groups
    assert groups[0] is groups["model.embed_tokens.weight:channels"]
    with pytest.raises(KeyError, match="there is no group 'nothing'; the groups are model"):
        groups["nothing"]
    assert str(groups).splitlines()[0].split() == ["group", "kind", "units", "members", "params/unit", "status"]


def test_parameters_that_nothing_uses_are_frozen() -> None:
    class Unused(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 4)
            self.left = torch.nn.Parameter(torch.zeros(5))

    traced = gp.trace(Unused(), torch.zeros(2, 3))
    assert traced.groups["left:channels"].reason == "nothing in the graph uses it"


def test_a_parameter_of_no_numbers() -> None:
    """Models of vision have register tokens, of which there may be none."""

    class Registers(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
            self.registers = torch.nn.Parameter(torch.zeros(0, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.cat([x, self.registers]))  # type: ignore[no-any-return]

    assert [group.units for group in gp.trace(Registers(), torch.ones(4, 3)).groups.prunable] == [8]


def test_what_takes_turns_is_no_factor() -> None:
    """Rows of gates and of values by turns are channels, and dims that are rotated in pairs are dims of heads."""

    class Turns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 16), nn.Linear(8, 2)
            self.query, self.out = nn.Linear(3, 24), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            both = self.up(x)
            heads = self.query(x).unflatten(-1, (4, 6))
            one, other = heads[..., ::2], heads[..., 1::2]
            turned = torch.stack([one - 2 * other, other + 2 * one], -1).flatten(-3)
            return self.down(both[..., ::2].sigmoid() * both[..., 1::2]) + self.out(turned)  # type: ignore[no-any-return]

    kinds = {group.units: group.kind for group in gp.trace(Turns(), torch.randn(5, 3)).groups.prunable}
    assert kinds == {8: "channels", 4: "heads", 3: "head_dims"}

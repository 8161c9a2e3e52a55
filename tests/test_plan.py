"""Plans: what a file says, what it means for a model, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphprune as gp
from graphprune.errors import FileFormatError, OutputExistsError, PlanError
from graphprune.plan import GroupPlan, PruningPlan
from graphprune.traced import TracedModel
from tests.lockstep import kept_at, random_plan
from tests.models import tiny_llama, tokens

ROW = st.sets(st.integers(0, 19), min_size=1).map(lambda row: tuple(sorted(row)))
ROWS = st.integers(1, 19).flatmap(
    lambda count: st.lists(
        st.sets(st.integers(0, 19), min_size=count, max_size=count).map(lambda row: tuple(sorted(row))),
        min_size=1,
        max_size=3,
    ).map(tuple)
)


@pytest.fixture(scope="module")
def llama() -> TracedModel:
    return gp.trace(tiny_llama(num_hidden_layers=1, device="meta"), kwargs={"input_ids": tokens().to("meta")})


def plan_of(traced: TracedModel, **groups: GroupPlan) -> PruningPlan:
    return PruningPlan(
        traced.fingerprint, {name.replace("__", ":").replace("_0_", ".0."): g for name, g in groups.items()}
    )


@given(st.dictionaries(st.text(), st.one_of(ROW, ROWS).map(lambda kept: GroupPlan(20, kept)), max_size=4))
def test_what_is_written_is_read(groups: dict[str, GroupPlan]) -> None:
    plan = PruningPlan("0123456789abcdef", groups, {"ratio": 0.5})
    assert PruningPlan.from_json(plan.to_json()) == plan


def test_a_plan_is_read_by_hand() -> None:
    plan = PruningPlan("7c1f", {"mlp:channels": GroupPlan(9, (0, 1, 2, 4, 7, 8)), "v": GroupPlan(4, ((0, 1), (1, 3)))})
    body = json.loads(plan.to_json())
    assert body == {
        "format": "graphprune-plan/1",
        "model": "7c1f",
        "about": {},
        "groups": {"mlp:channels": {"units": 9, "kept": "0-2 4 7-8"}, "v": {"units": 4, "kept": ["0-1", "1 3"]}},
    }
    assert plan.groups["v"].mask().tolist() == [[True, True, False, False], [False, True, False, True]]
    assert plan.groups["v"].count == 2


def test_a_digest_is_of_what_is_cut() -> None:
    a, b = GroupPlan(9, (0, 1)), GroupPlan(9, (0, 2))
    digest = PruningPlan("7c1f", {"x": a, "y": b}).digest
    assert len(digest) == 16
    assert PruningPlan("7c1f", {"y": b, "x": a}, {"ratio": 0.5}).digest == digest
    assert digest not in (PruningPlan("7c1f", {"x": b, "y": b}).digest, PruningPlan("7c1e", {"x": a, "y": b}).digest)


def changed(**changes: Any) -> str:
    body = json.loads(PruningPlan("7c1f", {"g": GroupPlan(9, (0, 1))}).to_json())
    for key, value in changes.items():
        if key in ("units", "kept"):
            body["groups"]["g"][key] = value
        else:
            body[key] = value
    return json.dumps(body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is not a pruning plan: Expecting value"),
        ("[]", "the text is not a pruning plan: list indices must be"),
        ('{"format": 3}', "the text is not a pruning plan: its format is 3, not 'graphprune-plan/1'"),
        (changed(groups=None), "the text is not a pruning plan: "),
        (changed(kept="0-9"), "the kept units of g must be some of 0-8, each once and in order"),
        (changed(kept="0-99999999999999"), "the kept units of g must be some of 0-8, each once and in order"),
        (changed(kept="1 1"), "the kept units of g must be some of 0-8, each once and in order"),
        (changed(kept=""), "the kept units of g must be some of 0-8, each once and in order"),
        (changed(kept="3-1"), "the kept units of g must be some of 0-8, each once and in order"),
        (changed(kept="-1"), "the text is not a pruning plan: invalid literal for int"),
        (changed(kept=["0-1", "2"]), "every slot of g must keep the same number of units"),
        (changed(kept=[]), "every slot of g must keep the same number of units"),
        (changed(kept=3), "the text is not a pruning plan: "),
        (changed(units="many"), "the text is not a pruning plan: invalid literal for int"),
    ],
)
def test_malformed_plans(text: str, message: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        PruningPlan.from_json(text)
    assert message in str(caught.value)


def test_files(tmp_path: Path) -> None:
    plan, path = PruningPlan("7c1f", {"g": GroupPlan(9, (0, 1))}), tmp_path / "plan.json"
    plan.save(path)
    assert PruningPlan.load(path) == plan
    with pytest.raises(OutputExistsError):
        plan.save(path)
    plan.save(path, overwrite=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileFormatError, match=r"plan\.json is not a pruning plan: "):
        PruningPlan.load(path)
    with pytest.raises(FileFormatError, match=r"the plan .*nothing\.json can't be read: "):
        PruningPlan.load(tmp_path / "nothing.json")


MLP, VALUES, WIDTH = (
    "model.layers.0.mlp:channels",
    "model.layers.0.self_attn:head_dims.2",
    "model.embed_tokens.weight:channels",
)


@pytest.mark.parametrize(
    ("name", "group", "message"),
    [
        ("nothing", GroupPlan(4, (0,)), "the plan names a group 'nothing' that the model does not have"),
        (MLP, GroupPlan(81, (0,)), f"the plan says that {MLP} has 81 units, but it has 80"),
        (MLP, GroupPlan(80, ((0,), (1,))), f"the plan gives {MLP} 2 slots, but it has 0"),
        (VALUES, GroupPlan(8, ((0,), (1,), (2,))), f"the plan gives {VALUES} 3 slots, but it has 2"),
        (MLP, GroupPlan(80, ()), f"the kept units of {MLP} must be some of 0-79, each once and in order"),
        (MLP, GroupPlan(80, (79, 80)), f"the kept units of {MLP} must be some of 0-79, each once and in order"),
        (MLP, GroupPlan(80, (1, 0)), f"the kept units of {MLP} must be some of 0-79, each once and in order"),
        (VALUES, GroupPlan(8, ((0,), (1, 2))), f"every slot of {VALUES} must keep the same number of units"),
        (WIDTH, GroupPlan(97, (0,)), f"the plan cuts {WIDTH}, which can't be cut: its positions are named by data"),
    ],
)
def test_plans_that_do_not_fit(llama: TracedModel, name: str, group: GroupPlan, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        gp.rewrite(llama, PruningPlan(llama.fingerprint, {name: group}))
    assert str(caught.value).startswith(message)


def test_a_plan_for_another_model(llama: TracedModel) -> None:
    other = gp.trace(tiny_llama(num_hidden_layers=2, device="meta"), kwargs={"input_ids": tokens().to("meta")})
    with pytest.raises(PlanError) as caught:
        gp.rewrite(other, random_plan(llama))
    assert str(caught.value) == (
        f"the plan was made for a model with fingerprint {llama.fingerprint}, this one has {other.fingerprint}: "
        "use the model that it was made for, or make a new plan with gp.select"
    )


def test_a_plan_of_a_meta_model_fits_the_real_one(llama: TracedModel) -> None:
    real = gp.trace(tiny_llama(num_hidden_layers=1), kwargs={"input_ids": tokens()})
    assert gp.rewrite(real, random_plan(llama), module_form=False).report is not None


def test_a_group_that_keeps_everything_is_not_cut(llama: TracedModel) -> None:
    plan = PruningPlan(llama.fingerprint, {WIDTH: GroupPlan(97, tuple(range(97)))})
    assert gp.rewrite(llama, plan).parameter_count == llama.parameter_count


def test_masks_of_every_parameter(llama: TracedModel) -> None:
    plan = random_plan(llama)
    masks, compact = plan.masks(llama), gp.rewrite(llama, plan, module_form=False)
    assert list(masks) == [name for name, _ in llama.module.named_parameters()]
    assert masks["model.embed_tokens.weight"] == [None, None]
    keep = plan.keep(llama)
    for name, parameter in compact.named_parameters():
        kept = [
            size if row is None else int(row.sum())
            for row, size in zip(masks[name], llama.table[name].shape, strict=True)
        ]
        assert list(parameter.shape) == kept
        for row, axis in zip(masks[name], llama.inference.axes(name), strict=True):
            assert row is None or row.equal(kept_at(axis, keep, {}))

"""The report of a pruning run: its data, its tables, its page and its figures."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import graphprune as gp
from graphprune.budget import mac_cost
from graphprune.errors import FileFormatError, OutputExistsError, ScoreError
from graphprune.plan import GroupPlan
from graphprune.report.palette import LIGHT
from graphprune.report.run import NO_SMALLER, ScoreRow, score_rows
from graphprune.report.run_figures import FIGURE_COLOURS, draw_comparison, draw_kept, draw_scores, figures
from graphprune.report.run_page import CHOSEN, NO_FIGURES, held_table, kept_table, layers_table, page
from graphprune.report.tables import Measurement
from graphprune.training.metrics import LoggedStep
from tests.models import tiny_llama, tokens

HISTORY = (LoggedStep(1, 4.5, 0.0), LoggedStep(2, 4.0, 0.1), LoggedStep(3, 4.25, 0.2))
MODELS = (
    Measurement("dense", 2_000_000, 5_000_000_000, 20.0, 12.5),
    Measurement("pruned", 1_500_000, 4_000_000_000, 25.0, 10.0),
)


@pytest.fixture(scope="module")
def traced() -> gp.TracedModel:
    return gp.trace(tiny_llama(num_hidden_layers=3), kwargs={"input_ids": tokens()})


@pytest.fixture(scope="module")
def scores(traced: gp.TracedModel) -> gp.Scores:
    return gp.score(traced, "magnitude")


@pytest.fixture(scope="module")
def plan(traced: gp.TracedModel, scores: gp.Scores) -> gp.PruningPlan:
    return gp.select(traced, scores, ratio=0.2, form="module")


@pytest.fixture(scope="module")
def report(traced: gp.TracedModel, plan: gp.PruningPlan, scores: gp.Scores) -> gp.RunReport:
    more: dict[str, Any] = {"notes": ["measured <here>"], "settings": {"steps": 3, "kinds": None}}
    return gp.report_run(traced, plan, MODELS, title="<b>net", scores=scores, history=HISTORY, **more)


# --- data ------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_the_plan_says(traced: gp.TracedModel, plan: gp.PruningPlan, report: gp.RunReport) -> None:
    assert [row.name for row in report.groups] == [group.name for group in traced.groups]
    for row in report.groups:
        kept = plan.groups[row.name].count if row.name in plan.groups else row.units
        assert (row.units, row.kept) == (traced.groups[row.name].units, kept)
        assert row.status == traced.groups[row.name].status
        assert row.reason in (traced.groups[row.name].reason, NO_SMALLER)
    layers = {row.layer for row in report.groups if row.name.startswith("model.layers.1.")}
    assert layers == {"model.layers.1"}
    assert report.ratio == 0.2
    assert report.criterion == "magnitude"


def test_without_measurements_there_is_what_the_plan_leaves(traced: gp.TracedModel, plan: gp.PruningPlan) -> None:
    dense, pruned = gp.report_run(traced, plan).models
    compact = gp.rewrite(traced, plan)
    assert (dense.parameters, pruned.parameters) == (traced.parameter_count, compact.parameter_count)
    assert dense.macs == mac_cost(traced.inference)({})
    assert pruned.macs == mac_cost(gp.trace(compact.module, kwargs={"input_ids": tokens()}).inference)({})


def test_scores_are_counted_on_either_side_of_the_cut_of_their_group(traced: gp.TracedModel) -> None:
    name = traced.groups.prunable[-1].name
    units = traced.groups[name].units
    plan = gp.PruningPlan(traced.fingerprint, {name: GroupPlan(units, tuple(range(2, units)))})
    values = torch.full((units,), 20.0)
    values[0], values[1], values[2] = 1.0, 30.0, 2.0  # far below, above (it went earlier), and the least that is kept
    (row,) = score_rows(traced, plan, gp.Scores("own", {name: values}))
    assert row.edges[30] == 1.0
    assert (sum(row.kept), sum(row.removed), row.left_out) == (units - 2, 2, 0)
    assert row.kept[30] == 1  # 2 ÷ 2
    assert row.kept[40] == units - 3  # 20 ÷ 2
    assert row.removed[26] == 1  # 1 ÷ 2: 10 ** -0.4 is 0.4
    assert row.removed[41] == 1  # 30 ÷ 2: 10 ** 1.1 is 12.6


def test_each_slot_has_its_own_cut_and_a_cut_of_zero_leaves_its_units_out(traced: gp.TracedModel) -> None:
    name = next(group.name for group in traced.groups.prunable if group.slot is not None)
    group = traced.groups[name]
    assert group.slot is not None
    slots, units = group.slot.size, group.units
    rows = tuple(tuple(range(1, units)) for _ in range(slots))
    plan = gp.PruningPlan(traced.fingerprint, {name: GroupPlan(units, rows)})
    values = torch.ones(slots, units) * torch.arange(slots)[:, None]  # 0 in the first slot, 1 in the next
    values[:, 0] = -1.0
    (row,) = score_rows(traced, plan, gp.Scores("own", {name: values}))
    assert row.left_out == units
    assert row.kept[30] == sum(row.kept) == (slots - 1) * (units - 1)
    assert row.removed[0] == sum(row.removed) == slots - 1  # no logarithm: below everything


def test_scores_of_another_model(traced: gp.TracedModel, plan: gp.PruningPlan) -> None:
    with pytest.raises(ScoreError, match=r"^the scores have nothing for "):
        score_rows(traced, plan, gp.Scores("own", {}))


def test_a_report_is_the_same_from_its_file(report: gp.RunReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["format"] == "graphprune-report/1"
    assert gp.RunReport.load(tmp_path / "report.json") == report


def test_numbers_that_json_can_not_hold_are_null(report: gp.RunReport) -> None:
    broken = replace(report, models=(replace(MODELS[0], perplexity=float("nan")),), settings={"a": (1, float("inf"))})
    body = json.loads(broken.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert body["models"][0]["perplexity"] is None
    assert body["settings"] == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "[]", '{"format": "graphprune-report/0"}', '{"format": "graphprune-report/1"}'])
def test_a_file_that_holds_no_report(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=rf"^{re.escape(str(path))} is not a report of a run: "):
        gp.RunReport.load(path)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_tables_hold_every_unit(report: gp.RunReport) -> None:
    can_go = [row for row in report.groups if row.can_go]
    kinds = kept_table(report.groups).rows
    assert sum(int(row[3].replace(",", "")) for row in kinds) == sum(row.units for row in can_go)
    assert sum(int(row[4].replace(",", "")) for row in kinds) == sum(row.kept for row in can_go)
    layers = [row[0] for row in layers_table(report.groups).rows]
    assert layers == [*(f"model.layers.{layer}" for layer in range(3)), "in no layer, or in several"]


def test_what_was_not_cut_has_its_reason(traced: gp.TracedModel, report: gp.RunReport) -> None:
    rows = held_table(report.groups).rows
    assert sum(int(row[1]) for row in rows) == sum(row.kept == row.units for row in report.groups)
    whys = {row[0]: row[4] for row in rows}
    assert whys["model:channels"] == re.sub(r"\.\d+(?=\.)", ".*", traced.groups["model:channels"].reason)


def test_what_matters_and_what_has_no_smaller_size_have_reasons_of_their_own(traced: gp.TracedModel) -> None:
    heads, channels = (next(g for g in traced.groups.prunable if g.kind == kind) for kind in ("repeats", "channels"))
    plan = gp.PruningPlan(traced.fingerprint, {heads.name: GroupPlan(heads.units, (0,))})

    def whys(step: int) -> dict[str, str]:
        groups = gp.report_run(traced, plan, settings={"multiple_of": step}).groups
        return {row[0]: row[4] for row in held_table(tuple(row for row in groups if row.kind == "channels")).rows}

    name = re.sub(r"\.\d+(?=\.)", ".*", channels.name)
    assert whys(1)[name] == CHOSEN == "it could be cut, but units of others matter less for what they hold"
    assert whys(channels.units)[name] == NO_SMALLER


def test_layers_that_were_skipped_had_no_smaller_size(traced: gp.TracedModel) -> None:
    scores = gp.score(traced, "magnitude")
    plan = gp.select(traced, scores, ratio=0.1, skip_layers=[0])
    whole = [row for row in gp.report_run(traced, plan).groups if row.layer == "model.layers.0" and row.can_go]
    assert {row.reason for row in whole} == {NO_SMALLER}


# --- page and figures ------------------------------------------------------------------------------------------------


def test_the_directory_of_a_report(report: gp.RunReport, tmp_path: Path) -> None:
    names = gp.write_report(report, tmp_path / "report")
    assert names == (
        "report.html",
        "report.json",
        "report.md",
        "comparison.png",
        "kept.png",
        "scores.png",
        "training.png",
    )
    assert sorted(names) == sorted(path.name for path in (tmp_path / "report").iterdir())
    for name in names[3:]:
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG\r\n")
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert text.count("<svg ") == 4
    assert NO_FIGURES not in text
    assert (
        "| pruned | 1.5 M (−25.0%) | 4 G (−20.0%) | 25.00 | 10.0 |" in (tmp_path / "report" / "report.md").read_text()
    )
    with pytest.raises(OutputExistsError):
        gp.write_report(report, tmp_path / "report")


def test_the_page_needs_nothing_from_outside(report: gp.RunReport, tmp_path: Path) -> None:
    gp.write_report(report, tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    named = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)  # names, and nothing that is loaded
    assert not re.findall(r"://|\bsrc=|@import|<script|<image", named)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', named))
    assert all(place.startswith("#") for place in re.findall(r"url\(([^)]*)\)", named))
    assert not re.findall(r"\{\{\w+\}\}", text)


def test_the_colours_of_figures_are_those_of_the_page_in_light_and_in_dark(
    report: gp.RunReport, tmp_path: Path
) -> None:
    gp.write_report(report, tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg .*?</svg>", text, re.DOTALL))
    assert set(re.findall(r"var\(--(\w+)\)", drawn)) <= set(FIGURE_COLOURS)
    assert len({LIGHT[name] for name in FIGURE_COLOURS}) == len(FIGURE_COLOURS)
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn)
    for name in FIGURE_COLOURS:
        assert re.search(rf"--{name}: light-dark\({LIGHT[name]}, #[0-9a-f]{{6}}\);", text), name


def test_names_are_escaped(report: gp.RunReport) -> None:
    text = page(report)
    assert "<title>&lt;b&gt;net · graphprune</title>" in text
    assert "measured &lt;here&gt;" in text
    assert "<b>net" not in text


def test_without_matplotlib_the_page_has_its_tables_and_says_what_is_missing(
    report: gp.RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else find(name))
    names = gp.write_report(report, tmp_path / "report")
    assert names == ("report.html", "report.json", "report.md")
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<svg " not in text
    assert NO_FIGURES.replace("'", "&#x27;") in text
    assert text.count("<table>") == 7


def test_bars_begin_at_zero_and_are_as_long_as_what_was_measured() -> None:
    figure = draw_comparison(MODELS)
    assert figure is not None
    panels = {at.get_xlabel(): at for at in figure.axes if at.get_visible()}
    assert list(panels) == [
        "parameters (M)",
        "multiply-accumulates (G)",
        "perplexity, lower is better",
        "time in torch (ms)",
    ]
    for at in panels.values():
        assert at.get_xlim()[0] == 0
    bars = panels["parameters (M)"].patches
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 2.0), (0, 1.5)]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in panels["time in torch (ms)"].patches] == [12.5, 10.0]  # type: ignore[attr-defined]


def test_a_cell_of_the_heat_map_is_as_full_as_its_layer(report: gp.RunReport) -> None:
    figure = draw_kept([row for row in report.groups if row.can_go])
    assert figure is not None
    cells = {str(patch.get_gid()): patch.get_alpha() for patch in figure.axes[0].patches if patch.get_gid()}
    assert len(cells) == len({(row.kind, row.layer) for row in report.groups if row.can_go})
    for row in report.groups:
        if row.can_go and row.kind == "channels":
            says = f"{row.layer}: {row.kept:,} of {row.units:,} channels kept ({row.kept / row.units:.1%})"
            assert cells[f"says:{says}"] == pytest.approx(row.kept / row.units)


def test_figures_are_drawn_only_of_what_there_is() -> None:
    assert draw_kept([]) is None
    assert draw_comparison(MODELS[:1]) is None
    assert draw_scores([ScoreRow("channels", (0.1, 1.0, 10.0), (0, 0), (0, 0), 5)], "own") is None
    assert figures(gp.RunReport("empty", MODELS[:1], ())) == {}
    assert "Something was cut of every group." in page(gp.RunReport("empty", MODELS[:1], ()))


def test_a_training_that_did_not_say_what_is_pruned(report: gp.RunReport) -> None:
    plain = replace(report, history=tuple(replace(each, sparsity=None) for each in HISTORY))
    assert len(figures(plain)["training"].axes) == 1
    assert len(figures(report)["training"].axes) == 2

"""What objects look like in a notebook: tables whose text is escaped, in the notebook's own colours."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.plan import GroupPlan
from graphprune.tables import Column, Table, facts_table, groups_table, plan_table, to_html

from .models import tiny_llama, tokens


class Cells(HTMLParser):
    """The rows of the tables of some HTML, and its text elsewhere; every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.outside = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        else:
            self.outside += data


@pytest.fixture(scope="module")
def traced() -> gp.TracedModel:
    return gp.trace(tiny_llama(), kwargs={"input_ids": tokens()})


@pytest.fixture(scope="module")
def plan(traced: gp.TracedModel) -> gp.PruningPlan:
    return gp.select(traced, gp.score(traced, "magnitude"), ratio=0.2, homogeneous=True)


def test_groups_and_the_traced_model(traced: gp.TracedModel) -> None:
    cells = Cells(traced.groups._repr_html_())
    assert cells.rows[0] == [column.title for column in groups_table(traced.groups).columns]
    assert sum(int(row[1]) for row in cells.rows[1:]) == len(traced.groups)
    reason = traced.groups["model:channels"].reason
    assert f") {reason}\n" in cells.outside
    whole = Cells(traced._repr_html_())
    assert whole.rows == cells.rows
    assert f"LlamaForCausalLM: {traced.parameter_count:,} parameters" in whole.outside


def test_a_plan(plan: gp.PruningPlan) -> None:
    cells = Cells(plan._repr_html_())
    assert f"PruningPlan of {plan.digest} for the model {plan.model}: ratio 0.2" in cells.outside
    assert cells.rows[0][-3:] == ["units", "kept", "removed"]
    assert sum(int(row[1]) for row in cells.rows[1:]) == len(plan.groups)


def test_what_differs_in_a_plan_is_a_range() -> None:
    groups = {
        "layers.0.mlp:channels": GroupPlan(8, (0, 1)),
        "layers.1.mlp:channels": GroupPlan(8, (0, 1, 2, 5)),
        "layers.1.attention:head_dims": GroupPlan(4, ((0, 1, 2), (1, 2, 3))),
    }
    assert plan_table(groups).rows == (
        ("*.mlp:channels", "2", "8", "2–4", "62.5%"),
        ("1.attention:head_dims", "1", "4", "3", "25.0%"),
    )


def test_the_report_and_the_compact_model(traced: gp.TracedModel, plan: gp.PruningPlan) -> None:
    compact = gp.rewrite(traced, plan)
    report = compact.report
    assert report is not None
    facts = dict(Cells(report._repr_html_()).rows)  # type: ignore[arg-type]
    assert facts["difference of the graph form"] == f"{report.graph_error:.1e}"
    assert facts["computed in"] == "float64"
    about = dict(Cells(compact._repr_html_()).rows)  # type: ignore[arg-type]
    assert about.items() > facts.items()
    assert about["parameters"].startswith(f"{compact.parameter_count:,} of {traced.parameter_count:,} (")
    assert about["forms"] == "graph and module"


def test_a_compact_model_without_values(plan: gp.PruningPlan) -> None:
    on_meta = gp.trace(tiny_llama(device="meta"), kwargs={"input_ids": tokens().to("meta")})
    assert ["verified", "no, it has no values"] in Cells(gp.rewrite(on_meta, plan)._repr_html_()).rows


def test_an_explanation(traced: gp.TracedModel) -> None:
    said = traced.explain("model.layers.0.mlp.up_proj.weight[0]", "model.layers.0.mlp.down_proj.weight[1]")
    cells = Cells(said._repr_html_())
    assert said.about in cells.outside
    assert cells.rows[1:] == [[step.operator, step.place] for step in said.steps]
    assert f"to {said.end}" in cells.outside


def test_names_are_escaped_and_nothing_is_loaded() -> None:
    made = type("Net<b>&", (nn.Linear,), {})
    text = gp.trace(made(3, 4), torch.ones(2, 3))._repr_html_()
    assert text.startswith("<p><b>Net&lt;b&gt;&amp;: 16 parameters")
    assert not re.findall(r"://|src=|href=|url\(|<script|color", text)


def test_a_table_without_titles_has_no_head() -> None:
    text = to_html(facts_table({"a": 1, "<b>": "2 & 3"}))
    assert "<thead>" not in text
    assert Cells(text).rows == [["a", "1"], ["<b>", "2 & 3"]]


def test_numbers_stand_right_and_titles_of_two_lines_in_one() -> None:
    table = Table((Column("name"), Column("torch\nms", number=True)), (("x", "1"),), ("(1) why <not>",))
    assert to_html(table, "A & B") == (
        "<p><b>A &amp; B</b></p>\n<table>\n"
        '<thead><tr><th style="text-align:left">name</th><th style="text-align:right">torch ms</th></tr></thead>\n'
        '<tbody>\n<tr><td style="text-align:left">x</td><td style="text-align:right">1</td></tr>\n</tbody>\n</table>\n'
        '<p class="note"><small>(1) why &lt;not&gt;</small></p>\n'
    )

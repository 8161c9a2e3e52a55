"""The report of a run as a page and as a directory.

::

    report/report.html      one file that loads nothing from anywhere, dark where the browser is
           report.md        its table
           report.json      the data, from which all of it can be drawn again (see run.py)
           comparison.png   kept.png  scores.png  training.png      its figures
"""

from __future__ import annotations

import html
from collections import defaultdict
from pathlib import Path

from ..files import new_directory
from ..progress import Parts, Progress, Watched
from ..tables import any_layer, facts_table, span
from .palette import fill
from .run import GroupRow, RunReport
from .run_figures import budget_words, can_draw, figures, to_svg, words, write_png
from .tables import Column, Table, comparison_table, to_html, to_markdown

TEMPLATE = Path(__file__).with_name("run.html")
PAGE, DATA, TABLE = "report.html", "report.json", "report.md"
NO_FIGURES = "There are no figures, since matplotlib is not installed: pip install 'graphprune[report]'."


def write_report(report: RunReport, directory: str | Path, *, progress: Progress | None = None) -> tuple[str, ...]:
    """Write a report to a new directory, and return the names of its files; the page is the first.

    ``progress`` is called with how far it has come, and how far it has to. Without matplotlib there are no figures:
    neither PNG files nor pictures in the page, which then says so.

    Raises:
        OutputExistsError: the directory exists.
        DiskFullError: the disk is full.
    """
    with new_directory(directory) as place:
        drawn = figures(report) if can_draw() else {}
        parts = Parts(progress, {"page": 1, "png": 1})
        svgs = {
            name: to_svg(figure, name, SHOWN[name]) for name, figure in Watched(list(drawn.items()), parts.part("page"))
        }
        (place / PAGE).write_text(page(report, svgs), encoding="utf-8")
        (place / DATA).write_text(report.to_json(), encoding="utf-8")
        (place / TABLE).write_text(to_markdown(comparison_table(report.models)), encoding="utf-8")
        for name, figure in Watched(list(drawn.items()), parts.part("png")):
            write_png(figure, place / f"{name}.png")
    return (PAGE, DATA, TABLE, *(f"{name}.png" for name in drawn))


SHOWN = {
    "comparison": "What was measured of each model, as bars from zero",
    "kept": "The share of the units of each kind that each layer keeps",
    "scores": "How many units have which score, and where the cut is",
    "training": "The training loss and the pruned share by step",
}
"""What each figure shows, for who can't see it."""


def page(report: RunReport, svgs: dict[str, str] | None = None) -> str:
    """The page: HTML that needs no other file and no network. ``svgs`` are its figures by name."""
    svgs = svgs or {}
    parts = [
        _section(
            "Dense and pruned",
            _wide(to_html(comparison_table(report.models))),
            _figure(svgs, "comparison"),
            _list(report.notes),
            "" if svgs else f'<p class="note">{html.escape(NO_FIGURES)}</p>',
        ),
        _section(
            "What is kept",
            _soft("The units of each kind that every layer keeps. The fuller the colour, the more of them."),
            _figure(svgs, "kept"),
            _wide(to_html(kept_table(report.groups))),
            _details("By layer", to_html(layers_table(report.groups))),
        ),
    ]
    if report.scores:
        left_out = sum(row.left_out for row in report.scores)
        parts.append(
            _section(
                "Scores",
                _soft(
                    "The scores at the last pruning, each divided by the least score that is kept in the same group: "
                    "units to the left of the cut were removed. Those that went earlier are zero since, so that their "
                    "scores have decayed; one whose score rose again does not come back. The outermost bars hold what "
                    "lies beyond them. Where each head keeps dims of its own, the dims of every head count."
                ),
                _figure(svgs, "scores"),
                _wide(to_html(scores_table(report))),
                _soft(f"{left_out:,} units are left out: of their groups, the least score kept is 0.")
                if left_out
                else "",
            )
        )
    if report.history:
        parts.append(
            _section(
                "Training",
                _soft("The loss is that on the training text, a mean over the steps since the one before."),
                _figure(svgs, "training"),
                _wide(to_html(training_table(report))),
            )
        )
    held = held_table(report.groups)
    parts.append(
        _section(
            "What was not cut, and why",
            _wide(to_html(held)) if held.rows else _soft("Something was cut of every group."),
        )
    )
    if report.settings:
        parts.append(_section("Settings", _details("All settings of the run", to_html(facts_table(report.settings)))))
    return fill(TEMPLATE, title=report.title, summary=html.escape(summary(report)), sections="\n".join(parts))


def summary(report: RunReport) -> str:
    """What was done, in a few sentences."""
    first, last = report.models[0], report.models[-1]
    said = []
    if first.parameters and last.parameters:
        removed = 1 - last.parameters / first.parameters
        said.append(f"{first.parameters:,} → {last.parameters:,} parameters: {removed:.1%} removed.")
    if report.ratio is not None:
        said.append(f"Asked for: {report.ratio:.1%} of the {budget_words(report.of)}.")
    if report.criterion:
        said.append(f"Criterion: {report.criterion}.")
    said.append(f"Pruned while tuned for {report.history[-1].step:,} steps." if report.history else "Pruned at once.")
    return " ".join(said)


# --- tables ----------------------------------------------------------------------------------------------------------


def kept_table(groups: tuple[GroupRow, ...]) -> Table:
    """A row for each kind of groups of which something can be cut."""
    rows = []
    for kind, alike in _by_kind(groups).items():
        units, kept = sum(group.units for group in alike), sum(group.kept for group in alike)
        cut = sum(group.kept < group.units for group in alike)
        rows.append((words(kind), f"{len(alike):,}", f"{cut:,}", f"{units:,}", f"{kept:,}", f"{kept / units:.1%}"))
    titles = ("groups", "of them cut", "units", "kept", "share")
    return Table((Column("kind"), *(Column(title, number=True) for title in titles)), tuple(rows))


def layers_table(groups: tuple[GroupRow, ...]) -> Table:
    """A row for each layer: the units of each kind that it keeps."""
    kinds = list(_by_kind(groups))
    layers: dict[str, dict[str, list[GroupRow]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        if group.can_go:
            layers[group.layer][group.kind].append(group)
    rows = []
    for layer, found in sorted(layers.items(), key=lambda item: not item[0]):
        cells = [
            f"{sum(group.kept for group in found[kind]):,} of {sum(group.units for group in found[kind]):,}"
            if found[kind]
            else "–"
            for kind in kinds
        ]
        rows.append((layer or "in no layer, or in several", *cells))
    return Table((Column("layer"), *(Column(words(kind), number=True) for kind in kinds)), tuple(rows))


def scores_table(report: RunReport) -> Table:
    """A row for each kind that was cut: how many of its units lie on which side."""
    rows = tuple(
        (words(row.kind), f"{sum(row.kept):,}", f"{sum(row.removed):,}", f"{_above(row.edges, row.removed):,}")
        for row in report.scores
    )
    titles = ("kept", "removed", "removed with a score above the cut")
    return Table((Column("kind"), *(Column(title, number=True) for title in titles)), rows)


def training_table(report: RunReport) -> Table:
    """The first step, the last one, and that with the least loss."""
    steps = report.history
    chosen = {"first": steps[0], "least loss": min(steps, key=lambda each: each.loss), "last": steps[-1]}
    rows = tuple(
        (name, f"{each.step:,}", f"{each.loss:.3f}", "–" if each.sparsity is None else f"{each.sparsity:.1%}")
        for name, each in chosen.items()
    )
    return Table((Column(""), *(Column(title, number=True) for title in ("step", "loss", "pruned"))), rows)


def held_table(groups: tuple[GroupRow, ...]) -> Table:
    """A row for the groups that are whole and alike but for their layer, with the reason."""
    rows: dict[tuple[str, str, str], list[GroupRow]] = defaultdict(list)
    for group in groups:
        if group.kept == group.units:
            rows[any_layer(group.name), group.status, any_layer(group.reason)].append(group)
    cells = []
    for (name, status, reason), alike in rows.items():
        own = alike[0].name if len(alike) == 1 else name
        cells.append((own, f"{len(alike):,}", span(group.units for group in alike), status, reason or CHOSEN))
    columns = (Column("group", breaks=True), Column("×", number=True), Column("units", number=True))
    return Table((*columns, Column("state"), Column("why", breaks=True)), tuple(cells))


CHOSEN = "it could be cut, but units of others matter less for what they hold"


def _by_kind(groups: tuple[GroupRow, ...]) -> dict[str, list[GroupRow]]:
    kinds: dict[str, list[GroupRow]] = defaultdict(list)
    for group in groups:
        if group.can_go:
            kinds[group.kind].append(group)
    return kinds


def _above(edges: tuple[float, ...], removed: tuple[int, ...]) -> int:
    return sum(count for edge, count in zip(edges, removed, strict=False) if edge >= 1)


# --- HTML ------------------------------------------------------------------------------------------------------------


def _section(title: str, *content: str) -> str:
    return f"<section>\n<h2>{html.escape(title)}</h2>\n" + "\n".join(each for each in content if each) + "\n</section>"


def _soft(text: str) -> str:
    return f'<p class="soft">{html.escape(text)}</p>'


def _wide(content: str) -> str:
    return f'<div class="wide">\n{content}</div>'


def _figure(svgs: dict[str, str], name: str) -> str:
    return _wide(svgs[name]) if name in svgs else ""


def _list(texts: tuple[str, ...]) -> str:
    return "<ul>\n" + "".join(f"<li>{html.escape(text)}</li>\n" for text in texts) + "</ul>" if texts else ""


def _details(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>\n{_wide(content)}\n</details>"

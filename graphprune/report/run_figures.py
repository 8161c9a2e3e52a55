"""The figures of the report of a run, by matplotlib: once as PNG files, and once as SVG in the page.

Each figure is drawn in the light colours of ``palette.py``. In an SVG each becomes a variable of the page, which has
another value where the page is dark, and a cell of the heat map says what it is when it is pointed at.
"""

from __future__ import annotations

import html
import importlib.util
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tables import PREFIXES, count, span
from .palette import LIGHT
from .run import GroupRow, RunReport, ScoreRow
from .tables import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_COLOURS = ("text", "soft", "line", "cell", "on", "dense", "middle", "kept", "removed")
"""What figures are drawn in; no two of them are alike on white, so that each is found again in an SVG."""

WIDTH = 7.4
"""Inches: 533 points, so that text of 9 points has 13 pixels in a page of 760."""

MOST_NUMBERED = 12
"""Of more layers than this the cells of the heat map have no numbers in them: these would not fit."""


def can_draw() -> bool:
    """Whether there is matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None


def figures(report: RunReport) -> dict[str, Figure]:
    """The figures by name: those for which the report has data."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        drawn = {
            "comparison": draw_comparison(report.models),
            "kept": draw_kept([row for row in report.groups if row.can_go]),
            "scores": draw_scores(report.scores, report.criterion),
            "training": draw_training(report),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def write_png(figure: Figure, path: Path) -> None:
    """A figure as PNG on white."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, name: str, says: str) -> str:
    """A figure as an SVG element for a page that has the colours as variables; ``says`` is what it shows."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="says:([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg)  # it would be one of the whole page
    # the fonts of the page, and its colours
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for variable in FIGURE_COLOURS:
        svg = svg.replace(LIGHT[variable], f"var(--{variable})")
    size = re.search(r'viewBox="([^"]*)"', svg)
    head = f'<svg viewBox="{size[1] if size else ""}" role="img" aria-label="{html.escape(says)}">'
    return re.sub(r"<svg [^>]*>", lambda _: head, svg, count=1)


# --- the figures -----------------------------------------------------------------------------------------------------


def draw_comparison(models: Sequence[Measurement]) -> Figure | None:
    """A panel of bars, from zero, for each number that was measured of two models and more."""
    panels: list[tuple[str, list[float | None], Callable[[float], str], float, str]] = []
    for title, name, show in _MEASURED:
        values = [getattr(model, name) for model in models]
        present = [value for value in values if value is not None]
        if len(present) < 2 or max(present) <= 0:
            continue
        scale, prefix = _scale(max(present)) if name in ("parameters", "macs", "file_size") else (1.0, "")
        panels.append((title.format(prefix), values, show, scale, name))
    if not panels:
        return None
    across = 2 if len(panels) == 4 else min(3, len(panels))
    down = -(-len(panels) // across)
    figure = _figure(down * (0.62 + 0.24 * len(models)))
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for at, (title, values, show, scale, _) in zip(axes, panels, strict=False):
        places = range(len(models))
        numbers = [0.0 if value is None else value / scale for value in values]
        at.barh(places, numbers, height=0.62, color=[_colour(place, len(models)) for place in places])
        for place, value, number in zip(places, values, numbers, strict=True):
            at.annotate(
                "not measured" if value is None else show(value),
                (number, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                color=LIGHT["text" if value is not None else "soft"],
                fontsize=8.5,
            )
        at.set(xlim=(0, max(numbers) * 1.42), ylim=(len(models) - 0.5, -0.5), xlabel=title)
        at.set_yticks(places, [model.name for model in models])
        at.locator_params(axis="x", nbins=4)
        _frame(at, "bottom")
        at.tick_params(axis="y", length=0, labelcolor=LIGHT["text"])
    for index, at in enumerate(axes):
        if index >= len(panels):
            at.set_visible(False)
        elif index % across:
            at.set_yticklabels([])
    return figure


def draw_kept(groups: Sequence[GroupRow]) -> Figure | None:
    """A row for each kind, a column for each layer: the more of the units there are kept, the fuller the colour."""
    from matplotlib.patches import Rectangle

    if not groups:
        return None
    kinds = list(dict.fromkeys(group.kind for group in groups))
    layers = sorted(dict.fromkeys(group.layer for group in groups), key=lambda layer: not layer)  # in none: the last
    figure = _figure(0.95 + 0.34 * len(kinds))
    at = figure.subplots()
    for row, kind in enumerate(kinds):
        cells = []
        for column, layer in enumerate(layers):
            here = [group for group in groups if (group.kind, group.layer) == (kind, layer)]
            if not here:
                continue
            kept, units = sum(group.kept for group in here), sum(group.units for group in here)
            cells.append((kept, units))
            corner = (column + 0.04, row + 0.06)
            says = f"{layer or 'outside the layers'}: {kept:,} of {units:,} {words(kind)} kept ({kept / units:.1%})"
            at.add_patch(Rectangle(corner, 0.92, 0.88, facecolor=LIGHT["cell"], edgecolor="none"))
            cell = Rectangle(corner, 0.92, 0.88, facecolor=LIGHT["kept"], alpha=kept / units, edgecolor="none")
            cell.set_gid(f"says:{says}")
            at.add_patch(cell)
            if len(layers) <= MOST_NUMBERED:
                colour = LIGHT["on" if kept / units > 0.55 else "text"]
                at.text(
                    column + 0.5, row + 0.5, f"{kept:,}", ha="center", va="center_baseline", color=colour, fontsize=8
                )
        at.text(len(layers) + 0.15, row + 0.5, _of_units(cells), va="center_baseline", color=LIGHT["soft"], fontsize=8)
    names, title = layer_names(layers)
    step = max(1, -(-len(layers) // 16))
    at.set(xlim=(0, len(layers)), ylim=(len(kinds), 0), xlabel=title)
    at.set_xticks([place + 0.5 for place in range(0, len(layers), step)], names[::step])
    at.set_yticks([place + 0.5 for place in range(len(kinds))], [words(kind) for kind in kinds])
    at.tick_params(length=0)
    at.tick_params(axis="y", labelcolor=LIGHT["text"])
    _frame(at)
    shares = (0, 0.25, 0.5, 0.75, 1)
    for place, share in enumerate(shares):  # the scale: from nothing to all, whatever there is
        left, low, high = 0.12 * place, 1 + 0.1 / len(kinds), 0.38 / len(kinds)
        for colour, alpha in ((LIGHT["cell"], 1.0), (LIGHT["kept"], share)):
            box = Rectangle((left, low), 0.022, high, facecolor=colour, alpha=alpha, edgecolor="none", clip_on=False)
            box.set_transform(at.transAxes)
            at.add_patch(box)
        label = f"{share:.0%}" + (" of the units kept" if share == 1 else "")
        where: dict[str, Any] = {"transform": at.transAxes, "va": "center_baseline", "fontsize": 8}
        at.text(left + 0.03, low + high / 2, label, color=LIGHT["soft"], **where)
    return figure


def draw_scores(rows: Sequence[ScoreRow], criterion: str) -> Figure | None:
    """A histogram of the units of each kind on either side of the cut."""
    rows = [row for row in rows if sum(row.kept) + sum(row.removed)]
    if not rows:
        return None
    across = min(2, len(rows))
    down = -(-len(rows) // across)
    figure = _figure(0.35 + 1.75 * down)
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for at, row in zip(axes, rows, strict=False):
        full = [place for place, each in enumerate(zip(row.kept, row.removed, strict=True)) if any(each)]
        middle = len(row.kept) // 2  # where the cut is: at least a decade to either side, for ticks
        first, last = (max(0, min(full[0], middle - 10)), min(2 * middle - 1, max(full[-1], middle + 9)))
        base = [0] * len(row.kept)
        for name, counts in (("removed", row.removed), ("kept", row.kept)):
            top = [low + more for low, more in zip(base, counts, strict=True)]
            label = f"{name} ({sum(counts):,})"
            at.stairs(top, row.edges, baseline=base, fill=True, color=LIGHT[name], linewidth=0, label=label)
            base = top
        at.axvline(1, color=LIGHT["text"], linewidth=1.2, linestyle=(0, (4, 2)))
        at.annotate(
            "cut", (1, 1), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points", va="top", fontsize=8
        )
        at.set(xscale="log", xlim=(row.edges[first], row.edges[last + 1]), ylabel="units", title=words(row.kind))
        at.legend(frameon=False, fontsize=8, labelcolor=LIGHT["text"], handlelength=1)
        at.set_ylim(0, max(map(sum, zip(row.kept, row.removed, strict=True))) * 1.25)
        at.locator_params(axis="y", nbins=5, integer=True)
        at.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        at.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        at.xaxis.set_minor_formatter("")
        _frame(at, "bottom", "left")
    for at in axes[len(rows) :]:
        at.set_visible(False)
    named = f"score ({criterion})" if criterion else "score"
    figure.supxlabel(f"{named} ÷ least score kept in the same group", fontsize=9, color=LIGHT["soft"])
    return figure


def draw_training(report: RunReport) -> Figure | None:
    """The loss and the pruned share over the steps, one above the other."""
    steps = [each.step for each in report.history]
    if not steps:
        return None
    shares = [(each.step, each.sparsity * 100) for each in report.history if each.sparsity is not None]
    figure = _figure(3.3 if shares else 2.0)
    above, *rest = figure.subplots(2 if shares else 1, 1, sharex=True, squeeze=False).ravel().tolist()
    marker = "o" if len(steps) <= 40 else None
    above.plot(
        steps, [each.loss for each in report.history], color=LIGHT["kept"], linewidth=1.3, marker=marker, markersize=3
    )
    above.set(ylabel="training loss\n(nats per token)")
    lowest = above
    for below in rest:
        below.step(*zip(*shares, strict=True), where="post", color=LIGHT["removed"], linewidth=1.6)
        if report.ratio is not None:
            goal = report.ratio * 100
            below.axhline(goal, color=LIGHT["soft"], linewidth=1, linestyle=(0, (4, 2)))
            below.annotate(
                f"asked for: {goal:g} %",
                (0, goal),
                (4, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                color=LIGHT["soft"],
                fontsize=8,
            )
        top = max([share for _, share in shares] + ([report.ratio * 100] if report.ratio else []))
        below.set(ylabel=f"pruned\n(% of {budget_words(report.of)})", ylim=(0, top * 1.25 or 1))
        lowest = below
    lowest.set(xlabel="optimiser step", xlim=(min(steps), max(max(steps), min(steps) + 1)))
    lowest.xaxis.get_major_locator().set_params(integer=True)
    for at in (above, *rest):
        at.grid(axis="y", color=LIGHT["line"], linewidth=0.7)
        at.locator_params(axis="y", nbins=5)
        _frame(at, "bottom")
    figure.align_ylabels()
    return figure


# --- words and frames ------------------------------------------------------------------------------------------------


def words(kind: str) -> str:
    """A kind of groups for people: ``head dims``."""
    return kind.replace("_", " ")


def budget_words(of: str) -> str:
    """What a ratio is a share of, for people."""
    return {"base": "parameters", "macs": "MACs", "prunable": "prunable parameters", "latency": "time"}.get(of, of)


def layer_names(layers: Sequence[str]) -> tuple[list[str], str]:
    """Short names of layers, and what they are short for: ``["0", "1"]`` and ``"layer of model.layers"``."""
    prefixes = {layer.rpartition(".")[0] for layer in layers if layer}
    if len(prefixes) == 1 and (prefix := prefixes.pop()):
        return [layer.rpartition(".")[2] or "–" for layer in layers], f"layer of {prefix}"
    return [layer or "–" for layer in layers], "layer"


_MEASURED: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("parameters ({})", "parameters", count),
    ("multiply-accumulates ({})", "macs", count),
    ("perplexity, lower is better", "perplexity", "{:.2f}".format),
    ("time in torch (ms)", "torch_ms", "{:.1f}".format),
    ("time in onnxruntime (ms)", "onnx_ms", "{:.1f}".format),
    ("size of the file ({}B)", "file_size", lambda size: f"{count(size)}B"),
)
"""The panels of the comparison: the axis, the field of a measurement, and how a value is written."""

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["soft"],
    "axes.titlecolor": LIGHT["text"],
    "axes.axisbelow": True,
    "text.color": LIGHT["text"],
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["soft"],
    "ytick.labelcolor": LIGHT["soft"],
    "xtick.labelsize": 8,
    "ytick.labelsize": 8.5,
    "svg.fonttype": "none",
}


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure  # not pyplot: nothing of this outlives the figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06))


def _frame(at: Axes, *sides: str) -> None:
    for side in ("left", "right", "top", "bottom"):
        at.spines[side].set_visible(side in sides)


def _scale(most: float) -> tuple[float, str]:
    for prefix, size in PREFIXES:
        if most >= size:
            return size, prefix
    return 1.0, "1"


def _colour(place: int, models: int) -> str:
    """The first model is the dense one, the last the result."""
    return LIGHT["dense" if place == 0 else "kept" if place == models - 1 else "middle"]


def _of_units(cells: Iterable[tuple[int, int]]) -> str:
    kept, units = ({each[side] for each in cells} for side in (0, 1))
    return f"{span(kept)} of {span(units)}"

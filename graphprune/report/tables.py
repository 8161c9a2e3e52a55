"""Tables for people: pure functions from data to a table, and from a table to rich or to Markdown.

::

    groups_table(traced.groups)      ->  Table  ->  to_rich(table)      for a terminal
    comparison_table(measurements)   ->  Table  ->  to_markdown(table)  for a file
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rich.box
import rich.table
from rich.text import Text

if TYPE_CHECKING:
    from ..groups import PruningGroup


@dataclass(frozen=True)
class Column:
    """A column's title, of one line or two, whether it holds numbers, and whether its text may be broken over lines."""

    title: str
    number: bool = False
    breaks: bool = False


@dataclass(frozen=True)
class Table:
    """Titles and cells. Each row has as many cells as there are columns; ``notes`` stand below the rows."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model; ``None`` where it was not measured.

    ``macs`` are multiply-accumulates of a forward pass, times are in milliseconds, ``file_size`` is in bytes.
    """

    name: str
    parameters: int | None = None
    macs: int | None = None
    perplexity: float | None = None
    torch_ms: float | None = None
    onnx_ms: float | None = None
    file_size: int | None = None


def groups_table(groups: Iterable[PruningGroup], *, every: bool = False) -> Table:
    """A row for the groups that are named alike but for their layer, or with ``every`` for each group.

    Those that differ in status or reason have rows of their own; numbers that differ are shown as a range.
    The reasons are notes, and what all names begin with stands in the title.
    """
    rows: dict[tuple[str, ...], list[PruningGroup]] = defaultdict(list)
    for group in groups:
        key = (group.name,) if every else (_any_layer(group.name), group.status, _any_layer(group.reason))
        rows[key].append(group)
    names = [each[0].name if len(each) == 1 else _any_layer(each[0].name) for each in rows.values()]
    within = "" if every else _common_path(names)
    notes: dict[str, int] = {}
    cells = []
    for name, alike in zip(names, rows.values(), strict=True):
        first = alike[0]
        reason = first.reason if len(alike) == 1 else _any_layer(first.reason)
        note = f" ({notes.setdefault(reason, len(notes) + 1)})" if reason else ""
        cells.append(
            (
                name.removeprefix(within),
                *(() if every else (str(len(alike)),)),
                _range(group.units for group in alike),
                _range(len(group.members) for group in alike),
                _range(group.params_per_unit for group in alike),
                first.status + note,
            )
        )
    columns = (
        Column(f"group in {within[:-1]}" if within else "group", breaks=True),
        *(() if every else (Column("×", number=True),)),
        Column("units", number=True),
        Column("members", number=True),
        Column("params/unit", number=True),
        Column("status"),
    )
    return Table(columns, tuple(cells), tuple(f"({number}) {reason}" for reason, number in notes.items()))


def comparison_table(measurements: Sequence[Measurement]) -> Table:
    """A row for each model, against the first; what was measured of none of them has no column."""
    dense = measurements[0]
    columns = [Column("model")]
    cells = [[each.name] for each in measurements]

    def add(title: str, values: Sequence[float | None], show: Callable[[float], str], base: float | None) -> None:
        if all(value is None for value in values):
            return
        columns.append(Column(title, number=True))
        for row, value in zip(cells, values, strict=True):
            row.append("–" if value is None else show(value) + _change(value, base))

    add("parameters", [each.parameters for each in measurements], count, dense.parameters)
    add("MACs", [each.macs for each in measurements], count, dense.macs)
    add("perplexity", [each.perplexity for each in measurements], "{:.2f}".format, None)
    add("torch\nms", [each.torch_ms for each in measurements], "{:.1f}".format, None)
    add("onnxruntime\nms", [each.onnx_ms for each in measurements], "{:.1f}".format, None)
    add("file", [each.file_size for each in measurements], file_size, None)
    return Table(tuple(columns), tuple(tuple(row) for row in cells))


def to_rich(table: Table) -> rich.table.Table:
    """The table for a rich console: numbers to the right, long cells broken to what the terminal has."""
    result = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False, header_style="bold"
    )
    for column in table.columns:
        result.add_column(
            Text(column.title),
            justify="right" if column.number else "left",
            no_wrap=not column.breaks,
            overflow="fold" if column.breaks else "ellipsis",
        )
    for row in table.rows:
        # Text and not str: names with brackets are no markup.
        result.add_row(*(Text(cell) for cell in row))
    return result


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with a newline at its end."""
    rule = ["--:" if column.number else "---" for column in table.columns]
    rows = [[column.title.replace("\n", " ") for column in table.columns], rule, *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows]
    return "".join([*lines, *(f"\n{note}\n" for note in table.notes)])


def count(number: float) -> str:
    """A count with four digits: ``134.5 M``."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:.0f}"


def file_size(number: float) -> str:
    """A size in bytes with decimal prefixes: ``538 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def _change(value: float, base: float | None) -> str:
    return "" if not base or value == base else f" ({(value - base) / base:+.1%})".replace("-", "−")


def _range(values: Iterable[int]) -> str:
    distinct = set(values)
    low, high = min(distinct), max(distinct)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _common_path(names: Sequence[str]) -> str:
    """The path, with its last dot, that all names begin with; nothing where there is one name only."""
    if len(names) < 2:
        return ""
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in alike)
    return common[: common.rfind(".") + 1]


def _any_layer(text: str) -> str:
    """A name, or a reason that names a layer, with ``*`` for the number of the layer."""
    return re.sub(r"\.\d+(?=[.\s:]|$)", ".*", text)

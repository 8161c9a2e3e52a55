"""Tables for people: pure functions from data to a table, and from a table to rich.

::

    groups_table(traced.groups)      ->  Table  ->  to_rich(table)      for a terminal
    comparison_table(measurements)   ->  Table  ->  to_markdown(table)  for a file, to_html(table) for a page
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.text import Text

from ..tables import Column, Table, count, file_size, groups_table, to_html, to_markdown

__all__ = [
    "Column",
    "Measurement",
    "Table",
    "comparison_table",
    "count",
    "file_size",
    "groups_table",
    "to_html",
    "to_markdown",
    "to_rich",
]


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
    for row, style in itertools.zip_longest(table.rows, table.styles, fillvalue=""):
        # Text and not str: names with brackets are no markup.
        result.add_row(*(Text(cell) for cell in row[:-1]), Text(row[-1], style=str(style)))
    return result


def _change(value: float, base: float | None) -> str:
    return "" if not base or value == base else f" ({(value - base) / base:+.1%})".replace("-", "−")

"""Tables as data, of what a model is and of what is left of it, and the forms of a table that need no other package.

::

    groups_table(traced.groups)  ->  Table  ->  to_markdown(table)    for a file
    plan_table(plan)             ->  Table  ->  to_html(table)        for a notebook or a page

What else there is to show, and the form for a terminal, is in :mod:`graphprune.report.tables`.
"""

from __future__ import annotations

import html
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .groups import PruningGroup
    from .plan import GroupPlan


@dataclass(frozen=True)
class Column:
    """A column's title, of one line or two, whether it holds numbers, and whether its text may be broken over lines."""

    title: str
    number: bool = False
    breaks: bool = False


@dataclass(frozen=True)
class Table:
    """Titles and cells. Each row has as many cells as there are columns; ``notes`` stand below the rows.

    ``styles`` has for each row a style that a terminal shows its last cell in; empty where none has one.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()


def groups_table(groups: Iterable[PruningGroup]) -> Table:
    """A row for the groups that are named alike but for their layer.

    Those that differ in status or reason have rows of their own; numbers that differ are shown as a range.
    The reasons are notes, and what all names begin with stands in the title.
    """
    rows: dict[tuple[str, ...], list[PruningGroup]] = defaultdict(list)
    for group in groups:
        key = (any_layer(group.name), group.status, any_layer(group.reason))
        rows[key].append(group)
    names = [each[0].name if len(each) == 1 else any_layer(each[0].name) for each in rows.values()]
    within = _common_path(names)
    notes: dict[str, int] = {}
    cells = []
    for name, alike in zip(names, rows.values(), strict=True):
        first = alike[0]
        reason = first.reason if len(alike) == 1 else any_layer(first.reason)
        note = f" ({notes.setdefault(reason, len(notes) + 1)})" if reason else ""
        cells.append(
            (
                name.removeprefix(within),
                str(len(alike)),
                span(group.units for group in alike),
                span(len(group.members) for group in alike),
                span(group.params_per_unit for group in alike),
                first.status + note,
            )
        )
    columns = (
        Column(f"group in {within[:-1]}" if within else "group", breaks=True),
        Column("×", number=True),
        Column("units", number=True),
        Column("members", number=True),
        Column("params/unit", number=True),
        Column("status"),
    )
    return Table(columns, tuple(cells), tuple(f"({number}) {reason}" for reason, number in notes.items()))


def plan_table(groups: Mapping[str, GroupPlan]) -> Table:
    """A row for the groups of a plan that are named alike but for their layer: how many units they have and keep."""
    rows: dict[str, list[str]] = defaultdict(list)
    for name in groups:
        rows[any_layer(name)].append(name)
    names = [alike[0] if len(alike) == 1 else name for name, alike in rows.items()]
    within = _common_path(names)
    cells = []
    for name, alike in zip(names, rows.values(), strict=True):
        plans = [groups[each] for each in alike]
        whole, kept = sum(plan.units for plan in plans), sum(plan.count for plan in plans)
        cells.append(
            (
                name.removeprefix(within),
                str(len(alike)),
                span(plan.units for plan in plans),
                span(plan.count for plan in plans),
                f"{1 - kept / whole:.1%}",
            )
        )
    columns = (
        Column(f"group in {within[:-1]}" if within else "group", breaks=True),
        *(Column(title, number=True) for title in ("×", "units", "kept", "removed")),
    )
    return Table(columns, tuple(cells))


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with a newline at its end."""
    rule = ["--:" if column.number else "---" for column in table.columns]
    rows = [[column.title.replace("\n", " ") for column in table.columns], rule, *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows]
    return "".join([*lines, *(f"\n{note}\n" for note in table.notes)])


def to_html(table: Table, title: str = "") -> str:
    """The table as HTML, all of its text escaped: in the colours of the page or the notebook that it stands in."""
    sides = [
        "right" if column.number else "left" + ";overflow-wrap:anywhere" * column.breaks for column in table.columns
    ]
    titles = [column.title.replace("\n", " ") for column in table.columns]
    head = "".join(_cell("th", text, side) for text, side in zip(titles, sides, strict=True))
    head = f"<thead><tr>{head}</tr></thead>\n" if any(titles) else ""
    body = "".join(
        "<tr>" + "".join(_cell("td", text, side) for text, side in zip(row, sides, strict=True)) + "</tr>\n"
        for row in table.rows
    )
    above = f"<p><b>{html.escape(title)}</b></p>\n" if title else ""
    below = "".join(f'<p class="note"><small>{html.escape(note)}</small></p>\n' for note in table.notes)
    return f"{above}<table>\n{head}<tbody>\n{body}</tbody>\n</table>\n{below}"


def facts_table(facts: Mapping[str, Any]) -> Table:
    """A row for each fact: its name, and its value as text."""
    return Table((Column(""), Column("", breaks=True)), tuple((name, str(value)) for name, value in facts.items()))


PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
"""The decimal prefixes of counts, the largest first."""


def count(number: float) -> str:
    """A count with four digits: ``134.5 M``."""
    for unit, size in PREFIXES:
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:.0f}"


def file_size(number: float) -> str:
    """A size in bytes with decimal prefixes: ``538 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def any_layer(text: str) -> str:
    """A name, or a reason that names a layer, with ``*`` for the number of the layer."""
    return re.sub(r"\.\d+(?=[.\s:]|$)", ".*", text)


def _cell(tag: str, text: str, side: str) -> str:
    return f'<{tag} style="text-align:{side}">{html.escape(text)}</{tag}>'


def span(values: Iterable[int]) -> str:
    """The number that all values are, or the least and the largest: ``704–1,445``."""
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

"""The groups of a model as a tree of its modules, in a table whose first column is the tree.

::

    group                              units  params/unit  MACs/unit  members  state
    model
    ├─ channels                          576      233,533  6,065,280      272  statistics: mean takes a …
    ├─ embed_tokens.weight:channels   49,152          576     14,976        1  frozen: its positions are …
    └─ layers 0–29 ×30
       ├─ self_attn
       │  └─ heads                         3      294,912  7,797,504        4  prunable
       └─ mlp:channels                 1,536        1,728     44,928        3  prunable
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..groups import PruningGroup
from ..tables import Column, Table, any_layer
from ..traced import TracedModel
from .description import input_shapes, macs_per_unit
from .folding import Part, label_of, numbers_text, parts_of

COLUMNS = (
    Column("group"),
    *(Column(title, number=True) for title in ("units", "params/unit", "MACs/unit", "members")),
    Column("state", breaks=True),
)
STYLES = {"prunable": "green", "statistics": "yellow", "rank": "magenta", "frozen": "dim"}


@dataclass(frozen=True)
class _Row:
    """A row, and those below it; one without a group is a module. ``layers`` is how many layers it stands for."""

    label: str
    group: PruningGroup | None = None
    layers: int = 1
    rows: tuple[_Row, ...] = ()


def groups_tree(traced: TracedModel, groups: Iterable[PruningGroup], *, every: bool = False) -> Table:
    """A row for each group below those of the modules that it is in; layers that are alike once, unless ``every``."""
    macs = macs_per_unit(traced)
    root = parts_of(traced, groups, macs, fold=not every)
    inputs = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in input_shapes(traced).items())
    rows = list(_guided(_below(root, "", 1)))
    return Table(
        COLUMNS,
        tuple((text, *(_numbers(row.group, row.layers, macs) if row.group else [""] * 5)) for text, row in rows),
        (f"MACs are those of a forward pass over {inputs}",) if rows else (),
        tuple(STYLES[row.group.status] if row.group else "" for _, row in rows),
    )


def _rows(part: Part, label: str, layers: int) -> tuple[_Row, ...]:
    """The rows of a part that is called ``label``."""
    if any(each.layers for each in part.shown):
        return _below(part, label, layers)
    if len(part.groups) == 1 and not part.shown:
        return (_Row(f"{label}:{label_of(part.groups[0])}", part.groups[0], layers),)
    if len(part.shown) == 1 and not part.groups and not part.layers:
        return _rows(part.shown[0], f"{label}.{part.shown[0].name}", layers)
    groups = (_Row(label_of(group), group, layers) for group in part.groups)
    return (_Row(label, rows=(*groups, *(row for each in part.shown for row in _rows(each, each.name, layers)))),)


def _below(part: Part, label: str, layers: int) -> tuple[_Row, ...]:
    """The rows of what is in a part that has none of its own: the model, or a list of layers."""
    rows = [_Row(f"{label}:{label_of(group)}", group, layers) for group in part.groups]
    for each in part.shown:
        count = len(each.layers)
        if count:
            text = f"{label} {numbers_text(each.layers)}".lstrip() + (f" ×{count}" if count > 1 else "")
            rows += _rows(each, text, layers * count)
        else:
            rows += _rows(each, f"{label}.{each.name}".lstrip("."), layers)
    return tuple(rows)


def _guided(rows: tuple[_Row, ...], guide: str | None = None) -> Iterable[tuple[str, _Row]]:
    """Each row with the first cell of it, which shows what it is below."""
    for at, row in enumerate(rows):
        last, before = at == len(rows) - 1, guide or ""
        yield before + ("" if guide is None else "└─ " if last else "├─ ") + row.label, row
        yield from _guided(row.rows, before + ("" if guide is None else "   " if last else "│  "))


def _numbers(group: PruningGroup, layers: int, macs: Mapping[int, int]) -> tuple[str, ...]:
    reason = any_layer(group.reason) if layers > 1 else group.reason
    return (
        f"{group.units:,}",
        f"{group.params_per_unit:,}",
        f"{macs[group.atom.id]:,}",
        f"{len(group.members):,}",
        f"{group.status}: {reason}" if reason else group.status,
    )

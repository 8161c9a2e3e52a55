"""``graphprune inspect``: the pruning groups of a model, on the screen, for machines and as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SourceError, UnknownNameError
from ..files import require_directory_of, write_text_atomically
from ..report.description import describe, removable
from ..report.tables import count
from ..report.tree import groups_tree
from .console import counted, say, show, show_table
from .details import tell_groups
from .tracing import title_of, trace_named

if TYPE_CHECKING:
    from ..groups import PruningGroup
    from ..traced import TracedModel

PICTURES = ("html", "svg", "dot", "graphml")


def inspect(
    model: str,
    *,
    lora: bool = False,
    as_json: bool = False,
    every: bool = False,
    kinds: Sequence[str] = (),
    frozen: bool = False,
    group: str | None = None,
    parameter: str | None = None,
    why: tuple[str, str] | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> None:
    """Print the groups of what a user names, or what one of them is; draw them where pictures are asked for.

    Args:
        model: see :mod:`.tracing`.
        lora: put adapters on the linear layers first, as ``graphprune prune`` does.
        as_json: print the form for machines, all groups with their members.
        every: do not fold layers that are alike.
        kinds: only groups of these kinds; all where there are none.
        frozen: only groups that are never cut.
        group: print what this group is, and what couples its members.
        parameter: print the axes of this parameter, and the groups in them.
        why: print why these two, groups or parameters, are cut together.
        pictures: files to write, by what of :data:`PICTURES` they are to hold.

    Raises:
        SourceError: there is no such model, or no group of such a kind.
        ExportError: there is no directory for a picture.
        UnknownNameError: the model has no such group or parameter.
        FileFormatError: a file is truncated or corrupt.
        CaptureError: the model can't be captured.
    """
    for path in (pictures or {}).values():
        require_directory_of(path)
    with counted(f"trace {model}", lasting=False) as progress:
        traced = trace_named(model, lora=lora, progress=progress)
    tell_groups(traced)
    wanted = _wanted(traced, model, kinds, frozen)
    for form, path in (pictures or {}).items():
        write_text_atomically(path, _draw(form, traced, wanted, model, every), overwrite=True)
    if group is not None:
        show(str(traced.explain(_group_named(traced, group))))
    elif parameter is not None:
        if any(parameter == each.name for each in traced.groups):
            raise UnknownNameError(f"{parameter} is a group and no parameter: --group says what it is")
        show(str(traced.explain(parameter)))
    elif why is not None:
        show(str(traced.explain(*why)))
    elif as_json:
        description = describe(traced)
        names = {each.name for each in wanted}
        description["groups"] = [row for row in description["groups"] if row["name"] in names]
        print(json.dumps(description, indent=2))  # noqa: T201
    else:
        show_summary(traced)
        if not pictures:
            show()
            show_table(groups_tree(traced, wanted, every=every))
    for path in (pictures or {}).values():
        say(f"wrote {path}")


def _wanted(traced: TracedModel, model: str, kinds: Sequence[str], frozen: bool) -> list[PruningGroup]:
    known = sorted({group.kind for group in traced.groups})
    for kind in kinds:
        if kind not in known:
            raise SourceError(f"no group of {model} is of kind {kind!r}: it has {', '.join(known)}")
    return [
        group
        for group in traced.groups
        if (not kinds or group.kind in kinds) and (not frozen or group.status == "frozen")
    ]


def _draw(form: str, traced: TracedModel, wanted: Sequence[PruningGroup], model: str, every: bool) -> str:
    """What a picture's file holds. The page has all groups, since it can search them; GraphML each of its own."""
    if form == "html":
        from ..report.html import page

        return page(traced, title=title_of(model))
    from ..report.drawing import groups_graph, to_dot, to_graphml, to_svg

    write = {"svg": to_svg, "dot": to_dot, "graphml": to_graphml}[form]
    return write(groups_graph(traced, wanted, every=every or form == "graphml"))


def _group_named(traced: TracedModel, name: str) -> PruningGroup:
    found = next((group for group in traced.groups if group.name == name), None)
    if found is None:
        traced.explain(name)  # raises where no parameter is called so either, and says what is near
        raise UnknownNameError(f"{name} is a parameter and no group: --param says which groups it is in")
    return found


def show_summary(traced: TracedModel) -> None:
    """One line on the model and one on its groups."""
    total, prunable, most = traced.parameter_count, len(traced.groups.prunable), removable(traced)
    show(f"{type(traced.module).__name__}: {total:,} parameters, fingerprint {traced.fingerprint}")
    show(
        f"{len(traced.groups)} groups, {prunable} of them prunable: at most {count(most)} parameters "
        f"({most / total:.1%}) can be removed"
    )

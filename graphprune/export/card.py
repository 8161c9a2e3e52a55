"""The model card: README.md with what was pruned, how it was checked and measured, and how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..compact import CompactModel
from ..version import __version__
from .manifest import Form

ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")
"""A name on the Hugging Face hub, and no path."""

SETTINGS = ("ratio", "of", "criterion", "homogeneous", "target", "tuned", "text", "adapters", "compensated")
"""What a plan may say about how it came to be that a reader of the card wants to know."""


def model_card(
    compact: CompactModel, form: Form, place: str, auto: str | None, measured: Mapping[str, float] | None
) -> str:
    """The card of a compact model.

    ``place`` is where it will lie, ``auto`` the class of transformers that loads it, where one does, ``measured`` what
    was measured by name: perplexities, say.
    """
    return (
        "\n\n".join(
            [
                _front(compact, form),
                f"# {place.rstrip('/').rpartition('/')[2]}",
                "\n".join(_introduction(compact)),
                "\n".join(["## Use", "", "```python", *_use(form, place, auto), "```"]),
                "\n".join(["## What was pruned", "", *_pruned(compact)]),
                "\n".join(["## How it was checked", "", _checked(compact)]),
                *(["\n".join(["## Measured", "", *_table(("", "value"), _numbers(measured))])] if measured else []),
            ]
        )
        + "\n"
    )


def base_of(compact: CompactModel) -> str | None:
    """The name on the hub of the model that was pruned, where it has one."""
    config = None if compact.origin is None else compact.origin.config
    names = (compact.plan.about.get("source"), getattr(config, "_name_or_path", None))
    return next((name for name in names if isinstance(name, str) and ON_THE_HUB.fullmatch(name)), None)


def _front(compact: CompactModel, form: Form) -> str:
    """What the hub reads."""
    from huggingface_hub import ModelCardData

    library = "transformers" if form in ("transformers", "remote-code") else None
    data: Any = ModelCardData(base_model=base_of(compact), library_name=library, tags=["graphprune", "pruned"])
    return f"---\n{data.to_yaml()}\n---"


def _introduction(compact: CompactModel) -> Iterator[str]:
    base = base_of(compact)
    name = f"[{base}](https://huggingface.co/{base})" if base else f"a {_architecture(compact)}"
    yield (
        f"This is {name} without {compact.ratio:.1%} of its parameters: {compact.parameter_count:,} of "
        f"{compact.dense_parameters:,} are left. It was cut by graphprune {__version__}."
    )


def _architecture(compact: CompactModel) -> str:
    return "model" if compact.origin is None else compact.origin.architecture.rpartition(".")[2]


def _use(form: Form, place: str, auto: str | None) -> list[str]:
    if auto is not None and form in ("transformers", "remote-code"):
        trust = ", trust_remote_code=True" if form == "remote-code" else ""
        return [f"from transformers import {auto}", "", f"model = {auto}.from_pretrained({place!r}{trust})"]
    return ["import graphprune as gp", "", f"model = gp.load({place!r})"]


def _pruned(compact: CompactModel) -> Iterator[str]:
    kinds: dict[str, list[tuple[int, int]]] = {}
    for name, group in compact.plan.groups.items():
        if group.count < group.units:
            kinds.setdefault(name.rpartition(":")[2], []).append((group.count, group.units))
    rows = [
        (kind, str(len(groups)), _span(units for _, units in groups), _span(kept for kept, _ in groups))
        for kind, groups in kinds.items()
    ]
    yield from _table(("kind", "groups", "units of each", "kept of each"), rows)
    about = {name: compact.plan.about[name] for name in SETTINGS if name in compact.plan.about}
    yield ""
    yield f"The plan lies in `plan.json`; its hash is `{compact.plan.digest}`."
    if about:
        yield ""
        yield from _table(("setting", "value"), [(name, f"`{value}`") for name, value in about.items()])


def _span(numbers: Iterator[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _checked(compact: CompactModel) -> str:
    report = compact.report
    if report is None:
        return "It was not compared with the masked model, since it had no values when it was cut."
    errors = [error for error in (report.graph_error, report.module_error) if error is not None]
    return (
        "Its outputs equal those of the dense model with zeros in place of what was removed: the largest difference, "
        f"relative to the largest output, is {max(errors):.1e} in {report.dtype}, where {report.tolerance:.0e} is "
        "allowed."
    )


def _numbers(measured: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}") for name, value in measured.items()]


def _table(head: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"

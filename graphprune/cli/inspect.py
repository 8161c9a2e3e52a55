"""``graphprune inspect``: the pruning groups of a model, from its configuration alone.

The model is made on the meta device, where tensors have shapes and no values, so that neither weights nor memory are
needed: a directory with nothing but ``config.json`` is enough.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError, UnknownNameError
from ..report.description import describe, removable
from ..report.tables import count, groups_table
from .console import show, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..traced import TracedModel


def inspect(
    model: str,
    *,
    lora: bool = False,
    as_json: bool = False,
    every: bool = False,
    kinds: Sequence[str] = (),
    frozen: bool = False,
) -> None:
    """Print the groups of the model in a directory or of that name on the hub.

    Args:
        model: a model directory, or a name on the hub.
        lora: put adapters on the linear layers first, as ``graphprune prune`` does.
        as_json: print the form for machines, all groups with their members.
        every: a row for each group, not for each family of groups.
        kinds: only groups of these kinds; all where there are none.
        frozen: only groups that are never cut.

    Raises:
        SourceError: there is no such model, or no group of such a kind.
        CaptureError: the model can't be captured.
    """
    traced = trace_on_meta(model, lora=lora)
    known = sorted({group.kind for group in traced.groups})
    for kind in kinds:
        if kind not in known:
            raise SourceError(f"no group of {model} is of kind {kind!r}: it has {', '.join(known)}")
    wanted = [
        group
        for group in traced.groups
        if (not kinds or group.kind in kinds) and (not frozen or group.status == "frozen")
    ]
    if as_json:
        description = describe(traced)
        names = {group.name for group in wanted}
        description["groups"] = [row for row in description["groups"] if row["name"] in names]
        print(json.dumps(description, indent=2))  # noqa: T201
        return
    show_summary(traced)
    show()
    show_table(groups_table(wanted, every=every))


def write_page(model: str, path: Path, *, lora: bool = False) -> None:
    """Write the groups of the model as a page for a browser, in one file.

    Raises:
        SourceError: there is no such model.
        CaptureError: the model can't be captured.
    """
    from ..report.html import page

    traced = trace_on_meta(model, lora=lora)
    name = Path(model).expanduser()
    path.write_text(page(traced, title=name.resolve().name if name.is_dir() else model), encoding="utf-8")
    show_summary(traced)
    show(f"wrote {path}: open it in a browser")


def explain(model: str, what: Sequence[str], *, lora: bool = False) -> None:
    """Print what a group or a parameter is, or why two of them are cut together.

    Raises:
        SourceError: there is no such model.
        CaptureError: the model can't be captured.
        UnknownNameError: it has no such group or parameter, or there are more than two.
    """
    if len(what) > 2:
        raise UnknownNameError(f"--explain takes one name or two, not {len(what)}")
    show(str(trace_on_meta(model, lora=lora).explain(*what)))


def show_summary(traced: TracedModel) -> None:
    """One line on the model and one on its groups."""
    total, prunable = traced.parameter_count, len(traced.groups.prunable)
    show(f"{type(traced.module).__name__}: {total:,} parameters, fingerprint {traced.fingerprint}")
    show(
        f"{len(traced.groups)} groups, {prunable} of them prunable: at most {count(removable(traced))} parameters "
        f"({removable(traced) / total:.1%}) can be removed"
    )


def trace_on_meta(model: str, *, lora: bool = False, batch: int = 2, length: int = 13) -> TracedModel:
    """The traced model of a directory or a name on the hub, without its weights.

    Raises:
        SourceError: there is no such model, or transformers does not know its class.
        CaptureError: the model can't be captured.
    """
    import torch

    from ..pipeline import trace

    module = model_on_meta(model, lora=lora)
    if not isinstance(getattr(module.config, "vocab_size", None), int):
        return trace(module)  # says which inputs are missing
    device = next(module.parameters()).device
    return trace(module, kwargs={"input_ids": torch.zeros(batch, length, dtype=torch.long, device=device)})


def model_on_meta(model: str, *, lora: bool = False) -> Any:
    """The module of a directory or a name on the hub, on the meta device unless ``gp.save`` wrote it as layers.

    Raises:
        SourceError: there is no such model, or it can't be made.
    """
    from ..export.directory import ADAPTER, load
    from ..export.manifest import read_about
    from ..sources.adapter import find_base, is_adapter, put_on
    from ..sources.model import find_model
    from ..sources.model import model_on_meta as on_meta
    from .models import is_compact

    path = Path(model).expanduser()
    if is_adapter(path):
        return put_on(model_on_meta(str(find_base(path, weights=False))), path)
    if is_compact(path) and (read_about(path)["form"] != "transformers" or (path / ADAPTER).is_dir()):
        return _adapted(load(path), lora)  # layers of different sizes, or adapters: config.json does not tell
    return _adapted(on_meta(find_model(model, weights=False)), lora)


def _adapted(module: Any, lora: bool) -> Any:
    if not lora:
        return module
    from ..training.config import PruneConfig
    from ..training.finetune import with_adapters

    return with_adapters(module, PruneConfig(ratio=0.5))

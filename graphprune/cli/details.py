"""What ``--verbose`` says beside the stages: versions, what was loaded, what is frozen, the forms, the files."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tables import any_layer, file_size
from ..version import __version__
from .console import is_verbose, say

if TYPE_CHECKING:
    from ..compact import CompactModel
    from ..export.onnx import OnnxReport
    from ..traced import TracedModel

PACKAGES = ("torch", "transformers", "peft", "onnx", "onnxscript", "onnxruntime")


def tell_versions() -> None:
    """The versions of what a result may depend on."""
    if not is_verbose():
        return
    found = [f"graphprune {__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    say(", ".join(found))


def tell_module(module: Any) -> None:
    """How large a model is, in which types, and on which device."""
    if not is_verbose():
        return
    from ..device import described

    types: Counter[str] = Counter()
    devices = {each.device: None for each in module.parameters()}
    for each in module.parameters():
        types[str(each.dtype).removeprefix("torch.")] += each.numel()
    where = " and ".join(map(described, devices))
    say(f"  {type(module).__name__}: {types.total():,} parameters in {' and '.join(types)} on {where}")


def tell_groups(traced: TracedModel) -> None:
    """How many groups can be cut, how long finding them took, and why which of the others can't."""
    if not is_verbose():
        return
    groups = list(traced.groups)
    say(f"  {len(groups)} groups, {len(traced.groups.prunable)} of them cut by default; {_seconds(traced.seconds)}")
    reasons = Counter((each.status, any_layer(each.reason)) for each in groups if each.status != "prunable")
    for (status, reason), number in reasons.items():
        say(f"  {status} ×{number}: {reason}")


def tell_compact(compact: CompactModel) -> None:
    """What verification saw and how long it took, and why a form was refused."""
    if not is_verbose():
        return
    if compact.report is not None:
        say(f"  {compact.report}; {_seconds(compact.report.seconds)}")
    if compact.module_error is not None:
        say(f"  no module form: {compact.module_error}")


def tell_onnx(report: OnnxReport) -> None:
    """What an ONNX file takes and gives, the sizes that it was compared at, and how long it took."""
    if not is_verbose():
        return
    for what, found in (("inputs", report.inputs), ("outputs", report.outputs)):
        say(f"  {what}: {', '.join(f'{name} {list(dims)}' for name, dims in found.items())}")
    for sizes, gap in zip(report.checked, report.difference, strict=True):
        say(f"  compared on {', '.join(f'{name} {list(dims)}' for name, dims in sizes.items())}: within {gap:.1e}")
    say(f"  {report.precision}, on cpu; {_seconds(report.seconds)}")


def tell_files(place: Path) -> None:
    """The files that were written, and how large they are."""
    if not is_verbose():
        return
    files = [place, place.with_name(f"{place.name}.data")] if place.is_file() else sorted(place.rglob("*"))
    for each in files:
        if each.is_file():
            say(f"  wrote {each}, {file_size(each.stat().st_size)}")


def _seconds(stages: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items())

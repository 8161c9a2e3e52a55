"""Say where a module can't be captured as a graph, and what to do about it, in one sentence.

1. The place is read from the traceback: the innermost call of a module's forward, and in it the last line that is not
   torch's own.
2. What torch says is looked up in a table of what graphs can't do.
3. What is not in the table is tried without capturing: a module that fails then too does not fit its inputs.

::

    Net can't be captured: layers.1.gate (Gate, model.py:42) branches on the value of a tensor; …
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from ..quiet import first_line

EXAMPLE = "or capture the way that these inputs take, gp.trace(…, by_example=True), "
PART = "or trace a part of the model that does without it, gp.trace(model.part, …)"

CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"data-dependent expression Eq\(u\d+, 1\)",
        "branches on the value of a tensor",
        f"write the choice with torch.where or torch.cond, {EXAMPLE}{PART}",
    ),
    (
        r"Size-like symbols: [a-z]+\d",
        "needs to know a size that depends on the values of a tensor",
        "keep all positions and mask them where some are chosen (nonzero, unique, boolean indices), or say what holds "
        f"of the size with torch._check, {EXAMPLE}{PART}",
    ),
    (
        r"argument 'size' failed to unpack .* FakeTensor",
        "makes a tensor whose size is the value of a tensor, as recurrent layers do for a packed sequence",
        f"give the model the size as a Python number, {EXAMPLE}{PART}",
    ),
    (
        r"data-dependent expression",
        "computes in Python with a number out of a tensor (item, int, float, tolist)",
        f"keep it a tensor, or give it to the model as a Python number, {EXAMPLE}{PART}",
    ),
    (
        r"\.numpy\(\) is not supported|Cannot access data pointer",
        "takes the values of a tensor out of torch (numpy, data_ptr)",
        "write it with operators of torch, or as an operator of your own with torch.library.custom_op, "
        f"{EXAMPLE}{PART}",
    ),
    (
        r"UnsupportedOperatorException|no fake impl",
        "calls an operator that can't tell the shape of its result",
        f"register a function that makes it, with torch.library.register_fake, {PART}",
    ),
    (
        r"in output, which is not a known type",
        "returns an object whose tensors can't be found",
        "return tensors in tuples, lists or dicts, from a module around it if need be, or register its class, if it is "
        "a dataclass, with torch.export.register_dataclass",
    ),
    (
        r"(?:fake tensor in the exported program constant's list.* attribute|values are written): (?:([\w.]+)\.)?\w+",
        "writes into the values of a weight (its .data) or of a tensor that is no buffer",
        f"compute with a copy that is changed, as F.linear(x, self.weight * self.mask), or change it before, {PART}",
    ),
    (
        r"Attempted to use an uninitialized parameter",
        "has layers whose sizes their first inputs decide",
        "run it once before it is traced",
    ),
    (
        r"ScriptModule is not supported|ScriptMethod' object has no attribute",
        "is TorchScript, which has no Python code to follow",
        "trace the nn.Module that it was made from",
    ),
)
"""Patterns of what torch raises, with a group for the path of the module if that is said, what the module then does,
and the way out."""


@dataclass(frozen=True)
class Place:
    """Where a traceback ends: the module whose forward it is in, and the last line of the user's own code."""

    path: str
    kind: str
    line: str | None

    def __str__(self) -> str:
        if self.path:
            return f"{self.path} ({self.kind}, {self.line})" if self.line else f"{self.path} ({self.kind})"
        return f"its forward ({self.line})" if self.line else "it"


def explain_capture(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    error: Exception,
    *,
    dynamic: bool = False,
    by_example: bool = False,
) -> str:
    """Why ``module(*args, **kwargs)`` can't be captured, where ``error`` is what capturing it raised."""
    name = type(module).__name__
    said = "\n".join(f"{type(each).__name__}: {each}" for each in _chain(error))
    for pattern, what, remedy in CAUSES:
        if found := re.search(pattern, said):
            remedy = remedy.replace(EXAMPLE, "") if by_example else remedy
            path = found[1] if found.re.groups else None
            place = Place(path, type(module.get_submodule(path)).__name__, None) if path else place_of(module, error)
            return f"{name} can't be captured: {place} {what}; {remedy}"
    try:
        module(*args, **kwargs)
    except Exception as fails:
        return (
            f"{name} can't be captured, since it does not run on the example inputs: {place_of(module, fails)} says "
            f"{first_line(fails)!r}; give inputs that its forward takes, gp.trace(model, args=(…,), kwargs={{…}})"
        )
    if dynamic:
        return (
            f"{name} can't be captured with open sizes: {place_of(module, error)} needs fixed ones "
            f"({first_line(error)}); trace it with dynamic=False"
        )
    missing = left_out(module, args, kwargs, error) if "'NoneType'" in said else []
    change = (
        f"give it {' and '.join(missing)}, which it makes itself only outside a capture" if missing else "change that"
    )
    return (
        f"{name} can't be captured: torch.export says {first_line(error)!r} of {place_of(module, error)}; {change}, "
        + PART
    )


def left_out(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> list[str]:
    """The arguments of ``module`` that were not given and are None in the innermost forward of a traceback."""
    signature = inspect.signature(module.forward)
    given = signature.bind_partial(*args, **kwargs).arguments
    inner: FrameType | None = None
    for each in _chain(error):
        for frame, _ in _frames(each):
            if frame.f_code.co_name == "forward" and isinstance(frame.f_locals.get("self"), nn.Module):
                inner = frame
    known = {} if inner is None else inner.f_locals
    return [name for name in signature.parameters if name not in given and name in known and known[name] is None]


def place_of(module: nn.Module, error: Exception) -> Place:
    """Where in ``module`` an error was raised; the module as a whole if its traceback does not say."""
    paths = {id(child): path for path, child in module.named_modules()}
    others = tuple(f"{Path(each).parent}{os.sep}" for each in (torch.__file__, __file__))
    for each in _chain(error):
        inside: nn.Module | None = None
        line: str | None = None
        for frame, number in _frames(each):
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in paths:
                inside = owner
            if inside is not None and not frame.f_code.co_filename.startswith((*others, "<")):
                line = f"{Path(frame.f_code.co_filename).name}:{number}"
        if inside is not None:
            return Place(paths[id(inside)], type(inside).__name__, line)
    return Place("", type(module).__name__, None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that caused it."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The calls of a traceback from the outermost inwards, and the line that each stands at."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next

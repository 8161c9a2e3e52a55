"""From what a user names to its pruning groups, in this order:

1. ``file.py:function`` or ``module:function``: it is called, and gives a model and an example of what the model takes.
2. A ``.pt2`` file, as ``torch.export.save`` writes it.
3. The directory of an adapter, with the model that it is for; a directory of ``gp.save``.
4. A model directory, or a name on the hub: made on the meta device, where tensors have shapes and no values, so that
   neither weights nor memory are needed and a directory with nothing but ``config.json`` is enough.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CaptureError, FileFormatError, GraphPruneError, SourceError
from ..files import names_onnx
from ..quiet import first_line, quietly

if TYPE_CHECKING:
    from types import ModuleType

    from ..progress import Progress
    from ..traced import TracedModel


def trace_named(
    name: str, *, lora: bool = False, batch: int = 2, length: int = 13, progress: Progress | None = None
) -> TracedModel:
    """The traced model that a user names.

    Args:
        name: see the cases above.
        lora: put adapters on the linear layers first, as ``graphprune prune`` does.
        batch: how many inputs a model that is made from its configuration is traced with.
        length: how many tokens are in each.
        progress: called with how far it has come, and how far it has to.

    Raises:
        SourceError: there is no such model, or it has no modules to put adapters on.
        FileFormatError: a file is truncated or corrupt, or no graph can be had from it.
        CaptureError: the model can't be captured.
    """
    path = Path(name).expanduser()
    if names_onnx(path):
        raise FileFormatError(
            f"{name} is an ONNX file, which holds ONNX operators and not those of torch that axes are known for: name "
            "the torch model that it was exported from, its .pt2, or a function that makes it, file.py:function"
        )
    if path.suffix == ".pt2" and not path.is_dir():
        if lora:
            raise SourceError(f"{name} holds a graph and no modules to put adapters on: leave out --lora")
        return _trace_exported(path, progress)
    if _names_function(name):
        return _trace_called(name, lora=lora, progress=progress)

    from ..sources.examples import trace_by_config

    return trace_by_config(model_on_meta(name, lora=lora), batch=batch, length=length, progress=progress)


def model_on_meta(name: str, *, lora: bool = False) -> Any:
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

    path = Path(name).expanduser()
    if is_adapter(path):
        return put_on(model_on_meta(str(find_base(path, weights=False))), path)
    if is_compact(path) and (read_about(path)["form"] != "transformers" or (path / ADAPTER).is_dir()):
        return _adapted(load(path), lora)  # layers of different sizes, or adapters: config.json does not tell
    return _adapted(on_meta(find_model(name, weights=False)), lora)


def title_of(name: str) -> str:
    """What a page calls the model that a user names: the last part of a path, else the name."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name


def _adapted(module: Any, lora: bool) -> Any:
    if not lora:
        return module
    from ..training.config import PruneConfig
    from ..training.finetune import with_adapters

    return with_adapters(module, PruneConfig(ratio=0.5))


def _trace_exported(path: Path, progress: Progress | None) -> TracedModel:
    import torch

    from ..pipeline import trace

    if not path.is_file():
        raise SourceError(f"There is no file {path}: check the path.")
    try:
        with quietly():
            program = torch.export.load(path)
    except Exception as error:  # whatever zipfile, json and torch find wrong
        raise FileFormatError(
            f"{path} can't be read by torch.export.load ({first_line(error)}): save it again with torch.export.save."
        ) from error
    if program.example_inputs is None:
        return trace(program, kwargs=_inputs_of(program), progress=progress)
    return trace(program, progress=progress)


def _inputs_of(program: Any) -> dict[str, Any]:
    """Inputs for a program that was saved without any, of the sizes that it was exported with."""
    import torch

    values = {str(node.target): node.meta["val"] for node in program.module().graph.find_nodes(op="placeholder")}
    return {
        name: torch.zeros([n.node.hint if isinstance(n, torch.SymInt) else n for n in value.shape], dtype=value.dtype)
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _names_function(name: str) -> bool:
    place, _, function = name.rpartition(":")
    return function.isidentifier() and (place.endswith(".py") or all(part.isidentifier() for part in place.split(".")))


def _trace_called(name: str, *, lora: bool, progress: Progress | None) -> TracedModel:
    """The traced model that a function gives, called with the working directory on the path of modules."""
    import torch
    from torch import nn

    from ..pipeline import trace

    place, _, function = name.rpartition(":")
    with _importing(str(Path(place).expanduser().resolve().parent) if place.endswith(".py") else str(Path.cwd())):
        module = _import(place)
        found = getattr(module, function, None)
        if not callable(found):
            raise SourceError(f"{place} has no function {function}: name one that it has, {place}:FUNCTION.")
        try:
            given = found()
        except GraphPruneError:
            raise
        except Exception as error:
            raise SourceError(f"{name} raised {type(error).__name__}: {first_line(error)}.") from error
        wanted = "a model and an example of what it takes: a tensor, a tuple of arguments or a dict of them by name"
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], nn.Module)):
            raise SourceError(f"{name} returned {_said(given)}, and not {wanted}.")
        model, example = given
        if not isinstance(example, (torch.Tensor, tuple, list, Mapping)):
            raise SourceError(f"{name} returned {_said(example)} beside the model, and not {wanted}.")
        if not len(example):
            raise CaptureError(f"{name} returned an empty example beside the model, and not {wanted}.")
        return trace(_adapted(model.eval(), lora), example, progress=progress)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(type(each).__name__ for each in value)})"
    return type(value).__name__


@contextmanager
def _importing(directory: str) -> Iterator[None]:
    """Within the context modules of a directory can be imported, as by a script in it."""
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)


def _import(place: str) -> ModuleType:
    """The module of a dotted name, or in a file."""
    path = Path(place).expanduser()
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if not path.is_file():
            raise SourceError(f"There is no file {place}: check the path.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None  # a .py file has a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # dataclasses look up the module that they are in
        spec.loader.exec_module(module)
    except GraphPruneError:
        raise
    except Exception as error:
        raise SourceError(f"{place} can't be imported: {type(error).__name__}: {first_line(error)}.") from error
    return module

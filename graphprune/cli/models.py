"""Opening what a user names: a Hugging Face directory, a name on the hub, a directory of ``gp.save``, an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..device import placed
from ..errors import FileFormatError
from ..export.directory import ABOUT, load
from ..export.manifest import read_about
from ..files import names_onnx, onnx_file
from ..onnx import first_inputs, open_session
from ..sources.adapter import find_base, is_adapter, put_on, tokenizer_place
from ..sources.model import find_model, load_weights, loading_watched, tokenizer_in
from .console import counted


@dataclass(frozen=True)
class Opened:
    """A model that can be run, however it is stored.

    ``forward`` is called as ``forward(input_ids=LongTensor[b, s])`` and returns logits, or an object with them.
    ``module`` is None for an ONNX file.
    """

    name: str
    directory: Path
    forward: Callable[..., Any]
    module: nn.Module | None
    parameters: int | None
    file_size: int


def is_compact(directory: Path) -> bool:
    """Whether ``gp.save`` wrote a directory."""
    return (directory / ABOUT).is_file()


@contextmanager
def loading(title: str, *, lasting: bool = True) -> Iterator[None]:
    """A stage in which a model is loaded, with how far that is; what is not ``lasting`` leaves no line behind."""
    with counted(title, lasting=lasting) as progress, loading_watched(progress):
        yield


def open_model(name: str, *, dtype: torch.dtype | Literal["auto"] = torch.float32, run: bool = False) -> Opened:
    """The model in a directory, of a name on the hub, or in an ONNX file; of an adapter with the model that it is for.

    ``dtype`` is what plain weights are loaded as, ``"auto"`` the types that they are stored in. A model that is to be
    ``run``, and not only written again, goes to the accelerator where there is one.

    Raises:
        SourceError: there is no such model.
        FileFormatError: it is truncated or corrupt.
    """
    path = Path(name).expanduser()
    if names_onnx(path):
        return open_onnx(path)
    if path.is_dir() and is_compact(path):
        directory, module, stored = path, load(path), [path]
    elif is_adapter(path):
        base = find_base(path)
        directory, module, stored = tokenizer_place(path, base), put_on(load_weights(base), path), [path, base]
    else:
        directory = find_model(name)
        sizes_differ = is_compact(directory) and read_about(directory)["form"] == "remote-code"
        module = load(directory) if sizes_differ else load_weights(directory, dtype=dtype)
        stored = [directory]
    module = placed(module) if run else module
    weights = {file for each in stored for file in each.rglob("*.safetensors")}
    return Opened(
        name=Path(name).name or name,
        directory=directory,
        forward=module,
        module=module,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        file_size=sum(file.stat().st_size for file in weights),
    )


def place_of(name: str) -> Path:
    """The directory that has the tokenizer of a model, if there is one; no weights are downloaded or read.

    Raises:
        SourceError: there is no such model.
    """
    path = Path(name).expanduser()
    if names_onnx(path):
        return onnx_file(path).parent
    if is_adapter(path):
        return tokenizer_place(path, find_base(path, weights=False))
    return find_model(name, weights=False)


def open_onnx(path: Path) -> Opened:
    """The model in an ONNX file, run by onnxruntime on the CPU.

    Raises:
        SourceError: there is no such file.
        FileFormatError: onnxruntime can't read it, or it does not take token ids.
    """
    # Threads that spin while they wait would slow down the torch model that is timed in turn with this one.
    session = open_session(path, threads=torch.get_num_threads(), spinning=False)
    names = [each.name for each in session.get_inputs()]
    if "input_ids" not in names or set(names) - first_inputs(session, np.zeros((1, 1), dtype=np.int64)).keys():
        raise FileFormatError(f"{path} takes {', '.join(names)} and not input_ids: it is no language model.")

    def forward(input_ids: torch.Tensor) -> np.ndarray[Any, Any]:
        feed = first_inputs(session, input_ids.numpy())
        logits: np.ndarray[Any, Any] = session.run(["logits"] if _gives_logits(session) else None, feed)[0]
        return logits

    weights = path.with_name(f"{path.name}.data")  # there for more than 2 GB
    size = path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)
    return Opened(path.name, path.parent, forward, None, None, size)


def _gives_logits(session: Any) -> bool:
    return any(each.name == "logits" for each in session.get_outputs())


def tokenizer_of(model: Opened) -> Any:
    """The tokenizer beside a model.

    Raises:
        SourceError: there is none.
    """
    return tokenizer_in(model.directory)

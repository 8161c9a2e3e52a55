"""The files that describe a directory of a compact model, read with a sentence for whatever is wrong with them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import FileFormatError
from ..files import check_safetensors
from ..plan import PruningPlan
from ..program import shapes_by_name
from ..quiet import first_line, quietly
from ..weight_files import INDEX, WEIGHTS, read_index

FORMAT = "graphprune-model/1"
ABOUT, PLAN, VERIFY, ADAPTER = "graphprune.json", "plan.json", "verify.json", "adapter"
DENSE_CONFIG = "dense_config.json"

Form = Literal["transformers", "remote-code", "per-layer", "graph"]


def read_about(directory: Path) -> dict[str, Any]:
    """What ``graphprune.json`` says.

    Raises:
        FileFormatError: ``gp.save`` did not write the directory, or another version did.
    """
    if not directory.is_dir():
        raise FileFormatError(f"there is no directory {directory}: name one that gp.save wrote")
    if not (directory / ABOUT).is_file():
        raise FileFormatError(
            f"{directory} has no {ABOUT}, so gp.save did not write it: load it with the library that did, such as "
            "transformers' from_pretrained"
        )
    about = read_object(directory / ABOUT)
    if about.get("format") != FORMAT or about.get("form") not in get_args(Form):
        raise FileFormatError(
            f"{directory / ABOUT} has format {about.get('format')!r}, form {about.get('form')!r}, and this graphprune "
            f"reads {FORMAT}: install the graphprune that wrote it"
        )
    return about


def read_plan(path: str | Path) -> PruningPlan:
    """The plan of a directory that ``gp.save`` wrote.

    Raises:
        FileFormatError: it is not there, or is not a plan.
    """
    return PruningPlan.load(Path(path) / PLAN)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileFormatError: it is missing, or holds none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileFormatError(f"{file} is missing: copy the whole directory, or save the model again") from error
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{file} can't be read as JSON ({first_line(error)}): save the model again") from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{file} is not a JSON object: save the model again")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    file.write_text(json.dumps(content, indent=2, allow_nan=True) + "\n", encoding="utf-8")


def write_generation_config(directory: Path, plain: nn.Module) -> None:
    """Write the generation config of a model, where it has one."""
    generation: Any = getattr(plain, "generation_config", None)
    if generation is not None:
        with quietly():
            generation.save_pretrained(directory)


def weight_files(directory: Path) -> list[Path]:
    """The files of the weights, whose headers can be read.

    Raises:
        FileFormatError: one is truncated or corrupt, missing, or outside the directory; the message names it.
        SourceError: one that the index names is missing.
    """
    index = directory / INDEX
    names = sorted(set(read_index(index)["weight_map"].values())) if index.is_file() else [WEIGHTS]
    for name in names:
        require_safetensors(directory / name)
    return [directory / name for name in names]


def require_safetensors(file: Path) -> None:
    """Read the header of a safetensors file, which must be there.

    Raises:
        FileFormatError: it is missing, truncated or corrupt.
    """
    if not file.is_file():
        raise FileFormatError(f"{file} is missing: copy the whole directory, or save the model again")
    check_safetensors(file)


def stored_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors in the files of the weights."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(directory):
        tensors |= load_file(file)
    return tensors


def wrong_shape(module: nn.Module, files: Iterable[Path]) -> str | None:
    """The first tensor that is stored in another shape than a module has it in; None where there is none."""
    wanted = shapes_by_name(module)
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (it is no mapping)
                shape = tuple(stored.get_slice(name).get_shape())
                if wanted.get(name, shape) != shape:
                    made = list(wanted[name])
                    return f"{name} is {list(shape)} in {file.name} and {made} in the model that config.json describes"
    return None


def transformers_class(name: str) -> Any | None:
    """A model class of transformers by its full name. No other package is imported for what a file says."""
    from transformers import PreTrainedModel

    module, _, attribute = name.rpartition(".")
    if not module.startswith("transformers."):
        return None
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, PreTrainedModel) else None


def require_class(about: Mapping[str, Any]) -> Any:
    """The class of transformers that a description names.

    Raises:
        FileFormatError: there is none.
    """
    name = str(about["architecture"])
    found = transformers_class(name)
    if found is None:
        raise FileFormatError(f"transformers has no model class {name}: install a version of transformers that has it")
    return found

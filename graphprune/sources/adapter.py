"""Adapters that were trained elsewhere: directories that peft wrote, on the models that they were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from ..device import device_of
from ..errors import FileFormatError, SourceError
from ..files import check_safetensors
from ..quiet import first_line, quietly
from .model import find_model, load_weights, tokenizer_in

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(name_or_path: str | Path) -> bool:
    """Whether a directory holds an adapter of peft, and no model of its own."""
    path = Path(name_or_path).expanduser()
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def load_adapted(
    adapter: str | Path,
    base: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    bits: Literal[8, 4] | None = None,
) -> tuple[Any, Any]:
    """A causal language model with an adapter that was trained elsewhere, and its tokenizer.

    The model is peft's ``PeftModel``, in evaluation mode; its adapter can be trained on. The tokenizer is that of the
    adapter, else that of the base.

    Args:
        adapter: a directory that peft wrote.
        base: the model to put it on, as for :func:`graphprune.sources.load_model`; without it the one that the adapter
            names.
        dtype: what the weights of the base are loaded as.
        bits: as for :func:`graphprune.sources.load_model`.

    Raises:
        SourceError: there is no such adapter or model, or one does not fit the other.
        FileFormatError: a file is truncated or corrupt.
    """
    directory = Path(adapter).expanduser()
    found = find_base(directory, base)
    # The tokenizer first: should it be missing, that shows at once.
    tokenizer = tokenizer_in(tokenizer_place(directory, found))
    return put_on(load_weights(found, dtype=dtype, bits=bits), directory), tokenizer


def tokenizer_place(adapter: Path, base: Path) -> Path:
    """Which of the two directories of an adapter and its base has the tokenizer that belongs to both."""
    return adapter if (adapter / "tokenizer_config.json").is_file() else base


def find_base(adapter: Path, base: str | Path | None = None, *, weights: bool = True) -> Path:
    """The local directory of ``base``, or of the model that an adapter says it was trained on.

    A relative directory that it names is one below the working directory, as for peft. Raises as :func:`load_adapted`.
    """
    file = adapter / CONFIG
    if not file.is_file():
        raise SourceError(f"There is no {CONFIG} in {adapter}: name a directory that peft wrote.")
    if base is not None:
        return find_model(base, weights=weights)
    try:
        name = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{file} is not a JSON object ({first_line(error)}): save the adapter again.") from error
    if not isinstance(name, str) or not name:
        raise SourceError(
            f"{file} does not say which model the adapter is for: name the model, and --adapter {adapter}."
        )
    try:
        return find_model(name, weights=weights)
    except SourceError as error:
        raise SourceError(
            f"The adapter in {adapter} was trained on {name}, which can't be found ({first_line(error)}): name the "
            f"place of that model, and --adapter {adapter}."
        ) from error


def put_on(model: Any, directory: Path) -> Any:
    """The model with the adapter in a directory; a model on the meta device gets an adapter of the same shapes.

    Raises:
        SourceError: peft can't put it there, or it is for a model of other layers.
    """
    from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict

    device = device_of(model)
    refused = f"The adapter in {directory} can't be put on this {type(model).__name__}"
    try:
        with quietly():
            if device.type == "meta":
                config: Any = PeftConfig.from_pretrained(str(directory))
                if hasattr(config, "init_lora_weights"):
                    config.init_lora_weights = True  # some ways start from the values of the weights
                return get_peft_model(model, config).eval()
            adapted: Any = PeftModel.from_pretrained(model, directory, is_trainable=True, torch_device=str(device))
            expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        with safe_open(directory / WEIGHTS, framework="pt") as stored:
            found = set(stored.keys())
    except Exception as error:  # whatever peft, safetensors or torch find wrong
        raise SourceError(f"{refused}: {first_line(error)}.") from error
    # peft leaves out what it finds no place for, and fills what it finds no values for with random numbers
    for name in sorted(expected - found):
        raise SourceError(f"{refused}: it has no {name}, so it was trained on another model.")
    for name in sorted(name for name in found - expected if ".lora_" in name):
        raise SourceError(f"{refused}: there is no place for its {name}, so it was trained on another model.")
    return adapted.eval()


def stored_values(model: Any, directory: Path) -> dict[str, Tensor]:
    """The values of an adapter in a directory, by the names that they have in a model that :func:`put_on` put it on.

    Raises:
        SourceError: it is for a model of other layers.
        FileFormatError: the file is truncated or corrupt.
    """
    from peft import get_peft_model_state_dict

    file = directory / WEIGHTS
    if not file.is_file():
        raise SourceError(f"There is no {WEIGHTS} in {directory}: save the adapter as safetensors.")
    check_safetensors(file)
    state = model.state_dict()
    names = list(state)
    # peft's own names for them, found by numbers in place of the tensors
    numbers = {name: torch.tensor(number) for number, name in enumerate(names)}
    stored_as = get_peft_model_state_dict(model, state_dict=numbers, save_embedding_layers=False)
    values: dict[str, Tensor] = {}
    with safe_open(file, framework="pt") as stored:
        found = set(stored.keys())
        for key, number in stored_as.items():
            name = names[int(number)]
            if key not in found or tuple(stored.get_slice(key).get_shape()) != tuple(state[name].shape):
                raise SourceError(
                    f"The adapter in {directory} has no {key} of shape {list(state[name].shape)}: it was trained on "
                    "another model."
                )
            values[name] = stored.get_tensor(key)
    return values

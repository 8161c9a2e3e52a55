"""Inputs to trace a transformers model with, of the shapes that its config tells of.

::

    main_input_name   pixel_values  ->  [batch, num_channels, image_size, image_size]
                      input_values  ->  [batch, samples]  or  [batch, max_length, num_mel_bins]
    a decoder beside it             ->  decoder_input_ids [batch, length]

A config does not tell everything, so these are candidates: the first that the model takes is the right one.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError
from ..pipeline import trace
from ..progress import Progress
from ..traced import TracedModel

IMAGE_SIDE, SAMPLES, FRAMES = 224, 16_000, 100
"""Where a config names no size: of images, of sound, of spectra."""


def trace_by_config(module: Any, *, batch: int = 2, length: int = 13, progress: Progress | None = None) -> TracedModel:
    """The traced form of a transformers model, on inputs without values that its config tells of.

    ``batch`` is how many inputs there are, ``length`` how many tokens are in each; ``progress``
    is as in :func:`graphprune.trace`.

    Raises:
        CaptureError: the model can't be captured, or its config does not tell what it takes.
    """
    first: CaptureError | None = None
    for inputs in candidates(module, batch=batch, length=length):
        try:
            return trace(module, kwargs=inputs, progress=progress)
        except CaptureError as error:
            first = first or error
    name, way_out = type(module).__name__, "name a function that gives model and inputs, file.py:function"
    if first is None:
        raise CaptureError(f"the config of {name} does not tell the shapes of its inputs: {way_out}")
    raise CaptureError(f"{first} (on inputs that its config tells of; for other ones {way_out})") from first


def candidates(module: Any, *, batch: int, length: int) -> list[dict[str, Tensor]]:
    """What the model may take, by the names of its arguments, the likeliest first; nothing where no name is known."""
    config = getattr(module, "config", None)
    main = getattr(module, "main_input_name", "input_ids")
    # Some parameters are made with values whatever the device is.
    device = "meta" if any(parameter.is_meta for parameter in module.parameters()) else "cpu"
    taken = inspect.signature(module.forward).parameters

    def tokens() -> Tensor:
        return torch.zeros(batch, length, dtype=torch.long, device=device)

    beside: dict[str, Tensor] = {}
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        beside["decoder_input_ids"] = tokens()
    if main == "input_ids":
        found = [{main: tokens(), **beside}] if _said(config, "vocab_size") else []
    else:
        shapes = _shapes(config, main)
        found = [{main: torch.zeros(batch, *shape, device=device), **beside} for shape in shapes]
    # One that compares texts with images or sounds takes both.
    others = [name for name in ("input_ids", "pixel_values", "input_features", "input_values") if name in taken]
    for name, inputs in itertools.product(others, tuple(found)):
        shapes = [] if name in inputs else [()] if name == "input_ids" else _shapes(config, name)
        found += [
            {**inputs, name: tokens() if name == "input_ids" else torch.zeros(batch, *shape, device=device)}
            for shape in shapes
        ]
    # Some make a mask by themselves, but not while they are captured.
    if main == "input_ids" and "attention_mask" in taken:
        mask = torch.ones(batch, length, dtype=torch.long, device=device)
        found += [{**inputs, "attention_mask": mask} for inputs in found]
    return found


def _shapes(config: Any, name: str) -> Sequence[tuple[int, ...]]:
    """The shapes that one input may have, without the batch."""
    bins = _said(config, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
    frames = _said(config, "max_length", "max_source_positions")
    match name:
        case "pixel_values":
            side = _said(config, "image_size")
            height, width = side if isinstance(side, (list, tuple)) else (side or IMAGE_SIDE,) * 2
            channels = _said(config, "num_channels", "in_channels", "in_chans") or 3
            return [(channels, height, width)]
        case "input_values":
            return [*([(frames, bins)] if bins and frames else []), (SAMPLES,)]
        case "input_features" if bins:
            # An encoder that halves the frames says how many are left.
            return [*([(bins, 2 * frames)] if frames else []), (FRAMES, bins)]
    return []


def _said(config: Any, *names: str) -> Any:
    """The first of some names that a config, or a config within it, has a value for; None where none has."""
    for name, each in itertools.product(names, _with_parts(config)):
        value = getattr(each, name, None)
        if value is not None:
            return value
    return None


def _with_parts(config: Any) -> Iterable[Any]:
    yield config
    for value in vars(config).values() if config is not None else ():
        if hasattr(value, "to_diff_dict"):
            yield from _with_parts(value)

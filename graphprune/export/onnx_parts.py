"""What of a model goes into an ONNX file, and under which names: all of it, a part of it, or a decoder with its cache.

1. The model itself, with the inputs that it was traced with.
2. The encoder of a model that has one, and the decoder behind it, each as a module of its own::

       input_ids, attention_mask                                -> last_hidden_state
       input_ids, encoder_hidden_states, encoder_attention_mask -> logits

3. A decoder with its key/value cache as tensors, in the names that runtimes expect. Each layer has its own number of
   heads and its own widths::

       input_ids [b, s], attention_mask [b, p + s], position_ids [b, s], past_key_values.N.{key,value} [b, h, p, d]
           -> logits [b, s, v], present.N.{key,value} [b, h, p + s, d]

   The cache of every layer holds all positions, so ``p`` is one number; a window that slides is left to the mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import ExportError
from ..onnx import PAST
from ..passes.trace import inference_mode_of
from ..quiet import first_line
from .onnx_check import Inputs, is_spec, resized, samples

DYNAMIC_NAMES = ("batch", "sequence")

Part = Literal["encoder", "decoder"]

CACHE_AGREES = 1e-3
"""Largest difference between logits with and without the cache, relative to the largest: rounding stays far below."""


@dataclass(frozen=True)
class Subject:
    """What is exported: a module with example inputs, and what its tensors are called.

    ``free`` are the dims of the inputs that may be free, most of them first, None for none. ``inputs`` is None where
    they have the names of the module's own arguments. ``samples`` gives the inputs to compare on, for the ``free`` that
    torch took. ``note`` says which sizes are fixed before torch has tried.
    """

    module: nn.Module
    example: Inputs
    free: tuple[Any, ...]
    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...]
    samples: Callable[[Any], list[Inputs]]
    remedy: str = "Check that torch.export captures it, or export the sub-module that you need"
    note: str | None = None


def whole(module: nn.Module, example: Inputs, dynamic: bool) -> Subject:
    """The model with the inputs that it was traced with.

    Raises:
        ExportError: it does not run on them.
    """
    try:
        example, outputs, note = _with_room(module, example) if dynamic else (example, _run(module, example), None)
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} does not run on the example inputs ({first_line(error)}): pass inputs=… that "
            "it takes"
        ) from error
    sizes: dict[tuple[str, int], str] = {}
    spec = tree_map(lambda value: _dims(value, sizes), example)
    return Subject(
        module,
        example,
        (spec, _batch_only(spec), None) if dynamic else (None,),
        None,
        tuple(_output_names(outputs)),
        lambda free: samples(module, example, free),
        note=note,
    )


def _run(module: nn.Module, example: Inputs) -> Any:
    with inference_mode_of(module):
        return module(*example[0], **example[1])


def encoder(model: nn.Module, example: Inputs, dynamic: bool) -> Subject:
    """The encoder of a model that has one; it takes those of the example inputs that it has arguments for.

    Raises:
        ExportError: the model has no encoder, or it does not run.
    """
    module = encoder_of(model)
    known = inspect.signature(module.forward).parameters
    named = _named_only(model, example)
    return whole(module, ((), {name: value for name, value in named.items() if name in known}), dynamic)


class _BehindEncoder(nn.Module):
    """A model of encoder and decoder that is given what its encoder gave."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Any:
        mask = {} if encoder_attention_mask is None else {"attention_mask": encoder_attention_mask}
        return self.model(
            encoder_outputs=(encoder_hidden_states,),
            decoder_input_ids=input_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **mask,
        )


class _LogitsOnly(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"logits": self.model(input_ids, encoder_hidden_states, encoder_attention_mask).logits}


def decoder(model: nn.Module, example: Inputs, dynamic: bool, *, cache: bool) -> Subject:
    """The decoder of a model that has an encoder too, with the states of the encoder among its inputs.

    With ``cache`` its own keys and values are inputs and outputs; those that it makes of the states of the encoder are
    made anew in each step.

    Raises:
        ExportError: the model has no encoder, or its cache can't be captured.
    """
    inner = encoder_of(model)
    named = _named_only(model, example)
    if "decoder_input_ids" not in named:
        raise ExportError(
            "the decoder can't be exported without example inputs for it: pass inputs={…, 'decoder_input_ids': …}"
        )
    known = inspect.signature(inner.forward).parameters
    with inference_mode_of(model):
        states = inner(**{name: value for name, value in named.items() if name in known})[0]
    given = {"input_ids": named["decoder_input_ids"], "encoder_hidden_states": states}
    mask = named.get("attention_mask")
    if getattr(model, "main_input_name", "input_ids") == "input_ids":  # a mask over samples of sound has another length
        given["encoder_attention_mask"] = torch.ones(states.shape[:2], dtype=torch.long) if mask is None else mask
    if cache:
        return _with_cache(_BehindEncoder(model), given, type(model).__name__, masked=False)
    module = _LogitsOnly(_BehindEncoder(model))
    found = whole(module, ((), given), dynamic)
    if not dynamic or found.note is not None:
        return found
    free = {"input_ids": {0: "batch", 1: "sequence"}, "encoder_hidden_states": {0: "batch", 1: "encoder_sequence"}}
    free["encoder_attention_mask"] = dict(free["encoder_hidden_states"])
    spec: Any = ((), {name: free[name] for name in found.example[1]})
    return Subject(module, found.example, (spec, _batch_only(spec), None), None, found.outputs, found.samples)


def with_cache(model: nn.Module, example: Inputs) -> Subject:
    """A decoder with its cache among its inputs and outputs.

    Raises:
        ExportError: its cache can't be captured; the message says why.
    """
    named = _named_only(model, example)
    if not isinstance(named.get("input_ids"), Tensor):
        raise ExportError(_refusal(type(model).__name__, "it takes no input_ids"))
    return _with_cache(model, {"input_ids": named["input_ids"]}, type(model).__name__, masked=True)


class _CacheAsTensors(nn.Module):
    """A decoder whose cache is a list of keys and values of its layers, among its inputs and outputs."""

    def __init__(self, model: nn.Module, make: Callable[[Any], Any]):
        super().__init__()
        self.model = model
        self.make = make

    def forward(self, inputs: dict[str, Tensor], past: list[list[Tensor]]) -> tuple[Tensor, ...]:
        outputs = self.model(**inputs, past_key_values=self.make(past), use_cache=True)
        return (outputs.logits, *(tensor for layer in _layers(outputs.past_key_values) for tensor in layer))


def _with_cache(model: nn.Module, given: Mapping[str, Tensor], name: str, *, masked: bool) -> Subject:
    make = _decoder_cache if masked else _cache_behind_encoder
    positions = masked and "position_ids" in inspect.signature(model.forward).parameters
    step = _CacheAsTensors(model, make)

    def sample(rows: int, past: int, new: int) -> Inputs:
        """Inputs of ``new`` tokens for ``rows`` rows, behind a cache of ``past`` positions."""
        fixed = {key: resized(value, {0: rows}) for key, value in given.items() if key != "input_ids"}
        ids = resized(given["input_ids"], {0: rows, 1: past + new})
        cache = make(None)
        with inference_mode_of(model):
            model(input_ids=ids[:, : past or 1], **fixed, past_key_values=cache, use_cache=True)
        inputs = {"input_ids": ids[:, past:], **fixed}
        if masked:
            inputs["attention_mask"] = torch.ones_like(ids)
        if positions:
            inputs["position_ids"] = torch.arange(past, past + new, device=ids.device).repeat(rows, 1)
        return (), {"inputs": inputs, "past": [[each[:, :, :past] for each in layer] for layer in _layers(cache)]}

    try:
        example = sample(2, 5, 3)
        with inference_mode_of(model):
            found = step(**example[1])[0]
            everything = {**example[1]["inputs"], "input_ids": resized(given["input_ids"], {0: 2, 1: 8})}
            everything.pop("position_ids", None)
            expected = model(**everything).logits[:, -3:]
    except Exception as error:
        raise ExportError(_refusal(name, first_line(error))) from error
    if not (found - expected).abs().max() <= CACHE_AGREES * max(1.0, float(expected.abs().max())):
        raise ExportError(_refusal(name, "its logits are others with a cache than without"))
    layers = range(len(example[1]["past"]))
    tensors = [f"{layer}.{kind}" for layer in layers for kind in ("key", "value")]
    free: dict[str, dict[int, str]] = {
        "input_ids": {0: "batch", 1: "sequence"},
        "attention_mask": {0: "batch", 1: "total_sequence"},
        "position_ids": {0: "batch", 1: "sequence"},
        "encoder_hidden_states": {0: "batch", 1: "encoder_sequence"},
        "encoder_attention_mask": {0: "batch", 1: "encoder_sequence"},
    }
    spec = {
        "inputs": {key: free[key] for key in example[1]["inputs"]},
        "past": [[{0: "batch", 2: "past_sequence"}] * 2 for _ in layers],
    }
    return Subject(
        step,
        example,
        (((), spec),),
        (*example[1]["inputs"], *(f"{PAST}{each}" for each in tensors)),
        ("logits", *(f"present.{each}" for each in tensors)),
        lambda _: [example, sample(1, 0, 4), sample(3, 6, 1)],
        "Export it without cache=True",
    )


def _decoder_cache(past: list[list[Tensor]] | None) -> Any:
    """A cache of transformers that holds all positions in every layer, whatever the model's config says."""
    from transformers import DynamicCache

    return DynamicCache([(key, value) for key, value in past] if past else None)


def _cache_behind_encoder(past: list[list[Tensor]] | None) -> Any:
    from transformers import EncoderDecoderCache

    return EncoderDecoderCache(_decoder_cache(past), _decoder_cache(None))


def _layers(cache: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values ``[b, h, s, d]`` of each layer."""
    own = getattr(cache, "self_attention_cache", cache)
    for index, layer in enumerate(own.layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not all(isinstance(each, Tensor) and each.ndim == 4 for each in (keys, values)):
            raise ExportError(f"layer {index} of its cache holds no keys and values of positions")
        yield keys, values  # type: ignore[misc]


def _refusal(name: str, reason: str) -> str:
    return f"the cache of {name} can't be captured ({reason}): export it without cache=True"


def encoder_of(model: nn.Module) -> nn.Module:
    """The encoder of a model that has a decoder too.

    Raises:
        ExportError: it is not made of them.
    """
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        raise ExportError(f"{type(model).__name__} is not made of an encoder and a decoder: export it without part=…")
    return model.get_encoder()  # type: ignore[no-any-return, operator]


def _named_only(model: nn.Module, example: Inputs) -> dict[str, Any]:
    if example[0]:
        raise ExportError(
            f"a part of {type(model).__name__}, or its cache, is exported from inputs with names: pass inputs={{…}}"
        )
    return example[1]


def _dims(value: Any, sizes: dict[tuple[str, int], str]) -> dict[int, str] | None:
    """The dims of one input that may be free, with names; ``sizes`` holds the names given so far.

    Torch takes a size of one for one that stays.
    """
    if not isinstance(value, Tensor):
        return None
    names: dict[int, str] = {}
    for dim, (name, size) in enumerate(zip(_named_dims(value), value.shape, strict=False)):
        if size != 1:
            others = [key for key in sizes if key[0] == name]
            names[dim] = sizes.setdefault((name, size), name if not others else f"{name}_{len(others) + 1}")
    return names


def _named_dims(value: Tensor) -> tuple[str, ...]:
    """What the first dims of an input are called; features and pixels have as many positions as the model has."""
    return DYNAMIC_NAMES[:1] if value.is_floating_point() else DYNAMIC_NAMES


def _batch_only(spec: Any) -> Any:
    def first(dims: Any) -> Any:
        return dims and {dim: name for dim, name in dims.items() if dim == 0}

    return tree_map(first, spec, is_leaf=is_spec)


def _with_room(module: nn.Module, example: Inputs) -> tuple[Inputs, Any, str | None]:
    """Inputs whose free dims have at least two positions, and what the module gives for them.

    These inputs, and why, where the module does not run on such.
    """
    wider = _two_of_each(example)
    try:
        return wider, _run(module, wider), None
    except Exception as error:
        note = f"sizes of one could not be left free: {first_line(error)}"
    return example, _run(module, example), note


def _two_of_each(example: Inputs) -> Inputs:
    """Inputs whose free dims have at least two positions."""

    def widen(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        sizes = zip(_named_dims(value), value.shape, strict=False)
        ones = {dim: 2 for dim, (_, size) in enumerate(sizes) if size == 1}
        return resized(value, ones) if ones else value

    args, kwargs = tree_map(widen, example)
    return args, kwargs


def _output_names(outputs: Any) -> list[str]:
    """A name for each output tensor: the key where the module returns a mapping."""
    if isinstance(outputs, Tensor):
        return ["output"]
    pairs = outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs)
    names: list[str] = []
    for key, value in pairs:
        stem = str(key) if isinstance(outputs, Mapping) else f"output_{key}"
        count = sum(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
        names += [stem] if count == 1 else [f"{stem}_{index}" for index in range(count)]
    return names

"""GGUF, the format of llama.cpp, from a directory of a model of transformers.

What llama.cpp's own converter (``convert_hf_to_gguf.py``) does for families whose conventions are few, as tables: names
come from the ``gguf`` package, numbers from config.json, tokens from tokenizer.json. For other families the error gives
the command of that converter, which reads the same directory.

::

    model.layers.0.self_attn.q_proj.weight   ->   blk.0.attn_q.weight     rows of a head in pairs, for llama
    config.json  intermediate_size           ->   llama.feed_forward_length
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import ExportError
from ..files import new_file, refuse_existing
from ..progress import Progress, Watched
from ..version import __version__
from .manifest import PLAN, read_object, read_plan, weight_files

Dtype = Literal["f32", "f16", "bf16"]
"""The type of matrices; vectors (norms, biases) are float32, as llama.cpp wants them."""

FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}


@dataclass(frozen=True)
class Family:
    """How llama.cpp calls a family, and whether its rotary embedding pairs neighbouring rows of a head."""

    architecture: str
    paired: bool


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family("llama", paired=True),
    "MistralForCausalLM": Family("llama", paired=True),
    "Qwen2ForCausalLM": Family("qwen2", paired=False),
    "Qwen3ForCausalLM": Family("qwen3", paired=False),
}

NUMBERS: Mapping[str, str] = {
    "max_position_embeddings": "add_context_length",
    "hidden_size": "add_embedding_length",
    "num_hidden_layers": "add_block_count",
    "intermediate_size": "add_feed_forward_length",
    "num_attention_heads": "add_head_count",
    "num_key_value_heads": "add_head_count_kv",
    "rms_norm_eps": "add_layer_norm_rms_eps",
    "vocab_size": "add_vocab_size",
}
"""Numbers of a config, and the method of ``gguf.GGUFWriter`` that writes each."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

SPLITTERS: Mapping[tuple[str, ...], str] = {
    ("bytes and words",): "gpt-2",
    ("digits", "bytes and words"): "smollm",
    (_WORDS + r"\p{N}" + _OTHERS, "bytes"): "qwen2",
    (_WORDS + r"\p{N}{1,3}" + _OTHERS, "bytes"): "llama-bpe",
}
"""How a tokenizer splits text before it merges bytes, and how llama.cpp calls that."""

NORMALIZERS: Mapping[str, tuple[str | None, ...]] = {"qwen2": (None, "NFC")}
"""What may be done to text before that; nothing where a splitter is not named. llama.cpp leaves text as it is."""


@dataclass(frozen=True)
class GGUFReport:
    """What was written: the file, its size, and the number of tensors and tokens (0 without a tokenizer)."""

    path: Path
    bytes: int
    tensors: int
    tokens: int


def export_gguf(
    directory: str | Path, path: str | Path, *, dtype: Dtype = "f16", progress: Progress | None = None
) -> GGUFReport:
    """Write the model in a directory, its tokenizer included, to a new GGUF file.

    The directory is one that transformers loads, such as ``gp.save`` writes where all layers are alike; one file of its
    weights is in memory at a time, and no model is made. Without a tokenizer the file has tokens by number only.
    ``progress`` is called with the tensors that are written, and how many there are.

    Raises:
        OutputExistsError: ``path`` exists.
        FileFormatError: a file is missing, truncated or corrupt.
        ExportError: the family has conventions of its own, or llama.cpp has no form for the model; the message says
            what to do instead.
        DiskFullError: the disk is full.
    """
    directory, path = Path(directory), Path(path)
    config, family, vocabulary = _readable(directory, path, dtype)
    files = weight_files(directory)

    import gguf

    names = gguf.get_tensor_name_map(_architecture(gguf, family), int(config["num_hidden_layers"]))
    with new_file(path) as temporary:
        writer: Any = gguf.GGUFWriter(temporary, family.architecture)
        _write_description(writer, gguf, directory, config, dtype)
        _write_vocabulary(writer, gguf, directory, config, vocabulary)
        count = _write_tensors(writer, gguf, files, names, config, family, dtype, progress)
        writer.close()
    return GGUFReport(path, path.stat().st_size, count, len(vocabulary.tokens) if vocabulary else 0)


def predict_gguf(
    directory: str | Path, path: str | Path, shapes: Mapping[str, Sequence[int]], *, dtype: Dtype = "f16"
) -> GGUFReport:
    """What :func:`export_gguf` would write, of a model whose tensors have these shapes; none of them is read.

    The size is that of the tensors, the tokens and the merges of the tokenizer, without some kilobytes of a header.

    Raises:
        OutputExistsError, FileFormatError, ExportError: as :func:`export_gguf` would.
    """
    directory, path = Path(directory), Path(path)
    _, _, vocabulary = _readable(directory, path, dtype)
    size = sum(_stored_bytes(shape, dtype) for shape in shapes.values())
    if vocabulary is not None:
        merges = (read_object(directory / "tokenizer.json").get("model") or {}).get("merges") or ()
        said = [*vocabulary.tokens, *(each if isinstance(each, str) else " ".join(each) for each in merges)]
        size += sum(8 + len(each.encode()) for each in said) + 4 * len(vocabulary.types)
    return GGUFReport(path, size, len(shapes), len(vocabulary.tokens) if vocabulary else 0)


def _readable(directory: Path, path: Path, dtype: Dtype) -> tuple[Mapping[str, Any], Family, _Vocabulary | None]:
    """What is known of a model before its weights are read: its config, its family and its tokens."""
    refuse_existing(path)
    if dtype not in get_args(Dtype):
        raise ExportError(f"dtype must be one of {', '.join(get_args(Dtype))}, not {dtype!r}")
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ExportError("GGUF files are written by the package gguf: pip install 'graphprune[demo]'") from error
    config = read_object(directory / "config.json")
    command = f"python convert_hf_to_gguf.py {directory} --outfile {path} --outtype {dtype}"
    return config, _family(config, command), _vocabulary(directory, int(config["vocab_size"]), command)


def _stored_bytes(shape: Sequence[int], dtype: Dtype) -> int:
    """Matrices have the type that was asked for, and vectors single precision."""
    return math.prod(shape) * (2 if dtype != "f32" and len(shape) > 1 else 4)


def _family(config: Mapping[str, Any], command: str) -> Family:
    """The family of a config that says no more than the tables do.

    Raises:
        ExportError: there is none.
    """
    if "pruned" in config:
        raise ExportError(
            "the layers of this model differ in size, for which llama.cpp has no form: prune with gp.select(…, "
            'target="hf"), which cuts them alike'
        )
    name = next(iter(config.get("architectures") or ["a model without a name"]))
    family = FAMILIES.get(name)
    rope = config.get("rope_parameters") or {}
    why = None
    if family is None:
        why = f"{name} has conventions of its own in GGUF"
    elif rope.get("rope_type", "default") != "default":
        why = f"rotary embedding of type {rope['rope_type']!r} has conventions of its own in GGUF"
    if family is None or why is not None:
        raise ExportError(f"{why}: convert the directory with the converter of llama.cpp, {command}")
    return family


def _architecture(gguf: Any, family: Family) -> Any:
    return next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)


@dataclass(frozen=True)
class _Vocabulary:
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    splitter: str


def _vocabulary(directory: Path, size: int, command: str) -> _Vocabulary | None:
    """The tokens in a directory; None where it has no tokenizer.

    Raises:
        ExportError: they are not those of a byte-level BPE of a kind that is known.
    """
    import gguf

    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    described = read_object(file)
    model = described.get("model") or {}
    splitter = SPLITTERS.get(tuple(_steps(described.get("pre_tokenizer"))))
    normalizer = (described.get("normalizer") or {}).get("type")
    plain = model.get("type") == "BPE" and not model.get("byte_fallback")
    if splitter is None or not plain or normalizer not in NORMALIZERS.get(splitter, (None,)):
        raise ExportError(
            f"the tokenizer in {file} splits text in a way that has no name here: convert the directory with the "
            f"converter of llama.cpp, {command}"
        )
    kinds = gguf.TokenType
    tokens = {int(number): (token, kinds.NORMAL) for token, number in model["vocab"].items()}
    for added in described.get("added_tokens", ()):
        tokens[int(added["id"])] = added["content"], kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    rows = [tokens.get(number, (f"[PAD{number}]", kinds.UNUSED)) for number in range(max(size, *tokens, 0))]
    if len(rows) > size:
        raise ExportError(f"{file} has {len(rows)} tokens, and the model has embeddings for {size}: save both again")
    return _Vocabulary(tuple(token for token, _ in rows), tuple(int(kind) for _, kind in rows), str(splitter))


def _steps(described: Any) -> Iterator[str]:
    """The steps of a pre-tokenizer, as the keys of ``SPLITTERS`` have them."""
    match described:
        case {"type": "Sequence", "pretokenizers": steps}:
            for step in steps:
                yield from _steps(step)
        case {"type": "ByteLevel", "use_regex": bool(words)}:
            yield "bytes and words" if words else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            yield "digits"
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
            yield pattern
        case _:
            yield json.dumps(described)


def _write_description(writer: Any, gguf: Any, directory: Path, config: Mapping[str, Any], dtype: Dtype) -> None:
    heads = int(config["num_attention_heads"])
    head_dim = config.get("head_dim") or int(config["hidden_size"]) // heads
    writer.add_type("model")
    writer.add_name(directory.resolve().name)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, method in NUMBERS.items():
        getattr(writer, method)(config.get(name, heads if name == "num_key_value_heads" else None))
    for method in ("add_rope_dimension_count", "add_key_length", "add_value_length"):
        getattr(writer, method)(head_dim)
    rope = config.get("rope_parameters") or {}
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    writer.add_string("graphprune.version", __version__)
    if (directory / PLAN).is_file():
        writer.add_string("graphprune.plan", read_plan(directory).digest)


def _write_vocabulary(
    writer: Any, gguf: Any, directory: Path, config: Mapping[str, Any], vocabulary: _Vocabulary | None
) -> None:
    if vocabulary is None:
        writer.add_tokenizer_model("no_vocab")
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.splitter)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    gguf.SpecialVocab(directory, load_merges=True, n_vocab=int(config["vocab_size"])).add_to_gguf(writer, quiet=True)


def _write_tensors(
    writer: Any,
    gguf: Any,
    files: list[Path],
    names: Any,
    config: Mapping[str, Any],
    family: Family,
    dtype: Dtype,
    progress: Progress | None,
) -> int:
    """Write all tensors, the header first: it says where each will lie, so shapes are read before values are."""
    kinds = gguf.GGMLQuantizationType
    found: list[tuple[Path, str, Any]] = []
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (it is no mapping)
                target = names.get_name(name, try_suffixes=(".weight", ".bias"))
                if target is None:
                    raise ExportError(f"llama.cpp has no name for {name} in {file}: leave it out of the model")
                shape = stored.get_slice(name).get_shape()
                kind = kinds[dtype.upper()] if len(shape) > 1 else kinds.F32
                size = _stored_bytes(shape, dtype)
                writer.add_tensor_info(target, shape, np.dtype(np.float32), size, raw_dtype=kind)
                found.append((file, name, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for file, name, kind in Watched(found, progress):
        with safe_open(file, framework="pt") as stored:
            tensor = _converted(name, stored.get_tensor(name), config, family)
        values = np.ascontiguousarray(tensor.to(torch.float32).numpy())
        writer.write_tensor_data(gguf.quants.quantize(values, kind))
    return len(found)


def _converted(name: str, tensor: Tensor, config: Mapping[str, Any], family: Family) -> Tensor:
    """A tensor as llama.cpp wants it: of queries and keys the two halves of each head interleaved.

    ::

        (heads (half half)) in    ->    (heads pairs two) in
    """
    counts = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    count = counts.get(name.split(".")[-2])
    if not family.paired or count is None:
        return tensor
    heads = int(config.get(count, config["num_attention_heads"]))
    rows = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return rows.transpose(1, 2).reshape(tensor.shape)

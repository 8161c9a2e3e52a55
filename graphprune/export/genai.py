"""Directories that onnxruntime-genai runs: a decoder with its cache, its config, and its tokenizer.

::

    out/  model.onnx  genai_config.json  tokenizer.json  tokenizer_config.json        onnxruntime_genai.Model("out")

``genai_config.json`` has one number of heads and one head size. onnxruntime-genai takes the shape of each layer's cache
from the model, so layers may differ; only buffers shared by past and present (``past_present_share_buffer``) would need
other operators, and are turned off.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..compact import CompactModel
from ..errors import ExportError
from ..files import new_directory
from ..onnx import PAST
from ..plan import PruningPlan
from ..progress import Progress
from ..quiet import quietly
from .manifest import write_json
from .onnx import OLDEST_OPSET, OnnxReport, export_onnx
from .rounding import Precision

MODEL, CONFIG = "model.onnx", "genai_config.json"


def export_genai(
    model: CompactModel | nn.Module,
    path: str | Path,
    *,
    tokenizer: Any,
    precision: Precision = "fp32",
    opset: int = OLDEST_OPSET,
    plan: PruningPlan | None = None,
    progress: Progress | None = None,
) -> OnnxReport:
    """Write a decoder to a new directory for onnxruntime-genai; ``progress`` as in :func:`graphprune.export_onnx`.

    Raises:
        OutputExistsError: ``path`` exists.
        ExportError: the model is no decoder whose cache can be captured, or does not say how long a text may be.
        DiskFullError: the disk is full.
    """
    module: Any = model.module_form if isinstance(model, CompactModel) else model
    length = context_length(module, tokenizer)
    with new_directory(path) as directory:
        report = export_onnx(
            model, directory / MODEL, cache=True, precision=precision, opset=opset, plan=plan, progress=progress
        )
        config = genai_config(report, module, tokenizer, length)
        write_json(directory / CONFIG, config)
        with quietly():
            tokenizer.save_pretrained(directory)
        size = sum(file.stat().st_size for file in directory.iterdir())
    return replace(report, path=Path(path).absolute() / MODEL, bytes=size)


def context_length(module: Any, tokenizer: Any) -> int:
    """How many tokens the model takes, as its config says, or else its tokenizer.

    Raises:
        ExportError: neither says it.
    """
    said = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if not isinstance(said, int):
        said = getattr(tokenizer, "model_max_length", None)
    if not isinstance(said, int) or said > 10**9:  # tokenizers say 10**30 for "no limit"
        raise ExportError(
            f"neither the config of {type(module).__name__} nor its tokenizer says how many tokens it takes: set "
            "tokenizer.model_max_length"
        )
    return said


def genai_config(report: OnnxReport, module: Any, tokenizer: Any, length: int) -> dict[str, Any]:
    """What ``genai_config.json`` says of an exported decoder."""
    config = module.config
    ends = _ends(module, tokenizer)
    starts = [each for each in (config.bos_token_id, tokenizer.bos_token_id, *ends) if each is not None]
    _, heads, _, width = report.inputs[f"{PAST}0.key"]
    names = [name for name in ("input_ids", "attention_mask", "position_ids") if name in report.inputs]
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": starts[0] if starts else 0,
            "eos_token_id": ends,
            "pad_token_id": next((each for each in (tokenizer.pad_token_id, *ends) if each is not None), 0),
            "context_length": length,
            "vocab_size": config.vocab_size,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": MODEL,
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": report.cached_layers,
                "num_key_value_heads": heads,
                "head_size": width,
                "inputs": {
                    **{name: name for name in names},
                    "past_key_names": f"{PAST}%d.key",
                    "past_value_names": f"{PAST}%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, "max_length": length, "num_beams": 1, "past_present_share_buffer": False},
    }


def _ends(module: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text, as generation is set up to."""
    said = [getattr(getattr(module, "generation_config", None), "eos_token_id", None), tokenizer.eos_token_id]
    first: Any = next((each for each in said if each is not None), [])
    return list(first) if isinstance(first, (list, tuple)) else [first]

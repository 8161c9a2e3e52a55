"""Perplexity of compact models whose weights are stored in few bits, beside the model that they were cut from.

    python tools/bench/quantise.py DENSE COMPACT --test wikitext-2/test.txt --windows 40

Each model is a directory that plain ``from_pretrained`` loads. What a row does to a model is the function of
its name below. Needs ``graphprune[quantized]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.evaluation import perplexity
from graphprune.quantised import require_groups
from graphprune.quiet import quietly
from graphprune.sources import load_model, windows

GROUP = 32
"""Columns that share a scale in 4 bits."""

HEAD = "lm_head"
"""It stays whole, since it is tied to the embeddings, which can't be stored in few bits."""


def plain(directory: Path) -> Any:
    """The weights as they are."""
    return load_model(directory)[0]


def torchao_int8(directory: Path) -> Any:
    """A scale for each row."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = load_model(directory)[0]
    quantize_(model, Int8WeightOnlyConfig(), filter_fn=_is_inner)
    return model


def torchao_int4(directory: Path) -> Any:
    """A scale for each run of 32 columns, which must divide the widths that are left."""
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    model = load_model(directory)[0]
    require_groups(model, GROUP, ignore=[HEAD])
    four: Any = torch.int4  # type: ignore[attr-defined]
    quantize_(model, IntxWeightOnlyConfig(weight_dtype=four, granularity=PerGroup(GROUP)), filter_fn=_is_inner)
    return model


def bitsandbytes_int8(directory: Path) -> Any:
    """A scale for each row; inputs are rounded to 8 bits too."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


def bitsandbytes_nf4(directory: Path) -> Any:
    """A scale for each block of 64 numbers, over the ends of rows."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=config, dtype=torch.float32)


def _is_inner(module: nn.Module, path: str) -> bool:
    return isinstance(module, nn.Linear) and path != HEAD


WAYS: Mapping[str, Callable[[Path], Any]] = {
    "plain": plain,
    "torchao int8": torchao_int8,
    "torchao int4": torchao_int4,
    "bitsandbytes int8": bitsandbytes_int8,
    "bitsandbytes nf4": bitsandbytes_nf4,
}


def main() -> None:
    """Print a row for each model and each way to store it, as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--test", type=Path, required=True, help="the text to score")
    parser.add_argument("--window", type=int, default=128, help="tokens in a window")
    parser.add_argument("--windows", type=int, default=40, help="score the first N windows")
    options = parser.parse_args()
    text = options.test.read_text(encoding="utf-8")
    print("| model | weights | parameters | perplexity |\n| --- | --- | ---: | ---: |")
    for directory in options.models:
        with quietly():
            dense, tokenizer = load_model(directory)
        ids = windows(tokenizer, text, options.window)[: options.windows]
        count = dense.num_parameters()
        del dense
        for name, make in WAYS.items():
            with quietly():
                score = perplexity(make(directory), ids)
            print(f"| {directory.name} | {name} | {count:,} | {score:.2f} |", flush=True)


if __name__ == "__main__":
    main()

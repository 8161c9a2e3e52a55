"""Measure the main job on SmolLM2-135M: seconds of each stage, peak memory, and perplexity dense / untuned / tuned.

    python tools/bench/slice.py --tune valid.txt --test test.txt --ratio 0.2 --output slice.json

The tuning text is tuned on, the test text is only scored: its first windows of 128 tokens, without overlap, mean over
predicted tokens. The ratio is a true share of all parameters of the delivered (merged) model.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.evaluation import perplexity
from graphprune.files import write_text_atomically
from graphprune.quiet import quietly
from graphprune.sources import demo_model_directory, load_model, windows
from graphprune.training.config import PruneConfig
from graphprune.training.finetune import TuneProgress, prune_while_tuning


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", type=Path, required=True, help="text to tune on")
    parser.add_argument("--test", type=Path, required=True, help="text that is only scored")
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=None, help="optimiser steps; default: one pass over the text")
    parser.add_argument("--windows", type=int, default=200, help="windows of 128 tokens of the test text")
    parser.add_argument("--free", action="store_true", help="let layers differ in size; default: homogeneous")
    parser.add_argument("--output", type=Path, default=None, help="where to write the figures as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with quietly():
        figures = measure(options)
    print(table(figures))
    if options.output:
        write_text_atomically(options.output, json.dumps(figures, indent=2) + "\n", overwrite=True)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure of the table."""
    torch.manual_seed(0)
    seconds: dict[str, float] = {}
    model, tokenizer = load_model(demo_model_directory())
    tune = windows(tokenizer, options.tune.read_text(encoding="utf-8"), 128)
    test = windows(tokenizer, options.test.read_text(encoding="utf-8"), 128)[: options.windows]
    result: dict[str, Any] = {"dense": row(model, model, test)}

    # untuned: adapters that are fresh, one score over 32 windows, and the cut
    config = PruneConfig(ratio=options.ratio, homogeneous=not options.free, epochs=1, steps=options.steps)
    adapted = with_adapters(model, config)
    traced = gp.trace(adapted, (), {"input_ids": tune[:2, :13]})
    seconds |= traced.seconds
    with timed(seconds, "score"):
        scores = gp.score(traced, "lora", data=[{"input_ids": batch} for batch in tune[:32].split(4)])
    with timed(seconds, "score, magnitude"):
        gp.score(traced, "magnitude")
    with timed(seconds, "select"):
        plan = gp.select(traced, scores, ratio=options.ratio, of="base", homogeneous=not options.free, form="module")
    compact = gp.rewrite(traced, plan, adapters="merge")
    if compact.report is not None:
        seconds |= compact.report.seconds
    result["pruned untuned"] = row(compact.module, model, test)
    result["peak MB of trace to verify"] = peak_megabytes()
    del adapted, traced, compact

    model, _ = load_model(demo_model_directory())
    with tempfile.TemporaryDirectory() as directory, timed(seconds, "tune"):
        tuned = prune_while_tuning(model, None, tune, config, Path(directory) / "run", progress=show)
    compact = gp.rewrite(tuned.traced, tuned.plan, adapters="merge")
    result["pruned tuned"] = row(compact.module, None, test, dense=result["dense"]["parameters"])
    result["peak MB"] = peak_megabytes()
    result["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    result["report"] = str(compact.report)
    result["config"] = asdict(config)
    result["machine"] = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return result


def with_adapters(model: nn.Module, config: PruneConfig) -> nn.Module:
    """The model with fresh LoRA adapters on all its linear layers."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=config.lora_rank, lora_alpha=int(config.lora_alpha), target_modules="all-linear")
    return get_peft_model(model, lora)


def row(model: nn.Module, original: nn.Module | None, test: Tensor, dense: int | None = None) -> dict[str, Any]:
    """Parameters, share removed and perplexity of one model."""
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" not in name)
    whole = dense or sum(p.numel() for name, p in (original or model).named_parameters() if ".lora_" not in name)
    return {
        "parameters": count,
        "removed": round(1 - count / whole, 4),
        "perplexity": round(perplexity(model, test), 2),
    }


def show(progress: TuneProgress) -> None:
    """One line every twenty steps."""
    if progress.step % 20 == 0:
        print(
            f"step {progress.step}/{progress.total} loss {progress.loss:.3f} pruned {progress.sparsity:.1%}", flush=True
        )


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long a block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def peak_megabytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def table(figures: dict[str, Any]) -> str:
    """The figures as two Markdown tables."""
    lines = ["| model | parameters | removed | perplexity |", "| --- | ---: | ---: | ---: |"]
    for name in ("dense", "pruned untuned", "pruned tuned"):
        each = figures[name]
        lines.append(f"| {name} | {each['parameters']:,} | {each['removed']:.1%} | {each['perplexity']:.2f} |")
    lines += ["", "| stage | seconds |", "| --- | ---: |"]
    lines += [f"| {name} | {value:.2f} |" for name, value in figures["seconds"].items()]
    peak, whole = figures["peak MB of trace to verify"], figures["peak MB"]
    lines += ["", f"Peak memory: {peak} MB from trace to verify, {whole} MB with tuning."]
    lines += [f"Verification: {figures['report']}.", f"Machine: {figures['machine']}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""``graphprune demo``: everything on a real model, in minutes on two cores.

1. Trace the model on the meta device: groups, and multiply-accumulates for one window.
2. Measure the dense model.
3. Prune it at once (untuned), by the same criterion and to the same ratio.
4. Prune it while it is fine-tuned (tuned).
5. Export all three to ONNX, compare each with torch, and time them in turn.
6. Save the tuned model, its ONNX file and the report.

Everything is written to a temporary directory that gets its name at the end: a demo that is interrupted leaves nothing.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..budget import mac_cost
from ..compact import CompactModel
from ..device import default_device, described, placed
from ..errors import TrainingInterrupted
from ..evaluation import perplexity
from ..export.directory import save
from ..export.onnx import export_onnx
from ..files import new_directory, refuse_existing
from ..pipeline import rewrite
from ..plan import PruningPlan
from ..progress import Progress
from ..report.run import ScoreRow, report_run, score_rows
from ..report.run_page import PAGE, write_report
from ..report.tables import Measurement, comparison_table
from ..report.tree import groups_tree
from ..sources import demo_model_directory, load_model, load_text, windows
from ..traced import TracedModel
from ..training.config import PruneConfig
from ..training.oneshot import plan_at_once
from .apply import checked
from .console import counted, duration, say, show, show_table
from .details import tell_compact, tell_files, tell_groups, tell_module, tell_onnx
from .evaluate import milliseconds
from .inspect import show_summary
from .models import Opened, loading, open_onnx
from .prune import tuned
from .report import DIRECTORY, TUNED_AND_NOT, or_warn
from .tracing import trace_named

WINDOW = 128
PROMPT = "An object in Python is"


@dataclass(frozen=True)
class Variant:
    """One row of the demo's table: a model, and what is known of it."""

    row: Measurement
    module: nn.Module
    onnx: Opened


def demo(
    output: Path,
    *,
    ratio: float,
    steps: int,
    text: str | None = None,
    model: str | None = None,
    limit: int = 64,
    prompt: str = PROMPT,
    seed: int = 0,
) -> None:
    """Run the demo and write what it makes to a new directory.

    Args:
        output: the directory to write.
        ratio: the share of the parameters to remove.
        steps: optimiser steps of tuning.
        text: what to tune and to measure on; as :func:`graphprune.sources.load_text`.
        model: a model directory or a name on the hub; without it SmolLM2-135M-Instruct.
        limit: at most so many held-out windows are scored.
        prompt: what the generated sentence begins with.
        seed: of the order of the data and of the adapters.

    Raises:
        GraphPruneError: whatever a stage raises.
    """
    refuse_existing(output)
    start = time.perf_counter()
    config = demo_config(ratio, steps, seed)
    split = load_text(text)
    source = model or str(demo_model_directory(progress=say))
    show(f"model {source}")
    show(f"text  {split.name}, its held-out part for measuring")
    with counted("trace without weights, find the groups") as progress:
        meta = trace_named(source, batch=2, length=WINDOW, progress=progress)
    tell_groups(meta)
    show_summary(meta)
    show()
    show_table(groups_tree(meta, meta.groups))
    show()
    dense, tokenizer = _load(source)
    tell_module(dense)
    training = windows(tokenizer, split.train, WINDOW)
    held_out = windows(tokenizer, split.held_out, WINDOW)[:limit]
    with new_directory(output) as directory:
        scratch = directory / "scratch"
        scratch.mkdir()
        variants = [_measure("dense", dense, None, meta, held_out, scratch / "dense.onnx")]

        again, _ = _load(source)
        with counted("score once and select, without tuning") as progress:
            traced, plan, _ = plan_at_once(again, training, config, progress=progress)
        compact = _cut(traced, plan)
        del again, traced, plan  # with the model and its adapters: memory for what follows
        variants.append(
            _measure("pruned, untuned", compact.module, compact.plan, meta, held_out, scratch / "untuned.onnx")
        )

        again, _ = _load(source)
        try:
            result = tuned(again, None, training, config, scratch / "run")
        except TrainingInterrupted:
            raise KeyboardInterrupt from None  # nothing is kept of a demo, so there is nothing to go on with
        compact = _cut(result.traced, result.plan)
        history = result.history
        rows: Sequence[ScoreRow] = ()
        with or_warn(output / DIRECTORY):
            rows = () if result.scores is None else score_rows(result.traced, result.plan, result.scores)
        del again, result
        variants.append(
            _measure("pruned, tuned", compact.module, compact.plan, meta, held_out, directory / "model.onnx")
        )

        with counted("save the model") as progress:
            saved = save(_with_story(compact, source, split.name), directory / "model", tokenizer, progress=progress)
        with counted(f"time a forward pass over {WINDOW} tokens") as progress:
            models = _timed(variants, held_out[:1], progress)
        with counted("generate a sentence") as progress:
            sentence = generate(compact.module, tokenizer, prompt, progress=progress)
        with or_warn(output / DIRECTORY), counted("write the report") as progress:
            notes = (*_how(held_out), TUNED_AND_NOT, f"The pruned and tuned model is {checked(compact)}.")
            about: dict[str, Any] = {"title": Path(source).name, "notes": notes, "settings": asdict(config)}
            report = report_run(meta, compact.plan, models, scores=rows, history=history, **about)
            write_report(report, directory / DIRECTORY, progress=progress)
        shutil.rmtree(scratch)
    show()
    show_table(comparison_table(models))
    show()
    show("; ".join(_how(held_out)))
    show()
    show(f"The pruned and tuned model writes: {sentence}")
    show()
    form = "from_pretrained" if saved.form == "transformers" else "graphprune.load"
    written = {
        output / "model": f"the model; {form} loads it",
        output / "model" / "plan.json": "what is kept; graphprune apply uses it",
        output / "model.onnx": "the model for onnxruntime",
        output / DIRECTORY / PAGE: "what was cut and what came of it, for a browser",
    }
    width = max(len(str(path)) for path in written)
    for path, what in written.items():
        if path.exists():  # of a report that failed a warning was given
            show(f"{path!s:{width}}  {what}")
    tell_files(output)
    say(f"all of it took {duration(time.perf_counter() - start)}")


def demo_config(ratio: float, steps: int, seed: int) -> PruneConfig:
    """The settings of LoRAPrune, but with a larger learning rate and shorter intervals, since tuning is short."""
    return PruneConfig(
        ratio=ratio,
        steps=steps,
        homogeneous=True,
        window=WINDOW,
        learning_rate=5e-4,
        interval=max(1, min(10, steps // 10)),
        save_steps=steps,
        seed=seed,
    )


def _load(source: str) -> tuple[Any, Any]:
    """A model on the device where it runs, and its tokenizer."""
    with loading(f"load {source}"):
        model, tokenizer = load_model(source)
        return placed(model), tokenizer


def generate(module: Any, tokenizer: Any, prompt: str, *, tokens: int = 40, progress: Progress | None = None) -> str:
    """The prompt and its most probable continuation up to the end of a sentence."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(module.device)
    length = ids["input_ids"].shape[1]

    def count(written: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if progress is not None:
            progress(written.shape[1] - length, tokens)
        return torch.zeros(len(written), dtype=torch.bool, device=written.device)  # it does not stop here

    with torch.no_grad():
        output = module.generate(
            stopping_criteria=[count],
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    new = tokenizer.decode(output[0, length:], skip_special_tokens=True)
    end = re.search(r"[.!?](?=\s)", new)
    return " ".join((prompt + (new if end is None else new[: end.end()])).split())


def _cut(traced: TracedModel, plan: PruningPlan) -> CompactModel:
    with counted("merge the adapters, rewrite and verify") as progress:
        compact = rewrite(traced, plan, adapters="merge", progress=progress)
    tell_compact(compact)
    say(f"  {compact.ratio:.1%} of the parameters removed, {checked(compact)}")
    return compact


def _measure(
    name: str, module: Any, plan: PruningPlan | None, meta: TracedModel, held_out: torch.Tensor, onnx_file: Path
) -> Variant:
    """Everything about a model but its speed, and its ONNX file."""
    with counted(f"perplexity: {name}") as progress:
        score = perplexity(module, held_out, progress=progress)
    say(f"  {score:.2f}")
    with counted(f"export to ONNX and compare with torch: {name}") as progress:
        report = export_onnx(module, onnx_file, progress=progress)
    tell_onnx(report)
    kept = {} if plan is None else plan.counts(meta)
    row = Measurement(
        name,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        macs=mac_cost(meta.inference)(kept) // 2,  # traced with a batch of two
        perplexity=score,
        file_size=report.bytes,
    )
    return Variant(row, module, open_onnx(onnx_file))


def _timed(variants: Sequence[Variant], ids: torch.Tensor, progress: Progress) -> list[Measurement]:
    """The rows with the time of a forward pass in torch and in onnxruntime."""
    torch_models = [replace(each.onnx, forward=each.module, module=each.module) for each in variants]
    onnx_models = [each.onnx for each in variants]
    times = milliseconds([*torch_models, *onnx_models], [ids] * (2 * len(variants)), progress=progress)
    pairs = zip(times[: len(variants)], times[len(variants) :], strict=True)
    return [
        replace(each.row, torch_ms=ours, onnx_ms=theirs) for each, (ours, theirs) in zip(variants, pairs, strict=True)
    ]


def _how(held_out: torch.Tensor) -> tuple[str, ...]:
    """How the models are measured, in lines."""
    return (
        f"perplexity on {len(held_out)} held-out windows of {WINDOW} tokens",
        f"MACs and ms of a forward pass over {WINDOW} tokens, of torch on {described(default_device())}, "
        f"of onnxruntime on {described(torch.device('cpu'))}",
        "file: ONNX",
    )


def _with_story(compact: CompactModel, source: str, text: str) -> CompactModel:
    """The compact model with what its plan was made from."""
    about = {**compact.plan.about, "source": source, "text": text, "tuned": True}
    return replace(compact, plan=replace(compact.plan, about=about))

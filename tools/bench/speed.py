"""Measure how long it takes from a model to the pruned one, and in how much memory, side by side with torch-pruning.

    python tools/bench/speed.py

Each row is measured in a process of its own, with one thread, several times; the table has the least of each figure.
Seconds are those of the processor, so that other work on the machine matters little. Memory is the largest resident
size of the process from when the model was there, less what it was once everything was imported and had run on a tiny
model. Without torch-pruning
(``pip install -e .[bench]``) its rows say so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 97,
    },
    "SmolLM2-135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "TinyLlama-1.1B": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "LLaMA-70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}

RATIO = 0.5
STAGES = ("trace", "infer and group", "score", "select", "rewrite")
Figures = dict[str, Any]


def main() -> None:
    """Run the benchmark and print its tables, or (in a process of its own) one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=["SmolLM2-135M", "TinyLlama-1.1B"])
    parser.add_argument("--large", choices=SHAPES, default="LLaMA-70B", help="the shape that is only analysed")
    parser.add_argument("--layers", nargs="*", type=int, default=[10, 20, 30, 60], help="of the first shape")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of which the least counts")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=("meta", "cpu"), default="meta", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure, options.shapes[0], options.device, *options.layers)))
        return
    run = partial(least, options.repeat)
    print(pruning_table([row for shape in options.shapes for row in pruning_rows(run, shape)]))
    large = run("analyse", options.large, "meta")
    print(f"\n{options.large} on the meta device, analysed: {large['trace'] + large['infer and group']:.1f} s")
    print(f"(trace {large['trace']:.2f} s), {large['peak']:.0f} MB.\n")
    print(layers_table({count: run("rewrite", options.shapes[0], "meta", count) for count in options.layers}))


def least(repeat: int, what: str, shape: str, device: str, layers: int | None = None) -> Figures:
    """The least of each figure over several processes; ``problem`` where there are none."""
    command = [sys.executable, __file__, "--measure", what, "--shapes", shape, "--device", device, "--layers"]
    command += [] if layers is None else [str(layers)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    found: Figures = {}
    for _ in range(repeat):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **one_thread})
        if done.returncode:
            raise SystemExit(done.stderr)
        figures = json.loads(done.stdout.splitlines()[-1])
        found = {
            name: min(value, found.get(name, value)) if isinstance(value, float) else value
            for name, value in figures.items()
        }
    return found


def measured(what: str, shape: str, device: str, layers: int | None = None) -> Figures:
    """One measurement, in this process: seconds of each stage, megabytes of the model and at the peak."""
    warnings.simplefilter("ignore")
    if what == "torch-pruning":
        try:
            importlib.import_module("torch_pruning")
        except ImportError:
            return {"problem": "torch-pruning is not installed"}
    import torch
    import transformers

    importlib.import_module("graphprune")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SHAPES[shape] if layers is None else {**SHAPES[shape], "num_hidden_layers": layers}
    # torch-pruning stops at the fused attention of models with fewer heads for keys than for queries
    attention = "eager" if what == "torch-pruning" else "sdpa"
    config = transformers.LlamaConfig(**{**size, "attn_implementation": attention})
    tokens = torch.arange(26).reshape(2, 13).to(device)
    small = {**SHAPES["tiny"], "attn_implementation": attention}
    with torch.device(device):
        first = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small)).eval()
    MEASUREMENTS[what](first, tokens)  # imports what is imported when it is used
    imported = peak_megabytes()
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config).eval()
    bytes_held = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if device == "cpu":
        # a virtual machine may have to get memory from its host first, which takes seconds for a gigabyte
        torch.zeros(bytes_held, dtype=torch.uint8).add_(1)
    forget_peak()  # a model that ties its embeddings makes them twice
    ids = tokens % config.vocab_size
    figures: Figures = {"model": bytes_held / 1e6 if device == "cpu" else 0.0}
    figures |= MEASUREMENTS[what](model, ids)
    for name in ("peak", "peak unverified"):
        figures[name] = figures.get(name, peak_megabytes()) - imported
    return figures


def prune(model: Any, ids: Any, *, in_place: bool = False) -> Figures:
    """From a model to half of it, each stage by itself; peak memory before and after it is verified.

    In place, where the head dims stay whole for the module form, it is verified on the way: there is one peak.
    """
    import graphprune as gp

    pipeline: Any = importlib.import_module("graphprune.pipeline")
    figures = analyse(model, ids)
    traced = figures.pop("traced")
    kinds = ["heads", "channels"] if in_place else ["heads", "repeats", "head_dims", "channels"]
    with timed(figures, "score"):
        # without values a score is as good as another
        scores = gp.score(traced, "random" if ids.is_meta else "magnitude", kinds=kinds)
    with timed(figures, "select"):
        plan = gp.select(traced, scores, ratio=RATIO, kinds=kinds)
    verifying = pipeline.prepare_check

    def begun(*args: Any, **kwargs: Any) -> Any:
        figures["peak unverified"] = peak_megabytes()
        return verifying(*args, **kwargs)

    with mock.patch.object(pipeline, "prepare_check", begun), timed(figures, "rewrite"):
        compact = gp.rewrite(traced, plan, in_place=in_place)
    figures["left"] = 1 - sum(each.numel() for each in compact.graph.parameters()) / traced.parameter_count
    if compact.report is not None:
        figures |= compact.report.seconds
        figures["checked in"] = compact.report.dtype
    return figures


def analyse(model: Any, ids: Any) -> Figures:
    """From a model to its groups."""
    import graphprune as gp

    with mock.patch.object(time, "perf_counter", time.process_time):
        traced = gp.trace(model, kwargs={"input_ids": ids})
    seconds = traced.seconds
    return {
        "trace": seconds["trace"],
        "infer and group": seconds["infer axes"] + seconds["build groups"],
        "traced": traced,
    }


def analyse_alone(model: Any, ids: Any) -> Figures:
    """Tracing, inference and grouping, and nothing else."""
    return {name: value for name, value in analyse(model, ids).items() if name != "traced"}


def rewrite(model: Any, ids: Any) -> Figures:
    """The same, and half of the units of each group cut by a random score."""
    import graphprune as gp

    figures = analyse(model, ids)
    traced = figures.pop("traced")
    plan = gp.select(traced, gp.score(traced, "random"), ratio=RATIO, scope="group")
    with timed(figures, "rewrite"):
        gp.rewrite(traced, plan)
    return figures


def prune_with_peer(model: Any, ids: Any) -> Figures:
    """The way of torch-pruning's own example for LLaMA (examples/LLMs/prune_llm.py): heads, MLPs and the width.

    Where keys have fewer heads than queries, it leaves the heads whole, and says nothing.
    """
    tp = importlib.import_module("torch_pruning")
    model.config.use_cache = False
    heads: dict[Any, int] = {}
    for name, module in model.named_modules():
        if name.endswith("self_attn"):
            heads[module.q_proj] = model.config.num_attention_heads
            heads[module.k_proj] = heads[module.v_proj] = model.config.num_key_value_heads
    before = sum(parameter.numel() for parameter in model.parameters())
    figures: Figures = {}
    with timed(figures, "trace"):
        pruner = tp.pruner.BasePruner(
            model,
            example_inputs=ids,
            importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
            global_pruning=False,
            output_transform=lambda outputs: outputs.logits,
            pruning_ratio=RATIO,
            ignored_layers=[model.lm_head],
            num_heads=heads,
            prune_num_heads=True,
            prune_head_dims=False,
            head_pruning_ratio=RATIO,
            round_to=4,
        )
    with timed(figures, "rewrite"):
        try:
            for group in pruner.step(interactive=True):
                group.prune()
        except RuntimeError as error:
            figures["problem"] = f"stops with {str(error).splitlines()[0]!r}"
    figures["left"] = 1 - sum(parameter.numel() for parameter in model.parameters()) / before
    return figures


MEASUREMENTS: dict[str, Callable[[Any, Any], Figures]] = {
    "prune": prune,
    "prune in place": partial(prune, in_place=True),
    "analyse": analyse_alone,
    "rewrite": rewrite,
    "torch-pruning": prune_with_peer,
}


def pruning_rows(run: Callable[..., Figures], shape: str) -> Iterator[str]:
    """The rows of one shape: without values, with values, in place, and torch-pruning's."""
    ways = [("prune", "meta"), ("prune", "cpu"), ("prune in place", "cpu")]
    own = [run(what, shape, device) for what, device in ways]
    for (what, device), figures in zip(ways, own, strict=True):
        total = sum(figures[stage] for stage in STAGES)
        stages = [f"{figures[stage]:.2f}" for stage in STAGES]
        verify = f"{figures['verify']:.2f} ({figures['checked in']})" if "verify" in figures else "–"
        memory = [f"{figures[name]:.0f}" for name in ("model", "peak unverified", "peak")]
        weights, tool = "meta" if device == "meta" else "float32", what.replace("prune", "graphprune")
        yield row(shape, weights, tool, *stages, f"{total:.2f}", verify, *memory, f"{figures['left']:.0%}")
    peer = run("torch-pruning", shape, "cpu")
    if "trace" not in peer:
        yield row(shape, "float32", "torch-pruning", *["–"] * 10, peer["problem"])
        return
    seconds = peer["trace"] + peer["rewrite"]
    beside, in_place = (f"{seconds / sum(each[stage] for stage in STAGES):.1f}×" for each in own[1:])
    total = f"{seconds:.2f} ({beside}, {in_place} in place)"
    cells = [f"{peer['trace']:.2f}", "–", "–", "–", f"{peer['rewrite']:.2f}", total, "–"]
    memory = [f"{peer['model']:.0f}", f"{peer['peak']:.0f}", "–"]
    yield row(shape, "float32", "torch-pruning", *cells, *memory, peer.get("problem", f"{peer['left']:.0%}"))


def pruning_table(rows: list[str]) -> str:
    """Seconds of each stage and megabytes of each row, in Markdown."""
    names = ["shape", "weights", "tool", *STAGES, "model → pruned", "verify", "model MB", "peak MB", "with verify MB"]
    return "\n".join([row(*names, "removed"), row(*["---"] * 3, *["---:"] * (len(names) - 2)), *rows])


def layers_table(found: dict[int, Figures]) -> str:
    """Whether the work grows as the layers do, in Markdown."""
    lines = [row("layers, meta", "trace", "infer, group and rewrite", "ms a layer"), row(*["---:"] * 4)]
    for count, figures in found.items():
        seconds = figures["infer and group"] + figures["rewrite"]
        lines.append(row(str(count), f"{figures['trace']:.2f}", f"{seconds:.2f}", f"{1000 * seconds / count:.1f}"))
    return "\n".join(lines)


def row(*cells: str) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


@contextmanager
def timed(seconds: Figures, name: str) -> Iterator[None]:
    """Note how many seconds of the processor a block takes; stages that the block times itself count them too."""
    start = time.process_time()
    with mock.patch.object(time, "perf_counter", time.process_time):
        yield
    seconds[name] = time.process_time() - start


def forget_peak() -> None:
    """Let the largest resident size be counted from now on, where the system can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()

"""Measure what pruning costs beside LoRA tuning and dense-gradient scoring, and what a model of half the size saves.

    python tools/bench/costs.py --output costs.json --page
    python tools/bench/costs.py --shape llama-7b --output llama-7b.json
    python tools/bench/costs.py --input costs.json --beside llama-7b.json --page
    python tools/bench/costs.py --input costs.json --compaction compaction.json --page

The batches are the same for all: 4 windows of 128 random token ids, which cost what a text costs. Each measurement is a
process of its own, and the processes take turns for some rounds; a time is the least of all rounds, and so is the peak
of memory (the largest resident size, or on an accelerator what torch has allocated there). ``--shape`` takes random
weights in bfloat16 in the shape of a larger model, of which no forward pass is timed. ``--input`` makes the tables from
figures that were written before. The time of a run that is cut on the way is measured by tools/bench/compaction.py, and
what that wrote is shown with ``--compaction``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import graphprune as gp
from graphprune.budget import mac_cost
from graphprune.criteria import criterion_by_name
from graphprune.device import default_device, described, device_of, placed, wait_for_device
from graphprune.evaluation import interleaved_milliseconds
from graphprune.files import write_text_atomically
from graphprune.onnx import open_session
from graphprune.quiet import quietly
from graphprune.scoring import score_units
from graphprune.selection import select
from graphprune.sources import demo_model_directory, load_model
from graphprune.sources.model import DEMO_MODEL
from graphprune.training.config import PruneConfig
from graphprune.training.finetune import make_trainer, with_adapters

PAGE = Path("docs/costs.md")
RATIO = 0.5
INTERVAL = 10
"""Steps between scorings in what is reported, whatever they are in what is measured."""

PRUNING: Mapping[str, Mapping[str, Any]] = {
    "lora": {"criterion": "lora"},
    "fisher": {"criterion": "fisher", "normalize": None},
}
"""The settings of each way to prune while tuning."""

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama-7b": {"max_position_embeddings": 2048},  # transformers' defaults are LLaMA-7B's
}
"""The configurations that random weights are made for."""

HALVES = {
    "half of the decoder, layers differ": ("decoder", False),
    "half of the decoder, homogeneous": ("decoder", True),
    "half of all, layers differ": ("all", False),
    "half of all, homogeneous": ("all", True),
}
"""What half of the parameters is taken of, and whether layers are alike, for each model whose forward is timed."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: ``runs`` are those of a forward pass, ``batches`` those of dense-gradient scoring."""

    rounds: int
    steps: int
    interval: int
    batches: int
    window: int
    runs: int
    batch: int = 4


FULL = Sizes(rounds=2, steps=22, interval=INTERVAL, batches=8, window=128, runs=30)
LARGE = replace(FULL, rounds=1)
QUICK = Sizes(rounds=1, steps=4, interval=2, batches=3, window=16, runs=2)


def main() -> None:
    """Run the benchmark and print its tables, or (in a process of its own) one measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="directory; default: that of SmolLM2-135M-Instruct")
    parser.add_argument("--shape", choices=SHAPES, default=None, help="a model with random weights")
    parser.add_argument("--quick", action="store_true", help="sizes that show that it works, and nothing else")
    parser.add_argument("--compaction", type=Path, default=None, help="what compaction.py wrote with --output")
    parser.add_argument("--input", type=Path, default=None, help="figures from before, in place of measuring")
    parser.add_argument("--beside", type=Path, action="append", default=[], help="figures shown below, from --output")
    parser.add_argument("--output", type=Path, default=None, help="where to write the figures as JSON")
    parser.add_argument("--page", type=Path, nargs="?", const=PAGE, help=f"write the page; default: {PAGE}")
    parser.add_argument("--measure", choices=MEASUREMENTS, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.measure is not None:
        source = options.shape or options.model
        sizes = QUICK if options.quick else FULL if options.shape is None else LARGE
        print(json.dumps(measured(options.measure, source, sizes)))
        return
    if options.input is not None:
        figures = read(options.input)
    elif options.shape is not None:
        figures = measure(options.shape, options.shape, quick=options.quick)
    elif options.model is not None:
        figures = measure(options.model.name, options.model, quick=options.quick)
    else:
        figures = measure(DEMO_MODEL, demo_model_directory(), quick=options.quick)
    if options.compaction is not None:
        figures["compaction"] = read(options.compaction)
    shown = "\n\n".join(
        [tables(figures), *(f"## {each['model']}\n\n{tables(each)}" for each in map(read, options.beside))]
    )
    print(shown)
    if options.output:
        write_text_atomically(options.output, json.dumps(figures, indent=2) + "\n", overwrite=True)
    if options.page:
        write_text_atomically(options.page, HEAD + "\n" + shown + "\n", overwrite=True)


def read(path: Path) -> Figures:
    """Figures that were written as JSON."""
    figures: Figures = json.loads(path.read_text(encoding="utf-8"))
    return figures


def measure(name: str, source: Path | str, *, quick: bool) -> Figures:
    """Every figure of the tables for the model of a name; of each way a list, one for each round.

    ``source`` is a directory, or the name of a shape.
    """
    sizes = QUICK if quick else FULL if isinstance(source, Path) else LARGE
    costs: dict[str, list[Figures]] = {name: [] for name in MEASUREMENTS if name != "forward"}
    for number in range(sizes.rounds):
        for way, found in costs.items():
            found.append(run(way, source, quick=quick))
            print(f"round {number + 1} of {sizes.rounds}, {way}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    return {
        "model": name,
        "sizes": asdict(sizes),
        "costs": costs,
        "forward": run("forward", source, quick=quick) if isinstance(source, Path) else {"rows": []},
        "machine": f"{platform.machine()}, {described(default_device())}, torch {torch.__version__}",
    }


def run(name: str, source: Path | str, *, quick: bool) -> Figures:
    """One measurement in a process of its own."""
    given = "--model" if isinstance(source, Path) else "--shape"
    command = [sys.executable, __file__, "--measure", name, given, str(source)]
    command += ["--quick"] if quick else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def measured(name: str, source: Path | str, sizes: Sizes) -> Figures:
    """One measurement in this process, and megabytes at its peak and once everything was imported."""
    torch.manual_seed(0)
    importlib.import_module("peft")
    imported = peak_megabytes()
    with quietly():
        model = placed(load_model(source)[0]) if isinstance(source, Path) else random_model(source)
        figures = MEASUREMENTS[name](model, sizes)
    return {**figures, "imported MB": imported, "peak MB": peak_megabytes()}


def random_model(shape: str) -> nn.Module:
    """A model with random weights in bfloat16, on the accelerator where there is one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with default_device():
            model: nn.Module = LlamaForCausalLM(LlamaConfig(**SHAPES[shape]))
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def tune(pruning: str | None, model: nn.Module, sizes: Sizes) -> Figures:
    """Seconds of the steps of LoRA tuning: plain, or with a criterion by which the model is pruned on the way."""
    config = PruneConfig(
        ratio=share_of("decoder", model),
        steps=sizes.steps,
        interval=sizes.interval,
        batch_size=sizes.batch,
        window=sizes.window,
        save_steps=sizes.steps,
        **PRUNING.get(pruning or "", {}),
    )
    clock = Clock()
    callbacks: list[TrainerCallback] = [] if pruning is None else [gp.LoRAPruneCallback(config=config)]
    adapted = with_adapters(model, config)
    windows = token_ids(model, sizes.steps * sizes.batch, sizes.window).cpu()
    with tempfile.TemporaryDirectory() as run_directory, clock.looking_inside():
        make_trainer(adapted, windows, config, Path(run_directory), [*callbacks, clock]).train()
    return clock.figures()


class Clock(TrainerCallback):
    """Notes when each step ends, and how long units are scored and selected in it; goes after the pruning callback."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.inside: dict[str, dict[int, float]] = {"score": {}, "select": {}}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        wait_for_device()
        self.ends.append(time.perf_counter())

    @contextmanager
    def looking_inside(self) -> Iterator[None]:
        """Within the context the functions that score and select in training are timed."""
        pruner = importlib.import_module("graphprune.training.pruner")
        with (
            mock.patch.object(pruner, "score_units", self._timed("score", score_units)),
            mock.patch.object(pruner, "select", self._timed("select", select)),
        ):
            yield

    def figures(self) -> dict[str, list[float]]:
        """Seconds of each step but the first, by whether units were scored in it, and of what was done in these."""
        steps = dict(enumerate((end - start for start, end in pairwise(self.ends)), start=1))
        score, selecting = self.inside["score"], self.inside["select"]
        scored = [at for at in steps if at in score]
        return {
            "step": [seconds for at, seconds in steps.items() if at not in score],
            "step that scores": [steps[at] for at in scored],
            "score": [score[at] for at in scored],
            "select": [selecting[at] for at in scored],
            "rest": [steps[at] - score[at] - selecting[at] for at in scored],
        }

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            wait_for_device()
            start = time.perf_counter()
            result = function(*args, **kwargs)
            wait_for_device()
            seconds = self.inside[name]
            seconds[len(self.ends)] = seconds.get(len(self.ends), 0.0) + time.perf_counter() - start
            return result

        return timed


def score_dense(model: nn.Module, sizes: Sizes) -> Figures:
    """Seconds of each batch but the first, forward and backward with dense gradients, and of the scores from these."""
    traced = gp.trace(model)
    clock: list[float] = []

    def batches() -> Iterator[dict[str, Tensor]]:
        for ids in token_ids(model, sizes.batches * sizes.batch, sizes.window).split(sizes.batch):
            wait_for_device()
            clock.append(time.perf_counter())
            yield {"input_ids": ids}
        wait_for_device()
        clock.append(time.perf_counter())

    gp.score(traced, "taylor", data=batches())
    wait_for_device()
    return {
        "step": [end - start for start, end in pairwise(clock[1:])],
        "score": [time.perf_counter() - clock[-1]],
    }


def forward(model: nn.Module, sizes: Sizes) -> Figures:
    """Milliseconds of a forward pass over one window of the dense model and of each half, in torch and in onnxruntime.

    onnxruntime begins when torch is done: the threads of one would be in the way of the other.
    """
    ids = token_ids(model, 2, sizes.window)
    traced, long = gp.trace(model), gp.trace(model, kwargs={"input_ids": ids})
    scores = gp.score(traced, "magnitude")
    macs = mac_cost(long.inference)
    modules, rows = [model], [{"name": "dense", "parameters": count(model), "MACs": macs({}) // len(ids)}]
    for name, (of, homogeneous) in HALVES.items():
        plan = gp.select(traced, scores, ratio=share_of(of, model), homogeneous=homogeneous, form="module")
        modules.append(gp.rewrite(traced, plan).module)
        kept = plan.counts(long)
        rows.append({"name": name, "parameters": count(modules[-1]), "MACs": macs(kept) // len(ids)})
    calls = [partial(module, input_ids=ids[:1]) for module in modules]
    in_torch = interleaved_milliseconds(calls, runs=sizes.runs)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.onnx" for number in range(len(modules))]
        for module, file in zip(modules, files, strict=True):
            gp.export_onnx(module, file)
        sessions = [open_session(file) for file in files]
    feed = {"input_ids": ids[:1].cpu().numpy()}
    in_onnxruntime = interleaved_milliseconds([partial(each.run, None, feed) for each in sessions], runs=sizes.runs)
    times = zip(rows, in_torch, in_onnxruntime, strict=True)
    return {"rows": [{**row, "torch": ours, "onnxruntime": theirs} for row, ours, theirs in times]}


MEASUREMENTS: dict[str, Callable[[nn.Module, Sizes], Figures]] = {
    "tuning": partial(tune, None),
    **{name: partial(tune, name) for name in PRUNING},
    "dense gradients": score_dense,
    "forward": forward,
}


def token_ids(model: nn.Module, count: int, length: int) -> Tensor:
    """The same random token ids ``[count, length]`` in every process, on the device of the model."""
    vocabulary: int = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids = torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(0))
    return ids.to(device_of(model))


def share_of(part: str, model: nn.Module) -> float:
    """Half of a part of the model (``"all"``, or ``"decoder"``: all but embeddings) as a share of all parameters."""
    whole = count(model)
    embeddings = sum(child.weight.numel() for child in model.modules() if isinstance(child, nn.Embedding))
    return RATIO * (whole - (embeddings if part == "decoder" else 0)) / whole


def count(model: nn.Module) -> int:
    """The number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def peak_megabytes() -> float:
    """The largest resident size of this process so far; with an accelerator what was allocated there at most."""
    if default_device().type != "cpu":
        return torch.accelerator.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


@dataclass(frozen=True)
class Cost:
    """The least figures of a measurement: seconds, and megabytes."""

    step: float
    """A step without scoring; with dense gradients, a batch."""
    score: float | None
    select: float | None
    scoring_step: float | None
    """A step with scoring, and all that comes with it."""
    peak: float
    imported: float

    @property
    def mean_step(self) -> float:
        """The mean over as many steps as lie between two scorings."""
        if self.scoring_step is None:
            return self.step
        return ((INTERVAL - 1) * self.step + self.scoring_step) / INTERVAL


def cost_of(name: str, rounds: Sequence[Figures]) -> Cost:
    """The least figures of all rounds.

    A criterion with gates also works in the passes of a step that scores: what that takes longer than another, scoring
    and selection aside, is added to the time of scoring.
    """
    least = {key: min((value for each in rounds for value in each.get(key, ())), default=None) for key in SECONDS}
    step, score = least["step"], least["score"]
    assert step is not None
    if name in PRUNING and "gates" in criterion_by_name(PRUNING[name]["criterion"]).needs:
        score = (score or 0.0) + max(0.0, (least["rest"] or 0.0) - step)
    peak, imported = (min(each[key] for each in rounds) for key in ("peak MB", "imported MB"))
    return Cost(step, score, least["select"], least["step that scores"], peak, imported)


SECONDS = ("step", "step that scores", "score", "select", "rest")
"""The figures of a measurement that are lists of seconds."""


@dataclass(frozen=True)
class Goal:
    """A figure, and the most that it is meant to be; None where there is no goal."""

    name: str
    value: float
    most: float | None = None
    percent: bool = False

    def row(self) -> str:
        """The goal as a row of a table."""
        shown = f"{self.value:.2%}" if self.percent else f"{self.value:.3f}"
        if self.most is None:
            return row(self.name, shown, "", "")
        most = f"{self.most:.0%}" if self.percent else f"{self.most:g}"
        return row(self.name, shown, f"≤ {most}", "met" if self.value <= self.most else "not met")


def goals(figures: Figures) -> Iterator[Goal]:
    """Each ratio with its goal."""
    costs = {name: cost_of(name, rounds) for name, rounds in figures["costs"].items()}
    tuning, dense = costs["tuning"], costs["dense gradients"]
    for name in PRUNING:
        own = costs[name]
        yield Goal(f"`{name}`: scoring / {INTERVAL} steps", (own.score or 0.0) / (INTERVAL * tuning.step), 0.03, True)
        yield Goal(f"`{name}`: all steps / LoRA tuning", own.mean_step / tuning.mean_step)
        yield Goal(f"`{name}`: peak memory / LoRA tuning", own.peak / tuning.peak, 1.05)
        yield Goal(f"`{name}`: peak memory / dense-gradient scoring", own.peak / dense.peak, 0.5)
    if "compaction" in figures:
        runs = figures["compaction"]
        seconds = {way: min(run["of the processor"] for run in runs[way]) for way in ("masks", "cuts")}
        yield Goal("a run that is cut on the way / with masks", seconds["cuts"] / seconds["masks"], 0.75)
    whole, *halves = figures["forward"]["rows"] or [{}]
    for half in halves:
        for runtime in ("torch", "onnxruntime"):
            yield Goal(f"{half['name']}: forward / dense, {runtime}", half[runtime] / whole[runtime], 0.6)


def tables(figures: Figures) -> str:
    """The ratios with their goals, and the figures behind them, as Markdown."""
    sizes = Sizes(**figures["sizes"])
    parts = [
        "\n".join([row("ratio", "measured", "goal", ""), row("---", "---:", "---:", "---"), *goal_rows(figures)]),
        cost_table(figures),
        *([forward_table(figures["forward"]["rows"])] if figures["forward"]["rows"] else []),
        f"{figures['model']}, batches of {sizes.batch} × {sizes.window} tokens, {sizes.rounds} rounds, "
        f"{sizes.steps} steps in each. Machine: {figures['machine']}.",
    ]
    if "note" in figures:
        parts.append(figures["note"])
    if "compaction" not in figures and figures["forward"]["rows"]:
        parts.append("The time of a run that is cut on the way is measured by tools/bench/compaction.py.")
    return "\n\n".join(parts)


def goal_rows(figures: Figures) -> list[str]:
    """A row for each goal."""
    return [goal.row() for goal in goals(figures)]


def cost_table(figures: Figures) -> str:
    """Seconds and megabytes of each way, in Markdown."""
    names = ["", "step s", "scoring s", "selection s", f"mean of {INTERVAL} steps s", "peak MB", "of which imports MB"]
    lines = [row(*names), row("---", *["---:"] * (len(names) - 1))]
    for name, rounds in figures["costs"].items():
        cost = cost_of(name, rounds)
        seconds = [cost.step, cost.score, cost.select, cost.mean_step if name in TITLES_OF_TUNING else None]
        shown = ["–" if each is None else f"{each:.3f}" for each in seconds]
        lines.append(row(title(name), *shown, f"{cost.peak:.0f}", f"{cost.imported:.0f}"))
    return "\n".join(lines)


TITLES_OF_TUNING = {"tuning": "LoRA tuning", **{name: f"LoRA tuning, pruned by `{name}`" for name in PRUNING}}


def title(name: str) -> str:
    """A measurement in words."""
    return TITLES_OF_TUNING.get(name, "dense-gradient scoring (`taylor`), a batch")


def forward_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Sizes and milliseconds of a forward pass of each model, in Markdown."""
    names = ["model", "parameters", "MACs", "MACs / dense", "torch ms", "onnxruntime ms"]
    lines = [row(*names), row("---", *["---:"] * (len(names) - 1))]
    for each in rows:
        share = each["MACs"] / rows[0]["MACs"]
        times = [f"{each[runtime]:.1f}" for runtime in ("torch", "onnxruntime")]
        lines.append(row(each["name"], f"{each['parameters']:,}", f"{each['MACs']:,}", f"{share:.2f}", *times))
    return "\n".join(lines)


def row(*cells: str) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


HEAD = """# What pruning costs, and what it saves

Made by

    python tools/bench/compaction.py --tune valid.txt --steps 60 --rounds 2 --output compaction.json
    python tools/bench/costs.py --shape llama-7b --output docs/costs/llama-7b-h100.json     # on the GPU
    python tools/bench/costs.py --compaction compaction.json --output docs/costs/smollm2.json \\
        --beside docs/costs/llama-7b-h100.json --page

All ways get the same batches of random token ids, each measurement is a process of its own, and the processes take
turns; every figure is the least of all rounds. A step is forward, backward and the optimiser's step in
`transformers.Trainer`, in float32, with LoRA of rank 8 on all linear layers. The model and the machine stand below.

- **Scoring** is the time in which scores of units are made from the gradients that a step has. For `fisher` it includes
  what the gates take in the forward and backward pass. A share of ten steps is one of ten steps of plain LoRA tuning.
- **All steps / LoRA tuning** is everything: nine steps that do not score and one that does, with scoring, selection and
  masks.
- **Peak memory** is the largest resident size of the process, imports included; with pruning it includes tracing.
- **Dense-gradient scoring** is the criterion `taylor` on the model without adapters, as LLM-Pruner scores.
- **A run that is cut on the way** is timed by the processor, with one thread: the clock would count what else the
  machine does. Tracing, and the cuts with their verification, are in it.
- **Half** is removed by magnitude: what is timed is the size, not the quality. The embeddings are no part of the
  decoder, but the output layer multiplies by them, so a model with half of its decoder has more than half of the
  multiply-accumulates.

Half the memory of dense-gradient scoring can't be had in one precision: tuning holds the weights W and activations,
dense gradients of the first order hold 2·W and the same activations, so the share is above a half whatever the method.
On a model this small the activations, above all those of 49,152 logits for each token, outweigh the weights (0.54 GB)
several times, and tuning beside them pays for the optimiser of the adapters. Where weights outweigh activations and are
stored in half precision or in few bits, with gradients in single precision, the share falls below a half, as in the
shape of LLaMA-7B below: the weights are in bfloat16 there, and memory is what torch has allocated on the GPU. A step of
512 tokens takes a fifth of a second there, beside which the passes over 7·10⁹ weights of a scoring, and the selection
on the host, are not light: larger batches and longer intervals make them so.
"""


if __name__ == "__main__":
    main()

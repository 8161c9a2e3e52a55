"""Measure what cutting a model while it is tuned saves: SmolLM2-135M, 50 %, with masks to the end and with cuts.

    python tools/bench/compaction.py --tune valid.txt --steps 60 --rounds 2

Each run is a process of its own; runs with masks and with cuts take turns, and the table has the mean of each. On a
machine that is busy with other work the seconds of the processor say more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from graphprune.files import write_text_atomically
from graphprune.quiet import quietly
from graphprune.sources import demo_model_directory, load_model, windows
from graphprune.training.config import PruneConfig
from graphprune.training.finetune import TuneProgress, prune_while_tuning

WAYS = {"masks": None, "cuts": 0.1}
"""The setting ``compaction`` of each way."""

LAST = 10
"""Steps at the end, when all is pruned, of which the mean time is given."""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", type=Path, required=True, help="text to tune on")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--interval", type=int, default=5, help="steps between prunings")
    parser.add_argument("--cooldown", type=float, default=0.5, help="share of the training after the last pruning")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each way")
    parser.add_argument("--output", type=Path, default=None, help="where to write the figures as JSON")
    parser.add_argument("--way", choices=WAYS, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.way is not None:
        print(json.dumps(measure(options)))
        return
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, found in runs.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(way, found[-1], file=sys.stderr, flush=True)
    print(table(runs))
    if options.output:
        write_text_atomically(options.output, json.dumps(runs, indent=2) + "\n", overwrite=True)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run."""
    with quietly():
        model, tokenizer = load_model(demo_model_directory())
        text = windows(tokenizer, options.tune.read_text(encoding="utf-8"), 128)
    config = PruneConfig(
        ratio=options.ratio,
        steps=options.steps,
        interval=options.interval,
        cooldown=options.cooldown,
        lora_dropout=0.0,
        save_steps=options.steps,
        compaction=WAYS[options.way],
    )
    clock: list[float] = []
    losses: list[float] = []

    def note(progress: TuneProgress) -> None:
        clock.append(time.process_time())
        losses.append(progress.loss)

    start, start_of_work = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        tuned = prune_while_tuning(model, None, text, config, Path(directory) / "run", progress=note)
    end, end_of_work = time.perf_counter(), time.process_time()
    compaction = tuned.compaction
    reports = [] if compaction is None else compaction.reports
    steps = [b - a for a, b in pairwise(clock)]
    return {
        "seconds of the run, by the clock": end - start,
        "of the processor": end_of_work - start_of_work,
        "of all steps but the first": sum(steps),
        f"of each of the last {LAST} steps": statistics.mean(steps[-LAST:]),
        "cuts": len(reports),
        "seconds of the cuts, by the clock": sum(sum(report.seconds.values()) for report in reports),
        "largest difference at a cut": max((report.module_error or 0.0 for report in reports), default=0.0),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        f"loss of the last {LAST} steps": statistics.mean(losses[-LAST:]),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The means as a Markdown table."""
    names = [name for name in runs["masks"][0] if name != "machine"]
    lines = ["| | masks | cuts | cuts / masks |", "| --- | ---: | ---: | ---: |"]
    for name in names:
        masks, cuts = (statistics.mean(run[name] for run in runs[way]) for way in ("masks", "cuts"))
        share = f"{cuts / masks:.2f}" if masks else ""
        lines.append(f"| {name} | {masks:.4g} | {cuts:.4g} | {share} |")
    return "\n".join([*lines, "", f"Machine: {runs['masks'][0]['machine']}."])


if __name__ == "__main__":
    main()

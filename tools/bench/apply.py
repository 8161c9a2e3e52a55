"""Memory and time of ``graphprune apply`` on a checkpoint that is larger than the memory.

Makes a LLaMA checkpoint of the shape of the 7B model in bf16, whose files have holes in place of values and so take no
space on the disk, cuts half of its heads and channels, shard by shard in a process of its own, and prints what that
took::

    python tools/bench/apply.py --scratch /tmp/apply --shard-gb 2

The output is written in full (half of the checkpoint); ``--scratch`` is removed in the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune as gp
from graphprune.weight_files import INDEX, read_checkpoint

BYTES = 2
"""Of a number in bf16."""


def main() -> None:
    """Make, cut, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=Path("apply-bench"), help="a new directory, removed in the end")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=11008)
    parser.add_argument("--shard-gb", type=float, default=2.0, help="the size of a file")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True)
    try:
        model = dense_model(options.hidden, options.inner, options.layers)
        write_sparse(model, options.scratch / "model", int(options.shard_gb * 1e9))
        half_plan(model).save(options.scratch / "plan.json")
        print(json.dumps(measure(options.scratch), indent=2))
    finally:
        shutil.rmtree(options.scratch)


def dense_model(hidden: int, inner: int, layers: int) -> LlamaForCausalLM:
    """A LLaMA without values."""
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 128,
        head_dim=128,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        return LlamaForCausalLM._from_config(config).eval()  # type: ignore[no-any-return]


def write_sparse(model: LlamaForCausalLM, directory: Path, limit: int) -> None:
    """Write a checkpoint of holes: headers, and files as long as they would be."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    shards: list[dict[str, list[int]]] = [{}]
    for name, tensor in model.state_dict().items():
        if shards[-1] and size_of(shards[-1]) + tensor.numel() * BYTES > limit:
            shards.append({})
        shards[-1][name] = list(tensor.shape)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = directory / f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, end = {}, 0
        for name, shape in shard.items():
            start, end = end, end + math.prod(shape) * BYTES
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as handle:
            handle.write(len(text).to_bytes(8, "little") + text)
            handle.truncate(8 + len(text) + end)
        weight_map |= dict.fromkeys(shard, file.name)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")


def size_of(shard: dict[str, list[int]]) -> int:
    """The bytes of the values in a file."""
    return sum(math.prod(shape) * BYTES for shape in shard.values())


def half_plan(model: LlamaForCausalLM) -> gp.PruningPlan:
    """Every other head and every other channel of the MLPs."""
    traced = gp.trace(model)
    groups = {
        group.name: gp.GroupPlan(group.units, tuple(range(0, group.units, 2)))
        for group in traced.groups.prunable
        if group.kind in ("heads", "channels")
    }
    return gp.PruningPlan(traced.fingerprint, groups)


def measure(scratch: Path) -> dict[str, float | int]:
    """Run the command on what lies in a directory; gigabytes are 10^9 bytes, gibibytes 2^30."""
    source, output = scratch / "model", scratch / "out"
    command = [sys.executable, "-m", "graphprune.cli", "apply", str(scratch / "plan.json"), str(source)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--output", str(output), "--by-shard"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"graphprune apply failed with {process.returncode}")
    sizes = [shard.file.stat().st_size for shard in read_checkpoint(source).shards]
    written = [shard.file.stat().st_size for shard in read_checkpoint(output).shards]
    return {
        "files": len(sizes),
        "checkpoint GB": round(sum(sizes) / 1e9, 2),
        "largest file GiB": round(max(sizes) / 2**30, 2),
        "written GB": round(sum(written) / 1e9, 2),
        "peak memory GiB": round(usage.ru_maxrss * 1024 / 2**30, 2),
        "seconds": round(time.perf_counter() - start, 1),
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


if __name__ == "__main__":
    main()

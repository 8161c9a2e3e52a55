"""Loading saved models in a process of its own, in which graphprune can't be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SCRIPT = """
import json, sys

class NoGraphprune:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "graphprune":
            raise ImportError("graphprune must not be needed")

sys.meta_path.insert(0, NoGraphprune())
try:
    import graphprune
except ImportError:
    pass
else:
    raise SystemExit("graphprune was imported")

import torch, transformers
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()
for job in json.load(open(sys.argv[1])):
    auto = getattr(transformers, job["auto"])
    values = load_file(job["values"])
    inputs = {name[6:]: value for name, value in values.items() if name.startswith("input.")}
    options = {"trust_remote_code": True} if job["trust"] else {}
    for directory in (job["directory"], job["again"]):  # what was saved, and what it saves itself
        model, info = auto.from_pretrained(directory, output_loading_info=True, local_files_only=True, **options)
        assert not any(info.values()), (job["name"], info)
        with torch.no_grad():
            found = model(**inputs)[0]
        error = (found - values["expected"]).abs().max() / values["expected"].abs().max()
        assert error <= 1e-6, (job["name"], error)
        if "generated" in values:
            for cache in (True, False):
                got = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False, use_cache=cache)
                assert torch.equal(got, values["generated"]), (job["name"], got)
        model.save_pretrained(job["again"])
    print(job["name"], type(model).__name__, sum(p.numel() for p in model.parameters()))
"""


@dataclass(frozen=True)
class Job:
    """A saved model, the class that loads it, and what it must give."""

    name: str
    directory: Path
    auto: str
    trust: bool
    inputs: Mapping[str, Tensor]
    expected: Tensor
    generated: Tensor | None = None


def load_elsewhere(jobs: list[Job], scratch: Path) -> dict[str, tuple[str, int]]:
    """Load each model, compare it, save it, and load that too; returns class and parameters of each by its name."""
    described: list[dict[str, Any]] = []
    for job in jobs:
        values = {f"input.{name}": value for name, value in job.inputs.items()} | {"expected": job.expected.detach()}
        values |= {} if job.generated is None else {"generated": job.generated}
        save_file({name: value.contiguous() for name, value in values.items()}, scratch / f"{job.name}.safetensors")
        described.append(
            {
                "name": job.name,
                "directory": str(job.directory),
                "again": str(scratch / f"{job.name}-again"),
                "auto": job.auto,
                "trust": job.trust,
                "values": str(scratch / f"{job.name}.safetensors"),
            }
        )
    (scratch / "jobs.json").write_text(json.dumps(described))
    (scratch / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(scratch / "modules"), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    result = subprocess.run(
        [sys.executable, str(scratch / "script.py"), str(scratch / "jobs.json")],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [line.split() for line in result.stdout.splitlines() if line]
    return {name: (kind, int(count)) for name, kind, count in rows}

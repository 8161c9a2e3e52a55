"""tools/bench/speed.py measures a tiny shape, also where torch-pruning is not installed."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from .loading import BENCH, load_tool


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool, measuring in this process."""
    module = load_tool("speed", monkeypatch)
    monkeypatch.setattr(module, "least", lambda repeat, *what: module.measured(*what))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return module


@pytest.mark.slow
def test_the_tables_of_a_tiny_shape_without_torch_pruning(
    speed: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--shapes", "tiny", "--large", "tiny", "--layers", "2", "4"])
    speed.main()
    lines = capsys.readouterr().out.splitlines()
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:6]]
    assert all(len(row) == len(head) for row in rows)
    assert [row[:3] for row in rows] == [
        ["tiny", "meta", "graphprune"],
        ["tiny", "float32", "graphprune"],
        ["tiny", "float32", "graphprune in place"],
        ["tiny", "float32", "torch-pruning"],
    ]
    assert [row[-1] for row in rows] == ["50%", "50%", "50%", "torch-pruning is not installed"]
    for row in rows[:3]:
        seconds = [float(cell) for cell in row[3:9]]
        assert seconds[0] > 0
        assert abs(sum(seconds[:5]) - seconds[5]) < 0.05
    assert rows[1][9].endswith("(float64)")
    assert rows[2][9].endswith("(the model's own types)")
    assert lines[7].startswith("tiny on the meta device, analysed: ")
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["2", "4"]


@pytest.mark.slow
def test_a_measurement_in_a_process_of_its_own() -> None:
    command = [sys.executable, str(BENCH / "speed.py"), "--measure", "rewrite", "--shapes", "tiny", "--layers", "2"]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {"trace", "infer and group", "rewrite", "model", "peak"} <= figures.keys()

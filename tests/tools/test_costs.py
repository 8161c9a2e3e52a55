"""tools/bench/costs.py measures a tiny model, and says which goals are met."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..tiny import save_tiny_llama
from .loading import BENCH, load_tool


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool as a module."""
    return load_tool("costs", monkeypatch)


FIGURES = {
    "model": "tiny",
    "sizes": {"rounds": 2, "steps": 4, "interval": 2, "batches": 3, "window": 16, "runs": 2, "batch": 4},
    "costs": {
        "tuning": [
            {"step": [2.0, 3.0], "imported MB": 500.0, "peak MB": 1000.0},
            {"step": [2.5], "imported MB": 500.0, "peak MB": 1010.0},
        ],
        "lora": [
            {
                "step": [2.1],
                "step that scores": [3.1, 3.2],
                "score": [0.5, 0.4],
                "select": [0.2, 0.2],
                "rest": [2.3, 2.5],
                "imported MB": 500.0,
                "peak MB": 1040.0,
            },
        ],
        "fisher": [
            {
                "step": [2.2],
                "step that scores": [3.4],
                "score": [0.1],
                "select": [0.3],
                "rest": [3.0],
                "imported MB": 500.0,
                "peak MB": 1060.0,
            },
        ],
        "dense gradients": [{"step": [4.0], "score": [0.6], "imported MB": 500.0, "peak MB": 2100.0}],
    },
    "forward": {
        "rows": [
            {"name": "dense", "parameters": 1000, "MACs": 2000, "torch": 100.0, "onnxruntime": 50.0},
            {"name": "half", "parameters": 500, "MACs": 1100, "torch": 60.0, "onnxruntime": 35.0},
        ],
    },
    "machine": "a machine",
}


def test_the_least_figures_are_held_against_the_goals(
    costs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, compaction, page = (tmp_path / name for name in ("costs.json", "compaction.json", "costs.md"))
    before.write_text(json.dumps(FIGURES), encoding="utf-8")
    seconds = "of the processor"
    compaction.write_text(
        json.dumps({"masks": [{seconds: 8.0}, {seconds: 9.0}], "cuts": [{seconds: 6.4}]}), encoding="utf-8"
    )
    arguments = ["costs.py", "--input", str(before), "--compaction", str(compaction)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--page", str(page)])
    costs.main()
    printed = capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == costs.HEAD + "\n" + printed
    lines = printed.splitlines()
    assert lines[2:13] == [
        "| `lora`: scoring / 10 steps | 2.00% | ≤ 3% | met |",
        "| `lora`: all steps / LoRA tuning | 1.100 |  |  |",
        "| `lora`: peak memory / LoRA tuning | 1.040 | ≤ 1.05 | met |",
        "| `lora`: peak memory / dense-gradient scoring | 0.495 | ≤ 0.5 | met |",
        "| `fisher`: scoring / 10 steps | 4.50% | ≤ 3% | not met |",
        "| `fisher`: all steps / LoRA tuning | 1.160 |  |  |",
        "| `fisher`: peak memory / LoRA tuning | 1.060 | ≤ 1.05 | not met |",
        "| `fisher`: peak memory / dense-gradient scoring | 0.505 | ≤ 0.5 | not met |",
        "| a run that is cut on the way / with masks | 0.800 | ≤ 0.75 | not met |",
        "| half: forward / dense, torch | 0.600 | ≤ 0.6 | met |",
        "| half: forward / dense, onnxruntime | 0.700 | ≤ 0.6 | not met |",
    ]
    assert "| LoRA tuning, pruned by `lora` | 2.100 | 0.400 | 0.200 | 2.200 | 1040 | 500 |" in lines
    assert "| LoRA tuning | 2.000 | – | – | 2.000 | 1000 | 500 |" in lines
    assert "| dense-gradient scoring (`taylor`), a batch | 4.000 | 0.600 | – | – | 2100 | 500 |" in lines
    assert "| half | 500 | 1,100 | 0.55 | 60.0 | 35.0 |" in lines


def test_steps_that_score_are_told_from_others(costs: Any, tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "tiny", num_hidden_layers=1)
    pruned = costs.measured("fisher", model, costs.QUICK)
    # of the steps after the first the second and the last, the fourth, score
    assert [len(pruned[name]) for name in ("step", "step that scores", "score", "select", "rest")] == [1, 2, 2, 2, 2]
    for whole, *parts in zip(*(pruned[name] for name in ("step that scores", "score", "select", "rest")), strict=True):
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(whole)
    assert pruned["peak MB"] >= pruned["imported MB"] > 0


@pytest.mark.slow
def test_all_figures_of_a_tiny_model(tmp_path: Path) -> None:
    model, output = save_tiny_llama(tmp_path / "tiny"), tmp_path / "costs.json"
    command = [sys.executable, str(BENCH / "costs.py"), "--quick", "--model", str(model), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    figures = json.loads(output.read_text(encoding="utf-8"))
    steps = {way: [len(each["step"]) for each in rounds] for way, rounds in figures["costs"].items()}
    assert steps == {"tuning": [3], "lora": [1], "fisher": [1], "dense gradients": [2]}
    assert [len(figures["costs"][way][0]["step that scores"]) for way in ("tuning", "lora", "fisher")] == [0, 2, 2]
    dense, *halves = figures["forward"]["rows"]
    assert len(halves) == 4
    assert dense["parameters"] == 23840
    for half in halves:
        removed = 1 - half["parameters"] / dense["parameters"]
        assert removed == pytest.approx(0.5 if "of all" in half["name"] else 0.5 * 15520 / 23840, abs=0.02)
        assert half["MACs"] < dense["MACs"]
        assert min(half["torch"], half["onnxruntime"]) > 0
    assert done.stdout.count("| met |") + done.stdout.count("| not met |") == 14

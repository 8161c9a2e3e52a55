"""The report that ``graphprune prune`` writes beside the model, and that it is never what a run fails for."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import graphprune as gp
from graphprune.cli import app
from graphprune.evaluation import perplexity
from graphprune.sources import load_model, load_text, windows

FIGURES = {"comparison.png", "kept.png", "scores.png", "training.png"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} brown foxes jump over {number + 1} dogs\n" for number in range(200)))
    return path


def prune(model: Path, text: Path, *more: object) -> Result:
    options = ("--ratio", 0.2, "--text", text, "--window", 16, "--interval", 1, *more)
    return CliRunner().invoke(app, [str(each) for each in ("prune", model, *options)])


@pytest.mark.parametrize("adapters", ["--merge", "--keep-adapters"])
def test_a_run_has_a_report(model: Path, text: Path, tmp_path: Path, adapters: str) -> None:
    output = tmp_path / "out"
    result = prune(model, text, "--steps", 4, "-o", output, adapters)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    assert f"{output / 'report' / 'report.html'}: " in result.stdout
    names = {path.name for path in (output / "report").iterdir()}
    assert names == {"report.html", "report.json", "report.md", *FIGURES}

    report = gp.RunReport.load(output / "report" / "report.json")
    dense, tokenizer = load_model(model)
    held_out = windows(tokenizer, load_text(str(text)).held_out, 16)[:32]
    found = [perplexity(module, held_out) for module in (dense, gp.load(output))]
    assert [row.perplexity for row in report.models] == pytest.approx(found, rel=1e-4)
    assert f"on the first {len(held_out)} windows of 16 tokens of the held-out part of text.txt" in report.notes[0]
    counts = [sum(p.numel() for p in module.parameters()) for module in (dense, gp.load(output))]
    assert report.models[1].parameters == counts[1]
    assert (report.models[0].parameters == counts[0]) == (adapters == "--merge")  # the dense one has adapters, too
    assert all(row.macs and row.torch_ms for row in report.models)
    assert [each.step for each in report.history] == [1, 2, 3, 4]
    assert report.history[-1].sparsity == pytest.approx(0.2, abs=0.02)
    plan = gp.PruningPlan.load(output / "plan.json")
    assert {row.name: row.kept for row in report.groups if row.kept < row.units} == {
        name: group.count for name, group in plan.groups.items()
    }
    assert {row.kind for row in report.scores} == {row.kind for row in report.groups if row.kept < row.units}
    assert report.settings["steps"] == 4


def test_pruning_at_once_has_a_report_without_a_training(model: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = prune(model, text, "--no-tune", "--criterion", "magnitude", "--free", "-o", output)
    assert result.exit_code == 0, result.output
    assert {path.suffix for path in (output / "report").iterdir()} == {".html", ".json", ".md", ".png"}
    report = gp.RunReport.load(output / "report" / "report.json")
    assert (report.history, report.criterion) == ((), "magnitude")
    assert [row.name for row in report.models] == ["dense", "pruned"]
    assert not any("tuned" in note for note in report.notes)


def test_a_report_that_fails_is_a_warning(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the disk is on fire\nand more")

    monkeypatch.setattr("graphprune.cli.report.perplexity", fail)
    output = tmp_path / "out"
    result = prune(model, text, "--steps", 2, "-o", output)
    assert result.exit_code == 0, result.output
    assert f"warning: no report was written to {output / 'report'}: RuntimeError: the disk is on fire" in result.stderr
    assert "Traceback" not in result.output
    assert not (output / "report").exists()
    assert not Path(f"{output}.run").exists()
    assert json.loads((output / "plan.json").read_text())["about"]["tuned"]
    assert gp.load(output)(input_ids=load_model(model)[1]("fox", return_tensors="pt")["input_ids"]) is not None


def test_a_text_with_too_little_held_out_is_a_warning(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a brown fox jumps over\n" * 4)
    result = prune(model, text, "--steps", 2, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "SourceError: The text has " in result.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()

"""The same on an accelerator, where the machine has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import graphprune as gp
from graphprune.cli.app import app
from graphprune.device import default_device, described, device_of
from graphprune.evaluation import perplexity
from graphprune.passes import verify
from graphprune.sources.model import load_weights
from tests.models import tiny_llama, tokens

pytestmark = pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")

TEXT = "A compiler pass reads the graph of a model and finds what must leave together. " * 200


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def graphprune(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def on(module: Any) -> bool:
    return {parameter.device.type for parameter in module.parameters()} == {default_device().type}


@pytest.mark.parametrize(
    ("dtype", "room", "checked"),
    [
        (torch.float32, True, "float64"),
        (torch.float32, False, "the model's own types"),
        (torch.bfloat16, True, "float64"),
        (torch.bfloat16, False, "float32"),
        (torch.float16, False, "float32"),
    ],
    ids=str,
)
def test_what_is_cut_is_what_was_masked(
    dtype: torch.dtype, room: bool, checked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not room:
        monkeypatch.setattr(verify, "_free_bytes", lambda device: 0)
    model: Any = tiny_llama().to(default_device(), dtype)
    compact = gp.prune(model, kwargs={"input_ids": tokens().to(default_device())}, ratio=0.4, form="module")
    assert on(compact.module)
    assert compact.report is not None
    assert compact.report.dtype == checked
    assert compact.module_error is None
    cut = gp.prune(model, kwargs={"input_ids": tokens().to(default_device())}, ratio=0.4, in_place=True)
    assert cut.parameter_count == compact.parameter_count


def test_a_convolutional_network_is_cut_as_on_the_host() -> None:
    module = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3)).eval()
    x = torch.randn(2, 3, 16, 16)
    there = gp.prune(module.to(default_device()), x.to(default_device()), ratio=0.5)
    here = gp.prune(module.cpu(), x, ratio=0.5)
    assert there.plan.groups == here.plan.groups
    with torch.no_grad():
        torch.testing.assert_close(there.module.cpu()(x), here.module(x))


@pytest.mark.parametrize("criterion", ["magnitude", "random", "wanda_sp", "flap", "taylor", "fisher"])
def test_criteria_score_as_on_the_host(criterion: str) -> None:
    model: Any = tiny_llama()
    batches = [{"input_ids": tokens(4, 9)}, {"input_ids": tokens(2, 9)}]
    host = gp.score(gp.trace(model), criterion, data=batches)
    model.to(default_device())
    moved = [{"input_ids": batch["input_ids"].to(default_device())} for batch in batches]
    there = gp.score(gp.trace(model), criterion, data=moved)
    for name, scores in host.by_group.items():
        torch.testing.assert_close(there.by_group[name].cpu(), scores, rtol=1e-3, atol=1e-6)


def test_making_up_on_the_accelerator() -> None:
    model: Any = tiny_llama().to(default_device())
    traced = gp.trace(model)
    batches = [{"input_ids": tokens(4, 9).to(default_device())}]
    plan = gp.select(traced, gp.score(traced, "fisher", data=batches), ratio=0.4)
    for remedy in (gp.compensate, gp.reconstruct):
        changed, carried = remedy(traced, plan, batches)
        assert on(gp.rewrite(changed, carried).graph)


def test_latency_is_measured_there() -> None:
    table = gp.measure_latency(gp.trace(tiny_llama().to(default_device())), [0.5], repeats=2)
    assert table.whole > 0


@pytest.mark.parametrize(
    "settings",
    [
        ("--criterion", "lora"),
        ("--criterion", "fisher", "--config", "half.yaml"),
        ("--criterion", "fisher", "--make-up", "weights"),
        ("--compaction", "0.1"),
        ("--no-tune", "--criterion", "taylor"),
    ],
    ids=" ".join,
)
def test_prune_eval_export(settings: tuple[str, ...], model: Path, text: Path, tmp_path: Path) -> None:
    steps = () if "--no-tune" in settings else ("--steps", 12, "--interval", 2)
    output = tmp_path / "out"
    (tmp_path / "half.yaml").write_text("precision: bf16\n", encoding="utf-8")
    settings = tuple(str(tmp_path / each) if each == "half.yaml" else each for each in settings)
    graphprune("prune", model, "--ratio", 0.3, "--output", output, "--text", text, "--window", 16, *steps, *settings)
    report = json.loads((output / "report" / "report.json").read_text(encoding="utf-8"))
    assert described(default_device()) in json.dumps(report)
    assert described(default_device()) in graphprune("eval", model, output, "--text", text, "--window", 16)
    graphprune("export", output, "--output", tmp_path / "out.onnx")
    plain = load_weights(output)
    ids = torch.randint(20, (4, 16))
    host = perplexity(plain, ids)
    assert perplexity(plain.to(default_device()), ids) == pytest.approx(host, rel=1e-3)


def test_the_module_of_a_run_is_exported_and_saved_from_there(tmp_path: Path) -> None:
    model: Any = tiny_llama().to(default_device())
    compact = gp.prune(model, ratio=0.3, form="module")
    gp.export_onnx(compact, tmp_path / "out.onnx")
    gp.save(compact, tmp_path / "out")
    assert device_of(compact.module).type == default_device().type


def test_demo(model: Path, text: Path, tmp_path: Path) -> None:
    output = graphprune("demo", "--model", model, "--text", text, "--steps", 12, "--output", tmp_path / "demo")
    assert described(default_device()) in output
    assert (tmp_path / "demo" / "report" / "report.html").is_file()


def test_a_training_loop_of_ones_own() -> None:
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules="all-linear")).to(default_device())
    pruner = gp.Pruner(gp.trace(model), gp.PruneConfig(ratio=0.3, interval=2, warmup=0, compaction=0.1), 12)
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=1e-3)
    ids: Tensor = tokens(4, 9).to(default_device())
    for number in range(1, 13):
        with torch.autocast(default_device().type, dtype=torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        with pruner.step(number):
            optimizer.step()
        optimizer.zero_grad()
        pruner.cut_if_due(optimizer)
    compact = pruner.compact(adapters="merge")
    assert on(compact.module)
    assert compact.ratio > 0.25

"""The commands, run in this process on a tiny LLaMA: what they print, what they write, and what they leave alone."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import graphprune as gp
from graphprune.cli import app
from graphprune.cli.console import TuningProgress

from .tiny import save_adapter, save_tiny_llama


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 100, encoding="utf-8")
    return path


@pytest.fixture
def plan(shared_model: Path, tmp_path: Path) -> Path:
    from graphprune.sources import load_model

    traced = gp.trace(load_model(shared_model)[0])
    path = tmp_path / "plan.json"
    gp.select(traced, gp.score(traced, "magnitude"), ratio=0.2, homogeneous=True).save(path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def failure(result: Result) -> str:
    """The one line of an error; nothing of a traceback is on the screen."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    return str(lines[-1].removeprefix("error: "))


def prune_options(text: Path, *more: object) -> tuple[object, ...]:
    return ("--text", text, "--window", 16, "--steps", 4, "--interval", 1, *more)


# --- what a shell user meets first -----------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, graphprune.cli; sys.exit(any(n in sys.modules for n in ('torch', 'transformers', 'onnx')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version() -> None:
    assert run("--version").stdout == f"graphprune {gp.__version__}\n"


# --- inspect ---------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden"


def without_line_numbers(text: str) -> str:
    """Reasons name lines of torch and transformers, which differ from version to version, and with them the width."""
    return re.sub("─+", "─", re.sub(r"\.py:\d+", ".py:N", text))


def test_inspect(model: Path) -> None:
    (model / "model.safetensors").unlink()  # not needed
    result = run("inspect", model)
    assert result.exit_code == 0, result.output
    assert without_line_numbers(result.stdout) == (GOLDEN / "inspect.txt").read_text(encoding="utf-8")
    assert result.stderr == ""


def test_inspect_every_group_of_a_kind_with_adapters(model: Path) -> None:
    result = run("inspect", model, "--lora", "--all", "--kind", "lora_rank")
    rows = [line for line in result.stdout.splitlines() if "lora_rank" in line]
    assert len(rows) == 14
    assert rows[0].split(maxsplit=7)[-5:] == [
        "8",
        "64",
        "1,664",
        "2",
        "rank: the rank of an adapter is cut only when asked for",
    ]


def test_inspect_what_never_is_cut(model: Path) -> None:
    body = json.loads(run("inspect", model, "--frozen", "--json").stdout)
    assert [group["name"] for group in body["groups"]] == ["model.embed_tokens.weight:channels"]
    rows = run("inspect", model, "--frozen").stdout.splitlines()[5:-2]
    assert [row.split()[0] for row in rows] == ["model.embed_tokens.weight:channels"]
    assert " frozen: its positions are named by data (embedding) at " in rows[0]


def test_inspect_for_machines(model: Path) -> None:
    result = run("inspect", model, "--json")
    assert without_line_numbers(result.stdout) == (GOLDEN / "inspect.json").read_text(encoding="utf-8")
    body = json.loads(result.stdout)
    traced = gp.trace(_load(model))
    assert body["model"]["fingerprint"] == traced.fingerprint
    assert [group["name"] for group in body["groups"]] == [group.name for group in traced.groups]


def test_inspect_a_kind_that_no_group_has(model: Path) -> None:
    expected = f"no group of {model} is of kind 'lora_rank': it has channels, head_dims, heads, repeats"
    assert failure(run("inspect", model, "--kind", "lora_rank")) == expected


def test_inspect_a_directory_without_a_model(tmp_path: Path) -> None:
    assert failure(run("inspect", tmp_path)) == (
        f"There is no config.json in {tmp_path}: it is not a Hugging Face model directory; name one that "
        "save_pretrained wrote."
    )


def test_a_config_that_makes_no_model(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_attention_heads": "four"}))
    assert failure(run("inspect", model)).startswith(f"The model in {model} can't be made from its config.json: ")
    line = failure(run("export", model, "-o", tmp_path / "out.onnx"))
    assert line.startswith(f"The model in {model} can't be loaded: ")


# --- prune, eval, export, apply --------------------------------------------------------------------------------------


def _load(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory)


def test_prune_while_tuning_then_eval_and_export(model: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "small"
    result = run("prune", model, "--ratio", 0.2, "--output", output, *prune_options(text))
    assert result.exit_code == 0, result.output
    small = _load(output)
    assert small.num_parameters() == pytest.approx(0.8 * _load(model).num_parameters(), rel=0.01)
    assert "tune and prune: step 4 of 4, loss " in result.stderr
    assert f"load it with AutoModelForCausalLM.from_pretrained('{output}')" in result.stdout
    assert sorted(path.name for path in output.parent.iterdir()) == ["small"]
    about = json.loads((output / "plan.json").read_text())["about"]
    assert about["settings"]["steps"] == 4
    assert about["text"] == "text.txt"

    onnx = tmp_path / "small.onnx"
    exported = run("export", output, "--output", onnx)
    assert exported.exit_code == 0, exported.output
    assert exported.stdout.startswith(f"{onnx}: ")
    assert "input_ids [batch, sequence]; equal to torch in onnxruntime within" in exported.stdout

    measured = run("eval", model, output, onnx, "--text", text, "--window", 16, "--windows", 4)
    assert measured.exit_code == 0, measured.output
    names = [line.split()[0] for line in measured.stdout.splitlines()[5:]]
    assert names == ["tiny", "small", "small.onnx"]
    small_row, onnx_row = (line.split() for line in measured.stdout.splitlines()[6:])
    assert small_row[1:3] == [f"{small.num_parameters() / 1e3:.4g}", "k"]
    assert onnx_row[2] == small_row[4]  # the perplexity

    # The plan is that of the plain model: it cuts the dense checkpoint in the same way.
    again = tmp_path / "again"
    applied = run("apply", output / "plan.json", model, "--output", again)
    assert applied.exit_code == 0, applied.output
    assert {k: v.shape for k, v in _load(again).state_dict().items()} == {
        k: v.shape for k, v in small.state_dict().items()
    }


@pytest.mark.slow
def test_export_with_a_cache_in_fewer_bits(model: Path, text: Path, tmp_path: Path) -> None:
    exported = run("export", model, "-o", tmp_path / "out", "--genai", "--precision", "int8")
    assert exported.exit_code == 0, exported.output
    assert ", the cache of 2 layers; int8, near torch in onnxruntime within" in exported.stdout
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "genai_config.json", "tokenizer.json"} <= names
    measured = run("eval", model, tmp_path / "out" / "model.onnx", "--text", text, "--window", 16, "--windows", 4)
    dense, rounded = (
        float(line.split()[column]) for line, column in zip(measured.stdout.splitlines()[5:7], (3, 2), strict=True)
    )
    assert rounded == pytest.approx(dense, rel=0.02)
    line = failure(run("export", model, "-o", tmp_path / "missing" / "out.onnx", "--cache"))
    assert line == f"there is no directory {tmp_path / 'missing'} for out.onnx: make it, or give another path"


def test_apply_by_shard_and_in_memory_write_the_same(model: Path, plan: Path, tmp_path: Path) -> None:
    one = run("apply", plan, model, "-o", tmp_path / "one", "--in-memory")
    assert one.exit_code == 0, one.output
    assert "; equal to the masked model within " in one.stdout
    other = run("apply", plan, model, "-o", tmp_path / "other", "--by-shard")
    assert other.exit_code == 0, other.output
    assert "; 1 files written; shapes were checked, values were not compared" in other.stdout
    assert f"load it with AutoModelForCausalLM.from_pretrained('{tmp_path / 'other'}')" in other.stdout
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (tmp_path / "other" / "tokenizer.json").is_file()


@pytest.mark.parametrize("way", ["--in-memory", "--by-shard"])
def test_apply_keeps_the_types_and_cuts_an_adapter(model: Path, plan: Path, tmp_path: Path, way: str) -> None:
    _load(model).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    adapter = save_adapter(tmp_path / "adapter", model)
    result = run("apply", plan, tmp_path / "half", "-o", tmp_path / "out", "--adapter", adapter, way)
    assert result.exit_code == 0, result.output
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert "its adapter, to put on it with PeftModel.from_pretrained" in result.stdout
    kept = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    whole = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    assert 0 < kept[name].shape[1] < whole[name].shape[1]


def test_apply_by_shard_traces_once(model: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[gp.TracedModel] = []

    def counting(*args: Any, **options: Any) -> gp.TracedModel:
        traced.append(gp.trace(*args, **options))
        return traced[-1]

    monkeypatch.setattr("graphprune.export.checkpoint.trace", counting)
    result = run("apply", plan, model, "-o", tmp_path / "out", "--by-shard")
    assert result.exit_code == 0, result.output
    assert len(traced) == 1


def test_a_model_that_was_cut_before_is_not_cut_by_shard(model: Path, plan: Path, tmp_path: Path) -> None:
    (model / "graphprune.json").write_text("{}")
    line = failure(run("apply", plan, model, "-o", tmp_path / "out", "--by-shard"))
    assert line == f"{model} was cut before, and is cut again as a whole: leave out --by-shard and --adapter."


@pytest.mark.slow
def test_prune_with_the_settings_of_a_result(model: Path, text: Path, tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    result = run("prune", model, "--ratio", 0.2, "--output", first, "--seed", 3, *prune_options(text))
    assert result.exit_code == 0, result.output
    again = run("prune", model, "--config", first / "plan.json", "--output", second, "--text", text)
    assert again.exit_code == 0, again.output
    for name in ("plan.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    changed = run("prune", model, "--config", first / "plan.json", "--ratio", 0.1, "--output", other, "--text", text)
    assert changed.exit_code == 0, changed.output
    settings = json.loads((first / "plan.json").read_text())["about"]["settings"]
    assert json.loads((other / "plan.json").read_text())["about"]["settings"] == {**settings, "ratio": 0.1}


def test_prune_and_cut_while_tuning(model: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run("prune", model, "--ratio", 0.2, "-o", output, "--compaction", 0.05, *prune_options(text))
    assert result.exit_code == 0, result.output
    assert _load(output).num_parameters() == pytest.approx(0.8 * _load(model).num_parameters(), rel=0.01)
    assert "; equal to the masked model within " in result.stdout
    assert json.loads((output / "plan.json").read_text())["about"]["settings"]["compaction"] == 0.05


@pytest.mark.parametrize("bits", [8, 4])
def test_prune_on_weights_in_few_bits(model: Path, text: Path, tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    output = tmp_path / "out"
    result = run("prune", model, "--ratio", 0.2, "-o", output, "--base-bits", bits, *prune_options(text))
    assert result.exit_code == 0, result.output
    assert _load(output).num_parameters() == pytest.approx(0.8 * _load(model).num_parameters(), rel=0.01)
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.float32}


def test_few_bits_without_the_library(model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.sources.model.importlib.util.find_spec", lambda name: None)
    line = failure(run("prune", model, "--ratio", 0.2, "-o", tmp_path / "out", "--base-bits", 8, "--text", text))
    assert line == "Weights in 8 bits need bitsandbytes: pip install 'graphprune[quantized]'."


def test_a_plan_without_settings(model: Path, plan: Path, tmp_path: Path) -> None:
    assert failure(run("prune", model, "--config", plan, "--output", tmp_path / "out")) == (
        f"what the plan {plan} says of its settings is not a JSON object of settings with at least a ratio"
    )
    missing = tmp_path / "missing.json"
    assert failure(run("prune", model, "--config", missing, "--output", tmp_path / "out")).startswith(
        f"the settings {missing} can't be read: "
    )


@pytest.mark.slow
def test_prune_at_once_and_each_layer_by_itself(model: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "free"
    result = run("prune", model, "--ratio", 0.2, "-o", output, "--free", "--no-tune", *prune_options(text))
    assert result.exit_code == 0, result.output
    assert f"AutoModelForCausalLM.from_pretrained('{output}', trust_remote_code=True); without its" in result.stdout
    loaded = gp.load(output)
    assert sum(p.numel() for p in loaded.parameters()) == pytest.approx(0.8 * 23_840, rel=0.02)
    assert run("inspect", output).stdout.startswith("PrunedLlamaForCausalLM: 19,")
    measured = run("eval", output, "--text", text, "--whole", "--window", 16, "--windows", 2, "--markdown")
    assert measured.exit_code == 0, measured.output
    assert measured.stdout.splitlines()[0] == "| model | parameters | perplexity | torch ms | file |"


def test_eval_of_a_split_of_a_dataset_with_a_stride(model: Path, tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    sentence = "the quick brown fox jumps over the lazy dog"  # a token for each byte
    splits = {"train": ["x" * 40], "test": [sentence] * 4}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": rows}) for name, rows in splits.items()}
    ).save_to_disk(tmp_path / "data")
    options = ("--text", tmp_path / "data", "--split", "test", "--window", 16, "--stride", 10, "--windows", 5)
    result = run("eval", model, model, *options, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    title = f"split test of {tmp_path / 'data'}, windows of 16 tokens, one every 10; {15 + 4 * 10} tokens count"
    assert result.stdout.splitlines()[0] == title
    from graphprune.evaluation import perplexity
    from graphprune.sources import load_model, windows

    module, tokenizer = load_model(model)
    ids = windows(tokenizer, "\n\n".join(splits["test"]), 16, stride=10)[:5]
    expected = f"{perplexity(module, ids, stride=10):.2f}"
    assert [line.split()[3] for line in result.stdout.splitlines()[5:]] == [expected, expected]
    assert expected != f"{perplexity(module, ids):.2f}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--batch-size", 0), "--batch-size 0 runs nothing: give at least 1"),
        (("--stride", 200), "A stride of 200 tokens does not fit windows of 128: it must lie between 1 and 128."),
        (("--split", "test", "--whole"), "--whole scores more than the split test: give one of --whole and --split"),
    ],
)
def test_eval_options_that_make_no_sense(model: Path, options: tuple[object, ...], says: str) -> None:
    assert failure(run("eval", model, *options)) == says


@pytest.mark.parametrize("criterion", ["magnitude", "random", "taylor", "wanda_sp", "flap", "fisher"])
def test_prune_by_other_criteria(model: Path, text: Path, tmp_path: Path, criterion: str) -> None:
    options = prune_options(text, "--no-tune", "--criterion", criterion)
    result = run("prune", model, "--ratio", 0.1, "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["about"]["criterion"] == criterion


def test_options_of_the_criterion_and_weights_that_make_up(model: Path, text: Path, tmp_path: Path) -> None:
    options = prune_options(text, "--no-tune", "--criterion", "magnitude", "--criterion-option", "order=1")
    result = run("prune", model, "--ratio", 0.1, "-o", tmp_path / "out", "--make-up", "weights", *options)
    assert result.exit_code == 0, result.output
    about = json.loads((tmp_path / "out" / "plan.json").read_text())["about"]
    assert about["settings"]["criterion_options"] == {"order": 1}
    assert about["reconstructed"]
    assert "order is not NAME=VALUE;" in run("prune", model, "-o", tmp_path / "b", "--criterion-option", "order").output


def test_adapters_can_be_kept(model: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run("prune", model, "--ratio", 0.2, "-o", output, "--keep-adapters", *prune_options(text))
    assert result.exit_code == 0, result.output
    assert (output / "adapter" / "adapter_model.safetensors").is_file()
    assert any("lora_A" in name for name, _ in gp.load(output).named_parameters())


def test_an_adapter_is_pruned_with_its_model(model: Path, text: Path, tmp_path: Path) -> None:
    adapter, output = save_adapter(tmp_path / "adapter", model), tmp_path / "out"
    assert run("inspect", adapter).stdout.startswith("PeftModelForCausalLM: 27,")
    options = prune_options(text, "--keep-adapters", "--learning-rate", 1e-12)
    result = run("prune", adapter, "--ratio", 0.2, "-o", output, *options)
    assert result.exit_code == 0, result.output
    assert f"{output / 'adapter'}: its adapter, to put on it with PeftModel.from_pretrained" in result.stdout
    name = "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight"
    before, after = (load_file(path / "adapter_model.safetensors")[name] for path in (adapter, output / "adapter"))
    torch.testing.assert_close(before, after)
    measured = run("eval", adapter, output, output / "adapter", "--text", text, "--window", 16, "--windows", 2)
    assert measured.exit_code == 0, measured.output
    dense, compact, again = (line.split() for line in measured.stdout.splitlines()[5:])
    assert dense[1] == "27.55"
    assert compact[4] == again[4] != dense[3]  # the perplexity


@pytest.mark.slow
def test_ctrl_c_and_resume(model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, straight = tmp_path / "out", tmp_path / "straight"
    command = ("prune", model, "--ratio", 0.2, *prune_options(text))
    assert run(*command, "-o", straight).exit_code == 0

    def interrupt(self: TuningProgress, step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TuningProgress, "__call__", interrupt)
        result = run(*command, "-o", output)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        f"interrupted; {output}.run/checkpoint-3 holds step 3 of 4: go on from it with --resume"
    )
    assert not output.exists()
    assert failure(run(*command, "-o", output)) == (
        f"{output}.run holds an earlier run that did not end: go on with it with --resume, or remove it first."
    )
    assert failure(run(*command, "-o", output, "--resume", "--seed", 7)) == (
        f"{output}.run is of a run with seed=0 and not 7: go on with the same settings, or start a new run"
    )
    result = run(*command, "-o", output, "--resume")
    assert result.exit_code == 0, result.output
    assert not Path(f"{output}.run").exists()
    ours, theirs = load_file(output / "model.safetensors"), load_file(straight / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ctrl_c_elsewhere(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphprune.cli.inspect.trace_named", interrupt)
    result = run("inspect", model)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.2])
def test_a_ratio_out_of_range_fails_before_anything_is_read(tmp_path: Path, ratio: float) -> None:
    expected = f"the ratio must lie between 0 and 1, not {float(ratio)}: 0.5 removes half"
    assert failure(run("prune", "nowhere", "--ratio", ratio, "-o", tmp_path / "out")) == expected
    assert failure(run("demo", "--ratio", ratio, "-o", tmp_path / "out")) == expected


@pytest.mark.parametrize("tune", ["--tune", "--no-tune"])
def test_a_ratio_that_cannot_be_met(model: Path, text: Path, tmp_path: Path, tune: str) -> None:
    line = failure(run("prune", model, "--ratio", 0.9, "-o", tmp_path / "out", *prune_options(text, tune)))
    assert line.startswith("a share of 90.0% can't be removed: the most is ")
    assert "lower the ratio" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "tiny"]


def test_an_output_that_exists_fails_before_any_work(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").write_text("x")
    expected = f"The directory {output} exists already and is not overwritten: give another name, or remove it first."
    assert failure(run("prune", "nowhere", "--ratio", 0.5, "-o", output)) == expected
    assert failure(run("demo", "-o", output)) == expected
    assert failure(run("apply", "nothing.json", "nowhere", "-o", output)) == expected
    assert failure(run("export", "nowhere", "-o", output)) == expected
    assert [path.name for path in output.iterdir()] == ["precious"]


def test_a_plan_for_another_model(plan: Path, tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other", intermediate_size=40)
    (other / "model.safetensors").unlink()  # refused before any weight is read
    line = failure(run("apply", plan, other, "-o", tmp_path / "out"))
    assert line.startswith("the plan was made for a model with fingerprint ")
    assert line.endswith(": use the model that it was made for, or make a new plan with gp.select")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["--in-memory", "--by-shard"])
def test_a_plan_for_another_revision(model: Path, plan: Path, tmp_path: Path, way: str) -> None:
    """The same shapes, and one weight that is another: cut when asked for, and then cut alike."""
    other = _load(model)
    other.model.layers[1].mlp.down_proj.weight.data.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    line = failure(run("apply", plan, tmp_path / "other", "-o", tmp_path / "out", way))
    assert line.startswith("the plan was made for weights with digest ")
    assert line.endswith(
        ": use the revision that it was made for, or cut these on purpose with --other-weights (other_weights=True)"
    )
    assert not list(tmp_path.glob("*out*"))
    result = run("apply", plan, tmp_path / "other", "-o", tmp_path / "out", way, "--other-weights")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "plan.json").read_bytes() == plan.read_bytes()


def test_a_plan_that_is_none(model: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    line = failure(run("apply", tmp_path / "plan.json", model, "-o", tmp_path / "out"))
    assert line == f"{tmp_path / 'plan.json'} is not a pruning plan: 'format'"
    line = failure(run("apply", tmp_path / "none.json", model, "-o", tmp_path / "out"))
    assert line.startswith(f"the plan {tmp_path / 'none.json'} can't be read: ")


@pytest.mark.parametrize("command", ["prune", "apply", "eval", "export"])
def test_truncated_weights_are_named(model: Path, text: Path, plan: Path, tmp_path: Path, command: str) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    arguments: dict[str, tuple[object, ...]] = {
        "prune": ("prune", model, "--ratio", 0.2, "-o", tmp_path / "out", *prune_options(text)),
        "apply": ("apply", plan, model, "-o", tmp_path / "out"),
        "eval": ("eval", model),
        "export": ("export", model, "-o", tmp_path / "out.onnx"),
    }
    line = failure(run(*arguments[command]))
    assert line.startswith(f"The weight file {file} is truncated or corrupt (")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "text.txt", "tiny"]


@pytest.mark.parametrize("tune", ["--tune", "--no-tune"])
def test_nan_in_the_weights(model: Path, text: Path, tmp_path: Path, tune: str) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    line = failure(run("prune", model, "--ratio", 0.2, "-o", tmp_path / "out", *prune_options(text, tune)))
    assert "not finite" in line or "is nan" in line
    assert "check the data and the weights" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "tiny"]


def test_a_model_that_cannot_be_captured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward: Any = LlamaMLP.forward

    def branch(self: Any, x: torch.Tensor) -> Any:
        return forward(self, x) if x.sum() > 0 else x

    monkeypatch.setattr(LlamaMLP, "forward", branch)
    line = failure(run("inspect", model))
    assert line.startswith("LlamaForCausalLM can't be captured")


def test_no_tokenizer(model: Path, text: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    assert failure(run("eval", model, "--text", text)) == (
        "There is no tokenizer beside tiny: name a directory that has one with --tokenizer."
    )


def test_bad_texts(model: Path, tmp_path: Path) -> None:
    missing, short = tmp_path / "none.txt", tmp_path / "short.txt"
    assert failure(run("eval", model, "--text", missing)) == f"There is no text file {missing}: check the path."
    short.write_text("a few words\n" * 10)
    line = failure(run("prune", model, "--ratio", 0.2, "-o", tmp_path / "out", "--text", short))
    assert line.startswith("The text has ")


def test_a_broken_onnx_file(model: Path, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.onnx"
    assert failure(run("eval", file, "--text", text)) == f"there is no ONNX file {file}: check the path"
    file.write_bytes(b"no protobuf")
    line = failure(run("eval", file, "--tokenizer", model, "--text", text))
    assert line.startswith(f"{file} can't be read by onnxruntime (")


def test_a_place_that_cannot_be_written_to(model: Path, plan: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    line = failure(run("apply", plan, model, "-o", tmp_path / "file" / "out"))
    assert str(tmp_path / "file") in line


def test_a_mistake_of_graphprune_is_called_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("graphprune.cli.inspect.trace_named", fail)
    result = run("inspect", model)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: unexpected ZeroDivisionError: division by zero; this is a mistake of graphprune: "
        "graphprune --debug COMMAND … shows where\n"
    )
    assert isinstance(run("--debug", "inspect", model).exception, ZeroDivisionError)


def test_an_accelerator_that_is_too_small(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("graphprune.cli.inspect.trace_named", refuse)
    result = run("inspect", model)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: the accelerator has not enough memory for this: take a smaller --batch-size"
    )


# --- demo ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_on_a_tiny_model(model: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    result = run("demo", "--model", model, "--text", text, "--steps", 3, "--windows", 1, "-o", output)
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith(("dense ", "pruned, "))]
    assert len(rows) == 3
    assert sorted(path.name for path in output.iterdir()) == ["model", "model.onnx", "report"]
    assert _load(output / "model").num_parameters() == pytest.approx(0.8 * 23_840, rel=0.01)
    assert "The pruned and tuned model writes: An object in Python is" in result.stdout
    for name in ("model", "model.onnx", "report/report.html"):
        assert f"{output / name} " in result.stdout


def test_an_interrupted_demo_leaves_nothing(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphprune.cli.demo.export_onnx", interrupt)
    result = run("demo", "--model", model, "--text", text, "--steps", 3, "--windows", 1, "-o", tmp_path / "demo")
    assert result.exit_code == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "tiny"]


@pytest.mark.slow
def test_a_demo_that_is_told_to_end_leaves_nothing(model: Path, text: Path, tmp_path: Path) -> None:
    options = ["--model", str(model), "--text", str(text), "-o", str(tmp_path / "demo")]
    command = [sys.executable, "-c", "from graphprune.cli import main; main()", "demo", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("perplexity: dense"):
                assert len(list(tmp_path.glob(".demo.*.tmp"))) == 1
                process.terminate()
    assert process.returncode == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "tiny"]


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_the_demo_on_the_real_model(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    command = [
        sys.executable,
        "-c",
        "from graphprune.cli import main; main()",
        "demo",
        "--steps",
        "10",
        "-o",
        str(output),
    ]
    before = _seconds_of_children()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # Of processors, not of a clock: what else the machine does is not the demo's. Two cores have 1200 in ten minutes.
    assert _seconds_of_children() - before < 1200
    assert _load(output / "model").num_parameters() == pytest.approx(0.8 * 134_515_008, rel=0.005)
    table = [line.split() for line in result.stdout.splitlines() if line.startswith(("dense ", "pruned, "))]
    assert len(table) == 3

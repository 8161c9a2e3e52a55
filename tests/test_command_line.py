"""What all commands share: help that fits a screen, examples that parse, completion, how much is said, exit codes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner, Result

from graphprune.cli import app
from graphprune.cli.console import Estimate

from .tiny import save_tiny_llama

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("command-line") / "tiny")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 100, encoding="utf-8")
    return path


# --- help ------------------------------------------------------------------------------------------------------------


def examples(help_text: str) -> list[str]:
    found = re.search(r"^Examples?:\n((?:  .*\n)+)", help_text, re.MULTILINE)
    assert found is not None, help_text
    return [line.strip() for line in found[1].splitlines()]


def test_help_fits_a_screen_and_names_every_command_and_option() -> None:
    shown = run("--help").stdout
    lines = shown.splitlines()
    assert len(lines) < 24  # and a prompt below them
    assert max(map(len, lines)) <= 80
    for name in COMMANDS:
        assert f"  {name} " in shown
    for option in typer.main.get_command(app).params:
        assert option.opts[0] in shown
    assert run().stderr == shown


def test_help_begins_with_the_three_things_that_people_do() -> None:
    assert [line.split()[1] for line in examples(run("--help").stdout)] == ["inspect", "prune", "export"]


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_examples_parse(name: str | None) -> None:
    shown = run(*([] if name is None else [name]), "--help").stdout
    for example in examples(shown):
        assert len(example) <= 78
        program, command, *arguments = shlex.split(example.partition(">")[0], comments=True)
        assert program == "graphprune"
        assert command == (name or command)
        COMMANDS[command].make_context(command, arguments)  # raises where they make no sense


# --- completion ------------------------------------------------------------------------------------------------------


def completions(words: str) -> list[str]:
    environment = {"_GRAPHPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-c", "from graphprune.cli import main; main()"]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("graphprune ex", ["export"]),
        ("graphprune prune --crit", ["--criterion", "--criterion-option"]),
        ("graphprune prune --criterion ta", ["taylor"]),
    ],
)
def test_the_shell_completes(words: str, expected: list[str]) -> None:
    assert completions(words) == expected


def test_the_script_of_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # a job has none around it
    result = run("--show-completion", "bash")
    assert result.exit_code == 0, result.output
    assert "_GRAPHPRUNE_COMPLETE=complete_bash" in result.stdout


# --- how much is said ------------------------------------------------------------------------------------------------


EVAL = ("--window", 16, "--windows", 1)


def test_quiet_leaves_the_results(model: Path, text: Path) -> None:
    usual, quiet = (run(*said, "eval", model, "--text", text, *EVAL) for said in ([], ["-q"]))
    assert usual.stderr.startswith("perplexity of tiny on 1 windows of 16 tokens (")
    assert quiet.exit_code == 0, quiet.output
    assert quiet.stderr == ""
    assert quiet.stdout.splitlines()[0] == usual.stdout.splitlines()[0]
    failed = run("eval", model, "--text", text.with_name("none.txt"), "--quiet")
    assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1)


def test_verbose_lets_other_libraries_speak_for_one_command(model: Path, text: Path) -> None:
    verbose, usual = (run(*said, "eval", model, "--text", text, *EVAL).stderr for said in (["-v"], []))
    assert "Loading weights" in verbose
    assert "perplexity of tiny on 1 windows of 16 tokens …\n" in verbose
    assert " of memory so far)" in verbose
    assert [line.rpartition(" (")[0] for line in usual.splitlines()] == [
        "perplexity of tiny on 1 windows of 16 tokens",
        "time a forward pass over 16 tokens",
    ]


@pytest.mark.slow
def test_verbose_tells_what_a_run_is_made_of(model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--ratio", 0.2, "--text", text, "--window", 16, "--steps", 2, "--interval", 1, "-o", out, "-v")
    # a process of its own: what transformers says goes to the stderr that there was when it was imported
    command = [sys.executable, "-c", "from graphprune.cli import main; main()", "prune", str(model)]
    said = subprocess.run([*command, *map(str, options)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    for expected in (
        r"^graphprune \S+, Python \S+, torch \S+, transformers \S+, peft \S+, ",
        r"^  LlamaForCausalLM: 23,840 parameters in float32 on \S+",
        r"^  \d+ groups, \d+ of them cut by default; trace [\d.]+ s, infer axes [\d.]+ s, build groups [\d.]+ s$",
        r"^  frozen ×\d+: ",
        r"^  graph form differs by \S+, module form differs by \S+ from the masked model \(float64\); ",
        rf"^  wrote {re.escape(str(out))}/model\.safetensors, [\d.]+ kB$",
        r"Running training",  # what transformers says of it
    ):
        assert re.search(expected, said.stderr, re.MULTILINE), (expected, said.stderr)


def test_verbose_tells_of_an_export(model: Path, tmp_path: Path) -> None:
    said = run("export", model, "-o", tmp_path / "out.onnx", "-v").stderr
    for expected in (
        r"^  inputs: input_ids \['batch', 'sequence'\]$",
        r"^  compared on input_ids \[2, 13\]: within \S+$",
        r"^  fp32, on cpu; export [\d.]+ s, check [\d.]+ s$",
        rf"^  wrote {re.escape(str(tmp_path))}/out\.onnx, [\d.]+ kB$",
    ):
        assert re.search(expected, said, re.MULTILINE), (expected, said)


def test_a_terminal_shows_how_far_it_is(model: Path, text: Path) -> None:
    """On a pseudo-terminal, since it is only there that a bar is drawn."""
    pty, main = pytest.importorskip("pty"), "from graphprune.cli import main; main()"
    ours, theirs = pty.openpty()
    arguments = ["eval", str(model), "--text", str(text), "--window", "16", "--windows", "3", "--batch-size", "1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        [sys.executable, "-c", main, *arguments], stdout=theirs, stderr=theirs, env=environment
    ) as run:
        os.close(theirs)
        shown = b""
        while run.poll() is None or shown[-1:] == b"":
            try:
                shown += os.read(ours, 1 << 16)
            except OSError:  # the other side is closed
                break
    os.close(ours)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert run.returncode == 0, drawn
    assert re.search(r"perplexity of tiny on 3 windows.* ━+ 100% +0\.0 s left", drawn), drawn
    assert re.search(r"time a forward pass over 16 tokens ━+ 100% ", drawn), drawn
    assert re.search(r"\sperplexity of tiny on 3 windows of 16 tokens \([\d.]+ s\)", drawn), drawn


def test_the_time_left_is_counted_down_between_steps() -> None:
    begun = Estimate().after(10.0, 0.0)
    assert begun.left(11.0) is None
    assert begun.after(10.1, 0.01).left(10.2) is None  # too soon to say
    quarter = begun.after(20.0, 0.25)
    assert quarter.left(20.0) == pytest.approx(30)
    assert quarter.left(45.0) == pytest.approx(5)
    assert quarter.left(51.0) is None  # it takes longer than it looked
    assert quarter.after(60.0, 1.0).left(60.0) == 0


def test_work_that_began_before_its_first_report_is_measured_from_there() -> None:
    assert Estimate().after(100.0, 0.5).after(110.0, 0.75).left(110.0) == pytest.approx(10)


# --- options that make no sense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--colour"], "No such option: --colour; graphprune --help shows what there is"),
        (["shrink"], "No such command 'shrink'; graphprune --help shows what there is"),
        (["export", "x"], "Missing option '--output' / '-o'; graphprune export --help shows what there is"),
        (["inspect", "x", "--qqqqqqq"], "No such option: --qqqqqqq; graphprune inspect --help shows what there is"),
        (["-q", "inspect", "x", "-v"], "--quiet and --verbose can't both hold: give one of them"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {says}\n")


# --- files of settings -----------------------------------------------------------------------------------------------


@pytest.fixture
def run_file(model: Path, text: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    settings = "ratio: 0.2\nsteps: 2\nwindow: 16\ninterval: 1\nlearning-rate: 5e-4  # a number, unlike in YAML 1.1\n"
    path.write_text(f"model: {model}\noutput: {tmp_path / 'out'}\ntext: {text}\n{settings}", encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_from_a_file_and_again_from_its_result(run_file: Path, tmp_path: Path) -> None:
    result = run("prune", "--config", run_file, "--seed", 3)
    assert result.exit_code == 0, result.output
    plan = tmp_path / "out" / "plan.json"
    settings = json.loads(plan.read_text())["about"]["settings"]
    given = {"ratio": 0.2, "steps": 2, "learning_rate": 5e-4, "seed": 3, "homogeneous": True}
    assert {name: settings[name] for name in given} == given
    again = run("prune", "--config", plan, "-o", tmp_path / "again")
    assert again.exit_code == 0, again.output
    for name in ("plan.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rato: 0.2", "sets rato, and there is no such setting: is ratio meant?"),
        ("ratio: a fifth", "does not hold the settings of a run: ratio must be of type float"),
        ("batch_size: 2.5", "does not hold the settings of a run: batch_size must be of type int"),
        (
            "ratio: 2",
            "does not hold the settings of a run: the ratio must lie between 0 and 1, not 2: 0.5 removes half",
        ),
        ("kinds: heads", "does not hold the settings of a run: kinds must be a list of words, not 'heads'"),
        ("lora_targets: 3", "does not hold the settings of a run: lora_targets must be a list of words, not 3"),
        ("tune: 1", "sets tune to 1, and it must be true or false"),
        ("model: [a, b]", "sets model to ['a', 'b'], and it must be a word"),
        ("base-bits: 3", "sets base_bits to 3, and it must be 8 or 4"),
        ("ratio: 0.2\nratio: 0.3", "is not YAML in line 1: ratio stands twice"),
        ("ratio: [0.2", "is not YAML in line 1: expected ',' or ']', but got '<stream end>'"),
        ("0.2", "is not YAML of settings by name, as in ratio: 0.2"),
    ],
)
def test_a_file_that_says_nothing_sensible(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    result = run("prune", "--config", path)
    assert (result.exit_code, result.stderr) == (2, f"error: {path} {says}\n")


def test_the_file_in_the_documentation_is_read(tmp_path: Path) -> None:
    from graphprune.cli.run_file import read_run

    page = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    (tmp_path / "run.yaml").write_text(block[1], encoding="utf-8")
    read = read_run(tmp_path / "run.yaml")
    assert read.run.keys() == {"model", "output", "text"}
    assert read.settings["learning_rate"] == 5e-4


@pytest.mark.parametrize(("left_out", "hint"), [("model", "'MODEL'"), ("output", "'--output'"), ("ratio", "'--ratio'")])
def test_what_is_in_neither_place(run_file: Path, left_out: str, hint: str) -> None:
    lines = run_file.read_text().splitlines(keepends=True)
    run_file.write_text("".join(line for line in lines if not line.startswith(left_out)))
    result = run("prune", "--config", run_file)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: Invalid value for {hint}: say ")


# --- dry runs --------------------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_cut_that_is_not_scored_yet(model: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    (bare / "model.safetensors").unlink()  # not needed
    result = run("prune", bare, "--ratio", 0.2, "--window", 16, "--free", "--dry-run", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    parameters = re.search(r"^parameters: 23,840 → ([\d,]+), ([\d.]+)% removed$", result.stdout, re.MULTILINE)
    assert parameters is not None, result.stdout
    assert float(parameters[2]) == pytest.approx(20, abs=0.5)
    assert "multiply-accumulates for 16 tokens: 411.6 k → " in result.stdout
    assert "Known only after scoring (lora): " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_a_dry_run_of_a_plan_tells_what_it_cuts(model: Path, tmp_path: Path) -> None:
    import graphprune as gp
    from graphprune.selection import removed_share
    from graphprune.sources import load_model

    traced = gp.trace(load_model(model)[0])
    plan = gp.select(traced, gp.score(traced, "random"), ratio=0.3)
    plan.save(tmp_path / "plan.json")
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    (bare / "model.safetensors").unlink()
    result = run("apply", tmp_path / "plan.json", bare, "--dry-run")
    assert result.exit_code == 0, result.output
    left = gp.rewrite(traced, plan).parameter_count
    assert f"parameters: 23,840 → {left:,}, {1 - left / 23_840:.1%} removed\n" in result.stdout
    share = removed_share(traced, plan, of="macs")
    assert re.search(rf"^multiply-accumulates for 13 tokens: .* {share:.1%} removed$", result.stdout, re.MULTILINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "plan.json"]


@pytest.fixture
def bare(model: Path, tmp_path: Path) -> Path:
    """The model without its weights."""
    path = Path(shutil.copytree(model, tmp_path / "bare"))
    (path / "model.safetensors").unlink()
    return path


def said_bytes(shown: str) -> float:
    found = re.search(r"would be written, about ([\d.]+) kB", shown)
    assert found is not None, shown
    return float(found[1]) * 1000


@pytest.mark.parametrize(("precision", "each"), [("fp32", 4), ("fp16", 2), ("int8", 1 + 4 / 32)])
def test_a_dry_run_of_an_export_tells_its_size(bare: Path, tmp_path: Path, precision: str, each: float) -> None:
    result = run("export", bare, "-o", tmp_path / "out.onnx", "--precision", precision, "--dry-run")
    assert result.exit_code == 0, result.output
    assert said_bytes(result.stdout) == pytest.approx(23_840 * each, rel=0.15)  # norms have 32 bits in int8, too
    assert f"weights in {precision}, opset 18\n" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_a_dry_run_for_onnxruntime_genai_names_its_files(bare: Path, tmp_path: Path) -> None:
    result = run("export", bare, "-o", tmp_path / "out", "--genai", "--dry-run")
    assert f"{tmp_path / 'out' / 'model.onnx'} would be written" in result.stdout
    assert "genai_config.json, for texts of up to 256 tokens" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_a_dry_run_refuses_what_the_run_would_refuse(bare: Path, tmp_path: Path) -> None:
    for arguments in (
        ["export", bare, "-o", bare, "--dry-run"],
        ["export", bare, "-o", tmp_path / "no" / "out.onnx", "--dry-run"],
        ["export", bare, "-o", tmp_path / "out.onnx", "--part", "encoder", "--dry-run"],
        ["gguf", bare, "-o", bare, "--dry-run"],
        ["demo", "-o", bare, "--dry-run"],
    ):
        dry, real = run(*arguments), run(*arguments[:-1])
        assert dry.exit_code == 2
        assert dry.stderr.splitlines()[-1].startswith("error: ")
        assert arguments[3:5] == ["-o", bare] or real.exit_code == 2


def test_a_dry_run_of_gguf_tells_the_size_that_the_file_has(model: Path, bare: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    import graphprune as gp

    plain = Path(shutil.copytree(model, tmp_path / "plain"))
    for place in (bare, plain):
        (place / "tokenizer.json").unlink()  # bytes alone are no vocabulary of GGUF
    result = run("gguf", bare, "-o", tmp_path / "dry.gguf", "--dry-run")
    written = gp.export_gguf(plain, tmp_path / "out.gguf")
    assert 0 <= written.bytes - said_bytes(result.stdout) < 5000  # the header
    assert f"{written.tensors} tensors, no tokenizer" in result.stdout
    assert not (tmp_path / "dry.gguf").exists()


def test_a_dry_run_of_eval_tells_what_it_would_measure(model: Path, bare: Path, text: Path) -> None:
    dry, real = (run("eval", each, "--text", text, *EVAL, *more) for each, more in ((bare, ["--dry-run"]), (model, [])))
    assert dry.stdout.splitlines()[0] == real.stdout.splitlines()[0]  # which text, and how many tokens count
    assert f"{bare}: 23,840 parameters; 1 forward passes, 15 tokens count\n" in dry.stdout


def test_a_dry_run_of_the_demo_tells_what_it_would_do(bare: Path, text: Path, tmp_path: Path) -> None:
    result = run("demo", "--model", bare, "--text", text, "--steps", 7, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "7 steps of tuning, each on 4 windows of 128 tokens" in result.stdout
    assert "parameters: 23,840 → " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_a_dry_run_of_the_demo_downloads_nothing(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("graphprune.sources.model._hub_copy", lambda *, local_files_only: None)
    result = run("demo", "--text", text, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "model HuggingFaceTB/SmolLM2-135M-Instruct, which would be downloaded first" in result.stdout
    assert list(tmp_path.iterdir()) == []

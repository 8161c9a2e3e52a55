"""What all commands share: help that fits a screen, examples that parse, completion, how much is said, exit codes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner, Result

from graphprune.cli import app

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


def test_the_script_of_a_shell() -> None:
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
    failed = run("--quiet", "eval", model, "--text", text.with_name("none.txt"))
    assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1)


def test_verbose_lets_other_libraries_speak_for_one_command(model: Path, text: Path) -> None:
    verbose, usual = (run(*said, "eval", model, "--text", text, *EVAL).stderr for said in (["-v"], []))
    assert "Loading weights" in verbose
    assert "perplexity of tiny on 1 windows of 16 tokens …\n" in verbose
    assert " of memory so far)" in verbose
    assert len(usual.splitlines()) == 1


# --- options that make no sense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--colour"], "No such option: --colour; graphprune --help shows what there is"),
        (["shrink"], "No such command 'shrink'; graphprune --help shows what there is"),
        (["export", "x"], "Missing option '--output' / '-o'; graphprune export --help shows what there is"),
        (["inspect", "x", "--page"], "No such option: --page; graphprune inspect --help shows what there is"),
        (["export", "x", "-q"], "-q stands before the command: graphprune -q export …"),
        (["-q", "-v", "inspect", "x"], "--quiet and --verbose can't both hold: give one of them"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {says}\n")

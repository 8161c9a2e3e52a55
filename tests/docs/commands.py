"""Shell commands in the documentation: whether they are right, and running those of graphprune."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import typer
from typer.testing import CliRunner

from graphprune.cli import app

from .blocks import ROOT

ELSEWHERE = {
    ".": "activates an environment",
    "hf": "needs an account on the Hugging Face hub",
    "mypy": "run by .ci/run",
    "pre-commit": "needs a checkout with hooks",
    "pytest": "is what runs this",
    "ruff": "run by .ci/run",
    "sphinx-build": "run by .ci/run",
}
"""Programs that no test of the documentation runs, and why."""

MODULES = {"accelerate": "torch.distributed.run", "lm_eval": "lm_eval"}
"""Programs that are run, and the modules that do it: accelerate starts several processes on a CPU by MPI only."""

SHRUNK = {
    "demo": {"--model": "MODEL", "--text": "tune.txt", "--steps": "3", "--windows": "2"},
    "eval": {"--windows": "3", "--text": "test.txt", "--window": "16"},
    "prune": {"--text": "tune.txt", "--steps": "3", "--interval": "1", "--window": "16"},
}
"""Options that are added where a command does not give them, so that it takes seconds."""


def check(command: list[str]) -> None:
    """Fail if a command is one that can't be right."""
    program, *arguments = command
    match program:
        case "graphprune":
            _parse(arguments)
        case "pip":
            _check_install(arguments)
        case "python" if arguments[0] == "-m":
            assert arguments[1] == "venv", f"nothing checks python -m {arguments[1]}"
        case "python" if arguments[0] in STAND_INS:
            pass
        case "python":
            _check_script(*arguments)
        case _:
            assert program in MODULES or program in ELSEWHERE, f"nothing checks commands of {program}"


STAND_INS = {"convert_hf_to_gguf.py": "in the repository of llama.cpp"}
"""Scripts of other projects."""


def _parse(arguments: list[str]) -> None:
    words = _without_redirection(arguments)
    if all(word.startswith("-") for word in words):
        assert CliRunner().invoke(app, ["--help"]).output.count(words[0]), f"there is no option {words[0]}"
        return
    place = next(place for place, word in enumerate(words) if not word.startswith("-"))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert words[place] in commands, f"there is no command {words[place]}"
    commands[words[place]].make_context(words[place], words[place + 1 :])


def _check_install(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert arguments[0] == "install"
    for word in arguments[1:]:
        wanted = re.fullmatch(r"(?:\.|graphprune)\[(.*)\]", word)
        if wanted:
            assert set(wanted[1].split(",")) <= set(extras), f"there is no extra {wanted[1]}"
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file()


def _check_script(script: str, *arguments: str) -> None:
    text = (ROOT / script).read_text(encoding="utf-8")
    for option in (word for word in arguments if word.startswith("--")):
        assert f'"{option}"' in text or script == "tools/inspect_groups.py", f"{script} has no {option}"


def _without_redirection(words: list[str]) -> list[str]:
    return words[: words.index(">")] if ">" in words else words


def run(command: list[str], directory: Path) -> None:
    """Run a command of graphprune, or a training on two processes, in the current directory with what stands in it."""
    program, *arguments = command
    if program == "graphprune" and arguments == ["--install-completion"]:
        return  # it would change the shell of who runs the tests
    if program == "graphprune":
        words = _without_redirection(arguments)
        for option, value in SHRUNK.get(words[0], {}).items():
            if option not in words and "--config" not in words:
                words = [*words, option, value]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{' '.join(command)}: {result.output}"
        if ">" in arguments:
            (directory / arguments[-1]).write_text(result.stdout, encoding="utf-8")
    elif program in MODULES:
        if program == "accelerate":
            assert arguments[:3] == ["launch", "--multi_gpu", "--num_processes"], arguments
            arguments = ["--nproc-per-node", *arguments[3:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        words = [sys.executable, "-m", MODULES[program], *arguments]
        done = subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}"

"""The code in the documentation is run; what can't be is checked in another way, and nothing is left out."""

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import graphprune as gp

from .docs import commands
from .docs.blocks import PAGES, ROOT, Block, blocks_of
from .docs.stand_ins import SLOW, stand_ins

CHECKS = {
    "python": "run after the blocks above it",
    "pycon": "run, and the output compared",
    "sh": "parsed, and run if it is a command of graphprune",
    "": "parsed, and run if it is a command of graphprune",
    "json": "read as JSON",
    "yaml": "read as YAML",
    "text": "no code",
    "{include}": "built by sphinx",
}
"""How a block is checked, by its language."""

BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.mark.parametrize("block", [pytest.param(block, id=f"{block} {block.language or 'sh'}") for block in BLOCKS])
def test_each_block_is_of_a_language_that_is_checked(block: Block) -> None:
    assert block.language in CHECKS, f"name the language of the block, one of {', '.join(filter(None, CHECKS))}"
    match block.language:
        case "sh" | "":
            for command in block.commands:
                commands.check(command)
        case "python" if block.script:
            below = [command for other in BLOCKS if other.page == block.page for command in other.commands]
            words = [word.partition(":")[0] for command in below for word in command]
            assert block.script in words, f"nothing runs {block.script}"
        case "json":
            json.loads(block.text)
        case "yaml":
            yaml.safe_load(block.text)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES
        if any(block.language in ("python", "pycon", "sh", "") and block.page == page for block in BLOCKS)
    ],
)
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = stand_ins(page, tmp_path, monkeypatch)
    try:
        for block in blocks_of(page):
            _run(block, names, tmp_path)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, id=path.name, marks=pytest.mark.slow if path.stem in SLOW else ())
        for path in sorted((ROOT / "docs" / "examples").glob("*.py"))
    ],
)
def test_the_examples_run(example: Path, tmp_path: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60
    wants = re.search(
        r"out\.\w+|DIRECTORY", example.read_text(encoding="utf-8").split("\n")[0]
    )  # what its docstring says
    arguments = [wants[0]] if wants else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(example), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert all((tmp_path / name).exists() for name in arguments)


def test_every_page_stands_in_the_navigation() -> None:
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/") and page != "docs/index.md"]
    assert sorted(listed) == sorted([*pages, "api.rst"])


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", text, re.MULTILINE)
    assert sorted(documented) == sorted(set(gp.__all__) - {"__version__"})


def _run(block: Block, names: dict[str, object], directory: Path) -> None:
    if block.script:
        Path(block.script).parent.mkdir(parents=True, exist_ok=True)
        Path(block.script).write_text(block.text, encoding="utf-8")
    match block.language:
        case "python" if block.script:
            pass  # a command below runs the file
        case "python":
            exec(compile(block.placed, block.page, "exec"), names)
        case "pycon":
            _run_session(block, names)
        case "sh" | "":
            for command in block.commands:
                commands.run(command, directory)


class _WithoutLines(doctest.OutputChecker):
    """Takes any number of a line in a file of code, which differ from version to version."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        want, got = (re.sub(r"\.py:\d+", ".py:N", text) for text in (want, got))
        return super().check_output(want, got, optionflags)


def _run_session(block: Block, names: dict[str, object]) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), block.page, block.line - 1)
    test.globs = names
    said: list[str] = []
    result = doctest.DocTestRunner(_WithoutLines(), optionflags=flags).run(test, out=said.append, clear_globs=False)
    assert result.failed == 0, "".join(said)  # doctest says what differs

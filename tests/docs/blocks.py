"""The code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")))


@dataclass(frozen=True)
class Block:
    """A code block: its page, the line of the page on which its text begins, its language, its text.

    A block that is indented has no language: it holds shell commands.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def placed(self) -> str:
        """The text below as many empty lines as there are above it, so that errors name the line of the page."""
        return "\n" * (self.line - 1) + self.text

    @property
    def script(self) -> str | None:
        """The file that the block is said to be, in its first line: ``# train.py``."""
        named = re.match(r"# (\S+\.\w+)\n", self.text)
        return named[1] if named else None

    @property
    def commands(self) -> list[list[str]]:
        """The shell commands, each as a list of words; none in a block of another language."""
        if self.language not in ("sh", ""):
            return []
        commands: list[list[str]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((place for place, word in enumerate(words) if word in ("&&", "|")), len(words))
                commands.append(words[:end])
                words = words[end + 1 :]
        return commands


def blocks_of(page: str) -> Iterator[Block]:
    """The code blocks of a page, fenced and indented ones, from first to last."""
    for token in MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8")):
        if token.map and token.type == "fence":
            yield Block(page, token.map[0] + 2, token.info.split(" ")[0] or "no language", token.content)
        elif token.map and token.type == "code_block":
            yield Block(page, token.map[0] + 1, "", token.content)

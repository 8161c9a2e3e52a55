"""What all commands share: help with examples that fits a screen, how much is said, errors of one line, exit codes.

1. A :class:`~graphprune.errors.GraphPruneError`, a file that can't be read or written, an option that makes no sense:
   one line, exit code 2.
2. Ctrl-C: one line, exit code 130. A request to end (SIGTERM): exit code 143.
3. Anything else is a mistake of graphprune: one line that says so, exit code 1.

``graphprune --debug COMMAND …`` lets the traceback through.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

import typer
import typer.core

from ..errors import GraphPruneError, TrainingInterrupted
from . import console
from .details import tell_versions

EXIT_CODES = "Exit codes: 0 done, 1 mistake of graphprune, 2 error, 130 Ctrl-C, 143 SIGTERM"

_OPTIONS = (
    "  -q, --quiet      results and errors only",
    "  -v, --verbose    more of each stage, versions, files, what other libraries say",
    "  --debug, --version, --install-completion, --show-completion, -h, --help",
)
"""The options of all commands, as short as that: with a line for each the help would not fit a screen."""


_ANYWHERE = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose", "--debug": "debug"}
"""Options of all commands that may stand after the name of the command, too: people add them last."""


class Command(typer.core.TyperCommand):
    """A command whose help ends with examples, the lines of its ``epilog``."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the arguments of the command."""
        if parent is not None:
            parent.params.update({_ANYWHERE[each]: True for each in args if each in _ANYWHERE})
            args = [each for each in args if each not in _ANYWHERE]
        return super().make_context(info_name, args, parent=parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, saying as much as is asked for."""
        given = ctx.find_root().params
        with console.saying(quiet=given.get("quiet", False), verbose=given.get("verbose", False)):
            tell_versions()
            if given.get("debug"):
                return super().invoke(ctx)
            with console.libraries():
                return super().invoke(ctx)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are."""
        _write(formatter, "Example" if "\n" not in (self.epilog or "").strip() else "Examples", self.epilog)


class Commands(typer.core.TyperGroup):
    """The commands, with a help that fits a screen; what one raises becomes a line and an exit code."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the examples first, then the commands, then the options."""
        _write(formatter, "Examples", self.epilog)
        self.format_commands(ctx, formatter)
        _write(formatter, "Options of all commands", "\n".join(_OPTIONS))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the exit codes."""
        formatter.write(f"{EXIT_CODES}\n")  # a blank line more would not fit a screen

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            _fail_usage(error, ctx)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the command line names."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            _fail_usage(error, ctx)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            _fail(*_line_and_code(error))
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                raise
            _fail("interrupted", 130)


# typer has click inside, or beside it, as its version goes
_UsageError: Any = typer.BadParameter.__bases__[0]


def _line_and_code(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code; raises it again where it is no error but a way to end."""
    match error:
        case TrainingInterrupted():
            return str(error), 130
        case GraphPruneError():
            return f"error: {error}", 2
        case BrokenPipeError():
            # `graphprune inspect … | head`: who reads has enough. What is still buffered must not raise at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from None
        case OSError():
            return f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""), 2
        case MemoryError():
            return "error: there is not enough memory for this model", 2
        # torch's own class, which is not imported for commands without torch
        case RuntimeError() if type(error).__name__ == "OutOfMemoryError":
            return (
                "error: the accelerator has not enough memory for this: take a smaller --batch-size or --window, "
                "--base-bits, or the CPU, by setting CUDA_VISIBLE_DEVICES to nothing",
                2,
            )
    if type(error).__module__.split(".")[0] in ("typer", "click"):
        raise error
    message = str(error).strip() or "no message"
    return (
        f"error: unexpected {type(error).__name__}: {message}; this is a mistake of graphprune: "
        "graphprune --debug COMMAND … shows where",
        1,
    )


def _fail_usage(error: Any, ctx: Any) -> NoReturn:
    """One line on an option or an argument that makes no sense; the help where there was nothing at all."""
    if type(error).__name__ == "NoArgsIsHelpError":
        raise error
    command = (
        error.ctx.command_path if error.ctx else " ".join([ctx.command_path, ctx.invoked_subcommand or ""]).strip()
    )
    _fail(f"error: {error.format_message().rstrip('.')}; {command} --help shows what there is", 2)


def _fail(line: str, code: int) -> NoReturn:
    typer.echo(" ".join(line.split()), err=True)
    raise typer.Exit(code)


def _write(formatter: Any, title: str, lines: str | None) -> None:
    """Write lines as they are below a title, where there are any."""
    if lines:
        formatter.write(f"\n{title}:\n" + "".join(f"  {line.strip()}\n" for line in lines.strip().splitlines()))

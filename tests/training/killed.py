"""A run of tuning that is killed on its way, as by ``kill -9``.

    python -m tests.training.killed DIRECTORY WHERE

WHERE is ``step N`` (when step N begins), ``scored N`` (units are scored for the Nth time, and nothing is masked yet),
``masked N`` (half of what then goes is zero) or ``write N`` (the Nth time that something in the directory is opened,
made, moved or removed). With ``write 0`` the run ends by itself, and prints how many there were.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from transformers import TrainerCallback

from graphprune.training import finetune, pruner
from graphprune.training.masking import zero
from graphprune.training.pruner import Pruner

from .test_finetune import run

EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.unlink", "shutil.rmtree"}


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlives SIGKILL for as long as it takes to get here")


class AtStep(TrainerCallback):
    """Dies when a step begins."""

    def __init__(self, number: int):
        self.number = number

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.number:
            die()


class Countdown:
    """Dies the Nth time that it is called, if there is one."""

    def __init__(self, number: int):
        self.number, self.calls = number, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.number:
            die()


def main(directory: Path, kind: str, number: int) -> None:
    countdown = Countdown(number)
    match kind:
        case "step":
            make = finetune.make_trainer

            def with_end(*arguments: Any) -> Any:
                trainer = make(*arguments)
                trainer.add_callback(AtStep(number))
                return trainer

            with patch.object(finetune, "make_trainer", with_end):
                run(directory)
        case "scored":
            apply = Pruner._apply

            def counted(self: Pruner, plan: Any) -> None:
                countdown()
                apply(self, plan)

            with patch.object(Pruner, "_apply", counted):
                run(directory)
        case "masked":

            def half(slices: Any) -> None:
                found = list(slices)
                zero(found[: len(found) // 2])
                countdown()
                zero(found)

            with patch.object(pruner, "zero", half):
                run(directory)
        case "write":

            def note(event: str, arguments: tuple[Any, ...]) -> None:
                if event in EVENTS and str(arguments[0]).startswith(str(directory)):
                    countdown()

            sys.addaudithook(note)
            run(directory)
            sys.stdout.write(f"{countdown.calls}\n")
        case _:
            raise ValueError(kind)


if __name__ == "__main__":
    where, count = sys.argv[2].split()
    main(Path(sys.argv[1]), where, int(count))

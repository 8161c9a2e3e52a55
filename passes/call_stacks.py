"""Note which forwards made a call, and in which lines, as torch.export notes it, in a tenth of the time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from traceback import FrameSummary, StackSummary
from types import FrameType
from unittest import mock

from torch.fx import proxy


class _Forwards:
    """Takes the place of a traceback of all calls: torch.export keeps the frames of forwards, and no others."""

    @staticmethod
    def extract() -> _Forwards:
        return _Forwards()

    def summary(self) -> StackSummary:
        """The frames of functions named forward, from the outermost on."""
        found = StackSummary()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if code.co_name == "forward":
                found.append(FrameSummary(code.co_filename, frame.f_lineno, code.co_name, lookup_line=False))
            frame = frame.f_back
        found.reverse()
        return found


@contextlib.contextmanager
def only_forwards_noted() -> Iterator[None]:
    """Within the context a call that torch.fx records has the forwards that made it, and is not asked for the rest."""
    with mock.patch.object(proxy, "CapturedTraceback", _Forwards):
        yield

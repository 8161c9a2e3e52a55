"""How far work has come, for whoever shows it: what works reports, and knows nothing of screens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with how many steps are done, and how many there are."""


class Watched(Sequence[T]):
    """A sequence that reports how many of its items are done, each time that it is gone through."""

    def __init__(self, items: Sequence[T], progress: Progress | None) -> None:
        self.items, self.progress = items, progress

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[T]:
        for done, item in enumerate(self.items):
            self._report(done)
            yield item
        self._report(len(self))

    def _report(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self))


class Parts:
    """Work in parts that follow each other, as one progress, of which each part gets its share.

    ::

        parts = Parts(progress, {"read": 1, "write": 3})
        for line in Watched(lines, parts.part("read")): …      reports 0 … 250 of 1000
        for line in Watched(lines, parts.part("write")): …     reports 250 … 1000 of 1000

    A part that is begun ends those before it, also where they did not count or did not take place. What was reported
    is never taken back: a part that is begun again reports nothing until it is further than before.
    """

    STEPS = 1000

    def __init__(self, progress: Progress | None, shares: Mapping[str, float]) -> None:
        self._progress = progress
        self._whole = sum(shares.values())
        self._starts: dict[str, float] = {}
        self._shares = shares
        self._said = -1
        start = 0.0
        for name, share in shares.items():
            self._starts[name] = start
            start += share

    def part(self, name: str) -> Progress | None:
        """Begin a part; what it is to report to, None where nobody listens."""
        if self._progress is None:
            return None
        start, share = self._starts[name], self._shares[name]
        self._report(start)
        return lambda done, total: self._report(start + share * min(1.0, done / max(1, total)))

    def end(self) -> None:
        """All parts are done."""
        self._report(self._whole)

    def _report(self, place: float) -> None:
        done = int(self.STEPS * place / self._whole)
        if self._progress is not None and done > self._said:
            self._said = done
            self._progress(done, self.STEPS)


@contextmanager
def calls_counted(module: nn.Module, progress: Progress | None, *, without: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Within the context each innermost module that has been called is a step; those in ``without`` are none."""
    if progress is None:
        yield
        return
    left_out = {id(inner) for each in without for inner in each.modules()}
    found = [each for each in module.modules() if id(each) not in left_out and not any(True for _ in each.children())]
    called: set[int] = set()

    def count(one: nn.Module, inputs: Any, outputs: Any) -> None:
        if not torch.compiler.is_dynamo_compiling():  # which would have to capture what is done here
            called.add(id(one))
            progress(len(called), len(found))

    hooks = [each.register_forward_hook(count) for each in found]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

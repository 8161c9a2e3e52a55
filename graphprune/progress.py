"""How far work has come, for whoever shows it: what works reports, and knows nothing of screens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

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

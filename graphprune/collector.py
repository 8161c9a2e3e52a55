"""Keep Python's collector of cycles still while much is made that stays."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Within the context no cycles are looked for, as far as they would be otherwise.

    Each search goes through all objects of the process (a quarter of a second with torch and transformers in it) once a
    quarter of them is new, and finds little that is gone while a graph is built.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

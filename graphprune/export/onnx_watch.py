"""How far an export to ONNX has come, as far as that is seen from outside.

1. torch.export runs the module: its innermost modules tell when they have been called.
2. torch takes the operators apart in two walks over the graph, of which fx logs every node; how many there are is
   guessed from the modules that were called.
3. The nodes are translated. The first of them that torch.onnx logs says that this has begun.
4. onnxscript folds constants and rewrites, twice, and logs when a pass begins; nothing tells how far one is.

Where another version of torch logs something else, the progress has fewer steps and nothing else changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from ..progress import Parts, calls_counted

SHARES = {
    "run": 23,
    "take apart": 49,
    "translate": 5,
    "fold": 3,
    "rewrite": 4,
    "fold again": 1,
    "rewrite again": 3,
    "tidy": 1,
    "save": 4,
    "load": 5,
    "compare": 2,
}
"""The parts of an export, as SmolLM2-135M takes its time with them."""

NODES_OF_CALL = 24
"""So many nodes fx logs of SmolLM2 for each call of an innermost module, in both walks."""


@contextmanager
def exporting(module: nn.Module, parts: Parts) -> Iterator[None]:
    """Within the context torch.onnx.export tells how far it has come."""
    running = parts.part("run")
    if running is None:
        yield
        return
    called = seen = 0

    def on_call(done: int, total: int) -> None:
        nonlocal called
        called = done
        running(done, total)

    def on_node(record: logging.LogRecord) -> None:
        nonlocal seen
        seen += 1
        apart = parts.part("take apart")
        if apart is not None:
            apart(seen, NODES_OF_CALL * max(1, called))

    def on_translated(record: logging.LogRecord) -> None:
        parts.part("translate")

    with (
        calls_counted(module, on_call),
        _logged("torch.fx.interpreter", on_node),
        _logged("torch.onnx._internal.exporter._core", on_translated),
    ):
        yield


@contextmanager
def optimising(parts: Parts) -> Iterator[None]:
    """Within the context onnxscript's optimiser tells which of its passes has begun."""
    begun: dict[str, int] = {}

    def on_pass(record: logging.LogRecord) -> None:
        for name, rounds in PASSES.items():
            if name in record.getMessage():
                begun[name] = begun.get(name, -1) + 1
                parts.part(rounds[min(begun[name], 1)])

    if parts.part("fold") is None:
        yield
        return
    with _logged("onnx_ir.passes._pass_infra", on_pass):
        yield


PASSES = {"FoldConstantsPass": ("fold", "fold again"), "RewritePass": ("rewrite", "rewrite again")}
"""The parts that a pass of onnxscript begins, the first time and the second."""


@contextmanager
def _logged(name: str, seen: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Within the context ``seen`` gets all that a logger is given, of which no more is written than before."""
    logger = logging.getLogger(name)
    level, written = logger.level, logger.getEffectiveLevel()

    def see(record: logging.LogRecord) -> bool:
        seen(record)
        return record.levelno >= written

    logger.addFilter(see)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeFilter(see)

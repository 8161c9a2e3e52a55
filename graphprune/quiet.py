"""Keep other libraries' progress bars, warnings and logs off the screen while they work for us."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnxruntime", "peft", "huggingface_hub")

_aloud: ContextVar[bool] = ContextVar("aloud", default=False)


@contextlib.contextmanager
def aloud() -> Iterator[None]:
    """Within the context :func:`quietly` does nothing."""
    token = _aloud.set(True)
    try:
        yield
    finally:
        _aloud.reset(token)


def is_aloud() -> bool:
    """Whether other libraries are to be heard."""
    return _aloud.get()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Within the context nothing but exceptions comes from the libraries that load, save and export models."""
    if _aloud.get():
        yield
        return
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that is not empty, without a full stop at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__

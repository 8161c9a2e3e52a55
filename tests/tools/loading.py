"""A benchmark under tools/bench as a module."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"


def load_tool(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool of a name, found by it in ``sys.modules`` for the length of a test."""
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # its dataclasses look there for their annotations
    spec.loader.exec_module(module)
    return module

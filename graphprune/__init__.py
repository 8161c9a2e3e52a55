"""graphprune: a compiler pass that makes neural networks structurally smaller.

::

    import graphprune as gp

    traced = gp.trace(model, args=(example,))
    scores = gp.score(traced, criterion="magnitude")
    plan = gp.select(traced, scores, ratio=0.5)
    compact = gp.rewrite(traced, plan)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .compact import CompactModel
from .errors import GraphPruneError
from .groups import Groups, Member, PruningGroup
from .pipeline import rewrite, trace
from .plan import GroupPlan, PruningPlan
from .rules import axis_rule, resize_rule
from .scores import Scores
from .scoring import score
from .selection import select
from .traced import TracedModel

if TYPE_CHECKING:
    from .adapters import merge_adapters
    from .api import prune
    from .export.directory import load, save
    from .export.onnx import export_onnx
    from .training.callback import LoRAPruneCallback

__version__ = "0.1.0"

_LAZY = {
    "LoRAPruneCallback": "training.callback",
    "export_onnx": "export.onnx",
    "load": "export.directory",
    "merge_adapters": "adapters",
    "prune": "api",
    "save": "export.directory",
}
"""Names that need heavy libraries (transformers, onnx): imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


__all__ = [
    "CompactModel",
    "GraphPruneError",
    "GroupPlan",
    "Groups",
    "LoRAPruneCallback",
    "Member",
    "PruningGroup",
    "PruningPlan",
    "Scores",
    "TracedModel",
    "axis_rule",
    "export_onnx",
    "load",
    "merge_adapters",
    "prune",
    "resize_rule",
    "rewrite",
    "save",
    "score",
    "select",
    "trace",
]

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

from .version import __version__

if TYPE_CHECKING:
    from .adapters import merge_adapters
    from .api import prune
    from .compact import CompactModel
    from .compensation import compensate
    from .constraints import Constraints
    from .errors import GraphPruneError
    from .export.directory import load, save
    from .export.genai import export_genai
    from .export.gguf import export_gguf
    from .export.hub import push_to_hub
    from .export.onnx import export_onnx
    from .groups import Groups, Member, PruningGroup
    from .latency import LatencyTable, measure_latency
    from .pipeline import rewrite, trace
    from .plan import GroupPlan, PruningPlan
    from .reconstruction import reconstruct
    from .report.run import RunReport, report_run
    from .report.run_page import write_report
    from .rules import resize_rule, rule
    from .scores import Scores
    from .scoring import score
    from .selection import select
    from .traced import TracedModel
    from .training.callback import LoRAPruneCallback
    from .training.config import PruneConfig
    from .training.pruner import Pruner

_MODULES = {
    "CompactModel": "compact",
    "Constraints": "constraints",
    "GraphPruneError": "errors",
    "GroupPlan": "plan",
    "Groups": "groups",
    "LatencyTable": "latency",
    "LoRAPruneCallback": "training.callback",
    "Member": "groups",
    "PruneConfig": "training.config",
    "Pruner": "training.pruner",
    "PruningGroup": "groups",
    "PruningPlan": "plan",
    "RunReport": "report.run",
    "Scores": "scores",
    "TracedModel": "traced",
    "compensate": "compensation",
    "reconstruct": "reconstruction",
    "export_genai": "export.genai",
    "export_gguf": "export.gguf",
    "export_onnx": "export.onnx",
    "load": "export.directory",
    "measure_latency": "latency",
    "merge_adapters": "adapters",
    "prune": "api",
    "push_to_hub": "export.hub",
    "report_run": "report.run",
    "resize_rule": "rules",
    "rewrite": "pipeline",
    "rule": "rules",
    "save": "export.directory",
    "score": "scoring",
    "select": "selection",
    "trace": "pipeline",
    "write_report": "report.run_page",
}
"""Where each name comes from. It is imported when it is first used: torch alone takes a second, and ``--help`` needs
neither it nor transformers or onnx."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "CompactModel",
    "Constraints",
    "GraphPruneError",
    "GroupPlan",
    "Groups",
    "LatencyTable",
    "LoRAPruneCallback",
    "Member",
    "PruneConfig",
    "Pruner",
    "PruningGroup",
    "PruningPlan",
    "RunReport",
    "Scores",
    "TracedModel",
    "__version__",
    "compensate",
    "export_genai",
    "export_gguf",
    "export_onnx",
    "load",
    "measure_latency",
    "merge_adapters",
    "prune",
    "push_to_hub",
    "reconstruct",
    "report_run",
    "resize_rule",
    "rewrite",
    "rule",
    "save",
    "score",
    "select",
    "trace",
    "write_report",
]

"""Axis rules, one file for each family of operators. Importing this package registers them all."""

from . import (
    attention,
    contraction,
    convolution,
    creation,
    indexing,
    normalization,
    pointwise,
    recurrent,
    reduction,
    spectral,
    views,
)
from .control import control_rules
from .registry import (
    Call,
    Dims,
    Resize,
    Result,
    axis_rule,
    axis_rules,
    cut_after,
    cut_afterwards,
    resize_rule,
    resize_rules,
)

rule = axis_rule
"""The name of :func:`axis_rule` for users: ``@gp.rule("my_library::my_operator")``."""

__all__ = [
    "Call",
    "Dims",
    "Resize",
    "Result",
    "attention",
    "axis_rule",
    "axis_rules",
    "contraction",
    "control_rules",
    "convolution",
    "creation",
    "cut_after",
    "cut_afterwards",
    "indexing",
    "normalization",
    "pointwise",
    "recurrent",
    "reduction",
    "resize_rule",
    "resize_rules",
    "rule",
    "spectral",
    "views",
]

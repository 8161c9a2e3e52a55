"""Trying onnxscript's rewriting rules only where they can apply.

A rule is a pattern of calls that ends in one of some operator, and onnxscript tries every rule on every call. A pattern
that ends in two calls first lists the whole graph, so that the time grows with the square of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def rules_by_operator() -> Iterator[None]:
    """Within the context a rule is not tried on calls of another operator than its pattern ends in.

    What is rewritten stays the same. Where another version of onnxscript keeps its patterns elsewhere, nothing changes.
    """
    from onnxscript.rewriter import RewriteRule

    try_rewrite: Any = RewriteRule.try_rewrite

    def where_it_ends(rule: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        ends = getattr(getattr(rule, "_target_pattern", None), "output_nodes", ())
        operator = ends[0].op_identifier() if ends else None
        if operator is not None and operator != node.op_identifier():
            return None
        return try_rewrite(rule, model, graph, node, **options)

    patched: Any = RewriteRule
    patched.try_rewrite = where_it_ends
    try:
        yield
    finally:
        patched.try_rewrite = try_rewrite

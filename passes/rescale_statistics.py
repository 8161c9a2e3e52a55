"""Make norms of a cut width give what they give with zeros in the wide one.

1. A mean over what is kept is multiplied by its share of the whole: the zeros that it no longer sees add nothing.
2. The root mean square norm divides by the root of a larger mean, so its result is multiplied by ``sqrt(all / kept)``
   and its epsilon by ``all / kept``.
3. Anything else (variances, LayerNorm, GroupNorm) also measures how far zeros are from the mean, and can't be made so,
   and neither can a mean over units to which something was added since they were masked.

::

    mean(x², [-1])   ->   mean(x², [-1]) * 0.75          with a width cut from 576 to 432
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..errors import RewriteError
from ..masks import Keep, kept_size
from ..program import Inference, Program, location
from ..rules import Dims
from ..rules.registry import bound_arguments, operator_name
from ..rules.statistics import chosen_dims, reference_of

MULTIPLY = torch.ops.aten.mul.Tensor


def rescale_statistics(program: Program, inference: Inference, keep: Keep, compact: fx.GraphModule) -> None:
    """Change the compact graph in place.

    Raises:
        RewriteError: a statistic over what is cut can't be made so.
    """
    copies = {node.name: node for node in compact.graph.nodes}
    flagged = keep.keys() & inference.solver.statistics.keys()
    for node in program.graph.graph.nodes if flagged else ():
        if reference_of(node) is None:
            continue
        name = operator_name(node.target)
        whole, kept, zero = _positions(node, inference, keep)
        if whole == kept:
            continue
        if not zero:
            raise RewriteError(
                f"{node.target} in {location(node)} counts units that are not zero when they are masked: let it count "
                'what is kept, with statistics="kept"'
            )
        if name == "aten::mean":
            _multiply(compact.graph, copies[node.name], kept / whole)
        elif name == "aten::rms_norm":
            _widen(copies[node.name], whole / kept)
            _multiply(compact.graph, copies[node.name], math.sqrt(whole / kept))
        else:
            raise RewriteError(
                f"{node.target} in {location(node)} can't be made to count zeros that are gone: let it count what is "
                'kept, with statistics="kept"'
            )
    compact.recompile()


def _positions(node: fx.Node, inference: Inference, keep: Keep) -> tuple[int, int, bool]:
    """How many positions a statistic counts in the wide model and in the cut one, and whether masked ones are zero."""
    arguments: dict[str, Any] = bound_arguments(node)
    source = node.all_input_nodes[0]
    dims = inference.dims[source]
    if not isinstance(dims, Dims):
        raise TypeError(f"{source.format_node()} is not one tensor")
    if "normalized_shape" in arguments:
        counted: Sequence[int] = range(len(dims) - len(arguments["normalized_shape"]), len(dims))
    else:
        counted = [1] if "num_groups" in arguments else chosen_dims(arguments, source.meta["val"])
    axes = [inference.solver.resolve(dims.axes[dim]) for dim in counted]
    sizes = [kept_size(axis, keep) for axis in axes]
    zero = all(dims.zero[dim] for dim, axis, kept in zip(counted, axes, sizes, strict=True) if kept < axis.size)
    return math.prod(axis.size for axis in axes), math.prod(sizes), zero


def _multiply(graph: fx.Graph, node: fx.Node, factor: float) -> None:
    with graph.inserting_after(node):
        scaled = graph.call_function(MULTIPLY, (node, factor))
    node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)
    scaled.meta = dict(node.meta)


def _widen(node: fx.Node, factor: float) -> None:
    """Multiply the epsilon of a root mean square norm."""
    arguments = bound_arguments(node)
    eps = arguments["eps"] if arguments["eps"] is not None else torch.finfo(node.meta["val"].dtype).eps
    node.args = (*[arguments[name] for name in ("input", "normalized_shape", "weight")], eps * factor)
    node.kwargs = {}

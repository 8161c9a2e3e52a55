"""Tidying an ONNX graph before it is written.

Before it is optimised:

1. A squeeze of a dim with several positions, which does nothing in torch and is an error in ONNX, is left out.
2. Numbers close to zero that are added are out of the optimiser's sight, which takes them for zero.

After that:

1. A weight that is there twice, once transposed (tied embeddings), is kept once.
2. What nothing reads is dropped, and so are notes of the exporter.
3. Free dims get the names that were asked for, where torch gave them others.
4. The file says what it was made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .onnx_check import Inputs, is_spec

SHARED_BYTES = 1 << 16
"""Weights below this size are not searched for transposed copies."""

TINY = 1e-6
"""onnxscript takes additions of less than 1e-8 for additions of nothing."""


def drop_idle_squeezes(model: Any) -> None:
    """Leave out each squeeze of dims that all have several positions."""
    import onnx_ir as ir

    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        value, axes = (*node.inputs, None, None)[:2]
        if node.op_type != "Squeeze" or value is None or value.shape is None or axes is None:
            continue
        named = ir.convenience.get_const_tensor(axes)
        sizes = [] if named is None else [value.shape[int(axis)] for axis in np.atleast_1d(named.numpy())]
        if sizes and all(isinstance(size, int) and size != 1 for size in sizes):
            ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)


@contextmanager
def tiny_terms_kept(model: Any) -> Iterator[None]:
    """Within the context numbers close to zero that are added or subtracted are inputs of the graph.

    Such a number may be all that stands between a division and zero::

        x / (y + 1e-15)      is not      x / y
    """
    import onnx_ir as ir

    graph = model.graph
    hidden: list[tuple[Any, Any]] = []
    for node in list(graph):
        for index, value in enumerate(node.inputs if node.op_type in ("Add", "Sub") else ()):
            number = None if value is None else ir.convenience.get_const_tensor(value)
            if number is None or number.size != 1 or not 0 < abs(float(number.numpy().item())) < TINY:
                continue
            stand_in = ir.val(f"tiny_{len(hidden)}", dtype=number.dtype, shape=list(number.numpy().shape))
            node.replace_input_with(index, stand_in)
            graph.inputs.append(stand_in)
            hidden.append((stand_in, number))
    try:
        yield
    finally:
        for stand_in, number in hidden:
            graph.inputs.remove(stand_in)
            stand_in.const_value = number
            graph.register_initializer(stand_in)


def share_transposes(model: Any) -> None:
    """Keep a weight that is there twice, once transposed, only once: onnxruntime transposes it when it loads the file.

    ::

        embedding(w); matmul(x, w_t)      ->      embedding(w); matmul(x, transpose(w))
    """
    import onnx_ir as ir

    graph = model.graph
    large = [
        value
        for value in graph.initializers.values()
        if value.const_value is not None and len(value.shape) == 2 and value.const_value.nbytes >= SHARED_BYTES
    ]
    for index, first in enumerate(large):
        for second in large[index + 1 :]:
            if not first.uses() or not second.uses() or not _are_transposes(first.const_value, second.const_value):
                continue
            keep, drop = (
                (first, second) if any(use.node.op_type == "Gather" for use in first.uses()) else (second, first)
            )
            node = ir.node("Transpose", [keep], attributes={"perm": [1, 0]})
            node.outputs[0].name = f"{keep.name}_transposed"
            node.outputs[0].shape, node.outputs[0].type = drop.shape, drop.type
            graph.insert_before(graph[0], node)
            ir.convenience.replace_all_uses_with(drop, node.outputs[0])
            del graph.initializers[drop.name]


def _are_transposes(first: Any, second: Any) -> bool:
    if tuple(first.shape) != tuple(second.shape)[::-1] or first.dtype != second.dtype:
        return False
    a, b = first.numpy(), second.numpy().T
    return bool(np.array_equal(a[0], b[0]) and np.array_equal(a, b))


def drop_unused(model: Any) -> None:
    """Drop initialisers and nodes that no output depends on."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def drop_notes(model: Any) -> None:
    """Drop what the exporter notes at each node (its place in the Python code): it is larger than a small model."""
    import onnx_ir as ir

    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def name_dims(model: Any, example: Inputs, free: Any) -> None:
    """Rename the free dims of inputs, and what outputs have of them, to the names in ``free``.

    ``s17`` becomes ``sequence``; ``s17 + s70`` becomes ``sequence + past_sequence``.
    """
    if free is None:
        return
    wanted = [dims for value, dims in zip(tree_leaves(example), _specs(free), strict=True) if isinstance(value, Tensor)]
    names: dict[str, str] = {}
    for value, dims in zip(model.graph.inputs, wanted, strict=True):
        for dim, name in (dims or {}).items():
            found = value.shape[dim]
            if not isinstance(found, int):
                names.setdefault(str(found.value), name)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = _renamed(value.shape, names)


def _specs(free: Any) -> list[Any]:
    return tree_leaves(free, is_leaf=is_spec)


def _renamed(shape: Any, names: Mapping[str, str]) -> Any:
    import onnx_ir as ir

    def rename(dim: Any) -> Any:
        if isinstance(dim, int):
            return dim
        return re.sub(r"\w+", lambda word: names.get(word.group(), word.group()), str(dim.value))

    return shape if shape is None else ir.Shape([rename(dim) for dim in shape])


def describe_origin(model: Any, facts: Mapping[str, str]) -> None:
    """Put facts into the metadata of the file, where onnxruntime shows them as ``custom_metadata_map``."""
    model.metadata_props.update(facts)

"""ONNX graphs with 8-bit weights, packed by onnxruntime's own quantiser.

The weights of products, and embeddings, have 8 bits and a scale for each run of ``BLOCK``, and so has what they are
multiplied with while it is. onnxruntime's dynamic quantiser has one scale for all of the latter, which language models
do not stand: a few channels are a hundred times the rest, and nothing is left of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .onnx_graph import drop_unused
from .rounding import BLOCK

ACCURACY = 4
"""onnxruntime multiplies integers. Without it there is no fast kernel for 8 bits, and products are ten times slower."""

ZERO = 128
"""The byte that stands for zero."""

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""


@dataclass(frozen=True)
class _Use:
    """One use of a weight: ``by_rows`` where the weight is ``[outputs, inputs]``, and else ``[inputs, outputs]``."""

    node: Any
    weight: Any
    by_rows: bool


@dataclass(frozen=True)
class _Packed:
    """A weight ``[outputs, inputs]`` as ``bytes [outputs, blocks, BLOCK]`` and ``scales [outputs, blocks]``."""

    bytes: Any
    scales: Any
    outputs: int
    inputs: int


def quantise(model: Any) -> float:
    """Give the weights of products, and embeddings, 8 bits; returns the share of the weights that stay as they were.

    ::

        matmul(x, w)              ->      MatMulNBits(x, bytes, scales)
        gemm(x, w, bias)          ->      MatMulNBits(x, bytes, scales) + bias
        gather(w, ids)            ->      (gather(bytes, ids) - 128) · gather(scales, ids)

    A weight that is tied has its bytes and scales once.
    """
    graph = model.graph
    weights = [each for each in graph.initializers.values() if _is_float(each)]
    packed: dict[tuple[str, bool], _Packed] = {}
    for use in [use for node in graph for use in _uses(node)]:
        key = (use.weight.name, use.by_rows)
        if key not in packed:
            packed[key] = _pack(graph, use)
        make = _lookup if use.node.op_type == "Gather" else _product
        _replace(graph, use.node, make(use.node, packed[key]))
    names = {name for name, _ in packed}
    whole = sum(each.const_value.nbytes for each in weights)
    kept = sum(each.const_value.nbytes for each in weights if each.name not in names)
    drop_unused(model)
    graph.opset_imports.setdefault(CONTRIB, 1)
    return kept / whole if whole else 0.0


def _uses(node: Any) -> list[_Use]:
    """What ``node`` does with a weight, if it is a product or a lookup."""
    if node.domain not in ("", "ai.onnx"):
        return []
    if node.op_type == "Gather" and not node.attributes.get_int("axis", 0) and _is_matrix(node.inputs[0]):
        return [_Use(node, node.inputs[0], True)]
    if node.op_type == "MatMul":
        weight, by_rows = _untransposed(node.inputs[1])
        return [_Use(node, weight, by_rows)] if _is_matrix(weight) else []
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if plain and _is_matrix(node.inputs[1]):
            return [_Use(node, node.inputs[1], bool(node.attributes.get_int("transB", 0)))]
    return []


def _untransposed(value: Any) -> tuple[Any, bool]:
    """A weight, and whether ``value`` is its transpose."""
    producer = value.producer()
    transposed = producer is not None and producer.op_type == "Transpose"
    return (producer.inputs[0], True) if transposed else (value, False)


def _is_float(value: Any) -> bool:
    import onnx_ir as ir

    return value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT


def _is_matrix(value: Any) -> bool:
    """Whether a value is a weight ``[m, n]`` in single precision."""
    return value.is_initializer() and _is_float(value) and len(value.const_value.shape) == 2


def _pack(graph: Any, use: _Use) -> _Packed:
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    weight = use.weight.const_value.numpy()
    by_columns = np.ascontiguousarray(weight.T if use.by_rows else weight)
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=8)
    found, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(by_columns)
    stem = use.weight.name if use.by_rows else f"{use.weight.name}_t"
    outputs, inputs = by_columns.shape[::-1]
    return _Packed(_stored(graph, f"{stem}_int8", found), _stored(graph, f"{stem}_scales", scales), outputs, inputs)


def _stored(graph: Any, name: str, array: Any) -> Any:
    import onnx_ir as ir

    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def _product(node: Any, weight: _Packed) -> list[Any]:
    import onnx_ir as ir

    sizes = {"K": weight.inputs, "N": weight.outputs, "bits": 8, "block_size": BLOCK, "accuracy_level": ACCURACY}
    nodes = [ir.node("MatMulNBits", [node.inputs[0], weight.bytes, weight.scales], sizes, domain=CONTRIB)]
    if node.op_type == "Gemm" and len(node.inputs) == 3:
        nodes.append(ir.node("Add", [nodes[0].outputs[0], node.inputs[2]]))
    return nodes


def _lookup(node: Any, weight: _Packed) -> list[Any]:
    """``[..., blocks, BLOCK]`` becomes ``[..., blocks · BLOCK]``, and what pads the last block is cut off."""
    import onnx_ir as ir

    nodes: list[Any] = []

    def then(operator: str, *inputs: Any, **attributes: Any) -> Any:
        nodes.append(ir.node(operator, inputs, attributes))
        return nodes[-1].outputs[0]

    def constant(value: Any, kind: type) -> Any:
        return then("Constant", value=ir.tensor(np.array(value, dtype=kind)))

    found = then("Cast", then("Gather", weight.bytes, node.inputs[1]), to=ir.DataType.FLOAT)
    scales = then("Unsqueeze", then("Gather", weight.scales, node.inputs[1]), constant([-1], np.int64))
    scaled = then("Mul", then("Sub", found, constant(ZERO, np.float32)), scales)
    rank = len(node.outputs[0].shape)
    flat = then("Reshape", scaled, constant([0] * (rank - 1) + [-1], np.int64))
    if weight.inputs % BLOCK:
        then("Slice", flat, *(constant([each], np.int64) for each in (0, weight.inputs, -1)))
    return nodes


def _replace(graph: Any, old: Any, nodes: list[Any]) -> None:
    import onnx_ir as ir

    for index, node in enumerate(nodes):
        node.name = f"{old.name}_int8_{index}"
        node.outputs[0].name = f"{old.outputs[0].name}_int8_{index}"
    ir.convenience.replace_nodes_and_values(graph, old, [old], nodes, [old.outputs[0]], [nodes[-1].outputs[0]])

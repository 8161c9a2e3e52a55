"""Directories of models that have a graph form only.

The graph itself is not stored: it follows from the architecture and the plan. Loading builds the dense model on the
meta device, traces it with inputs like those that it was traced with, cuts the graph to the plan, and puts the stored
tensors into it. Batch and sequence dims stay open where the model allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from ..compact import CompactModel
from ..errors import CaptureError, ExportError, FileFormatError
from ..passes.recompute_shapes import recompute_shapes
from ..passes.rescale_statistics import rescale_statistics
from ..pipeline import trace
from ..plan import PruningPlan

INPUTS = "inputs"


def write_tensors(compact: CompactModel, file: Path) -> None:
    """Store every tensor of the graph form, each once."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in compact.graph.state_dict().items()}
    save_file(tensors, file, metadata={"format": "pt"})


def describe_inputs(value: Any) -> Any:
    """Inputs as JSON: tensors by shape and type, and what is plain as it is.

    Raises:
        ExportError: an input is neither.
    """
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        return [describe_inputs(each) for each in value]
    if isinstance(value, Mapping):
        return {"fields": {str(key): describe_inputs(each) for key, each in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ExportError(f"an input of type {type(value).__name__} can't be written down, and without it no graph is made")


def make_inputs(described: Any, device: torch.device) -> Any:
    """Inputs of zeros from their description."""
    if isinstance(described, list):
        return [make_inputs(each, device) for each in described]
    if isinstance(described, dict) and "fields" in described:
        return {key: make_inputs(each, device) for key, each in described["fields"].items()}
    if isinstance(described, dict):
        return torch.zeros(described["shape"], dtype=getattr(torch, described["dtype"]), device=device)
    return described


def read_graph(dense: nn.Module, plan: PruningPlan, about: Mapping[str, Any], file: Path) -> fx.GraphModule:
    """The graph form over the tensors in ``file``; ``dense`` is the dense model, on the meta device or not.

    Raises:
        CaptureError: the dense model can't be traced.
        PlanError: the plan is for another model.
        FileFormatError: the file lacks a tensor, or has one of another shape.
    """
    device = next((parameter.device for parameter in dense.parameters()), torch.device("cpu"))
    args, kwargs = (make_inputs(about[INPUTS][part], device) for part in ("args", "kwargs"))
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
    try:
        traced = trace(dense, tuple(args), kwargs, dynamic=True)
        return _filled(_cut(traced, plan, tensors, file), tensors)
    except (CaptureError, FileFormatError):
        traced = trace(dense, tuple(args), kwargs)
        return _filled(_cut(traced, plan, tensors, file), tensors)


def _cut(traced: Any, plan: PruningPlan, tensors: Mapping[str, Tensor], file: Path) -> fx.GraphModule:
    keep = plan.keep(traced)
    missing = [name for name in traced.inference.parameter_dims if name not in tensors]
    if missing:
        raise FileFormatError(f"{file} lacks {missing[0]}, which the model needs: save it again")
    values: dict[str, Tensor] = {
        name: nn.Parameter(tensors[name]) if _is_parameter(traced, name) else tensors[name]
        for name in traced.inference.parameter_dims
    }
    graph = recompute_shapes(traced.program, traced.inference, keep, values)
    if plan.about.get("statistics") == "masked":
        rescale_statistics(traced.program, traced.inference, keep, graph)
    return graph


def _is_parameter(traced: Any, name: str) -> bool:
    return name in traced.table and not traced.table[name].is_buffer


def _filled(graph: fx.GraphModule, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The graph without its meta device: what it makes is made where its tensors are."""
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))

    def move(value: Any) -> Any:
        return device if isinstance(value, torch.device) and value.type == "meta" else value

    for inner in [each for each in graph.modules() if isinstance(each, fx.GraphModule)]:
        for node in inner.graph.nodes:
            node.args = fx.node.map_aggregate(node.args, move)
            node.kwargs = fx.node.map_aggregate(node.kwargs, move)
        inner.recompile()
    return graph

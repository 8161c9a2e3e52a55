"""Directories of models that have a graph form only.

1. The tensors. The graph follows from the architecture and the plan: loading builds the dense model on the meta device,
   traces it with inputs like those that it was traced with, cuts the graph to the plan, and puts the stored tensors
   into it. Batch and sequence dims stay open where the model allows it.
2. The same as a program of torch.export, with its own copy of the tensors, which needs nothing but torch, and holds no
   pickle::

       torch.export.load("out/model.pt2").module()(input_ids=ids)["logits"]
"""

from __future__ import annotations

import copy
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ..compact import CompactModel
from ..device import device_of
from ..errors import CaptureError, ExportError, FileFormatError
from ..files import is_disk_full
from ..passes.recompute_shapes import recompute_shapes
from ..passes.rescale_statistics import rescale_statistics
from ..pipeline import trace
from ..plan import PruningPlan
from ..quiet import first_line

INPUTS, PROGRAM = "inputs", "model.pt2"

_PLAIN_MEMBERS = (".json", "/archive_format", "/archive_version", "/byteorder", "/version", "/serialization_id")
_ZIP = b"PK\x03\x04"


def write_tensors(compact: CompactModel, file: Path) -> None:
    """Store every tensor of the graph form, each once."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in compact.graph.state_dict().items()}
    save_file(tensors, file, metadata={"format": "pt"})


def write_program(graph: fx.GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any], file: Path) -> None:
    """Store a graph as a program of torch.export, with every size free that it leaves free.

    Raises:
        ExportError: torch can't capture the graph, or would pickle a part of it.
    """
    free = _free_dims(graph, (*args, *kwargs.values()))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(_with_plain_outputs(graph), args, dict(kwargs), dynamic_shapes=free)
            program.example_inputs = None  # they would be pickled
            torch.export.save(program, file)
    except Exception as error:  # torch.export has no base class of its own for what it can't capture
        if is_disk_full(error):
            raise
        raise ExportError(f"torch.export can't capture the compact graph: {first_line(error)}") from error
    pickled = pickles_in(file)
    if pickled:
        raise ExportError(f"torch.export would pickle {pickled[0]} of the compact graph, and nothing here is pickled")


def run_program(file: Path, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The output tensors of a program that was stored."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        outputs = torch.export.load(file).module()(*args, **kwargs)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def pickles_in(file: Path) -> list[str]:
    """The members of a .pt2 file that are pickles: all that is neither JSON nor the plain bytes of a tensor."""
    found: list[str] = []
    with zipfile.ZipFile(file) as members:
        for member in members.infolist():
            if not member.file_size or member.filename.endswith(_PLAIN_MEMBERS):
                continue
            tensor = "/data/weights/" in member.filename or "/data/constants/" in member.filename
            if not tensor or members.open(member).read(4) == _ZIP:  # what torch pickles is a zip in the zip
                found.append(member.filename)
    return found


def _free_dims(graph: fx.GraphModule, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """For each input the dims that may be free: those that were left open as the graph was captured, or else all."""
    values = [node.meta.get("val") for node in graph.graph.find_nodes(op="placeholder")]
    shapes = [value.shape for value in values if isinstance(value, Tensor)]
    opened = any(isinstance(size, torch.SymInt) for shape in shapes for size in shape)
    captured = iter(shapes)

    def dims(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if not opened:
            return dict.fromkeys(range(value.ndim), Dim.AUTO)
        return {dim: Dim.AUTO for dim, size in enumerate(next(captured)) if isinstance(size, torch.SymInt)}

    found: tuple[Any, ...] = tree_map(dims, inputs)
    return found


def _with_plain_outputs(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph with its outputs in a dict, where they are in a mapping of a class that torch alone does not know."""
    result = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    codegen: Any = result.graph._codegen
    info = getattr(codegen, "pytree_info", None)
    if info is None or info.out_spec is None:
        return result
    outputs = tree_unflatten(range(info.out_spec.num_leaves), info.out_spec)
    if isinstance(outputs, Mapping):
        codegen.pytree_info = info._replace(out_spec=tree_flatten(dict(outputs))[1])
        result.recompile()
    return result


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
    device = device_of(dense)
    args, kwargs = (make_inputs(about[INPUTS][part], device) for part in ("args", "kwargs"))
    tensors = load_file(file)
    try:
        traced = trace(dense, tuple(args), kwargs, dynamic=True)
        return filled(_cut(traced, plan, tensors, file), tensors)
    except (CaptureError, FileFormatError):
        traced = trace(dense, tuple(args), kwargs)
        return filled(_cut(traced, plan, tensors, file), tensors)


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


def filled(graph: fx.GraphModule, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
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

"""ONNX files of compact models, checked against torch in onnxruntime before they appear.

1. Adapters are merged into a copy, and halves become single precision, in which onnxruntime computes on any CPU.
2. The module is exported with the batch and the sequence of its inputs dynamic; where it can't be, static.
3. A weight that is in the file twice, once transposed (tied embeddings), is kept once.
4. The file is checked, run at the traced sizes and at others, and compared with the module.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..adapters import adapter_layers, merged_copy, named_inputs
from ..compact import CompactModel
from ..errors import DiskFullError, ExportError, OutputExistsError
from ..files import is_disk_full
from ..passes.trace import inference_mode_of
from ..pipeline import example_inputs
from ..quiet import first_line, quietly
from .onnx_check import Agreement, Inputs, compare, describe, feeds, is_spec, open_session, resized, samples

OLDEST_OPSET = 18
FUSED_OPSET = 23
"""From this opset on torch fuses rotary embeddings into an operator that onnxruntime 1.32 refuses for more than one
row, so the optimisations without fusions are run instead."""

EXTERNAL_BYTES = 1_800_000_000
"""From this size on the weights lie in a file beside the model: a protobuf holds at most 2 GB."""

SHARED_BYTES = 1 << 16
"""Weights below this size are not searched for transposed copies."""

DYNAMIC_NAMES = ("batch", "sequence")


@dataclass(frozen=True)
class OnnxReport:
    """What ``gp.export_onnx`` wrote and saw.

    ``inputs`` and ``outputs`` give the dims of each tensor, a name where the size is free. ``note`` says what is not as
    it was asked for: sizes that could not be left free, types that were changed. ``difference`` is the largest absolute
    one between onnxruntime and torch at each of the sizes that were ``checked``, and ``relative`` the same as a share
    of the largest value of the output; all are empty without a check.
    """

    path: Path
    opset: int
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    note: str | None
    checked: tuple[Mapping[str, tuple[int, ...]], ...]
    difference: tuple[float, ...]
    relative: tuple[float, ...]
    bytes: int
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def dynamic(self) -> bool:
        """Whether any size of an input is free."""
        return any(isinstance(dim, str) for dims in self.inputs.values() for dim in dims)


def export_onnx(
    model: CompactModel | nn.Module,
    path: str | Path,
    *,
    inputs: Any = None,
    opset: int = OLDEST_OPSET,
    dynamic: bool = True,
    check: bool = True,
) -> OnnxReport:
    """Write a compact model, or any module, to a new ONNX file.

    Adapters are merged. ``inputs`` are example inputs, as a mapping of named ones, a tuple of positional ones or one
    tensor; by default those that the model was traced with. ``dynamic`` leaves their batch and sequence sizes free.
    ``check`` runs the file in onnxruntime at two sizes and compares all outputs with torch.

    Weights of more than 1.8 GB lie in a second file, ``path`` with ``.data`` at its end.

    Raises:
        OutputExistsError: the file, or the one with the weights, exists.
        ExportError: the model has no values, torch or onnxruntime can't deal with it, or the outputs differ.
        DiskFullError: the disk is full.
    """
    path = Path(path).absolute()
    for each in (path, _data_path(path)):
        if os.path.lexists(each):
            raise OutputExistsError(f"{each} exists already and is not overwritten: give another name, or remove it")
    if opset < OLDEST_OPSET:
        raise ExportError(f"opset {opset} is too old for torch's exporter: ask for {OLDEST_OPSET} or more")
    clock = {"export": time.perf_counter()}
    module, notes = _exportable(model)
    example = _two_of_each(_example(model, module, inputs), dynamic)
    with quietly():
        program, spec, reason = _export(module, example, opset, dynamic)
        _share_transposes(program.model)
    clock["check"] = time.perf_counter()
    notes += [reason] if reason is not None else []
    checked: list[Mapping[str, tuple[int, ...]]] = []
    differences: list[Agreement] = []
    with _published(path) as temporary:
        with quietly():
            program.save(temporary, external_data=_weight_bytes(module) > EXTERNAL_BYTES)
        described = describe(temporary)
        if described[2] != opset:
            notes.append(f"the exporter made opset {described[2]}, not {opset}")
        if check:
            session = open_session(temporary)
            for sample in samples(module, example, spec):
                checked.append({name: tuple(value.shape) for name, value in feeds(session, sample).items()})
                agreement = compare(module, session, sample)
                differences.append(agreement)
                notes += [agreement.note] if agreement.note is not None else []
        size = sum(file.stat().st_size for file in temporary.parent.iterdir())
    ends = [*list(clock.values())[1:], time.perf_counter()]
    return OnnxReport(
        path=path,
        opset=described[2],
        inputs=described[0],
        outputs=described[1],
        note="; ".join(notes) or None,
        checked=tuple(checked),
        difference=tuple(each.difference for each in differences),
        relative=tuple(each.relative for each in differences),
        bytes=size,
        seconds={stage: end - start for (stage, start), end in zip(clock.items(), ends, strict=True)},
    )


def _exportable(model: CompactModel | nn.Module) -> tuple[nn.Module, list[str]]:
    """The module to export, without adapters and in single precision, and what was done for that."""
    notes: list[str] = []
    module: nn.Module
    if isinstance(model, CompactModel):
        module = model.graph if model.module_form is None else model.module_form
        if model.module_form is None:
            notes.append(f"the graph form was exported, as there is no module form ({model.module_error})")
    else:
        module = model
    if any(tensor.is_meta for tensor in module.parameters()):
        raise ExportError(
            "this model is on the meta device and has no values to export: apply the plan to a real checkpoint"
        )
    if adapter_layers(module):
        module = merged_copy(module)
    halves = {tensor.dtype for tensor in module.parameters()} & {torch.float16, torch.bfloat16}
    if halves:
        module = copy.deepcopy(module).float()
        notes.append(f"{str(halves.pop()).removeprefix('torch.')} weights were exported as float32")
    return module, notes


def _example(model: CompactModel | nn.Module, module: nn.Module, inputs: Any) -> Inputs:
    """Example inputs, by name where the module has names for them."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if inputs is not None:
        return named_inputs(module, (inputs,) if isinstance(inputs, Tensor) else tuple(inputs), {})
    if isinstance(model, CompactModel) and model.origin is not None:
        # the traced module may have been a wrapper with another order of arguments than the one inside it
        traced = module if model.module_form is None else model.module_form
        return named_inputs(module, *named_inputs(traced, model.origin.args, model.origin.kwargs))
    return (), dict(example_inputs(module))


def _dims(value: Any, sizes: dict[tuple[str, int], str]) -> dict[int, str] | None:
    """The dims of one input that may be free, with names; ``sizes`` holds the names given so far."""
    if not isinstance(value, Tensor):
        return None
    known = DYNAMIC_NAMES[:1] if value.is_floating_point() else DYNAMIC_NAMES
    names: dict[int, str] = {}
    for dim, (name, size) in enumerate(zip(known, value.shape, strict=False)):
        others = [key for key in sizes if key[0] == name]
        names[dim] = sizes.setdefault((name, size), name if not others else f"{name}_{len(others) + 1}")
    return names


def _two_of_each(example: Inputs, dynamic: bool) -> Inputs:
    """Inputs whose free dims have at least two positions: torch takes a size of one for one that stays."""
    if not dynamic:
        return example
    sizes: dict[tuple[str, int], str] = {}

    def widen(value: Any) -> Any:
        dims = _dims(value, sizes) or {}
        return resized(value, {dim: 2 for dim in dims if value.shape[dim] == 1}) if dims else value

    args, kwargs = tree_map(widen, example)
    return args, kwargs


def _export(module: nn.Module, example: Inputs, opset: int, dynamic: bool) -> tuple[Any, Any, str | None]:
    """The ONNX program, the free dims of the inputs, and why there are not as many as were asked for."""
    sizes: dict[tuple[str, int], str] = {}
    spec = tree_map(lambda value: _dims(value, sizes), example)
    batch = tree_map(lambda dims: dims and {dim: name for dim, name in dims.items() if dim == 0}, spec, is_leaf=is_spec)
    attempts = [spec, batch, None] if dynamic else [None]
    import onnxscript.optimizer

    with inference_mode_of(module):
        try:
            names = _output_names(module(*example[0], **example[1]))
        except Exception as error:
            raise ExportError(
                f"{type(module).__name__} does not run on the example inputs ({first_line(error)}): pass inputs=… that "
                "it takes"
            ) from error
        reason: str | None = None
        for attempt in attempts:
            try:
                program: Any = torch.onnx.export(
                    module,
                    example[0],
                    kwargs=example[1] or None,
                    dynamo=True,
                    opset_version=opset,
                    dynamic_shapes=_for_torch(example, attempt),
                    output_names=names,
                    optimize=opset < FUSED_OPSET,
                    verbose=False,
                )
                if opset >= FUSED_OPSET:
                    onnxscript.optimizer.optimize_ir(program.model)
            except Exception as error:
                if attempt is None:
                    raise ExportError(
                        f"torch can't export {type(module).__name__} to ONNX: {_cause(error)}. Check that torch.export "
                        "captures it, or export the sub-module that you need"
                    ) from error
                reason = reason or f"not all sizes could be left free: {_cause(error)}"
            else:
                return program, attempt, reason
    raise AssertionError("unreachable: the last attempt returns or raises")


def _for_torch(example: Inputs, spec: Any) -> Any:
    """The free dims as torch.onnx wants them: by name, or by position where the inputs have no names."""
    if spec is None:
        return None
    args, kwargs = spec
    return (*args, *kwargs.values()) if example[0] else kwargs


def _cause(error: BaseException) -> str:
    """The first line of what went wrong below torch's own report of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _output_names(outputs: Any) -> list[str]:
    """A name for each output tensor: the key where the module returns a mapping."""
    if isinstance(outputs, Tensor):
        return ["output"]
    pairs = outputs.items() if isinstance(outputs, Mapping) else enumerate(outputs)
    names: list[str] = []
    for key, value in pairs:
        stem = str(key) if isinstance(outputs, Mapping) else f"output_{key}"
        count = sum(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
        names += [stem] if count == 1 else [f"{stem}_{index}" for index in range(count)]
    return names


def _share_transposes(model: Any) -> None:
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


def _weight_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _data_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


class _published:
    """A path in a temporary directory; the file that is there by the end of the block moves to its target.

    So does a second file with the weights. Nothing moves if the block fails.
    """

    def __init__(self, path: Path):
        self.path = path
        self.parents: list[Path] = []

    def __enter__(self) -> Path:
        self.parents = [parent for parent in self.path.parents if not parent.exists()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.directory = tempfile.TemporaryDirectory(
            dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp", ignore_cleanup_errors=True
        )
        return Path(self.directory.name) / self.path.name

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        source = Path(self.directory.name) / self.path.name
        try:
            if error is None:
                for target in (self.path, _data_path(self.path)):
                    if os.path.lexists(target):
                        raise OutputExistsError(f"{target} came to exist meanwhile and is not overwritten")
                if _data_path(source).exists():
                    os.replace(_data_path(source), _data_path(self.path))
                os.replace(source, self.path)
        finally:
            self.directory.cleanup()
            for parent in self.parents:
                with suppress(OSError):
                    parent.rmdir()
        if error is not None and isinstance(error, Exception) and is_disk_full(error):
            raise DiskFullError(
                f"the disk that holds {self.path.parent} is full, so {self.path.name} was not written: free some space "
                "there, or name another place"
            ) from error

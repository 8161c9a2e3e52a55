"""ONNX files of compact models, checked against torch in onnxruntime before they appear.

1. Adapters are merged into a copy, and halves become single precision, in which onnxruntime computes on any CPU.
2. What is exported is chosen: the module, its encoder or decoder, or a decoder with its cache (``onnx_parts.py``).
3. It is exported with the batch and the sequence of its inputs free; where that can't be, with fixed sizes.
4. onnxscript optimises the graph (``onnx_rules.py``), which is tidied (``onnx_graph.py``) and, if asked for, has fewer
   bits (``rounding.py``, ``onnx_quantise.py``).
5. The file is checked, run at the traced sizes and at others, and compared with the module (``onnx_check.py``).

How far that has come is watched from outside (``onnx_watch.py``): torch's exporter and onnx's passes do not tell.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import adapter_layers, merged_copy, named_inputs
from ..compact import CompactModel
from ..errors import DiskFullError, ExportError, FileFormatError, OutputExistsError
from ..files import is_disk_full, require_directory_of
from ..onnx import PAST, open_session
from ..passes.open_sizes import IntricateSizes, bounded_sizes
from ..passes.trace import inference_mode_of
from ..pipeline import example_inputs
from ..plan import PruningPlan
from ..progress import Parts, Progress, Watched
from ..quiet import first_line, quietly
from ..version import __version__
from .onnx_check import Agreement, Inputs, compare, describe, feeds
from .onnx_graph import (
    describe_origin,
    drop_idle_squeezes,
    drop_notes,
    drop_unused,
    name_dims,
    share_transposes,
    tiny_terms_kept,
)
from .onnx_parts import Part, Subject, decoder, encoder, whole, with_cache
from .onnx_quantise import quantise
from .onnx_rules import rules_by_operator
from .onnx_watch import SHARES, exporting, optimising
from .rounding import Precision, check_precision, half_inputs, halved

OLDEST_OPSET = 18
EXTERNAL_BYTES = 1_800_000_000
"""From this size on the weights lie in a file beside the model: a protobuf holds at most 2 GB."""


@dataclass(frozen=True)
class OnnxReport:
    """What ``gp.export_onnx`` wrote and saw.

    ``inputs`` and ``outputs`` give the dims of each tensor, a name where the size is free. ``note`` says what is not as
    it was asked for: sizes that could not be left free, types that were changed. ``difference`` is the largest absolute
    one between onnxruntime and torch, in single precision, at each of the sizes that were ``checked``, and ``relative``
    the same as a share of the largest value of the output; all are empty without a check.
    """

    path: Path
    opset: int
    precision: Precision
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

    @property
    def cached_layers(self) -> int:
        """How many layers have keys and values among the inputs."""
        return sum(name.startswith(PAST) and name.endswith(".key") for name in self.inputs)


def export_onnx(
    model: CompactModel | nn.Module,
    path: str | Path,
    *,
    inputs: Any = None,
    part: Part | None = None,
    cache: bool = False,
    precision: Precision = "fp32",
    opset: int = OLDEST_OPSET,
    dynamic: bool = True,
    check: bool = True,
    plan: PruningPlan | None = None,
    progress: Progress | None = None,
) -> OnnxReport:
    """Write a compact model, or any module, to a new ONNX file.

    Adapters are merged. ``inputs`` are example inputs, as a mapping of named ones, a tuple of positional ones or one
    tensor; by default those that the model was traced with. ``part`` writes the encoder, or the decoder, of a model
    that has both. ``cache`` gives a decoder its keys and values as inputs ``past_key_values.N.key`` and outputs
    ``present.N.key``, as :func:`graphprune.onnx.generate` and onnxruntime-genai expect. ``precision`` is ``"fp32"``,
    ``"fp16"`` or ``"int8"``. ``dynamic`` leaves batch and sequence sizes free. ``check`` runs the file in onnxruntime
    at several sizes and compares all outputs with torch. ``plan`` says by what a plain module was cut; the metadata of
    the file hold its digest. ``progress`` is called with how far it has come, and how far it has to.

    Weights of more than 1.8 GB lie in a second file, ``path`` with ``.data`` at its end.

    Raises:
        OutputExistsError: the file, or the one with the weights, exists.
        ExportError: there is no directory for it, the model has no values or no such part, its cache can't be captured,
            torch or onnxruntime can't deal with it, or the outputs differ.
        DiskFullError: the disk is full.
    """
    path = Path(path).absolute()
    check_target(path)
    if opset < OLDEST_OPSET:
        raise ExportError(f"opset {opset} is too old for torch's exporter: ask for {OLDEST_OPSET} or more")
    check_precision(precision)
    clock = {"export": time.perf_counter()}
    module, notes = _exportable(model)
    subject = _subject(model, module, inputs, part, cache, dynamic)
    parts = Parts(progress, SHARES)
    with quietly():
        program, free, reason = _export(subject, type(module).__name__, opset, precision, parts)
        parts.part("tidy")
        drop_unused(program.model)
        drop_notes(program.model)
        share_transposes(program.model)
        if precision == "int8":
            kept = quantise(program.model)
            if kept > 0.05:
                notes.append(f"{kept:.0%} of the weights are no matrices of products and stay in single precision")
        describe_origin(program.model, _facts(model, plan, precision))
    clock["check"] = time.perf_counter()
    notes += [each for each in (subject.note, reason) if each is not None]
    checked: list[Mapping[str, tuple[int, ...]]] = []
    differences: list[Agreement] = []
    with _published(path) as temporary:
        parts.part("save")
        with quietly():
            program.save(temporary, external_data=_weight_bytes(program.model) > EXTERNAL_BYTES)
        parts.part("load")
        described = describe(temporary)
        if described[2] != opset:
            notes.append(f"the exporter made opset {described[2]}, not {opset}")
        if check:
            session = _session(temporary)
            samples = subject.samples(free)
            for sample in Watched(samples, parts.part("compare")):
                checked.append({name: tuple(value.shape) for name, value in feeds(session, sample).items()})
                agreement = compare(subject.module, session, sample, precision)
                differences.append(agreement)
                notes += [agreement.note] if agreement.note is not None else []
        size = sum(file.stat().st_size for file in temporary.parent.iterdir())
    parts.end()
    ends = [*list(clock.values())[1:], time.perf_counter()]
    return OnnxReport(
        path=path,
        opset=described[2],
        precision=precision,
        inputs=described[0],
        outputs=described[1],
        note="; ".join(notes) or None,
        checked=tuple(checked),
        difference=tuple(each.difference for each in differences),
        relative=tuple(each.relative for each in differences),
        bytes=size,
        seconds={stage: end - start for (stage, start), end in zip(clock.items(), ends, strict=True)},
    )


def _session(path: Path) -> Any:
    try:
        return open_session(path)
    except FileFormatError as error:
        raise ExportError(
            f"onnxruntime can't load the exported model: {first_line(error.__cause__ or error)}"
        ) from error


def check_target(path: Path) -> None:
    """Refuse a place where no new file can be.

    Raises:
        OutputExistsError: the file, or the one with its weights, exists.
        ExportError: its directory does not.
    """
    for each in (path, _data_path(path)):
        if os.path.lexists(each):
            raise OutputExistsError(f"{each} exists already and is not overwritten: give another name, or remove it")
    require_directory_of(path)


def _subject(
    model: CompactModel | nn.Module, module: nn.Module, inputs: Any, part: Part | None, cache: bool, dynamic: bool
) -> Subject:
    if isinstance(model, CompactModel) and model.module_form is None and (cache or part is not None):
        raise ExportError(
            f"there is no module form of this model ({model.module_error}), and its graph has neither a cache nor "
            "parts: export it without cache=True and part=…"
        )
    if cache and not dynamic:
        raise ExportError("a cache grows, so its sizes can't be fixed: leave out dynamic=False, or cache=True")
    example = _example(model, module, inputs)
    if part == "encoder":
        if cache:
            raise ExportError("an encoder has no cache: leave out cache=True, or ask for the decoder")
        return encoder(module, example, dynamic)
    if part == "decoder":
        return decoder(module, example, dynamic, cache=cache)
    if part is not None:
        raise ExportError(f"there is no part {part!r}: ask for 'encoder' or 'decoder'")
    return with_cache(module, example) if cache else whole(module, example, dynamic)


def _facts(model: CompactModel | nn.Module, plan: PruningPlan | None, precision: Precision) -> dict[str, str]:
    """What the file says of itself."""
    plan = model.plan if isinstance(model, CompactModel) else plan
    facts = {"graphprune_version": __version__, "precision": precision}
    return facts if plan is None else {**facts, "plan_digest": plan.digest, "dense_model": plan.model}


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


def _export(subject: Subject, name: str, opset: int, precision: Precision, parts: Parts) -> tuple[Any, Any, str | None]:
    """The ONNX program, the free dims of the inputs, and why there are not as many as were asked for."""
    import onnxscript.optimizer

    module, example = subject.module, subject.example
    if precision == "fp16":
        module, example = halved(module), half_inputs(example)
    reason: str | None = None
    with inference_mode_of(module), _batched_experts(module):
        for attempt in subject.free:
            try:
                with exporting(module, parts), bounded_sizes(module):
                    program: Any = torch.onnx.export(
                        module,
                        example[0],
                        kwargs=example[1] or None,
                        dynamo=True,
                        opset_version=opset,
                        dynamic_shapes=_for_torch(example, attempt),
                        input_names=subject.inputs,
                        output_names=subject.outputs,
                        optimize=False,
                        verbose=False,
                    )
                drop_idle_squeezes(program.model)
                with optimising(parts), tiny_terms_kept(program.model), rules_by_operator():
                    onnxscript.optimizer.optimize_ir(program.model)
            except (Exception, IntricateSizes) as error:
                reason = reason or _cause(error)
                if attempt is subject.free[-1]:
                    raise ExportError(
                        f"torch can't export {name} to ONNX: {_cause(error)}. {subject.remedy}"
                    ) from error
            else:
                name_dims(program.model, example, attempt)
                return program, attempt, reason and f"not all sizes could be left free: {reason}"
    raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def _batched_experts(module: nn.Module) -> Iterator[None]:
    """Within the context experts are products of a batch each: the grouped product of transformers has no ONNX form."""
    found: dict[int, Any] = {id(child.config): child.config for child in module.modules() if hasattr(child, "config")}
    grouped = [each for each in found.values() if getattr(each, "_experts_implementation", None) == "grouped_mm"]
    for each in grouped:
        each._experts_implementation = "batched_mm"
    try:
        yield
    finally:
        for each in grouped:
            each._experts_implementation = "grouped_mm"


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


def _weight_bytes(model: Any) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def _data_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


class _published:
    """A path in a temporary directory; the file that is there by the end of the block moves to its target.

    So does a second file with the weights. Nothing moves if the block fails.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Path:
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
        if error is not None and isinstance(error, Exception) and is_disk_full(error):
            raise DiskFullError(
                f"the disk that holds {self.path.parent} is full, so {self.path.name} was not written: free some space "
                "there, or name another place"
            ) from error

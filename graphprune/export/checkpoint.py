"""Cutting a checkpoint to a plan in its files, shard by shard, for models that do not fit into memory.

1. The model is made and traced without values, from config.json alone; the plan must be for it.
2. The headers of the files say what is where. They must hold what the model has, in the same shapes.
3. Each file becomes one of the same name with the kept slices of its tensors, in their own types.
4. What :func:`graphprune.save` writes beside the weights is written, and the directory gets its name.

A run that was interrupted, by whatever, goes on from its last finished file.

::

    model/ model-00001-of-00008.safetensors …     ->     .out.1f0c….tmp/ …     ->     out/
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import carry_plan, plain_modules
from ..compact import CompactModel
from ..errors import DiskFullError, FileFormatError, SourceError
from ..files import new_file, refuse_existing, resumed_directory
from ..passes.slice_parameters import DimMasks, parameter_masks, slice_tensor
from ..pipeline import rewrite, trace
from ..plan import PruningPlan
from ..program import fetch, fingerprint, parameter_table
from ..progress import Parts, Progress
from ..quiet import quietly
from ..revision import stored_digest
from ..sources.adapter import put_on, stored_values
from ..sources.model import computed_buffers, model_on_meta
from ..traced import TracedModel
from ..version import __version__
from ..weight_files import INDEX, Checkpoint, read_checkpoint
from .directory import describe
from .layer_form import plain_tensors
from .manifest import Form, read_object, write_json
from .module_check import check_module_form
from .pruned_form import ENTRY
from .shards import Cut, CutShard

FileProgress = Callable[[int, int, str], None]
"""Called with how many files are done, how many there are, and the name of the next."""


@dataclass(frozen=True)
class CheckpointReport:
    """What :func:`rewrite_checkpoint` wrote.

    ``form`` and ``reason`` are as in :class:`graphprune.SaveReport`. ``resumed`` counts the files that an earlier run
    had finished, and ``left_out`` names tensors of the checkpoint that transformers ignores too.
    """

    path: Path
    form: Form
    reason: str | None
    dense_parameters: int
    parameters: int
    files: int
    resumed: int
    bytes: int
    left_out: tuple[str, ...]


def rewrite_checkpoint(
    plan: PruningPlan,
    source: str | Path,
    output: str | Path,
    *,
    adapter: str | Path | None = None,
    other_weights: bool = False,
    tokenizer: Any = None,
    progress: FileProgress | None = None,
) -> CheckpointReport:
    """Cut the safetensors checkpoint in a directory to a plan, and write it to a new directory.

    The result is that of :func:`graphprune.rewrite` and :func:`graphprune.save`, to the bit. Its outputs are not
    compared; that a module of its sizes computes what its graph does is seen with random weights.
    Hardly more than the largest tensor is ever in memory. An ``adapter``, a directory that peft wrote, is cut
    with the model and lies in ``output/adapter``; the plan is for the model with or without it. A checkpoint of the
    model with other weights than the plan was made for is cut where ``other_weights`` says so.

    Raises:
        OutputExistsError: ``output`` exists.
        SourceError: the model can't be made, files of it are missing, or its weights are stored in few bits.
        FileFormatError: a file is truncated, corrupt or does not hold what the model has.
        PlanError: the plan is for another model, or for other weights.
        ExportError: the plan has no module form of the model.
        DiskFullError: there is not enough space, which is known before anything is written, or it went meanwhile.
    """
    output = Path(output)
    refuse_existing(output)
    subject = trace_checkpoint(plan, Path(source), None if adapter is None else Path(adapter))
    return cut_files(subject, output, other_weights=other_weights, tokenizer=tokenizer, progress=progress)


def cut_files(
    subject: TracedCheckpoint,
    output: Path,
    *,
    other_weights: bool = False,
    tokenizer: Any = None,
    progress: FileProgress | None = None,
) -> CheckpointReport:
    """As :func:`rewrite_checkpoint`, of a checkpoint that was traced already.

    Raises:
        GraphPruneError: as there.
    """
    refuse_existing(output)
    traced, plan, source, adapter = subject.traced, subject.plan, subject.source, subject.adapter
    checkpoint = read_checkpoint(source)
    matched = _match(checkpoint, traced.module)
    if plan.weights is not None and not other_weights:
        plan.check_weights(stored_digest(checkpoint, _parameters(matched, traced.module)))
    computed = computed_buffers(model_on_meta(source))
    names = _names(traced.module)
    check_module_form(traced, plan.keep(traced), {names[name]: tensor for name, tensor in computed.items()})
    compact = rewrite(traced, plan)
    if compact.module_form is not None:
        _take_types(compact.module_form, subject.types)
    masks = parameter_masks(traced.inference, plan.keep(traced))
    if adapter is not None:
        _put_values(compact, masks, stored_values(traced.module, adapter))
    shards = _cut(checkpoint, matched, masks, {"graphprune": __version__, "plan": plan.digest})
    _require_space(output, sum(shard.bytes for shard in shards))
    key = _key(plan, checkpoint, adapter)
    with resumed_directory(output, key, finished="*.safetensors") as directory:
        _clear(directory)
        form, reason = describe(compact, directory, output, tokenizer)
        if form != "transformers":
            if form == "remote-code":
                wanted = read_object(directory / "config.json")[ENTRY]["buffers"]
                computed = {name: tensor for name, tensor in computed.items() if name in wanted}
            shards = _renamed(shards, matched, masks, traced.module, computed)
        resumed = 0
        for done, shard in enumerate(shards):
            file = directory / shard.source.file.name
            if shard.is_written(file):
                resumed += 1
                continue
            if progress is not None:
                progress(done, len(shards), file.name)
            with new_file(file, overwrite=True) as temporary:
                shard.write(temporary)
        if checkpoint.index is not None:
            _write_index(directory, checkpoint, shards, compact)
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return CheckpointReport(
        output,
        form,
        reason,
        compact.dense_parameters,
        compact.parameter_count,
        len(shards),
        resumed,
        size,
        tuple(name for name, _ in checkpoint.tensors() if name not in matched),
    )


@dataclass(frozen=True)
class TracedCheckpoint:
    """The model in a directory, traced without values and in float32, whose rounding hides no mistake, and its plan."""

    source: Path
    adapter: Path | None
    plan: PruningPlan
    traced: TracedModel
    types: Mapping[str, torch.dtype]
    """The type that each tensor of the model has by config.json, by its name in the module that was traced."""


def trace_checkpoint(
    plan: PruningPlan, source: Path, adapter: Path | None = None, progress: Progress | None = None
) -> TracedCheckpoint:
    """The model in a directory without values, with an adapter where one is given, and the plan for it.

    A plan for the model without the adapter is carried over to that with it.

    Raises:
        SourceError: the model can't be made, or its weights are stored in few bits.
        PlanError: the plan is for another model.
    """
    module = model_on_meta(source)
    if getattr(module.config, "quantization_config", None) is not None:
        raise SourceError(
            f"The weights in {source} are stored in few bits, which can't be cut in their files: apply the plan to the "
            "model that they were made from, and quantise the result."
        )
    if (source / "generation_config.json").is_file():
        from transformers import GenerationConfig

        with quietly():
            module.generation_config = GenerationConfig.from_pretrained(source)
    plain = fingerprint(parameter_table(module))
    if adapter is None:
        plan.check_model(plain)
    else:
        module = put_on(module, adapter)
    types = {name: fetch(module, name).dtype for name in parameter_table(module)}
    carried = adapter is not None and plan.model == plain
    parts = Parts(progress, {"model": 2, "without adapter": 1 if carried else 0})
    traced = trace(module.float(), progress=parts.part("model"))
    if carried:
        before = trace(model_on_meta(source).float(), progress=parts.part("without adapter"))
        names = {ours: plain for plain, ours in _names(traced.module).items() if plain in before.table}
        plan = replace(carry_plan(before, plan, traced, names), about=plan.about)
    plan.check_model(traced.fingerprint)
    return TracedCheckpoint(source, adapter, plan, traced, types)


def _take_types(module: nn.Module, types: Mapping[str, torch.dtype]) -> None:
    """Give the tensors of a compact model without values their types."""
    for name in parameter_table(module):
        tensor = fetch(module, name)
        tensor.data = tensor.data.to(types[name])


def _names(module: nn.Module) -> dict[str, str]:
    """From each name that a tensor has in the model without adapters to its name in the table of the module."""
    table = {id(fetch(module, name)): name for name in parameter_table(module)}
    return {
        f"{path}.{name}" if path else name: table[id(tensor)]
        for path, child in plain_modules(module)
        for name, tensor in (*child._parameters.items(), *child._buffers.items())
        if tensor is not None
    }


def _computed(module: nn.Module) -> set[str]:
    """The names of buffers that no checkpoint holds."""
    return {
        f"{path}.{name}" if path else name
        for path, child in plain_modules(module)
        for name in child._non_persistent_buffers_set
    }


def _match(checkpoint: Checkpoint, module: nn.Module) -> dict[str, str]:
    """From the names in a checkpoint to those that its tensors have in the table of a module.

    Raises:
        FileFormatError: the checkpoint holds or lacks a tensor, or has one in another shape.
    """
    names, computed = _names(module), _computed(module)
    root: Any = dict(plain_modules(module))[""]
    table = parameter_table(module)
    matched: dict[str, str] = {}
    for stored, tensor in checkpoint.tensors():
        # a base model is saved without the name that the model around it has for it, and loads into that one
        name = stored if stored in names else f"{root.base_model_prefix}.{stored}"
        if name in computed or (name not in names and _is_ignored(stored, root)):
            continue
        if name not in names:
            raise FileFormatError(
                f"{checkpoint.directory} holds {stored}, and {type(root).__name__} has no tensor of that name: where "
                "tensors are renamed or merged as they are loaded, they can't be cut in their files; load the model, "
                "then use gp.rewrite and gp.save."
            )
        wanted = table[names[name]].shape
        if tensor.shape != wanted:
            raise FileFormatError(
                f"{checkpoint.directory} holds {stored} as {list(tensor.shape)}, and its config.json asks for "
                f"{list(wanted)}: get the whole model again."
            )
        matched[stored] = names[name]
    lacking = sorted({ours for name, ours in names.items() if name not in computed} - set(matched.values()))
    if lacking:
        raise FileFormatError(
            f"The weights in {checkpoint.directory} lack {len(lacking)} tensors that its config.json asks for, "
            f"{lacking[0]} among them: get the whole model again."
        )
    return matched


def _parameters(matched: Mapping[str, str], module: nn.Module) -> dict[str, str]:
    """From the names of parameters in a checkpoint to the first that each has in the model without adapters."""
    table = parameter_table(module)
    first: dict[str, str] = {}
    for name, ours in _names(module).items():
        first.setdefault(ours, name)
    return {stored: first[ours] for stored, ours in matched.items() if not table[ours].is_buffer}


def _is_ignored(name: str, root: Any) -> bool:
    """Whether transformers ignores a tensor of a checkpoint that the model has no place for."""
    return any(re.search(pattern, name) for pattern in root._keys_to_ignore_on_load_unexpected or ())


def _put_values(compact: CompactModel, masks: Mapping[str, DimMasks], values: Mapping[str, Tensor]) -> None:
    """Give a compact model without values the kept slices of some of its tensors."""
    for name, value in values.items():
        owner, _, attribute = name.rpartition(".")
        place = compact.module.get_submodule(owner)
        cut = slice_tensor(value, masks.get(name, ()))
        if attribute in place._parameters:
            place._parameters[attribute] = nn.Parameter(cut, requires_grad=False)
        else:
            place._buffers[attribute] = cut


def _cut(
    checkpoint: Checkpoint, matched: Mapping[str, str], masks: Mapping[str, DimMasks], notes: Mapping[str, str]
) -> list[CutShard]:
    """The files to write, in which tensors have the names that they have in the checkpoint."""

    def cuts(tensors: Mapping[str, Any]) -> Iterator[tuple[str, Cut]]:
        for name, stored in tensors.items():
            if name in matched:
                yield name, Cut(name, masks.get(matched[name], [None] * len(stored.shape)))

    return [CutShard(shard, dict(cuts(shard.tensors)), notes) for shard in checkpoint.shards]


def _renamed(
    shards: list[CutShard],
    matched: Mapping[str, str],
    masks: Mapping[str, DimMasks],
    module: nn.Module,
    computed: Mapping[str, Tensor],
) -> list[CutShard]:
    """The files with every tensor once, by the first name that the model has for it, and with what is computed."""
    names = _names(module)
    first = {names[name]: name for name in plain_tensors(module)[0]}
    seen: set[str] = set()
    result: list[CutShard] = []
    for shard in shards:
        cuts: dict[str, Cut] = {}
        for stored, cut in shard.cuts.items():
            name = first[matched[stored]]
            if name not in seen:
                seen.add(name)
                cuts[stored] = replace(cut, name=name)
        result.append(replace(shard, cuts=cuts))
    added = {name: slice_tensor(tensor, masks.get(names[name], ())) for name, tensor in computed.items()}
    return [*result[:-1], replace(result[-1], added=added)]


def _require_space(output: Path, needed: int) -> None:
    place = next(parent for parent in output.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskFullError(
            f"{output} needs {needed / 1e9:.1f} GB, and the disk that holds {place} has {free / 1e9:.1f} GB left: free "
            "some space there, or name another place."
        )


def _key(plan: PruningPlan, checkpoint: Checkpoint, adapter: str | Path | None) -> str:
    """What an interrupted run must have in common with the one that goes on with it, as 16 hexadecimal digits."""
    files = [shard.file for shard in checkpoint.shards]
    if adapter is not None:
        files += sorted(Path(adapter).glob("*.safetensors"))
    found = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([__version__, plan.to_json(), found]).encode()).hexdigest()[:16]


def _clear(directory: Path) -> None:
    """Remove what an interrupted run has not finished."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".safetensors":
            path.unlink()


def _write_index(directory: Path, checkpoint: Checkpoint, shards: list[CutShard], compact: CompactModel) -> None:
    sizes = {name: size for shard in shards for name, size in shard.sizes().items()}
    metadata = {"total_parameters": compact.parameter_count, "total_size": sum(sizes.values())}
    weight_map = {name: shard.source.file.name for shard in shards for name in shard.sizes()}
    content = {**(checkpoint.index or {}), "metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / INDEX, content)

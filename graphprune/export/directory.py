"""Directories of compact models: safetensors and JSON, written wholly or not at all.

A transformers model whose config can say the new sizes is saved as transformers saves it, and needs no graphprune::

    out/  config.json  generation_config.json  model.safetensors     AutoModelForCausalLM.from_pretrained("out")
          graphprune.json  plan.json  verify.json  README.md         what was done

Where its layers differ in size, the config says the size of each, and a file of code beside it, the same for all
models, makes transformers' own class smaller by them (see ``modeling_pruned.py``)::

    out/  config.json  modeling_pruned.py  …         AutoModelForCausalLM.from_pretrained("out", trust_remote_code=True)

A model that has a graph form only is saved as its tensors and its plan, and once more as a program that torch loads by
itself (see ``graph_form.py``), and any other model as its tensors and the sizes of each module, which only ``gp.load``
reads (see ``layer_form.py``). There is no config.json then, so that nothing takes it for a plain model.

Weights are split into files of at most ``max_shard_size`` in the first two forms. Adapters that were kept lie in
``out/adapter``, as peft saves them, on top of any of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import adapter_layers, is_peft_model, outputs_of, without_adapters
from ..compact import CompactModel
from ..device import device_of
from ..errors import ExportError, FileFormatError, GraphPruneError
from ..expressible import is_transformers_model, misfit
from ..files import is_disk_full, new_directory
from ..origin import Origin
from ..passes.verify import difference, rounding_of
from ..progress import Parts, Progress, Watched
from ..quiet import first_line, quietly
from ..version import __version__
from ..weight_files import WEIGHTS
from .adapter_form import read_adapters, write_adapters
from .biases import with_said_biases
from .card import model_card
from .graph_form import INPUTS, PROGRAM, describe_inputs, run_program, write_program, write_tensors
from .labels import label
from .layer_form import plain_tensors, read_cut_graph, read_layers, write_dense_config, write_layers
from .manifest import (
    ABOUT,
    ADAPTER,
    DENSE_CONFIG,
    FORMAT,
    PLAN,
    VERIFY,
    Form,
    read_about,
    read_object,
    read_plan,
    require_class,
    transformers_class,
    weight_files,
    write_json,
    wrong_shape,
)
from .pruned_form import auto_classes, dense_origin, is_pruned, pruned_class, pruned_form

__all__ = ["ABOUT", "ADAPTER", "PLAN", "Form", "SaveReport", "describe", "load", "plain_tensors", "read_plan", "save"]

SHARD = "5GB"
"""How large a file of weights may be: what the Hugging Face hub advises."""


SHARES = {"write": 40, "load": 15, "compare tensors": 10, "compare outputs": 20, "label": 15}
"""The parts of writing a directory, as SmolLM2-135M takes its time with them."""


@dataclass(frozen=True)
class SaveReport:
    """What ``gp.save`` wrote.

    ``form`` is ``"transformers"`` where plain ``from_pretrained`` loads the directory, ``"remote-code"`` where it does
    with ``trust_remote_code=True``, ``"per-layer"`` where only ``gp.load`` does, and ``"graph"`` where that loads a
    graph, since there is no module form; ``reason`` then says why. ``difference`` is the largest one, relative to the
    largest output, between the model and what was loaded again from the files; None where ``gp.load`` can't make the
    model by itself.
    """

    path: Path
    form: Form
    reason: str | None
    difference: float | None
    bytes: int


def save(
    compact: CompactModel,
    path: str | Path,
    tokenizer: Any = None,
    *,
    max_shard_size: int | str = SHARD,
    measured: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> SaveReport:
    """Write a compact model to a new directory, and a tokenizer beside it: its module form, if it has one.

    The directory appears at ``path`` only after it was loaded again and gave the same outputs. ``measured`` is what the
    model card is to say of the model, by name: ``{"perplexity on WikiText-2": 43.29}``. ``progress`` is called with how
    far it has come, and how far it has to.

    Raises:
        OutputExistsError: ``path`` exists.
        ExportError: the model has no values, or what was written does not load again as the same model.
        DiskFullError: the disk is full.
    """
    with new_directory(path) as directory:
        report = write(
            compact,
            directory,
            str(path),
            tokenizer=tokenizer,
            max_shard_size=max_shard_size,
            measured=measured,
            progress=progress,
        )
    return SaveReport(Path(path), report.form, report.reason, report.difference, report.bytes)


def write(
    compact: CompactModel,
    directory: Path,
    place: str,
    *,
    tokenizer: Any = None,
    max_shard_size: int | str = SHARD,
    measured: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> SaveReport:
    """Fill an empty directory as :func:`save` does; ``place`` is how the files call the place where they will lie.

    Raises:
        ExportError: as for :func:`save`.
    """
    origin = compact.origin
    if origin is None:
        raise ExportError("this compact model does not know what it was cut from: save what gp.rewrite returned")
    module: nn.Module = compact.graph if compact.module_form is None else compact.module_form
    if any(tensor.is_meta for tensor in module.parameters()):
        raise ExportError(
            "this model is on the meta device and has no values to save: apply the plan to a real checkpoint"
        )
    if adapter_layers(module) and not is_peft_model(module):
        raise ExportError(
            f"the adapters were put into {type(module).__name__} without a PeftModel around it, so they can't be saved "
            'beside it: merge them, with gp.rewrite(traced, plan, adapters="merge")'
        )
    origin = dense_origin(without_adapters(module), origin) if compact.module_form is not None else origin
    parts = Parts(progress, SHARES)
    parts.part("write")
    writer = _Writer(compact, module, origin, place, max_shard_size, measured, parts)
    if compact.module_form is None:
        form, reason, error = writer.write_graph(directory)
    else:
        form, reason, error = writer.write(directory, without_adapters(module))
    parts.part("label")
    for file in directory.rglob("*.safetensors"):
        label(file, {"graphprune": __version__, "plan": compact.plan.digest})
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    parts.end()
    return SaveReport(directory, form, reason, error, size)


def describe(compact: CompactModel, directory: Path, target: Path, tokenizer: Any = None) -> tuple[Form, str | None]:
    """Write what :func:`save` writes beside the weights, whose values need not be known; ``target`` is its later place.

    Returns the form that the weights are to have, and why it is not transformers' own: in that of transformers they go
    by the names of the checkpoint that the model was made from, else by those of :func:`plain_tensors`.

    Raises:
        ExportError: the model has no module form.
    """
    if compact.module_form is None or compact.origin is None:
        raise ExportError(
            f"there is no module form of this model ({compact.module_error}), and its graph is only saved with its "
            "weights: load the model, and use gp.rewrite and gp.save"
        )
    writer = _Writer(compact, compact.module_form, compact.origin, str(target), SHARD, None, Parts(None, SHARES))
    form, reason = writer.describe(directory, without_adapters(compact.module_form))
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    return form, reason


@dataclass(frozen=True)
class _Writer:
    compact: CompactModel
    module: nn.Module
    origin: Origin
    place: str
    max_shard_size: int | str
    measured: Mapping[str, float] | None
    parts: Parts

    def write(self, directory: Path, plain: nn.Module) -> tuple[Form, str | None, float | None]:
        """Fill an empty directory; returns the form, why it is not transformers' own, and the difference."""
        reason = self._why_not_transformers(plain)
        if reason is not None and is_transformers_model(plain):
            said = with_said_biases(plain)
            plain, reason = (plain, reason) if said is None else (said, None)
        if reason is None:
            try:
                return "transformers", None, self._write_as(directory, "transformers", plain, None)
            except Exception as error:
                if is_disk_full(error):
                    raise
                reason = f"transformers could not load it again: {first_line(error)}"
                if isinstance(error, ExportError):
                    reason = f"loaded by transformers, {error}"
                _clear(directory)
        if is_transformers_model(plain):
            try:
                cut = pruned_form(plain, self.origin)
                return "remote-code", reason, self._write_as(directory, "remote-code", cut, reason)
            except Exception as error:
                if is_disk_full(error):
                    raise
                reason = f"{reason}; with the sizes of each layer in its config, {first_line(error)}"
                _clear(directory)
        write_layers(plain, directory)
        if is_transformers_model(plain):
            write_dense_config(plain, self.origin, directory)
        self._write_common(directory, "per-layer", reason)
        known = is_transformers_model(plain) and transformers_class(self.origin.architecture) is not None
        return "per-layer", reason, self._reload(directory) if known else None

    def _write_as(self, directory: Path, form: Form, plain: Any, reason: str | None) -> float:
        with quietly():
            plain.save_pretrained(directory, max_shard_size=self.max_shard_size)
        self._write_common(directory, form, reason)
        return self._reload(directory)

    def describe(self, directory: Path, plain: nn.Module) -> tuple[Form, str | None]:
        """Write all but the weights into a directory; returns the form, and why it is not transformers' own."""
        form: Form = "transformers"
        reason = self._why_not_transformers(plain)
        if reason is not None:
            try:
                form, plain = "remote-code", pruned_form(plain, self.origin)
            except ExportError as error:
                form, reason = "per-layer", f"{reason}; with the sizes of each layer in its config, {first_line(error)}"
        if form == "per-layer":
            write_dense_config(plain, self.origin, directory)
        else:
            _save_without_weights(plain, directory)
        self._write_common(directory, form, reason)
        return form, reason

    def write_graph(self, directory: Path) -> tuple[Form, str | None, float | None]:
        """Fill an empty directory with the graph form; returns the form, why it is that, and the difference."""
        if any(".lora_" in f".{name}" for name, _ in self.compact.graph.named_parameters()):
            raise ExportError(
                f"there is no module form of this model ({self.compact.module_error}), and a graph with adapters can "
                'not be saved: merge them, with gp.rewrite(traced, plan, adapters="merge"), or cut only what the '
                'module form can cut, with gp.select(…, form="module")'
            )
        write_tensors(self.compact, directory / WEIGHTS)
        if self.origin.config is not None:
            write_json(directory / DENSE_CONFIG, self.origin.config.to_dict())
        self._write_common(directory, "graph", self.compact.module_error)
        known = self.origin.config is not None and transformers_class(self.origin.architecture) is not None
        args, kwargs = self.origin.args, self.origin.kwargs
        expected = outputs_of(self.module, args, kwargs)
        error: float | None = None
        graph: Any = self.compact.graph
        if known:
            graph = load(directory)  # it takes other sizes, and so does the program that is made of it
            error = self._agree(expected, outputs_of(graph, args, kwargs), "the graph that is loaded again")
        reason = self.compact.module_error
        try:
            write_program(graph, args, kwargs, directory / PROGRAM)
        except ExportError as refusal:
            (directory / PROGRAM).unlink(missing_ok=True)
            return "graph", f"{reason}; no {PROGRAM} was written, as {refusal}", error
        self._agree(expected, run_program(directory / PROGRAM, args, kwargs), f"the program in {PROGRAM}")
        return "graph", reason, error

    def _agree(self, expected: list[Tensor], found: list[Tensor], name: str) -> float:
        """How far what was loaded is from the compact model."""
        error = difference(expected, found)
        if not error <= rounding_of(self.module):
            raise ExportError(f"{name} differs by {error:.1e} from the compact model")
        return error

    def _why_not_transformers(self, plain: nn.Module) -> str | None:
        if not is_transformers_model(plain):
            return f"{self.origin.architecture} is not a model of transformers"
        if transformers_class(self.origin.architecture) is None:
            return f"the class {self.origin.architecture} is not part of transformers"
        return "its layers differ in size" if is_pruned(plain) else misfit(plain)

    def _write_common(self, directory: Path, form: Form, reason: str | None) -> None:
        about: dict[str, Any] = {
            "format": FORMAT,
            "form": form,
            "reason": reason,
            "graphprune": __version__,
            "architecture": self.origin.architecture,
            "parameters": {"dense": self.compact.dense_parameters, "compact": self.compact.parameter_count},
        }
        if is_peft_model(self.module):
            about["adapters"] = write_adapters(self.module, directory / ADAPTER, self.place)
        if form == "graph":
            about[INPUTS] = {"args": describe_inputs(self.origin.args), "kwargs": describe_inputs(self.origin.kwargs)}
        if form == "per-layer":
            about["dense"] = None if adapter_layers(self.module) else self.compact.plan.model
            about["aliases"] = plain_tensors(self.module)[1]
            about["config_sizes"] = self.origin.config_sizes
            about["sizes"] = self.origin.sizes
        write_json(directory / ABOUT, about)
        self.compact.plan.save(directory / PLAN)
        if self.compact.report is not None:
            write_json(directory / VERIFY, asdict(self.compact.report))
        kind = transformers_class(self.origin.architecture)
        auto = "AutoModel" if kind is None else [*auto_classes(kind), kind.__name__][0]
        place = Path(self.place).name if Path(self.place).is_absolute() else self.place  # a card is for others to read
        card = model_card(self.compact, form, place, auto, self.measured)
        (directory / "README.md").write_text(card, encoding="utf-8")

    def _reload(self, directory: Path) -> float:
        """How far the model that is loaded from ``directory`` is from the one that was saved there."""
        self.parts.part("load")
        loaded = load(directory).to(device_of(self.module))
        ours = plain_tensors(self.module)[0]
        tensors = list(plain_tensors(loaded)[0].items())
        for name, found in Watched(tensors, self.parts.part("compare tensors")):
            kept = ours.get(name, found)
            # a buffer may be computed in a finer type than the one that the model was cast to
            if not torch.equal(kept, found.to(kept.dtype)):
                raise ExportError(f"{name} has other values than in the compact model")
        self.parts.part("compare outputs")
        expected = outputs_of(self.module, self.origin.args, self.origin.kwargs)
        error = difference(expected, outputs_of(loaded, self.origin.args, self.origin.kwargs))
        if not error <= rounding_of(self.module):
            raise ExportError(f"the model differs by {error:.1e} from the compact model")
        return error


def _save_without_weights(plain: Any, directory: Path) -> None:
    """What transformers saves beside the weights; it would remove those that are in the directory already."""
    with TemporaryDirectory(dir=directory) as scratch:
        with quietly():
            plain.save_pretrained(scratch, state_dict={})
        for file in Path(scratch).iterdir():
            if file.suffix != ".safetensors":
                file.replace(directory / file.name)


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The module that ``gp.save`` wrote to a directory, in evaluation mode, with its adapters where it has some.

    A module that is not of transformers is loaded into ``model``, which must be made as the dense model was; it may
    be on the meta device. It is changed and returned. Dense weights are never in memory otherwise. No code that lies in
    the directory is run.

    Raises:
        FileFormatError: a file is missing, truncated, corrupt or of another format; the message names it.
        ExportError: ``model`` is needed and was not given.
        PlanError: ``model`` is not made as the dense model was.
    """
    directory = Path(path)
    about = read_about(directory)
    try:
        match about["form"]:
            case "transformers":
                module = _from_pretrained(directory, require_class(about))
            case "remote-code":
                module = _from_pretrained(directory, pruned_class(require_class(about)))
            case "graph":
                return read_cut_graph(directory, about, model)
            case _:
                module = read_layers(directory, about, model)
        if about.get("adapters") is not None:
            module = read_adapters(module, directory / ADAPTER, about["adapters"])
    except GraphPruneError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{directory / ABOUT} does not fit the model that it describes "
            f"({type(error).__name__}: {first_line(error)}): save the model again"
        ) from error
    return module.eval()


def _from_pretrained(directory: Path, kind: Any) -> nn.Module:
    config = read_object(directory / "config.json")
    files = weight_files(directory)
    try:
        with quietly():
            module, info = kind.from_pretrained(directory, local_files_only=True, output_loading_info=True)
    except Exception as error:
        why = _wrong_shape(config, kind, files) or first_line(error)
        raise FileFormatError(f"{directory} can't be loaded by transformers ({why}): save it again") from error
    for names, what in ((info["missing_keys"], "lack"), (info["unexpected_keys"], "hold")):
        if names:
            asked = "asks for" if what == "lack" else "says nothing of"
            raise FileFormatError(
                f"the weights in {directory} {what} {min(names)}, which config.json {asked}: save it again"
            )
    return module  # type: ignore[no-any-return]


def _wrong_shape(config: Mapping[str, Any], kind: Any, files: list[Path]) -> str | None:
    """What a directory that can't be loaded holds in another shape than its config says; None where that is not it."""
    try:
        with quietly(), torch.device("meta"):
            return wrong_shape(kind(kind.config_class.from_dict(config)), files)
    except Exception:  # the config makes no model, which is then what is wrong
        return None


def _clear(directory: Path) -> None:
    for each in directory.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()

"""Directories of compact models: safetensors and JSON, written wholly or not at all.

A transformers model whose config can say the new sizes is saved as transformers saves it, and needs no graphprune::

    out/  config.json  generation_config.json  model.safetensors     AutoModelForCausalLM.from_pretrained("out")
          graphprune.json  plan.json  verify.json                    what was done

A model that has a graph form only is saved as its tensors and its plan (see ``graph_form.py``). Any other model is
saved per layer, which ``gp.load`` reads. There is no config.json, so that nothing takes it for a
plain model::

    out/  dense_config.json  generation_config.json  model.safetensors
          graphprune.json                                            the sizes of each layer, and why this form
          plan.json  verify.json

Adapters that were kept lie in ``out/adapter``, as peft saves them, on top of either.
"""

from __future__ import annotations

import importlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..adapters import adapter_layers, is_peft_model, outputs_of, plain_modules, rounding_of, without_adapters
from ..compact import CompactModel
from ..errors import ExportError, FileFormatError, GraphPruneError, PlanError
from ..expressible import is_transformers_model, misfit
from ..files import check_safetensors, is_disk_full, new_directory
from ..origin import Origin, Sizes, configs_of
from ..passes.verify import difference
from ..plan import PruningPlan
from ..program import fingerprint, parameter_table
from ..quiet import first_line, quietly
from ..version import __version__
from ..weight_files import INDEX, WEIGHTS, read_index
from .graph_form import INPUTS, describe_inputs, read_graph, write_tensors

FORMAT = "graphprune-model/1"
ABOUT, PLAN, VERIFY, ADAPTER = "graphprune.json", "plan.json", "verify.json", "adapter"
DENSE_CONFIG = "dense_config.json"

Form = Literal["transformers", "per-layer", "graph"]


@dataclass(frozen=True)
class SaveReport:
    """What ``gp.save`` wrote.

    ``form`` is ``"transformers"`` where plain ``from_pretrained`` loads the directory, ``"per-layer"`` where only
    ``gp.load`` does, and ``"graph"`` where it loads a graph, since there is no module form; ``reason`` then says why.
    ``difference`` is the largest one, relative to the largest output, between the model and what was loaded again from
    the files; None where ``gp.load`` can't make the model by itself.
    """

    path: Path
    form: Form
    reason: str | None
    difference: float | None
    bytes: int


def save(compact: CompactModel, path: str | Path, tokenizer: Any = None) -> SaveReport:
    """Write a compact model to a new directory, and a tokenizer beside it: its module form, if it has one.

    The directory appears at ``path`` only after it was loaded again and gave the same outputs.

    Raises:
        OutputExistsError: ``path`` exists.
        ExportError: the model has no values, or what was written does not load again as the same model.
        DiskFullError: the disk is full.
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
    writer = _Writer(compact, module, origin, Path(path))
    with new_directory(path) as directory:
        if compact.module_form is None:
            form, reason, error = writer.write_graph(directory)
        else:
            form, reason, error = writer.write(directory, without_adapters(module))
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return SaveReport(Path(path), form, reason, error, size)


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
    writer = _Writer(compact, compact.module_form, compact.origin, target)
    form, reason = writer.describe(directory, without_adapters(compact.module_form))
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    return form, reason


@dataclass(frozen=True)
class _Writer:
    compact: CompactModel
    module: nn.Module
    origin: Origin
    target: Path

    def write(self, directory: Path, plain: nn.Module) -> tuple[Form, str | None, float | None]:
        """Fill an empty directory; returns the form, why it is not transformers' own, and the difference."""
        reason = self._why_not_transformers(plain)
        if reason is None:
            try:
                with quietly():
                    plain.save_pretrained(directory)  # type: ignore[operator]
                self._write_common(directory, "transformers", None)
                return "transformers", None, self._reload(directory)
            except Exception as error:
                if is_disk_full(error):
                    raise
                reason = f"transformers could not load it again: {first_line(error)}"
                if isinstance(error, ExportError):
                    reason = f"loaded by transformers, {error}"
            for each in directory.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        self._write_per_layer(directory, plain)
        self._write_common(directory, "per-layer", reason)
        known = is_transformers_model(plain) and _transformers_class(self.origin.architecture) is not None
        return "per-layer", reason, self._reload(directory) if known else None

    def describe(self, directory: Path, plain: nn.Module) -> tuple[Form, str | None]:
        """Write all but the weights into a directory; returns the form, and why it is not transformers' own."""
        reason = self._why_not_transformers(plain)
        form: Form = "transformers" if reason is None else "per-layer"
        if reason is None:
            config: Any = plain.config
            config.dtype, config.architectures = str(plain.dtype).removeprefix("torch."), [type(plain).__name__]
            with quietly():
                config.save_pretrained(directory)
            _write_generation_config(directory, plain)
        else:
            self._write_dense_config(directory, plain)
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
            _write_json(directory / DENSE_CONFIG, self.origin.config.to_dict())
        self._write_common(directory, "graph", self.compact.module_error)
        known = self.origin.config is not None and _transformers_class(self.origin.architecture) is not None
        return "graph", self.compact.module_error, self._reload_graph(directory) if known else None

    def _reload_graph(self, directory: Path) -> float:
        """How far the graph that is loaded from ``directory`` is from the one that was saved there."""
        expected = outputs_of(self.module, self.origin.args, self.origin.kwargs)
        error = difference(expected, outputs_of(load(directory), self.origin.args, self.origin.kwargs))
        if not error <= rounding_of(self.module):
            raise ExportError(f"the graph that is loaded again differs by {error:.1e} from the compact model")
        return error

    def _why_not_transformers(self, plain: nn.Module) -> str | None:
        if not is_transformers_model(plain):
            return f"{self.origin.architecture} is not a model of transformers"
        if _transformers_class(self.origin.architecture) is None:
            return f"the class {self.origin.architecture} is not part of transformers"
        return misfit(plain)

    def _write_per_layer(self, directory: Path, plain: nn.Module) -> None:
        tensors, _ = plain_tensors(plain)
        save_file(_separate(tensors), directory / WEIGHTS, metadata={"format": "pt"})
        if is_transformers_model(plain):
            self._write_dense_config(directory, plain)

    def _write_dense_config(self, directory: Path, plain: nn.Module) -> None:
        config = {**self.origin.config.to_dict(), "dtype": str(plain.dtype).removeprefix("torch.")}  # type: ignore[union-attr]
        _write_json(directory / DENSE_CONFIG, config)
        _write_generation_config(directory, plain)

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
            about["adapters"] = self._write_adapters(directory / ADAPTER)
        if form == "graph":
            about[INPUTS] = {"args": describe_inputs(self.origin.args), "kwargs": describe_inputs(self.origin.kwargs)}
        if form == "per-layer":
            about["dense"] = None if adapter_layers(self.module) else self.compact.plan.model
            about["aliases"] = plain_tensors(self.module)[1]
            about["config_sizes"] = self.origin.config_sizes
            about["sizes"] = self.origin.sizes
        _write_json(directory / ABOUT, about)
        self.compact.plan.save(directory / PLAN)
        if self.compact.report is not None:
            _write_json(directory / VERIFY, asdict(self.compact.report))

    def _write_adapters(self, directory: Path) -> dict[str, Any]:
        """Save the adapters as peft does; their configs name this directory and the ranks that they now have."""
        model: Any = self.module
        with quietly():
            model.save_pretrained(directory, save_embedding_layers=False)
        for name in model.peft_config:
            file = (directory if name == "default" else directory / name) / "adapter_config.json"
            config = json.loads(file.read_text(encoding="utf-8"))
            config["base_model_name_or_path"] = str(self.target)
            if isinstance(config.get("init_lora_weights"), str):
                config["init_lora_weights"] = True  # PiSSA and its kin changed the base, which is saved as it is now
            ranks, alphas = _new_ranks(model, name, rank_stabilised=bool(config.get("use_rslora")))
            if ranks:
                config["rank_pattern"], config["alpha_pattern"] = ranks, alphas
            _write_json(file, config)
        active = model.active_adapters
        return {"names": list(model.peft_config), "active": list(active() if callable(active) else active)}

    def _reload(self, directory: Path) -> float:
        """How far the model that is loaded from ``directory`` is from the one that was saved there."""
        loaded = load(directory).to(next(self.module.parameters()).device)
        ours = plain_tensors(self.module)[0]
        for name, found in plain_tensors(loaded)[0].items():
            kept = ours.get(name, found)
            # a buffer may be computed in a finer type than the one that the model was cast to
            if not torch.equal(kept, found.to(kept.dtype)):
                raise ExportError(f"{name} has other values than in the compact model")
        expected = outputs_of(self.module, self.origin.args, self.origin.kwargs)
        error = difference(expected, outputs_of(loaded, self.origin.args, self.origin.kwargs))
        if not error <= rounding_of(self.module):
            raise ExportError(f"the model differs by {error:.1e} from the compact model")
        return error


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The module that ``gp.save`` wrote to a directory, in evaluation mode, with its adapters where it has some.

    A module that is not of transformers is loaded into ``model``, which must be made as the dense model was; it may
    be on the meta device. It is changed and returned. Dense weights are never in memory otherwise.

    Raises:
        FileFormatError: a file is missing, truncated, corrupt or of another format; the message names it.
        ExportError: ``model`` is needed and was not given.
        PlanError: ``model`` is not made as the dense model was.
    """
    directory = Path(path)
    about = _read_about(directory)
    try:
        if about["form"] == "transformers":
            module = _from_pretrained(directory, about)
        elif about["form"] == "graph":
            return _from_graph(directory, about, model)
        else:
            module = _from_layers(directory, about, model)
        if about.get("adapters") is not None:
            module = _with_adapters(module, directory / ADAPTER, about["adapters"])
    except GraphPruneError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f"{directory / ABOUT} does not fit the model that it describes "
            f"({type(error).__name__}: {first_line(error)}): save the model again"
        ) from error
    return module.eval()


def _from_pretrained(directory: Path, about: Mapping[str, Any]) -> nn.Module:
    kind = _require_class(about)
    _read_object(directory / "config.json")
    _check_weights(directory)
    try:
        with quietly():
            module, info = kind.from_pretrained(directory, local_files_only=True, output_loading_info=True)
    except Exception as error:
        raise FileFormatError(
            f"{directory} can't be loaded by transformers ({first_line(error)}): save it again"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise FileFormatError(
            f"the weights in {directory} lack {missing[0]}, which config.json asks for: save it again"
        )
    return module  # type: ignore[no-any-return]


def _from_layers(directory: Path, about: Mapping[str, Any], model: nn.Module | None) -> nn.Module:
    tensors = _stored_tensors(directory)
    if (directory / DENSE_CONFIG).is_file() and model is None:
        module = _dense_on_meta(directory, about)
    elif model is not None:
        module = model
        _add_biases(module, tensors)
        if about["dense"] is not None and fingerprint(parameter_table(model)) != about["dense"]:
            raise PlanError(
                f"{type(model).__name__} has other parameters than the dense {about['architecture']} that {directory} "
                "was cut from: make it with the same sizes as that one, and without adapters"
            )
    else:
        raise ExportError(
            f"{directory} holds a {about['architecture']}, which gp.load can't make by itself: give it the dense "
            "module, gp.load(path, model=…); it may be on the meta device"
        )
    modules = dict(plain_modules(module))
    _set_sizes(modules, about["sizes"])
    configs = configs_of(modules)
    for path, changes in about["config_sizes"].items():
        vars(configs[path]).update(changes)
    _put_tensors(module, tensors, about["aliases"], directory)
    if (directory / "generation_config.json").is_file():
        from transformers import GenerationConfig

        with quietly():
            module.generation_config = GenerationConfig.from_pretrained(directory)  # type: ignore[assignment]
    return module


def _from_graph(directory: Path, about: Mapping[str, Any], model: nn.Module | None) -> nn.Module:
    _check_safetensors(directory / WEIGHTS)
    if model is None and not (directory / DENSE_CONFIG).is_file():
        raise ExportError(
            f"{directory} holds the graph of a {about['architecture']}, which gp.load can't make by itself: give it "
            "the dense module, gp.load(path, model=…); it may be on the meta device"
        )
    dense = _dense_on_meta(directory, about) if model is None else model
    with safe_open(directory / WEIGHTS, framework="pt") as stored:
        _add_biases(dense, stored.keys())
    return read_graph(dense, read_plan(directory), about, directory / WEIGHTS)


def _dense_on_meta(directory: Path, about: Mapping[str, Any]) -> nn.Module:
    kind = _require_class(about)
    config = _read_object(directory / DENSE_CONFIG)
    try:
        with quietly(), torch.device("meta"):
            return kind(kind.config_class.from_dict(config))  # type: ignore[no-any-return]
    except Exception as error:
        raise FileFormatError(
            f"{directory / DENSE_CONFIG} makes no {kind.__name__} ({first_line(error)}): save the model again"
        ) from error


def _add_biases(dense: nn.Module, stored: Iterable[str]) -> None:
    """Give layers the biases that are stored and they lack, as :func:`graphprune.compensate` did before the cut."""
    names = set(stored)
    for path, child in dense.named_modules():
        if child._parameters.get("bias", child) is None and (f"{path}.bias" if path else "bias") in names:
            weight: Any = child.weight
            child.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), weight.requires_grad)


def _set_sizes(modules: Mapping[str, nn.Module], sizes: Sizes) -> None:
    for path, changes in sizes.items():
        for name, value in changes.items():
            setattr(modules[path], name, tuple(value) if isinstance(value, Iterable) else value)


def _put_tensors(module: nn.Module, tensors: Mapping[str, Tensor], aliases: Mapping[str, str], place: Path) -> None:
    """Put tensors in place of a module's own, and tie the aliases to them."""
    owners = {
        f"{path}.{name}" if path else name: (child, name)
        for path, child in plain_modules(module)
        for name in (*child._parameters, *child._buffers)
    }
    placed: dict[str, Tensor] = {}
    for name in [*tensors, *aliases]:
        if name not in owners:
            raise FileFormatError(f"{place} holds {name}, which the model does not have: save the model again")
        child, attribute = owners[name]
        old = getattr(child, attribute)
        tensor = placed[aliases[name]] if name in aliases else tensors[name]
        if attribute in child._parameters and not isinstance(tensor, nn.Parameter):
            trained = old is None or old.requires_grad
            tensor = nn.Parameter(tensor, requires_grad=trained and tensor.is_floating_point())
        placed[name] = tensor
        setattr(child, attribute, tensor)
    lacking = [
        n for n, (child, attribute) in owners.items() if n not in placed and getattr(child, attribute) is not None
    ]
    if lacking:
        raise FileFormatError(f"{place} lacks {lacking[0]}, which the model has: save the model again")


def _with_adapters(base: nn.Module, directory: Path, about: Mapping[str, Any]) -> nn.Module:
    from peft import PeftModel

    names = [str(name) for name in about["names"]]
    folders = {name: directory if name == "default" else directory / name for name in names}
    for folder in folders.values():
        _read_object(folder / "adapter_config.json")
        _check_safetensors(folder / "adapter_model.safetensors")
    device = str(next(base.parameters()).device)
    try:
        with quietly():
            first = names[0]
            model: Any = PeftModel.from_pretrained(base, folders[first], adapter_name=first, torch_device=device)
            for name in names[1:]:
                model.load_adapter(folders[name], adapter_name=name, torch_device=device)
            model.base_model.set_adapter(list(about["active"]))
    except Exception as error:
        raise FileFormatError(
            f"{directory} can't be loaded by peft ({first_line(error)}): save the model again"
        ) from error
    return model  # type: ignore[no-any-return]


def _new_ranks(model: nn.Module, adapter: str, *, rank_stabilised: bool) -> tuple[dict[str, int], dict[str, float]]:
    """The ranks and alphas, by path, of all layers of an adapter; empty where none of its ranks was cut."""
    layers = {id(layer) for layer in adapter_layers(model).values()}
    paths = {id(child): path for path, child in _tuner_paths(model)}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    cut = False
    for layer in adapter_layers(model).values():
        found: Any = layer
        factor = getattr(found, "lora_A", {}), getattr(found, "lora_embedding_A", {})
        if id(layer) not in layers or not any(adapter in each for each in factor):
            continue
        rank = int(factor[0][adapter].weight.shape[0] if adapter in factor[0] else factor[1][adapter].shape[0])
        path = paths[id(layer)]
        ranks[path] = rank
        alphas[path] = float(found.scaling[adapter]) * (math.sqrt(rank) if rank_stabilised else rank)
        cut = cut or rank != found.r[adapter]
    return (ranks, alphas) if cut else ({}, {})


def _tuner_paths(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The layers of adapters with the paths that the layers inside them have without adapters."""
    plain = {id(child): path for path, child in plain_modules(model)}
    for layer in adapter_layers(model).values():
        base: Any = layer
        yield plain[id(base.get_base_layer())], layer


def plain_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters and buffers of the model without adapters by their first names, and the other names they have."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for path, child in plain_modules(module):
        for name, tensor in (*child._parameters.items(), *child._buffers.items()):
            full = f"{path}.{name}" if path else name
            if tensor is None:
                continue
            if id(tensor) in first:
                aliases[full] = first[id(tensor)]
            else:
                first[id(tensor)] = full
                tensors[full] = tensor.detach()
    return tensors, aliases


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, no two in the same storage, as safetensors wants them."""
    storages: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return result


def _transformers_class(name: str) -> Any | None:
    """A model class of transformers by its full name. No other package is imported for what a file says."""
    from transformers import PreTrainedModel

    module, _, attribute = name.rpartition(".")
    if not module.startswith("transformers."):
        return None
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) and issubclass(found, PreTrainedModel) else None


def _require_class(about: Mapping[str, Any]) -> Any:
    name = str(about["architecture"])
    found = _transformers_class(name)
    if found is None:
        raise FileFormatError(f"transformers has no model class {name}: install a version of transformers that has it")
    return found


def _read_about(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise FileFormatError(f"there is no directory {directory}: name one that gp.save wrote")
    if not (directory / ABOUT).is_file():
        raise FileFormatError(
            f"{directory} has no {ABOUT}, so gp.save did not write it: load it with the library that did, such as "
            "transformers' from_pretrained"
        )
    about = _read_object(directory / ABOUT)
    if about.get("format") != FORMAT or about.get("form") not in get_args(Form):
        raise FileFormatError(
            f"{directory / ABOUT} has format {about.get('format')!r}, form {about.get('form')!r}, and this graphprune "
            f"reads {FORMAT}: install the graphprune that wrote it"
        )
    return about


def read_plan(path: str | Path) -> PruningPlan:
    """The plan of a directory that ``gp.save`` wrote.

    Raises:
        FileFormatError: it is not there, or is not a plan.
    """
    return PruningPlan.load(Path(path) / PLAN)


def _check_weights(directory: Path) -> list[Path]:
    """The files of the weights, whose headers can be read."""
    index = directory / INDEX
    names = [WEIGHTS]
    if index.is_file():
        names = sorted(set(read_index(index)["weight_map"].values()))
    for name in names:
        _check_safetensors(directory / name)
    return [directory / name for name in names]


def _stored_tensors(directory: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in _check_weights(directory):
        with safe_open(file, framework="pt") as stored:
            tensors |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no mapping)
    return tensors


def _check_safetensors(file: Path) -> None:
    """Read the header of a safetensors file, which must be there."""
    if not file.is_file():
        raise FileFormatError(f"{file} is missing: copy the whole directory, or save the model again")
    check_safetensors(file)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileFormatError(f"{file} is missing: copy the whole directory, or save the model again") from error
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{file} can't be read as JSON ({first_line(error)}): save the model again") from error
    if not isinstance(content, dict):
        raise FileFormatError(f"{file} is not a JSON object: save the model again")
    return content


def _write_generation_config(directory: Path, plain: nn.Module) -> None:
    generation: Any = getattr(plain, "generation_config", None)
    if generation is not None:
        with quietly():
            generation.save_pretrained(directory)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, allow_nan=True) + "\n", encoding="utf-8")

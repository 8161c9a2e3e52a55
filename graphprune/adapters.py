"""Adapters that peft has put into a model: finding them, looking past them, and folding them into the weights.

peft is imported only where a model has adapters, so that this costs nothing to those that have none.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .axes import Atom, atoms
from .copies import deep_copy
from .errors import PlanError, RewriteError
from .passes.slice_parameters import DimMasks, parameter_masks
from .passes.trace import inference_mode_of
from .passes.verify import difference, rounding_of
from .plan import GroupPlan, PruningPlan
from .program import fetch, parameter_table

if TYPE_CHECKING:
    from .groups import PruningGroup
    from .traced import TracedModel

MERGED = 1e-3
"""Of what adapters do to the outputs, the most that is put down to rounding their sum with the weights: each layer of a
deep model makes more of it. An adapter on a weight that is used elsewhere too does there what it does here."""


def adapter_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that peft has put around layers of a model, by path."""
    if "peft" not in sys.modules:
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    kind: Any = BaseTunerLayer  # a mixin, and no nn.Module itself
    return {path: child for path, child in module.named_modules() if isinstance(child, kind)}


def inactive_couplings(module: nn.Module) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """The dims of LoRA factors that are dims of the weight that they adapt, whether the adapter is active or not.

    ::

        q_proj.lora_A.second.weight[1] = q_proj.base_layer.weight[1]        r in,  out in
        q_proj.lora_B.second.weight[0] = q_proj.base_layer.weight[0]        out r, out in
    """
    layers = adapter_layers(module)
    names = {id(fetch(module, name)): name for name in parameter_table(module)} if layers else {}
    for layer in layers.values():
        found: Any = layer
        weight = getattr(found.get_base_layer(), "weight", None)
        if not isinstance(weight, Tensor) or id(weight) not in names:
            continue
        swapped = isinstance(found.get_base_layer(), nn.Embedding) or getattr(found, "fan_in_fan_out", False)
        for kind, dim, target in (("A", 1, int(not swapped)), ("B", 0, int(swapped))):
            factors = [each.weight for each in getattr(found, f"lora_{kind}", {}).values()]
            factors += getattr(found, f"lora_embedding_{kind}", {}).values()
            for factor in factors:
                if id(factor) in names and factor.ndim > dim and factor.shape[dim] == weight.shape[target]:
                    yield (names[id(factor)], dim), (names[id(weight)], target)


def is_peft_model(module: nn.Module) -> bool:
    """Whether ``module`` is peft's own wrapper of a model (and no model with adapters put into it)."""
    if "peft" not in sys.modules:
        return False
    from peft import PeftModel

    return isinstance(module, PeftModel)


def plain_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that would be there without adapters, with the path that it would then have.

    ::

        base_model.model.layers.0.q_proj.base_layer   ->   layers.0.q_proj
    """
    yield from _walk("", module, "peft" in sys.modules)


def _walk(path: str, module: nn.Module, peft: bool) -> Iterator[tuple[str, nn.Module]]:
    if peft:
        module = _within(module)
    yield path, module
    for name, child in module.named_children():
        yield from _walk(f"{path}.{name}" if path else name, child, peft)


def _within(module: nn.Module) -> nn.Module:
    """What peft has wrapped, or the module itself."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, PeftModel):
        inner: Any = module.get_base_model()
    elif isinstance(module, BaseTunerLayer):
        inner = module.get_base_layer()
    elif isinstance(module, AuxiliaryTrainingWrapper):
        inner = module.original_module
    else:
        return module
    return module if inner is module else _within(inner)


def without_adapters(module: nn.Module) -> nn.Module:
    """The model that the adapters were put into, as a copy that shares its tensors with ``module``.

    Raises:
        RewriteError: the module can't be copied, or peft can't take the adapters out.
    """
    return _taken_out(shared_copy(module), merge=False) if adapter_layers(module) else module


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy of a module that shares its tensors.

    Raises:
        RewriteError: the module can't be copied.
    """
    return _deep_copy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def merged_copy(module: nn.Module) -> nn.Module:
    """A copy of a model with the active adapters folded into its weights, as peft folds them.

    Raises:
        RewriteError: the module can't be copied, or peft can't merge the adapters.
    """
    return _taken_out(_deep_copy(module, {}), merge=_are_enabled(module))


def _deep_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        return deep_copy(module, memo)
    except Exception as error:
        raise RewriteError(
            f"{type(module).__name__} can't be copied, so its adapters can't be taken out ({error}): "
            'keep them, with gp.rewrite(traced, plan, adapters="keep")'
        ) from error


def _are_enabled(module: nn.Module) -> bool:
    return not all(getattr(layer, "disable_adapters", False) for layer in adapter_layers(module).values())


def _taken_out(module: nn.Module, *, merge: bool) -> nn.Module:
    """Take the adapters out of ``module``, which is changed, after folding them into the weights if ``merge``."""
    try:
        if is_peft_model(module):
            tuner: Any = module.base_model
            plain = tuner.merge_and_unload() if merge else tuner.unload()
            if not isinstance(plain, nn.Module):
                raise TypeError(f"peft gave a {type(plain).__name__} and no module")
            return plain
        # the innermost first: of two adapters on parameters of one module one is inside the other
        for path, layer in reversed(adapter_layers(module).items()):
            found: Any = layer
            if merge:
                found.merge()
            if not path:
                module = found.get_base_layer()
                continue
            owner, _, name = path.rpartition(".")
            setattr(module.get_submodule(owner), name, found.get_base_layer())
        for name in ("peft_config", "_hf_peft_config_loaded"):
            if name in vars(module):
                delattr(module, name)
        return module
    except Exception as error:
        raise RewriteError(
            f"peft can't take the adapters out of {type(module).__name__} ({error}): "
            'keep them, with gp.rewrite(traced, plan, adapters="keep")'
        ) from error


@overload
def merge_adapters(traced: TracedModel, plan: PruningPlan) -> tuple[TracedModel, PruningPlan]: ...


@overload
def merge_adapters(traced: TracedModel, plan: None = None) -> tuple[TracedModel, None]: ...


def merge_adapters(traced: TracedModel, plan: PruningPlan | None = None) -> tuple[TracedModel, PruningPlan | None]:
    """The traced model with its adapters folded into the weights, and the plan carried over to it.

    The original is not changed: a deep copy is merged by peft, with all adapters that are active, and traced with the
    same inputs. A model without adapters is returned as it is.

    Raises:
        PlanError: the plan cuts the rank of an adapter, or can't be carried over.
        RewriteError: peft can't merge the adapters, or the merged model does not compute the same.
    """
    from .pipeline import trace  # here: the pipeline imports this module

    if not adapter_layers(traced.module):
        return traced, plan
    if plan is not None:
        plan.keep(traced)  # refuses a plan for another model before the work starts
        _refuse_ranks(traced, plan)
    copied = _deep_copy(traced.module, {})
    # held until the names are matched: the id of a tensor that is gone may be that of a new one
    held = [*copied.parameters(), *copied.buffers()]
    before = {id(fetch(copied, name)): name for name in parameter_table(copied)}
    module = _taken_out(copied, merge=_are_enabled(copied))
    after = {name: id(fetch(module, name)) for name in parameter_table(module)}
    names = {new: before[key] for new, key in after.items() if key in before}
    del held, before, after
    args, kwargs = named_inputs(traced.module, traced.args, traced.kwargs)
    merged = trace(module, args, kwargs)
    _check_same(traced, merged)
    return merged, None if plan is None else carry_plan(traced, plan, merged, names)


def _refuse_ranks(traced: TracedModel, plan: PruningPlan) -> None:
    for name, group in plan.groups.items():
        if traced.groups[name].kind == "lora_rank" and group.count < group.units:
            raise PlanError(
                f"the plan cuts {name}, the rank of an adapter, which is gone once the adapter is merged: keep the "
                'adapters, with gp.rewrite(traced, plan, adapters="keep"), or make a plan without lora_rank'
            )


def named_inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs with the positional ones by name, where the module's ``forward`` names them all."""
    parameters = inspect.signature(module.forward).parameters.values()
    if not args or any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return args, dict(kwargs)
    names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    if len(names) < len(args):
        return args, dict(kwargs)
    return (), {**dict(zip(names, args, strict=False)), **kwargs}


def _check_same(traced: TracedModel, merged: TracedModel) -> None:
    if any(tensor.is_meta for tensor in merged.module.parameters()):
        return
    expected = outputs_of(traced.module, traced.args, traced.kwargs)
    found = outputs_of(merged.module, merged.args, merged.kwargs)
    error = difference(expected, found)
    if error <= rounding_of(merged.module):
        return
    plain = outputs_of(without_adapters(traced.module), merged.args, merged.kwargs)
    if not error <= MERGED * difference(expected, plain):
        raise RewriteError(
            f"the model differs by {error:.1e} once its adapters are merged, as it does where an adapted weight is tied"
            ' to another one: keep the adapters, with gp.rewrite(traced, plan, adapters="keep")'
        )


def outputs_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The output tensors of a module as it is captured: in eval mode, without a cache."""
    with inference_mode_of(module):
        outputs = module(*args, **kwargs)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def carry_plan(traced: TracedModel, plan: PruningPlan, other: TracedModel, names: Mapping[str, str]) -> PruningPlan:
    """The plan for ``other`` that cuts each of its parameters as ``plan`` cuts the same parameter of ``traced``.

    ``names`` gives for a parameter of ``other`` its name in ``traced``. Atoms are matched by their places in the axis
    trees of these parameters, and the masks of both plans are compared in the end.

    Raises:
        PlanError: there is no such plan.
    """
    twins = _twins(traced, other, names)
    groups = {group.atom: group for group in other.groups}
    carried: dict[str, GroupPlan] = {}
    for name, planned in plan.groups.items():
        if planned.count == planned.units:
            continue
        found = [groups[atom] for atom in twins.get(traced.groups[name].atom, {}) if atom in groups]
        if not found:
            raise PlanError(f"the plan can't be carried over to the merged model, which has no group like {name}")
        for group in found:
            _require_slot(traced.groups[name], planned, group, twins)
            if carried.setdefault(group.name, planned) != planned:
                raise PlanError(f"the plan can't be carried over: groups that it cuts differently become {group.name}")
    result = PruningPlan(other.fingerprint, carried, {**plan.about, "adapters": "merged"}, plan.weights)
    _compare_masks(traced, plan, other, result, names)
    return result


def _twins(traced: TracedModel, other: TracedModel, names: Mapping[str, str]) -> dict[Atom, dict[Atom, None]]:
    """For each atom of ``traced`` the atoms of ``other`` that stand in its places, in order."""
    twins: dict[Atom, dict[Atom, None]] = defaultdict(dict)
    for new, old in names.items():
        if new not in other.inference.parameter_dims or old not in traced.inference.parameter_dims:
            continue
        for before, after in zip(traced.inference.axes(old), other.inference.axes(new), strict=True):
            pairs = list(zip(atoms(before), atoms(after), strict=False))
            if [a.size for a in atoms(before)] == [b.size for b in atoms(after)]:
                for a, b in pairs:
                    twins[a][b] = None
    return twins


def _require_slot(
    old: PruningGroup, planned: GroupPlan, new: PruningGroup, twins: Mapping[Atom, Mapping[Atom, None]]
) -> None:
    if planned.has_slots and (old.slot is None or new.slot is None or new.slot not in twins.get(old.slot, {})):
        raise PlanError(f"the plan can't be carried over: {new.name} of the merged model has no slots like {old.name}")


def _compare_masks(
    traced: TracedModel, plan: PruningPlan, other: TracedModel, carried: PruningPlan, names: Mapping[str, str]
) -> None:
    before = parameter_masks(traced.inference, plan.keep(traced))
    after = parameter_masks(other.inference, carried.keep(other))
    for new, old in names.items():
        if not _equal(before.get(old), after.get(new)):
            raise PlanError(f"the plan can't be carried over: it would cut {new} of the merged model in another way")


def _equal(a: DimMasks | None, b: DimMasks | None) -> bool:
    if a is None or b is None:
        return a is b
    pairs = list(zip(a, b, strict=True))
    return all((x is None) is (y is None) for x, y in pairs) and all(
        torch.equal(x, y) for x, y in pairs if x is not None and y is not None
    )

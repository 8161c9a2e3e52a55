"""Really cut the model that is trained, where masks only made zeros: every step after it is cheaper.

1. The outputs on the inputs that the model was traced with are noted, in float64 where that fits.
2. Parameters and buffers become their kept slices, and stay the same objects: optimiser, scheduler, hooks and whatever
   else refers to them goes on as before. Gradients and the tensors of the optimiser are sliced alike.
3. The Python numbers of modules and configs are set as in the module form of a compact model.
4. Where several processes train the model, what reduces their gradients begins anew.
5. The outputs are compared: a model that computes something else ends the training.

::

    mlp.up_proj.weight   data [1536, 576]  ->  [1100, 576]      the same nn.Parameter
    optimizer.state[…]["exp_avg"]  [1536, 8]  ->  [1100, 8]     of lora_B
    LlamaMLP.intermediate_size   1536  ->  1100

Plans, scores, budgets and checkpoints stay those of the model as it was before: see :mod:`.wholeness` for the latter.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..adapters import merge_adapters
from ..compact import CompactModel
from ..distributed import check_wrappers, has_others, take_new_sizes
from ..errors import RewriteError, TrainingError, VerificationError
from ..origin import origin_of
from ..passes.cut_in_place import cut_tensor_
from ..passes.patch_modules import copy_with, counted_axes, set_sizes, without_values
from ..passes.slice_parameters import (
    DimMasks,
    masks_within,
    parameter_masks,
    slice_tensor,
)
from ..passes.verify import (
    VerifyReport,
    allowed,
    cast_parameters,
    difference,
    matters,
    put_noise_,
    rounding_of,
    run_module,
    types_to_check,
)
from ..pipeline import rewrite, trace
from ..plan import PruningPlan
from ..program import Program, fetch
from ..traced import TracedModel
from .wholeness import Wholeness, torch_optimizer


class Compaction:
    """What has been cut so far out of a model that is trained.

    Args:
        traced: the model, whole. Its axes and groups stay those of the whole model; its module is what is cut.

    Raises:
        TrainingError: the model can't be cut while it is trained.
    """

    def __init__(self, traced: TracedModel):
        self.traced = traced
        self.plan = PruningPlan(traced.fingerprint, {}, weights=traced.weights)
        """What is left, of the whole model."""
        self.there: dict[str, DimMasks] = {}
        """The keep-masks of the tensors of the whole model that have been cut."""
        self.reports: list[VerifyReport] = []
        """What was seen at each cut."""
        self._dense: nn.Module | None = None
        self._whole: Wholeness | None = None
        self._optimizer_is_known = False
        self._check()

    def cut(self, plan: PruningPlan, optimizer: Any = None) -> None:
        """Cut the model to what a plan keeps, which lies within what is left.

        Args:
            plan: a plan for the whole model.
            optimizer: the optimiser of the parameters, also with accelerate's wrapper around it.

        Raises:
            TrainingError: the optimiser has a state that can't be cut, or the model can't be copied.
            VerificationError: the cut model does not compute what the masked one computes.
        """
        masks = self._masks(plan)
        if not masks:
            return
        self.know(optimizer)
        if self._dense is None:
            self._dense = _copied(without_values, self.traced.program)
        start = time.perf_counter()
        reference = reference_of(self.traced.program, masks)
        noted = time.perf_counter()
        cut_tensors(self.traced.module, masks, torch_optimizer(optimizer))
        self._set_sizes(self.traced.module, plan)
        take_new_sizes(self.traced.module)
        sliced = time.perf_counter()
        report = check_against(reference, self.traced.program, self.traced.module)
        seconds = {"cut": sliced - noted, "verify": time.perf_counter() - sliced + noted - start}
        self.reports.append(replace(report, seconds=seconds))
        self.plan, self.there = plan, self._all_masks(plan)
        self.release()
        self._whole = Wholeness(self.traced, self.there, torch_optimizer(optimizer))
        self._whole.attach()

    def know(self, optimizer: Any) -> None:
        """See once, as soon as an optimiser has made a step, whether its state can be cut.

        Raises:
            TrainingError: it can't, or what reduces gradients can't get other sizes.
        """
        if optimizer is not None and not self._optimizer_is_known:
            check_optimizer(optimizer)
            self._check_parameters()
            if has_others():
                check_owner(optimizer, self.traced.module)
                check_wrappers(self.traced.module)
            self._optimizer_is_known = bool(torch_optimizer(optimizer).state)

    def release(self) -> None:
        """Let state dicts be those of the model as it is."""
        if self._whole is not None:
            self._whole.detach()

    def result(self, plan: PruningPlan, **options: Any) -> CompactModel:
        """The compact model of a plan for the whole model, which lies within what is left.

        The report is that of the cuts and of the last rewrite together: of each number the worst.

        Args:
            plan: what to keep.
            options: those of :func:`graphprune.rewrite`.

        Raises:
            GraphPruneError: whatever :func:`graphprune.rewrite` raises.
        """
        with contextlib.nullcontext() if self._whole is None else self._whole.paused():
            return self._result(plan, options)

    def _result(self, plan: PruningPlan, options: dict[str, Any]) -> CompactModel:
        module, reports = self.traced.module, list(self.reports)
        masks = self._masks(plan)
        if masks:
            reference = reference_of(self.traced.program, masks)
            module = _copied(partial(copy_with, tensors={}), self.traced.program)
            cut_tensors(module, masks, None)
            self._set_sizes(module, plan)
            reports.append(check_against(reference, self.traced.program, module))
        small = trace(module, self.traced.args, self.traced.kwargs, by_example=self.traced.by_example)
        compact = rewrite(small, PruningPlan(small.fingerprint, {}), **options)
        dense = self._dense_traced()
        if options.get("adapters") == "merge":
            dense, plan = merge_adapters(dense, plan)
        origin = origin_of(dense.program, compact.module_form)
        if compact.origin is not None:  # the inputs of the dense model have no values
            origin = replace(origin, args=compact.origin.args, kwargs=compact.origin.kwargs)
        if compact.report is not None:
            reports.append(compact.report)
        return replace(
            compact, plan=plan, report=worst_of(reports), dense_parameters=dense.parameter_count, origin=origin
        )

    def _masks(self, plan: PruningPlan) -> dict[str, DimMasks]:
        """The keep-masks, within what is left, of the tensors of which something goes."""
        return masks_within(self._all_masks(plan), self.there)

    def _all_masks(self, plan: PruningPlan) -> dict[str, DimMasks]:
        masks = parameter_masks(self.traced.inference, plan.keep(self.traced))
        return {name: rows for name, rows in masks.items() if name in self.traced.table}

    def _set_sizes(self, module: nn.Module, plan: PruningPlan) -> None:
        traced = self.traced
        dense = self._dense if self._dense is not None else module
        counted = counted_axes(traced.inference, traced.groups)
        set_sizes(module, traced.inference, counted, plan.keep(traced), dense)

    def _dense_traced(self) -> TracedModel:
        """The whole model without values."""
        traced = self.traced
        dense = self._dense if self._dense is not None else _copied(without_values, traced.program)

        def on_meta(value: Any) -> Any:
            return value.to("meta") if isinstance(value, Tensor) else value

        args, kwargs = tree_map(on_meta, traced.args), tree_map(on_meta, dict(traced.kwargs))
        return replace(traced, program=replace(traced.program, module=dense, args=args, kwargs=kwargs))

    def _check(self) -> None:
        """Find before the first step, and not in the middle, what can't work."""
        self._check_parameters()
        check_wrappers(self.traced.module)

    def _check_parameters(self) -> None:
        for name, parameter in self.traced.module.named_parameters():
            if type(parameter) is not nn.Parameter or type(parameter.data) is not Tensor:
                kind = type(parameter if type(parameter) is not nn.Parameter else parameter.data).__name__
                raise TrainingError(f"compaction can't cut {name}, which is a {kind}: use compaction=None")


@dataclass(frozen=True)
class Reference:
    """What a masked model computes: its outputs, in a type, and by how much its pruned units can change them."""

    dtype: torch.dtype | None
    outputs: list[Tensor]
    effect: float


def reference_of(program: Program, masks: Mapping[str, DimMasks]) -> Reference:
    """The reference for a cut by ``masks``, from the module as it is: what will go holds zeros.

    Raises:
        VerificationError: the pruned units change nothing, so that a check could not fail.
    """
    generator = torch.Generator().manual_seed(0)
    for dtype in types_to_check(program):
        values = cast_parameters(program.module, dtype)
        try:
            outputs = run_module(program, program.module, values, dtype)
        except (RuntimeError, TypeError, ValueError):
            if dtype is None:
                raise
            continue  # the model mixes in types of its own: check it in its own types
        for name in [name for name in masks if name in values]:  # no buffers
            own = fetch(program.module, name).detach()
            if own.is_floating_point():
                cast = values[name].clone() if values[name].dtype == own.dtype else values[name]
                values[name] = put_noise_(cast, masks[name], generator)
        effect = difference(run_module(program, program.module, values, dtype), outputs)
        if not matters(effect, dtype):
            raise VerificationError(
                "the pruned units do not change what the model computes on the inputs that it was traced with, so a "
                "cut could not be verified: trace it with longer or more varied inputs"
            )
        return Reference(dtype, outputs, effect)
    raise AssertionError("unreachable: the last type is the model's own")


def check_against(reference: Reference, program: Program, module: nn.Module) -> VerifyReport:
    """Compare a module that has been cut with the masked one.

    Raises:
        VerificationError: it does not run, or differs by more than rounding.
    """
    tolerance = allowed(rounding_of(module, reference.dtype), reference.effect)
    way_out = "go on from the last checkpoint with compaction=None"
    try:
        outputs = run_module(program, module, {}, reference.dtype)
    except Exception as error:  # whatever a forward finds wrong with its shapes
        raise VerificationError(f"the model does not run once it is cut ({error}): {way_out}") from error
    worst = difference(reference.outputs, outputs)
    if not worst <= tolerance:
        raise VerificationError(f"the model differs by {worst:.1e} once it is cut: {way_out}")
    name = str(reference.dtype or "the model's own types").removeprefix("torch.")
    return VerifyReport(name, tolerance, reference.effect, None, worst)


def cut_tensors(module: nn.Module, masks: Mapping[str, DimMasks], optimizer: torch.optim.Optimizer | None) -> None:
    """Cut parameters and buffers to their kept slices, in place, with their gradients and the optimiser's tensors."""
    for name, rows in masks.items():
        tensor = fetch(module, name)
        state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == tensor.shape:
                state[key] = slice_tensor(value, rows)
        cut_tensor_(tensor, rows)


def check_optimizer(optimizer: Any) -> None:
    """Guard against optimisers of which a state is neither a number nor a tensor in the shape of its parameter.

    Raises:
        TrainingError: there is such a state; it is named.
    """
    inner = torch_optimizer(optimizer)
    for parameter, state in inner.state.items():
        for key, value in state.items():
            for leaf in tree_leaves(value):
                if not isinstance(leaf, Tensor) or leaf.numel() == 1:
                    continue
                if leaf is not value or type(leaf) is not Tensor or leaf.shape != parameter.shape:
                    raise TrainingError(
                        f"{type(inner).__name__} keeps a state {key!r} ({type(leaf).__name__} {list(leaf.shape)}) of a "
                        f"parameter {list(parameter.shape)}, which can't be cut with it: use an optimiser like AdamW, "
                        "or compaction=None"
                    )


def check_owner(optimizer: Any, module: nn.Module) -> None:
    """Guard against optimisers that have copies or parts of the parameters, as those of DeepSpeed.

    Raises:
        TrainingError: this one does.
    """
    own = {id(parameter) for group in torch_optimizer(optimizer).param_groups for parameter in group["params"]}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            raise TrainingError(
                f"the optimiser does not have {name} itself, so it can't be cut with it: use compaction=None"
            )


def worst_of(reports: list[VerifyReport]) -> VerifyReport | None:
    """One report for some checks one after the other."""
    if not reports:
        return None

    def worst(errors: list[float | None]) -> float | None:
        return max((error for error in errors if error is not None), default=None)

    last = reports[-1]
    loosest = max(reports, key=lambda report: report.tolerance)
    cuts = [report.module_error for report in reports[:-1]]
    seconds: dict[str, float] = {}
    for report in reports:
        seconds |= {name: seconds.get(name, 0.0) + value for name, value in report.seconds.items()}
    return VerifyReport(
        dtype=loosest.dtype,
        tolerance=loosest.tolerance,
        effect=min((report.effect for report in reports[:-1]), default=last.effect),
        graph_error=worst([last.graph_error, *cuts]),
        module_error=None if last.module_error is None else worst([last.module_error, *cuts]),
        seconds=seconds,
    )


def _copied(make: Callable[[Program], nn.Module], program: Program) -> nn.Module:
    try:
        return make(program)
    except RewriteError as error:
        name = type(program.module).__name__
        raise TrainingError(f"{name} can't be copied ({error.__cause__}): use compaction=None") from error

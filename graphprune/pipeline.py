"""The passes in order: from a module to its groups, and from a plan to a verified compact model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map

from .adapters import carry_plan, inactive_couplings, merge_adapters
from .collector import collector_paused
from .compact import CompactModel
from .device import device_of
from .errors import CaptureError, GraphPruneError, RewriteError, VerificationError
from .in_place import rewrite_in_place
from .origin import origin_of
from .passes.adopt_graph import adopt_graph, is_captured, module_of, plain
from .passes.build_groups import build_groups, dependency_graph
from .passes.infer_axes import infer_axes
from .passes.patch_modules import patch_modules
from .passes.recompute_shapes import recompute_shapes
from .passes.rescale_statistics import rescale_statistics
from .passes.slice_parameters import parameter_masks, slice_tensor
from .passes.trace import trace as capture
from .passes.verify import VerifyReport, check_graph, check_module, check_slices, prepare_check
from .plan import PruningPlan
from .program import Program, parameter_table
from .progress import Parts, Progress
from .quantised import dense_copy, quantised_weights
from .revision import weights_digest
from .traced import Stored, TracedModel


def trace(
    model: nn.Module | ExportedProgram,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: bool = False,
    by_example: bool = False,
    progress: Progress | None = None,
) -> TracedModel:
    """Capture a model and find its pruning groups.

    ``args`` is a tuple of positional inputs, one tensor, or a mapping of named inputs; without any inputs a
    transformers model gets token ids. The model may be on the meta device; it is not changed. With ``dynamic`` the
    graph also runs on inputs of other sizes, as far as the model allows it; tracing then takes about twice as long.
    With ``by_example`` a model that branches on the values of tensors is captured as it goes for these inputs, of which
    the model then needs its values; the graph refuses inputs that would go another way.
    Of a model with weights in few bits a copy with plain weights, on the meta device, is captured in its place.
    A part of a model is traced as any module is. A graph that was captured already (an ``ExportedProgram``, with its
    own example inputs where none are given, or the ``fx.GraphModule`` of one) is taken as it is, and has a graph form
    only. ``progress`` is called with how far it has come, and how far it has to.

    Raises:
        CaptureError: the model can't be captured with these inputs.
    """
    with collector_paused():
        return _trace(model, args, kwargs, dynamic, by_example, progress)


def _trace(
    model: nn.Module | ExportedProgram,
    args: Any,
    kwargs: Mapping[str, Any] | None,
    dynamic: bool,
    by_example: bool,
    progress: Progress | None,
) -> TracedModel:
    if isinstance(args, Mapping):
        args, kwargs = (), {**args, **(kwargs or {})}
    args = (args,) if isinstance(args, Tensor) else tuple(args)
    kwargs = dict(kwargs or {})
    if isinstance(model, ExportedProgram):
        if not args and not kwargs and model.example_inputs is not None:
            args, kwargs = model.example_inputs
        model = module_of(model)
    if any(isinstance(child, nn.DataParallel) for child in model.modules()):
        raise CaptureError("nn.DataParallel runs copies of the module in it: give that one, gp.trace(model.module, …)")
    if not args and not kwargs:
        kwargs = example_inputs(model)
    clock = [time.perf_counter()]
    parts = Parts(progress, {"capture": 80, "axes": 12, "groups": 8})
    stored = None
    if not is_captured(model) and quantised_weights(model):
        stored = Stored(model, args, kwargs)
        model = dense_copy(model, device="meta")
        args, kwargs = tree_map(_without_values, (args, kwargs))
    if is_captured(model):
        model = plain(model)
        graph = adopt_graph(model, args, kwargs)
    else:
        capturing = parts.part("capture")
        graph = capture(model, args, kwargs, dynamic=dynamic, by_example=by_example, progress=capturing)
    clock.append(time.perf_counter())
    parts.part("axes")
    program = Program(model, graph, args, kwargs, parameter_table(model))
    inference = infer_axes(program, inactive_couplings(model))
    clock.append(time.perf_counter())
    parts.part("groups")
    couplings = dependency_graph(inference)
    groups = build_groups(program, inference, couplings)
    clock.append(time.perf_counter())
    seconds = dict(zip(("trace", "infer axes", "build groups"), (b - a for a, b in pairwise(clock)), strict=True))
    parts.end()
    return TracedModel(
        program, inference, couplings, groups, seconds, stored, by_example, weights_digest(program.module)
    )


def changed_model(
    traced: TracedModel, module: nn.Module, plan: PruningPlan, **about: Any
) -> tuple[TracedModel, PruningPlan]:
    """A copy of a traced module in which some tensors were changed or added, traced, and a plan carried over to it.

    Raises:
        CaptureError: the copy can't be traced.
        PlanError: the plan is for another model.
    """
    other = trace(module, traced.args, traced.kwargs, by_example=traced.by_example)
    carried = carry_plan(traced, plan, other, {name: name for name in other.table if name in traced.table})
    return other, replace(carried, about={**plan.about, **about})


def dense_model(traced: TracedModel) -> TracedModel:
    """The traced model with plain weights in place of those that are stored in few bits; itself where it has none.

    Raises:
        CaptureError: the model can't be copied.
    """
    stored = traced.stored
    return traced if stored is None else trace(dense_copy(stored.module), stored.args, stored.kwargs)


def _without_values(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def example_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Token ids ``[2, 13]`` for a model whose config has a vocabulary.

    Raises:
        CaptureError: the model has no such config.
    """
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise CaptureError(f"{type(model).__name__} needs example inputs: gp.trace(model, args=(…,), kwargs={{…}})")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (2, 13), generator=generator)
    return {"input_ids": ids.to(device_of(model))}


def rewrite(
    traced: TracedModel,
    plan: PruningPlan,
    *,
    adapters: Literal["keep", "merge"] = "keep",
    module_form: bool = True,
    statistics: Literal["kept", "masked"] = "kept",
    in_place: bool = False,
    progress: Progress | None = None,
) -> CompactModel:
    """Cut a model to what a plan keeps, and verify the result against the masked original.

    The original is not changed, unless ``in_place`` is set: then the module that was traced becomes the compact one,
    tensor by tensor, with the same parameter objects, and both forms of the result share them (see :mod:`.in_place`).
    That needs hardly more memory than the model, but a module that does not verify is lost.

    Weights in few bits become plain ones of the type of the rest of the model. Adapters are kept, cut together with the
    weights that they adapt, or folded into them (``adapters="merge"``, see :func:`graphprune.merge_adapters`; the
    masked original is then the merged one). A module form that does not agree with the masked original is dropped, and
    ``module_error`` of the result says why; ``module_form=False`` does not try. ``statistics`` says what norms count of
    a width that is cut: what is kept, or also the zeros of the masked original, which only means and RMSNorm can be
    made to do, in the graph form. ``progress`` is called with how far it has come, and how far it has to; with
    ``in_place`` it is not.

    Raises:
        PlanError: the plan is for another model, or can't be carried over to the merged one.
        RewriteError: the adapters can't be merged, a statistic can't be made to count zeros that are gone, the model
            was cut since it was traced, or it can't be cut in place; it is as it was.
        VerificationError: the graph form does not compute what the masked original computes, or, with ``in_place``, the
            module does not; the message says if the module was changed.
    """
    if in_place:
        plan.check_model(traced.fingerprint)
        _check_for_in_place(traced, adapters, module_form, statistics)
        _check_whole(traced.program)
        return rewrite_in_place(traced, plan)
    parts = Parts(progress, {"merge": MERGING * (adapters == "merge"), **SHARES})
    parts.part("merge")
    traced = dense_model(traced)
    if adapters == "merge":
        traced, plan = merge_adapters(traced, plan)
    program, inference = traced.program, traced.inference
    keep = plan.keep(traced)
    _check_whole(program)
    parts.part("cut")
    clock = [time.perf_counter()]
    masks = parameter_masks(inference, keep)
    tensors: dict[str, Tensor] = {}
    for name, info in program.table.items():
        original = program.tensor(name)
        cut = slice_tensor(original.detach(), masks.get(name, [None] * len(info.shape)))
        tensors[name] = nn.Parameter(cut, original.requires_grad) if isinstance(original, nn.Parameter) else cut
    for name in inference.parameter_dims.keys() - program.table.keys():
        tensors[name] = slice_tensor(program.tensor(name), masks.get(name, ()))
    graph = recompute_shapes(program, inference, keep, tensors)
    module, module_error = None, "it was not asked for"
    if statistics == "masked" and keep.keys() & inference.solver.statistics.keys():
        rescale_statistics(program, inference, keep, graph)
        plan = replace(plan, about={**plan.about, "statistics": statistics})
        module_error = "its norms count what is kept, not the zeros of the masked model"
    elif is_captured(program.module):
        module_error = "it was traced from a graph of operators, which has no modules"
    elif module_form:
        try:
            module = patch_modules(program, inference, traced.groups, keep, tensors)
        except GraphPruneError as error:
            module_error = str(error)
    clock.append(time.perf_counter())
    parts.part("slices")
    check_slices(program, masks, {name: tensors[name] for name in tensors if name in program.table})
    check = prepare_check(program, inference, keep, statistics=statistics, progress=parts.part("masked"))
    report = None
    if check is not None:
        graph_error = check_graph(check, graph, parts.part("graph form"))
        module_difference = None
        if module is not None:
            try:
                module_difference = check_module(check, module, graph_error, parts.part("module form"))
            except VerificationError as error:
                module, module_error = None, str(error)
        clock.append(time.perf_counter())
        report = VerifyReport(
            dtype=str(check.dtype or "the model's own types").removeprefix("torch."),
            tolerance=check.tolerance,
            effect=check.effect,
            graph_error=graph_error,
            module_error=module_difference,
            seconds=dict(zip(("rewrite", "verify"), (b - a for a, b in pairwise(clock)), strict=True)),
        )
    parts.end()
    return CompactModel(
        graph,
        plan,
        report,
        module,
        None if module is not None else module_error,
        traced.parameter_count,
        origin_of(program, module),
    )


SHARES = {"cut": 4, "slices": 2, "masked": 64, "graph form": 16, "module form": 14}
MERGING = 20
"""The parts of a rewrite, as SmolLM2-135M takes its time with them."""


def _check_for_in_place(traced: TracedModel, adapters: str, module_form: bool, statistics: str) -> None:
    if adapters == "merge":
        raise RewriteError("in_place=True keeps adapters: merge them into the model before it is traced")
    if not module_form or statistics == "masked":
        raise RewriteError('in_place=True makes a module form: leave out module_form=False and statistics="masked"')
    if traced.stored is not None:
        raise RewriteError("weights in few bits can't be cut in place: use in_place=False")
    if is_captured(traced.program.module):
        raise RewriteError("a graph of operators has no modules to cut in place: use in_place=False")


def _check_whole(program: Program) -> None:
    for name, info in program.table.items():
        if tuple(program.tensor(name).shape) != info.shape:
            raise RewriteError(
                f"{name} has another shape than when the model was traced: trace it again, or call compact() of what "
                "cut it while it was trained"
            )

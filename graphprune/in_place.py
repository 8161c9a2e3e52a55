"""Cut the module that was traced itself: from a model to the pruned one in the memory of the model.

1. The outputs on the inputs that the module was traced with are noted, and a compact module that holds views of the
   dense one is run on them: what can be refused is refused before a change.
2. The outputs with zeros written over what goes are noted.
3. Each parameter and buffer becomes its kept slice, and stays the same object; what it held is freed before the next,
   or takes the slice in (see ``passes/cut_in_place.py``).
4. The outputs of the cut module, and of its graph, are compared with the masked ones, in the model's own types.

As in :mod:`.passes.verify` tensors in which a wrong slice could not be seen have noise while this runs; they get their
values back.

::

    mlp.up_proj.weight    [1536, 576]  ->  [1100, 576]      the same nn.Parameter in the module and in both graphs
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from .compact import CompactModel
from .errors import RewriteError, VerificationError
from .masks import Keep
from .origin import origin_of
from .passes.cut_in_place import cut_tensor_
from .passes.patch_modules import Counted, counted_axes, patch_modules, set_sizes, without_values
from .passes.random_draws import CutDraws, Made, cut_draws
from .passes.recompute_shapes import recompute_shapes
from .passes.slice_parameters import (
    DimMasks,
    is_constant,
    is_zero_where_masked,
    parameter_masks,
    positions_of,
    slice_tensor,
    zero_masked_,
    zeroing_masks,
)
from .passes.verify import (
    NOISE,
    TOLERANCE,
    VerifyReport,
    allowed,
    check_captured,
    check_effect,
    cut_statistics,
    difference,
    rounding_of,
    run_graph,
    run_module,
)
from .plan import PruningPlan
from .program import Inference, Program, fetch
from .quiet import first_line
from .traced import TracedModel


def rewrite_in_place(traced: TracedModel, plan: PruningPlan) -> CompactModel:
    """Cut the traced module to what a plan keeps, and verify it against what it was with zeros there.

    Raises:
        PlanError: the plan is for another model; the module is as it was.
        RewriteError: it can't be cut in place, or has no module form; it is as it was.
        VerificationError: it does not compute what the masked module computed; the message says if it was changed.
    """
    program, inference = traced.program, traced.inference
    keep = plan.keep(traced)
    masks = parameter_masks(inference, keep)
    inside = {name: rows for name, rows in masks.items() if name in program.table}
    _check_can_be_cut(program, inside)
    clock = [time.perf_counter()]
    dense = without_values(program)
    counted = counted_axes(inference, traced.groups)
    tensors = {name: program.tensor(name) for name in program.table}
    for name in inference.parameter_dims.keys() - program.table.keys():
        tensors[name] = slice_tensor(program.tensor(name), masks.get(name, ()))
    graph = recompute_shapes(program, inference, keep, tensors)
    clock.append(time.perf_counter())
    report = None
    if any(tensor.is_meta for tensor in tensors.values()):
        expected = _dense_shapes(program)
        if expected is not None:
            _rehearse(traced, keep, inside, counted, expected)
        _cut(program, inside)
        set_sizes(program.module, inference, counted, keep, dense)
    else:
        with _probed(program, inside):
            dense_outputs = _dense_outputs(program)
            _rehearse(traced, keep, inside, counted, [each.shape for each in dense_outputs])
            with _changing():
                reference = _masked_outputs(dense_outputs, program, inference, keep, inside)
                clock.append(time.perf_counter())
                _cut(program, inside)
                set_sizes(program.module, inference, counted, keep, dense)
                clock.append(time.perf_counter())
                draws = reference.draws
                module_error = _checked("module", reference, run_module(program, program.module, {}, None, draws=draws))
                graph_error = _checked("graph", reference, run_graph(program, graph, {}, None, draws=draws))
        clock.append(time.perf_counter())
        prepared, noted, cut, checked = (b - a for a, b in pairwise(clock))
        report = VerifyReport(
            dtype="the model's own types",
            tolerance=reference.tolerance,
            effect=reference.effect,
            graph_error=graph_error,
            module_error=module_error,
            seconds={"rewrite": prepared + cut, "verify": noted + checked},
        )
    origin = origin_of(replace(program, module=dense), program.module)
    return CompactModel(graph, plan, report, program.module, None, traced.parameter_count, origin)


@dataclass(frozen=True)
class Reference:
    """What the masked module and its graph compute, and by how much the pruned units mattered."""

    module: list[Tensor]
    graph: list[Tensor]
    tolerance: float
    effect: float
    draws: CutDraws


def _check_can_be_cut(program: Program, masks: Mapping[str, DimMasks]) -> None:
    """Guard against tensors that are not plain ones, or that lie in each other's memory.

    Raises:
        RewriteError: there is one; it is named.
    """
    for name in masks:
        tensor = program.tensor(name)
        kinds = [type(tensor), type(tensor.data)]
        kind = next((kind for kind in kinds if kind not in (Tensor, nn.Parameter)), None)
        if kind is not None:
            raise RewriteError(f"{name} is a {kind.__name__}, which can't be cut in place: use in_place=False")
    places: list[tuple[str, int, int, str]] = []
    for name in program.table:
        tensor = program.tensor(name)
        if type(tensor.data) is Tensor and tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta:
            reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            start = tensor.data_ptr()
            places.append((str(tensor.device), start, start + (reach + 1) * tensor.element_size(), name))
    widest: tuple[str, int, str] = ("", 0, "")
    for device, start, end, name in sorted(places):
        if device == widest[0] and start < widest[1] and (name in masks or widest[2] in masks):
            raise RewriteError(
                f"{name} lies in the memory of {widest[2]}, so they can't be cut in place one by one: use "
                "in_place=False"
            )
        widest = max(widest, (device, end, name), key=lambda each: (each[0] == device, each[1]))


def _rehearse(
    traced: TracedModel,
    keep: Keep,
    masks: Mapping[str, DimMasks],
    counted: Mapping[str, Counted],
    expected: list[torch.Size],
) -> None:
    """Run the compact module with the first units of what is cut, which are views and take no memory.

    Raises:
        RewriteError: it does not run, or its outputs have other shapes.
    """
    program = traced.program
    tensors = {name: program.tensor(name).detach() for name in program.table}
    tensors |= {name: _first_positions(tensors[name], rows) for name, rows in masks.items()}
    compact = patch_modules(program, traced.inference, traced.groups, keep, tensors, counted)
    way_out = 'the model is as it was; use in_place=False, or gp.select(form="module")'
    try:
        found = _shapes(program, compact)
    except Exception as error:
        reason = first_line(error)
        raise RewriteError(f"the module form does not run ({reason}); {way_out}") from error
    if found != expected:
        raise RewriteError(f"the outputs of the module form have other shapes; {way_out}")


def _first_positions(tensor: Tensor, masks: DimMasks) -> Tensor:
    """A view of as many positions of each dim as its mask keeps."""
    for dim, mask in enumerate(masks):
        if mask is not None:
            tensor = tensor.narrow(dim, 0, int(mask.sum()))
    return tensor


def _dense_shapes(program: Program) -> list[torch.Size] | None:
    """The shapes of the outputs of a module without values; None where its forward looks at values."""
    try:
        return _shapes(program, program.module)
    except Exception:  # whatever a forward does with them
        return None


def _shapes(program: Program, module: nn.Module) -> list[torch.Size]:
    """The shapes of the outputs of a module, which may have no values."""
    if not any(fetch(module, name).is_meta for name in program.table):
        return [each.shape for each in run_module(program, module, {}, None)]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def faked(value: Any) -> Any:
            return mode.from_tensor(value) if isinstance(value, Tensor) else value

        args, kwargs = tree_map(faked, (program.args, dict(program.kwargs)))
        values = {name: torch.empty_like(fetch(module, name)) for name in program.table}
        for info in program.table.values():
            values |= dict.fromkeys(info.aliases, values[info.name])
        return [each.shape for each in run_module(replace(program, args=args, kwargs=kwargs), module, values, None)]


@contextmanager
def _probed(program: Program, masks: Mapping[str, DimMasks]) -> Iterator[None]:
    """Within the context tensors that are constant, or zero where they are cut, have noise there.

    Afterwards constant ones have their value again, also where they were cut.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(shape: torch.Size, like: Tensor) -> Tensor:
        return NOISE * torch.randn(shape, generator=generator).to(like)

    constant: dict[str, Tensor] = {}
    empty: list[str] = []
    try:
        for name, rows in masks.items():
            tensor = program.tensor(name).detach()
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            if is_constant(tensor):
                constant[name] = tensor[(0,) * tensor.ndim].clone()
                tensor.add_(noise(tensor.shape, tensor))
            elif is_zero_where_masked(tensor, rows):
                empty.append(name)
                for dim, row in enumerate(rows):
                    if row is not None:
                        gone = positions_of(~row, tensor)
                        tensor.index_copy_(dim, gone, noise(tensor.index_select(dim, gone).shape, tensor))
        yield
    finally:
        for name, value in constant.items():
            program.tensor(name).detach().fill_(value)
        for name in empty:
            tensor = program.tensor(name).detach()
            if tuple(tensor.shape) == program.table[name].shape:
                zero_masked_(tensor, masks[name])


@contextmanager
def _changing() -> Iterator[None]:
    """Whatever goes wrong within the context is said to have left a changed model.

    Raises:
        VerificationError: something went wrong.
    """
    try:
        yield
    except Exception as error:
        raise VerificationError(
            f"{first_line(error)}; the model itself was changed and must be loaded again, and can be cut with "
            "in_place=False"
        ) from error


def _dense_outputs(program: Program) -> list[Tensor]:
    """What the module computes as it is.

    Raises:
        VerificationError: its graph computes something else.
    """
    run = partial(run_module, program, program.module, {}, None)
    outputs, tolerance = run(), max(TOLERANCE, rounding_of(program.module))
    check_captured(outputs, run_graph(program, program.graph, {}, None), tolerance, run)
    return outputs


def _masked_outputs(
    dense: list[Tensor], program: Program, inference: Inference, keep: Keep, masks: Mapping[str, DimMasks]
) -> Reference:
    """What the module computes once zeros are written over what goes; they are written here, and ``dense`` is emptied.

    Raises:
        VerificationError: it computes what it computed before, so that the check could not fail.
    """
    counted = cut_statistics(program, inference, keep)
    for name, rows in zeroing_masks(inference, masks).items():
        if not program.table[name].is_buffer:
            zero_masked_(program.tensor(name).detach(), rows)
    made: Made = []
    run = partial(run_graph, program, program.graph, {}, None, statistics=counted, made=made)
    # no module takes its statistics over kept units only: a graph does, and stands for both forms
    module = run() if counted else run_module(program, program.module, {}, None)
    effect = difference(dense, module)
    if masks:
        check_effect(effect, None)
    dense.clear()  # logits are large, and are not held three times at once
    graph = module if counted else run()
    rounding = max(rounding_of(program.module), TOLERANCE if counted else 0.0)
    return Reference(module, graph, allowed(rounding, effect), effect, cut_draws(made, inference, keep))


def _cut(program: Program, masks: Mapping[str, DimMasks]) -> None:
    for name, rows in masks.items():
        cut_tensor_(program.tensor(name), rows)


def _checked(form: str, reference: Reference, outputs: list[Tensor]) -> float:
    """The difference of a form of the cut model from the masked one.

    Raises:
        VerificationError: it is more than rounding.
    """
    worst = difference(reference.module if form == "module" else reference.graph, outputs)
    if not worst <= reference.tolerance:
        raise VerificationError(f"the {form} form differs from the masked model by {worst:.1e}")
    return worst

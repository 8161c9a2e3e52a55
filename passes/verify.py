"""Show that a compact model computes what the masked original computes.

1. The compact tensors are the kept slices of the original ones, to the bit.
2. The original with zeros in place of the pruned units gives the same outputs as the compact model, on the inputs that
   the model was traced with, in float64 where it fits: also inside a module that insists on float32, whose rounding
   would hide small mistakes and look like one. Halves that do not fit are widened to float32 call by call.
3. Where a statistic is taken over an axis that is cut, it counts what is kept: the reference takes it so too.
4. The check can fail: zeros in place of the pruned units change the outputs of the original.
5. Random numbers that the model draws are the same in each run (:mod:`.random_draws`).

Where a wrong slice could not be seen, since a parameter is constant (the zeros of a fresh adapter, the ones of a norm)
or zero in its pruned part, the check runs on a probe of it with noise added, the same in both models. Where the pruned
units change nothing, parameters that are zero beside them get noise too: a norm or a convolution at the end of a branch
that begins as nothing hides what comes before it. If that is not it, parameters get other signs, a few times: the ReLU
at the end of a fresh model may be off for all inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import psutil
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..axes import Axis, atoms
from ..errors import VerificationError
from ..masks import Keep, SlotOutsideError, broadcast_masks, keep_mask
from ..program import Inference, Program, copied_call, fetch, has, location, unwritten
from ..progress import Parts, Progress, Watched, calls_counted
from ..quiet import first_line
from ..rules import Dims
from ..rules.registry import bound_arguments
from ..rules.statistics import Masks, reference_of
from ..tables import facts_table, to_html
from .random_draws import CutDraws, Made, SeededDraws, cut_draws, drawing
from .restore_attributes import attributes_restored
from .restore_caches import caches_restored
from .slice_parameters import (
    DimMasks,
    is_constant,
    is_zero_where_masked,
    parameter_masks,
    positions_of,
    slice_tensor,
    zero_masked,
    zeroing_masks,
)
from .trace import inference_mode_of

Record = Callable[[fx.Node, Any], None]

FLOAT64_TOLERANCE = 1e-6
TOLERANCE = 1e-4
HALF_TOLERANCE = 5e-2
"""Largest difference that is put down to rounding in a type, relative to the largest value of an output."""

FLOAT64_DEVICES = ("cuda", "xpu")
"""The accelerators that compute in float64 and tell of their free memory."""

WIDENED = torch.float32
"""What halves become, call by call, where the model does not fit in float64; a copy of it need not fit then."""

SAME = 1e-9
"""The same where two forms hold the same float64 tensors and should make the same calls."""

NOISE = 0.05

SIGNS_TRIED = 4
"""So often the signs of parameters are drawn where the pruned units change nothing."""

COMPARED = 1 << 16
"""So many numbers of two outputs are compared at a time: copies of all logits would take more than a layer does."""


@dataclass(frozen=True)
class VerifyReport:
    """What a verification saw.

    ``graph_error`` and ``module_error`` are the largest differences between the masked original and the two forms of
    the compact model, relative to the largest output; ``effect`` is the same between the original and the masked one.
    """

    dtype: str
    tolerance: float
    effect: float
    graph_error: float | None
    module_error: float | None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        forms = {"graph": self.graph_error, "module": self.module_error}
        errors = ", ".join(f"{form} form differs by {error:.1e}" for form, error in forms.items() if error is not None)
        return f"{errors} from the masked model ({self.dtype}); the pruned units matter by {self.effect:.1e}"

    def facts(self) -> dict[str, str]:
        """What was seen, by name, for a table."""
        forms = {"graph": self.graph_error, "module": self.module_error}
        found = {f"difference of the {form} form": f"{e:.1e}" for form, e in forms.items() if e is not None}
        more = {"allowed": f"{self.tolerance:.1e}", "effect of the pruned units": f"{self.effect:.1e}"}
        return {**found, **more, "computed in": self.dtype}

    def _repr_html_(self) -> str:
        """For a notebook."""
        return to_html(facts_table(self.facts()), "Compared with the masked model, relative to its largest output")


@dataclass(frozen=True)
class Check:
    """Everything that a verification compares against: built once, used for each form of the compact model."""

    program: Program
    inference: Inference
    keep: Keep
    masks: Mapping[str, DimMasks]
    dtype: torch.dtype | None
    """None keeps the types of the model."""

    dense: list[Tensor]
    masked: list[Tensor]
    """Outputs of the module with zeros in place of the pruned units."""

    masked_graph: list[Tensor]
    """The same from its graph."""

    sliced: Mapping[str, Tensor]
    """The kept slices of the probes, but for those that are the parameters themselves: the compact model has these."""

    masked_tensors: Mapping[str, Tensor]
    statistics: Mapping[str, Masks]
    """For each call, by its name, that takes a statistic over an axis that is cut: the masks of its input's dims."""

    draws: CutDraws
    """The random numbers of which something goes."""

    @property
    def tolerance(self) -> float:
        return allowed(rounding_of(self.program.module, self.dtype), self.effect)

    @cached_property
    def effect(self) -> float:
        return difference(self.dense, self.masked)


def allowed(rounding: float, effect: float) -> float:
    """The largest difference that is put down to rounding, where zeros in place of the pruned units make ``effect``.

    It is no more than a tenth of that: a check in which something cut wrongly would be rounding could not fail. Of
    halves, whose rounding may make a tenth of it, that is not asked.
    """
    return rounding if rounding >= HALF_TOLERANCE else min(rounding, effect / 10)


def rounding_of(module: nn.Module, dtype: torch.dtype | None = None) -> float:
    """The largest difference between two ways to run a module that is put down to rounding, in a type or in its own."""
    if dtype is not None:
        return rounding_in(dtype)
    types = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    return max(map(rounding_in, types), default=TOLERANCE)


def rounding_in(dtype: torch.dtype) -> float:
    """The same for a type."""
    return {torch.float64: FLOAT64_TOLERANCE, torch.float32: TOLERANCE}.get(dtype, HALF_TOLERANCE)


SHARES = {"tensors": 21, "dense": 29, "masked": 26, "graph": 24}
"""The parts of preparing a check, as SmolLM2-135M takes its time with them."""


def prepare_check(
    program: Program,
    inference: Inference,
    keep: Keep,
    *,
    statistics: Literal["kept", "masked"] = "kept",
    progress: Progress | None = None,
) -> Check | None:
    """Run the original, dense and masked. None where the model has no values (it is on the meta device).

    Raises:
        VerificationError: the masked original does not run, or masking changes nothing, so that the check could not
            fail.
    """
    if any(program.tensor(name).is_meta for name in inference.parameter_dims):
        return None
    masks = parameter_masks(inference, keep)
    zeroed = zeroing_masks(inference, masks)
    generator = torch.Generator().manual_seed(0)
    parts = Parts(progress, SHARES)
    ways = [_Way(dtype) for dtype in types_to_check(program)]
    while ways:
        way = ways.pop(0)
        dtype = way.dtype
        own = {name: _cast(program.tensor(name), dtype) for name in (*masks, *way.beside)}
        probes = {
            name: _probe(own[name], masks.get(name, ()), generator)
            for name in Watched(list(own), parts.part("tensors"))
        }
        if way.signs:
            probes |= _other_signs(program, dtype, probes, torch.Generator().manual_seed(way.signs))
        masked = {
            name: zero_masked(probe, zeroed[name]) if name in zeroed and not _is_buffer(program, name) else probe
            for name, probe in probes.items()
        }
        try:
            dense_outputs = run_module(program, program.module, probes, dtype, parts.part("dense"))
            masked_outputs = run_module(program, program.module, masked, dtype, parts.part("masked"))
            values = _graph_values(program, inference, masked, dtype)
            made: Made = []
            graph_outputs = run_graph(program, program.graph, values, dtype, progress=parts.part("graph"), made=made)
            tolerance = TOLERANCE if dtype is not None else rounding_of(program.module)
            again = partial(run_module, program, program.module, masked, dtype)
            check_captured(masked_outputs, graph_outputs, tolerance, again)
        except VerificationError:
            if dtype is not None:
                continue  # the least number of its own type stands in the graph: check it in that
            raise
        except Exception as error:
            if dtype is not None:
                continue  # the model mixes in types of its own, or insists on one: check it in its own types
            raise VerificationError(
                "with zeros in place of the pruned units the model does not run as it was captured, since they change "
                f"the way that it takes ({first_line(error)}); trace a part of it that takes one way"
            ) from error
        sliced = {
            name: slice_tensor(probe, masks.get(name, ()))
            for name, probe in probes.items()
            if probe is not own.get(name) or dtype not in (None, WIDENED)
        }
        counted = cut_statistics(program, inference, keep) if statistics == "kept" else {}
        if counted:
            # no module takes its statistics over kept units only: a graph does, and stands for both forms
            graph_outputs = masked_outputs = run_graph(program, program.graph, values, dtype, statistics=counted)
        check = Check(
            program,
            inference,
            keep,
            masks,
            dtype,
            dense_outputs,
            masked_outputs,
            graph_outputs,
            sliced,
            masked,
            counted,
            cut_draws(made, inference, keep),
        )
        if masks and not matters(check.effect, dtype):
            hiding = [] if way.beside or way.signs else _zeros_beside(program, masks)
            if hiding or way.signs < SIGNS_TRIED:
                ways.insert(0, _Way(dtype, hiding) if hiding else _Way(dtype, way.beside, way.signs + 1))
                continue
            check_effect(check.effect, dtype)
        parts.end()
        return check
    raise AssertionError("unreachable: the last type is the model's own")


@dataclass(frozen=True)
class _Way:
    """In which type a check is made, which zeros have noise, and from which seed signs are drawn, if from any."""

    dtype: torch.dtype | None
    beside: Sequence[str] = ()
    signs: int = 0


def check_captured(
    module: list[Tensor], graph: list[Tensor], tolerance: float, again: Callable[[], list[Tensor]]
) -> None:
    """A module and its graph compute the same; ``again`` runs the module once more.

    Raises:
        VerificationError: they do not.
    """
    if len(module) != len(graph):
        raise VerificationError(
            f"the model returns {len(module)} tensors, and {len(graph)} while it is captured: trace it without asking "
            "for those that it leaves out there (output_hidden_states, output_attentions)"
        )
    captured = difference(module, graph)
    if not captured <= tolerance:
        why = (
            "goes another way while it is captured, as where it asks whether it is being compiled"
            if difference(module, again()) <= tolerance
            else "computes something else at each call"
        )
        raise VerificationError(
            f"the captured graph differs from the module itself by {captured:.1e}, which {why}; trace the sub-module "
            "that holds what you want to prune"
        )


def check_effect(effect: float, dtype: torch.dtype | None) -> None:
    """Zeros in place of the pruned units change what the model computes.

    Raises:
        VerificationError: they do not.
    """
    if not matters(effect, dtype):
        raise VerificationError(
            "zeroing the pruned units does not change what the model computes on the inputs that it was traced with, "
            "so nothing could be verified: trace it with longer or more varied inputs"
        )


def matters(effect: float, dtype: torch.dtype | None) -> bool:
    """Whether a difference of outputs in a type, or in the model's own ones, is more than rounding can make."""
    return effect > 10 * torch.finfo(dtype or torch.float32).eps


def check_slices(program: Program, masks: Mapping[str, DimMasks], tensors: Mapping[str, Tensor]) -> None:
    """Every compact tensor is the kept slice of the original one, to the bit.

    Raises:
        VerificationError: one is not; the message names it.
    """
    for name, tensor in tensors.items():
        original = program.tensor(name).detach()
        expected = slice_tensor(original, masks[name]) if name in masks else original
        if expected.is_meta:
            if expected.shape != tensor.shape:
                raise VerificationError(
                    f"{name} has shape {list(tensor.shape)}, but its kept slice {list(expected.shape)}"
                )
        elif not _equal(expected, tensor.detach().to(expected.device)):
            raise VerificationError(f"{name} of the compact model is not the kept slice of the original")


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same, also sparse ones."""
    return torch.equal(*(each if each.layout == torch.strided else each.to_dense() for each in (a, b)))


def check_graph(check: Check, compact: fx.GraphModule, progress: Progress | None = None) -> float:
    """The difference of the graph form from the masked original.

    Raises:
        VerificationError: it is more than rounding; the message names the first call that disagrees.
    """
    values = {
        name: check.sliced[name] if name in check.sliced else _cast(fetch(compact, name), check.dtype)
        for name in _attributes(compact)
    }
    try:
        outputs = run_graph(check.program, compact, values, check.dtype, progress=progress, draws=check.draws)
    except Exception as error:
        raise VerificationError(f"the graph form does not run: {first_line(error)}") from error
    worst = difference(check.masked_graph, outputs)
    if not worst <= check.tolerance:
        where = _first_disagreement(check, compact, values)
        raise VerificationError(f"the graph form differs from the masked model by {worst:.1e}, first at {where}")
    return worst


def check_module(check: Check, compact: nn.Module, graph_error: float, progress: Progress | None = None) -> float:
    """The difference of the module form from the masked original.

    ``graph_error`` is that of the graph form, which makes the same calls: one that is a hundred times as large comes
    from other calls, even if weights with little effect let it be small.

    Raises:
        VerificationError: it does not run, or differs by more than rounding.
    """
    try:
        outputs = run_module(check.program, compact, check.sliced, check.dtype, progress, check.draws)
    except Exception as error:
        raise VerificationError(f"the module form does not run: {first_line(error)}") from error
    worst = difference(check.masked, outputs)
    eps = torch.finfo(check.dtype or torch.float32).eps
    if not worst <= min(check.tolerance, 100 * max(graph_error, 10 * eps)):
        raise VerificationError(f"the module form differs from the masked model by {worst:.1e}")
    return worst


def same_values(
    program: Program, make_graph: Callable[[], fx.GraphModule], module: nn.Module, dtype: torch.dtype | None
) -> bool:
    """Whether a graph form and a module form that hold the same tensors compute the same from them.

    ``dtype`` is the type to run in, None for the model's own. One that fails does not; the graph, which takes longer to
    make than to run, is made only for a module that runs.
    """
    try:
        found = run_module(program, module, {}, dtype)
        compact = make_graph()
        values = {name: _cast(fetch(compact, name), dtype) for name in _attributes(compact)}
        expected = run_graph(program, compact, values, dtype)
    except Exception:  # whatever a forward finds wrong with its shapes or types
        return False
    return difference(expected, found) <= (SAME if dtype == torch.float64 else TOLERANCE)


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference between two lists of tensors, relative to the largest value; infinite if shapes differ.

    Numbers so large that they only mark places, infinite ones and the least of a type, have to be at the same places
    and of the same sign.
    """
    if [each.shape for each in expected] != [each.shape for each in found]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if not a.numel():
            continue
        if not a.is_floating_point():
            worst = worst if torch.equal(a, b) else float("inf")
            continue
        gap = largest = 0.0
        marks = min(MARK, torch.finfo(a.dtype).max / 2)
        for x, y in zip(a.reshape(-1).split(COMPARED), b.reshape(-1).split(COMPARED), strict=True):
            x, y = x.double(), y.to(x.device).double()
            is_value = x.abs() < marks
            if not torch.equal(is_value, y.abs() < marks):
                return float("inf")
            if not is_value.all():
                if not torch.equal(*(each[~is_value].sign().nan_to_num(2) for each in (x, y))):
                    return float("inf")
                x, y = x[is_value], y[is_value]
            if x.numel():
                gap = max(gap, float((x - y).abs_().max()))
                largest = max(largest, float(x.abs().max()))
        worst = max(worst, gap / max(largest, 1e-30))
    return worst


MARK = 1e30
"""A size from which a number is no value that a model computes: masks hold the least number of float32, -3e38."""


def types_to_check(program: Program) -> list[torch.dtype | None]:
    """The types to check in, the best first: None, the model's own ones, is the last.

    float64 where the model fits (:func:`fits_in_float64`), and float32 for a model with halves.
    """
    tensors = [fetch(program.module, name) for name in program.table]
    devices = {tensor.device for tensor in tensors}
    found: list[torch.dtype | None] = [None]
    if any(tensor.is_floating_point() and tensor.dtype.itemsize < WIDENED.itemsize for tensor in tensors):
        found.insert(0, WIDENED)
    if len(devices) == 1 and fits_in_float64(sum(info.numel for info in program.table.values()), *devices):
        found.insert(0, torch.float64)
    return found


def fits_in_float64(numbers: int, device: torch.device) -> bool:
    """Whether three copies of a model of so many numbers fit into half of the free memory of a device."""
    return 3 * 8 * numbers < _free_bytes(device) / 2


def _free_bytes(device: torch.device) -> int:
    """Free memory for float64 on a device; 0 where it can't be told, or there is no such type."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)  # what the cache of files holds is free for the asking
    return torch.accelerator.get_memory_info(device)[0] if device.type in FLOAT64_DEVICES else 0


def _is_buffer(program: Program, name: str) -> bool:
    return name not in program.table or program.table[name].is_buffer


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    wide = dtype not in (None, WIDENED) and tensor.is_floating_point()  # what is widened is so in each call
    return tensor.detach().to(dtype) if wide else tensor.detach()


def _zeros_beside(program: Program, masks: Mapping[str, DimMasks]) -> list[str]:
    """The parameters of which nothing goes that are zero, and may hide what comes before them."""
    kept = {
        name: program.tensor(name) for name, info in program.table.items() if name not in masks and not info.is_buffer
    }
    return [
        name for name, tensor in kept.items() if tensor.is_floating_point() and tensor.numel() > 1 and not tensor.any()
    ]


def _other_signs(
    program: Program, dtype: torch.dtype | None, probes: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Every parameter, or the probe of it, with a sign that is drawn."""
    return {
        name: tensor if torch.rand((), generator=generator) < 0.5 else -tensor
        for name, info in program.table.items()
        if not info.is_buffer
        for tensor in [probes[name] if name in probes else _cast(program.tensor(name), dtype)]
        if tensor.is_floating_point()
    }


def _probe(tensor: Tensor, masks: DimMasks, generator: torch.Generator) -> Tensor:
    """The tensor itself, or one with noise where a wrong slice of it could not be seen."""
    if not tensor.is_floating_point():
        return tensor
    if is_constant(tensor):
        return tensor + NOISE * torch.randn(tensor.shape, generator=generator).to(tensor)
    if is_zero_where_masked(tensor, masks):
        return put_noise_(tensor.clone(), masks, generator)
    return tensor


def put_noise_(tensor: Tensor, masks: DimMasks, generator: torch.Generator) -> Tensor:
    """Noise at the positions of a tensor that go, where it has zeros, in the tensor itself."""
    for dim, mask in enumerate(masks):
        if mask is not None:
            gone = positions_of(~mask, tensor)
            shape = (*tensor.shape[:dim], len(gone), *tensor.shape[dim + 1 :])
            tensor.index_copy_(dim, gone, NOISE * torch.randn(shape, generator=generator).to(tensor))
    return tensor


def cast_parameters(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The parameters of a module in a type, by their first names; those that have it are in the same memory."""
    return {name: _cast(parameter, dtype) for name, parameter in module.named_parameters()}


def _inputs(program: Program, dtype: torch.dtype | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def cast(value: Any) -> Any:
        return _cast(value, dtype) if isinstance(value, Tensor) else value

    return tree_map(cast, program.args), tree_map(cast, dict(program.kwargs))


def run_module(
    program: Program,
    module: nn.Module,
    replaced: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    progress: Progress | None = None,
    draws: CutDraws | None = None,
) -> list[Tensor]:
    """The outputs of a module, in eval mode, with some tensors replaced and all cast.

    ``draws`` are the random numbers of which something goes in this module.
    """

    firsts = {id(tensor): name for name, tensor in (*module.named_buffers(), *module.named_parameters())}
    cast: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    # each place once, though a module may have several paths: torch would take what it put there for the original
    for path, child in module.named_modules():
        for own, tensor in (*child._buffers.items(), *child._parameters.items()):
            if tensor is None:
                continue
            first = firsts[id(tensor)]
            if first not in cast:
                value = replaced[first] if first in replaced else _cast(tensor, dtype)
                # no other tensor: in place of one a forward that parametrises it, as peft's does, leaves a buffer
                cast[first] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
            values[f"{path}.{own}" if path else own] = cast[first]
    args, kwargs = _inputs(program, dtype)
    promoting = nullcontext() if dtype is None else _Promoting(dtype)
    # torch.cond compiles itself, and what it compiles within a dispatch mode keeps it from being captured again
    with (
        attributes_restored(module),
        caches_restored(),
        inference_mode_of(module),
        torch.compiler.set_stance("force_eager"),
        promoting,
        drawing(program, draws),
        calls_counted(module, progress),
    ):
        return _tensors(torch.func.functional_call(module, values, args, kwargs, tie_weights=False))


class _Promoting(TorchDispatchMode):
    """Runs every call with ``dtype`` in place of the floating types that it names: ``.float()`` changes nothing.

    Arguments of narrower types become that too (halves that were not cast, tables that are no buffers), but for those
    that the call writes to or gives a view of, and so does what is made of no tensor: it may be written to.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype
        self.supports_higher_order_operators = True  # or torch.cond raises; within its branches types stay as named

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # types are arguments of operators by themselves, never in lists
        args, kwargs = tuple(map(self._promote, args)), {name: self._promote(a) for name, a in (kwargs or {}).items()}
        shared, widen = _shared(func), partial(widened, dtype=self.dtype)
        made = not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        args = tuple(a if at in shared else tree_map(widen, a) for at, a in enumerate(args))
        kwargs = {name: a if name in shared else tree_map(widen, a) for name, a in kwargs.items()}
        result = func(*args, **kwargs)
        return tree_map(widen, result) if made else result

    def _promote(self, value: Any) -> Any:
        return self.dtype if isinstance(value, torch.dtype) and value.is_floating_point else value


def widened(value: Any, dtype: torch.dtype) -> Any:
    """A tensor of a narrower floating type in this one, and anything else as it is."""
    narrow = isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize < dtype.itemsize
    return value.to(dtype) if narrow else value


def _shared(operator: Any) -> set[int | str]:
    """The arguments that an operator writes to or gives a view of, by position and by name."""
    arguments = operator._schema.arguments if isinstance(operator, torch._ops.OpOverload) else ()
    shared = [(at, a.name) for at, a in enumerate(arguments) if a.alias_info is not None]
    return {each for pair in shared for each in pair}


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _attributes(graph: fx.GraphModule) -> list[str]:
    named = dict.fromkeys(node.target for node in graph.graph.nodes if node.op == "get_attr")
    return [name for name in named if has(graph, name)]


def _promoted(graph: fx.GraphModule, dtype: torch.dtype | None) -> fx.GraphModule:
    """The graph with every floating type that its calls name replaced by ``dtype``."""
    if dtype is None:
        return graph

    def promote(value: Any) -> Any:
        return dtype if isinstance(value, torch.dtype) and value.is_floating_point else value

    copied = unwritten(graph, _copy(graph.graph))
    for node in copied.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, promote)
        node.kwargs = fx.node.map_aggregate(node.kwargs, promote)
    for name, inner in list(copied.named_children()):
        if isinstance(inner, fx.GraphModule):
            setattr(copied, name, _promoted(inner, dtype))
    return copied


def _copy(graph: fx.Graph) -> fx.Graph:
    copied = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = copied_call(node, copied, copies.__getitem__)
    copied.set_codegen(graph._codegen)
    return copied


class _Substituted(fx.Interpreter):
    """Runs a graph with other values for its attributes."""

    def __init__(
        self,
        graph: fx.GraphModule,
        values: Mapping[str, Tensor],
        record: Record | None = None,
        statistics: Mapping[str, Masks] | None = None,
        progress: Progress | None = None,
        draws: SeededDraws | None = None,
    ):
        super().__init__(graph)
        self.draws = draws
        self.progress = progress
        self.done, self.total = 0, len(graph.graph.nodes)
        self.values = values
        self.record = record
        self.statistics = statistics or {}

    def fetch_attr(self, target: str) -> Any:
        return self.values[target] if target in self.values else super().fetch_attr(target)

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run with the arguments of the module that was traced; outputs are not packed again."""
        return self.run(*tree_leaves((args, dict(kwargs))), enable_io_processing=False)

    def run_node(self, n: fx.Node) -> Any:
        if self.draws is not None:
            self.draws.node = n
        value = self._counted(n) if n.name in self.statistics else super().run_node(n)
        if self.record is not None:
            self.record(n, value)
        if self.progress is not None:
            self.done += 1
            self.progress(self.done, self.total)
        return value

    def _counted(self, node: fx.Node) -> Any:
        """A statistic over the positions that are kept."""
        arguments = {name: self.map_nodes_to_values(value, node) for name, value in bound_arguments(node).items()}
        reference = reference_of(node)
        assert reference is not None, f"{node.target} was found to take a statistic"
        return reference(arguments, self.statistics[node.name])


def _first_disagreement(check: Check, compact: fx.GraphModule, values: Mapping[str, Tensor]) -> str:
    """The first call whose value in the compact graph is not the kept slice of its value in the masked graph."""
    program, inference = check.program, check.inference
    names = {node.name: node for node in program.graph.graph.nodes}
    expected: dict[str, Any] = {}
    found: list[str] = []

    def compare(node: fx.Node, value: Any) -> None:
        origin = names.get(node.name)
        dims = inference.dims.get(origin) if origin is not None else None
        if found or origin is None or not isinstance(value, Tensor) or not isinstance(dims, Dims):
            return
        kept = kept_slice(expected[node.name], [inference.solver.resolve(axis) for axis in dims.axes], check.keep)
        if kept is not None and difference([kept], [value]) > check.tolerance:
            found.append(f"{node.target} in {location(origin)}")

    masked = _graph_values(program, inference, check.masked_tensors, check.dtype)
    keep_value: Record = lambda node, value: expected.__setitem__(node.name, value)  # noqa: E731
    run_graph(program, program.graph, masked, check.dtype, record=keep_value, statistics=check.statistics)
    run_graph(program, compact, values, check.dtype, record=compare, draws=check.draws)
    return found[0] if found else "its outputs"


def kept_slice(value: Tensor, axes: Sequence[Axis], keep: Keep) -> Tensor | None:
    """The positions of a value that stay; None where they are no grid, since an atom keeps other units in each slot."""
    try:
        return slice_tensor(value, [keep_mask(axis, keep) for axis in axes])
    except SlotOutsideError:
        return None


def _graph_values(
    program: Program, inference: Inference, replaced: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The values of a graph's attributes with some parameters replaced and all cast."""
    return {
        target: replaced[name] if name in replaced else _cast(program.tensor(name), dtype)
        for target, name in inference.canonical.items()
        if name in inference.parameter_dims
    }


def run_graph(
    program: Program,
    graph: fx.GraphModule,
    values: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    *,
    record: Record | None = None,
    statistics: Mapping[str, Masks] | None = None,
    progress: Progress | None = None,
    draws: CutDraws | None = None,
    made: Made | None = None,
) -> list[Tensor]:
    """The outputs of a graph, in a type, on the inputs that its module was traced with.

    ``values`` are in that type already, but for those that are widened call by call. The calls named in ``statistics``
    count only the positions that the masks of their input's dims keep. ``draws`` are the random numbers of which
    something goes in this graph; those that were drawn are added to ``made``.
    """
    mode = nullcontext() if dtype is None else _Promoting(dtype)
    inputs = _inputs(program, dtype)
    if any(isinstance(inner, fx.GraphModule) for inner in list(graph.modules())[1:]):
        graph, mode = _promoted(graph, dtype), nullcontext()  # no dispatch mode goes into these
        if dtype == WIDENED:
            values, inputs = tree_map(partial(widened, dtype=dtype), (dict(values), inputs))
    args, kwargs = inputs
    with torch.no_grad(), mode, drawing(program, draws) as drawn:
        outputs = _tensors(_Substituted(graph, values, record, statistics or {}, progress, drawn).call(args, kwargs))
    if made is not None and drawn is not None:
        made += drawn.made
    return outputs


def cut_statistics(program: Program, inference: Inference, keep: Keep) -> dict[str, Masks]:
    """The calls that take a statistic over an axis of which something goes, and the masks of their input's dims.

    Raises:
        VerificationError: there is no reference for such a call, or what is kept along a dim depends on what the tensor
            does not have.
    """
    flagged = keep.keys() & inference.solver.statistics.keys()
    found: dict[str, Masks] = {}
    for node in program.graph.graph.nodes if flagged else ():
        mark = [inference.solver.statistics[atom].cause is node for atom in flagged]
        dims = inference.dims.get(node.all_input_nodes[0]) if reference_of(node) and node.all_input_nodes else None
        if isinstance(dims, Dims):
            axes = [inference.solver.resolve(axis) for axis in dims.axes]
            if any(atom.id in flagged for axis in axes for atom in atoms(axis)):
                try:
                    found[node.name] = broadcast_masks(axes, keep)
                except SlotOutsideError as error:
                    raise VerificationError(f"{node.target} takes a statistic, and {error}") from error
        elif any(mark):
            raise VerificationError(
                f"{node.target} takes a statistic over what is cut, and there is no reference for it"
            )
    return found

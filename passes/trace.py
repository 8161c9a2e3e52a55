"""Capture a module as an fx graph of ATen operators.

1. The module is exported in eval mode, without gradients and without a key/value cache, which is state and no output.
2. Higher-order operators that only set a mode (gradients, autocast) are replaced by the graph that they wrap.
3. In-place operators, where there are any, are made functional (see ``functional_writes.py``).
4. Assertions about types and devices are dropped: they compute nothing. So are calls whose results nobody uses, but for
   those that take a weight: it must go on fitting the code of the module.
5. Views become reshapes: whether a view is possible depends on strides, and those depend on sizes that change. A shape
   that is said to be another tensor's is written out: nothing else is the same in the two.
6. Views with strides of their own (``as_strided``) are taken of a tensor whose dims are in the order in which they lie
   in memory, which may be another after the cut. Pairs are taken for complex numbers of a copy: they must begin at even
   places of it.
7. Blocks that are alike are captured once (see ``repeat_blocks.py``).

::

    nn.Module + example inputs  ->  get_attr layers.0.weight; placeholder x; aten.linear.default(x, layers_0_weight); …
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.distributions import Distribution
from torch.export import ExportedProgram, _trace
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ..errors import CaptureError
from ..program import copied_call, fetch, unwritten
from ..progress import Parts, Progress, calls_counted
from ..rules.registry import bound_arguments
from .call_stacks import only_forwards_noted
from .capture_errors import explain_capture
from .follow_values import values_followed
from .functional_writes import write_anew
from .open_sizes import IntricateSizes, bounded_sizes
from .repeat_blocks import UNSEEN, Repeats, Unlike, find_repeats, put_back_repeats
from .restore_attributes import (
    assignments_watched,
    attributes_restored,
    buffers_watched,
    computed_when_called,
    modes_kept,
    restoring,
    with_modes_of_their_own,
)
from .restore_caches import caches_restored

MODE_WRAPPERS = {
    "wrap_with_set_grad_enabled": 1,
    "wrap_with_autocast": 4,
    "tag_activation_checkpoint": 0,
    "wrap_activation_checkpoint": 0,
    "wrap": 0,
}
"""Higher-order operators that run a sub-graph in some mode, and the position of the sub-graph in their arguments."""


SHAPED_LIKE = {
    torch.ops.aten.view_as.default: torch.ops.aten.reshape.default,
    torch.ops.aten.reshape_as.default: torch.ops.aten.reshape.default,
    torch.ops.aten.expand_as.default: torch.ops.aten.expand.default,
}
"""Operators that take the shape of another tensor, and those that take the same shape as numbers."""

FILLED_LIKE = {
    torch.ops.aten.zeros_like.default: torch.ops.aten.new_zeros.default,
    torch.ops.aten.ones_like.default: torch.ops.aten.new_ones.default,
    torch.ops.aten.full_like.default: torch.ops.aten.new_full.default,
}
"""The same for operators that fill such a tensor."""

NEW = (*FILLED_LIKE.values(), torch.ops.aten.new_empty.default)
"""Operators that take nothing but type and device of a tensor."""


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within the context a module is in evaluation mode, and then each of its children in its own mode again."""
    with modes_kept(module) as training:
        module.eval()
        try:
            yield
        finally:
            for child in with_modes_of_their_own(module):
                if not training[child]:
                    child.eval()  # set to train meanwhile, it may have forgotten what it computes of its weights


@contextlib.contextmanager
def inference_mode_of(module: nn.Module) -> Iterator[None]:
    """Within the context the module runs as it is captured: in eval mode, without gradients, without a cache.

    What modules remember of their weights in eval mode (position biases that were looked up) they forget when they are
    set to train, or training them would not work: neither what an earlier run left nor what is left here outlives that.
    """
    configs: dict[int, Any] = {id(child.config): child.config for child in module.modules() if hasattr(child, "config")}
    cached = {key: config.use_cache for key, config in configs.items() if getattr(config, "use_cache", False)}
    with evaluation_mode(module), torch.no_grad():
        try:
            module.train()
            module.eval()
            for key in cached:
                configs[key].use_cache = False
            yield
        finally:
            module.train()
            for key, value in cached.items():
                configs[key].use_cache = value


def trace(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    dynamic: bool = False,
    by_example: bool = False,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """The graph of ``module(*args, **kwargs)``, parameters and buffers shared with the module.

    With ``dynamic`` every dim of every input that has more than one position stays open where the module allows it, or
    the first of each where following the others takes too long (``open_sizes.py``).
    With ``by_example`` branches on values are taken as these inputs take them, and the graph asserts that they are.

    Raises:
        CaptureError: ``torch.export`` can't capture the module with these inputs.
    """
    with (
        inference_mode_of(module),
        computed_when_called(module),
        warnings.catch_warnings(),
        _quiet_export(),
        _idle_moves_skipped(),
        _use_lazy_graph_module(True),  # torch's passes make graph modules that nobody runs
    ):
        warnings.simplefilter("ignore")
        parts = Parts(progress, {"run": 1, "make the graph": 1})  # both take torch.export about as long
        running = parts.part("run")
        captured: fx.GraphModule | None = None
        with attributes_restored(module), buffers_watched(module) as made, assignments_watched(module) as assigned:
            try:
                captured = _capture(module, args, kwargs, dynamic, by_example, running)
            except CaptureError:
                if not assigned:
                    raise
        written = _written_values(captured) if captured is not None else {}
        if assigned or made or captured is None or written:  # the graph has what they were before
            values = {name: parameter.detach().clone() for name, parameter in written.items()}
            module(*args, **kwargs)
            with attributes_restored(module):
                captured = _capture(module, args, kwargs, dynamic, by_example, running)
            for name in _written_values(captured):  # each call does, not the first only
                for each, value in values.items():
                    written[each].detach().copy_(value)
                error = RuntimeError(f"values are written: {name}")
                raise CaptureError(explain_capture(module, args, kwargs, error))
    tidy(captured)
    parts.end()
    return unwritten(captured, captured.graph)


def _written_values(captured: fx.GraphModule) -> dict[str, nn.Parameter]:
    """The parameters that a call changes, but for those whose rows are only held to a length."""
    aten = torch.ops.aten
    found: dict[str, nn.Parameter] = {}
    for node in captured.graph.nodes:
        if node.target is aten.copy_.default and node.args[1].target is not aten.embedding_renorm.default:
            parameter = fetch(captured, node.args[0].target) if node.args[0].op == "get_attr" else None
            if isinstance(parameter, nn.Parameter):
                found[node.args[0].target] = parameter
    return found


def _capture(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic: bool,
    by_example: bool,
    progress: Progress | None,
) -> fx.GraphModule:
    # blocks that are alike may still go different ways
    captured = None if by_example else _trace_repeats(module, args, kwargs, dynamic, progress)
    if captured is not None:
        return captured
    try:
        following = values_followed() if by_example else contextlib.nullcontext()
        with following, calls_counted(module, progress):
            captured = functional_graph_of(_export(module, args, kwargs, dynamic))
    except Exception as error:
        why = explain_capture(module, args, kwargs, error, dynamic=dynamic, by_example=by_example)
        raise CaptureError(why) from error
    return captured


def _trace_repeats(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic: bool, progress: Progress | None
) -> fx.GraphModule | None:
    """The graph, of whose blocks those that are alike were captured once; None where that can't be told."""
    repeats = find_repeats(module)
    if not repeats.families:
        return None
    captured = _with_repeats(module, args, kwargs, dynamic, progress, repeats)
    if not repeats.missed:
        return captured
    return _with_repeats(module, args, kwargs, dynamic, progress, Repeats(repeats.families))


def _with_repeats(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic: bool,
    progress: Progress | None,
    repeats: Repeats,
) -> fx.GraphModule | None:
    restore = restoring(module)  # a forward that is stopped may have got half of something done
    try:
        copied = [block.module for family in repeats.families for block in family[1:-1]]
        with calls_counted(module, progress, without=copied), repeats.marked(module):
            program = _export(module, args, kwargs, dynamic)
        captured = _graph_of(program)
        inline_mode_wrappers(captured)
        if repeats.missed:
            raise Unlike("what is hidden was asked for, and the module went on without it")
        if not write_anew(captured.graph):
            raise Unlike("what a block writes into its inputs is not seen through the marks")
        put_back_repeats(captured, repeats)
    except Exception:  # what is wrong with the module itself is said where it is captured block by block
        restore()
        return None
    return captured


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic: bool) -> ExportedProgram:
    with (
        caches_restored(),
        _DataDetached(),
        only_forwards_noted(),
        mock.patch.object(transformer, "_detect_is_causal_mask", _is_causal),
        mock.patch.object(Distribution, "_validate_args", False),  # it branches on the values of parameters
        mock.patch.object(torch._C, "_set_grad_enabled", _set_grad_enabled),
        mock.patch.object(_trace, "_replace_unbacked_bindings", _replace_unbacked_bindings),
    ):
        return _exported(module, args, kwargs, dynamic)


GET_DATA, SET_DATA = torch.Tensor.data.__get__, torch.Tensor.data.__set__  # type: ignore[attr-defined]


class _DataDetached(TorchFunctionMode):
    """Gives ``x.detach()`` for ``x.data``, which torch.export does not follow."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == SET_DATA:
            raise RuntimeError("values are written: data")
        if func == GET_DATA:
            return args[0].detach()
        return func(*args, **(kwargs or {}))


_set_grad = torch._C._set_grad_enabled


def _set_grad_enabled(mode: bool) -> None:
    """Set whether gradients are taken, which torch.export would note in the graph, and split that in pieces there."""
    with UNSEEN():
        _set_grad(mode)


_replace_bindings = _trace._replace_unbacked_bindings


def _replace_unbacked_bindings(captured: fx.GraphModule) -> None:
    """Look for sizes that depend on data in each result, which asks torch's modes about each size and each stride."""
    with UNSEEN():
        _replace_bindings(captured)


def _is_causal(mask: torch.Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """What ``nn.Transformer`` was told; it looks at the values of its mask otherwise, only to take a faster way."""
    return is_causal is True


def _exported(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic: bool) -> ExportedProgram:
    if not dynamic:
        return torch.export.export(module, args, dict(kwargs), strict=False)
    with _named_forward(module, args, kwargs):
        try:
            shapes = _open_shapes(args, kwargs)
            with bounded_sizes(module):
                return torch.export.export(module, args, dict(kwargs), strict=False, dynamic_shapes=shapes)
        except IntricateSizes:
            shapes = _open_shapes(args, kwargs, first_only=True)
            return torch.export.export(module, args, dict(kwargs), strict=False, dynamic_shapes=shapes)


def functional_graph_of(program: ExportedProgram) -> fx.GraphModule:
    """The graph of an exported program in which nothing is written in place."""
    captured = _graph_of(program)
    inline_mode_wrappers(captured)
    return captured if write_anew(captured.graph) else _graph_of(_inlined(program).run_decompositions({}))


def _inlined(program: ExportedProgram) -> ExportedProgram:
    """The program itself without calls that only set a mode: torch's passes forget which modules are called there."""
    inline_mode_wrappers(program.graph_module)
    for spec, node in zip(program.graph_signature.output_specs, program.graph.output_node().args[0], strict=True):
        if isinstance(node, fx.Node) and node.name != spec.arg.name:
            node._rename(spec.arg.name)
    program.graph_module.recompile()
    return program


def _graph_of(program: ExportedProgram) -> fx.GraphModule:
    for name, tensor in program.state_dict.items():
        if isinstance(tensor, nn.Parameter) and tensor.grad_fn is not None:  # written into by what asks for gradients
            program.state_dict[name] = nn.Parameter(tensor.detach(), requires_grad=False)
    # nobody runs it: its graph is changed, and becomes that of another module
    with mock.patch.object(fx.GraphModule, "recompile", return_value=None):
        captured = program.module(check_guards=False)
    if not isinstance(captured, fx.GraphModule):
        raise CaptureError(f"torch.export gave a {type(captured).__name__} and no graph")
    return captured


def tidy(captured: fx.GraphModule) -> None:
    """Cases 2, 4, 5 and 6, in place."""
    for node in list(captured.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            captured.graph.erase_node(node)
    inline_mode_wrappers(captured)
    for node in captured.graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default
        elif node.target in SHAPED_LIKE and all(isinstance(size, int) for size in node.meta["val"].shape):
            node.target, node.args = SHAPED_LIKE[node.target], (node.args[0], list(node.meta["val"].shape))
        elif node.target in FILLED_LIKE and all(isinstance(size, int) for size in node.meta["val"].shape):
            node.target = FILLED_LIKE[node.target]
            node.args = (node.args[0], list(node.meta["val"].shape), *node.args[1:])
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
        if node.target in NEW:
            node.args = (_origin(node.args[0]), *node.args[1:])
        elif node.target is torch.ops.aten.as_strided.default:
            _lay_out(node)
        elif node.target is torch.ops.aten.view_as_complex.default:
            dense = torch.ops.aten.clone.default
            with captured.graph.inserting_before(node):
                node.args = (_add(node, dense, node.args[0], memory_format=torch.contiguous_format),)
    _drop_unused(captured.graph)


def _drop_unused(graph: fx.Graph) -> None:
    """Drop the calls that nobody uses, and then those that only they used; not those that give nothing: assertions."""
    for node in reversed(graph.nodes):
        if node.users or any(each.op == "get_attr" for each in node.all_input_nodes):
            continue
        gives = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.returns and not node.is_impure()
        if gives or node.target is operator.getitem:
            graph.erase_node(node)


def _origin(node: fx.Node) -> fx.Node:
    """The first tensor of the same type, on the same device, that a node is computed from, and from nothing else."""
    value = node.meta["val"]
    while len(node.all_input_nodes) == 1 and isinstance(
        source := node.all_input_nodes[0].meta.get("val"), torch.Tensor
    ):
        if (source.dtype, source.device) != (value.dtype, value.device):
            break
        node = node.all_input_nodes[0]
    return node


def _lay_out(node: fx.Node) -> None:
    """``as_strided(x, (a, b), (1, 4))`` becomes ``as_strided(contiguous(permute(x, …)), (b, a), (4, 1))``, put back."""
    bound = bound_arguments(node)
    value, size, stride = bound["self"].meta["val"], list(bound["size"]), list(bound["stride"])
    if bound["storage_offset"] is not None or not all(isinstance(each, int) for each in (*value.shape, *size, *stride)):
        return
    order = sorted(range(value.ndim), key=lambda dim: (-value.stride(dim), -value.shape[dim]))
    steps = sorted(range(len(size)), key=lambda dim: (-stride[dim], -size[dim]))
    if not value.permute(order).is_contiguous() or (order, steps) == (sorted(order), sorted(steps)):
        return
    aten = torch.ops.aten
    with node.graph.inserting_before(node):
        dense = _add(node, aten.contiguous.default, _add(node, aten.permute.default, bound["self"], order))
        windows = _add(
            node, aten.as_strided.default, dense, [size[dim] for dim in steps], [stride[dim] for dim in steps]
        )
        back = _add(node, aten.permute.default, windows, [steps.index(dim) for dim in range(len(steps))])
    node.replace_all_uses_with(back)
    node.graph.erase_node(node)


def _add(like: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call before ``like``, said to stand at the same place in the model."""
    made = like.graph.call_function(target, args, kwargs)
    values = fx.map_arg(args, lambda node: node.meta["val"])
    made.meta = {**like.meta, "val": target(*values, **kwargs)}
    return made


def _open_shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any], *, first_only: bool = False) -> Any:
    """For every dim with more than one position, or the first: to be kept open, or found fixed, by torch.export."""

    def shape(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return None
        sizes = value.shape[:1] if first_only else value.shape
        return {dim: torch.export.Dim.AUTO for dim, size in enumerate(sizes) if size > 1}

    return tree_map(shape, {**{f"input{at}": value for at, value in enumerate(args)}, **kwargs})


@contextlib.contextmanager
def _named_forward(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Within the context forward names each input: torch.export can't match shapes to ``**kwargs`` (peft's forward)."""
    forward, own = module.forward, "forward" in vars(module)

    def named(*given: Any, **named_inputs: Any) -> Any:
        return forward(*given, **named_inputs)

    positional = [inspect.Parameter(f"input{at}", inspect.Parameter.POSITIONAL_ONLY) for at in range(len(args))]
    keyword = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs]
    named.__signature__ = inspect.Signature([*positional, *keyword])  # type: ignore[attr-defined]
    module.forward = named
    try:
        yield
    finally:
        if own:
            module.forward = forward
        else:
            del module.forward


@contextlib.contextmanager
def _idle_moves_skipped() -> Iterator[None]:
    """Within the context ``module.to(…)`` does nothing where nothing has to move, as routers call it in their forward.

    While they are captured torch can't put parameters in the place of others, not even of themselves.
    """
    move = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        tensors = [*module.parameters(), *module.buffers()]
        there = all(device in (None, each.device) for each in tensors)
        same = all(dtype in (None, each.dtype) for each in tensors if each.is_floating_point())
        return module if there and same else move(module, *args, **kwargs)

    nn.Module.to = to  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]


@contextlib.contextmanager
def _quiet_export() -> Iterator[None]:
    """torch.export logs what it raises anyway, and prints the graph that it has by then."""
    names = ("torch.export", "torch.fx.experimental.symbolic_shapes", "torch._subclasses")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _copy_into(graph: fx.Graph, inner: fx.Graph, values: Sequence[Any]) -> Any:
    """Copy the calls of a graph into another, with ``values`` for its inputs; gives what it returns."""
    given = iter(values)
    copies: dict[fx.Node, Any] = {}
    for node in inner.nodes:
        if node.op == "placeholder":
            copies[node] = next(given)
        elif node.op == "output":
            return fx.map_arg(node.args[0], lambda used: copies[used])
        else:
            copies[node] = copied_call(node, graph, copies.__getitem__)
    return None


def inline_mode_wrappers(captured: fx.GraphModule) -> None:
    """Replace each call that only sets a mode by the nodes of the graph that it runs, in place."""
    for node in list(captured.graph.nodes):
        name = node.target.name() if isinstance(node.target, torch._ops.HigherOrderOperator) else ""
        if name not in MODE_WRAPPERS:
            continue
        at = MODE_WRAPPERS[name]
        reference = node.args[at]
        inner = captured.get_submodule(reference.target)
        if not isinstance(inner, fx.GraphModule):
            raise CaptureError(f"{name} runs {reference.target}, which is not a graph")
        inline_mode_wrappers(inner)
        with captured.graph.inserting_before(node):
            result = _copy_into(captured.graph, inner.graph, node.args[at + 1 :])
        for user in list(node.users):
            if user.target is not operator.getitem:
                raise CaptureError(f"{name} is used by {user.format_node()}, which is not understood")
            user.replace_all_uses_with(result[user.args[1]])
            captured.graph.erase_node(user)
        captured.graph.erase_node(node)
        if not reference.users:
            captured.graph.erase_node(reference)

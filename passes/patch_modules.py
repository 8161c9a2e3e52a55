"""Make the compact model as a module: the original with its parameters sliced and its Python numbers set anew.

1. The module is copied with the sliced tensors in place of the original ones; ties stay ties.
2. Modules of torch.nn, of peft, and transformers' Conv1D say their sizes in attributes that follow from their tensors.
3. Other modules and configs keep sizes under names that families of models share (``num_heads``, ``ffn_dim``): an
   attribute changes if its name tells which axis it counts and its value is the old size of that axis. Numbers in
   lists are sizes of the parts of one axis in their order, whatever the name; or each by itself, as in dicts
   (``axes_lengths`` of layers of einops).

Whether the result is right is not decided here: verification compares it with the masked original.

::

    LlamaAttention.num_key_value_groups 3 -> 2        LlamaConfig.intermediate_size 1536 -> 1024
"""

from __future__ import annotations

import copy
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..axes import Atom, Axis, Product, Sum, atoms, factors_of, product
from ..copies import deep_copy
from ..errors import RewriteError
from ..groups import Groups, Kind
from ..masks import Keep, kept_size
from ..program import Inference, Program
from ..rules import Dims
from ..rules.convolution import SPATIAL
from ..rules.indexing import NAMED
from ..rules.registry import operator_name
from ..rules.views import ONE_BY_ONE
from .infer_axes import INPUT, OUTPUT
from .restore_attributes import compute_anew

Role = str
"""What an axis counts: the kinds of its factors in order, ``heads``, ``heads repeats``, ``head_dims``, ``channels``; or
``sum``, whatever its terms count. ``inner``: channels that are no vocabulary or other table, no window, and no dim of
an input or an output. ``in`` and ``out``: any of what the module is given, and of what it gives."""

ANY: Role = "any"
"""What a name that tells less counts: any axis of the module where all of that size keep as many positions, but for
dims of heads, whose number is more often a scale."""

ROLES: tuple[tuple[str, tuple[Role, ...]], ...] = (
    (r"(num_)?(key_value|kv|multi_query)_?(attention_)?(heads|group_num)", ("heads",)),
    (r"n_?head_?kv|h_kv|num_kv|n_groups|n_query_groups", ("heads",)),
    # with one KV head for all, the query heads are what repeats it
    (r"(num_)?(key_value_groups|kv_groups|queries_per_kv|n_rep)|repeats", ("repeats", "heads")),
    (
        r"(\w+_)?head_(dim|size)|d_(q|k|v|kv|qk|head)|key_dim|key_value_proj_dim|dim_heads?|rotary_n?dims?|d",
        # of heads with a part that is rotated and one that is not: the sum of both, and the rotated part; and where
        # there is one head only, its dims are channels
        ("head_dims", "sum", "heads head_dims", "inner"),
    ),
    (r"(\w+_)?(num_|n_)?(\w+_)?(heads?|attention_heads)|n?heads?|nh|head_(num|count)", ("heads repeats", "heads")),
    (
        r"all_head_size|split_size|inner_dim|attn_dim|attention_dim|out_dim_\w+|dh|nh_kd",
        ("heads repeats head_dims", "heads head_dims", "sum", "inner"),
    ),
    (r"kv_dim", ("heads head_dims", "head_dims")),
    (r"axes_lengths", ("heads repeats", "heads", ANY)),
    (r"(ssm_)?state_size|d_state|dt_rank", ("head_dims", "inner")),
    (r"time_step_rank", ("inner",)),
    (r"conv_dim", ("sum",)),
    (r"(num_|n_|moe_num_)?((local|routed)_)?experts|n_group|num_expert_groups", ("experts experts", "experts")),
    # in an attention block the sum of its heads, elsewhere the width of the residual
    # of a layer of one's own, which may take in as many channels as it gives
    (r"in_?(channels?|features?|planes|size|dim|ch|c)|input_(size|dim|channels?)|n_?in|c_in|dim_in", ("in", ANY)),
    (r"out_?(channels?|features?|planes|size|dim|ch|c)|output_(size|dim|channels?)|n_?out|c_out|dim_out", ("out", ANY)),
    (r"embed_dim", ("heads repeats head_dims", "heads head_dims", "channels")),
    (r"hidden_size|d_model|n_embd|embedding_dim|emb_dim|dim|width|normalized_shape", ("channels",)),
    (
        r"(\w+_)?(intermediate_size|ffn_dim|n_inner|d_ff|ffn_hidden_size|dim_feedforward|hidden_dim|mlp_dim"
        r"|feed_forward_size|inner_size|feedforward_channels)",
        # heads: where gate and up projections take turns, a channel is a pair of rows; head_dims: where a matrix holds
        # those of all experts
        ("inner", "heads repeats head_dims", "heads head_dims", "heads", "head_dims"),
    ),
    (
        r"(\w+_)?(channels?|planes|features?|filters?|units|hiddens?|neurons|widths?|dims?)|n?hid|n_?[dg]?f|dim_\w+"
        r"|(in|out|input|output|latent|feature|inner|mlp|embed)_size|[cd]_\w+|num_groups|split_sizes?|splits|sections"
        r"|(\w+_)?sizes|unflattened_size|[CDEH]|[ch]",
        (ANY,),
    ),
)
"""Names of attributes that transformers families share, as patterns of the whole name, and what they count.

The first role of a row that the module has is the one that is meant.
"""


Counted = Mapping[Role, frozenset[Axis]]
"""For each role the axes of a module that play it: what its numbers may count."""


def patch_modules(
    program: Program,
    inference: Inference,
    groups: Groups,
    keep: Keep,
    tensors: Mapping[str, Tensor],
    counted: Mapping[str, Counted] | None = None,
) -> nn.Module:
    """The compact module. ``counted`` is what :func:`counted_axes` gives, for who patches more than once.

    Raises:
        RewriteError: the module can't be copied.
    """
    module = copy_with(program, tensors)
    set_sizes(module, inference, counted_axes(inference, groups) if counted is None else counted, keep)
    return module


def set_sizes(
    module: nn.Module,
    inference: Inference,
    counted: Mapping[str, Counted],
    keep: Keep,
    dense: nn.Module | None = None,
) -> None:
    """Set the Python numbers of a module whose tensors are cut, in place.

    ``dense`` has the numbers of the original, where those of ``module`` were set before.

    Raises:
        RewriteError: a part of the module can't compute anew what it computes when it is set to evaluation.
    """
    originals = dict((module if dense is None else dense).named_modules())
    parts = _groups_in_calls(inference, keep)
    for path, child in module.named_modules():
        sizes = _sizes_of_tensors(child, parts.get(path))
        is_known = type(child).__module__.startswith(("torch.nn.", "peft.tuners."))
        if not is_known or isinstance(child, nn.Unflatten):
            named = {name: value for name, value in vars(originals[path]).items() if name not in sizes}
            _set_numbers(vars(child), [counted.get(path, {})], keep, named)
        for name, value in sizes.items():
            setattr(child, name, value)
        if hasattr(child, "_axes_lengths"):  # a layer of einops, which looks there
            vars(child)["_axes_lengths"] = tuple(child.axes_lengths.items())
    for config, name, paths in _configs(module).values():
        _set_config(vars(config), _of_all(counted, paths), keep, vars(vars(originals[paths[0]])[name]))
    compute_anew(module)


def patch_config(config: Any, module: nn.Module, counted: Mapping[str, Counted], keep: Keep) -> Any:
    """A copy of the config of a module, with the numbers that it has in the compact model, without making that."""
    copies: dict[int, Any] = {}
    patched = copy.deepcopy(config, copies)
    for key, (_, _, paths) in _configs(module).items():
        if key in copies:
            _set_config(vars(copies[key]), _of_all(counted, paths), keep, dict(vars(copies[key])))
    return patched


def copy_with(program: Program, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy whose parameters and buffers are the given tensors, copies of the original where none is given."""
    memo: dict[int, Any] = {}
    for name in program.table:
        original = program.tensor(name)
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if isinstance(original, nn.Parameter):
            memo[id(original)] = nn.Parameter(tensor.detach(), requires_grad=original.requires_grad)
        else:
            memo[id(original)] = tensor.detach()
    try:
        return deep_copy(program.module, memo)
    except Exception as error:
        name = type(program.module).__name__
        raise RewriteError(f"{name} can't be copied ({error}); use the graph form of the compact model") from error


def without_values(program: Program) -> nn.Module:
    """A deep copy on the meta device.

    Raises:
        RewriteError: the module can't be copied.
    """
    empty = {name: torch.empty_like(program.tensor(name).detach(), device="meta") for name in program.table}
    return copy_with(program, empty)


def _groups_in_calls(inference: Inference, keep: Keep) -> dict[str, int]:
    """How many groups convolutions, group norms and shuffles keep, by the path of the module that calls them."""
    found: dict[str, int] = {}
    for node, axes in inference.remembered.items():
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        name = operator_name(node.target).removeprefix("aten::")
        if stack and len(axes) == 1 and (name.startswith("conv") or name in ("group_norm", "channel_shuffle")):
            found[stack[-1][0]] = kept_size(inference.solver.resolve(axes[0]), keep)
    return found


def _sizes_of_tensors(module: nn.Module, parts: int | None) -> dict[str, Any]:
    """The attributes that follow from a module's own tensors, for modules whose sizes have a meaning known to all.

    ``parts`` is the number of groups of a convolution, a group norm or a shuffle, where the graph has one.
    """
    shape = _weight_shape(module)
    match module:
        case nn.Linear():
            return {"out_features": shape[0], "in_features": shape[1]}
        case nn.Bilinear():
            return {"out_features": shape[0], "in1_features": shape[1], "in2_features": shape[2]}
        case nn.Embedding() | nn.EmbeddingBag():
            return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
        case nn.RNNBase():
            sizes = {key: tensor.shape for key, tensor in module.named_parameters(recurse=False)}
            of_inputs = {"input_size": sizes["weight_ih_l0"][1]}
            if module.proj_size:
                projected, hidden = sizes["weight_hr_l0"]
                return {**of_inputs, "proj_size": projected, "hidden_size": hidden}
            return {**of_inputs, "hidden_size": sizes["weight_hh_l0"][1]}
        case nn.RNNCellBase():
            return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
        case nn.modules.conv._ConvNd():
            groups = module.groups if parts is None else parts
            ends = ("out_channels", "in_channels")
            first, second = reversed(ends) if isinstance(module, nn.modules.conv._ConvTransposeNd) else ends
            return {"groups": groups, first: shape[0], second: shape[1] * groups}
        case nn.modules.batchnorm._NormBase():
            return {"num_features": shape[0] if shape else _running(module)}
        case nn.LayerNorm() | nn.RMSNorm():
            # a subclass may have a weight for each head
            return {"normalized_shape": shape[-len(module.normalized_shape) :]} if shape else {}
        case nn.GroupNorm():
            groups = module.num_groups if parts is None else parts
            return {"num_groups": groups, "num_channels": shape[0] if shape else module.num_channels}
        case nn.ChannelShuffle():
            return {"groups": module.groups if parts is None else parts}
        case _ if type(module).__name__ == "Conv1D" and hasattr(module, "nx"):
            return {"nx": shape[0], "nf": shape[1]}
        case _ if callable(get := getattr(module, "get_param", None)):  # peft's adapter on the matrices of experts
            return {"num_experts": get().shape[0] if get().ndim == 3 else 1}
        case _ if isinstance(base := getattr(module, "base_layer", None), nn.Linear):
            return {"out_features": base.weight.shape[0], "in_features": base.weight.shape[1]}
    return {}


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of a module's weight, without computing one that is made of others: the largest of them has it."""
    made_of: list[Tensor] = []
    if is_parametrized(module, "weight"):
        made_of = list(module.get_submodule("parametrizations.weight").parameters(recurse=False))
    elif isinstance(direction := module._parameters.get("weight_v"), Tensor):
        made_of = [direction]
    elif isinstance(weight := getattr(module, "weight", None), Tensor):
        made_of = [weight]
    return max((tuple(each.shape) for each in made_of), key=math.prod, default=())


def _running(module: nn.modules.batchnorm._NormBase) -> int:
    return module.num_features if module.running_mean is None else int(module.running_mean.shape[0])


def counted_axes(inference: Inference, groups: Groups) -> dict[str, Counted]:
    """What the numbers of each module may count: the axes of its parameters and of the calls made in it, by path."""
    # what is unpacked one by one has no number that counts it
    kinds: dict[Atom, Kind] = {g.atom: g.kind for g in groups if not (g.frozen or "").startswith(ONE_BY_ONE)}
    axes: dict[str, set[Axis]] = defaultdict(set)
    for name, result in inference.parameter_dims.items():
        for path in _prefixes(name.rpartition(".")[0]):
            axes[path].update(result.axes)
    for node, found in inference.dims.items():
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        # of what is split the parts and the whole
        whole = [inference.dims.get(each) for each in node.all_input_nodes] if isinstance(found, tuple) else []
        for dims in (*(found if isinstance(found, tuple) else (found,)), *whole) if stack else ():
            axes[stack[-1][0]].update(dims.axes if isinstance(dims, Dims) else ())
    at_ends = (INPUT, OUTPUT, NAMED, SPATIAL)
    ends = {atom for atom, mark in inference.solver.frozen.items() if mark.reason.startswith(at_ends)}
    runs = cache(lambda axis: tuple(_with_inner(_runs(axis, kinds), ends)))
    counted = {
        path: _by_role(run for axis in each for run in runs(inference.solver.resolve(axis)))
        for path, each in axes.items()
    }
    for role, at_end in _axes_at_ends(inference).items():
        for path, each in at_end.items():
            known = {run for axis in each for _, run in runs(inference.solver.resolve(axis))}
            counted[path] = {**counted.get(path, {}), role: frozenset(known)}
    return counted


def _axes_at_ends(inference: Inference) -> dict[Role, dict[str, set[Axis]]]:
    """The axes of what each module is given, and of what it gives, by its path."""
    found: dict[Role, dict[str, set[Axis]]] = {"in": defaultdict(set), "out": defaultdict(set)}
    inside = {node: {path for path, _ in (node.meta.get("nn_module_stack") or {}).values()} for node in inference.dims}
    for node, paths in inside.items():
        for source in node.all_input_nodes:
            dims, around = inference.dims.get(source), inside.get(source, set())
            if isinstance(dims, Dims) and source.op != "get_attr" and paths != around:
                for path in paths - around:
                    found["in"][path].update(dims.axes)
                for path in around - paths:
                    found["out"][path].update(dims.axes)
    return found


def _by_role(runs: Iterable[tuple[Role, Axis]]) -> Counted:
    found: dict[Role, set[Axis]] = defaultdict(set)
    for role, run in runs:
        found[role].add(run)
    return {role: frozenset(axes) for role, axes in found.items()}


def _prefixes(path: str) -> Iterator[str]:
    """A module path and those of all modules around it but the root."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _runs(axis: Axis, kinds: Mapping[Atom, Kind]) -> Iterator[tuple[Role, Axis]]:
    """Every run of neighbouring factors of an axis, with the role that it plays; the terms of a sum one by one too."""
    factors = factors_of(axis)
    for start in range(len(factors)):
        for end in range(start + 1, len(factors) + 1):
            roles = [_role(factor, kinds) for factor in factors[start:end]]
            if all(roles):
                yield " ".join(role for role in roles if role), product(*factors[start:end])
    for factor in factors:
        if isinstance(factor, Sum):
            yield "sum", factor
            for term in set(factor.terms):
                yield from _runs(term, kinds)


def _with_inner(runs: Iterable[tuple[Role, Axis]], ends: Collection[int]) -> Iterator[tuple[Role, Axis]]:
    """The same runs but for heads and the like at an end of the model, which are places of an image, and once more
    those of channels that are at none."""
    for role, run in runs:
        at_end = any(atom.id in ends for atom in atoms(run))
        if role == "channels" or not at_end:
            yield role, run
        if role == "channels" and not at_end:
            yield "inner", run


def _role(axis: Axis, kinds: Mapping[Atom, Kind]) -> str | None:
    """The kind of a factor's atoms, where they are all of one kind."""
    match axis:
        case Atom():
            return kinds.get(axis)
        case Sum(terms=terms):
            found = {_role(term, kinds) for term in terms}
            return found.pop() if len(found) == 1 else None
        case Product():
            return None


def _set_numbers(
    values: MutableMapping[str, Any], counted: Sequence[Counted], keep: Keep, originals: Mapping[str, Any]
) -> None:
    """Change the numbers of a module or a config whose names say which axis they count, in any of some modules."""
    for name, value in list(originals.items()):
        roles = _roles_of(name)
        made: Any = value
        if type(value) in (list, tuple):
            made = type(value)(_numbers(value, roles, counted, keep))
        elif roles and isinstance(value, dict):
            made = {key: _number(each, roles, counted, keep) for key, each in value.items()}
        elif isinstance(value, partial):
            named = {key: _number(each, _roles_of(key), counted, keep) for key, each in value.keywords.items()}
            made = partial(value.func, *value.args, **named)
        elif roles:
            made = _number(value, roles, counted, keep)
        if _differ(value, made):
            values[name] = made


def _differ(before: Any, after: Any) -> bool:
    """Whether a number, or one that a list, dict or partial holds, is another; what else there is is as it was."""
    if after is before:
        return False
    if isinstance(before, int):
        return bool(before != after)
    held = [each.keywords if isinstance(each, partial) else each for each in (before, after)]
    parts = [each.values() if isinstance(each, dict) else each for each in held]
    return any(isinstance(a, int) and a != b for a, b in zip(*parts, strict=True))


def _number(value: Any, roles: Sequence[Role], counted: Sequence[Counted], keep: Keep) -> Any:
    """What is kept of the axis that a number counts; the number where it counts none, or several of which is kept more
    or less."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        return value
    for role in roles:
        axes = {axis for each in counted for axis in _playing(role, each) if axis.size == value}
        sizes = {kept_size(axis, keep) for axis in axes}
        if sizes:
            return sizes.pop() if len(sizes) == 1 else value
    return value


def _playing(role: Role, counted: Counted) -> Iterable[Axis]:
    """The axes of a module that play a role."""
    if role != ANY:
        return counted.get(role, frozenset())
    axes = {axis for name, each in counted.items() if name not in ("channels", "in", "out") for axis in each}
    return axes - counted.get("head_dims", frozenset())


def _numbers(values: Sequence[Any], roles: Sequence[Role], counted: Sequence[Counted], keep: Keep) -> Sequence[Any]:
    """The same for numbers that count the parts of an axis in their order, whatever their name, or one by one."""
    if len(values) > 1 and all(type(value) is int for value in values):
        sums = {axis for each in counted for axis in each.get("sum", ()) if isinstance(axis, Sum)}
        found = {kept for axis in sums if (kept := _parts(axis, values, keep)) is not None}
        if len(found) == 1:
            return found.pop()
    return [_number(value, roles, counted, keep) for value in values]


def _parts(axis: Sum, sizes: Sequence[int], keep: Keep) -> tuple[int, ...] | None:
    """What is kept of parts of these sizes, of which an axis consists; None where they are no terms of it."""
    terms, kept = list(axis.terms), []
    for size in sizes:
        part: list[Axis] = []
        while terms and sum(term.size for term in part) < size:
            part.append(terms.pop(0))
        if not part or sum(term.size for term in part) != size:
            return None
        kept.append(sum(kept_size(term, keep) for term in part))
    return None if terms else tuple(kept)


def _set_config(
    values: MutableMapping[str, Any], counted: Sequence[Counted], keep: Keep, originals: Mapping[str, Any]
) -> None:
    """Change the numbers of a config, and give those a value that are None: what follows from others until it is cut.

    ::

        GPT2Config(n_embd=768, n_inner=None) -> GPT2Config(n_embd=768, n_inner=2048)
    """
    _set_numbers(values, counted, keep, originals)
    for name in [name for name, value in originals.items() if value is None]:
        for role in _roles_of(name)[:1]:
            axes = {axis for each in counted for axis in each.get(role, ())}
            sizes = {kept_size(axis, keep) for axis in axes if kept_size(axis, keep) != axis.size}
            if len(sizes) == 1:
                values[name] = sizes.pop()


@cache
def _roles_of(name: str) -> tuple[Role, ...]:
    """What a name says, also a private one (``_dim``). One of several that are numbered (``dim_0``) tells less."""
    plain = name.strip("_")
    roles = next((roles for pattern, roles in ROLES if re.fullmatch(pattern, plain)), ())
    numbered = None if roles else re.fullmatch(r"(\w\w+?)_?[0-9]+", plain)
    alone = _roles_of(numbered[1]) if numbered else ()
    return (*alone, ANY) if alone else roles


CONFIG_NAMES = ("config", "cfg", "args", "params", "hparams", "hps")


def _configs(module: nn.Module) -> dict[int, tuple[Any, str, list[str]]]:
    """Every config object in a module, with its name there and the paths of the modules that hold it."""
    found: dict[int, tuple[Any, str, list[str]]] = {}
    for path, child in module.named_modules():
        for name in CONFIG_NAMES:
            config = vars(child).get(name)
            if config is not None and hasattr(config, "__dict__") and not isinstance(config, (type, nn.Module)):
                found.setdefault(id(config), (config, name, []))[2].append(path)
    return found


def _of_all(counted: Mapping[str, Counted], owners: Sequence[str]) -> list[Counted]:
    """What is counted in some modules, and in those inside them."""
    return [
        each
        for path, each in counted.items()
        if any(path == owner or not owner or path.startswith(f"{owner}.") for owner in owners)
    ]

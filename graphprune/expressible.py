"""Which groups the module form can cut, and which numbers of units a config can express.

Nothing here knows a model: units of every group of a family are cut, and the patched module is run beside the graph
form, with the first and the last of blocks that are alike (:mod:`.shortened`), or built anew from its patched config.
Both are filled with random numbers that take next to no memory (:func:`patterned`), so that a module form that runs but
computes something else is seen too: attention that divides by the root of its new head size, position slopes that
follow from the new number of heads. A model without values can't be run, and shapes decide.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial, wraps
from itertools import chain, combinations, islice, takewhile
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .adapters import without_adapters
from .budget import is_adapter
from .errors import GraphPruneError
from .groups import PruningGroup
from .masks import Keep, Kept, kept_size
from .passes.patch_modules import Counted, counted_axes, patch_config, patch_modules
from .passes.recompute_shapes import recompute_shapes
from .passes.slice_parameters import parameter_masks, slice_tensor
from .passes.trace import inference_mode_of
from .passes.verify import same_values
from .program import shapes_by_name
from .quiet import first_line, quietly
from .shortened import shorten
from .traced import TracedModel

MOST_COUNTED = 256
"""Groups with more units than this are channels of some kind: any number of them is taken to be fine for a config."""

MOST_TRIED = 16
"""So many pairs of families are tried at most: each takes a run of the model."""

STEP = 8
"""How many numbers of any type kernels want aligned at most: 16 bytes of 16-bit numbers."""

Answer = TypeVar("Answer")

LOUD, QUIET = 2**0.5, 0.5
"""How much larger values are after a layer of random numbers: loud ones reach the end of deep networks, and quiet ones
leave attention undecided where nothing normalises what it sees."""

CutCheck = Callable[[Keep], bool]
"""Whether the two forms of a cut compute the same."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of parameters and buffers by name."""


def _once_per_model(
    question: Callable[[TracedModel, Sequence[PruningGroup]], Answer],
) -> Callable[[TracedModel, Iterable[PruningGroup]], Answer]:
    """Keep the answers for as long as the traced models live: selection asks at every step of a schedule.

    The question is asked of the families of some groups, each with all its groups that can be cut: no run of the model
    is spent on what no one wants to cut.
    """
    answers: WeakKeyDictionary[TracedModel, dict[frozenset[str], Answer]] = WeakKeyDictionary()

    @wraps(question)
    def ask(traced: TracedModel, groups: Iterable[PruningGroup]) -> Answer:
        families = frozenset(group.family for group in groups)
        own = answers.setdefault(traced, {})
        if families not in own:
            own[families] = question(traced, [group for group in traced.groups.cuttable if group.family in families])
        return own[families]

    return ask


def is_configured(traced: TracedModel) -> bool:
    """Whether the model is one of transformers, built from a config."""
    return _config(traced.program.module) is not None


@dataclass(frozen=True)
class Cuts:
    """What a form of a model can express.

    ``counts`` holds for each family of groups that can be cut the numbers of units that its groups may keep, ``ties``
    the groups that can only be cut together, each by the same share of its units.
    """

    counts: Mapping[str, tuple[int, ...]]
    ties: tuple[tuple[PruningGroup, ...], ...] = ()

    def choose(self, groups: Sequence[PruningGroup]) -> tuple[list[PruningGroup], list[tuple[PruningGroup, ...]]]:
        """Those of some groups that can be cut, and the ties between them: a tie is whole, or nothing of it is cut."""
        names = {group.name for group in groups}
        tied = {group.name: tie for tie in self.ties for group in tie}
        chosen = [
            group
            for group in groups
            if group.family in self.counts and all(other.name in names for other in tied.get(group.name, ()))
        ]
        left = {group.name for group in chosen}
        return chosen, [tie for tie in self.ties if tie[0].name in left]


@_once_per_model
def module_cuts(traced: TracedModel, groups: Sequence[PruningGroup]) -> Cuts:
    """What the module form can express of the families of some groups.

    Where blocks read one number of a config that they share (the query heads of Phi-3), the groups of a family are
    tied.
    """
    agrees, holds = _checks_of(traced)
    offers = [
        Offer(members, tuple(range(members[0].units - 1, members[0].least - 1, -1))) for _, members in _families(groups)
    ]
    counts, left = _agreeing(offers, agrees, holds)
    several = [offer.groups for offer in offers if offer.family in counts and len(offer.groups) > 1]
    passed = _passing([Offer(members[:1], counts[members[0].family]) for members in several], agrees)
    ties = [tuple(members) for members, each in zip(several, passed, strict=True) if not each]

    def passes(families: Families) -> bool:
        keep = _half_of_the_parts(families)
        return agrees(keep) and holds(keep)

    for families in _together(left, passes):
        odd = _odd_parts(families)
        counts |= _shares(families, 2 if odd and not agrees(odd) else 1)
        layers = list(zip(*families, strict=False))
        alone = _half_of_the_parts([[group] for group in layers[0]])
        each_alone = len({len(members) for members in families}) == 1 and len(layers) > 1 and agrees(alone)
        ties += layers if each_alone else [tuple(group for members in families for group in members)]
    return Cuts(counts, tuple(ties))


@dataclass(frozen=True)
class Offer:
    """Some groups of a family, and the falling numbers of units that each of them may keep; one stands for all."""

    groups: Sequence[PruningGroup]
    numbers: tuple[int, ...]

    @property
    def family(self) -> str:
        return self.groups[0].family

    def telling(self) -> list[int]:
        """The numbers that can stand for all: those that share no divisor with what there is, where there are any.

        One position may be taken for many, so it stands for no others; what is cut in equal parts forgives a few
        positions, so numbers about half come first.
        """
        units = self.groups[0].units
        several = [number for number in self.numbers if number > 1] or self.numbers
        coprime = [number for number in several if math.gcd(number, units) == 1]
        return sorted(coprime or several, key=lambda number: abs(2 * number - units))

    def halfway(self) -> int:
        """The number next to half of what there is: of four, three are cut in equal parts as four are."""
        return min(self.numbers, key=lambda number: (abs(2 * number - self.groups[0].units), number))


def _agreeing(
    offers: Sequence[Offer], agrees: CutCheck, holds: CutCheck
) -> tuple[dict[str, tuple[int, ...]], list[Sequence[PruningGroup]]]:
    """The numbers that the module form can express, by family, and the groups of the families with none.

    Those of an offer are all right, or the multiples of ``STEP``: the kernels of experts want rows that are aligned.
    All that agree by themselves are checked once more together, by ``holds`` and at half.
    """
    aligned = [Offer(offer.groups, tuple(number for number in offer.numbers if number % STEP == 0)) for offer in offers]
    counts: dict[str, tuple[int, ...]] = {}
    for some in (offers, aligned):
        left = [offer for offer in some if offer.family not in counts]
        passed = [offer for offer, each in zip(left, _passing(left, agrees), strict=True) if each]
        counts |= {
            passed[index].family: passed[index].numbers
            for index in _good_ones(dict(enumerate(offer.halfway() for offer in passed)), passed, holds)
        }
    return counts, [offer.groups for offer in offers if offer.family not in counts]


def _passing(offers: Sequence[Offer], agrees: CutCheck) -> list[bool]:
    """Which of some offers the module form can express, each by itself.

    Channels of many layers, and ranks of adapters, are taken in one run, each with another share of their units, so
    that what must be cut alike does not pass; where the forms disagree, half of them are.
    """
    passed = [False] * len(offers)

    waiting: list[int] = []
    for index, offer in enumerate(offers):
        if offer.numbers and offer.groups[0].kind in ("channels", "lora_rank"):
            waiting.append(index)
        elif offer.numbers:  # sizes of heads add up to one another, and slopes by their number fit some of them
            count = offer.telling()[0]
            passed[index] = agrees(_first(offer.groups, count)) and agrees(_last(offer.groups, count))
    while waiting:
        batch: dict[int, int] = {}
        shares: set[Fraction] = set()
        for index in waiting:
            units = offers[index].groups[0].units
            number = next((n for n in offers[index].telling() if Fraction(n, units) not in shares), None)
            if number is not None:
                batch[index] = number
                shares.add(Fraction(number, units))
        for index in _good_ones(batch, offers, agrees):
            passed[index] = True
        waiting = [index for index in waiting if index not in batch]
    return passed


def _good_ones(numbers: Mapping[int, int], offers: Sequence[Offer], agrees: CutCheck) -> Iterator[int]:
    """Those of some offers that pass a check, with the number of units of each: all at once, or by halves."""
    if not numbers:
        return
    keep = {atom: kept for at, number in numbers.items() for atom, kept in _first(offers[at].groups, number).items()}
    if agrees(keep):
        yield from numbers
    elif len(numbers) > 1:
        items = list(numbers.items())
        for part in (items[: len(items) // 2], items[len(items) // 2 :]):
            yield from _good_ones(dict(part), offers, agrees)


Families = Sequence[Sequence[PruningGroup]]
"""The groups of some families."""


def _together(left: Families, agrees: Callable[[Families], bool]) -> Iterator[Families]:
    """Of families that can't be cut one by one, those that can be cut together: pairs, and what remains of a kind, but
    for one that may be cut in no way.

    Neighbours in the model are tried first, and no more than ``MOST_TRIED`` pairs.
    """
    pairs = sorted(combinations(range(len(left)), 2), key=lambda pair: _distance(left[pair[0]], left[pair[1]]))
    tied: set[int] = set()
    for pair in pairs[:MOST_TRIED]:
        families = [left[index] for index in pair]
        if tied.isdisjoint(pair) and _parts(families) > 1 and agrees(families):
            tied.update(pair)
            yield families
    for kind in dict.fromkeys(members[0].kind for members in left):
        rest = [members for index, members in enumerate(left) if index not in tied and members[0].kind == kind]
        without_one = ([*rest[:at], *rest[at + 1 :]] for at in range(len(rest)))
        for families in islice(chain([rest], without_one), 1 + MOST_TRIED):
            if len(families) > 2 and _parts(families) > 1 and agrees(families):
                yield families
                break


def _distance(a: Sequence[PruningGroup], b: Sequence[PruningGroup]) -> tuple[bool, int]:
    """How far apart two families are: of other kinds, and with few modules around both."""
    paths = [members[0].name.rpartition(":")[0].split(".") for members in (a, b)]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*paths, strict=False)))
    return a[0].kind != b[0].kind, -shared


def _parts(families: Families) -> int:
    """Into how many parts the units of each of these groups can be dealt."""
    return math.gcd(*(group.units for members in families for group in members))


def _all_but_one_part(families: Families) -> dict[int, Kept]:
    """The same share of each of these groups: all but one part."""
    return _some_parts(families, _parts(families) - 1)


def _half_of_the_parts(families: Families) -> dict[int, Kept]:
    """The same share of each of these groups: more than half of the parts, if there are more than two."""
    return _some_parts(families, (_parts(families) + 1) // 2)


def _odd_parts(families: Families) -> dict[int, Kept] | None:
    """An odd number of parts next to half of them: of rotated dims beside others an even number may be needed."""
    numbers = range(3, _parts(families), 2)
    middle = (_parts(families) + 1) // 2
    return _some_parts(families, min(numbers, key=lambda number: abs(number - middle))) if numbers else None


def _some_parts(families: Families, count: int) -> dict[int, Kept]:
    """So many parts of each of these groups."""
    parts = _parts(families)
    return {
        atom: kept for members in families for atom, kept in _first(members, members[0].units // parts * count).items()
    }


def _shares(families: Families, step: int) -> dict[str, tuple[int, ...]]:
    """The numbers of units in some parts of each family: in all numbers of parts that ``step`` divides."""
    parts = _parts(families)
    numbers = [number for number in range(parts - 1, 0, -1) if number % step == 0]
    return {members[0].family: tuple(members[0].units // parts * number for number in numbers) for members in families}


def _last(groups: Iterable[PruningGroup], count: int) -> dict[int, Kept]:
    """The last ``count`` units of each of some groups."""
    return {group.atom.id: Kept(torch.arange(group.units) >= group.units - count) for group in groups}


def _first(groups: Iterable[PruningGroup], count: int) -> dict[int, Kept]:
    """The first ``count`` units of each of some groups."""
    return {group.atom.id: Kept(torch.arange(group.units) < count) for group in groups}


def _checks_of(traced: TracedModel) -> tuple[CutCheck, CutCheck]:
    """The checks by loud and by quiet random numbers, made on blocks of the model where those stand for others."""
    short, check_of = shorten(traced), cache(_check_of)

    def check(gain: float, keep: Keep) -> bool:
        if short is None or not short.shows(keep):
            return check_of(traced)(gain, keep)
        return check_of(short.traced)(gain, short.keep(keep))

    return partial(check, LOUD), partial(check, QUIET)


def _check_of(traced: TracedModel) -> Callable[[float, Keep], bool]:
    """The check whether two forms agree on random numbers in float64 or in the model's own types, or by shapes."""
    counted = counted_axes(traced.inference, traced.groups)
    if any(traced.program.tensor(name).is_meta for name in traced.table):
        return lambda _, keep: _runs(traced, counted, keep)
    in_float64 = partial(_agrees, traced, counted, torch.float64)
    return in_float64 if in_float64(LOUD, {}) else partial(_agrees, traced, counted, None)


def _agrees(
    traced: TracedModel, counted: Mapping[str, Counted], dtype: torch.dtype | None, gain: float, keep: Keep
) -> bool:
    """Whether the two forms compute the same from the same random numbers, in a type or in the model's own types."""
    tensors = _random_tensors(traced, keep, gain, dtype)
    try:
        module = patch_modules(traced.program, traced.inference, traced.groups, keep, tensors, counted)
    except GraphPruneError:
        return False
    make_graph = partial(recompute_shapes, traced.program, traced.inference, keep, tensors)
    return same_values(traced.program, make_graph, module, dtype)


def _random_tensors(traced: TracedModel, keep: Keep, gain: float, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Random parameters and the true buffers of a compact model, on its own devices; matrices times ``gain``."""
    program, inference = traced.program, traced.inference
    masks = parameter_masks(inference, keep)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys([*traced.table, *inference.parameter_dims]):
        info = traced.table.get(name)
        original = program.tensor(name).detach()
        if info is None or info.is_buffer or not original.is_floating_point():
            tensors[name] = slice_tensor(original, masks.get(name, [None] * original.ndim))
        else:
            shape = _cut_shape(traced, name, keep)
            tensors[name] = patterned(shape, dtype or original.dtype, generator, original.device, gain)
            if len(shape) == 1:  # scales about one and shifts about zero let through what comes before them
                row = slice_tensor(original, masks.get(name, [None]))
                tensors[name] = row.to(tensors[name]) + 0.1 * tensors[name]
    return tensors


DENSE = 1 << 22
"""Stacks of matrices of up to so many numbers are held in full."""


def patterned(
    shape: Sequence[int],
    dtype: torch.dtype,
    generator: torch.Generator,
    device: torch.device | None = None,
    gain: float = LOUD,
) -> Tensor:
    """Random numbers that take little memory, since they repeat; the same on each device.

    What matrices make of values is ``gain`` times as large.

    Each anti-diagonal of a matrix is one number, and a stack of matrices holds the same one, moved on by some places:
    grouped matmuls want matrices that are dense. What is no larger than the weight of a convolution is dense as a
    whole, since a module may view it in another shape.
    """
    *stack, rows, columns = (1, 1, *shape)[-max(2, len(shape)) :]
    strides = [*[STEP] * len(stack), columns, 1] if stack else [1, 1]
    needed = 1 + sum((size - 1) * stride for size, stride in zip((*stack, rows, columns), strides, strict=True))
    scale = gain / max(1, math.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 1.0
    line = torch.randn(max(1, needed), generator=generator).to(device, dtype) * scale
    made = line.as_strided(tuple(shape), strides[len(strides) - len(shape) :])
    return made.contiguous() if len(shape) > 2 and made.numel() <= DENSE else made


@_once_per_model
def config_cuts(traced: TracedModel, groups: Sequence[PruningGroup]) -> Cuts:
    """What the config of a transformers model can express of the families of some groups.

    All groups of a family then keep the same number of units, and the module form agrees with the graph form. A family
    with a buffer that is not saved (rotary frequencies) is not among them: it would be computed anew from the config.
    Of families that can only be cut together the model that the config makes is run too, since a config that has
    their size may use it for more: attention then divides by the root of the new one.
    """
    config = _config(traced.program.module)
    if config is None:
        return Cuts({})
    ask = _ConfigCheck.of(traced, config)
    counts: dict[str, tuple[int, ...]] = {}
    offers: list[Offer] = []
    for family, members in _families(groups):
        if members[0].kind == "lora_rank":
            counts[family] = tuple(range(members[0].units - 1, 0, -1))  # no config knows of adapters
        elif not any(_is_computed(traced, member.parameter) for group in members for member in group.members):
            offers.append(Offer(members, tuple(ask.accepted([members]))))
    agreeing, left = _agreeing(offers, *_checks_of(traced))
    counts |= agreeing
    ties: list[tuple[PruningGroup, ...]] = []
    for families in _together(left, lambda families: bool(ask.accepted(families)) and ask.agrees(families)):
        parts = _parts(families)
        kept = ask.accepted(families)
        counts |= {members[0].family: tuple(members[0].units // parts * n for n in kept) for members in families}
        ties.append(tuple(group for members in families for group in members))
    return Cuts(counts, tuple(ties))


@dataclass(frozen=True)
class _ConfigCheck:
    """Whether the config of a traced model can express a cut.

    ``kind`` is the class of the model without adapters, and ``names`` leads from the names of its tensors to those of
    the traced one.
    """

    traced: TracedModel
    config: Any
    counted: Mapping[str, Counted]
    kind: Any
    names: Mapping[str, str]

    @staticmethod
    def of(traced: TracedModel, config: Any) -> _ConfigCheck:
        plain = without_adapters(traced.program.module)
        counted = counted_axes(traced.inference, traced.groups)
        return _ConfigCheck(traced, config, counted, type(plain), _names_in(traced, plain))

    def patched(self, keep: Keep) -> Any:
        return patch_config(self.config, self.traced.program.module, self.counted, keep)

    def accepted(self, families: Families) -> list[int]:
        """The numbers of parts that the groups of some families may keep together; none where the shapes differ."""
        parts = _parts(families)
        counts = list(range(parts - 1, 0, -1))
        if counts and parts <= MOST_COUNTED:
            whole, patched = self.config.to_dict(), self.patched(_all_but_one_part(families)).to_dict()
            counts = [n for n in counts if _is_config(type(self.config), _scaled(whole, patched, n / parts, parts))]
        if not counts:
            return []
        keep = {
            atom: kept
            for members in families
            for atom, kept in _first(members, members[0].units // parts * counts[0]).items()
        }
        shapes = {ours: _cut_shape(self.traced, name, keep) for ours, name in self.names.items()}
        return counts if _misfit(self.kind, self.patched(keep), shapes) is None else []

    def agrees(self, families: Families) -> bool:
        """Whether the model that the config makes computes what the graph form does; not where there are no values."""
        keep = _all_but_one_part(families)
        traced = self.traced
        if any(traced.program.tensor(name).is_meta for name in traced.table):
            return False
        tensors = _random_tensors(traced, keep, LOUD, torch.float64)
        for name in tensors:
            if is_adapter(name):
                tensors[name] = torch.zeros_like(tensors[name])
        config = self.patched(keep)
        try:
            with quietly(), torch.device("meta"):
                made = self.kind(type(config).from_dict(config.to_dict()))
            _put(made, {ours: tensors[name] for ours, name in self.names.items()})
        except Exception:  # whatever a config or a constructor finds wrong with its numbers
            return False
        make_graph = partial(recompute_shapes, traced.program, traced.inference, keep, tensors)
        return same_values(traced.program, make_graph, made, torch.float64)


def _put(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module other tensors, of any types and shapes."""
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        place = module.get_submodule(owner)
        if attribute in place._parameters:
            place._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
        else:
            place._buffers[attribute] = tensor


def _scaled(whole: Any, patched: Any, share: float, parts: int) -> Any:
    """A setting of a config, or all in a mapping or a sequence, in which what is patched is a share of the whole.

    It is patched to all but one of ``parts``, from which it follows where it is None in the whole.
    """
    if whole == patched:
        return whole
    if isinstance(whole, Mapping):
        return {name: _scaled(old, patched[name], share, parts) for name, old in whole.items()}
    if isinstance(whole, list | tuple):
        return [_scaled(old, new, share, parts) for old, new in zip(whole, patched, strict=True)]
    return round((patched * parts / (parts - 1) if whole is None else whole) * share)


def _is_config(kind: Any, settings: Mapping[str, Any]) -> bool:
    """Whether a config can be made with some settings."""
    try:
        kind(**settings)
    except Exception:  # whatever a config finds wrong with its numbers
        return False
    return True


def is_transformers_model(module: nn.Module) -> bool:
    """Whether ``module`` is one of transformers, without adapters around it."""
    from transformers import PreTrainedModel

    return isinstance(module, PreTrainedModel)


def misfit(module: nn.Module) -> str | None:
    """What distinguishes a transformers model from the one that its own config makes, in shapes; None for nothing."""
    return _misfit(type(module), copy.deepcopy(module.config), shapes_by_name(module))


def _misfit(kind: Any, config: Any, found: Shapes) -> str | None:
    """What distinguishes the shapes of a model from those that a class of models makes from a config."""
    try:
        # as from_pretrained makes it, so that what a config checks about itself is checked
        with quietly(), torch.device("meta"):
            made = kind(type(config).from_dict(config.to_dict()))
    except Exception as error:  # whatever a config or a constructor finds wrong with its numbers
        return f"its config makes no {kind.__name__}: {first_line(error)}"
    wanted = shapes_by_name(made)
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            ours, theirs = (list(each[name]) if name in each else "missing" for each in (found, wanted))
            return f"{name} is {ours} here and {theirs} in the model that the config makes"
    return None


def _names_in(traced: TracedModel, plain: nn.Module) -> dict[str, str]:
    """From the names of the tensors in a part of a traced model, or in that without its adapters, to its own names."""
    names = {id(traced.program.tensor(name)): name for name in traced.table}
    named = (*plain.named_parameters(remove_duplicate=False), *plain.named_buffers(remove_duplicate=False))
    return {name: names[id(tensor)] for name, tensor in named}


def _cut_shape(traced: TracedModel, name: str, keep: Keep) -> tuple[int, ...]:
    if name not in traced.inference.parameter_dims:
        return traced.table[name].shape
    return tuple(kept_size(axis, keep) for axis in traced.inference.axes(name))


def _config(module: nn.Module) -> Any:
    """The config of a transformers model, with or without adapters around it; None for other modules."""
    config = getattr(getattr(module, "base_model", module), "config", None) or getattr(module, "config", None)
    return config if hasattr(config, "to_dict") else None


def _is_computed(traced: TracedModel, name: str) -> bool:
    """Whether a tensor is a buffer that no checkpoint holds."""
    info = traced.table.get(name)
    if info is None or not info.is_buffer:
        return False
    owner, _, attribute = name.rpartition(".")
    return attribute in traced.program.module.get_submodule(owner)._non_persistent_buffers_set


def _runs(traced: TracedModel, counted: Mapping[str, Counted], keep: Keep) -> bool:
    """Whether the module form, full of zeros, runs on inputs like those that the model was traced with."""
    zeros = {
        name: torch.zeros(_cut_shape(traced, name, keep), dtype=traced.program.tensor(name).dtype)
        for name in traced.table
    }
    module = patch_modules(traced.program, traced.inference, traced.groups, keep, zeros, counted)

    def on_host(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.zeros_like(value, device="cpu") if value.is_meta else value.cpu()

    args, kwargs = tree_map(on_host, tuple(traced.args)), tree_map(on_host, dict(traced.kwargs))
    try:
        with inference_mode_of(module):
            module(*args, **kwargs)
    except Exception:  # whatever a forward finds wrong with its shapes
        return False
    return True


def _families(groups: Iterable[PruningGroup]) -> Iterator[tuple[str, list[PruningGroup]]]:
    members: dict[str, list[PruningGroup]] = {}
    for group in groups:
        members.setdefault(group.family, []).append(group)
    yield from members.items()

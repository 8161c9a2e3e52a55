"""From scores to a plan: which units go so that a true budget is met.

Every group (or, with ``homogeneous``, every family of groups) is a ladder whose rungs are the numbers of units that it
may keep, each with a price (see :mod:`graphprune.ladders`). Rungs are taken from the cheapest on, over all ladders,
until the budget is met; a rung that would overshoot is left, and cheaper ones are taken instead, so the result is as
close to the budget as one unit of the smallest group.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .budget import Budget, Counts, Of, is_adapter, mac_cost, parameter_cost
from .constraints import MOST_NAMED, Constraints, PerKind
from .errors import BudgetError, PlanError
from .expressible import config_cuts, is_configured, module_cuts
from .groups import PruningGroup
from .kinds import asked_as, choose_groups, what_holds
from .ladders import Ladder, Normalize, Scope, build_ladders
from .latency import LatencyTable
from .layers import outside_layers
from .plan import GroupPlan, KeptUnits, PruningPlan, unit_problem
from .scores import Scores
from .traced import TracedModel

TOLERANCE = 0.002
"""By how much of the whole a plan may exceed its budget before smaller steps are tried instead."""

Form = Literal["graph", "module"]
"""Which form of the compact model is wanted."""

Target = Literal["hf"]
"""What must load the result: plain transformers."""


def select(
    traced: TracedModel,
    scores: Scores,
    *,
    ratio: float | Mapping[str, float],
    of: Of | LatencyTable = "parameters",
    scope: Scope = "global",
    skip_layers: Sequence[int] = (),
    normalize: Normalize | None = "group",
    homogeneous: bool = False,
    constraints: Constraints | None = None,
    multiple_of: PerKind | None = None,
    min_units: PerKind | None = None,
    only: str | Sequence[str] | None = None,
    ignore: str | Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    form: Form = "graph",
    target: Target | None = None,
    within: PruningPlan | None = None,
) -> PruningPlan:
    """The plan that removes a share ``ratio`` of the model with the least important units.

    ``of`` says what the share is of; a :class:`graphprune.LatencyTable` makes it a share of measured time. ``ratio``
    may also be one ratio for each kind of groups, as in ``{"heads": 0.2, "channels": 0.3}``: each is then the share
    of what the units of that kind hold, and kinds that are not named stay whole.

    ``scope="layer"`` takes the same share of every layer (the outermost numbered modules), ``"group"`` the same share
    of every group; ``skip_layers`` are the positions of layers that stay whole, -1 for the last. ``normalize`` says
    what the scores of a group are relative to when groups are compared: the mean of the group or of its kind, their
    root mean square (``"group_l2"``, ``"kind_l2"``), or nothing (None: the importance of a parameter as it is).

    ``homogeneous`` keeps the same number of units in the groups of a family (the same part of each layer); of a
    transformers model only what its config can express is then cut, so that ``from_pretrained`` loads the result.
    ``form="module"`` cuts only what the module form can cut; the graph form can always be cut. ``target="hf"`` is
    ``homogeneous`` for a model that plain transformers must load, and refuses one that has no config.

    ``constraints`` hold beside the budget (see :class:`graphprune.Constraints`); ``multiple_of``, ``min_units``,
    ``only`` and ``ignore`` are short forms that take the place of theirs. ``kinds`` restricts what is cut, and is how
    the ranks of adapters (``"lora_rank"``), what a router chooses from (``"experts"``) and groups that a normalisation
    takes its statistic over (``"statistics"``, the residual width) are asked for. ``within`` is an earlier plan: what
    it removes stays removed.

    Raises:
        BudgetError: the ratio is not in (0, 1), or more than can be removed; says the largest that can.
        PlanError: a group that the constraints name can't be cut so.
        ScoreError: a score is missing or not finite.
    """
    _check_settings(ratio, scope, normalize, target)
    if target == "hf":
        if not is_configured(traced):
            raise PlanError(
                f"{type(traced.module).__name__} is no model of transformers, so no config can say what is left of it: "
                'select without target="hf"'
            )
        homogeneous = True
    if isinstance(ratio, Mapping):
        if kinds is not None:
            raise PlanError("ratio names the kinds that are cut already: leave kinds out")
        kinds = tuple(ratio)
    short = {"multiple_of": multiple_of, "min_units": min_units, "only": only, "ignore": ignore}
    given: dict[str, Any] = {name: value for name, value in short.items() if value is not None}
    rules = replace(constraints or Constraints(), **given)
    fixed = rules.fixed_groups(traced)
    groups = [group for group in choose_groups(traced, kinds) if group.name not in fixed]
    groups = rules.choose(traced, groups) if groups else groups
    groups = wanted = outside_layers(traced, groups, skip_layers)
    loose = "with homogeneous=False" if target is None else f"without target={target!r}"
    allowed: Mapping[str, tuple[int, ...]] | None = None
    joint: list[tuple[PruningGroup, ...]] = []
    if homogeneous and is_configured(traced):
        families = _whole_families(traced, groups)
        groups = [group for group in groups if group.family in families]
        cuts = config_cuts(traced, [*groups, *fixed.values()])
        groups, joint = cuts.choose(groups)
        allowed = cuts.counts
        _check_configured(traced, rules, fixed.values(), allowed, loose)
    elif form == "module":
        cuts = module_cuts(traced, groups)
        groups, joint = cuts.choose(groups)
        allowed = cuts.counts
    if allowed is not None:
        configured = homogeneous and is_configured(traced)
        form_and_remedy = ("the config", loose) if configured else ("the module form", 'with form="graph"')
        _check_asked(traced, rules, kinds, wanted, groups, form_and_remedy)
    ties = [*rules.ties(traced, groups), *joint]
    if not groups and not fixed and skip_layers:
        raise BudgetError("nothing outside the layers that are skipped can be cut in this way: skip fewer of them")
    if not groups and not fixed:
        raise BudgetError(f"nothing of this model can be cut in this way: {what_holds(traced)}")
    cost, whole = _cost(traced, of, [*groups, *fixed.values()])
    gone = {} if within is None else _removed(traced, within)
    kept = {name: _fixed(group, rules.fixed[name], scores, gone.get(name)) for name, group in fixed.items()}
    ladders = build_ladders(groups, scores, homogeneous, rules, gone, allowed, ties, scope=scope, normalize=normalize)
    ladders += [_fixed_ladder(group, GroupPlan(group.units, kept[name]).count) for name, group in fixed.items()]
    counts = {atom: count for ladder in ladders for atom, count in ladder.counts(ladder.top).items()}
    for own, amount, base in _budgets(ladders, cost, ratio, whole):
        _check_fixed([ladder for ladder in own if ladder.groups[0].name in fixed], cost, amount, base)
        counts |= fill(own, cost, amount, base)
    kept |= {g.name: _kept(g, scores[g.name], gone.get(g.name), counts[g.atom.id]) for g in groups}
    plans = {name: GroupPlan(traced.groups[name].units, units) for name, units in kept.items()}
    about: dict[str, Any] = {"ratio": ratio if isinstance(ratio, float | int) else dict(ratio)}
    about |= {"of": of if isinstance(of, str) else "latency", "homogeneous": homogeneous, "criterion": scores.criterion}
    about |= {} if scope == "global" else {"scope": scope}
    about |= {} if normalize == "group" else {"normalize": normalize}
    about |= {"skip_layers": list(skip_layers)} if skip_layers else {}
    about |= {} if target is None else {"target": target}
    # what an earlier plan removed may be zero by now, and the weights tuned
    weights = traced.weights if within is None else within.weights
    cut = {name: plan for name, plan in plans.items() if plan.count < plan.units}
    return PruningPlan(traced.fingerprint, cut, about, weights)


def _check_settings(ratio: float | Mapping[str, float], scope: str, normalize: str | None, target: str | None) -> None:
    for share in ratio.values() if isinstance(ratio, Mapping) else [ratio]:
        if not 0 < share < 1:
            raise BudgetError(f"the ratio must lie between 0 and 1, not {share}: 0.5 removes half")
    settings = (("scope", scope, Scope), ("normalize", normalize, Normalize), ("target", target, Target))
    for name, given, choices in settings:
        if given is not None and given not in get_args(choices):
            raise PlanError(f"{name} must be one of {', '.join(get_args(choices))}, not {given!r}")


def _budgets(
    ladders: Sequence[Ladder], cost: Budget, ratio: float | Mapping[str, float], whole: int
) -> Iterator[tuple[list[Ladder], float, int]]:
    """Ladders with what they remove together, and what that is a share of: all of them, or those of each kind.

    Raises:
        BudgetError: nothing of a kind can be cut.
    """
    if not isinstance(ratio, Mapping):
        yield list(ladders), whole * ratio, whole
        return
    for kind, share in ratio.items():
        own = [ladder for ladder in ladders if asked_as(ladder.groups[0]) == kind]
        if not own:
            raise BudgetError(f"no {kind} of this model can be cut in this way: take them out of ratio")
        held = cost({}) - cost({atom: 0 for ladder in own for atom in ladder.counts(0)})
        yield own, share * held, held


def _fixed_ladder(group: PruningGroup, count: int) -> Ladder:
    return Ladder((group,), group.units, count, (), torch.zeros(0, dtype=torch.float64))


def can_be_smaller(traced: TracedModel, about: Mapping[str, Any], step: int = 1) -> set[str]:
    """The names of the groups that are cut by default and have a smaller size in what a plan says ``about`` itself.

    They may be outside the layers that it skips, and of a size that a config can say where it is homogeneous. Channels
    are kept in multiples of ``step``. Other constraints are not in a plan, and not seen here.
    """
    groups = outside_layers(traced, list(traced.groups.prunable), about.get("skip_layers", ()))
    allowed: Mapping[str, tuple[int, ...]] = {}
    if about.get("homogeneous") and is_configured(traced):
        families = _whole_families(traced, groups)
        groups = [group for group in groups if group.family in families]
        cuts = config_cuts(traced, groups)
        groups, _ = cuts.choose(groups)
        allowed = cuts.counts
    return {
        group.name
        for group in groups
        if any(
            number % (step if group.kind == "channels" else 1) == 0
            for number in allowed.get(group.family, range(1, group.units))
        )
    }


def kinds_of(
    traced: TracedModel,
    *,
    ratio: float | Mapping[str, float],
    kinds: Sequence[str] | None = None,
    constraints: Constraints | None = None,
    **others: object,
) -> list[str]:
    """The kinds of the groups that :func:`select` may cut with these of its options: no others need scores.

    Raises:
        BudgetError: there are none; says why.
        PlanError: there is no group of a kind, or none that the constraints name.
    """
    groups = choose_groups(traced, tuple(ratio) if isinstance(ratio, Mapping) else kinds)
    fixed = {} if constraints is None else constraints.fixed_groups(traced)
    return list(dict.fromkeys(asked_as(group) for group in [*groups, *fixed.values()]))


def removed_share(
    traced: TracedModel, plan: PruningPlan, *, of: Of | LatencyTable = "parameters", kinds: Sequence[str] | None = None
) -> float:
    """The share of a model that a plan removes, in the unit of a budget (see :func:`select`).

    Raises:
        PlanError: the plan is for another model.
    """
    cost, whole = _cost(traced, of, choose_groups(traced, kinds))
    return (cost({}) - cost(plan.counts(traced))) / whole


def _cost(traced: TracedModel, of: Of | LatencyTable, groups: Iterable[PruningGroup]) -> tuple[Budget, int]:
    """The cost that the budget is in, and the amount that a ratio is a share of."""
    if isinstance(of, LatencyTable):
        time = of.cost(traced)
        return time, time({})
    if of == "macs":
        cost = mac_cost(traced.inference)
        return cost, cost({})
    cost = parameter_cost(traced, (lambda name: not is_adapter(name)) if of == "base" else (lambda name: True))
    if of == "prunable":
        return cost, cost({}) - cost({group.atom.id: 0 for group in groups})
    return cost, cost({})


def _whole_families(traced: TracedModel, groups: Collection[PruningGroup]) -> set[str]:
    """The families of which every group is among ``groups``."""
    names = {group.name for group in groups}
    broken = {group.family for group in traced.groups if group.name not in names}
    return {group.family for group in groups} - broken


def _check_configured(
    traced: TracedModel,
    rules: Constraints,
    fixed: Collection[PruningGroup],
    allowed: Mapping[str, tuple[int, ...]],
    remedy: str,
) -> None:
    """Check that a config can express what is fixed.

    Raises:
        PlanError: it can't.
    """
    whole = _whole_families(traced, fixed)
    counts: dict[str, int] = {}
    for group in fixed:
        given = rules.fixed[group.name]
        count = given if isinstance(given, int) else GroupPlan(group.units, given).count
        same = counts.setdefault(group.family, count) == count and group.family in whole
        if not same or (count < group.units and count not in allowed.get(group.family, ())):
            raise PlanError(
                f"the config of the model can't express {count} units of {group.name}: fix the same number, one that "
                f"it accepts, in every layer, or select {remedy}"
            )


def _check_asked(
    traced: TracedModel,
    rules: Constraints,
    kinds: Sequence[str] | None,
    wanted: Sequence[PruningGroup],
    left: Sequence[PruningGroup],
    form_and_remedy: tuple[str, str],
) -> None:
    """Check that something is left of each kind and of each part of the model that was asked for by name.

    Raises:
        BudgetError: the wanted form of the model can cut none of it; names the groups.
    """
    asked = {f"kinds={[kind]!r}": [group for group in wanted if asked_as(group) == kind] for kind in kinds or ()}
    asked |= {f"only={glob!r}": groups for glob, groups in rules.pointed_at(traced, wanted).items()}
    form, remedy = form_and_remedy
    for what, groups in asked.items():
        if groups and not any(group in left for group in groups):
            names = ", ".join(group.name for group in groups[:MOST_NAMED])
            more = f" and {len(groups) - MOST_NAMED} more" if len(groups) > MOST_NAMED else ""
            raise BudgetError(
                f"{what} asks for {names}{more}, for which {form} has no smaller size: select {remedy}, or leave it out"
            )


def _check_fixed(fixed: Iterable[Ladder], cost: Budget, target: float, base: int) -> None:
    counts = {atom: count for ladder in fixed for atom, count in ladder.counts(ladder.top).items()}
    removed = cost({}) - cost(counts)
    if removed > target + TOLERANCE * cost({}):
        raise BudgetError(
            f"the groups that are fixed remove {removed / base:.1%}, more than the {target / base:.1%} that are asked "
            "for: raise the ratio, or fix more units"
        )


def _fixed(group: PruningGroup, given: int | KeptUnits, scores: Scores, gone: Tensor | None) -> KeptUnits:
    """The units that stay of a group that is fixed.

    Raises:
        PlanError: they are not units of the group, or some are gone already.
    """
    left = group.units if gone is None else int((~gone[0]).sum())
    if isinstance(given, int):
        if given > left:
            raise PlanError(f"fixed keeps {given} units of {group.name}, of which the earlier plan left {left}")
        return _kept(group, scores[group.name], gone, given)
    plan = GroupPlan(group.units, given)
    problem = unit_problem(group.name, group.units, plan.rows)
    if problem is not None:
        raise PlanError(problem)
    if gone is not None and bool((gone & plan.mask().reshape(-1, group.units)).any()):
        raise PlanError(f"fixed keeps units of {group.name} that the earlier plan removed")
    return given


def _removed(traced: TracedModel, plan: PruningPlan) -> dict[str, Tensor]:
    """The units that a plan removes, ``[1 or slots, units]`` for each group that it cuts."""
    plan.keep(traced)  # says so if the plan is for another model
    return {name: ~group.mask().reshape(-1, group.units) for name, group in plan.groups.items()}


def fill(ladders: Sequence[Ladder], cost: Budget, target: float, base: int) -> dict[int, int]:
    """The number of kept units by atom id that removes as nearly ``target`` of the cost as one step allows.

    Raises:
        BudgetError: every ladder at its last rung removes less; says the largest share of ``base`` that can be removed.
    """
    whole = cost({})
    meter = Meter(cost, {atom: count for ladder in ladders for atom, count in ladder.counts(ladder.top).items()})
    floor = {atom: n for ladder in ladders if ladder.kept for atom, n in ladder.counts(ladder.kept[-1]).items()}
    most = whole - cost({**meter.counts, **floor})
    finest = min((meter.saving(ladder.counts(ladder.kept[0])) for ladder in ladders if ladder.kept), default=0)
    if most < target - max(finest, 1):
        names = ", ".join(sorted({group.kind for ladder in ladders for group in ladder.groups}))
        raise BudgetError(
            f"a share of {target / base:.1%} can't be removed: the most is {most / base:.1%} with the groups "
            f"that may be cut ({names}); lower the ratio, min_units or multiple_of, or allow more kinds of groups"
        )
    taken = _safe_steps(ladders, cost, meter.counts, target)
    for ladder, steps in zip(ladders, taken, strict=True):
        if steps:
            meter.apply(ladder.counts(ladder.kept[steps - 1]))
    left = enumerate(zip(ladders, taken, strict=True))
    queue = [(float(ladder.prices[steps]), index, steps) for index, (ladder, steps) in left if steps < len(ladder.kept)]
    heapq.heapify(queue)
    removed, slack = whole - cost(meter.counts), TOLERANCE * whole
    deferred: list[dict[int, int]] = []
    while queue and removed < target:
        _, index, rung = heapq.heappop(queue)
        ladder = ladders[index]
        change = ladder.counts(ladder.kept[rung])
        saving = meter.saving(change)
        if removed + saving > target + slack:
            deferred.append(change)  # too large a step: cheaper ones of other ladders may still fit
            continue
        meter.apply(change)
        removed += saving
        if rung + 1 < len(ladder.kept):
            heapq.heappush(queue, (float(ladder.prices[rung + 1]), index, rung + 1))
    overshoots = [(removed + meter.saving(change) - target, change) for change in deferred]
    best = min(overshoots, key=lambda each: each[0], default=None)
    if best is not None and best[0] < target - removed:
        meter.apply(best[1])
    return dict(meter.counts)


def _safe_steps(ladders: Sequence[Ladder], cost: Budget, top: Counts, target: float) -> list[int]:
    """How many steps of each ladder go before all that are cheaper than any other remove ``target`` of the cost.

    A cost never grows while units go, so that the number of steps is found by halving.
    """
    lengths = torch.tensor([len(ladder.prices) for ladder in ladders])
    prices = torch.cat([ladder.prices for ladder in ladders])
    order = torch.arange(len(ladders)).repeat_interleave(lengths)[prices.argsort(stable=True)]
    whole = cost({})

    def steps(count: int) -> list[int]:
        return order[:count].bincount(minlength=len(ladders)).tolist()

    def removed(count: int) -> int:
        counts = dict(top)
        for ladder, taken in zip(ladders, steps(count), strict=True):
            counts |= ladder.counts(ladder.kept[taken - 1]) if taken else {}
        return whole - cost(counts)

    return steps(bisect_left(range(1, len(order) + 1), target, key=removed))


class Meter:
    """A cost that is kept up to date while units are removed: each step costs only the terms that it changes."""

    def __init__(self, cost: Budget, counts: Counts):
        self.counts = dict(counts)
        self._cost = cost
        self._by_atom = cost.by_atom()
        self._sizes = [cost.term(index, self.counts) for index in range(len(cost.terms))]
        self.total = cost.constant + sum(self._sizes)

    def _changed(self, change: Counts) -> dict[int, int]:
        counts = _Overlay(self.counts, change)
        touched = {index for atom in change for index in self._by_atom.get(atom, ())}
        return {index: self._cost.term(index, counts) for index in touched}

    def saving(self, change: Counts) -> int:
        """How much less the model costs after a change of kept units."""
        return sum(self._sizes[index] - new for index, new in self._changed(change).items())

    def apply(self, change: Counts) -> None:
        """Make a change of kept units."""
        for index, new in self._changed(change).items():
            self._sizes[index] = new
        self.counts.update(change)


class _Overlay(dict[int, int]):
    """One changed count over many others, without copying them."""

    def __init__(self, below: Counts, change: Counts):
        super().__init__(change)
        self.below = below

    def get(self, key: int, default: int) -> int:  # type: ignore[override]
        return self[key] if key in self else self.below.get(key, default)


def _kept(
    group: PruningGroup, score: Tensor, gone: Tensor | None, count: int
) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
    """The units with the highest scores, in each slot if the scores have slots; ties keep the lower index."""
    rows = score.reshape(-1, group.units).double()
    if gone is not None:
        rows = rows.masked_fill(gone, -torch.inf)
    order = rows.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
    kept = tuple(tuple(row) for row in order.tolist())
    return kept if score.ndim == 2 or len(kept) > 1 else kept[0]

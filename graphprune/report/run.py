"""The report of a pruning run as data: what was measured, what is kept of each group, how units were scored, and how
loss and sparsity went. Plain values, which are written to a JSON file and read from it::

    {"format": "graphprune-report/1", "title": …, "of": "base", "ratio": 0.2, "criterion": "lora",
     "models": [{"name": "dense", "parameters": …, "macs": …, "perplexity": …, "torch_ms": …, …}, …],
     "groups": [{"name": …, "kind": "channels", "layer": "model.layers.0", "units": 1536, "kept": 1020,
                 "status": "prunable", "reason": ""}, …],
     "scores": [{"kind": "channels", "edges": [0.001, …, 1000.0], "kept": [0, …], "removed": [12, …], "left_out": 0}],
     "history": [{"step": 1, "loss": 2.31, "sparsity": 0.0}, …],
     "notes": ["perplexity on …", …], "settings": {"steps": 300, …}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..budget import is_adapter, mac_cost, parameter_cost
from ..files import reading, write_text_atomically
from ..groups import PruningGroup
from ..layers import home_of
from ..plan import GroupPlan, PruningPlan
from ..scores import Scores
from ..selection import can_be_smaller
from ..traced import TracedModel
from ..training.metrics import LoggedStep
from .tables import Measurement

FORMAT = "graphprune-report/1"

DECADES, BINS_IN_DECADE = 3, 10
"""How far the histograms of scores go to either side of the cut, and how fine they are."""


@dataclass(frozen=True)
class GroupRow:
    """What is kept of a group. ``layer`` is the path of the numbered module that it is in, empty where it is in none.

    ``kept`` counts units, of a group with slots those in each slot; ``status`` and ``reason`` are those of the group,
    or :data:`NO_SMALLER`.
    """

    name: str
    kind: str
    layer: str
    units: int
    kept: int
    status: str
    reason: str

    @property
    def can_go(self) -> bool:
        """Whether units of it can be cut without being asked for, or were."""
        return self.status == "prunable" or self.kept < self.units


@dataclass(frozen=True)
class ScoreRow:
    """The scores of the units of a kind, each divided by the least one that is kept in its group (and slot): its cut.

    ``kept`` and ``removed`` count the units between two ``edges``, the first and the last also those beyond. Only
    groups of which something was removed have a cut; ``left_out`` counts the units of those whose cut is zero.
    """

    kind: str
    edges: tuple[float, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    left_out: int = 0


@dataclass(frozen=True)
class RunReport:
    """Everything that the report of a run shows; :func:`graphprune.report_run` makes one.

    ``models`` are what was measured, the dense model first; ``of`` and ``ratio`` are the budget, ``notes`` say how it
    was measured, a sentence each, and ``settings`` are those of the run.
    """

    title: str
    models: tuple[Measurement, ...]
    groups: tuple[GroupRow, ...]
    of: str = "parameters"
    ratio: float | None = None
    criterion: str = ""
    scores: tuple[ScoreRow, ...] = ()
    history: tuple[LoggedStep, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The report as JSON text; a number that is not finite is null."""
        return json.dumps(_finite({"format": FORMAT, **asdict(self)}), indent=1) + "\n"

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the report to a JSON file, wholly or not at all.

        Raises:
            OutputExistsError: the file exists and ``overwrite`` is false.
        """
        write_text_atomically(path, self.to_json(), overwrite=overwrite)

    @staticmethod
    def load(path: str | Path) -> RunReport:
        """Read a report from a JSON file.

        Raises:
            FileFormatError: there is no such file, or it holds no report.
        """
        with reading(path, "a report of a run"):
            body = json.loads(Path(path).read_text(encoding="utf-8"))
            if body.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            rows = {
                "models": tuple(Measurement(**row) for row in body["models"]),
                "groups": tuple(GroupRow(**row) for row in body["groups"]),
                "scores": tuple(_score_row(row) for row in body["scores"]),
                "history": tuple(LoggedStep(**row) for row in body["history"]),
                "notes": tuple(body["notes"]),
            }
            return RunReport(**{**body, **rows})


def report_run(
    traced: TracedModel,
    plan: PruningPlan,
    models: Sequence[Measurement] = (),
    *,
    title: str = "",
    scores: Scores | Sequence[ScoreRow] = (),
    history: Iterable[LoggedStep] = (),
    notes: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> RunReport:
    """The report of pruning a model by a plan, from what is known of it::

        report = gp.report_run(callback.traced, callback.plan, scores=callback.scores, history=callback.history)
        gp.write_report(report, "report")

    Args:
        traced: the model that the plan is for.
        plan: what is kept.
        models: what was measured, the dense model first. Without it there are its parameters and multiply-accumulates
            for the inputs that it was traced with, and what the plan leaves of them.
        title: what the report is of; the class of the model by default.
        scores: what units were selected by, or what :func:`score_rows` has made of it.
        history: the steps of the training.
        notes: sentences on how it was measured.
        settings: those of the run.

    Raises:
        PlanError: the plan is for another model.
        ScoreError: the scores have nothing for a group that was cut.
    """
    ratio = plan.about.get("ratio")
    return RunReport(
        title=title or type(traced.module).__name__,
        models=tuple(models) or predicted(traced, plan),
        groups=group_rows(traced, plan, step=int((settings or {}).get("multiple_of", 1))),
        of=str(plan.about.get("of", "parameters")),
        ratio=float(ratio) if isinstance(ratio, int | float) else None,
        criterion=str(plan.about.get("criterion", "")),
        scores=score_rows(traced, plan, scores) if isinstance(scores, Scores) else tuple(scores),
        history=tuple(history),
        notes=tuple(notes),
        settings=dict(settings or {}),
    )


def predicted(traced: TracedModel, plan: PruningPlan) -> tuple[Measurement, Measurement]:
    """The parameters and multiply-accumulates of a model, and of what a plan leaves of it, without making that.

    Adapters do not count as parameters where the budget of the plan is a share of the others.
    """
    counts = plan.counts(traced)
    base = plan.about.get("of") == "base"
    parameters = parameter_cost(traced, lambda name: not (base and is_adapter(name)))
    macs = mac_cost(traced.inference)
    return (
        Measurement("dense", parameters=parameters({}), macs=macs({})),
        Measurement("pruned", parameters=parameters(counts), macs=macs(counts)),
    )


NO_SMALLER = "it could be cut, but what was asked for allows no smaller size of it"


def group_rows(traced: TracedModel, plan: PruningPlan, *, step: int = 1) -> tuple[GroupRow, ...]:
    """What a plan keeps of each group, where channels are kept in multiples of ``step``.

    Raises:
        PlanError: the plan is for another model.
    """
    kept = plan.counts(traced)
    can_shrink = can_be_smaller(traced, plan.about, step)

    def why(group: PruningGroup) -> str:
        whole = group.status == "prunable" and group.name not in plan.groups
        return NO_SMALLER if whole and group.name not in can_shrink else group.reason

    return tuple(
        GroupRow(g.name, g.kind, home_of(g), g.units, kept.get(g.atom.id, g.units), g.status, why(g))
        for g in traced.groups
    )


def score_rows(traced: TracedModel, plan: PruningPlan, scores: Scores) -> tuple[ScoreRow, ...]:
    """Histograms of the scores of what a plan cuts, by kind.

    Raises:
        ScoreError: the scores have nothing for a group that the plan cuts.
    """
    found: dict[str, list[torch.Tensor]] = {}
    left_out: dict[str, int] = {}
    for name, group in plan.groups.items():
        kind = traced.groups[name].kind
        counts, missed = _counts(group, scores[name].detach().cpu().double())
        found.setdefault(kind, []).append(counts)
        left_out[kind] = left_out.get(kind, 0) + missed
    edges = tuple(10 ** (at / BINS_IN_DECADE) for at in range(-DECADES * BINS_IN_DECADE, DECADES * BINS_IN_DECADE + 1))
    rows = {kind: sum(each[1:], each[0]).tolist() for kind, each in found.items()}
    return tuple(
        ScoreRow(kind, edges, tuple(kept), tuple(removed), left_out[kind]) for kind, (removed, kept) in rows.items()
    )


def _counts(group: GroupPlan, scores: torch.Tensor) -> tuple[torch.Tensor, int]:
    """How many removed and kept units lie in each bin, ``[2, bins]``, and how many in rows without a cut."""
    bins = 2 * DECADES * BINS_IN_DECADE
    counts, left_out = torch.zeros(2, bins, dtype=torch.long), 0
    values = scores.reshape(-1, group.units)
    masks = group.mask().reshape(-1, group.units).expand(len(values), -1)
    for row, mask in zip(values, masks, strict=True):
        cut = float(row[mask].min())
        if not 0 < cut < math.inf:
            left_out += len(row)
            continue
        # the cut itself is the first of its bin: log10(1) is 0 to the bit
        place = (torch.log10(row / cut) * BINS_IN_DECADE).floor().nan_to_num(nan=-bins, neginf=-bins) + bins // 2
        for side, chosen in enumerate((~mask, mask)):
            counts[side] += torch.bincount(place[chosen].clamp(0, bins - 1).long(), minlength=bins)
    return counts, left_out


def _score_row(row: Mapping[str, Any]) -> ScoreRow:
    lists = {name: tuple(row[name]) for name in ("edges", "kept", "removed")}
    return ScoreRow(**{**row, **lists})


def _finite(value: Any) -> Any:
    """The value as JSON can hold it: JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

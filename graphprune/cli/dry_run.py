"""What ``--dry-run`` shows: what would be cut, from the config of a model alone; nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .console import show, show_table, stage

if TYPE_CHECKING:
    from ..plan import PruningPlan
    from ..scores import Scores
    from ..traced import TracedModel
    from ..training.config import PruneConfig


def dry_prune(model: str, config: PruneConfig, *, adapter: Path | None = None) -> None:
    """Show what the budget of a run comes to: a cut for scores that are spread evenly within every group.

    The share is that of any scores. How many units of which groups make it up is known only once they are scored.

    Raises:
        SourceError: there is no such model.
        BudgetError: the ratio can't be met.
    """
    from ..selection import select

    with stage("trace without weights"):
        traced = _traced(model, adapter, config.window)
    with stage("select"):
        plan = select(traced, even_scores(traced), ratio=config.ratio, **config.selection())
    show_cut(traced, plan)
    show()
    alike = ", the same number in every layer" if config.homogeneous else ""
    show(f"Known before scoring: {config.ratio:.1%} of {config.of} go{alike}.")
    show(f"Known only after scoring ({config.criterion}): which units go, and how many of each group.")
    show("This is the cut for scores that are spread evenly within every group. Nothing was written.")


def dry_apply(
    plan_file: Path, model: str, output: Path | None, *, adapter: Path | None = None, by_shard: bool | None = None
) -> None:
    """Show what a saved plan cuts of a model, exactly, and in which way it would be cut.

    Raises:
        OutputExistsError: ``output`` exists.
        FileFormatError: the plan can't be read.
        SourceError: there is no such model.
        PlanError: the plan was made for another model.
    """
    from ..files import refuse_existing
    from ..plan import PruningPlan
    from .apply import find_subject
    from .tracing import trace_named

    if output is not None:
        refuse_existing(output)
    subject = find_subject(PruningPlan.load(plan_file), model, adapter, by_shard)
    show_cut(trace_named(subject.model) if subject.files is None else subject.files.traced, subject.plan)
    show()
    way = "file by file, in little memory" if subject.by_shard else "in memory, and verified"
    show(f"It would be cut {way}. Its weights were not compared with those of the plan. Nothing was written.")


def even_scores(traced: TracedModel) -> Scores:
    """Scores by which every group is worth the same: its units have 1, 2, 3, … of them."""
    import torch

    from ..scores import Scores

    return Scores("even", {group.name: torch.arange(1.0, group.units + 1) for group in traced.groups.cuttable})


def show_cut(traced: TracedModel, plan: PruningPlan) -> None:
    """Print what a plan keeps of each group that it cuts, and the parameters and products before and after."""
    from ..budget import is_adapter, mac_cost, parameter_cost
    from ..tables import count, plan_table

    show_table(plan_table(plan.groups))
    show()
    counts = plan.counts(traced)
    parameters = parameter_cost(traced, lambda name: not is_adapter(name))
    dense, left = parameters({}), parameters(counts)
    show(f"parameters: {dense:,} → {left:,}, {1 - left / dense:.1%} removed")
    batch, what = _example(traced)
    macs = mac_cost(traced.inference)
    dense, left = macs({}) // batch, macs(counts) // batch
    show(f"multiply-accumulates for {what}: {count(dense)} → {count(left)}, {1 - left / dense:.1%} removed")


def _example(traced: TracedModel) -> tuple[int, str]:
    """How many examples a model was traced with, and what one of them is."""
    shape = next(iter([*traced.args, *traced.kwargs.values()])).shape
    return shape[0], f"{shape[1]} tokens" if "input_ids" in traced.kwargs else "one input"


def _traced(model: str, adapter: Path | None, length: int) -> TracedModel:
    from ..sources.adapter import put_on
    from ..sources.examples import trace_by_config
    from .tracing import model_on_meta, trace_named

    if adapter is None:
        return trace_named(model, length=length)
    return trace_by_config(put_on(model_on_meta(model), adapter), length=length)

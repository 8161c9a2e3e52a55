"""Prune at once, without tuning: what ``graphprune prune --no-tune`` does, and what tuning is compared with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..compensation import compensate
from ..device import device_of
from ..pipeline import trace
from ..plan import PruningPlan
from ..progress import Parts, Progress, Watched
from ..reconstruction import reconstruct
from ..scores import Scores
from ..scoring import score
from ..selection import kinds_of, select
from ..traced import TracedModel
from .config import PruneConfig
from .finetune import with_adapters


class AtOnce(NamedTuple):
    """What pruning at once gives: the traced model, the plan for it, and the scores that it was made from."""

    traced: TracedModel
    plan: PruningPlan
    scores: Scores


def plan_at_once(
    model: nn.Module, windows: Tensor, config: PruneConfig, *, batches: int = 8, progress: Progress | None = None
) -> AtOnce:
    """The plan from the scores of the model as it is, on the first batches of a text.

    A criterion that needs gradients of adapters gets fresh ones, which change nothing of what the model computes. One
    that needs squared gradients gets them window by window, as LLM-Pruner takes them. With ``config.make_up`` the
    traced model that is returned makes up for removed units, from the same batches.

    Args:
        model: a causal language model; adapters are put into it where they are needed.
        windows: token ids ``[n, length]``.
        config: the settings; those of tuning are not used.
        batches: how many batches of ``config.batch_size`` windows are scored.
        progress: called with how far it has come, and how far it has to.

    Raises:
        CaptureError: the model can't be traced.
        ScoreError: the loss or the scores are not finite.
        BudgetError: the ratio can't be met.
        RewriteError: what takes in removed units has no bias that could make up for them.
    """
    criterion = config.make_criterion()
    if "lora_gradients" in criterion.needs:
        model = with_adapters(model, config)
    parts = Parts(progress, {"trace": 1, "score": 3, "make up": 3 * (config.make_up != "none")})
    traced = trace(model, progress=parts.part("trace"))
    size = 1 if "squared_gradients" in criterion.needs else config.batch_size
    pieces = windows[: config.batch_size * batches].to(device_of(model)).split(size)
    examples = [{"input_ids": batch} for batch in pieces]
    scored = Watched(examples, parts.part("score"))
    selection = {"ratio": config.ratio, **config.selection()}
    kinds = kinds_of(traced, **selection)
    scores = score(traced, criterion, data=scored if criterion.needs else None, kinds=kinds)
    plan = select(traced, scores, **selection)
    data = Watched(examples, parts.part("make up"))
    match config.make_up:
        case "bias":
            return AtOnce(*compensate(traced, plan, data), scores)
        case "weights":
            return AtOnce(*reconstruct(traced, plan, data), scores)
        case "none":
            return AtOnce(traced, plan, scores)

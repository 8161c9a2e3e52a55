"""Pruning while training, without a Trainer: what to do at each optimiser step.

1. With the gradients of a step present, every few steps, units are scored (never with a gradient of a base weight).
2. The scores go into a moving average (LoRAPrune, section 3.3).
3. The plan for the ratio that the schedule gives is made within the plan before: what is pruned stays pruned.
4. Pruned slices become zero in place, in base weights and adapters, and in trainable parameters again after every step
   of the optimiser, whose momentum would move them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..errors import TrainingError
from ..matrices import matrices
from ..passes.slice_parameters import DimMasks
from ..plan import PruningPlan
from ..schedule import ROUNDING, schedule_by_name
from ..scores import Scores
from ..scoring import score_units
from ..selection import removed_share, select
from ..traced import TracedModel
from .config import PruneConfig
from .masking import Slice, masks_of, removed_slices, zero


class Pruner:
    """The state of pruning during one training: the plan so far, and the moving average of the scores.

    Under data parallelism every process has the same averaged gradients, and so the same scores and the same plan.

    Raises:
        TrainingError: the model has nothing to train, or lacks the adapters that the criterion needs.
        BudgetError: the final ratio can't be met.
    """

    def __init__(self, traced: TracedModel, config: PruneConfig, total_steps: int):
        self.traced, self.config, self.total_steps = traced, config, total_steps
        self.criterion = config.make_criterion()
        self.schedule = schedule_by_name(config.schedule)
        self.plan = PruningPlan(traced.fingerprint, {})
        self.scores: Scores | None = None
        self.removed = 0.0
        """The share that is pruned so far, in the unit of the budget."""
        self._masks: dict[str, DimMasks] = {}
        self._trained: list[Slice] = []
        self._check()

    @property
    def last_step(self) -> int:
        """The step with which cool-down begins, the last at which something is pruned."""
        return max(1, math.ceil((1 - self.config.cooldown) * self.total_steps - ROUNDING))

    def is_due(self, step: int) -> bool:
        """Whether units are scored and pruned at a step; the first is 1."""
        if self.plan.about.get("step", 0) >= self.last_step:
            return False
        return step % self.config.interval == 0 or step >= self.last_step

    def target(self, step: int) -> float:
        """The ratio that is to be reached at a step."""
        if step >= self.last_step:
            return self.config.ratio
        config = self.config
        return self.schedule(step / self.total_steps, config.ratio, warmup=config.warmup, cooldown=config.cooldown)

    def gradients_are_finite(self) -> bool:
        """Whether no gradient holds NaN or infinity, before the optimiser makes weights of them."""
        gradients = [p.grad for p in self.traced.module.parameters() if p.requires_grad and p.grad is not None]
        return not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))

    def prune(self, step: int) -> None:
        """Score with the gradients as they are now, and prune to the ratio of a step.

        Raises:
            ScoreError: scores are not finite, or can't be made.
        """
        newer = score_units(self.traced, self.criterion)
        self.scores = newer if self.scores is None else self.scores.moving_average(newer, self.config.decay)
        ratio = self.target(step)
        if ratio > 0:
            self._apply(self._select(self.scores, ratio, step))

    def restore(self, plan: PruningPlan, scores: Scores | None) -> None:
        """Go on from an earlier state: its pruned slices become zero in a model that may still have them.

        Raises:
            PlanError: the plan is for another model.
        """
        self.scores = scores
        self._masks = {}
        self._apply(plan)

    def zero_trained(self) -> None:
        """Zeros in the pruned slices of trainable parameters, after a step of the optimiser."""
        zero(self._trained)

    def _select(self, scores: Scores, ratio: float, step: int) -> PruningPlan:
        within = self.plan if self.plan.groups else None
        plan = select(self.traced, scores, ratio=ratio, within=within, **self.config.selection())
        return replace(plan, about={**plan.about, "step": step, "steps": self.total_steps})

    def _apply(self, plan: PruningPlan) -> None:
        masks = masks_of(self.traced, plan)
        self._trained = removed_slices(self.traced, masks, {}, trainable=True)
        zero(removed_slices(self.traced, masks, self._masks, trainable=False))
        zero(self._trained)
        self.plan, self._masks = plan, masks
        self.removed = removed_share(self.traced, plan, of=self.config.of, kinds=self.config.kinds)

    def _check(self) -> None:
        """Find before the first step, and not in the middle, what can't work."""
        module = self.traced.module
        name = type(module).__name__
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise TrainingError(f"{name} has no trainable parameter: load its adapters with is_trainable=True")
        if self.criterion.needs_gradients and not any(m.adapters for m in matrices(self.traced).values()):
            raise TrainingError(
                f"the criterion {self.criterion.name!r} needs LoRA adapters, and {name} has none: wrap it with "
                "peft.get_peft_model(model, peft.LoraConfig(target_modules='all-linear')) first"
            )
        groups = self.traced.groups
        alike = Scores("check", {group.name: torch.ones(group.units) for group in groups if group.frozen is None})
        self._select(alike, self.config.ratio, 0)

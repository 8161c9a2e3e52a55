"""Pruning while training, in any training loop: what to do at each optimiser step.

1. With the gradients of a step present, every few steps, units are scored (never with a gradient of a base weight).
2. The scores go into a moving average (LoRAPrune, section 3.3).
3. The plan for the ratio that the schedule gives is made within the plan before: what is pruned stays pruned.
4. With ``make_up="weights"`` the base weights that stay make up for what goes.
5. Pruned slices become zero in place, in base weights and adapters, and in trainable parameters again after every step
   of the optimiser, whose momentum would move them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..compact import CompactModel
from ..device import device_of
from ..distributed import in_every_process, is_sharded, mean_of_processes, own_part
from ..errors import TrainingError
from ..gates import Gates
from ..groups import Groups
from ..kinds import choose_groups
from ..matrices import matrices
from ..passes.slice_parameters import DimMasks, masks_within
from ..pipeline import rewrite
from ..plan import PruningPlan
from ..schedule import ROUNDING, schedule_by_name
from ..scores import Scores
from ..scoring import require_adapters, score_units
from ..selection import removed_share, select
from ..traced import TracedModel
from .compaction import Compaction
from .config import PruneConfig
from .making_up import MakingUp
from .masking import Slice, masks_of, removed_slices, zero
from .metrics import KEPT, SPARSITY
from .wrapping import as_it_was_made


class Pruner:
    """The state of pruning during one training: the plan so far, and the moving average of the scores::

        pruner = gp.Pruner(gp.trace(model), gp.PruneConfig(ratio=0.5), total_steps)
        for number, batch in enumerate(batches, start=1):
            model(**batch).loss.backward()
            with pruner.step(number):
                optimizer.step()
            optimizer.zero_grad()
            pruner.cut_if_due(optimizer)  # with PruneConfig(compaction=…)
        compact = pruner.compact()

    Where several processes train the model together, each has a pruner and does the same with it: scores are averaged
    over the processes, so that all get the same plan. A model that ``fully_shard`` will shard is traced, and its
    pruner made, before that.

    Args:
        traced: the model that is trained, which then changes: what is pruned becomes zero.
        config: the settings; those of a run of its own (adapters, learning rate, …) are not used.
        total_steps: how many steps of the optimiser the training has.

    Raises:
        TrainingError: the model has nothing to train, or lacks the adapters that the criterion needs.
        ScoreError: no adapter is on any parameter of a group that can be cut, and the criterion needs one.
        BudgetError: the final ratio can't be met.
    """

    def __init__(self, traced: TracedModel, config: PruneConfig, total_steps: int):
        self.traced, self.config, self.total_steps = traced, config, total_steps
        self.criterion = config.make_criterion()
        self.schedule = schedule_by_name(config.schedule)
        self.plan = PruningPlan(traced.fingerprint, {}, weights=traced.weights)
        self.scores: Scores | None = None
        self._groups = Groups(tuple(choose_groups(traced, config.kinds)))
        self.removed = 0.0
        """The share that is pruned so far, in the unit of the budget."""
        self._masks: dict[str, DimMasks] = {}
        self._trained: list[Slice] = []
        self.compaction = None if config.compaction is None else Compaction(traced)
        self._cut_at = 0.0
        self._watching = ExitStack()
        self._watched = 0
        self._check()
        self.making_up = (
            MakingUp(traced, config.decay ** (1 / config.interval), config.kinds)
            if config.make_up == "weights"
            else None
        )
        self._gates = Gates(traced, at_factors=self.making_up is None) if "gates" in self.criterion.needs else None

    @property
    def last_step(self) -> int:
        """The step with which cool-down begins, the last at which something is pruned."""
        return max(1, math.ceil((1 - self.config.cooldown) * self.total_steps - ROUNDING))

    def is_due(self, step: int) -> bool:
        """Whether units are scored and pruned at a step; the first is 1."""
        if self._has_ended:
            return False
        return step % self.config.interval == 0 or step >= self.last_step

    def target(self, step: int) -> float:
        """The ratio that is to be reached at a step."""
        if step >= self.last_step:
            return self.config.ratio
        config = self.config
        return self.schedule(step / self.total_steps, config.ratio, warmup=config.warmup, cooldown=config.cooldown)

    @contextmanager
    def step(self, number: int, *, scaled: bool = False) -> Iterator[None]:
        """Around a step of the optimiser: score and prune before it, and keep what is pruned zero after it.

        See :meth:`before_step` for the arguments and for what is raised.
        """
        self.before_step(number, scaled=scaled)
        yield
        self.zero_trained()
        self.watch(number + 1)

    def watch(self, number: int) -> None:
        """Before the forward passes of a step: see in them what making up needs, and scoring if the step is due.

        :meth:`step` does this for the step after its own. It is left to the loop where the first step is due (with an
        interval of 1), and where the loop goes on from an earlier state.
        """
        self._watching.close()
        self._watched = number
        if self._gates is not None and self.is_due(number):
            values = None if self.making_up is None else self.making_up.unpredicted(self._masks, self._there)
            self._watching.enter_context(self._gates.watching(self._there, values))
        if self.making_up is not None and not self._has_ended:
            self._watching.enter_context(self.making_up.watching())

    def before_step(self, number: int, *, scaled: bool = False) -> None:
        """Score with the gradients that the optimiser will see, and prune, if the schedule says so.

        Args:
            number: that of the step; the first is 1.
            scaled: whether a gradient scaler leaves out steps with gradients that are not finite (fp16).

        Raises:
            TrainingError: a gradient is not finite, and no gradient scaler leaves the step out.
            ScoreError: scores are not finite, or can't be made.
        """
        if not self.gradients_are_finite():
            if scaled:
                return  # the gradient scaler leaves this step out and goes on with a smaller scale
            raise TrainingError(
                f"the loss or its gradients are not finite at step {number}: lower the learning rate, or check the "
                "data and the weights for NaN"
            )
        if self.making_up is not None and not self._has_ended:
            self.making_up.take()
        if self.is_due(number):
            self.prune(number)

    def gradients_are_finite(self) -> bool:
        """Whether no gradient holds NaN or infinity, before the optimiser makes weights of them."""
        parameters = [p for p in self.traced.module.parameters() if p.requires_grad]
        gradients = [own_part(p.grad) for p in parameters if p.grad is not None]
        finite = not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))
        return in_every_process(finite, self._device)

    def prune(self, step: int) -> None:
        """Score with the gradients as they are now, and prune to the ratio of a step.

        Raises:
            ScoreError: scores are not finite, or can't be made.
            TrainingError: no forward and backward pass was watched, and the criterion or making up needs one; or
                weights that are to make up are sharded.
        """
        self._watching.close()
        gates = None if self._gates is None else self._gates.take()
        if gates == {}:
            raise self._unwatched(f"the criterion {self.criterion.name!r} has seen no backward pass", step)
        kept = masks_within(self._masks, self._there)
        own = score_units(self.traced, self.criterion, self._groups, there=self._there, kept=kept, gates=gates)
        newer = Scores(own.criterion, mean_of_processes(own.by_group, self._device))
        self.scores = newer if self.scores is None else self.scores.moving_average(newer, self.config.decay)
        ratio = self.target(step)
        if self.making_up is None:
            if ratio > 0:
                self._apply(self._select(self.scores, ratio, step))
            return
        if not self.making_up.moments:
            raise self._unwatched("making up has seen no forward pass", step)
        self.making_up.agree()
        if ratio > 0:
            scores = self.scores
            if self._gates is None:
                scores = self.making_up.lost(scores, self._masks, self._there)
            plan = self._select(scores, ratio, step)
            self.making_up.update(masks_of(self.traced, plan), self._masks, self._there)
            self._apply(plan)
        if step >= self.last_step:
            self.making_up.moments = {}  # nothing is pruned any more

    def restore(self, plan: PruningPlan, scores: Scores | None) -> None:
        """Go on from an earlier state: its pruned slices become zero in a model that may still have them.

        Raises:
            PlanError: the plan is for another model.
        """
        self.scores = scores
        self._masks = {}
        self._apply(plan)

    @property
    def metrics(self) -> dict[str, float]:
        """What is pruned so far, for a logger: the share of the budget, and of the units of each kind what is kept."""
        counts: dict[str, tuple[int, int]] = {}
        for group in self._groups:
            plan = self.plan.groups.get(group.name)
            kept, whole = counts.get(group.kind, (0, 0))
            counts[group.kind] = kept + (group.units if plan is None else plan.count), whole + group.units
        shares = {f"{KEPT}{kind}": kept / whole for kind, (kept, whole) in counts.items()}
        return {SPARSITY: self.removed, **shares}

    def zero_trained(self) -> None:
        """Zeros in the pruned slices of trainable parameters, after a step of the optimiser."""
        zero(self._trained)

    def compact(self, **options: Any) -> CompactModel:
        """The compact model, verified; ``options`` are those of :func:`graphprune.rewrite`.

        Raises:
            TrainingError: nothing is pruned yet, or the model is sharded.
            GraphPruneError: whatever :func:`graphprune.rewrite` raises.
        """
        if not self.plan.groups:
            raise TrainingError("nothing is pruned yet: train beyond the warm-up first")
        if any(is_sharded(parameter) for parameter in self.traced.module.parameters()):
            raise TrainingError(
                "each process holds a part of the model only: load its full state dict into a model that is not "
                "sharded, and cut that with gp.rewrite(gp.trace(model), pruner.plan)"
            )
        self._watching.close()
        with as_it_was_made(self.traced.module):
            if self.compaction is not None and self.compaction.reports:
                return self.compaction.result(self.plan, **options)
            return rewrite(self.traced, self.plan, **options)

    def is_cut_due(self) -> bool:
        """Whether so much was pruned since the last cut that the model is to be cut, or pruning has ended."""
        if self.compaction is None or not self.plan.groups:
            return False
        grown = self.removed - self._cut_at
        return grown > 0 if self._has_ended else grown >= max(self.config.compaction or 0, ROUNDING)

    def cut_if_due(self, optimizer: Any = None) -> None:
        """After a step: cut the model if the settings say so, in place (see :mod:`graphprune.training.compaction`).

        Args:
            optimizer: the optimiser, whose tensors are cut with those of the model.

        Raises:
            TrainingError: the optimiser has a state that can't be cut, or the model can't be copied.
            VerificationError: the cut model does not compute what the masked one computes.
        """
        if self.compaction is not None:
            self.compaction.know(optimizer)  # at the first step, and not only at the first cut
        if self.is_cut_due():
            self.cut(self.plan, optimizer)

    def cut(self, plan: PruningPlan, optimizer: Any = None) -> None:
        """Cut the model to a plan, the one so far or an earlier one that a checkpoint holds; see :meth:`cut_if_due`."""
        if self.compaction is None:
            return
        self._watching.close()
        if self.making_up is not None:
            self.making_up.cut(masks_within(masks_of(self.traced, plan), self._there))
        with as_it_was_made(self.traced.module):
            self.compaction.cut(plan, optimizer)
        self._cut_at = self._removed_by(plan)
        self._find_trained()
        self.watch(self._watched)

    @property
    def _has_ended(self) -> bool:
        """Whether all is pruned."""
        return bool(self.plan.about.get("step", 0) >= self.last_step)

    @property
    def _device(self) -> torch.device:
        return device_of(self.traced.module)

    def _select(self, scores: Scores, ratio: float, step: int) -> PruningPlan:
        within = self.plan if self.plan.groups else None
        plan = select(self.traced, scores, ratio=ratio, within=within, **self.config.selection())
        about = {**plan.about, "step": step, "steps": self.total_steps}
        return replace(plan, about=about, weights=self.plan.weights)

    def _apply(self, plan: PruningPlan) -> None:
        masks, before = masks_of(self.traced, plan), masks_within(self._masks, self._there)
        zero(removed_slices(self.traced, masks_within(masks, self._there), before, trainable=False))
        self.plan, self._masks = plan, masks
        self._find_trained()
        zero(self._trained)
        self.removed = self._removed_by(plan)

    def _find_trained(self) -> None:
        self._trained = removed_slices(self.traced, masks_within(self._masks, self._there), {}, trainable=True)

    def _removed_by(self, plan: PruningPlan) -> float:
        return removed_share(self.traced, plan, of=self.config.of, kinds=self.config.kinds)

    @property
    def _there(self) -> dict[str, DimMasks]:
        return {} if self.compaction is None else self.compaction.there

    @staticmethod
    def _unwatched(what: str, step: int) -> TrainingError:
        return TrainingError(
            f"{what} before step {step}: call pruner.watch(number) before the forward passes of each step"
        )

    def _check(self) -> None:
        """Find before the first step, and not in the middle, what can't work."""
        module = self.traced.module
        name = type(module).__name__
        if self.config.make_up == "bias":
            raise TrainingError(
                "make_up='bias' is for pruning at once (graphprune prune --no-tune): while training use "
                "make_up='weights', or 'none'"
            )
        if any(group.kind == "experts" for group in self._groups):
            raise TrainingError(
                "a router goes on choosing experts whose weights are masked, so they can't be pruned while training: "
                "prune them at once (gp.select with kinds=['experts']) and tune what is left"
            )
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise TrainingError(f"{name} has no trainable parameter: load its adapters with is_trainable=True")
        more = self.criterion.needs - {"lora_gradients", "gates"}
        if more:
            what = "activations" if "activations" in more else "dense gradients of the weights"
            raise TrainingError(
                f"the criterion {self.criterion.name!r} needs {what}, which training with adapters doesn't make: prune "
                "at once and tune what is left (graphprune prune --no-tune), or use the criterion 'lora'"
            )
        if "lora_gradients" in self.criterion.needs and not any(m.adapters for m in matrices(self.traced).values()):
            raise TrainingError(
                f"the criterion {self.criterion.name!r} needs LoRA adapters, and {name} has none: wrap it with "
                "peft.get_peft_model(model, peft.LoraConfig(target_modules='all-linear')) first"
            )
        if "lora_gradients" in self.criterion.needs:
            require_adapters(
                self.traced, self.criterion, self._groups
            )  # before the first step, and not when they are scored
        groups = self.traced.groups
        alike = Scores("check", {group.name: torch.ones(group.units) for group in groups if group.frozen is None})
        self._select(alike, self.config.ratio, 0)

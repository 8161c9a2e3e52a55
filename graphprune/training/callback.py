"""Pruning inside ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from ..compact import CompactModel
from ..device import device_of
from ..distributed import is_sharded
from ..errors import TrainingError
from ..pipeline import trace
from ..plan import PruningPlan
from ..scores import Scores
from ..traced import TracedModel
from .checkpoint import restore_state, save_state
from .config import PruneConfig
from .metrics import LoggedStep, history_of, log_first
from .pruner import Pruner
from .wrapping import as_it_was_made, forget_parameters

LABELS = ("labels", "label", "label_ids")


class LoRAPruneCallback(TrainerCallback):
    """Prunes a model with LoRA adapters while an unmodified Trainer fine-tunes it (LoRAPrune, arXiv 2305.18403)::

        callback = LoRAPruneCallback(ratio=0.5)
        Trainer(model, args, train_dataset=…, callbacks=[callback]).train()
        compact = callback.compact()

    What is pruned becomes zero during training and is cut out at the end. Units are scored where the optimiser steps,
    with the gradients that it sees: accumulated ones, averaged over processes, and clipped ones clipped. Each
    checkpoint of the Trainer holds the state of pruning, and ``trainer.train(resume_from_checkpoint=…)`` goes on from
    it. What the Trainer logs has ``graphprune/sparsity`` and ``graphprune/kept_…`` in it, for each logger that
    ``report_to`` names; it also logs after every step at which something is pruned, unless it is to log nothing at all.
    With FSDP (version 2) the callback must be among the Trainer's ``callbacks`` from the beginning: a sharded model
    can't be traced any more.

    Args:
        ratio: the share to prune, of the parameters without adapters unless ``of`` says otherwise.
        config: all settings at once, in place of ``ratio`` and ``settings``.
        example: inputs to trace the model with, a mapping, a tuple or a tensor. Without it token ids for models that
            take such, and a batch of two from the training set for others.
        resume_from: the checkpoint to go on from, where it is not in the Trainer's ``output_dir``.
        settings: those of :class:`~graphprune.training.config.PruneConfig` by name (``of``, ``variant``, ``schedule``,
            ``interval``, ``homogeneous``, …).

    Raises:
        GraphPruneError: a setting is unknown or out of range.
    """

    def __init__(
        self,
        ratio: float | None = None,
        *,
        config: PruneConfig | None = None,
        example: Any = None,
        resume_from: str | Path | None = None,
        **settings: Any,
    ):
        if config is not None and (ratio is not None or settings):
            raise TrainingError("give either a config or single settings, not both: dataclasses.replace changes one")
        self.config = config or PruneConfig.of_settings({"ratio": ratio, **settings})
        self.example, self.resume_from = example, resume_from
        self._pruner: Pruner | None = None
        self._state: TrainerState | None = None

    @property
    def pruner(self) -> Pruner:
        """The state of pruning.

        Raises:
            TrainingError: training has not begun.
        """
        if self._pruner is None:
            raise TrainingError("nothing is pruned yet: train with this callback first")
        return self._pruner

    @property
    def traced(self) -> TracedModel:
        """The model that is trained, traced."""
        return self.pruner.traced

    @property
    def plan(self) -> PruningPlan:
        """What is kept so far."""
        return self.pruner.plan

    @property
    def scores(self) -> Scores | None:
        """The moving average of the scores, None before the first."""
        return self.pruner.scores

    @property
    def history(self) -> tuple[LoggedStep, ...]:
        """The loss, and the share that was pruned, at each step that the Trainer logged; before a resumption too."""
        return () if self._state is None else history_of(self._state.log_history)

    def compact(self, **options: Any) -> CompactModel:
        """The compact model, verified; ``options`` are those of :func:`graphprune.rewrite`.

        Raises:
            TrainingError: nothing is pruned yet, or the model is sharded.
            GraphPruneError: whatever :func:`graphprune.rewrite` raises.
        """
        return self.pruner.compact(**options)

    def begin(self, model: nn.Module, total_steps: int, dataloader: Any = None) -> None:
        """Trace a model and prepare to prune it in ``total_steps`` steps of the optimiser.

        Raises:
            CaptureError: the model can't be traced.
            TrainingError: the model has nothing to train, or no adapters, or is sharded already.
            BudgetError: the ratio can't be met.
        """
        if any(is_sharded(parameter) for parameter in model.parameters()):
            if self._pruner is None or self._pruner.traced.module is not model:
                raise TrainingError(
                    "the model is sharded already and can't be traced: give this callback to the Trainer when that is "
                    "made, Trainer(callbacks=[…])"
                )
            forget_parameters(self._pruner.traced.graph)
            self._pruner = Pruner(self._pruner.traced, self.config, total_steps)
            return
        if self._pruner is not None and self._pruner.compaction is not None:
            self._pruner.compaction.release()  # of an earlier training
        with as_it_was_made(model):
            example = self.example if self.example is not None else example_from(model, dataloader)
            traced = trace(model) if example is None else trace(model, example)
            self._pruner = Pruner(traced, self.config, total_steps)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.fsdp:  # after this the Trainer shards the model; the number of steps is known only then
            if int((args.fsdp_config or {}).get("version", 2)) < 2:  # type: ignore[union-attr]
                raise TrainingError(
                    "FSDP of version 1 makes flat parameters of all others, which can't be pruned: use "
                    'fsdp_config={"version": 2}'
                )
            self.begin(kwargs["model"], 1, kwargs.get("train_dataloader"))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.begin(kwargs["model"], state.max_steps, kwargs.get("train_dataloader"))
        self._state = state
        log_first(lambda: self.pruner.metrics)
        if state.global_step > 0:
            checkpoint = Path(self.resume_from or checkpoint_of(args, state))
            restore_state(self.pruner, checkpoint, kwargs.get("optimizer"))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.pruner.watch(state.global_step + 1)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.pruner.before_step(state.global_step + 1, scaled=bool(args.fp16))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.pruner.zero_trained()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.pruner.cut_if_due(kwargs.get("optimizer"))
        if self.pruner.plan.about.get("step") == state.global_step and args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        save_state(self.pruner, checkpoint_of(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # load_best_model_at_end brings back adapters from before some of the cuts
        self.pruner.zero_trained()
        if self.pruner.compaction is not None:
            self.pruner.compaction.release()


def checkpoint_of(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer saves, or has saved, the state of this step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def example_from(model: nn.Module, dataloader: Any) -> dict[str, Any] | None:
    """A batch of two from a data loader, without labels; None for a model that runs with token ids alone.

    The batch is made without the loader's sampler, whose random state must not change.

    Raises:
        TrainingError: the training set can't give a batch of named inputs.
    """
    config = getattr(model, "config", None)
    if (
        getattr(model, "main_input_name", None) == "input_ids"
        and isinstance(getattr(config, "vocab_size", None), int)
        and not getattr(config, "is_encoder_decoder", False)
    ):
        return None
    try:
        dataset = dataloader.dataset
        batch = dataloader.collate_fn([dataset[index] for index in range(min(2, len(dataset)))])
        named = dict(batch)
    except Exception as error:  # whatever a user's data set or collator raises
        raise TrainingError(
            f"the training set gives no example to trace {type(model).__name__} with "
            f"({type(error).__name__}: {error}): say LoRAPruneCallback(example={{…}})"
        ) from error
    device = device_of(model)
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in named.items()
        if name not in LABELS
    }

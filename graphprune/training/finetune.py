"""Fine-tune with LoRA and prune on the way: what ``graphprune prune`` does with a model and a text.

A run has a directory::

    RUN/run.json               what the run is of: a hash of the model and of the text
        config.json            its settings
        checkpoint-40/         the Trainer's checkpoint, with the state of pruning in graphprune/

Weights, scores, plans and settings are safetensors and JSON. Only the Trainer's own optimizer.pt, scheduler.pt and
rng_state.pth are torch files; they serve to go on, hold tensors and numbers, and are read with ``weights_only``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ..adapters import adapter_layers
from ..compact import CompactModel
from ..device import default_device
from ..errors import (
    DiskFullError,
    FileFormatError,
    GraphPruneError,
    OutputExistsError,
    TrainingError,
    TrainingInterrupted,
)
from ..files import is_disk_full, new_directory
from ..pipeline import rewrite
from ..plan import PruningPlan
from ..program import fingerprint, parameter_table
from ..quiet import is_aloud, quietly
from ..scores import Scores
from ..traced import TracedModel
from .callback import LoRAPruneCallback, checkpoint_of
from .checkpoint import (
    check_readable,
    check_same_settings,
    checkpoints,
    complete_checkpoints,
    read_config,
    remove_incomplete,
    restore_state,
)
from .compaction import Compaction
from .config import PruneConfig
from .metrics import LoggedStep, history_of

CHECKPOINTS_KEPT = 2
"""While the newest is being written, the one before it is what there is to go on from."""

SAMPLE = 64
"""Values of each parameter that go into the hash of a model."""


@dataclass(frozen=True)
class TuneProgress:
    """Where a run is: the step done, of how many, its loss, and the share pruned so far and in the end."""

    step: int
    total: int
    loss: float
    sparsity: float
    target: float


@dataclass(frozen=True)
class TuneResult:
    """What a run gives: the tuned model with zeros for what is pruned, or cut already, and the plan of what is kept."""

    traced: TracedModel
    plan: PruningPlan
    scores: Scores | None
    history: tuple[LoggedStep, ...]
    """The loss of each step and the share that was pruned by then, those before an interruption included."""

    compaction: Compaction | None = None
    """The cuts that were made on the way, where the settings ask for them."""

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of each step."""
        return tuple(each.loss for each in self.history)

    def compact(self, **options: Any) -> CompactModel:
        """The compact model, verified; ``options`` are those of :func:`graphprune.rewrite`.

        Raises:
            GraphPruneError: whatever :func:`graphprune.rewrite` raises.
        """
        if self.compaction is not None and self.compaction.reports:
            return self.compaction.result(self.plan, **options)
        return rewrite(self.traced, self.plan, **options)


def prune_while_tuning(
    model: nn.Module,
    tokenizer: Any | None,
    windows: Tensor,
    config: PruneConfig,
    run_directory: Path,
    *,
    resume: bool = False,
    progress: Callable[[TuneProgress], None] | None = None,
) -> TuneResult:
    """Fine-tune a causal language model on windows of text, and prune it on the way.

    The model gets LoRA adapters, unless it has some, and is changed. Ctrl-C ends the run after the step that it is in,
    with a checkpoint; a second Ctrl-C ends it at once. A run that was resumed gives the same result as one that was not
    interrupted, given the same machine and number of threads, wherever it was interrupted: also by a kill in the middle
    of a checkpoint.

    Args:
        model: a model of transformers, or one with adapters already.
        tokenizer: saved with the run, so that its checkpoints can be used by themselves; not needed otherwise.
        windows: token ids ``[n, length]``.
        config: the settings.
        run_directory: where checkpoints go; must not exist, or with ``resume`` hold a run that can go on.
        resume: go on from the last complete checkpoint, or from the beginning where there is none yet.
        progress: called after each step.

    Raises:
        OutputExistsError: the directory exists, and ``resume`` is false.
        TrainingError: there is nothing to resume, or it is another run; the model can't be tuned; the loss is NaN.
        TrainingInterrupted: Ctrl-C.
        BudgetError: the ratio can't be met.
        CaptureError: the model can't be traced.
        DiskFullError: the disk filled up; the checkpoints before it are whole.
    """
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise TrainingError(f"tuning needs windows of token ids [n >= 1, length >= 2], not {list(windows.shape)}")
    run_directory = Path(run_directory)
    identity = {"model": _hash_of_model(model), "text": _hash_of(windows)}
    checkpoint = _resumable(run_directory, config, identity) if resume else None
    if not resume:
        _open_run(run_directory, config, identity, tokenizer)
    with _whole_checkpoints(run_directory), quietly():
        set_seed(config.seed)
        tuned = with_adapters(model, config)
        callback = LoRAPruneCallback(config=config)
        interrupt = Interrupt()
        reporter = Reporter(callback, interrupt, progress)
        trainer = make_trainer(tuned, windows, config, run_directory, [callback, reporter])
        with interrupt:
            try:
                _train(trainer, tuned, callback, checkpoint)
            except KeyboardInterrupt:
                interrupt.requested = True
        # mixed precision has put autocast around the model's forward
        trainer.accelerator.unwrap_model(tuned, keep_fp32_wrapper=False)
        if interrupt.requested:
            raise TrainingInterrupted(_interrupted(run_directory, trainer.state))
    history = history_of(trainer.state.log_history)
    return TuneResult(callback.traced, callback.plan, callback.scores, history, callback.pruner.compaction)


def with_adapters(model: nn.Module, config: PruneConfig) -> nn.Module:
    """The model with LoRA adapters by the settings, or itself where it has adapters. They depend on the seed alone.

    Raises:
        TrainingError: there is nothing to put adapters on.
    """
    if adapter_layers(model):
        return model
    from peft import LoraConfig, get_peft_model

    targets = config.lora_targets
    stacks = stacks_of_matrices(model) if targets == "all-linear" else []
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0 if stacks else config.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        target_parameters=stacks or None,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(config.seed)
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise TrainingError(
            f"there is nothing in {type(model).__name__} to put adapters on ({error}): name modules with lora_targets"
        ) from error


def stacks_of_matrices(model: nn.Module) -> list[str]:
    """The names of parameters that hold a matrix for each of several experts."""
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn.")
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.shape[0] > 1 and parameter.is_floating_point()
    ]


def make_trainer(
    model: nn.Module, windows: Tensor, config: PruneConfig, directory: Path, callbacks: list[TrainerCallback]
) -> Trainer:
    """A Trainer by the settings that keeps whole checkpoints and, unless libraries are to be heard, says nothing."""
    on_cpu = default_device().type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=config.epochs,
        max_steps=config.steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        seed=config.seed,
        data_seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=CHECKPOINTS_KEPT,
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        use_cpu=on_cpu,
        bf16=config.precision == "bf16",
        disable_tqdm=True,
        report_to="none",
        log_level="passive" if is_aloud() else "error",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Windows(windows), callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


class Windows(Dataset[dict[str, Tensor]]):
    """Windows of token ids as examples of a causal language model."""

    def __init__(self, windows: Tensor):
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.windows[index], "labels": self.windows[index]}


class Interrupt:
    """Within the context the first Ctrl-C is only noted, and a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> None:
        # Python allows handlers in the main thread only, which is also the only one that gets KeyboardInterrupt
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:
            self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._in_main:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Reporter(TrainerCallback):
    """Reports each step, and ends the training with a checkpoint once that is asked for."""

    def __init__(
        self, callback: LoRAPruneCallback, interrupt: Interrupt, progress: Callable[[TuneProgress], None] | None
    ):
        self.callback, self.interrupt, self.progress = callback, interrupt, progress

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        # after each step, and before the Trainer looks whether to save
        if self.progress is not None and "loss" in (logs or {}):
            pruner = self.callback.pruner
            try:
                self.progress(
                    TuneProgress(
                        state.global_step, state.max_steps, float(logs["loss"]), pruner.removed, pruner.config.ratio
                    )
                )
            except KeyboardInterrupt:
                self.interrupt.requested = True
        if self.interrupt.requested:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # a pickle of the Trainer's arguments that nothing reads
        (checkpoint_of(args, state) / "training_args.bin").unlink(missing_ok=True)


def _train(trainer: Trainer, model: nn.Module, callback: LoRAPruneCallback, checkpoint: Path | None) -> None:
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    # Asked to go on from the end, the Trainer would train one step more. Loading is what it does first.
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    callback.begin(model, state.max_steps)
    restore_state(callback.pruner, checkpoint)
    if callback.pruner.compaction is not None:
        callback.pruner.compaction.release()


def _open_run(directory: Path, config: PruneConfig, identity: dict[str, str], tokenizer: Any | None) -> None:
    """Make the directory of a run."""
    if (directory / "run.json").exists():
        raise OutputExistsError(
            f"The directory {directory} holds a run already: go on with it with --resume, or give another name."
        )
    with new_directory(directory) as temporary:
        (temporary / "run.json").write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        (temporary / "config.json").write_text(config.to_json(), encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary / "tokenizer")


def _resumable(directory: Path, config: PruneConfig, identity: dict[str, str]) -> Path | None:
    """The last complete checkpoint of a run, which must be the run that is asked for; None for its beginning."""
    if not (directory / "run.json").is_file():
        raise TrainingError(f"there is no run in {directory} to go on with: start it without --resume")
    try:
        earlier = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        same = {name: earlier[name] == value for name, value in identity.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{directory / 'run.json'} does not say what the run is of: {error}") from error
    for name, agrees in same.items():
        if not agrees:
            raise TrainingError(f"the run in {directory} is of another {name}: go on with that, or start a new run")
    check_same_settings(read_config(directory / "config.json"), config, directory)
    complete = complete_checkpoints(directory)
    if complete:
        check_readable(complete[-1])
    # The Trainer counts checkpoints, and removes the one that was changed first: not half of it, nor half an old one.
    for path in set(checkpoints(directory)) - set(complete[-1:]):
        shutil.rmtree(path, ignore_errors=True)
    return complete[-1] if complete else None


@contextmanager
def _whole_checkpoints(directory: Path) -> Iterator[None]:
    """When the block fails, only complete checkpoints stay; without one nothing does, and the run can start anew."""
    try:
        yield
    except BaseException as error:
        remove_incomplete(directory)
        complete = complete_checkpoints(directory)
        if not complete:
            shutil.rmtree(directory)
        if isinstance(error, Exception) and not isinstance(error, GraphPruneError) and is_disk_full(error):
            raise DiskFullError(
                f"The disk that holds {directory} is full, so a checkpoint was not written: free some space there, and "
                + (f"go on from {complete[-1].name} with --resume." if complete else "run again.")
            ) from error
        raise


def _interrupted(directory: Path, state: TrainerState) -> str:
    complete = complete_checkpoints(directory)
    if not complete:
        return "interrupted before the first checkpoint: nothing is kept, start again"
    step = complete[-1].name.rpartition("-")[2]
    return f"interrupted; {complete[-1]} holds step {step} of {state.max_steps}: go on from it with --resume"


def _hash_of(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    return hashlib.sha256(str(list(data.shape)).encode() + data.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def _hash_of_model(model: nn.Module) -> str:
    """A hash of the names and shapes of parameters, and of some values of each."""
    digest = hashlib.sha256(fingerprint(parameter_table(model)).encode())
    for parameter in model.parameters():
        flat = parameter.detach().flatten()
        picked = flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE]
        digest.update(_hash_of(picked).encode())
    return digest.hexdigest()[:16]

"""What a checkpoint holds beside the Trainer's own files: the state of pruning, as JSON and safetensors.

::

    checkpoint-40/graphprune/config.json           the settings of the run
                             plan.json             what is kept so far
                             scores.safetensors    the moving average of the scores, by group
                             cut.json              what is left of a model that is cut while it is trained
                             moments.safetensors   with ``make_up="weights"``: the second moments of inputs, and the
                             weights.safetensors   base weights that have changed
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerState

from ..distributed import is_first
from ..errors import FileFormatError, TrainingError
from ..files import new_directory
from ..plan import PruningPlan
from ..scores import Scores
from .config import PruneConfig
from .pruner import Pruner

STATE = "graphprune"
"""The directory within a checkpoint. It is the last thing that is written there, and appears at once and whole."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def save_state(pruner: Pruner, checkpoint: Path) -> None:
    """Write the state of pruning into a checkpoint directory.

    Where several processes train the model, all must call this, and the first of them writes: with
    ``make_up="weights"`` each has seen inputs of its own.

    Raises:
        DiskFullError: the disk is full.
    """
    if pruner.making_up is not None:
        pruner.making_up.agree()
    if not is_first():
        return
    target = checkpoint / STATE
    if target.exists():
        shutil.rmtree(target)  # of an earlier training in the same directory, whose other files are replaced already
    with new_directory(target) as directory:
        (directory / "config.json").write_text(pruner.config.to_json(), encoding="utf-8")
        pruner.plan.save(directory / "plan.json")
        if pruner.compaction is not None and pruner.compaction.reports:
            pruner.compaction.plan.save(directory / "cut.json")
        if pruner.scores is not None:
            tensors = {name: value.contiguous() for name, value in pruner.scores.items()}
            save_file(tensors, directory / "scores.safetensors", metadata={"criterion": pruner.scores.criterion})
        if pruner.making_up is not None:
            for name, tensors in (("moments", pruner.making_up.moments), ("weights", pruner.making_up.weights())):
                contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
                save_file(contiguous, directory / f"{name}.safetensors", metadata={"format": "pt"})


def restore_state(pruner: Pruner, checkpoint: Path, optimizer: Any = None) -> None:
    """Bring a pruner to the state that a checkpoint holds, and the model of it to the zeros that belong to it.

    A model that was cut by then is cut again, with its optimiser, where the settings of the pruner say that it may be.

    Raises:
        TrainingError: there is no such state, or it is of a run with other settings.
        FileFormatError: a file is corrupt.
        PlanError: the plan is for another model.
    """
    directory = checkpoint / STATE
    if not directory.is_dir():
        raise TrainingError(
            f"there is no state of pruning in {checkpoint}: go on from a checkpoint that was saved with this callback, "
            "or say where it is with LoRAPruneCallback(resume_from=…)"
        )
    check_same_settings(read_config(directory / "config.json"), pruner.config, checkpoint)
    plan = PruningPlan.load(directory / "plan.json")
    pruner.restore(plan, _read_scores(directory / "scores.safetensors"))
    if (directory / "cut.json").exists():
        pruner.cut(PruningPlan.load(directory / "cut.json"), optimizer)
    if pruner.making_up is not None:
        moments, weights = (_read_tensors(directory / f"{name}.safetensors")[0] for name in ("moments", "weights"))
        pruner.making_up.restore(moments, weights)


def check_same_settings(earlier: PruneConfig, now: PruneConfig, where: Path) -> None:
    """Guard against going on with a run under other settings.

    Raises:
        TrainingError: a setting differs; it is named.
    """
    difference = earlier.difference(now)
    if difference is not None:
        raise TrainingError(f"{where} is of a run with {difference}: go on with the same settings, or start a new run")


def read_config(path: Path) -> PruneConfig:
    """The settings in a file.

    Raises:
        FileFormatError: the file can't be read, or does not hold settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"the settings {path} can't be read: {error}") from error
    return PruneConfig.from_json(text, str(path))


def complete_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory that were written to their end, the newest last."""
    return [path for path in checkpoints(directory) if (path / STATE).is_dir()]


def checkpoints(directory: Path) -> list[Path]:
    """The Trainer's checkpoints in a directory, whole or not, the newest last."""
    found = [(int(m[1]), path) for path in directory.iterdir() if (m := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def remove_incomplete(directory: Path) -> None:
    """Remove checkpoints that were cut short: the Trainer counts them when it removes the oldest."""
    for path in set(checkpoints(directory)) - set(complete_checkpoints(directory)):
        shutil.rmtree(path, ignore_errors=True)


def check_readable(checkpoint: Path) -> None:
    """Guard against a damaged checkpoint, whose file the Trainer would not name.

    Raises:
        FileFormatError: a file is truncated, corrupt or missing.
    """
    way_out = f"remove {checkpoint} to go on from the checkpoint before it"
    try:
        TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except (OSError, ValueError, TypeError) as error:
        raise FileFormatError(f"{checkpoint / 'trainer_state.json'} can't be read ({error}): {way_out}") from error
    for path in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise FileFormatError(f"{path} is damaged ({error}): {way_out}") from error
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        if not zipfile.is_zipfile(checkpoint / name):  # torch's files are zip archives
            raise FileFormatError(f"{checkpoint / name} is damaged or missing: {way_out}")


def _read_scores(path: Path) -> Scores | None:
    if not path.exists():
        return None  # saved before units were scored for the first time
    tensors, metadata = _read_tensors(path)
    return Scores(metadata.get("criterion", ""), tensors)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and what it says of them."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path} can't be read: {error}") from error

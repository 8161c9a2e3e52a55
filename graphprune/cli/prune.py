"""``graphprune prune``: fine-tune a model with LoRA, prune it on the way, and save what is left."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..device import placed
from ..errors import OutputExistsError, TrainingError
from ..files import refuse_existing
from .apply import save_and_tell
from .console import TuningProgress, counted, show
from .details import tell_groups, tell_module

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..training.config import PruneConfig
    from ..training.finetune import TuneResult


def prune(
    model: str,
    output: Path,
    config: PruneConfig,
    *,
    text: str | None = None,
    adapter: Path | None = None,
    tune: bool = True,
    merge: bool = True,
    resume: bool = False,
    bits: Literal[8, 4] | None = None,
) -> None:
    """Prune the model in a directory or of a name on the hub, and save the compact model to a new directory.

    ``adapter`` is put on the model and trained on, in place of a new one; without it ``model`` may be an adapter, which
    names its model. With ``bits`` the weights are stored in so few bits while they are tuned; the result has plain
    ones. Checkpoints lie in ``output`` with ``.run`` at its end, which is removed once the model is saved. After that
    a report is written to ``output/report``, for which the model and what is left of it are measured; a failure there
    is a warning.

    Raises:
        OutputExistsError: ``output`` exists, or an earlier run that would have to be resumed.
        TrainingInterrupted: Ctrl-C; says how to go on.
        GraphPruneError: whatever loading, tuning, rewriting and saving raise.
    """
    refuse_existing(output)
    run_directory = run_directory_of(output)
    if tune:
        _check_run(run_directory, resume=resume)

    from ..pipeline import rewrite
    from ..report.run import score_rows
    from ..selection import removed_share
    from ..sources.text import load_text, windows
    from ..training.oneshot import plan_at_once
    from .models import loading
    from .report import DIRECTORY, measured_report, or_warn, write_and_tell
    from .tracing import title_of

    split = load_text(text)
    with loading(f"load {model}" + ("" if adapter is None else f" and the adapter {adapter}")):
        module, tokenizer = _load(model, adapter, bits)
        module = placed(module)
    tell_module(module)
    ids = windows(tokenizer, split.train, config.window)
    adapters: Literal["merge", "keep"] = "merge" if merge else "keep"
    result: TuneResult | None = None
    if tune:
        result = tuned(module, tokenizer, ids, config, run_directory, resume=resume)
        traced, plan, scores, history = result.traced, result.plan, result.scores, result.history
    else:
        with counted(f"trace and score ({config.criterion})") as progress:
            traced, plan, scores = plan_at_once(module, ids, config, progress=progress)
        history = ()
    tell_groups(traced)
    with counted("rewrite and verify") as progress:
        if result is None:
            compact = rewrite(traced, plan, adapters=adapters, progress=progress)
        else:
            compact = result.compact(adapters=adapters, progress=progress)
        about = {**compact.plan.about, "source": model, "text": split.name, "tuned": tune, "settings": asdict(config)}
        if adapter is not None:
            about["adapter"] = str(adapter)
        given = {"text": text, "merge": None if merge else False, "base_bits": bits}
        about["given"] = {name: value for name, value in given.items() if value is not None}
        compact = replace(compact, plan=replace(compact.plan, about=about))
    save_and_tell(compact, output, tokenizer, of_prunable=removed_share(traced, plan, of="prunable"))
    if tune:
        shutil.rmtree(run_directory, ignore_errors=True)
    with or_warn(output / DIRECTORY):
        rows = () if scores is None else score_rows(traced, plan, scores)
        del module, result, traced  # memory for the dense model, which tuning has changed
        with loading(f"load {model} again"):
            dense = _dense(model, adapter, config, merge=merge)
        title = title_of(model)
        report = measured_report(dense, compact, tokenizer, split, config, title=title, scores=rows, history=history)
        write_and_tell(report, output / DIRECTORY)
    show(f"Compare it with the original: graphprune eval {model} {output}")


def _load(model: str, adapter: Path | None, bits: Literal[8, 4] | None = None) -> tuple[Any, Any]:
    """The model that is pruned, with an adapter where one was named, and its tokenizer."""
    from ..sources.adapter import is_adapter, load_adapted
    from ..sources.model import load_model

    if adapter is not None:
        return load_adapted(adapter, model, bits=bits)
    return load_adapted(model, bits=bits) if is_adapter(model) else load_model(model, bits=bits)


def _dense(model: str, adapter: Path | None, config: PruneConfig, *, merge: bool) -> Any:
    """The model that the result is compared with: as it was before tuning, with adapters where the result has some."""
    from ..adapters import adapter_layers
    from ..training.finetune import with_adapters

    module, _ = _load(model, adapter)
    if not merge:
        return with_adapters(module, config)
    return module.merge_and_unload() if adapter_layers(module) else module


def run_directory_of(output: Path) -> Path:
    """Where the checkpoints of a run lie: beside what it writes."""
    return output.with_name(f"{output.name}.run")


def tuned(
    model: nn.Module, tokenizer: Any, ids: Tensor, config: PruneConfig, run_directory: Path, *, resume: bool = False
) -> TuneResult:
    """:func:`graphprune.training.finetune.prune_while_tuning` with its progress on the screen."""
    from ..training.finetune import prune_while_tuning

    with TuningProgress("tune and prune") as shown:
        return prune_while_tuning(
            model,
            tokenizer,
            ids,
            config,
            run_directory,
            resume=resume,
            progress=lambda now: shown(now.step, now.total, now.loss, now.sparsity),
        )


def _check_run(run_directory: Path, *, resume: bool) -> None:
    if resume and not run_directory.is_dir():
        raise TrainingError(f"there is no run in {run_directory} to go on with: start it without --resume")
    if not resume and run_directory.exists():
        raise OutputExistsError(
            f"{run_directory} holds an earlier run that did not end: go on with it with --resume, or remove it first."
        )

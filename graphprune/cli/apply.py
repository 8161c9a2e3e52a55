"""``graphprune apply``: cut a checkpoint to what a saved plan keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from ..files import refuse_existing
from ..plan import PruningPlan
from .console import counted, show
from .details import tell_compact, tell_files, tell_groups, tell_module

if TYPE_CHECKING:
    from ..compact import CompactModel
    from ..export.checkpoint import TracedCheckpoint


def apply(
    plan_file: Path,
    model: str,
    output: Path,
    *,
    adapter: Path | None = None,
    by_shard: bool | None = None,
    other_weights: bool = False,
) -> None:
    """Cut a model to a plan, in the types that its weights are stored in, and save it to a new directory.

    A model that fits into memory, as often as verification needs it, is loaded, cut and verified. A larger one is cut
    in its files, shard by shard, which an interrupted run goes on with; ``by_shard`` asks for one or the other.
    ``other_weights`` cuts a checkpoint of the model whose weights are not those that the plan was made for.

    Raises:
        OutputExistsError: ``output`` exists.
        FileFormatError: the plan, or a file of the model, can't be read.
        SourceError: there is no such model.
        PlanError: the plan was made for another model, or for other weights.
        VerificationError: the compact model does not compute what the masked model computes.
        DiskFullError: the disk is full.
    """
    refuse_existing(output)
    plan = PruningPlan.load(plan_file)

    subject = find_subject(plan, model, adapter, by_shard)
    if subject.by_shard:
        _by_shard(subject, output, other_weights)
    else:
        _in_memory(subject.plan, subject.model, subject.adapter, output, other_weights)


@dataclass(frozen=True)
class Subject:
    """What a plan is applied to, and how: a model with an adapter or without, the plan for both, and the way to cut it.

    ``files`` is the model without values, None where it was cut before, for which ``config.json`` may not tell enough.
    """

    model: str
    adapter: Path | None
    plan: PruningPlan
    files: TracedCheckpoint | None
    by_shard: bool


def find_subject(plan: PruningPlan, model: str, adapter: Path | None, by_shard: bool | None) -> Subject:
    """The model that a plan is to be applied to, before its weights are downloaded or read.

    Raises:
        SourceError: there is no such model, or it can't be cut in this way.
        PlanError: the plan was made for another model.
    """
    import torch

    from ..export.checkpoint import trace_checkpoint
    from ..passes.verify import fits_in_float64
    from ..sources.adapter import find_base, is_adapter
    from ..sources.model import find_model
    from .models import is_compact

    path = Path(model).expanduser()
    if adapter is None and is_adapter(path):
        adapter, model = path, str(find_base(path, weights=False))
        path = Path(model)
    if is_compact(path) or path.suffix == ".onnx":
        if by_shard or adapter is not None:
            raise SourceError(
                f"{model} was cut before, and is cut again as a whole: leave out --by-shard and --adapter."
            )
        return Subject(model, None, plan, None, by_shard=False)
    with counted("trace without weights") as progress:
        files = trace_checkpoint(plan, find_model(model, weights=False), adapter, progress)
    if by_shard is None:
        # whether verification has the memory that it needs
        by_shard = not fits_in_float64(files.traced.parameter_count, torch.device("cpu"))
    return Subject(model, adapter, files.plan, files, by_shard=by_shard)


def _in_memory(plan: PruningPlan, model: str, adapter: Path | None, output: Path, other_weights: bool) -> None:
    from ..pipeline import rewrite, trace
    from ..selection import removed_share
    from ..sources.adapter import put_on, tokenizer_place
    from .models import loading, open_model

    with loading(f"load {model}"):
        opened = open_model(model, dtype="auto")
    if opened.module is None:
        raise SourceError(f"{model} is an ONNX file, and a plan is applied to a model directory: name that.")
    tell_module(opened.module)
    with counted("trace") as progress:
        traced = trace(opened.module if adapter is None else put_on(opened.module, adapter), progress=progress)
    tell_groups(traced)
    if not other_weights:
        plan.check_weights(traced.weights)
    with counted("rewrite and verify") as progress:
        compact = rewrite(traced, plan, progress=progress)
        share = removed_share(traced, plan, of="prunable")
    place = opened.directory if adapter is None else tokenizer_place(adapter, opened.directory)
    save_and_tell(compact, output, tokenizer_or_none(place), of_prunable=share)


def _by_shard(subject: Subject, output: Path, other_weights: bool) -> None:
    from ..export.checkpoint import cut_files
    from ..sources.adapter import tokenizer_place
    from ..sources.model import find_model

    assert subject.files is not None
    source, adapter = find_model(subject.model), subject.adapter  # with its weights, which may still be elsewhere
    with counted(f"cut the files of {source}") as progress:
        place = source if adapter is None else tokenizer_place(adapter, source)
        report = cut_files(
            replace(subject.files, source=source),
            output,
            other_weights=other_weights,
            tokenizer=tokenizer_or_none(place),
            progress=progress,
        )
    tell_files(output)
    share = 1 - report.parameters / report.dense_parameters
    kept = f", {report.resumed} of them by an earlier run" if report.resumed else ""
    show(
        f"{report.dense_parameters:,} → {report.parameters:,} parameters: {share:.1%} removed; {report.files} files "
        f"written{kept}; shapes were checked, values were not compared"
    )
    if report.left_out:
        show(f"left out, as transformers does: {', '.join(report.left_out[:3])}{' …' * (len(report.left_out) > 3)}")
    tell_how_to_load(output, report.form, report.reason)


def tokenizer_or_none(directory: Path) -> Any:
    """The tokenizer in the directory of a model, where there is one."""
    from ..sources.model import tokenizer_in

    try:
        return tokenizer_in(directory)
    except SourceError:
        return None


def save_and_tell(compact: CompactModel, output: Path, tokenizer: Any, *, of_prunable: float) -> None:
    """Save a compact model and say what was written and how it was checked.

    ``of_prunable`` is the share that is gone of the parameters that could go.
    """
    from ..export.directory import save

    tell_compact(compact)
    with counted(f"save to {output}") as progress:
        saved = save(compact, output, tokenizer, progress=progress)
    tell_files(output)
    show(
        f"{compact.dense_parameters:,} → {compact.parameter_count:,} parameters: {compact.ratio:.1%} removed, "
        f"{of_prunable:.1%} of what could be; {checked(compact)}"
    )
    tell_how_to_load(output, saved.form, saved.reason)


def tell_how_to_load(output: Path, form: str, reason: str | None) -> None:
    """Say what loads a directory that was written, and what its form can't do."""
    from ..export.directory import ADAPTER

    adapted = (output / ADAPTER).is_dir()
    if form == "transformers":
        show(f"{output}: load it with AutoModelForCausalLM.from_pretrained({str(output)!r})")
    elif form == "remote-code":
        show(
            f"{output}: load it with AutoModelForCausalLM.from_pretrained({str(output)!r}, trust_remote_code=True); "
            f"without its code transformers can't: {reason}"
        )
    else:
        show(f"{output}: load it with graphprune.load({str(output)!r}); transformers alone can't: {reason}")
    if adapted and form != "per-layer":
        show(f"{output / ADAPTER}: its adapter, to put on it with PeftModel.from_pretrained")


def checked(compact: CompactModel) -> str:
    """What verification found, in a few words."""
    report = compact.report
    errors = [] if report is None else [report.graph_error, report.module_error]
    found = [error for error in errors if error is not None]
    return f"equal to the masked model within {max(found):.1e}" if found else "not verified, since it has no values"

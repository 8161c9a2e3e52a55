"""``graphprune apply``: cut a checkpoint to what a saved plan keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SourceError
from ..files import refuse_existing
from ..plan import PruningPlan
from .console import show, stage

if TYPE_CHECKING:
    from ..compact import CompactModel


def apply(plan_file: Path, model: str, output: Path) -> None:
    """Cut the model, verify the result, and save it to a new directory.

    Raises:
        OutputExistsError: ``output`` exists.
        FileFormatError: the plan, or a file of the model, can't be read.
        SourceError: there is no such model.
        PlanError: the plan was made for another model.
        VerificationError: the compact model does not compute what the masked model computes.
    """
    refuse_existing(output)
    plan = PruningPlan.load(plan_file)

    from ..pipeline import rewrite, trace
    from ..program import fingerprint, parameter_table
    from ..selection import removed_share
    from .inspect import model_on_meta
    from .models import is_compact, open_model

    if not is_compact(Path(model).expanduser()):
        plan.check_model(fingerprint(parameter_table(model_on_meta(model))))  # before any weight is read
    with stage(f"load {model}"):
        opened = open_model(model)
    if opened.module is None:
        raise SourceError(f"{model} is an ONNX file, and a plan is applied to a model directory: name that.")
    with stage("trace"):
        traced = trace(opened.module)
    with stage("rewrite and verify"):
        compact = rewrite(traced, plan)
        share = removed_share(traced, plan, of="prunable")
    save_and_tell(compact, output, tokenizer_or_none(opened), of_prunable=share)


def tokenizer_or_none(opened: Any) -> Any:
    """The tokenizer beside a model, where there is one."""
    from .models import tokenizer_of

    try:
        return tokenizer_of(opened)
    except SourceError:
        return None


def save_and_tell(compact: CompactModel, output: Path, tokenizer: Any, *, of_prunable: float) -> None:
    """Save a compact model and say what was written and how it was checked.

    ``of_prunable`` is the share that is gone of the parameters that could go.
    """
    from ..export.directory import ADAPTER, save

    with stage(f"save to {output}"):
        saved = save(compact, output, tokenizer)
    show(
        f"{compact.dense_parameters:,} → {compact.parameter_count:,} parameters: {compact.ratio:.1%} removed, "
        f"{of_prunable:.1%} of what could be; {checked(compact)}"
    )
    if saved.form == "transformers":
        show(f"{output}: load it with AutoModelForCausalLM.from_pretrained({str(output)!r})")
        if (output / ADAPTER).is_dir():
            show(f"{output / ADAPTER}: its adapter, to put on it with PeftModel.from_pretrained")
    else:
        show(f"{output}: load it with graphprune.load({str(output)!r}); transformers alone can't: {saved.reason}")


def checked(compact: CompactModel) -> str:
    """What verification found, in a few words."""
    report = compact.report
    errors = [] if report is None else [report.graph_error, report.module_error]
    found = [error for error in errors if error is not None]
    return f"equal to the masked model within {max(found):.1e}" if found else "not verified, since it has no values"

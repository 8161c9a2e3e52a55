"""What ``--dry-run`` shows: what would be cut, written and measured, and how large; nothing is written.

What is known of a model is what its config says: no weights are read, nor downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import SourceError
from ..files import names_onnx, refuse_existing
from ..report.tables import file_size
from .console import counted, show, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..export.gguf import Dtype
    from ..export.rounding import Precision
    from ..plan import PruningPlan
    from ..progress import Progress
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
    from ..report.run_figures import budget_words
    from ..selection import select

    with counted("trace without weights") as progress:
        traced = _traced(model, adapter, config.window, progress)
    with counted("select"):
        plan = select(traced, even_scores(traced), ratio=config.ratio, **config.selection())
    show_cut(traced, plan)
    show()
    alike = ", the same number in every layer" if config.homogeneous else ""
    show(f"Known before scoring: {config.ratio:.1%} of the {budget_words(config.of)} go{alike}.")
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
    from ..plan import PruningPlan
    from .apply import find_subject
    from .tracing import trace_named

    if output is not None:
        refuse_existing(output)
    subject = find_subject(PruningPlan.load(plan_file), model, adapter, by_shard)
    if subject.files is not None:
        traced = subject.files.traced
    else:
        with counted("trace without weights") as progress:
            traced = trace_named(subject.model, progress=progress)
    show_cut(traced, subject.plan)
    show()
    way = "file by file, in little memory" if subject.by_shard else "in memory, and verified"
    show(f"It would be cut {way}. Its weights were not compared with those of the plan. Nothing was written.")


def dry_export(
    model: str,
    output: Path,
    *,
    opset: int | None = None,
    part: Literal["encoder", "decoder"] | None = None,
    cache: bool = False,
    precision: Precision = "fp32",
    genai: bool = False,
) -> None:
    """Show which ONNX file would be written of a model, and how large it would be.

    Raises:
        OutputExistsError: ``output`` exists.
        SourceError: there is no such model, or no tokenizer beside it.
        ExportError: there is no directory for the file, the model has no such part, or it does not say how long a text
            may be.
    """
    from ..export.genai import CONFIG, MODEL, context_length
    from ..export.onnx import EXTERNAL_BYTES, OLDEST_OPSET, check_target
    from ..export.rounding import stored_bytes
    from ..sources.model import tokenizer_in
    from .models import place_of

    refuse_existing(output)
    if not genai:
        check_target(output.absolute())
    module = _described(model)
    size = stored_bytes(_parameters(module, part).values(), precision)
    what = f"the {part} with" if part else "the model with"
    file = output / MODEL if genai else output
    behind = ", keys and values of earlier tokens as inputs and outputs" if cache or genai else ""
    show(
        f"{file} would be written, about {file_size(size)}: {what} weights in {precision}, opset "
        f"{opset or OLDEST_OPSET}{behind}"
    )
    if size > EXTERNAL_BYTES:
        show(f"{file.name}.data beside it would hold the weights, since a file of ONNX holds at most 2 GB.")
    if genai:
        length = context_length(module, tokenizer_in(place_of(model)))
        show(f"{output / CONFIG}, for texts of up to {length:,} tokens, and the tokenizer would be written beside it.")
    show("It would be run in onnxruntime and compared with torch. Nothing was written.")


def dry_gguf(model: str, output: Path, *, dtype: Dtype) -> None:
    """Show which GGUF file would be written of a model, and how large it would be.

    Raises:
        OutputExistsError: ``output`` exists.
        SourceError: there is no such model.
        ExportError: its family has conventions of its own; says which command converts it.
    """
    from ..export.gguf import predict_gguf
    from ..sources.model import find_model

    directory = find_model(model, weights=False)
    shapes = {name: tuple(each.shape) for name, each in _parameters(_described(model)).items()}
    report = predict_gguf(directory, output, shapes, dtype=dtype)
    tokens = f"{report.tokens:,} tokens" if report.tokens else "no tokenizer"
    show(f"{output} would be written, about {file_size(report.bytes)}: {dtype}, {report.tensors} tensors, {tokens}")
    show("Nothing was written.")


def dry_demo(output: Path, config: PruneConfig, *, text: str | None, model: str | None, limit: int) -> None:
    """Show what the demo would do, and which files of which size it would write.

    Raises:
        OutputExistsError: ``output`` exists.
        SourceError: there is no such model or text.
        BudgetError: the ratio can't be met.
    """
    from ..sources.model import DEMO_MODEL, local_demo_model
    from ..sources.text import load_text

    refuse_existing(output)
    source = model or local_demo_model()
    show(f"model {source or f'{DEMO_MODEL}, which would be downloaded first (up to 540 MB)'}")
    show(f"text  {load_text(text).name}, its held-out part for measuring")
    show(
        f"{config.steps} steps of tuning, each on {config.batch_size} windows of {config.window} tokens; up to {limit} "
        "held-out windows to measure on"
    )
    if source is not None:
        show()
        dry_prune(str(source), config)
        show()
        size = stored_size(str(source)) * (1 - config.ratio)
        show(f"{output / 'model'} and {output / 'model.onnx'} would be written, about {file_size(int(size))} each, and")
        show(f"{output / 'report'}. The ONNX files of the other two models would be there only while it runs.")
    else:
        show(f"{output / 'model'}, {output / 'model.onnx'} and {output / 'report'} would be written. Nothing was.")


def stored_size(model: str) -> int:
    """About how many bytes a model takes in single precision."""
    from ..export.rounding import stored_bytes

    return stored_bytes(_parameters(_described(model)).values(), "fp32")


def show_passes(models: Sequence[str], passes: Sequence[int], tokens: Sequence[int]) -> None:
    """Print how large each model is, and what it would be run on."""
    for name, times, counted_ones in zip(models, passes, tokens, strict=True):
        path = Path(name).expanduser()
        if names_onnx(path):
            size = file_size(path.stat().st_size)
        else:
            size = f"{sum(each.numel() for each in _parameters(_described(name)).values()):,} parameters"
        show(f"{name}: {size}; {times:,} forward passes, {counted_ones:,} tokens count")
    show()
    show("After that a forward pass of each would be timed. Nothing was run.")


def _described(model: str) -> Any:
    """A model without values, made from its config.

    Raises:
        SourceError: there is no such model, or it is an ONNX file.
    """
    from .tracing import model_on_meta

    if names_onnx(Path(model)):
        raise SourceError(f"{model} is an ONNX file already: name the directory of a model.")
    with counted("make the model without weights"):
        return model_on_meta(model)


def _parameters(module: Any, part: Literal["encoder", "decoder"] | None = None) -> dict[str, Any]:
    """The parameters by name, each once and without adapters, which are merged before anything is exported."""
    from ..budget import is_adapter
    from ..export.onnx_parts import encoder_of

    found = {name: each for name, each in module.named_parameters() if not is_adapter(name)}
    if part is None:
        return found
    inside = {id(each) for each in encoder_of(module).parameters()}
    if part == "decoder":
        of_both = {id(each) for each in module.get_decoder().parameters()}
        return {name: each for name, each in found.items() if id(each) not in inside or id(each) in of_both}
    return {name: each for name, each in found.items() if id(each) in inside}


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


def _traced(model: str, adapter: Path | None, length: int, progress: Progress) -> TracedModel:
    from ..sources.adapter import put_on
    from ..sources.examples import trace_by_config
    from .tracing import model_on_meta, trace_named

    if adapter is None:
        return trace_named(model, length=length, progress=progress)
    return trace_by_config(put_on(model_on_meta(model), adapter), length=length, progress=progress)

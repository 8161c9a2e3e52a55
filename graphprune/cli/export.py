"""``graphprune export``: a model as an ONNX file, compared with torch in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..errors import SourceError
from ..files import refuse_existing
from ..report.tables import file_size
from .console import counted, show
from .details import tell_files, tell_module, tell_onnx


def export(
    model: str,
    output: Path,
    *,
    opset: int | None = None,
    part: Literal["encoder", "decoder"] | None = None,
    cache: bool = False,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    genai: bool = False,
) -> None:
    """Write the model in a directory, or of a name on the hub, to a new ONNX file.

    ``genai`` writes a directory for onnxruntime-genai in its place, with the model's tokenizer.

    Raises:
        OutputExistsError: ``output`` exists.
        SourceError: there is no such model, or no tokenizer beside it.
        FileFormatError: a file of it is truncated or corrupt.
        ExportError: it can't be exported, or onnxruntime does not give what torch gives.
    """
    refuse_existing(output)

    from ..export.directory import read_plan
    from ..export.genai import export_genai
    from ..export.onnx import OLDEST_OPSET, check_target, export_onnx
    from ..onnx import PAST
    from .models import is_compact, loading, open_model, tokenizer_of

    if not genai:
        check_target(output.absolute())
    with loading(f"load {model}"):
        opened = open_model(model)
    if opened.module is None:
        raise SourceError(f"{model} is an ONNX file already: name the directory of a model.")
    plan = read_plan(opened.directory) if is_compact(opened.directory) else None
    tell_module(opened.module)
    tokenizer = tokenizer_of(opened) if genai else None
    opset = opset or OLDEST_OPSET
    with counted("export to ONNX and compare in onnxruntime") as progress:
        if genai:
            report = export_genai(
                opened.module,
                output,
                tokenizer=tokenizer,
                precision=precision,
                opset=opset,
                plan=plan,
                progress=progress,
            )
        else:
            report = export_onnx(
                opened.module,
                output,
                part=part,
                cache=cache,
                precision=precision,
                opset=opset,
                plan=plan,
                progress=progress,
            )
    tell_onnx(report)
    tell_files(output)
    sizes = ", ".join(
        f"{name} {[*dims]}".replace("'", "") for name, dims in report.inputs.items() if not name.startswith(PAST)
    )
    behind = f", the cache of {report.cached_layers} layers" if report.cached_layers else ""
    how = "equal to torch" if precision == "fp32" else f"{precision}, near torch"
    relative = "" if precision == "fp32" else f" ({max(report.relative):.1%} of the largest value)"
    show(
        f"{output}: {file_size(report.bytes)}, opset {report.opset}, {sizes}{behind}; {how} in onnxruntime within "
        f"{max(report.difference):.1e}{relative}"
    )
    if report.note:
        show(report.note)

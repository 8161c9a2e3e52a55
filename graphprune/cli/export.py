"""``graphprune export``: a model as an ONNX file, compared with torch in onnxruntime."""

from __future__ import annotations

from pathlib import Path

from ..errors import SourceError
from ..files import refuse_existing
from ..report.tables import file_size
from .console import show, stage


def export(model: str, output: Path, *, opset: int | None = None) -> None:
    """Write the model in a directory, or of a name on the hub, to a new ONNX file.

    Raises:
        OutputExistsError: ``output`` exists.
        SourceError: there is no such model.
        FileFormatError: a file of it is truncated or corrupt.
        ExportError: it can't be exported, or onnxruntime does not give what torch gives.
    """
    refuse_existing(output)

    from ..export.onnx import OLDEST_OPSET, export_onnx
    from .models import open_model

    with stage(f"load {model}"):
        opened = open_model(model)
    if opened.module is None:
        raise SourceError(f"{model} is an ONNX file already: name the directory of a model.")
    with stage("export to ONNX and compare in onnxruntime"):
        report = export_onnx(opened.module, output, opset=opset or OLDEST_OPSET)
    sizes = ", ".join(f"{name} {[*dims]}".replace("'", "") for name, dims in report.inputs.items())
    show(
        f"{output}: {file_size(report.bytes)}, opset {report.opset}, {sizes}; equal to torch in onnxruntime within "
        f"{max(report.difference):.1e}"
    )
    if report.note:
        show(report.note)

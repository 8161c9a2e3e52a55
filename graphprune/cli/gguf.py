"""``graphprune gguf``: a model as a GGUF file, for llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files import refuse_existing
from ..report.tables import file_size
from .console import counted, show
from .details import tell_files

if TYPE_CHECKING:
    from ..export.gguf import Dtype


def gguf(model: str, output: Path, *, dtype: Dtype) -> None:
    """Write the model in a directory, or of a name on the hub, to a new GGUF file.

    Raises:
        OutputExistsError: ``output`` exists.
        SourceError: there is no such model.
        FileFormatError: a file of it is truncated or corrupt.
        ExportError: its family has conventions of its own; says which command converts it.
    """
    refuse_existing(output)

    from ..export.gguf import export_gguf
    from ..sources.model import find_model

    with counted(f"write {output}") as progress:
        report = export_gguf(find_model(model), output, dtype=dtype, progress=progress)
    tell_files(output)
    tokens = f"{report.tokens:,} tokens" if report.tokens else "no tokenizer"
    show(f"{output}: {file_size(report.bytes)}, {dtype}, {report.tensors} tensors, {tokens}; llama.cpp runs it")

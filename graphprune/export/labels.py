"""Notes in the headers of safetensors files: what cut the model, and by which plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path


def label(file: Path, notes: Mapping[str, str]) -> None:
    """Add entries to the metadata of a safetensors file.

    The file is written anew beside the old one and takes its place: the header grows, and the values lie behind it. It
    is part of a directory that is not published yet, so what is left of a failure goes with that.
    """
    with file.open("rb") as source:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        header["__metadata__"] = {**header.get("__metadata__", {}), **notes}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # values are aligned to 8 bytes
        labelled = file.with_name(f"{file.name}.labelled")
        with labelled.open("wb") as target:
            target.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(source, target, 1 << 24)
    labelled.replace(file)

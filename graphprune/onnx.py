"""Running exported decoders in plain onnxruntime: greedy generation with the cache, without torch.

::

    from graphprune.onnx import generate

    generate("out.onnx", [[1, 5, 7]], max_new_tokens=64)      # [[1, 5, 7, …]]

It is an example as much as a helper: what it feeds a file is all that a runtime of one's own has to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ExportError, FileFormatError
from .files import onnx_file
from .quiet import first_line

Ids = NDArray[np.int64]

PAST = "past_key_values."

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def open_session(path: str | Path, *, threads: int | None = None, spinning: bool = True) -> Any:
    """An onnxruntime session on the processor.

    Threads that are ``spinning`` while they wait answer sooner, and slow down whatever else runs meanwhile.

    Raises:
        SourceError: there is no such file.
        FileFormatError: onnxruntime can't read it.
    """
    import onnxruntime

    onnx_file(Path(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes to the terminal what it raises anyway
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen of them, without a common base
        raise FileFormatError(f"{path} can't be read by onnxruntime ({first_line(error)}): export it again") from error


def generate(
    model: str | Path | Any,
    input_ids: Sequence[Sequence[int]] | Ids,
    max_new_tokens: int,
    *,
    attention_mask: Sequence[Sequence[int]] | Ids | None = None,
    eos_token_id: int | Sequence[int] = (),
    pad_token_id: int = 0,
    extra: Mapping[str, NDArray[Any]] | None = None,
) -> Ids:
    """The token ids ``[rows, length + new]`` that a decoder continues with, the likeliest one each time.

    ``model`` is a file that ``gp.export_onnx(…, cache=True)`` wrote, or a session of one. ``input_ids`` are
    ``[rows, length]``; shorter rows are padded on the left, where ``attention_mask`` is 0. A row ends with one of
    ``eos_token_id`` and is padded after it; generation ends with the last row. ``extra`` are inputs that stay the same,
    as ``encoder_hidden_states``.

    Raises:
        SourceError: there is no such file.
        FileFormatError: onnxruntime can't read it.
        ExportError: it is no decoder with a cache, or needs an input that is not given.
    """
    session = open_session(model) if isinstance(model, (str, Path)) else model
    inputs = [each.name for each in session.get_inputs()]
    past = [name for name in inputs if name.startswith(PAST)]
    if not past or "input_ids" not in inputs:
        raise ExportError(
            f"this file takes {', '.join(inputs)} and no cache: export the decoder with cache=True, or run it whole"
        )
    sequence = np.asarray(input_ids, dtype=np.int64)
    mask = np.ones_like(sequence) if attention_mask is None else np.asarray(attention_mask, dtype=np.int64)
    feed = {**(extra or {}), **first_inputs(session, sequence, mask)}
    lacking = sorted(set(inputs) - feed.keys())
    if lacking:
        raise ExportError(f"this file needs {', '.join(lacking)} too: pass extra={{…}}")
    ends = np.atleast_1d(np.asarray(eos_token_id, dtype=np.int64))
    names = [each.name for each in session.get_outputs()]
    ended = np.zeros(len(sequence), dtype=bool)
    for _ in range(max_new_tokens):
        found = dict(zip(names, session.run(None, feed), strict=True))
        best = found["logits"][:, -1].argmax(-1)
        new = np.where(ended, pad_token_id, best).astype(np.int64)[:, None]
        sequence = np.concatenate([sequence, new], 1)
        ended |= np.isin(new[:, 0], ends)
        if ended.all():
            break
        mask = np.concatenate([mask, np.ones_like(new)], 1)
        step = {"input_ids": new, "attention_mask": mask, "position_ids": _positions(mask, new)}
        step |= {name: found[name.replace(PAST, "present.", 1)] for name in past}
        feed |= {name: value for name, value in step.items() if name in feed}
    return sequence


def first_inputs(session: Any, input_ids: Ids, attention_mask: Ids | None = None) -> dict[str, NDArray[Any]]:
    """What a language model, with a cache or without, takes for token ids ``[rows, length]`` that nothing precedes."""
    mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
    known = {"input_ids": input_ids, "attention_mask": mask, "position_ids": _positions(mask, input_ids)}
    inputs = session.get_inputs()
    empty = {each.name: _nothing(each, len(input_ids)) for each in inputs if each.name.startswith(PAST)}
    return {**empty, **{each.name: known[each.name] for each in inputs if each.name in known}}


def _positions(mask: Ids, new: Ids) -> Ids:
    """Positions count the tokens that the mask lets be seen."""
    positions: Ids = np.maximum(mask.cumsum(1) - 1, 0)[:, -new.shape[1] :]
    return positions


def _nothing(spec: Any, rows: int) -> NDArray[Any]:
    """A cache of no positions: ``[rows, heads, 0, width]``."""
    _, heads, _, width = spec.shape
    return np.zeros((rows, heads, 0, width), dtype=_TYPES[spec.type])

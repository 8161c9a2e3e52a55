"""Texts to tune and to measure on."""

import importlib.util
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import FileFormatError, SourceError


@dataclass(frozen=True)
class TextSplit:
    """A text in two parts: ``train`` to tune on, ``held_out`` to measure on, and ``name`` to show."""

    train: str
    held_out: str
    name: str


def load_text(source: str | None = None, *, split: str | None = None) -> TextSplit:
    """Read the text that ``source`` names, with a part of it held out.

    1. ``None``: the language reference that every CPython carries; needs no download.
    2. A ``.txt`` file (UTF-8).
    3. A ``.jsonl`` file: one JSON object per line, its text in the field ``text``.
    4. Anything else: a Hugging Face dataset, as a directory (also one of ``save_to_disk``) or a name on the hub, with
       a column ``text``; ``name:configuration`` picks a configuration. Rows are joined by an empty line. Held out is
       its split ``split``, by default ``validation``, else ``test``.

    Where the source does not itself hold out a part, the last tenth is held out.

    Raises:
        SourceError: if there is no such source or split, it can't be read, or it is too short to be split.
        FileFormatError: if a file is not UTF-8, or a line is not an object with a string ``text``.
    """
    if split is not None and (source is None or Path(source).suffix in (".txt", ".jsonl")):
        raise SourceError(f"Only a dataset has splits such as {split}, and {source or 'the default text'} is none.")
    if source is None:
        return _split(_language_reference(), f"language reference of CPython {platform.python_version()}")
    path = Path(source).expanduser()
    if path.is_file():
        return _split(_read_file(path), path.name)
    if path.suffix in (".txt", ".jsonl"):
        raise SourceError(f"There is no text file {source}: check the path.")
    return _load_dataset(source, split)


def windows(tokenizer: Any, text: str, length: int, *, stride: int | None = None) -> torch.Tensor:
    """The token ids of ``text`` as ``LongTensor[n, length]``: a window every ``stride`` tokens, the remainder dropped.

    Without a stride windows follow on each other. No special token is added.

    Raises:
        SourceError: if ``length`` is less than 2, the stride leaves tokens out, or the text is shorter than one window.
    """
    if length < 2:
        raise SourceError(f"A window of {length} tokens predicts nothing: choose a length of at least 2.")
    if stride is not None and not 1 <= stride <= length:
        raise SourceError(
            f"A stride of {stride} tokens does not fit windows of {length}: it must lie between 1 and {length}."
        )
    # verbose=False: a text longer than the model's context is no mistake here, it is cut into windows.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < length:
        raise SourceError(
            f"The text has {len(ids)} tokens, less than one window of {length}: give a longer text or a shorter window."
        )
    return torch.tensor(ids, dtype=torch.long).unfold(0, length, stride or length)


def _language_reference() -> str:
    from pydoc_data.topics import topics

    # A few topics repeat another's text; a copy in both parts would make the held-out part easier than it is.
    return "\n\n".join(dict.fromkeys(topics[name].strip() for name in sorted(topics)))


def _split(text: str, name: str) -> TextSplit:
    middle = len(text) * 9 // 10
    line_end = text.find("\n", middle)
    # At the end of a line, unless that would leave much less than a tenth (a text of one long line).
    cut = line_end + 1 if middle <= line_end < len(text) * 19 // 20 else middle
    train, held_out = text[:cut], text[cut:]
    if not train.strip() or not held_out.strip():
        raise SourceError(f"The text of {name} is too short to hold out a part of it: {len(text)} characters.")
    return TextSplit(train, held_out, name)


def _read_file(path: Path) -> str:
    if path.suffix not in (".txt", ".jsonl"):
        raise SourceError(f"{path} is neither a .txt nor a .jsonl file: convert it to one of these, or rename it.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 text (byte {error.start}): convert it to UTF-8.") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}.") from error
    return text if path.suffix == ".txt" else _join_json_lines(path, text)


def _join_json_lines(path: Path, content: str) -> str:
    texts = []
    # Not splitlines(): JSON may hold U+2028 and its kin inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise FileFormatError(f"{path}, line {number}: not JSON ({error.msg}, column {error.colno}).") from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise FileFormatError(
                f'{path}, line {number}: expected an object with a string "text", such as {{"text": "…"}}.'
            )
        texts.append(record["text"])
    return "\n\n".join(texts)


def _load_dataset(source: str, held_out: str | None) -> TextSplit:
    if importlib.util.find_spec("datasets") is None:
        raise SourceError(
            f"{source} is no .txt or .jsonl file here, and to look for a dataset of that name the package datasets is "
            "needed: pip install 'graphprune[data]'."
        )
    import datasets

    try:
        splits = _splits_of(datasets, source)
    except Exception as error:
        # Whatever goes wrong in there (network, name, configuration, format), the first line says it best.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(
            f"{source} is neither a .txt or .jsonl file here nor a dataset that can be loaded ({reason.rstrip('.')}): "
            "check the path, the name or the network."
        ) from error
    if held_out is not None and held_out not in splits:
        raise SourceError(f"The dataset {source} has no split {held_out}, only {', '.join(splits)}.")
    first = "train" if "train" in splits else next(iter(splits))
    train = _column(splits[first], f"{source} ({first})")
    others = [name for name in ("validation", "test") if name in splits and name != first]
    other = held_out or next(iter(others), None)
    if other is None:
        return _split(train, source)
    return TextSplit(train, _column(splits[other], f"{source} ({other})"), source)


def _splits_of(datasets: Any, source: str) -> Any:
    """The splits of a dataset by name: as ``save_to_disk`` wrote them, or of whatever ``load_dataset`` reads."""
    directory = Path(source).expanduser()
    if (directory / "dataset_dict.json").is_file():
        return datasets.load_from_disk(directory)
    if (directory / "dataset_info.json").is_file() and (directory / "state.json").is_file():
        return {"train": datasets.load_from_disk(directory)}
    name, _, configuration = source.partition(":")
    return datasets.load_dataset(name, configuration or None)


def _column(split: Any, name: str) -> str:
    if "text" not in split.column_names:
        raise SourceError(f'The dataset {name} has no column "text", only {", ".join(split.column_names)}.')
    text = "\n\n".join(split["text"])
    if not text.strip():
        raise SourceError(f'The dataset {name} has nothing in its column "text".')
    return text

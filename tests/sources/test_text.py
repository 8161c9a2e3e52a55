import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.errors import FileFormatError, SourceError
from graphprune.sources import load_text, windows


class Characters:
    """A tokenizer with a token per character, which marks the start of a text if it is not told to leave that out."""

    def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [0] * add_special_tokens + [ord(character) for character in text]}


def test_the_default_is_the_language_reference() -> None:
    split = load_text(None)
    assert split == load_text()
    assert split.name.startswith("language reference of CPython 3.")
    assert len(split.train) > 300_000
    assert 0.09 < len(split.held_out) / (len(split.train) + len(split.held_out)) < 0.11
    assert 'The "for" statement' in split.train
    # No topic lies in both parts.
    paragraphs = [part for part in split.held_out.split("\n\n") if len(part) > 400]
    assert paragraphs
    assert not [part for part in paragraphs if part in split.train]


def test_a_text_file_is_split_at_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("".join(f"line {n:03}\n" for n in range(100)))
    split = load_text(str(file))
    assert split.train + split.held_out == file.read_text()
    assert split.held_out.splitlines()[0] == "line 091"
    assert split.name == "a.txt"


def test_one_long_line_is_split_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 90 + "y" * 10 + "\n")
    assert load_text(str(tmp_path / "a.txt")).held_out == "y" * 10 + "\n"


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    texts = [f"text\u2028{n}" for n in range(50)]
    file.write_text("\n".join(json.dumps({"text": text, "id": 1}, ensure_ascii=False) for text in texts) + "\n\n")
    split = load_text(str(file))
    assert split.train + split.held_out == "\n\n".join(texts)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": ', ": not JSON (Expecting value, column 10)."),
        ('{"body": "x"}', ': expected an object with a string "text", such as {"text": "…"}.'),
        ('{"text": 3}', ': expected an object with a string "text", such as {"text": "…"}.'),
        ('["x"]', ': expected an object with a string "text", such as {"text": "…"}.'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(FileFormatError) as caught:
        load_text(str(file))
    assert str(caught.value) == f"{file}, line 2{says}"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ab\xff")
    with pytest.raises(FileFormatError, match=re.escape("a.txt is not UTF-8 text (byte 2): convert it to UTF-8.")):
        load_text(str(tmp_path / "a.txt"))


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SourceError) as caught:
        load_text(str(tmp_path / "a.txt"))
    assert str(caught.value) == "The text of a.txt is too short to hold out a part of it: 0 characters."


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        load_text(f"{tmp_path}/a.txt")
    assert str(caught.value) == f"There is no text file {tmp_path}/a.txt: check the path."


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(SourceError, match=r"a\.pdf is neither a \.txt nor a \.jsonl file"):
        load_text(str(tmp_path / "a.pdf"))


@pytest.fixture
def dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what datasets caches out of the user's home, and the hub out of the test."""
    datasets: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_dataset(directory: Path, **splits: list[dict[str, str]]) -> str:
    directory.mkdir()
    for name, rows in splits.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(directory)


@pytest.mark.usefixtures("dataset_cache")
def test_a_dataset_with_splits(tmp_path: Path) -> None:
    rows = {split: [{"text": f"{split} {n}"} for n in range(3)] for split in ("train", "test", "validation")}
    source = write_dataset(tmp_path / "data", **rows)
    split = load_text(source)
    assert split.train == "train 0\n\ntrain 1\n\ntrain 2"
    assert split.held_out == "validation 0\n\nvalidation 1\n\nvalidation 2"
    assert split.name == source


@pytest.mark.usefixtures("dataset_cache")
def test_a_dataset_of_one_split(tmp_path: Path) -> None:
    split = load_text(write_dataset(tmp_path / "data", train=[{"text": f"row {n:02}"} for n in range(40)]))
    assert split.train.startswith("row 00\n\nrow 01")
    assert split.held_out.endswith("row 39")
    assert len(split.held_out) < 50


@pytest.mark.usefixtures("dataset_cache")
def test_a_split_that_is_named(tmp_path: Path) -> None:
    rows = {split: [{"text": f"{split} {n}"} for n in range(3)] for split in ("train", "test", "validation")}
    source = write_dataset(tmp_path / "data", **rows)
    assert load_text(source, split="test").held_out == "test 0\n\ntest 1\n\ntest 2"
    assert load_text(source, split="train").held_out == load_text(source).train
    with pytest.raises(SourceError) as caught:
        load_text(source, split="dev")
    assert str(caught.value) == f"The dataset {source} has no split dev, only train, validation, test."


@pytest.mark.parametrize(("source", "called"), [(None, "the default text"), ("a.txt", "a.txt")])
def test_a_split_of_what_has_none(source: str | None, called: str) -> None:
    with pytest.raises(SourceError) as caught:
        load_text(source, split="test")
    assert str(caught.value) == f"Only a dataset has splits such as test, and {called} is none."


@pytest.mark.usefixtures("dataset_cache")
def test_datasets_that_were_saved_to_disk(tmp_path: Path) -> None:
    datasets: Any = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": [f"row {n:02}" for n in range(40)]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows.select([3])}).save_to_disk(tmp_path / "many")
    assert load_text(str(tmp_path / "one")).train.startswith("row 00\n\nrow 01")
    assert load_text(str(tmp_path / "many")).held_out == "row 03"


@pytest.mark.usefixtures("dataset_cache")
def test_a_dataset_without_text(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "data", train=[{"body": "x"}])
    with pytest.raises(SourceError) as caught:
        load_text(source)
    assert str(caught.value) == f'The dataset {source} (train) has no column "text", only body.'


@pytest.mark.usefixtures("dataset_cache")
def test_a_dataset_that_is_not_there() -> None:
    with pytest.raises(
        SourceError, match=r"^no/such is neither a \.txt or \.jsonl file here nor a dataset that can be"
    ):
        load_text("no/such")


def test_without_the_package_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError) as caught:
        load_text("no/such")
    assert str(caught.value) == (
        "no/such is no .txt or .jsonl file here, and to look for a dataset of that name the package datasets is "
        "needed: pip install 'graphprune[data]'."
    )


def test_windows_drop_the_remainder_and_add_nothing() -> None:
    got = windows(Characters(), "abcdefgh", 3)
    assert got.dtype == torch.long
    assert got.tolist() == [[97, 98, 99], [100, 101, 102]]


def test_windows_that_overlap() -> None:
    got = windows(Characters(), "abcdefgh", 4, stride=3)
    assert [bytes(row).decode() for row in got.tolist()] == ["abcd", "defg"]


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_that_does_not_fit(stride: int) -> None:
    with pytest.raises(SourceError) as caught:
        windows(Characters(), "abcdefgh", 4, stride=stride)
    assert str(caught.value) == (f"A stride of {stride} tokens does not fit windows of 4: it must lie between 1 and 4.")


def test_windows_of_a_text_that_is_too_short() -> None:
    with pytest.raises(SourceError) as caught:
        windows(Characters(), "abc", 4)
    assert str(caught.value) == (
        "The text has 3 tokens, less than one window of 4: give a longer text or a shorter window."
    )


def test_windows_that_predict_nothing() -> None:
    with pytest.raises(SourceError, match="A window of 1 tokens predicts nothing"):
        windows(Characters(), "abc", 1)

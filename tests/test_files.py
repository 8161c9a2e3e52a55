import errno
import os
from pathlib import Path

import pytest

from graphprune.errors import DiskFullError, OutputExistsError
from graphprune.files import is_disk_full, new_directory, new_file, write_text_atomically


def test_new_directory_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with new_directory(target) as directory:
        (directory / "x").write_text("1")
        assert not target.exists()
        assert directory.parent == target.parent
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert (target / "x").read_text() == "1"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_new_directory_leaves_nothing_behind(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail() -> None:
        with new_directory(tmp_path / "a" / "b" / "out") as directory:
            (directory / "x").write_text("1")
            raise failure

    with pytest.raises(failure):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_new_directory_refuses_what_exists(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError) as caught, new_directory(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert str(caught.value) == (
        f"The directory {tmp_path}/out exists already and is not overwritten: give another name, or remove it first."
    )


def test_new_directory_refuses_what_came_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), new_directory(tmp_path / "out"):
        (tmp_path / "out").write_text("someone else's")
    assert (tmp_path / "out").read_text() == "someone else's"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExistsError), new_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_symlink()


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError) as caught, new_directory(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == (
        f"The disk that holds {tmp_path} is full, so out was not written: free some space there, or name another "
        "place, and run again."
    )
    assert list(tmp_path.iterdir()) == []


def test_is_disk_full_reads_what_rust_libraries_say() -> None:
    text = 'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'
    assert is_disk_full(RuntimeError(text))
    assert not is_disk_full(OSError(errno.ENOENT, "No such file"))


def test_write_text(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "plan.json", "λ")
    with pytest.raises(OutputExistsError):
        write_text_atomically(tmp_path / "plan.json", "2")
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == "λ"
    write_text_atomically(tmp_path / "plan.json", "3", overwrite=True)
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_failed_overwrite_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("old")

    def fail() -> None:
        with new_file(tmp_path / "model.onnx", overwrite=True) as file:
            file.write_text("half")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fail()
    assert (tmp_path / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]

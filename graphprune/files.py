"""Writing that leaves either the whole thing or nothing: a temporary sibling name first, then a rename.

A temporary name starts with a dot and ends in ``.tmp``, and lies beside its target, so that the rename never crosses
from one file system to another.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import (
    DiskFullError,
    ExportError,
    FileFormatError,
    GraphPruneError,
    OutputExistsError,
    SourceError,
)
from .quiet import first_line

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error``, or what caused it, says that a disk or a quota is full.

    Libraries written in Rust (safetensors, tokenizers) report it as text in an exception of their own.
    """
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno in _FULL:
            return True
        if any(sign in str(current) for sign in ("No space left on device", "StorageFull", "Disk quota exceeded")):
            return True
        current = current.__cause__ or current.__context__
    return False


def is_plain_name(name: str) -> bool:
    """Whether a name that a file gives lies in the directory of that file, and not beside or above it."""
    return name not in ("", ".", "..") and Path(name).name == name and "\\" not in name


def check_safetensors(file: Path) -> None:
    """Read the header of a safetensors file and hold it against the length of the file.

    Raises:
        FileFormatError: the file is truncated or corrupt; the message names it.
    """
    from safetensors import SafetensorError, safe_open  # here: most of this module is used without torch

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            f"The weight file {file} is truncated or corrupt ({first_line(error)}): get it again."
        ) from error


@contextmanager
def new_directory(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary directory that becomes ``path`` when the block ends well.

    When the block fails, for whatever reason, the temporary directory goes and ``path`` is as it was: absent.

    Raises:
        OutputExistsError: if ``path`` exists, before the block or by its end.
        DiskFullError: if the disk is full.
    """
    with _published(Path(path), lambda temporary: temporary.mkdir(), overwrite=False) as temporary:
        yield temporary


@contextmanager
def resumed_directory(path: Path | str, key: str, *, finished: str) -> Iterator[Path]:
    """As :func:`new_directory`, for work of hours: what an earlier block with the same ``key`` has finished is there.

    When the block fails, the temporary directory stays if it holds a file that the pattern ``finished`` fits.

    Raises:
        OutputExistsError: if ``path`` exists, before the block or by its end.
        DiskFullError: if the disk is full; says what is kept.
    """
    path = Path(path).absolute()
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{key}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        yield temporary
        refuse_existing(path)
        os.replace(temporary, path)
    except BaseException as error:
        kept = any(temporary.glob(finished))
        if not kept:
            _remove(temporary)
        if isinstance(error, Exception) and is_disk_full(error):
            rest = f"; what is finished is kept in {temporary}, and the next run goes on from there" if kept else ""
            raise DiskFullError(
                f"The disk that holds {path.parent} is full, so {path.name} was not written: free some space there, "
                f"and run again{rest}."
            ) from error
        raise


@contextmanager
def new_file(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, for the block to write a file there; it becomes ``path`` at the end.

    When the block fails, the temporary file goes and ``path`` is as it was.

    Raises:
        OutputExistsError: if ``path`` exists and ``overwrite`` is false.
        DiskFullError: if the disk is full.
    """
    with _published(Path(path), lambda temporary: temporary.touch(), overwrite=overwrite) as temporary:
        yield temporary


def write_text_atomically(path: Path | str, text: str, *, overwrite: bool = False) -> None:
    """Write ``text`` as UTF-8 to ``path``, wholly or not at all.

    Raises:
        OutputExistsError: if ``path`` exists and ``overwrite`` is false.
        DiskFullError: if the disk is full.
    """
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def reading(name: Path | str, what: str) -> Iterator[None]:
    """Within the context a file is read and taken apart; whatever is wrong with it says that it is not ``what``.

    Raises:
        FileFormatError: the file can't be read, or holds something else.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{name} is not {what}: {error}") from error


@contextmanager
def _published(path: Path, create: Callable[[Path], None], *, overwrite: bool) -> Iterator[Path]:
    path = path.absolute()
    refuse_existing(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    parents = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        create(temporary)
        yield temporary
        # Once more: the block may have taken minutes, and on POSIX a rename replaces a file without a word.
        refuse_existing(path, overwrite=overwrite)
        os.replace(temporary, path)
    except BaseException as error:
        _remove(temporary)
        for parent in parents:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, Exception) and not isinstance(error, GraphPruneError) and is_disk_full(error):
            raise DiskFullError(
                f"The disk that holds {path.parent} is full, so {path.name} was not written: free some space there, "
                "or name another place, and run again."
            ) from error
        raise


def refuse_existing(path: Path, *, overwrite: bool = False) -> None:
    """Raise if something is at ``path`` that must not be overwritten; a directory never is.

    Raises:
        OutputExistsError: says how to go on.
    """
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise OutputExistsError(
            f"The directory {path} exists already and is not overwritten: give another name, or remove it first."
        )
    if not overwrite:
        raise OutputExistsError(
            f"The file {path} exists already and is not overwritten: give another name, or remove it first."
        )


def names_onnx(path: Path) -> bool:
    """Whether a path is that of an ONNX file, which need not be there."""
    return path.suffix == ".onnx" and not path.is_dir()


def onnx_file(path: Path) -> Path:
    """The path of an ONNX file that is there.

    Raises:
        SourceError: it is not.
    """
    if not path.is_file():
        raise SourceError(f"there is no ONNX file {path}: check the path")
    return path


def require_directory_of(path: Path) -> None:
    """Raise if there is no directory for a single file to be written to: a wrong path is seen before hours of work.

    Raises:
        ExportError: says how to go on.
    """
    if not path.absolute().parent.is_dir():
        raise ExportError(f"there is no directory {path.parent} for {path.name}: make it, or give another path")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)

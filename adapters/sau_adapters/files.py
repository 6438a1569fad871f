"""Reading and writing files as wholes. Needs no torch."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sau_cli.errors import NotEvaluable, UsageError


def check_readable(path: Path) -> None:
    """Raises UsageError when there is no such file, or NotEvaluable when it cannot be read or is empty."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a model file")
    if not path.exists():
        if str(path).startswith(("timm:", "torchvision:", "hf-hub:")):
            raise UsageError(
                f"{path} names a model in a zoo, and nothing is fetched; save its weights and give the file"
            )
        raise UsageError(f"{path} does not exist; give the path of a model file")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file; give a model file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise NotEvaluable(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if empty:
        raise NotEvaluable(f"{path} is empty; get the file again")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(path: Path, *, force: bool) -> None:
    """Say before the work starts, not after, that its result could not be written.

    Raises:
        UsageError: the file exists and ``force`` is off, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file to write")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; give another name with -o, or add --force to overwrite it")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; make it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(
            f"the folder {path.parent} cannot be written to ({error.strerror}); choose another with -o"
        ) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, renamed to it when the block ends well, removed otherwise.

    Raises:
        UsageError: the file system refuses (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        # Some writers make private files; a result gets the rights that any new file gets here.
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path} could not be written ({error.strerror or error}); nothing was left there") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file in one piece, UTF-8. See :func:`written_whole`."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

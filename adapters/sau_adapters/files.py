"""Reading and writing files as wholes. Needs no torch."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError, argument

BLOCK = 1 << 22
"""Bytes that are read or looked at together; a multiple of every number's size."""
ESCAPE = "file.path-escape"
"""The finding of a file that names others outside its own folder."""
Watch = Callable[[int, int], None]
"""Told how many bytes are read, and of how many."""


def check_regular(path: Path, *, what: str = "a model file") -> None:
    """Raises UsageError when there is no such file, or it is a folder, a device or a pipe."""
    try:
        str(path).encode()
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give {what}")
        if not path.exists():
            raise UsageError(f"{path} does not exist; give the path of {what}")
        if not path.is_file():
            raise UsageError(f"{path} is not a regular file; give {what}")
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {str(path)!r} is not UTF-8; rename the file") from error
    except OSError as error:
        raise UsageError(f"{shortened(path)} cannot be opened ({error.strerror}); give the path of {what}") from error


def check_readable(path: Path, *, what: str = "a model file") -> None:
    """Raises UsageError when there is no such file, or NotEvaluable when it cannot be read or is empty."""
    check_regular(path, what=what)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise NotEvaluable(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if empty:
        raise NotEvaluable(f"{path} is empty; get the file again")


def shortened(path: Path) -> str:
    """A path for a sentence, the middle of a very long one left out."""
    text = str(path)
    return text if len(text) <= 120 else f"{text[:60]}...{text[-40:]}"


def is_blob_of(folder: Path, target: Path) -> bool:
    """Whether a link leads from a snapshot in the cache of the hub to where the cache keeps that repository's files."""
    snapshots = next((place for place in (folder, *folder.parents) if place.name == "snapshots"), None)
    return snapshots is not None and target.parent == (snapshots.parent / "blobs").resolve()


def check_unpacked_size(path: Path, archive: zipfile.ZipFile, *, size: int, times: int = 200) -> None:
    """Raises UnsafeFile for a zip archive that unpacks to far more than its size: a zip bomb.

    Args:
        path: of the archive, for the sentence.
        size: of the archive in bytes.
        times: how many times the archive's size is still believed, beside a first 64 MB.
    """
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > times * size + 64_000_000:
        raise UnsafeFile(
            f"{path} unpacks from {size:,} to {unpacked:,} bytes, as a zip bomb does; do not open it",
            finding="file.zip-bomb",
        )


def sha256_of(*paths: Path, watch: Watch | None = None) -> str:
    """The SHA-256 of a file, or of several one after another, in hexadecimal, read as a stream."""
    digest, done, total = hashlib.sha256(), 0, sum(path.stat().st_size for path in paths)
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                done += len(block)
                if watch:
                    watch(done, total)
    return digest.hexdigest()


def check_writable(path: Path, *, force: bool, place: str = "out") -> None:
    """Say before the work starts, not after, that its result could not be written.

    Args:
        place: the argument that names the path, for the sentence.

    Raises:
        UsageError: the file exists and ``force`` is off, is no regular file, or its folder is missing or not writable.
    """
    try:
        str(path).encode()
        target = Path(os.path.realpath(path, strict=False))
        if path.is_symlink() and (not force or target.is_symlink()):
            raise UsageError(f"{path} is a link; give another name with {argument(place)}")
        if target.is_dir():
            raise UsageError(f"{path} is a folder; give the name of a file to write with {argument(place)}")
        if target.exists() and not target.is_file():
            raise UsageError(f"{path} is a device or a pipe, no file; give another name with {argument(place)}")
        if target.exists() and not force:
            raise UsageError(
                f"{path} exists; give another name with {argument(place)}, or add {argument('force')} to overwrite it"
            )
        if not target.parent.is_dir():
            raise UsageError(f"the folder {path.parent} does not exist; make it first")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {str(path)!r} is not UTF-8; give another name with {argument(place)}") from error
    except OSError as error:
        raise UsageError(
            f"{shortened(path)} cannot be written to ({error.strerror}); choose another place with {argument(place)}"
        ) from error


@contextmanager
def claimed(*paths: Path) -> Iterator[None]:
    """Nobody else who claims them writes these files meanwhile, and what killed runs left of them is removed.

    Whether they can be written to is for :func:`check_writable` to say, first.

    Raises:
        UsageError: another run has claimed one of them.
    """
    with ExitStack() as locks:
        for path in paths:
            target = Path(os.path.realpath(path))
            if not target.parent.is_dir():  # the lock would make it
                continue
            lock = target.with_name(f".{target.name[:100]}.lock")
            try:
                locks.enter_context(FileLock(lock, timeout=0))
            except Timeout as error:
                raise UsageError(
                    f"another run of sau is writing {path} now; "
                    f"wait for it, or give another name with {argument('out')}"
                ) from error
            except (OSError, NotImplementedError):
                continue
            locks.callback(_remove, lock)
            with suppress(OSError):
                for left in target.parent.iterdir():
                    if _is_temporary(left, target):
                        _remove(left)
        yield


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.stem[:100]}.{os.getpid()}.{id(target):x}{target.suffix}.part")


def _is_temporary(path: Path, target: Path) -> bool:
    before, behind = map(re.escape, (target.stem[:100], target.suffix))
    return re.fullmatch(rf"\.{before}\.\d+\.[0-9a-f]+{behind}\.part", path.name) is not None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to, renamed to it when the block ends well, removed otherwise.

    A link is followed, so that what it points to is replaced.

    Raises:
        UsageError: the file system refuses (disk full, no permission).
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    try:
        yield temporary
        # Some writers make private files; a result gets the rights that any new file gets here.
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise UsageError(
            f"{shortened(path)} could not be written ({error.strerror or error}); nothing was left there"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_folder_writable(path: Path, *, force: bool, files: Collection[str], place: str = "out") -> None:
    """The same as :func:`check_writable` of a folder that is to be written.

    Args:
        files: all that may lie in a folder that ``force`` replaces.
    """
    if path.is_dir() and not path.is_symlink():
        other = next(
            (entry.name for entry in sorted(path.iterdir()) if entry.name not in files or not entry.is_file()), None
        )
        if other is not None:
            raise UsageError(f"{path} is a folder with {other[:100]!r} in it; give another name with {argument(place)}")
        if not force:
            raise UsageError(
                f"{path} exists; give another name with {argument(place)}, or add {argument('force')} to overwrite it"
            )
        path = path / next(iter(files))
    elif path.exists():
        raise UsageError(
            f"{path} is no folder, and a folder is to be written; give another name with {argument(place)}"
        )
    check_writable(path, force=force, place=place)


@contextmanager
def folder_written_whole(path: Path, *, files: Collection[str]) -> Iterator[Path]:
    """A folder of a temporary name beside ``path``, renamed to it when the block ends well, removed otherwise.

    Args:
        files: what is written; a folder that is there is replaced if it has nothing else.

    Raises:
        UsageError: the file system refuses, or something else is there.
    """
    check_folder_writable(path, force=True, files=files)
    target = Path(os.path.realpath(path))
    temporary, former = _temporary(target), _temporary(target.with_name(f"{target.name}.former"))
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o666 & ~_umask())
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if target.is_dir():
            target.replace(former)
        try:
            temporary.replace(target)
        except OSError:
            if former.is_dir():
                former.replace(target)
            raise
    except OSError as error:
        raise UsageError(
            f"{shortened(path)} could not be written ({error.strerror or error}); nothing was left there"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


@contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """A place for ``path`` in a folder of its own, and for files beside it; all are moved out when the block ends well.

    What is in folders within stays behind. ``path`` itself comes last, so that it is never there without the others.

    Raises:
        UsageError: the file system refuses (disk full, no permission).
    """
    target = Path(os.path.realpath(path))
    folder = _temporary(target)
    moved: list[Path] = []
    try:
        folder.mkdir()
        staged = folder / target.name
        yield staged
        files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file == staged)
        for file in files:
            file.chmod(0o666 & ~_umask())
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        for file in files:
            new = not (target.parent / file.name).exists()
            file.replace(target.parent / file.name)
            moved += [target.parent / file.name] if new else []
    except OSError as error:
        for placed in moved:
            placed.unlink(missing_ok=True)
        raise UsageError(
            f"{shortened(path)} could not be written ({error.strerror or error}); nothing was left there"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file in one piece, UTF-8, with a mark for what that cannot say. See :func:`written_whole`."""
    write_parts_whole(path, (text,))


def write_parts_whole(path: Path, parts: Iterable[str]) -> None:
    """As :func:`write_text_whole`, of text that is never in memory as a whole."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(parts)

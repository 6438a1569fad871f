"""Models from elsewhere, in a cache of this machine: fetched once, whole or not at all, and never more than fits.

An entry is a folder with the weights, what describes them beside, and what the store told of each file. It is believed
only while the store tells the same and the bytes are those that were fetched. Several processes may use the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout
from rich.filesize import decimal

from sau_adapters.caches import FOLDER_VARIABLE, cache_folder, limit_of
from sau_adapters.files import BLOCK, Watch, sha256_of
from sau_adapters.weights.content import Content
from sau_adapters.weights.formats import reader_of
from sau_adapters.weights.onnx import OnnxReader
from sau_adapters.weights.sharded import ShardedReader
from sau_adapters.zoos.addresses import NotReadable, RemoteFile, answering, asked, changed, shown_address
from sau_adapters.zoos.hub_downloads import DESCRIBING
from sau_adapters.zoos.remote_content import told_by_head
from sau_cli.errors import SauError, UsageError

MODELS_LIMIT_VARIABLE, DEFAULT_MODELS_LIMIT = "SAU_MODELS_LIMIT", 20_000_000_000
SIDECARS = (".intoto.json", ".cdx.json", ".sig")
"""What ``sau export`` puts beside a graph."""
_TOLD, _PART = "sau-entry.json", ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A model in the cache.

    Attributes:
        path: of its weights, or of what names the others.
        source: where it comes from.
        told: what was fetched, as a sentence.
        hold: keeps it there while somebody has this.
    """

    path: Path
    source: str
    told: str
    hold: object


class Hold:
    """Keeps an entry in the cache for as long as this is there."""

    def __init__(self, entry: Path) -> None:
        self._file = os.open(entry / _TOLD, os.O_RDONLY)
        _lock(self._file, shared=True)

    def __del__(self) -> None:
        os.close(self._file)


def fetched(address: str, *, watch: Watch | None = None) -> Fetched:
    """Have the model at an address in the cache.

    Args:
        watch: of the fetching.

    Raises:
        UsageError: nothing is there, it is a folder, it does not fit into the cache, or that cannot be written to.
        NotEvaluable: it must not be read, there is no way to it, or it is changed meanwhile.
        UnsafeFile: its head shows that it must not be opened.
    """
    remote = asked(address)
    if remote.is_folder:
        raise UsageError(f"{remote.address} is a folder of models; give the address of one")
    if Path(remote.name).name != remote.name or remote.name in {"", ".."}:
        raise UsageError(f"{remote.address} ends in no name of a file; give the address of a model")
    with _claimed(_key(address, remote.version)) as entry:
        kept = _believed(entry, remote)
        told = f"{remote.address} is in the cache already, {_size(kept)} in {_files(kept)}"
        if kept is None:
            head = told_by_head(remote)
            kept = _fill(entry, remote, watch)
            told = f"{remote.address} was fetched, {_size(kept)} in {_files(kept)}{f': {head}' if head else ''}"
        os.utime(entry / _TOLD)
        hold = Hold(entry)
    return Fetched(path=entry / remote.name, source=remote.address, told=told, hold=hold)


def fetched_with(key: str, source: str, fill: Callable[[Path], Path]) -> Fetched:
    """Have what another library fetches in the cache.

    Args:
        key: another one once the model is another; it is not kept.
        source: where it comes from.
        fill: fetches it into a folder that is empty, and returns the weights in it.
    """
    with _claimed(hashlib.sha256(key.encode()).hexdigest()) as entry:
        files = _told_files(entry)
        if files is None or not _are_whole(entry, files):
            with _new_entry(entry) as folder:
                weights = fill(folder).relative_to(folder)
                _write_told(folder, {"main": weights.as_posix()}, _listed(folder))
                _make_room(0, but=folder)
        told = json.loads((entry / _TOLD).read_text(encoding="utf-8"))
        os.utime(entry / _TOLD)
        hold = Hold(entry)
    size, many = sum(file["size"] for file in told["files"].values()), len(told["files"])
    sentence = f"{source} is in the cache, {decimal(size)} in {many} file{'s' if many > 1 else ''}"
    return Fetched(path=entry / told["main"], source=source, told=sentence, hold=hold)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A file of an entry, and what the store told of it."""

    size: int
    sha256: str
    version: str


def _believed(entry: Path, remote: RemoteFile) -> Mapping[str, _Kept] | None:
    """The files of an entry that is still what the store has; None where there is none."""
    files = _told_files(entry)
    if files is None or not remote.version or remote.name not in files:
        return None
    names = dict.fromkeys([*files, *_candidates(remote.name)])
    for name in names:
        now = remote if name == remote.name else _beside(remote, name)
        kept = files.get(name)
        if (now is None) != (kept is None):
            return None
        if now is not None and kept is not None and (not now.version or now.version != kept.version):
            return None
    return files if _are_whole(entry, files) else None


def _told_files(entry: Path) -> dict[str, _Kept] | None:
    """What an entry says of its files; None where it is none, or is damaged."""
    try:
        told = json.loads((entry / _TOLD).read_text(encoding="utf-8"))
        return {str(name): _Kept(**kept) for name, kept in told["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _are_whole(entry: Path, files: Mapping[str, _Kept]) -> bool:
    """Whether the bytes are those that were fetched."""
    with suppress(OSError):
        return all(
            (entry / name).is_file()
            and not (entry / name).is_symlink()
            and (entry / name).stat().st_size == kept.size
            and sha256_of(entry / name) == kept.sha256
            for name, kept in files.items()
        )
    return False


def _fill(entry: Path, remote: RemoteFile, watch: Watch | None) -> Mapping[str, _Kept]:
    """Fetch a model with what belongs to it."""
    with _new_entry(entry) as folder:
        kept = {remote.name: _fetch(remote, folder, watch)}
        for name in (*_candidates(remote.name), *_named_in(folder / remote.name)):
            beside = None if name in kept else _beside(remote, name)
            if beside is not None:
                if name.endswith(".safetensors"):
                    told_by_head(beside)
                kept[name] = _fetch(beside, folder, watch)
        _write_told(folder, {"address": remote.address}, kept)
    return kept


def _candidates(name: str) -> tuple[str, ...]:
    """What may lie beside weights of this name, and says more of them."""
    return (*DESCRIBING, *(name + ending for ending in SIDECARS)) if name.endswith(".onnx") else DESCRIBING


def _beside(remote: RemoteFile, name: str) -> RemoteFile | None:
    """A file in the same folder; None where there is none, or nobody may know."""
    try:
        found = asked(remote.beside(name), remote.store)
    except (UsageError, NotReadable) as missing:  # some stores say of what is not there that it must not be read
        _let_go(missing)
        return None
    return None if found.is_folder else found


def _let_go(error: BaseException) -> None:
    """Of what an error refers to, which may be itself: else it keeps models in the cache that nobody uses."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__


def _named_in(path: Path) -> Sequence[str]:
    """The files beside a model that it names itself: shards, and those in which a graph keeps tensors."""
    names: Sequence[str] = ()
    with suppress(SauError):  # which is told when the model is opened
        reader = reader_of(Content(path))
        if isinstance(reader, ShardedReader):
            names = reader.named
        elif isinstance(reader, OnnxReader):
            names = reader.external_files
    return [name for name in names if Path(name).name == name and name not in {"", ".", ".."} and "\0" not in name]


def _fetch(remote: RemoteFile, folder: Path, watch: Watch | None) -> _Kept:
    """Fetch a file, and hash it on the way.

    Raises:
        NotEvaluable: it is another one by the end.
        UsageError: it does not fit.
    """
    check_fits(remote.address, remote.size or 0)
    _make_room(remote.size or 0, but=folder)
    digest, done, limit = hashlib.sha256(), 0, limit_of(MODELS_LIMIT_VARIABLE, DEFAULT_MODELS_LIMIT)
    with answering(remote.address), _stream(remote) as source, (folder / remote.name).open("xb") as target:
        while block := source.read(BLOCK):
            digest.update(block)
            target.write(block)
            done += len(block)
            if done > limit or (remote.size is not None and done > remote.size):
                break
            if watch and remote.size:
                watch(done, remote.size)
        target.flush()
        os.fsync(target.fileno())
    if remote.size is None and done > limit:
        raise _too_large(remote.address, done, limit)
    if remote.size is not None and done != remote.size:
        raise changed(remote.address)
    remote.check_unchanged()
    return _Kept(size=done, sha256=digest.hexdigest(), version=remote.version)


def _stream(remote: RemoteFile) -> BinaryIO:
    """A file to read from the start: of the web in one answer, of a store in large parts of the same version."""
    if remote.url.startswith("http"):
        return remote.store.open(remote.url, "rb", block_size=0)  # type: ignore[no-any-return]
    return remote.store.open(remote.url, "rb", cache_type="none")  # type: ignore[no-any-return]


@contextmanager
def _claimed(key: str) -> Iterator[Path]:
    """The place of an entry, which nobody else fills or removes meanwhile."""
    root = cache_folder() / "models"
    try:
        (root / "locks").mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(root / "locks" / f"{key}.lock")
        lock.acquire()
    except OSError as error:
        raise _unwritable(root, error) from error
    try:
        yield root / key
    except OSError as error:
        raise _unwritable(root, error) from error
    finally:
        lock.release()


def _unwritable(root: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the cache {root} cannot be written to ({error.strerror}); set {FOLDER_VARIABLE} to a folder of yours"
    )


@contextmanager
def _new_entry(entry: Path) -> Iterator[Path]:
    """An empty folder that becomes the entry when the block ends well."""
    folder = entry.with_name(f"{entry.name}{_PART}")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed: nobody else has the lock
    folder.mkdir()
    try:
        yield folder
        shutil.rmtree(entry, ignore_errors=True)
        folder.rename(entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_told(folder: Path, about: Mapping[str, str], files: Mapping[str, _Kept]) -> None:
    listed = {name: {"size": file.size, "sha256": file.sha256, "version": file.version} for name, file in files.items()}
    (folder / _TOLD).write_text(json.dumps({**about, "files": listed}, indent=2) + "\n", encoding="utf-8")


def _listed(folder: Path) -> dict[str, _Kept]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): _Kept(size=path.stat().st_size, sha256=sha256_of(path), version="")
        for path in files
    }


def _make_room(needed: int, *, but: Path) -> None:
    """Remove what was not used for longest, and nobody uses, until so many bytes more fit, or nothing is left."""
    limit = limit_of(MODELS_LIMIT_VARIABLE, DEFAULT_MODELS_LIMIT)
    root = cache_folder() / "models"
    entries = [path for path in root.iterdir() if path.is_dir() and path.name != "locks"]
    sizes = {path: _size_of(path) for path in entries}
    spare = [path for path in entries if path not in {but, but.with_suffix("")}]
    for entry in sorted(spare, key=_used_at):
        if sum(sizes.values()) + needed <= limit:
            return
        if _removed(entry):
            del sizes[entry]


def _removed(entry: Path) -> bool:
    """Whether an entry that nobody uses is gone now."""
    try:
        with FileLock(entry.parent / "locks" / f"{entry.name.removesuffix(_PART)}.lock", timeout=0):
            if entry.suffix != _PART:  # what a process that was killed left of one is of no use
                file = os.open(entry / _TOLD, os.O_RDONLY)
                try:
                    _lock(file, shared=False)
                finally:
                    os.close(file)
            shutil.rmtree(entry)
            return True
    except (OSError, Timeout):
        return False


def _lock(file: int, *, shared: bool) -> None:
    """Mark an open file as in use, or raise OSError where it is. On Windows an open one cannot be removed anyway."""
    with suppress(ImportError):
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _used_at(entry: Path) -> float:
    try:
        return (entry / _TOLD).stat().st_mtime
    except OSError:
        return 0.0


def _size_of(entry: Path) -> int:
    total = 0
    for path in entry.rglob("*"):
        with suppress(OSError):  # it may be gone by now
            total += path.stat().st_size if path.is_file() else 0
    return total


def check_fits(what: str, size: int) -> None:
    """Raises UsageError where the cache could never hold so many bytes."""
    limit = limit_of(MODELS_LIMIT_VARIABLE, DEFAULT_MODELS_LIMIT)
    if size > limit:
        raise _too_large(what, size, limit)


def _too_large(what: str, size: int, limit: int) -> UsageError:
    return UsageError(
        f"{what} takes {decimal(size)} and the cache may take {decimal(limit)}; set {MODELS_LIMIT_VARIABLE} to more"
    )


def _key(address: str, version: str) -> str:
    """The name of an entry. A key in an address, which another day has another, is no part of it."""
    return hashlib.sha256(f"{shown_address(address)}\0{version}".encode()).hexdigest()


def _size(kept: Mapping[str, _Kept] | None) -> str:
    return decimal(sum(file.size for file in (kept or {}).values()))


def _files(kept: Mapping[str, _Kept] | None) -> str:
    many = len(kept or {})
    return f"{many} file{'s' if many > 1 else ''}"

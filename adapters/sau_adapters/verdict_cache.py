"""Verdicts that are there already, under the content of all that they depend on. Needs no torch.

An entry is a report under the SHA-256 of the model's files, as they were read, and of everything else that the verdict
comes from: see :func:`context_of`. It is sealed with a key that only this cache has, so that an entry that was changed,
or that comes from elsewhere, is never believed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sau_adapters.caches import FOLDER_VARIABLE, limit_of
from sau_adapters.files import sha256_of
from sau_adapters.models import locate
from sau_adapters.weights.content import SAME, Content
from sau_adapters.weights.formats import reader_of
from sau_adapters.weights.keras import SavedModelReader
from sau_adapters.weights.onnx import OnnxReader
from sau_adapters.weights.sharded import ShardedReader
from sau_adapters.zoos.addresses import is_address
from sau_adapters.zoos.transformers_folders import CONFIG, PREPROCESSOR
from sau_cli.errors import ExitCode, NotEvaluable, SauError, UsageError, argument
from sau_cli.fleet.surroundings import surroundings
from sau_cli.reporting.json_document import plain, report_of
from sau_cli.results import Report

CACHE_LIMIT_VARIABLE = "SAU_CACHE_LIMIT"
DEFAULT_CACHE_LIMIT = 2_000_000_000
LARGEST_ENTRY = 64_000_000
SETTLED_FOR = 2.0
"""Seconds since a file was last changed from which on its times tell that it is still the same."""
_SCHEMA = 1
VERDICTS, HASHES = "verdicts", "hashes"
"""Folders of the cache."""
_KEPT = {
    *(ExitCode.PASSED, ExitCode.LIMIT_FAILED, ExitCode.NOT_EVALUATED, ExitCode.UNSAFE, ExitCode.INCONCLUSIVE),
}
_OF_THE_DAY = ("chain.", "attestation.", "policy.require-attestation")
"""Checks of signatures and of files elsewhere, which may come to something else on another day."""

_ROOTS = tuple(f"--{name}=" for name in ("data-root", "data_root"))

Files = Mapping[str, str | None]
"""SHA-256 by place, seen from the model's folder; None for a file that is not there, and would count."""


def cache_limit() -> int:
    """Bytes that the cache may take: ``SAU_CACHE_LIMIT``, such as ``500MB``, or 2 GB.

    Raises:
        UsageError: it is no size.
    """
    return limit_of(CACHE_LIMIT_VARIABLE, DEFAULT_CACHE_LIMIT)


class VerdictCache:
    """The verdicts that are kept in a folder. Several processes may use it at once.

    Args:
        folder: made if it is not there, for its owner alone.

    Attributes:
        spoiled: entries that were found and not believed.

    Raises:
        UsageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.spoiled: list[Path] = []
        self._hashes = _HashMemo(self)
        self._since_written = 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._secret = _secret(folder / "secret")
        except OSError as error:
            raise UsageError(
                f"the cache {folder} cannot be used ({error.strerror}); set {FOLDER_VARIABLE} to a folder of yours, or "
                f"add {argument('no_cache')}"
            ) from error

    @property
    def folder(self) -> Path:
        return self._folder

    def context_of(self, command: str, words: Sequence[str], *, out: Path | None, defaults: object, device: str) -> str:
        """A digest of all that a verdict comes from, but for the model.

        Those are sau's code with its calibration, Python and the packages, the kind of machine, the device, the command
        with its options, the defaults of the working folder, and the content of each file or folder that an option or
        a default names.

        Args:
            words: options with their values.
            out: where the result goes; None where there is none.
            defaults: of the working folder.
            device: that the work is done on.
        """
        told = plain(defaults)
        names = [*words, *(f"--{key}={value}" for key, value in told.items() if isinstance(value, str))]
        parts = {
            "schema": _SCHEMA,
            "surroundings": surroundings(),
            "device": device,
            "command": command,
            "options": list(words),
            "defaults": told,
            "out": None if out is None else str(out),
            "named": {str(path): self._digest(path) for path in dict.fromkeys(_named(names))},
            "under": {str(path): _listing(path) for path in _roots(names)},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _digest(self, path: Path) -> str:
        """Of the content of a file, or of all files under a folder."""
        if path.is_file():
            return self._hashes.sha256(path)
        digest = hashlib.sha256()
        for place, folders, names in os.walk(path, followlinks=True):
            folders.sort()
            for name in sorted(names):
                file = Path(place, name)
                told = self._hashes.sha256(file) if file.is_file() else "none"
                digest.update(f"{file.relative_to(path).as_posix()}\0{told}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def remembered(self, model: Path, context: str) -> Report | None:
        """The verdict on a model whose files have not been touched since they were hashed; else None."""
        found = files_of(model)
        if found is None:
            return None
        files: dict[str, str | None] = {}
        for name, path in found.items():
            sha256 = self._hashes.remembered(path) if path.is_file() else None
            if sha256 is None and path.exists():
                return None
            files[name] = sha256
        return self.read(model, context, files)

    def read(self, model: Path, context: str, files: Files) -> Report | None:
        """The verdict on a model with these files; None where there is none that is to be believed."""
        key = _key(model, context, files)
        path = self._place(context, key)
        told = self._opened(path)
        if told is None:
            return None
        try:
            if told["key"] != key or told["files"] != dict(files) or told["context"] != context:
                raise ValueError("another model's")
            report = report_of(told["report"])
        except (KeyError, TypeError, ValueError):
            self._spoiled(path)
            return None
        if not self._outputs_are_there(report):
            return None
        with suppress(OSError):
            os.utime(path)
        return report

    def keep(self, model: Path, context: str, seen: SeenFiles, report: Report) -> None:
        """Keep a verdict, if it is one that will be true another day. A folder that is full keeps nothing."""
        if not is_lasting(report):
            return
        self._hashes.learn(seen)
        key = _key(model, context, seen.files)
        entry = {"key": key, "context": context, "files": dict(seen.files), "report": plain(report)}
        self.write(self._place(context, key), entry)
        self._since_written += 1
        if self._since_written % 100 == 0:
            self._hashes.write()

    def _outputs_are_there(self, report: Report) -> bool:
        """Whether what a command wrote is still what it wrote."""
        written = [(Path(file.path), file.sha256) for file in report.outputs.values()]
        return all(path.is_file() and self._hashes.sha256(path) == sha256 for path, sha256 in written)

    def forget(self, context: str) -> None:
        """Drop all verdicts of a context, which was not what it seemed."""
        shutil.rmtree(self._folder / VERDICTS / context[:32], ignore_errors=True)

    def close(self, *, limit: int) -> None:
        """Write down what was learned of files, and drop what was used longest ago until the limit is kept."""
        self._hashes.write()
        if self._since_written:
            self._prune(limit)

    def _prune(self, limit: int) -> None:
        entries = []
        for own in (VERDICTS, HASHES):  # others keep what is theirs in the same folder
            for folder, _, names in os.walk(self._folder / own):
                for name in names:
                    with suppress(OSError):
                        stat = Path(folder, name).stat()
                        entries.append((stat.st_mtime_ns, stat.st_size, str(Path(folder, name))))
        total = sum(size for _, size, _ in entries)
        for _, size, place in sorted(entries):
            if total <= limit:
                return
            with suppress(OSError):
                Path(place).unlink()
            total -= size

    def _place(self, context: str, key: str) -> Path:
        return self._folder / VERDICTS / context[:32] / key[:2] / key

    def _opened(self, path: Path) -> dict[str, Any] | None:
        """What was sealed in a file; None where there is no such file, or it is not believed."""
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                own = not hasattr(os, "geteuid") or stat.st_uid in {os.geteuid(), 0}
                sealed = file.read(LARGEST_ENTRY) if own and stat.st_size < LARGEST_ENTRY else b""
        except OSError:
            return None
        seal, body = sealed[:64], sealed[65:]
        if not hmac.compare_digest(seal, self._seal(path, body)):
            self._spoiled(path)
            return None
        try:
            told = json.loads(zlib.decompress(body))
        except (ValueError, zlib.error, RecursionError):
            told = None
        if not isinstance(told, dict):
            self._spoiled(path)
            return None
        return told

    def _seal(self, path: Path, body: bytes) -> bytes:
        """Of what lies in this place."""
        place = path.relative_to(self._folder).as_posix().encode()
        return hmac.new(self._secret, place + b"\0" + body, hashlib.sha256).hexdigest().encode()

    def _spoiled(self, path: Path) -> None:
        self.spoiled.append(path)
        with suppress(OSError):
            path.unlink()

    def write(self, path: Path, told: Mapping[str, Any]) -> None:
        """Seal and write a file in one piece; not at all where the file system refuses."""
        body = zlib.compress(json.dumps(told, allow_nan=False).encode(), 6)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(self._seal(path, body) + b"\n" + body)
                Path(temporary).replace(path)
            finally:
                Path(temporary).unlink(missing_ok=True)

    def opened(self, path: Path) -> dict[str, Any] | None:
        """As :meth:`write` wrote it; None where it is not there, or not believed."""
        return self._opened(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFiles:
    """The files of a model as they were hashed.

    Attributes:
        files: SHA-256 by place.
        stats: what tells that each file is still the same, by its whole path, with its SHA-256.
    """

    files: Files
    stats: Mapping[str, tuple[tuple[int, ...], str]]

    def unchanged(self) -> bool:
        """Whether nobody has touched any of them since."""
        return all(_same(Path(path)) == stat for path, (stat, _) in self.stats.items())


def seen_files(model: Path) -> SeenFiles | None:
    """Hash the files of a model; None where nobody can say which they are, or one cannot be read."""
    found = files_of(model)
    if found is None:
        return None
    files: dict[str, str | None] = {}
    stats: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, path in found.items():
        stat = _same(path)
        if stat is None:
            files[name] = None
            continue
        try:
            sha256 = sha256_of(path)
        except OSError:
            return None
        files[name] = sha256
        stats[os.path.realpath(path)] = stat, sha256
    return SeenFiles(files=files, stats=stats)


def files_of(model: Path) -> dict[str, Path] | None:
    """The files that a model's report depends on, by their place seen from its folder; None where that is not known.

    Its weights with all their parts, and what beside them would describe it, whether that is there or not. Of a model
    at an address nothing is known before it is fetched.
    """
    if is_address(model):
        return None
    try:
        path = locate(model).path
        content = Content(path)
    except (SauError, OSError):
        return None
    try:
        reader = reader_of(content)
    except SauError:  # of no known format, which the content tells
        reader = None
    beside = [CONFIG, PREPROCESSOR]
    try:
        if isinstance(reader, SavedModelReader):
            return None
        if isinstance(reader, ShardedReader):
            beside += [shard.relative_to(path.parent).as_posix() for shard in reader.shards()]
        if isinstance(reader, OnnxReader):
            beside += [*reader.external_files, *_named_after(path)]
    except (SauError, OSError, ValueError):
        return None
    return {path.name: path} | {name: path.parent / name for name in sorted(set(beside))}


def _named_after(path: Path) -> list[str]:
    """What lies beside a graph under its name, such as its signature."""
    names = [file.name for file in path.parent.iterdir()]
    return [name for name in names if name.startswith((f"{path.name}.", f"{path.stem}."))]


def is_lasting(report: Report) -> bool:
    """Whether the same would be found another day: nothing of signatures, of a lack of memory, or of our bugs."""
    if report.exit_code not in _KEPT or (report.error or "").startswith("out of memory"):
        return False
    return not any(check.id.startswith(_OF_THE_DAY) for check in report.checks)


def _key(model: Path, context: str, files: Files) -> str:
    """The name of a model is in its report, and so it is in the key."""
    return hashlib.sha256(json.dumps([context, str(model), dict(files)], sort_keys=True).encode()).hexdigest()


def _named(words: Iterable[str]) -> list[Path]:
    """Files and folders that are named in words, alone or as in ``patch:FILE.png`` and ``blend:FILE.png@0.2``."""
    found = []
    for word in words:
        if word.startswith(_ROOTS):
            continue
        value = word.partition("=")[2] if word.startswith("--") else word
        behind = value.partition(":")[2]
        for name in (value, value.rpartition(":")[0], behind, behind.rpartition("@")[0]):
            with suppress(OSError, ValueError):
                if name and Path(name).exists():
                    found.append(Path(name))
    return found


def _roots(words: Iterable[str]) -> list[Path]:
    """Where well-known data sets lie: folders that may be far too large to be read."""
    return [Path(word.partition("=")[2]) for word in words if word.startswith(_ROOTS)]


def _listing(folder: Path) -> str:
    """A digest of which files there are under a folder, how large they are and when each was last changed."""
    digest = hashlib.sha256()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            digest.update(f"{Path(place, name)}\0{_same(Path(place, name))}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _same(path: Path) -> tuple[int, ...] | None:
    """What is alike of a file that nobody has changed; None of what is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return tuple(getattr(stat, name) for name in SAME)


def _secret(path: Path) -> bytes:
    """The key that entries are sealed with: made once, for its owner alone."""
    with suppress(FileExistsError):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".secret")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            with suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    secret = path.read_bytes()
    if len(secret) != 32:
        path.unlink()
        raise NotEvaluable(f"{path} is no key of a cache and was removed; run the same command again")
    return secret


class _HashMemo:
    """What files were hashed to, by what tells that they are the same; one file for each folder that they lie in."""

    def __init__(self, cache: VerdictCache) -> None:
        self._cache = cache
        self._folders: dict[str, dict[str, list[Any]]] = {}
        self._changed: set[str] = set()

    def remembered(self, path: Path) -> str | None:
        """The SHA-256 of a file that nobody has touched since it was hashed."""
        place = path.resolve()
        known = self._known(str(place.parent)).get(place.name)
        return known[-1] if known is not None and tuple(known[:-1]) == _same(path) else None

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file, which is read if need be."""
        known = self.remembered(path)
        if known is None:
            stat = _same(path)
            known = sha256_of(path)
            if stat is not None and stat == _same(path):
                self._put(os.path.realpath(path), stat, known)
        return known

    def learn(self, seen: SeenFiles) -> None:
        """Remember what others have hashed."""
        for path, (stat, sha256) in seen.stats.items():
            self._put(path, tuple(stat), sha256)

    def _put(self, path: str, stat: tuple[int, ...], sha256: str) -> None:
        last_changed = max(stat[-2:]) / 1e9
        if time.time() - last_changed > SETTLED_FOR:
            folder = str(Path(path).parent)
            self._known(folder)[Path(path).name] = [*stat, sha256]
            self._changed.add(folder)

    def _known(self, folder: str) -> dict[str, list[Any]]:
        if folder not in self._folders:
            self._folders[folder] = self._read(folder)
        return self._folders[folder]

    def _place(self, folder: str) -> Path:
        name = hashlib.sha256(folder.encode("utf-8", "surrogateescape")).hexdigest()
        return self._cache.folder / HASHES / name[:2] / name

    def _read(self, folder: str) -> dict[str, list[Any]]:
        told = self._cache.opened(self._place(folder)) or {}
        files = told.get("files") if told.get("folder") == folder else None
        return files if isinstance(files, dict) else {}

    def write(self) -> None:
        """Write down what is new, with what another process has written meanwhile."""
        for folder in self._changed:
            self._folders[folder] = self._read(folder) | self._known(folder)
            self._cache.write(self._place(folder), {"folder": folder, "files": self._folders[folder]})
        self._changed.clear()

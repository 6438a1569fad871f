"""The models under a folder, told by content; and what was passed by, each with the reason. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from sau_adapters.weights import saved_model
from sau_adapters.weights.content import Content
from sau_adapters.weights.formats import reader_of
from sau_adapters.weights.keras import SavedModelReader
from sau_adapters.weights.onnx import OnnxReader
from sau_adapters.weights.reader import WeightsReader
from sau_adapters.weights.safetensors import metadata_of
from sau_adapters.weights.sharded import ShardedReader
from sau_adapters.zoos.addresses import is_address
from sau_adapters.zoos.folders import SUFFIXES, leads_out, weights_in
from sau_cli.errors import NotEvaluable, SauError, UsageError

MODEL_SUFFIXES = (
    *SUFFIXES,
    *(".pkl", ".pickle", ".joblib", ".pb", ".tflite", ".mlmodel", ".gguf", ".msgpack"),
)
"""Files that are called models are not passed by, whatever is in them."""
OF_SAU = {
    ".trigger.safetensors": ("a trigger", {"sau.trigger.schema"}),
    ".resume.safetensors": ("the state of a run", {"sau.run.schema", "sau.attack-run.schema"}),
}
"""What `sau` writes beside models, by the end of its name, with the metadata that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedBy:
    """A file or folder that is not examined, and why.

    Attributes:
        open_question: it may hold a model, and nobody has looked.
    """

    path: Path
    reason: str
    open_question: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What may be a model, or is called one.

    Attributes:
        parts: files that belong to it.
        tensors_in: files in which a graph keeps tensors, but none that is called a model.
    """

    parts: tuple[Path, ...] = ()
    tensors_in: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModels:
    """What lies under a folder, in the order of the names."""

    models: tuple[Path, ...]
    passed_by: tuple[PassedBy, ...]

    @property
    def open_questions(self) -> tuple[PassedBy, ...]:
        return tuple(left for left in self.passed_by if left.open_question)


def models_at(paths: Sequence[Path]) -> FoundModels:
    """Files as they are, and every model under each folder or address, once.

    Raises:
        UsageError: a folder has no models, or cannot be listed.
        UnsafeFile: the only one is a link out of it.
    """
    found = [_models_at(path, alone=len(paths) == 1) for path in paths]
    for path, under in zip(paths, found, strict=True):
        if not under.models:
            with suppress(UsageError):
                weights_in(path)  # which refuses a model that is a link out of its folder, here as for one model
            told = "; ".join(f"{left.path}: {left.reason}" for left in under.open_questions[:3])
            raise UsageError(
                f"{path} is a folder without models{f' (not examined: {told})' if told else ''}; give a model, or a "
                "folder that has some"
            )
    models = dict.fromkeys(path for under in found for path in under.models)
    passed_by = dict.fromkeys(left for under in found for left in under.passed_by)
    return FoundModels(models=tuple(models), passed_by=tuple(passed_by))


def _models_at(path: Path, *, alone: bool) -> FoundModels:
    """Under a folder or an address. One of several addresses that cannot be asked is left to its own inspection."""
    if path.is_dir():
        return models_under(path)
    if is_address(path):
        from sau_adapters.zoos.remote_listing import models_under_address

        with nullcontext() if alone else suppress(SauError):
            return models_under_address(path)
    return FoundModels(models=(path,), passed_by=())


def models_under(folder: Path) -> FoundModels:
    """Every model under a folder, at any depth.

    Shards and what an ONNX file keeps beside it belong to their model. Hidden folders are left alone, and so are links
    that lead outside, but for those of the hub's cache; a link that leads inside is the model, and what it leads to is
    not a second one.

    Raises:
        UsageError: the folder cannot be listed.
    """
    root = folder.resolve()
    passed_by: list[PassedBy] = []
    candidates: dict[Path, Candidate] = {}
    for path in _files_under(folder, root, passed_by):
        told = _told(path)
        if isinstance(told, PassedBy):
            passed_by.append(told)
        else:
            candidates[path] = told
    parts = {part: path for path, candidate in candidates.items() for part in candidate.parts}
    linked = {path.resolve(): path for path in candidates if path.is_symlink()}
    models = []
    for path in candidates:
        whole = parts.get(path)
        link = linked.get(path.resolve(), path)
        if whole is not None:
            passed_by.append(PassedBy(path=path, reason=f"a part of {whole.name}", open_question=False))
        elif link != path:
            passed_by.append(PassedBy(path=path, reason=f"the same file as {link}", open_question=False))
        else:
            models.append(path)
    outside = {beside for path in models for beside in candidates[path].tensors_in}
    kept = [left for left in passed_by if left.path not in outside]
    kept += [
        PassedBy(path=path, reason="tensors of an ONNX file beside it", open_question=False)
        for path in sorted(outside & {left.path for left in passed_by})
    ]
    return FoundModels(models=tuple(sorted(models)), passed_by=tuple(sorted(kept, key=lambda left: left.path)))


def _files_under(folder: Path, root: Path, passed_by: list[PassedBy]) -> list[Path]:
    """Regular files, links that lead to such inside the folder too."""

    def pass_by(path: Path, reason: str) -> None:
        passed_by.append(PassedBy(path=path, reason=reason, open_question=True))

    def refused(error: OSError) -> None:
        path = Path(str(error.filename))
        if path == folder:
            raise UsageError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from error
        pass_by(path, f"a folder that cannot be listed ({error.strerror})")

    files = []
    for place, folders, names in os.walk(folder, onerror=refused):
        for name in sorted(folders):
            inner = Path(place, name)
            if not _is_utf8(name):
                pass_by(_in_utf8(inner), "a folder whose name is not UTF-8")
            elif inner.is_symlink():
                pass_by(inner, "a link to a folder")
            elif name.startswith("."):
                pass_by(inner, "a hidden folder")
        folders[:] = sorted(name for name in folders if not name.startswith(".") and _is_utf8(name))
        for name in sorted(names):
            path = Path(place, name)
            target = Path(os.path.realpath(path))
            if not _is_utf8(name):
                pass_by(_in_utf8(path), "a name that is not UTF-8")
            elif leads_out(path, root):
                pass_by(path, "a link out of the folder")
            elif not target.is_file():
                pass_by(path, "no regular file")
            else:
                files.append(path)
    return files


def _is_utf8(name: str) -> bool:
    return name == name.encode(errors="replace").decode()


def _in_utf8(path: Path) -> Path:
    return Path(str(path).encode(errors="replace").decode())


def _told(path: Path) -> Candidate | PassedBy:
    """What there is to know of a file that is to be examined; or why it is not."""
    for suffix, (what, keys) in OF_SAU.items():
        if path.name.endswith(suffix) and _metadata(path).keys() & keys:
            return PassedBy(path=path, reason=f"{what}, as its metadata tells", open_question=True)
    called = path.suffix.lower() in MODEL_SUFFIXES
    try:
        return _candidate(reader_of(Content(path)))
    except NotEvaluable as error:
        unread = "cannot be read" in str(error)
        reason = "cannot be read" if unread else "of no known model format"
    except SauError as error:
        unread, reason = True, str(error)
    return Candidate() if called else PassedBy(path=path, reason=reason, open_question=unread)


def _metadata(path: Path) -> Mapping[str, str]:
    """Of a safetensors file; nothing of any other."""
    try:
        return metadata_of(path)
    except (SauError, OSError):
        return {}


def _candidate(reader: WeightsReader) -> Candidate:
    """A model with what belongs to it. The shards of an index that cannot be trusted stand for themselves."""
    if isinstance(reader, SavedModelReader):
        folder = reader.content.path.parent
        return Candidate(parts=tuple(folder / name for name in saved_model.BESIDE))
    if isinstance(reader, ShardedReader):
        with suppress(SauError):
            return Candidate(parts=tuple(part.content.path for part in reader.complete()))
    if isinstance(reader, OnnxReader):
        with suppress(SauError):
            files = (reader.path.parent / name for name in reader.external_files)
            return Candidate(tensors_in=tuple(file for file in files if file.suffix.lower() not in MODEL_SUFFIXES))
    return Candidate()

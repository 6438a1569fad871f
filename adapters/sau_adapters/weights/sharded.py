"""Weights in several safetensors files, with a JSON index that says which tensor is where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sau_adapters.files import ESCAPE, Watch, is_blob_of
from sau_adapters.weights.content import IN_MEMORY, Content
from sau_adapters.weights.reader import ListedWeights, LoadedWeights
from sau_adapters.weights.safetensors import SafetensorsReader
from sau_cli.errors import NotEvaluable, SauError, UnsafeFile

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_INDEX, MOST_FILES = 5_000_000, 10_000
"""Bytes of an index, and files that it can name."""


class ShardedReader:
    """An index and the files that it names. See :class:`sau_adapters.weights.reader.WeightsReader`."""

    format: ClassVar[str] = "sharded safetensors"
    names_tensors: ClassVar[bool] = True

    def __init__(self, content: Content, placed: Any) -> None:
        self.content = content
        self._placed = placed
        self._unread: SauError | None = None

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """A JSON object with a ``weight_map``."""
        if content.size > LONGEST_INDEX or content.read(0, 100).lstrip()[:1] != b"{":
            return None
        try:
            index: Any = json.loads(content.read(0, content.size))
        except (ValueError, RecursionError):
            return None
        return cls(content, index["weight_map"]) if isinstance(index, dict) and "weight_map" in index else None

    @property
    def sha256(self) -> str:
        """Of the index and then of every file that it names, one after another; of the index where those lack."""
        return self.content.sha256

    @property
    def named(self) -> tuple[str, ...]:
        """The names of files in the index, whatever they are."""
        placed = self._placed if isinstance(self._placed, dict) else {}
        return tuple(dict.fromkeys(name for name in placed.values() if isinstance(name, str)))

    def shards(self) -> tuple[Path, ...]:
        """The files that the index names, in the order of their names.

        Raises:
            NotEvaluable: the index is damaged, or a file is missing.
            UnsafeFile: a file lies elsewhere than beside the index.
        """
        return _shards_of(self.content.path, self._placed)

    @cached_property
    def parts(self) -> tuple[SafetensorsReader, ...]:
        """The files that the index names, in the order of :meth:`shards`. Raises as that."""
        return tuple(_reader_of(Content(shard)) for shard in self.shards())

    @property
    def contents(self) -> tuple[Content, ...]:
        return (self.content, *(part.content for part in self.parts)) if self._unread is None else (self.content,)

    def take_in(self, watch: Watch | None = None) -> None:
        """Read every file that the index names; what keeps them from being read is raised when they are looked at."""
        digest = hashlib.sha256(self.content.read(0, self.content.size))
        left, done = IN_MEMORY, 0
        try:
            whole = sum(part.content.size for part in self.parts)
            for part in self.parts:
                content = part.content
                content.take_in(most=left, digest=digest, watch=watch and _part_of(watch, done, whole))
                left -= content.size if content.held else 0
                done += content.size
        except SauError as error:
            self._unread = error
            return
        self.content.sha256 = digest.hexdigest()

    def complete(self) -> tuple[SafetensorsReader, ...]:
        """Every file that the index names, each with the tensors that it should have. Raises as :meth:`listed`."""
        if self._unread is not None:
            raise self._unread
        for part, named in zip(self.parts, _named(self._placed).values(), strict=True):
            found = part.header.places.keys()
            if named != found:
                first = sorted(named ^ found)[0]
                where = "missing there" if first in named else "not in the index"
                raise NotEvaluable(
                    f"{self.content.path} and {part.content.path.name} disagree: {first[:100]!r} is {where}; "
                    "get all the files again"
                )
        return self.parts

    def listed(self) -> ListedWeights:
        """Tensors of all the files together, and the metadata of the first that has some.

        Raises:
            NotEvaluable: a file is missing or damaged, or has other tensors than the index says.
            UnsafeFile: a file lies elsewhere than beside the index, or its header lies.
        """
        shards = self.complete()
        return ListedWeights(
            tensors=tuple(tensor for shard in shards for tensor in shard.tensors),
            metadata=next((shard.header.metadata for shard in shards if shard.header.metadata), {}),
            non_finite=tuple(counted for shard in shards for counted in shard.non_finite),
        )

    def loaded(self) -> LoadedWeights:
        """The same. Raises as :meth:`listed`."""
        state: dict[str, Tensor] = {}
        shards = self.complete()
        for shard in shards:
            state.update(shard.loaded().state)
        metadata = next((shard.header.metadata for shard in shards if shard.header.metadata), {})
        return LoadedWeights(state=state, metadata=metadata)


def _part_of(watch: Watch, before: int, whole: int) -> Watch:
    """Of one file of several: how much of all is read."""
    return lambda done, _: watch(before + done, whole)


def _reader_of(shard: Content) -> SafetensorsReader:
    reader = SafetensorsReader.of(shard)
    if reader is None:
        raise NotEvaluable(f"{shard.path} is no safetensors file, and only those are read in shards; ask for them")
    return reader


def _named(placed: Mapping[str, str]) -> dict[str, set[str]]:
    """The tensors that each file should have, in the order of the files' names."""
    named: dict[str, set[str]] = {}
    for tensor, file in sorted(placed.items(), key=lambda pair: pair[1]):
        named.setdefault(file, set()).add(tensor)
    return named


def _shards_of(path: Path, placed: object) -> tuple[Path, ...]:
    if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()) or not placed:
        raise NotEvaluable(f"{path} is a damaged index of weights: it maps no tensors to files; get it again")
    files = sorted(set(placed.values()))
    for file in files:
        if file in {"", ".", ".."} or Path(file).name != file or "\\" in file or "\0" in file:
            raise UnsafeFile(
                f"{path} names the file {file[:100]!r}, which is not beside it; do not use it", finding=ESCAPE
            )
    if len(files) > MOST_FILES:
        raise UnsafeFile(f"{path} names {len(files):,} files, which no model has; do not use it")
    for shard in (path.with_name(file) for file in files):
        try:
            missing = not shard.is_file()
        except OSError:  # a name too long for any file
            missing = True
        if missing:
            raise NotEvaluable(f"{path} names {shard.name[:100]}, which is missing beside it; get all the files")
        target = shard.resolve()
        if target.parent != path.resolve().parent and not is_blob_of(shard.parent, target):
            raise UnsafeFile(f"{shard} is a link out of its folder; do not use it", finding=ESCAPE)
    return tuple(path.with_name(file) for file in files)

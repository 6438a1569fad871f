"""Weights in several safetensors files, with a JSON index that says which tensor is where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters import weights_safetensors
from sau_adapters.files import ESCAPE, Watch, is_blob_of, sha256_of
from sau_cli.errors import NotEvaluable, UnsafeFile
from sau_cli.inspection.file_facts import NonFinite, TensorFacts

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_INDEX, MOST_FILES = 5_000_000, 10_000
"""Bytes of an index, and files that it can name."""


def recognises(head: bytes, path: Path) -> bool:
    """A JSON object with a ``weight_map``."""
    if head.lstrip()[:1] != b"{" or path.stat().st_size > LONGEST_INDEX:
        return False
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(index, dict) and "weight_map" in index


def shards_of(path: Path) -> dict[Path, set[str]]:
    """The files that the index names, each with the tensors that it should have.

    Raises:
        NotEvaluable: the index is damaged, or a file is missing.
        UnsafeFile: a file lies elsewhere than beside the index.
    """
    placed = json.loads(path.read_bytes())["weight_map"]
    if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()) or not placed:
        raise NotEvaluable(f"{path} is a damaged index of weights: it maps no tensors to files; get it again")
    shards: dict[Path, set[str]] = {}
    for tensor, file in placed.items():
        if file in {"", ".", ".."} or Path(file).name != file or "\\" in file or "\0" in file:
            raise UnsafeFile(
                f"{path} names the file {file[:100]!r}, which is not beside it; do not use it", finding=ESCAPE
            )
        shards.setdefault(path.with_name(file), set()).add(tensor)
    if len(shards) > MOST_FILES:
        raise UnsafeFile(f"{path} names {len(shards):,} files, which no model has; do not use it")
    for shard in shards:
        try:
            missing = not shard.is_file()
        except OSError:  # a name too long for any file
            missing = True
        if missing:
            raise NotEvaluable(f"{path} names {shard.name[:100]}, which is missing beside it; get all the files")
        target = shard.resolve()
        if target.parent != path.resolve().parent and not is_blob_of(shard.parent, target):
            raise UnsafeFile(f"{shard} is a link out of its folder; do not use it", finding=ESCAPE)
    return dict(sorted(shards.items()))


def read_header(path: Path) -> tuple[tuple[TensorFacts, ...], dict[str, str]]:
    """Tensors of all the files together, and the metadata of the first. Raises as :func:`shards_of`."""
    tensors: list[TensorFacts] = []
    metadata: dict[str, str] = {}
    for shard, named in shards_of(path).items():
        found, told = _header(shard)
        _check_complete(path, shard, named, {one.name for one in found})
        tensors.extend(found)
        metadata = metadata or told
    return tuple(tensors), metadata


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors, on the CPU, and the metadata of the first file. Raises as :func:`shards_of`."""
    state: dict[str, Tensor] = {}
    _, metadata = read_header(path)
    for shard in shards_of(path):
        part, _ = weights_safetensors.read_weights(shard)
        state.update(part)
    return state, metadata


def non_finite_in(path: Path) -> tuple[NonFinite, ...]:
    """Tensors with NaN or infinities in any of the files, read as a stream."""
    return tuple(one for shard in shards_of(path) for one in weights_safetensors.non_finite_in(shard))


def sha256_of_all(path: Path, *, watch: Watch | None = None) -> str:
    """The SHA-256 of the index and then of every file that it names, one after another."""
    return sha256_of(path, *shards_of(path), watch=watch)


def _header(shard: Path) -> tuple[tuple[TensorFacts, ...], dict[str, str]]:
    with shard.open("rb") as file:
        if not weights_safetensors.recognises(file.read(16), shard):
            raise NotEvaluable(f"{shard} is no safetensors file, and only those are read in shards; ask for them")
    return weights_safetensors.read_header(shard)


def _check_complete(path: Path, shard: Path, named: set[str], found: set[str]) -> None:
    """Raises NotEvaluable where index and file disagree on what the file has."""
    if named != found:
        first = sorted(named ^ found)[0]
        where = "missing there" if first in named else "not in the index"
        raise NotEvaluable(f"{path} and {shard.name} disagree: {first[:100]!r} is {where}; get all the files again")

"""ONNX files on disk: weights inside or in a file beside, metadata added without touching what was verified."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir

from sau_adapters.files import sha256_of

EXTERNAL_ABOVE = 400_000_000
"""Bytes of weights from which they are kept in a file beside the graph. The format ends at 2 GB; long before that,
opening weights that are inside takes their size in memory twice."""


def data_path(path: Path) -> Path:
    """Where the weights of a large model are, beside its graph: ``NAME.onnx.data``."""
    return path.with_name(f"{path.name}.data")


def weights_size(model: onnx_ir.Model) -> int:
    """Bytes of all initialisers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def write_external(model: onnx_ir.Model, path: Path) -> None:
    """Write a graph, and its weights into :func:`data_path`. Weights are streamed."""
    onnx_ir.save(model, path, external_data=data_path(path).name)


def add_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Add ``metadata_props`` at the end of a file: what is there stays byte for byte.

    Protocol buffers that stand one after another are read as one message, with their lists joined. None of the keys
    may be in the file already.
    """
    addition = onnx.ModelProto()
    for key, value in entries.items():
        addition.metadata_props.add(key=key, value=value)
    with path.open("ab") as file:
        file.write(addition.SerializeToString())


def set_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Add ``metadata_props`` to a model in memory, in place of those with the same keys."""
    drop_metadata(model, *entries)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def drop_metadata(model: onnx.ModelProto, *keys: str) -> None:
    """Take ``metadata_props`` out of a model in memory."""
    kept = [entry for entry in model.metadata_props if entry.key not in keys]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def files_of(path: Path) -> tuple[Path, ...]:
    """A graph, and the file of its weights where they are outside."""
    beside = data_path(path)
    return (path, beside) if beside.is_file() else (path,)


def hashes_of(path: Path, *, known: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256 of each of :func:`files_of`, by name; those that are known already are not read again."""
    return {file.name: known.get(file.name) or sha256_of(file) for file in files_of(path)}


def move(path: Path, to: Path) -> None:
    """Give a graph another name or folder, together with the file of its weights."""
    beside = data_path(path)
    if beside.is_file():
        if path.name != to.name:
            model = onnx.load(str(path), load_external_data=False)
            for tensor in model.graph.initializer:
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = data_path(to).name
            onnx.save(model, str(path))
        shutil.move(beside, data_path(to))
    shutil.move(path, to)

"""ONNX files: described without running them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from sau_cli.errors import NotEvaluable, UnsafeFile, reading
from sau_cli.inspection.file_facts import TensorFacts

if TYPE_CHECKING:
    import onnx

PREPROCESSING, INSIDE = "sau.preprocessing", "inside the graph"
"""The entry of ``metadata_props`` that says what a graph is fed, and what it says of a normalisation in the graph."""


def recognises(head: bytes, path: Path) -> bool:
    """A protobuf whose first field is the IR version, with a graph (field 7) that the ONNX library can read."""
    if head[:1] != b"\x08":
        return False
    try:
        tensors, _ = read_header(path)
    except UnsafeFile:
        return True
    except NotEvaluable:
        return False
    return bool(tensors)


def read_header(path: Path) -> tuple[tuple[TensorFacts, ...], dict[str, str]]:
    """Names, dtypes and shapes of the initialisers, and ``metadata_props``. External data is not opened.

    Raises:
        NotEvaluable: the content is no ONNX model.
        UnsafeFile: sizes that contradict the file, or external data outside its folder.
    """
    import onnx

    with reading(path, "an ONNX file"):
        model = onnx.load(str(path), load_external_data=False)
        for one in (
            *_tensors(model.graph),
            *(one for function in model.functions for one in _constants(function.node)),
        ):
            _check_tensor(path, one)
        tensors = tuple(
            TensorFacts(name=one.name, dtype=onnx.TensorProto.DataType.Name(one.data_type), shape=tuple(one.dims))
            for one in model.graph.initializer
        )
        return tensors, {entry.key: entry.value for entry in model.metadata_props}


def normalises(metadata: Mapping[str, str]) -> bool:
    """Whether a graph takes pixels in [0, 1] and normalises them itself, as those that ``sau export`` writes."""
    try:
        told = json.loads(metadata.get(PREPROCESSING, "{}"))
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("normalisation") == INSIDE


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All that the graph holds: initialisers, values of constants, and those of graphs within nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _constants(graph.node)


def _constants(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Raises UnsafeFile for sizes that the file cannot hold, and for external data outside the file's folder."""
    import onnx

    elements = prod(tensor.dims)
    if min(tensor.dims, default=0) < 0:
        raise UnsafeFile(f"{path} has a tensor {tensor.name[:100]!r} of a negative size; do not use it")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        inside = path.parent.resolve()
        if Path(where).is_absolute() or inside not in (inside / where).resolve().parents:
            raise UnsafeFile(f"{path} reads tensors from {where[:100]!r}, outside its own folder; do not use it")
    elif elements > 16 * path.stat().st_size:
        raise UnsafeFile(f"{path} announces {elements} elements of {tensor.name[:100]!r}, more than it can hold")

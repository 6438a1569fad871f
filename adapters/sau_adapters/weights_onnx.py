"""ONNX files: described without running them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.files import ESCAPE, is_blob_of, sha256_of
from sau_adapters.weights_values import NumberFormat, blocks_of, in_blocks, non_finite, number_format
from sau_cli.errors import NotEvaluable, UnsafeFile, reading
from sau_cli.inspection.file_facts import NonFinite, TensorFacts

if TYPE_CHECKING:
    import numpy as np
    import onnx

FEW = 8
"""Numbers of a constant that is no weight: shapes, axes and the like."""
LARGEST_MESSAGE = 2_000_000_000
"""Bytes that a message of Protocol Buffers holds."""
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
        for one in _tensors(model):
            _check_tensor(path, one)
        tensors = tuple(
            TensorFacts(name=one.name, dtype=onnx.TensorProto.DataType.Name(one.data_type), shape=tuple(one.dims))
            for one in (*model.graph.initializer, *_named_constants(model.graph))
        )
        return tensors, {entry.key: entry.value for entry in model.metadata_props}


def whole_model(path: Path) -> onnx.ModelProto:
    """The graph with all of its tensors, of a file that :func:`read_header` has checked.

    Tensors in files beside it are read here: the ONNX library does not follow the links of the hub's cache.

    Raises:
        NotEvaluable: tensors in another file are not all there, or are more than one message can hold.
    """
    import onnx

    with reading(path, "an ONNX file"):
        model = onnx.load(str(path), load_external_data=False)
        outside = [one for one in _tensors(model) if one.data_location == onnx.TensorProto.EXTERNAL]
        size = 0
        for tensor in outside:
            where = _external(tensor)
            beside, start = path.parent / where["location"], int(where.get("offset", 0))
            length = int(where.get("length", 0)) or _bytes_in(tensor)
            size += length
            if not beside.is_file() or beside.stat().st_size < start + length:
                raise NotEvaluable(
                    f"{path} keeps {tensor.name[:100]!r} in {beside.name[:100]}, which is not there whole"
                )
            if size > LARGEST_MESSAGE:
                raise NotEvaluable(
                    f"{path} keeps over {LARGEST_MESSAGE:,} bytes beside it, too many to change its graph"
                )
            tensor.raw_data = b"".join(blocks_of(beside, start, length))
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
        return model


def _bytes_in(tensor: onnx.TensorProto) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * int(prod(tensor.dims))


def normalises(metadata: Mapping[str, str]) -> bool:
    """Whether a graph takes pixels in [0, 1] and normalises them itself, as those that ``sau export`` writes."""
    try:
        told = json.loads(metadata.get(PREPROCESSING, "{}"))
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("normalisation") == INSIDE


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside a graph in which it keeps tensors, whether they are there or not; raises as read_header."""
    import onnx

    with reading(path, "an ONNX file"):
        model = onnx.load(str(path), load_external_data=False)
    outside = onnx.TensorProto.EXTERNAL
    names = dict.fromkeys(_external(one)["location"] for one in _tensors(model) if one.data_location == outside)
    return tuple(path.parent / name for name in names)


def hashes_beside(path: Path) -> dict[str, str | None]:
    """The SHA-256 of each of :func:`external_files`, by its place in the folder; None for one that is not there."""
    return {
        one.relative_to(path.parent).as_posix(): sha256_of(one) if one.is_file() else None
        for one in external_files(path)
    }


def non_finite_in(path: Path) -> tuple[NonFinite, ...]:
    """Tensors with NaN or infinities, one at a time, of a graph that :func:`read_header` has checked.

    Raises:
        NotEvaluable: tensors in another file are not all there.
    """
    import onnx

    found = []
    with reading(path, "an ONNX file"):
        model = onnx.load(str(path), load_external_data=False)
        for one in _tensors(model):
            form = number_format(onnx.TensorProto.DataType.Name(one.data_type))
            if form is None or not prod(one.dims):
                continue
            # A graph's constants have no telling names, and may be masks.
            found.append(non_finite(one.name, _bytes_of(path, one, form), form, elements=prod(one.dims), mask=True))
    return tuple(one for one in found if one is not None)


def _bytes_of(path: Path, tensor: onnx.TensorProto, form: NumberFormat) -> Iterator[bytes | np.ndarray]:
    """The values of a tensor as a file keeps them, wherever the graph keeps them, block by block."""
    import numpy as np
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        where = _external(tensor)
        beside = path.parent / where["location"]
        size = prod(tensor.dims) * np.dtype(form.bits).itemsize
        start = int(where.get("offset", 0))
        if not beside.is_file() or beside.stat().st_size < start + size:
            raise NotEvaluable(f"{path} keeps {tensor.name[:100]!r} in {beside.name[:100]}, which is not there whole")
        yield from blocks_of(beside, start, size)
    elif tensor.HasField("raw_data"):
        yield from in_blocks(np.frombuffer(tensor.raw_data, np.uint8))
    elif tensor.int32_data:  # the bits of numbers of 16 and 8 bits, each in a number of its own
        yield np.asarray(tensor.int32_data, np.int64).astype(form.bits)
    else:
        yield np.asarray(tensor.double_data or tensor.float_data, "<f8" if tensor.double_data else "<f4")


def _external(tensor: onnx.TensorProto) -> dict[str, str]:
    return {"location": ""} | {entry.key: entry.value for entry in tensor.external_data}


def _named_constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Weights that stand in the graph as constants, by the names that nodes take: more than a few numbers each."""
    import onnx

    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and prod(attribute.t.dims) > FEW:
                    named = onnx.TensorProto()
                    named.CopyFrom(attribute.t)
                    named.name = node.output[0]
                    yield named


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All that a file holds: of its graph, and of the functions that the graph calls."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initialisers, values of constants, and those of graphs within nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _in_graph(inner)


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Raises UnsafeFile for sizes that the file cannot hold, and for external data outside the file's folder."""
    import onnx

    elements = prod(tensor.dims)
    if min(tensor.dims, default=0) < 0:
        raise UnsafeFile(f"{path} has a tensor {tensor.name[:100]!r} of a negative size; do not use it")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        where = _external(tensor)["location"]
        inside = path.parent.resolve()
        target = (inside / where).resolve()
        lies_inside = inside in target.parents or (".." not in Path(where).parts and is_blob_of(path.parent, target))
        if Path(where).is_absolute() or not lies_inside:
            raise UnsafeFile(
                f"{path} reads tensors from {where[:100]!r}, outside its own folder; do not use it", finding=ESCAPE
            )
    elif elements > 16 * path.stat().st_size:
        raise UnsafeFile(f"{path} announces {elements} elements of {tensor.name[:100]!r}, more than it can hold")

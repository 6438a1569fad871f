"""ONNX files: described without running them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from sau_adapters.files import ESCAPE, Watch, is_blob_of
from sau_adapters.weights.content import IN_MEMORY, Content
from sau_adapters.weights.reader import ListedWeights, LoadedWeights
from sau_adapters.weights.values import NumberFormat, in_blocks, non_finite, number_format
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


class OnnxReader:
    """A graph, and the files in which it keeps tensors. See :class:`sau_adapters.weights.reader.WeightsReader`."""

    format: ClassVar[str] = "onnx"
    names_tensors: ClassVar[bool] = False

    def __init__(self, content: Content, model: onnx.ModelProto) -> None:
        self.content = content
        self._model = model
        self._beside: dict[str, Content] = {}

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """A protobuf whose first field is the IR version, with a graph (field 7) that the ONNX library can read."""
        if content.read(0, 1) != b"\x08" or content.size > LARGEST_MESSAGE:
            return None
        try:
            reader = cls(content, _parsed(content))
            known = bool(reader.tensors)
        except UnsafeFile:
            known = True
        except NotEvaluable:
            return None
        if known and content.held:  # the message holds all of it
            content.forget()
        return reader if known else None

    @property
    def path(self) -> Path:
        return self.content.path

    @property
    def sha256(self) -> str:
        return self.content.sha256

    @property
    def contents(self) -> tuple[Content, ...]:
        return (self.content, *self._beside.values())

    def take_in(self, watch: Watch | None = None) -> None:
        """Read the files in which the graph keeps tensors; one that is not there is missed when it is asked for."""
        try:
            names = self.external_files
        except UnsafeFile:
            return
        left = IN_MEMORY
        for name in names:
            path = self.path.parent / name
            if path.is_file() and path.stat().st_size:
                content = self._beside[name] = Content(path)
                content.take_in(most=left, watch=watch)
                left -= content.size if content.held else 0

    @cached_property
    def tensors(self) -> tuple[TensorFacts, ...]:
        """Names, dtypes and shapes of the initialisers. External data is not opened.

        Raises:
            NotEvaluable: the content is no ONNX model.
            UnsafeFile: sizes that contradict the file, or external data outside its folder.
        """
        import onnx

        with reading(self.path, "an ONNX file"):
            for tensor in _tensors(self._model):
                _check_tensor(self.content, tensor)
            return tuple(
                TensorFacts(
                    name=tensor.name, dtype=onnx.TensorProto.DataType.Name(tensor.data_type), shape=tuple(tensor.dims)
                )
                for tensor in (*self._model.graph.initializer, *_named_constants(self._model.graph))
            )

    @property
    def metadata(self) -> dict[str, str]:
        """``metadata_props``."""
        return {entry.key: entry.value for entry in self._model.metadata_props}

    @property
    def external_files(self) -> tuple[str, ...]:
        """The files in which the graph keeps tensors, by their place in its folder; raises as :attr:`tensors`."""
        import onnx

        _ = self.tensors
        outside = onnx.TensorProto.EXTERNAL
        names = (_external(tensor)["location"] for tensor in _tensors(self._model) if tensor.data_location == outside)
        return tuple(dict.fromkeys(Path(name).as_posix() for name in names))

    @property
    def beside(self) -> dict[str, str | None]:
        """The SHA-256 of each of :attr:`external_files`; None for one that is not there."""
        return {name: self._beside[name].sha256 if name in self._beside else None for name in self.external_files}

    def listed(self) -> ListedWeights:
        """What the graph holds. Raises as :attr:`tensors`."""
        tensors = self.tensors
        unread, odd = "", None
        try:
            odd = self._non_finite()
        except NotEvaluable as error:  # its tensors lie in another file, and what is here can still be told
            unread = str(error)
        return ListedWeights(tensors=tensors, metadata=self.metadata, non_finite=odd, unread=unread, beside=self.beside)

    def loaded(self) -> LoadedWeights:
        """Nothing beside the metadata: the weights are a part of the graph. Raises as :attr:`tensors`."""
        _ = self.tensors
        return LoadedWeights(state={}, metadata=self.metadata)

    def whole_model(self) -> onnx.ModelProto:
        """A copy of the graph with all of its tensors.

        Raises:
            UnsafeFile: as :attr:`tensors`.
            NotEvaluable: tensors in another file are not all there, or are more than one message can hold.
        """
        import onnx

        _ = self.tensors
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        with reading(self.path, "an ONNX file"):
            size = 0
            for tensor in _tensors(model):
                if tensor.data_location != onnx.TensorProto.EXTERNAL:
                    continue
                length = int(_external(tensor).get("length", 0)) or _bytes_in(tensor)
                size += length
                blocks = self._outside(tensor, length)
                if size > LARGEST_MESSAGE:
                    raise NotEvaluable(
                        f"{self.path} keeps over {LARGEST_MESSAGE:,} bytes beside it, too many to change its graph"
                    )
                tensor.raw_data = b"".join(blocks)
                del tensor.external_data[:]
                tensor.data_location = onnx.TensorProto.DEFAULT
            return model

    def _outside(self, tensor: onnx.TensorProto, length: int) -> Iterator[bytes | memoryview]:
        """The bytes of a tensor that is kept in another file. Raises NotEvaluable where they are not all there."""
        where = _external(tensor)
        place, start = Path(where["location"]), int(where.get("offset", 0))
        beside = self._beside.get(place.as_posix())
        if beside is None or start < 0 or beside.size < start + length:
            raise NotEvaluable(
                f"{self.path} keeps {tensor.name[:100]!r} in {place.name[:100]}, which is not there whole"
            )
        return beside.blocks(start, length)

    def _non_finite(self) -> tuple[NonFinite, ...]:
        """Tensors with NaN or infinities. Raises NotEvaluable where those in another file are not all there."""
        import onnx

        found = []
        with reading(self.path, "an ONNX file"):
            for tensor in _tensors(self._model):
                form = number_format(onnx.TensorProto.DataType.Name(tensor.data_type))
                if form is None or not prod(tensor.dims):
                    continue
                # A graph's constants have no telling names, and may be masks.
                found.append(
                    non_finite(tensor.name, self._bytes_of(tensor, form), form, elements=prod(tensor.dims), mask=True)
                )
        return tuple(counted for counted in found if counted is not None)

    def _bytes_of(self, tensor: onnx.TensorProto, form: NumberFormat) -> Iterator[bytes | memoryview | np.ndarray]:
        """The values of a tensor as a file keeps them, wherever the graph keeps them, block by block."""
        import numpy as np
        import onnx

        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from self._outside(tensor, prod(tensor.dims) * np.dtype(form.bits).itemsize)
        elif tensor.HasField("raw_data"):
            yield from in_blocks(np.frombuffer(tensor.raw_data, np.uint8))
        elif tensor.int32_data:  # the bits of numbers of 16 and 8 bits, each in a number of its own
            yield np.asarray(tensor.int32_data, np.int64).astype(form.bits)
        else:
            yield np.asarray(tensor.double_data or tensor.float_data, "<f8" if tensor.double_data else "<f4")


def open_graph(path: Path) -> OnnxReader:
    """A graph and the files beside it, read once.

    Raises:
        UsageError: no such file.
        NotEvaluable: the content is no ONNX model.
    """
    content = Content(path)
    content.take_in()
    reader = OnnxReader(content, _parsed(content))
    reader.take_in()
    return reader


def check_graph(path: Path) -> None:
    """Look at a graph before others open it. External data is not opened.

    Raises:
        NotEvaluable: the content is no ONNX model.
        UnsafeFile: sizes that contradict the file, or external data outside its folder.
    """
    content = Content(path)
    _ = OnnxReader(content, _parsed(content)).tensors


def _parsed(content: Content) -> onnx.ModelProto:
    import onnx

    with reading(content.path, "an ONNX file"):
        return onnx.load_model_from_string(content.read(0, content.size))


def normalises(metadata: Mapping[str, str]) -> bool:
    """Whether a graph takes pixels in [0, 1] and normalises them itself, as those that ``sau export`` writes."""
    try:
        told = json.loads(metadata.get(PREPROCESSING, "{}"))
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("normalisation") == INSIDE


def _bytes_in(tensor: onnx.TensorProto) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * int(prod(tensor.dims))


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


def _check_tensor(content: Content, tensor: onnx.TensorProto) -> None:
    """Raises UnsafeFile for sizes that the file cannot hold, and for external data outside the file's folder."""
    import onnx

    path, elements = content.path, prod(tensor.dims)
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
    elif elements > 16 * content.size:
        raise UnsafeFile(f"{path} announces {elements} elements of {tensor.name[:100]!r}, more than it can hold")

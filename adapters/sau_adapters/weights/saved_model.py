"""A SavedModel folder of TensorFlow: ``saved_model.pb``, a graph that runs whatever operations it names.

Read by the wire format of protocol buffers, without TensorFlow: of every message only the fields that are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sau_adapters.files import sha256_of
from sau_cli.errors import reading
from sau_cli.inspection.file_facts import FileFinding
from sau_cli.results import Severity

OPERATIONS = "file.graph-operations"
"""The finding of a graph that reaches beyond its inputs and outputs."""
KERAS_METADATA = "keras_metadata.pb"
BESIDE = ("fingerprint.pb", KERAS_METADATA, "variables/variables.index", "variables/variables.data-00000-of-00001")
"""Other files of such a folder."""
_REACHING = frozenset(
    {
        *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "TextLineDataset"),
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "LoadDataset", "SaveDataset", "SaveDatasetV2"),
        *("TFRecordDataset", "FixedLengthRecordDataset", "DebugIdentity", "DebugIdentityV2", "RpcCall", "RpcClient"),
    }
)
"""Operations that read or write files that the graph names, call Python, or reach over a network."""


def recognises(content: bytes) -> bool:
    """Whether it is a graph whose nodes have operations."""
    try:
        return next(_operations(content), "") != ""
    except ValueError:
        return False


def findings(content: bytes, path: Path) -> tuple[FileFinding, ...]:
    """Operations that reach beyond the graph.

    Raises:
        NotEvaluable: the file is damaged.
    """
    with reading(path, "a SavedModel"):
        found = sorted(_REACHING.intersection(_operations(content)))
    if not found:
        return ()
    sentence = (
        f"its graph has the operations {', '.join(found)}, which reach files, Python or a network; do not load it"
    )
    return (FileFinding(id=OPERATIONS, severity=Severity.CRITICAL, sentence=sentence),)


def keras_configs(metadata: bytes, path: Path) -> tuple[str, ...]:
    """The configurations of layers that Keras 2 wrote beside the graph, as JSON.

    Args:
        metadata: what is in KERAS_METADATA.
        path: of that, for the sentence.

    Raises:
        NotEvaluable: the file is damaged.
    """
    with reading(path, "metadata of Keras"):
        nodes = (node for number, node in _fields(memoryview(metadata)) if number == 1)
        return tuple(bytes(text).decode() for node in nodes for number, text in _fields(node) if number == 5)


def hashes_beside(path: Path, known: Mapping[str, str]) -> dict[str, str | None]:
    """The SHA-256 of each other file of the folder, by its place in it; None for variables that are missing.

    Args:
        known: those of files that were read already.
    """
    variables = sorted(file.relative_to(path.parent).as_posix() for file in path.parent.glob("variables/variables.*"))
    names = dict.fromkeys((*BESIDE, *variables))
    there = {name for name in names if name in known or (path.parent / name).is_file()}
    kept = (name for name in names if name.startswith("variables/") or name in there)
    return {name: known.get(name) or sha256_of(path.parent / name) if name in there else None for name in kept}


def _operations(content: bytes) -> Iterator[str]:
    """Of every node of every graph, and of the functions that they call.

    Raises:
        ValueError: the content is cut short, or something else.
    """
    for number, meta_graph in _fields(memoryview(content)):
        for inner, graph in _fields(meta_graph) if number == 2 else ():
            for kind, value in _fields(graph) if inner == 2 else ():
                if kind == 1:
                    yield _operation(value)
                for member, function in _fields(value) if kind == 2 else ():
                    for place, node in _fields(function) if member == 1 else ():
                        if place == 3:
                            yield _operation(node)


def _operation(node: memoryview) -> str:
    return next((bytes(value).decode(errors="replace") for number, value in _fields(node) if number == 2), "")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a message that have a length, by number.

    Raises:
        ValueError: it is cut short, or no message.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                length, at = _varint(data, at)
                if at + length > len(data):
                    raise ValueError("it is cut short")
                yield tag >> 3, data[at : at + length]
                at += length
            case _:
                raise ValueError("it is no message")
    if at > len(data):
        raise ValueError("it is cut short")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut short")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("it is no message")

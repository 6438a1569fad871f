"""ONNX files: described without running them."""

from __future__ import annotations

from pathlib import Path

from sau_cli.errors import NotEvaluable
from sau_cli.inspection.file_facts import TensorFacts


def recognises(head: bytes, path: Path) -> bool:
    """A protobuf whose first field is the IR version, with a graph (field 7) that the ONNX library can read."""
    if head[:1] != b"\x08":
        return False
    try:
        tensors, _ = read_header(path)
    except NotEvaluable:
        return False
    return bool(tensors)


def read_header(path: Path) -> tuple[tuple[TensorFacts, ...], dict[str, str]]:
    """Names, dtypes and shapes of the initialisers, and ``metadata_props``. External data is not opened.

    Raises:
        NotEvaluable: the content is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, TypeError) as error:
        raise NotEvaluable(f"{path} is a damaged ONNX file ({error}); get the file again") from error
    tensors = tuple(
        TensorFacts(name=one.name, dtype=onnx.TensorProto.DataType.Name(one.data_type), shape=tuple(one.dims))
        for one in model.graph.initializer
    )
    return tensors, {entry.key: entry.value for entry in model.metadata_props}

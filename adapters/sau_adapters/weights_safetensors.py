"""safetensors files. The header is read without torch and without the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sau_adapters.files import check_readable, check_writable, written_whole
from sau_adapters.weights_values import blocks_of, non_finite, number_format
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError, reading, reason_of
from sau_cli.inspection.file_facts import NonFinite, TensorFacts

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_HEADER, MOST_DIMENSIONS = 5_000_000, 64
"""Bytes of a header (one of a thousand tensors has some 100,000), and dimensions of a tensor."""
DESCRIPTION_SCHEMA = "1"


def recognises(head: bytes, path: Path) -> bool:
    """An 8-byte length, then the opening brace of a JSON header."""
    del path
    return len(head) > 8 and head[8:9] == b"{"


def read_header(path: Path) -> tuple[tuple[TensorFacts, ...], dict[str, str]]:
    """Names, dtypes and shapes in the order of the file's names, and the metadata.

    Raises:
        NotEvaluable: the file is cut short.
        UnsafeFile: the header lies about the file.
    """
    try:
        _check_names(path)
        with safe_open(path, framework="numpy") as file:
            slices = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118 (no mapping)
            tensors = tuple(
                TensorFacts(name=name, dtype=part.get_dtype(), shape=tuple(part.get_shape())) for name, part in slices
            )
            deep = next((one for one in tensors if len(one.shape) > MOST_DIMENSIONS), None)
            if deep is not None:
                raise UnsafeFile(
                    f"{path} has a tensor of {len(deep.shape):,} dimensions, which no model has; do not use it"
                )
            if any(size >= 1 << 63 for one in tensors for size in one.shape):
                raise UnsafeFile(f"{path} has a tensor of a size that no machine has; do not use it")
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        raise _explained(path, error) from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors, on the CPU, and the metadata. Raises as :func:`read_header`."""
    _, metadata = read_header(path)
    from safetensors.torch import load_file

    with reading(path, "weights"):
        return load_file(path, device="cpu"), metadata


def non_finite_in(path: Path) -> tuple[NonFinite, ...]:
    """Tensors with NaN or infinities, read as a stream, of a file whose header :func:`read_header` has checked."""
    found = []
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        form = None if name == "__metadata__" else number_format(entry["dtype"])
        if form is None:
            continue
        start, end = entry["data_offsets"]
        blocks = blocks_of(path, 8 + length + start, end - start)
        found.append(non_finite(name, blocks, form, elements=prod(entry["shape"])))
    return tuple(one for one in found if one is not None)


def write_described(path: Path, tensors: Mapping[str, Tensor], key: str, about: object, *, force: bool) -> None:
    """Write tensors and a JSON description under ``key``. Raises as :func:`write_weights`."""
    metadata = {f"{key}.schema": DESCRIPTION_SCHEMA, key: json.dumps(about, sort_keys=True)}
    write_weights(path, tensors, metadata, force=force)


def read_described(path: Path, key: str, *, what: str, advice: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_described` wrote.

    Args:
        what: what the file should be, such as ``trigger file``; with ``advice``, for the sentence.

    Raises:
        UsageError: no such file.
        NotEvaluable: the file is damaged, or something else.
        UnsafeFile: its header lies.
    """
    check_readable(path, what=f"a {what}")
    with path.open("rb") as file:
        known = recognises(file.read(16), path)
    tensors, metadata = read_weights(path) if known else ({}, {})
    if metadata.get(f"{key}.schema") != DESCRIPTION_SCHEMA:
        raise NotEvaluable(f"{path} is no {what} of schema {DESCRIPTION_SCHEMA}; {advice}")
    about: object = None
    with suppress(KeyError, ValueError, RecursionError):
        about = json.loads(metadata[key])
    if not isinstance(about, dict):
        raise NotEvaluable(f"{path} has no readable description of its {what}; {advice}")
    # Copies: the file itself, mapped into memory, could not be replaced on Windows.
    return {name: tensor.clone() for name, tensor in tensors.items()}, about


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, force: bool) -> None:
    """Write a file in one piece. Tensors that share storage are written once each.

    Raises:
        UsageError: the place cannot be written to, or is taken and ``force`` is off.
    """
    from safetensors.torch import save_file

    check_writable(path, force=force)
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with written_whole(path) as temporary:
            save_file(copies, temporary, metadata=dict(metadata))
            _sort_metadata(temporary)
    except SafetensorError as error:
        raise UsageError(f"{path} could not be written ({error}); nothing was left there") from error


def _sort_metadata(path: Path) -> None:
    """Put the metadata in order: the library writes it in a random one, and equal models are to make equal files."""
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(ordered) <= length:  # the same entries, so the same length but for padding
            file.seek(8)
            file.write(ordered.ljust(length))


def _check_names(path: Path) -> None:
    """Raises UnsafeFile when the header has a name twice: readers differ in which one they take."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return
        if length > LONGEST_HEADER:
            raise UnsafeFile(
                f"{path} announces a header of {length:,} bytes, and no model needs more than {LONGEST_HEADER:,}; "
                "do not use it"
            )
        header = file.read(length)

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise UnsafeFile(f"{path} has a header in which a name stands twice, so it cannot be trusted")
        return found

    with suppress(ValueError, RecursionError):
        json.loads(header, object_pairs_hook=once)


def _explained(path: Path, error: SafetensorError) -> NotEvaluable | UnsafeFile:
    """Whether the file is cut short, or its header lies; told from the file, as the library's wording changes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(LONGEST_HEADER, size) else b""
    if length + 8 > size:
        return UnsafeFile(
            f"{path} announces a header of {length} bytes but has {size} bytes in all; it is cut short or forged, "
            "get it again from its source"
        )
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        missing = max(ends, default=0) + length + 8 - size
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        missing = 0
    if missing > 0:
        return NotEvaluable(f"{path} is cut short: {missing} bytes of its tensors are missing; get the file again")
    return UnsafeFile(f"{path} has a header that contradicts itself or the file ({reason_of(error)}); do not use it")

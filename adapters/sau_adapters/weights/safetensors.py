"""safetensors files. The header is parsed and held against the file before any tensor is looked at; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sau_adapters.files import check_writable, written_whole
from sau_adapters.weights.content import Content
from sau_adapters.weights.reader import ListedWeights, LoadedWeights, OneFile
from sau_adapters.weights.values import non_finite, number_format
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError, reason_of
from sau_cli.inspection.file_facts import NonFinite, TensorFacts

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_HEADER, MOST_DIMENSIONS = 5_000_000, 64
"""Bytes of a header (one of a thousand tensors has some 100,000), and dimensions of a tensor."""
DESCRIPTION_SCHEMA = "1"
_LENGTH = 8
"""Bytes in which the file says how long its header is."""
_BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Of a number, by the format's name for its kind."""
_IN_TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "BOOL": "bool",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """A tensor, and where in the file its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself, in agreement with its size. Tensors are in the order of their bytes."""

    places: Mapping[str, TensorPlace]
    metadata: Mapping[str, str]


class SafetensorsReader(OneFile):
    """A safetensors file. See :class:`sau_adapters.weights.reader.WeightsReader`."""

    format: ClassVar[str] = "safetensors"
    names_tensors: ClassVar[bool] = True

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """An 8-byte length, then the opening brace of a JSON header."""
        return cls(content) if content.read(_LENGTH, 1) == b"{" else None

    @cached_property
    def header(self) -> Header:
        """Raises as :meth:`listed`."""
        return read_header(self.content)

    @property
    def tensors(self) -> tuple[TensorFacts, ...]:
        """In the order of their names."""
        return tuple(
            TensorFacts(name=name, dtype=place.dtype, shape=place.shape)
            for name, place in sorted(self.header.places.items())
        )

    @property
    def non_finite(self) -> tuple[NonFinite, ...]:
        """Tensors with NaN or infinities, one after another."""
        found = []
        for name, place in self.header.places.items():
            form = number_format(place.dtype)
            if form is not None:
                blocks = self.content.blocks(place.start, place.end - place.start)
                found.append(non_finite(name, blocks, form, elements=prod(place.shape)))
        return tuple(counted for counted in found if counted is not None)

    def listed(self) -> ListedWeights:
        """All of it.

        Raises:
            NotEvaluable: the file is cut short.
            UnsafeFile: the header lies about the file.
        """
        return ListedWeights(tensors=self.tensors, metadata=self.header.metadata, non_finite=self.non_finite)

    def loaded(self) -> LoadedWeights:
        """All of it; the values are the file's own bytes. Raises as :meth:`listed`."""
        import torch

        places, view, state = self.header.places, self.content.view(), {}
        for name, place in places.items():
            dtype = getattr(torch, _IN_TORCH.get(place.dtype, ""), None)
            if dtype is None:
                raise NotEvaluable(
                    f"{self.content.path} holds {place.dtype} values in {name[:100]!r}, which no network here has; "
                    "ask for weights in an ordinary number format"
                )
            count = prod(place.shape)
            if not count:
                state[name] = torch.empty(place.shape, dtype=dtype)
            elif place.start % dtype.itemsize:  # whose numbers lie across those of the memory
                part = bytearray(view[place.start : place.end])
                state[name] = torch.frombuffer(part, dtype=dtype).reshape(place.shape)
            else:
                numbers = torch.frombuffer(view, dtype=dtype, count=count, offset=place.start)
                state[name] = numbers.reshape(place.shape)
        return LoadedWeights(state=state, metadata=self.header.metadata)


def read_header(content: Content) -> Header:
    """The header of a file, which says where its tensors are.

    Raises:
        NotEvaluable: the file is cut short.
        UnsafeFile: the header lies about the file, or readers differ in how they take it.
    """
    path, size = content.path, content.size
    length = int.from_bytes(content.read(0, _LENGTH), "little")
    if length + _LENGTH > size:
        raise UnsafeFile(
            f"{path} announces a header of {length} bytes but has {size} bytes in all; it is cut short or forged, "
            "get it again from its source"
        )
    if length > LONGEST_HEADER:
        raise UnsafeFile(
            f"{path} announces a header of {length:,} bytes, and no model needs more than {LONGEST_HEADER:,}; "
            "do not use it"
        )
    try:
        told = _parsed(content.read(_LENGTH, length), path)
        metadata = told.pop("__metadata__", None) or {}
        if not _texts(metadata):
            raise ValueError("metadata that are no texts")
        places = dict(sorted(_places(told, _LENGTH + length), key=lambda pair: (pair[1].start, pair[1].end)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _contradictory(path, reason_of(error)) from error
    ends = max((place.end for place in places.values()), default=_LENGTH + length)
    if ends > size:
        raise NotEvaluable(f"{path} is cut short: {ends - size} bytes of its tensors are missing; get the file again")
    at = _LENGTH + length
    for name, place in places.items():
        _check(path, name, place)
        if place.start != at:
            raise _contradictory(path, f"the bytes of {name[:100]!r} are not where those before end")
        at = place.end
    if at != size:
        raise _contradictory(path, f"{size - at} bytes are of no tensor")
    return Header(places=places, metadata=metadata)


def _contradictory(path: Path, why: str) -> UnsafeFile:
    return UnsafeFile(f"{path} has a header that contradicts itself or the file ({why}); do not use it")


def _parsed(header: bytes, path: Path) -> dict[str, Any]:
    """The JSON object of a header.

    Raises:
        UnsafeFile: a name stands twice in it: readers differ in which one they take.
        ValueError, RecursionError: it is none.
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise UnsafeFile(f"{path} has a header in which a name stands twice, so it cannot be trusted")
        return found

    def no_number(text: str) -> object:
        raise ValueError(f"{text} in JSON")

    told = json.loads(header.decode(), object_pairs_hook=once, parse_constant=no_number)
    if not isinstance(told, dict):
        raise TypeError("it is no JSON object")
    return told


def _texts(metadata: object) -> bool:
    """Whether they are texts by name; raises ValueError for half a character, which is none."""
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    return texts and bool(json.dumps(metadata, ensure_ascii=False).encode())


def _places(told: Mapping[str, Any], start: int) -> list[tuple[str, TensorPlace]]:
    """Where tensors are, by what the header says alone.

    Raises:
        ValueError, TypeError, KeyError: it says something else.
    """
    found = []
    for name, entry in told.items():
        name.encode()  # half a character is none
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"sizes of {name[:100]!r} that are none")
        place = TensorPlace(dtype=entry["dtype"], shape=tuple(shape), start=start + begin, end=start + end)
        found.append((name, place))
    return found


def _check(path: Path, name: str, place: TensorPlace) -> None:
    """Raises UnsafeFile for a tensor that does not fill its bytes, or that no machine has."""
    if len(place.shape) > MOST_DIMENSIONS:
        raise UnsafeFile(f"{path} has a tensor of {len(place.shape):,} dimensions, which no model has; do not use it")
    if any(size >= 1 << 63 for size in place.shape):
        raise UnsafeFile(f"{path} has a tensor of a size that no machine has; do not use it")
    bits = _BITS.get(place.dtype)
    if bits is None:
        raise _contradictory(path, f"{str(place.dtype)[:50]!r} is no kind of number")
    if prod(place.shape) * bits != 8 * (place.end - place.start):
        raise _contradictory(path, f"{name[:100]!r} does not fill its bytes")


def metadata_of(path: Path) -> Mapping[str, str]:
    """The metadata of a safetensors file, of which the header alone is read.

    Raises:
        UsageError, NotEvaluable, UnsafeFile: it is none.
    """
    return read_header(Content(path)).metadata


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
    content = Content(path, what=f"a {what}")
    content.take_in(most=content.size)  # a file that is mapped could not be replaced on Windows
    return described_in(content, key, what=what, advice=advice)


def described_in(content: Content, key: str, *, what: str, advice: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same of a file that was taken in. Raises as :func:`read_described`."""
    path = content.path
    reader = SafetensorsReader.of(content)
    loaded = LoadedWeights(state={}) if reader is None else reader.loaded()
    tensors, metadata = loaded.state, loaded.metadata
    if metadata.get(f"{key}.schema") != DESCRIPTION_SCHEMA:
        raise NotEvaluable(f"{path} is no {what} of schema {DESCRIPTION_SCHEMA}; {advice}")
    about: object = None
    with suppress(KeyError, ValueError, RecursionError):
        about = json.loads(metadata[key])
    if not isinstance(about, dict):
        raise NotEvaluable(f"{path} has no readable description of its {what}; {advice}")
    return dict(tensors), about


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, force: bool) -> None:
    """Write a file in one piece. Tensors that share storage are written once each.

    Raises:
        UsageError: the place cannot be written to, or is taken and ``force`` is off.
    """
    from safetensors import SafetensorError
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

"""What is in an HDF5 file, listed by a process of its own: its library is C, and a file can be made to crash it.

Run as ``python -m sau_adapters.weights.hdf5_listing FILE [MEMBER]``, the module writes a listing as JSON. It follows
no link, opens no other file and loads no plug-in.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sau_adapters.files import BLOCK
from sau_adapters.weights.values import non_finite, number_format
from sau_cli.errors import NotEvaluable, UnsafeFile, reason_of
from sau_cli.inspection.file_facts import NonFinite, TensorFacts

if TYPE_CHECKING:
    import h5py
    import numpy as np

MAGIC = b"\x89HDF\r\n\x1a\n"
MISSING = "h5py is not installed; pip install 'sau-cli[keras]'"
SLOWEST, SECONDS_TO_START = 5_000_000, 60
"""Bytes a second, and seconds to start, that a listing is waited for: a file can hold its reader for ever."""
DEEPEST_GROUP, LONGEST_TEXT = 64, 20_000_000
"""Groups inside groups, and bytes of a text."""
TEXTS = ("model_config", "training_config", "keras_version", "backend", "layer_names")
"""Attributes of the file that Keras writes and that are read."""
_WITH_NAN = "fcV"
"""NumPy's kinds of numbers that can be NaN; V, raw bytes, for those that it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What :func:`listed` finds.

    Attributes:
        texts: of TEXTS, those that are there.
        outside: sentences' ends on what lies in other files, such as ``a link to /etc/passwd``.
        lies: the same on what the file announces and cannot hold.
        unread: tensors of numbers in a format whose values nobody here can tell, so that they were not looked at.
    """

    tensors: tuple[TensorFacts, ...]
    non_finite: tuple[NonFinite, ...]
    texts: dict[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    lies: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def is_available() -> bool:
    """Whether the library is installed that lists HDF5."""
    return find_spec("h5py") is not None


def listed(path: Path, member: str | None = None) -> Listing:
    """List an HDF5 file, or one that is a member of a zip archive, which is not unpacked to disk.

    Raises:
        NotEvaluable: it is damaged.
        UnsafeFile: its reader crashes, or does not end.
    """
    size = path.stat().st_size
    settings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HDF5_PLUGIN_PRELOAD": "::",  # none is ever loaded
    }
    words = (sys.executable, "-P", "-m", __name__, str(path.resolve()), *([member] if member else []))
    try:
        done = subprocess.run(  # noqa: S603 (our own module)
            words, env=settings, capture_output=True, timeout=SECONDS_TO_START + size / SLOWEST, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnsafeFile(f"{path} holds the reader of HDF5 without an end; do not use it") from error
    if done.returncode < 0:
        raise UnsafeFile(f"{path} crashes the reader of HDF5, as a damaged or forged file does; do not use it")
    try:
        told = json.loads(done.stdout)
    except ValueError as error:
        raise NotEvaluable(f"{path} cannot be read as HDF5; get it again") from error
    if "damage" in told:
        raise NotEvaluable(f"{path} is a damaged HDF5 file ({told['damage']}); get it again")
    return Listing(
        tensors=tuple(TensorFacts(**tensor | {"shape": tuple(tensor["shape"])}) for tensor in told["tensors"]),
        non_finite=tuple(NonFinite(**tensor) for tensor in told["non_finite"]),
        texts=told["texts"],
        outside=tuple(told["outside"]),
        lies=tuple(told["lies"]),
        unread=tuple(told["unread"]),
    )


def _listing(file: h5py.File, size: int) -> Listing:
    outside: list[str] = []
    lies: list[str] = []
    tensors: list[TensorFacts] = []
    found: list[NonFinite | None] = []
    unread: list[str] = []
    announced = 0
    for name, dataset in _datasets(file, outside, lies):
        bytes_ = int(dataset.id.get_space().get_simple_extent_npoints()) * dataset.id.get_type().get_size()
        tensors.append(TensorFacts(name=name, dtype=_dtype(dataset), shape=tuple(map(int, dataset.shape or ()))))
        if dataset.external or dataset.is_virtual:
            outside.append(f"the values of {name[:100]!r} in another file")
            continue
        announced += bytes_
        kept = int(dataset.id.get_storage_size())
        packed = dataset.id.get_create_plist().get_nfilters() > 0
        if bytes_ > kept and (not packed or bytes_ > 1000 * kept):
            lies.append(f"{bytes_:,} bytes of {name[:100]!r} and holds {kept:,}")
        elif announced > 200 * size + 64_000_000:
            lies.append(f"{announced:,} bytes in all, as a bomb does")
            break
        elif lies or outside or dataset.dtype.kind not in _WITH_NAN:
            continue
        elif (form := number_format(_dtype(dataset))) is None:
            unread.append(name)
        else:
            blocks = (part.tobytes() for part in _parts(dataset))
            found.append(non_finite(name, blocks, form, elements=bytes_ // dataset.dtype.itemsize))
    texts = {} if lies else {name: _text(file, name) for name in TEXTS if _is_short(file, name)}
    return Listing(
        tensors=tuple(tensors),
        non_finite=tuple(counted for counted in found if counted is not None),
        texts={name: text for name, text in texts.items() if text},
        outside=tuple(outside),
        lies=tuple(lies),
        unread=tuple(unread),
    )


def _datasets(
    group: h5py.Group,
    outside: list[str],
    lies: list[str],
    prefix: str = "",
    depth: int = 0,
    seen: set[Any] | None = None,
) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every data set once, in the order of the names; links out of the file are noted, and none is followed."""
    import h5py

    seen = set() if seen is None else seen
    if depth > DEEPEST_GROUP:
        lies.append(f"groups that are more than {DEEPEST_GROUP} deep")
        return
    for key in group:
        name = f"{prefix}{key}"
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            outside.append(f"a link to {link.filename[:100]!r}")
            continue
        if not isinstance(link, h5py.HardLink):
            continue
        inner = group[key]
        place = h5py.h5o.get_info(inner.id)  # pyright: ignore[reportAttributeAccessIssue] (compiled)
        if (place.fileno, place.addr) in seen:
            continue
        seen.add((place.fileno, place.addr))
        if isinstance(inner, h5py.Group):
            yield from _datasets(inner, outside, lies, f"{name}/", depth + 1, seen)
        elif isinstance(inner, h5py.Dataset):
            yield name, inner


def _dtype(dataset: h5py.Dataset) -> str:
    """As NumPy calls it; of a format that HDF5 lacks, such as bfloat16, Keras tells the name in an attribute."""
    own = dataset.attrs.get("dtype") if dataset.dtype.kind == "V" else None
    return str(own if isinstance(own, str) else dataset.dtype.name)[:100]


def _parts(dataset: h5py.Dataset) -> Iterable[np.ndarray]:
    """The values in pieces of some megabytes, in the file's own byte order made little-endian."""
    import numpy as np

    if dataset.shape is None or 0 in dataset.shape:
        return
    little = dataset.dtype.newbyteorder("<")
    if not dataset.shape:
        yield np.asarray(dataset[()], dtype=little)
        return
    row = max(1, dataset.nbytes // dataset.shape[0])
    step = max(1, BLOCK // row)
    for start in range(0, dataset.shape[0], step):
        yield np.asarray(dataset[start : start + step], dtype=little)


def _is_short(file: h5py.File, name: str) -> bool:
    return name in file.attrs and file.attrs.get_id(name).get_storage_size() <= LONGEST_TEXT


def _text(file: h5py.File, name: str) -> str:
    value = file.attrs[name]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


def _opened(path: str, member: str | None) -> BinaryIO:
    if member is None:
        return Path(path).open("rb")
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(archive.read(member))


def _written(path: str, member: str | None = None) -> str:
    """The listing as JSON, or what is wrong with the file."""
    import h5py

    try:
        with _opened(path, member) as source, h5py.File(source, "r") as file:
            return json.dumps(asdict(_listing(file, source.seek(0, io.SEEK_END))))
    except Exception as error:  # noqa: BLE001 (a damaged file makes the library raise nearly anything)
        return json.dumps({"damage": reason_of(error)})


if __name__ == "__main__":
    sys.stdout.write(_written(*sys.argv[1:]))

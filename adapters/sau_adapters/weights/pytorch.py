"""PyTorch files (.pt, .pth, .bin, .ckpt, .tar): weights only, never unpickled as objects.

The one place that calls ``torch.load``. The pickle inside is first listed opcode by opcode, which
runs nothing; then torch's restricted unpickler reads it.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

from sau_adapters.files import ESCAPE, check_unpacked_size
from sau_adapters.weights.content import Content
from sau_adapters.weights.reader import ListedWeights, LoadedWeights, OneFile
from sau_adapters.weights.values import in_blocks, non_finite, number_format
from sau_cli.errors import NotEvaluable, UnsafeFile, reading, reason_of
from sau_cli.inspection.file_facts import FileFinding, NonFinite, TensorFacts
from sau_cli.results import Severity

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "netC", "network", "weights", "model_weights", "params"),
    *("module", "student", "state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema"),
)
"""Under which names training code keeps the weights, in the order in which they are looked for."""
DEEPEST_WRAPPER = 10
"""Wrappers inside wrappers."""
LOCAL_HEADER, ENCRYPTED = 30, 1
"""Bytes before the name of a member of an archive, and a flag of one."""
LARGEST_PICKLE = 64_000_000
"""Bytes of a member of an old archive that are looked at."""
MOST_OPCODES = 1_000_000
"""Of a pickle; one with a state dict has some twenty for each tensor."""
ARCHIVE, PICKLE_CODE = "file.archive", "file.pickle-code"
"""The findings of an archive that readers take differently, and of a pickle that asks for more than weights."""
_CALLS = frozenset({"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX"})
_CALLABLE = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_OLD_STYLE_MAGIC = 0x1950A86A20F9469CFC6C
_LEFT_OUT = (
    *("argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict", "collections.deque"),
    *(f"builtins.{name}" for name in ("set", "frozenset", "bytearray", "complex", "slice", "range", "list", "dict")),
    *(f"__builtin__.{name}" for name in ("set", "frozenset", "bytearray", "complex", "slice", "list", "dict")),
    *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "tuple", "bytes", "object")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"pathlib{local}.{kind}" for local in ("", "._local") for kind in ("PosixPath", "WindowsPath", "Path")),
    *(f"pathlib{local}.Pure{kind}" for local in ("", "._local") for kind in ("PosixPath", "WindowsPath", "Path")),
    *(
        "torch.torch_version.TorchVersion",
        "uuid.UUID",
        "decimal.Decimal",
        "fractions.Fraction",
        "copyreg._reconstructor",
    ),
    *("numpy.ndarray", "numpy.dtype"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)
"""What training code keeps beside weights. None of it is made: a pickle can set the flags of a dtype so that its own
bytes pass for addresses of objects, so numpy never sees what a file says."""
_HARMLESS = re.compile(
    r"collections\.OrderedDict"
    r"|torch\._utils\._rebuild_\w+"
    r"|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter"
    r"|torch\.storage\.(Typed|Untyped)Storage"
    r"|torch\.(\w+Storage|Tensor|Size|device|b?float\w*|half|double|u?int\w*|long|short|bool|complex\w+)"
    r"|collections\.Counter|_codecs\.encode"
    # Sparse and quantised tensors, which are refused for what they are.
    r"|torch\.serialization\._get_layout|torch\.(per_\w+_affine|quint\w+|qint\w+)"
)


_TORCHSCRIPT = "it is a TorchScript archive, which is a program; ask for the weights (a state dict or safetensors)"


class _LeftOut:
    """Stands where a file has something beside its weights: made from anything, it keeps nothing."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Nothing is kept."""


def _a_list(*_: object) -> list[object]:
    """Stands for a kind of list: torch's reader appends to lists alone."""
    return []


def _a_dict(*_: object) -> dict[object, object]:
    """Stands for a kind of dict: torch's reader sets items of dicts alone."""
    return {}


_FILLED = {"collections.deque": _a_list, "collections.defaultdict": _a_dict}
"""Of those left out, what is filled after it is made."""


class PytorchReader(OneFile):
    """A file that ``torch.save`` wrote. See :class:`sau_adapters.weights.reader.WeightsReader`."""

    format: ClassVar[str] = "pytorch"
    names_tensors: ClassVar[bool] = True

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """A zip archive with a pickle or TorchScript code in it, a bare pickle, or the tar of torch's first format.

        Letter case plays no part in names of members, as it does not for torch.
        """
        return cls(content) if _recognises(content) else None

    @cached_property
    def findings(self) -> tuple[FileFinding, ...]:
        """Code that the file would run when unpickled. Raises NotEvaluable for a damaged file."""
        return findings(self.content)

    @cached_property
    def _weights(self) -> LoadedWeights:
        weights = read_weights(self.content, self.findings)
        if self.content.held:  # torch has copied what it needs
            self.content.forget()
        return weights

    def listed(self) -> ListedWeights:
        """The tensors and their values; of a file that holds code, what it asks for alone.

        Raises:
            UnsafeFile: torch's own reader finds code.
            NotEvaluable: the file is damaged, or holds no state dict.
        """
        if self.findings:
            return ListedWeights(tensors=None, findings=self.findings)
        weights = self._weights
        return ListedWeights(
            tensors=tensors_of(weights.state), notes=weights.notes, non_finite=non_finite_in(weights.state)
        )

    def loaded(self) -> LoadedWeights:
        """The state dict, out of its wrapper. Raises as :meth:`listed`, and UnsafeFile for a file with code."""
        return self._weights


HEAD_BYTES = 4096
"""Bytes at the start that name the first member of an archive."""


def _recognises(content: Content) -> bool:
    head = content.read(0, HEAD_BYTES)
    if head[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(content.stream()) as archive:
                return any(name.lower().endswith(("data.pkl", "constants.pkl")) for name in archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            # Cut short before the directory at the end: torch writes data.pkl first, so its name is in the head.
            return b"data.pkl" in head.lower()
    return _is_pickle(head, content) or bool(_old_members(content))


_OLDEST = ("pickle", "storages", "tensors", "sys_info")
"""Members of the tar archives that torch wrote before its version 0.1.10, and still reads."""


def _old_members(content: Content) -> dict[str, bytes]:
    """The pickles in a tar archive of torch's first format, by name; none of any other file."""
    found: dict[str, bytes] = {}
    with (
        suppress(Exception),
        tarfile.open(fileobj=content.stream(), mode="r:") as archive,
    ):  # no packed one, and whatever damage raises
        for member in archive:
            name = member.name.removeprefix("./")
            inside = archive.extractfile(member) if member.isfile() and name in _OLDEST else None
            if inside is not None:
                found[name] = inside.read(LARGEST_PICKLE)
    return found if found.keys() & {"pickle", "storages", "tensors"} else {}


def _is_pickle(head: bytes, content: Content) -> bool:
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= pickle.HIGHEST_PROTOCOL:
        return True
    # Protocols 0 and 1 have no magic number: only a stream that parses to its end and names a global counts.
    with content.stream() as file:
        names: set[str] = set()
        try:
            for code, argument, _ in islice(pickletools.genops(file), MOST_OPCODES):
                if argument == _OLD_STYLE_MAGIC:
                    return True
                if code.name not in {"GLOBAL", "INST"} or _CALLABLE.fullmatch(str(argument)):
                    names.add(code.name)
        except Exception:  # noqa: BLE001 (genops raises whatever its decoders raise)
            # Cut short, it runs all the same what it calls before the cut.
            return ("GLOBAL" in names and not names.isdisjoint(_CALLS)) or {"MARK", "INST"} <= names
    return "GLOBAL" in names or "INST" in names


def findings(content: Content) -> tuple[FileFinding, ...]:
    """Code that the file would run when unpickled, listed without running it; also what stands before damage.

    Raises:
        NotEvaluable: the file is damaged.
    """
    path = content.path
    named: list[str] = []
    damage: NotEvaluable | None = None
    try:
        with reading(path, "a PyTorch file"):
            _list_globals(content, named)
    except UnsafeFile as error:
        return (FileFinding(id=error.finding, severity=Severity.HIGH, sentence=str(error)),)
    except MemoryError:  # a length in the pickle that there is not
        damage = NotEvaluable(f"{path} is a damaged PyTorch file (a length in it is a lie); get the file again")
    except NotEvaluable as error:
        damage = error  # what stands before the damage would be run all the same
    harmful = sorted({name for name in named if not _is_harmless(name)})
    if not harmful and damage:
        raise damage
    if not harmful:
        return ()
    listed = ", ".join(name[:100] for name in harmful[:5]) + (
        f" and {len(harmful) - 5} more" if len(harmful) > 5 else ""
    )
    return (
        FileFinding(
            id=PICKLE_CODE,
            severity=Severity.CRITICAL,
            sentence=f"its pickle asks for {listed}, which is code; ask for weights only (a state dict or safetensors)",
        ),
    )


def _list_globals(content: Content, named: list[str]) -> None:
    """Add to ``named`` what every pickle in the file asks for, as far as the file can be read.

    Raises:
        NotEvaluable: it is damaged.
        UnsafeFile: it is a program, or an archive with tricks.
    """
    path, archived = content.path, zipfile.is_zipfile(content.stream())
    begins_as_archive = content.read(0, 4) == b"PK\x03\x04"
    if begins_as_archive and not archived:
        raise NotEvaluable(f"{path} is cut short: the archive has no directory; get the file again")
    old = {} if begins_as_archive else _old_members(content)
    for member in old.values():  # each a few pickles in a row, then numbers
        stream = BytesIO(member)
        with suppress(Exception):
            while stream.tell() < len(member):
                named.extend(_globals_of(stream, path))
    if old:
        if all(_is_harmless(name) for name in named):
            raise NotEvaluable(f"{path} is of torch's format before 0.1.10, a tar archive; save it anew with torch")
        return
    if not begins_as_archive:
        with content.stream() as file, suppress(Exception) if archived else nullcontext():
            named.extend(_globals_of(file, path))
        if archived and all(_is_harmless(name) for name in named):
            raise UnsafeFile(
                f"{path} begins as one file and ends as a zip archive, and readers differ in which they take; "
                "do not use it",
                finding=ARCHIVE,
            )
        return
    with zipfile.ZipFile(content.stream()) as archive:
        check_unpacked_size(path, archive, size=content.size, times=2)  # torch packs nothing of what it saves
        members = archive.namelist()
        check_members(path, members)
        if any(name.lower().endswith("constants.pkl") or "/code/" in name.lower() for name in members):
            raise UnsafeFile(_TORCHSCRIPT, finding="file.torchscript")
        infos = archive.infolist()
        pickles = {
            info.filename: _as_torch_reads(content, info) for info in infos if info.filename.lower().endswith(".pkl")
        }
        for pickled in pickles.values():
            named.extend(_globals_of(BytesIO(pickled), path))
        if any(not _is_harmless(name) for name in named):
            return
        _check_headers(content, infos)
        for info in infos:
            if info.CRC and info.filename in pickles and zlib.crc32(pickles[info.filename]) != info.CRC:
                raise NotEvaluable(f"{path} is damaged: {info.filename[:100]!r} fails its checksum; get the file again")


def _as_torch_reads(content: Content, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member where the directory says they are, whatever else the archive says of it, as torch does.

    Python's reader refuses a member whose checksum, name or flags are off, and torch runs it all the same.
    """
    path, head = content.path, content.read(info.header_offset, LOCAL_HEADER)
    if len(head) < LOCAL_HEADER or head[:4] != b"PK\x03\x04":
        raise NotEvaluable(f"{path} is damaged: {info.filename[:100]!r} is not where it should be; get it again")
    names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    packed = content.read(info.header_offset + LOCAL_HEADER + names, info.compress_size)
    if info.compress_type == zipfile.ZIP_STORED:
        return packed
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise NotEvaluable(f"{path} packs {info.filename[:100]!r} in a way that torch does not read; get it again")
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, info.file_size)


def _check_headers(content: Content, infos: list[zipfile.ZipInfo]) -> None:
    """Raises UnsafeFile for an archive that says one thing in its directory and another before a member."""
    for info in infos:
        head = content.read(info.header_offset, LOCAL_HEADER)
        name = content.read(info.header_offset + LOCAL_HEADER, int.from_bytes(head[26:28], "little"))
        known = {
            info.orig_filename.encode("utf-8", "surrogateescape"),
            info.orig_filename.encode("cp437", "replace"),
        }
        if info.flag_bits & ENCRYPTED or name not in known:
            raise UnsafeFile(
                f"{content.path} is an archive whose directory and members disagree on {info.filename[:100]!r}, so "
                "that readers differ in what they take; do not use it",
                finding=ARCHIVE,
            )


def _has_checksums(content: Content) -> bool:
    """Whether an archive keeps a checksum of any member; torch can leave them out."""
    if content.read(0, 4) != b"PK\x03\x04":
        return True
    with zipfile.ZipFile(content.stream()) as archive:
        return any(info.CRC for info in archive.infolist())


def read_weights(content: Content, found: tuple[FileFinding, ...]) -> LoadedWeights:
    """The state dict, out of its wrapper, on the CPU; and sentences on how it was found.

    The values of a file that is not held in memory stay in it until they are looked at, where it keeps them as they
    are.

    Args:
        found: by :func:`findings`.

    Raises:
        UnsafeFile: the file holds code.
        NotEvaluable: the file is damaged, or holds no state dict.
    """
    import torch

    path = content.path
    if found:
        raise UnsafeFile(f"{path} is refused: {found[0].sentence}")
    left_out: list[Any] = [(_FILLED.get(name, _LeftOut), name) for name in _LEFT_OUT]
    file: Any = content.stream() if content.held else path
    mapped = not content.held and _is_plain(content)
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(left_out):
            saved = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UnsafeFile(
                f"{path} asks for more than weights, and is refused; ask for a state dict", finding=PICKLE_CODE
            ) from error
        raise NotEvaluable(f"{path} is no file of weights that torch wrote; ask for a state dict") from error
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise NotEvaluable(f"{path} is a damaged PyTorch file ({reason_of(error)}); get the file again") from error
    state, notes = _state_dict(saved, path)
    if not _has_checksums(content):
        notes = (*notes, "the archive keeps no checksums, so damage to it cannot be told")
    return LoadedWeights(state=state, notes=notes)


def tensors_of(state: Mapping[str, Tensor]) -> tuple[TensorFacts, ...]:
    """Names, dtypes and shapes of a state dict."""
    return tuple(
        TensorFacts(name=name, dtype=_dtype(tensor), shape=tuple(tensor.shape)) for name, tensor in state.items()
    )


def non_finite_in(state: Mapping[str, Tensor]) -> tuple[NonFinite, ...]:
    """Tensors with NaN or infinities, one at a time."""
    import torch

    found = []
    for name, tensor in state.items():
        form = number_format(_dtype(tensor))
        if form is not None and tensor.numel():
            flat = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
            found.append(non_finite(name, in_blocks(flat.numpy()), form, elements=tensor.numel()))
    return tuple(counted for counted in found if counted is not None)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_plain(content: Content) -> bool:
    """Whether a file is an archive that keeps its members as they are, so that they can be read in place."""
    if not zipfile.is_zipfile(content.stream()):
        return False
    with zipfile.ZipFile(content.stream()) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def _globals_of(file: IO[bytes], path: Path) -> Iterator[str]:
    """``module.name`` of every global that a pickle asks for, by listing its opcodes; nothing is run.

    An old-style file of torch is five pickles in a row, then raw tensors; any other is one pickle.
    A global whose name is put together in a way that Python's own pickler never uses is named ``?``.
    """
    pickles_left, opcodes = 1, 0
    while pickles_left:
        pickles_left -= 1
        pushed: deque[str | None] = deque([None, None], maxlen=2)
        memo: dict[int, str] = {}
        memorised: set[int] = set()
        for code, argument, _ in pickletools.genops(file):
            opcodes += 1
            if opcodes > MOST_OPCODES:
                raise NotEvaluable(
                    f"{path} has a pickle of more than {MOST_OPCODES:,} instructions, which no state dict has; "
                    "ask for the weights alone"
                )
            match code.name:
                case "GLOBAL" | "INST":
                    yield str(argument).replace(" ", ".")
                    pushed.append(None)
                case "STACK_GLOBAL":
                    module, name = pushed
                    yield "?" if module is None or name is None else f"{module}.{name}"
                    pushed.append(None)
                case "EXT1" | "EXT2" | "EXT4":
                    yield "?"
                case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                    place = len(memorised) if code.name == "MEMOIZE" else int(argument or 0)
                    memorised.add(place)
                    memo.pop(place, None)
                    if pushed[-1] is not None:
                        memo[place] = pushed[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    pushed.append(memo.get(int(argument or 0)))
                case "FRAME" | "PROTO":
                    pass
                case _ if argument == _OLD_STYLE_MAGIC:
                    pickles_left = 4
                    pushed.append(None)
                case _:
                    pushed.append(argument if isinstance(argument, str) else None)


def check_members(path: Path, members: list[str]) -> None:
    """Raises UnsafeFile for an archive that names a place outside itself, or has a member twice."""
    for member in members:
        parts = member.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or parts[0].endswith(":"):
            raise UnsafeFile(
                f"{path} is an archive with {member[:100]!r} in it, which is a place outside of it; do not unpack it",
                finding=ESCAPE,
            )
    counts = Counter(member.lower() for member in members)  # torch looks for a member in any letter case
    if len(counts) < len(members):
        twice = counts.most_common(1)[0][0]
        raise UnsafeFile(
            f"{path} is an archive in which {twice[:100]!r} stands twice, and readers differ in which one they take; "
            "do not use it",
            finding=ARCHIVE,
        )


def _is_harmless(name: str) -> bool:
    return name in _LEFT_OUT or _HARMLESS.fullmatch(name) is not None


def _state_dict(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The named tensors in what a file holds, and sentences on what was passed by."""
    import torch

    notes: list[str] = []
    for _ in range(DEEPEST_WRAPPER):
        inside = _wrapped(content)
        if not inside:
            break
        if inside[1:]:
            notes.append(f"the weights under {inside[0]!r} were taken; there are others under {', '.join(inside[1:])}")
        elif inside[0] not in WRAPPERS:
            notes.append(f"the weights were found under {inside[0]!r}")
        content = content[inside[0]]
    if not isinstance(content, Mapping) or not content:
        raise NotEvaluable(f"{path} holds no state dict; ask for a file of named tensors")
    plain = [key for key, value in content.items() if value is None or isinstance(value, str | int | float)]
    if plain and len(plain) < len(content) / 2:
        shown = ", ".join(str(key)[:100] for key in plain[:5])
        notes.append(f"left out, as no tensors: {shown}{', ...' * (len(plain) > 5)}")
        content = {key: value for key, value in content.items() if key not in set(plain)}
    strange = [str(key)[:100] for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise NotEvaluable(f"{path} holds {strange[0]!r}, which is no tensor, among its weights; ask for a state dict")
    state = {str(key): value for key, value in content.items()}
    if len(state) < len(content):
        raise NotEvaluable(f"{path} names two of its tensors alike; ask for a state dict")
    hollow = [key[:100] for key, value in state.items() if not _has_ordinary_values(value)]
    if hollow:
        raise NotEvaluable(f"{path} holds {hollow[0]!r}, which has no ordinary values; ask for dense weights")
    return state, tuple(notes)


def _wrapped(content: Any) -> list[str]:
    """The keys under which a checkpoint keeps weights, the likeliest first; none where it is a state dict itself."""
    if not isinstance(content, Mapping):
        return []
    known = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
    if known or any(_is_tensor(value) for value in content.values()):
        return known
    counted = {str(key): _tensors_in(value) for key, value in content.items() if isinstance(key, str)}
    return sorted((key for key, count in counted.items() if count), key=lambda key: (-counted[key], key))


def _tensors_in(value: Any, depth: int = 0) -> int:
    """Named tensors in a mapping, or in those inside of it; an optimizer numbers what it keeps."""
    if not isinstance(value, Mapping) or depth > DEEPEST_WRAPPER or not all(isinstance(key, str) for key in value):
        return 0
    return sum(1 if _is_tensor(inner) else _tensors_in(inner, depth + 1) for inner in value.values())


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _has_ordinary_values(tensor: Tensor) -> bool:
    """Dense, not quantised, and as large as it says: repeated values make a large tensor of a small file."""
    import torch

    if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()

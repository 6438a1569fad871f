"""The head of a file at an address, read in parts: what must not be opened is told before it is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sau_adapters.weights.content import Content
from sau_adapters.weights.formats import reader_of
from sau_adapters.weights.pytorch import PytorchReader
from sau_adapters.weights.safetensors import SafetensorsReader
from sau_adapters.zoos.addresses import RemoteFile, answering
from sau_cli.errors import NotEvaluable, SauError, UnsafeFile

REMOTE_BLOCK = 1 << 14
MOST_REQUESTS, MOST_BYTES = 24, 8_000_000
"""Of a file before it is fetched; what needs more to be told is told when all of it is here."""


class _Enough(Exception):
    """More of the file would have to be read than is worth it."""


class RemoteContent(Content):
    """The bytes of a file at an address, each part fetched when it is first looked at, up to a limit.

    Attributes:
        spent: more was asked for than may be fetched, so that whatever a reader says does not count.
    """

    def __init__(self, remote: RemoteFile, size: int) -> None:
        self._file, self._remote = -1, remote
        self.path, self.size, self.sha256 = Path(remote.name), size, ""
        self.held, self._held = False, bytearray()
        self.spent, self._requests, self._bytes = False, 0, 0
        self._blocks: dict[int, bytes] = {}
        self._opened: Any = None

    def read(self, start: int, length: int) -> bytes:
        """As that of a file here. Raises _Enough past the limit."""
        if start < 0:
            raise ValueError(f"no place {start} in a file")
        end = min(start + length, self.size)
        if end <= start:
            return b""
        first, last = start // REMOTE_BLOCK, (end - 1) // REMOTE_BLOCK
        missing = [block for block in range(first, last + 1) if block not in self._blocks]
        if missing:
            self._fetch(missing[0], missing[-1])
        parts = b"".join(self._blocks[block] for block in range(first, last + 1))
        return parts[start - first * REMOTE_BLOCK : end - first * REMOTE_BLOCK]

    def _fetch(self, first: int, last: int) -> None:
        start, end = first * REMOTE_BLOCK, min((last + 1) * REMOTE_BLOCK, self.size)
        self._requests, self._bytes = self._requests + 1, self._bytes + end - start
        if self._requests > MOST_REQUESTS or self._bytes > MOST_BYTES:
            self.spent = True
            raise _Enough
        try:
            with answering(self._remote.address):
                self._opened = self._opened or self._remote.store.open(self._remote.url, "rb", cache_type="none")
                self._opened.seek(start)
                found = self._opened.read(end - start)
        except BaseException:  # such as of a host that sends no parts of files
            self.spent = True
            raise
        if len(found) != end - start:
            self.spent = True
            raise _Enough
        for at in range(0, len(found), REMOTE_BLOCK):
            self._blocks[first + at // REMOTE_BLOCK] = bytes(found[at : at + REMOTE_BLOCK])


def told_by_head(remote: RemoteFile) -> str:
    """What a file is by its head, in words; nothing where that cannot be told in a few small parts.

    Raises:
        UnsafeFile: it holds code, or its header lies.
        NotEvaluable: it is damaged, or of no known format.
    """
    if not remote.size:
        return ""
    content = RemoteContent(remote, remote.size)
    try:
        reader = reader_of(content)
        if isinstance(reader, SafetensorsReader):
            return f"safetensors with {len(reader.tensors)} tensors"
        if isinstance(reader, PytorchReader) and reader.findings:
            found = reader.findings[0]
            raise UnsafeFile(f"{remote.name} is refused: {found.sentence}", finding=found.id)
        return reader.format
    except SauError as error:
        if content.spent:
            return ""
        raise _at(remote, error) from error
    except Exception:
        if content.spent:
            return ""
        raise


def _at(remote: RemoteFile, error: SauError) -> SauError:
    """The same, with the address in place of the name."""
    sentence = str(error).replace(remote.name, remote.address, 1)
    if isinstance(error, UnsafeFile):
        return UnsafeFile(f"{sentence} (nothing of its weights was fetched)", finding=error.finding)
    return NotEvaluable(sentence)

"""The bytes of a file, read once: what is listed, hashed and run is the same, whatever becomes of the file."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sau_adapters.files import BLOCK, Watch, check_regular
from sau_cli.errors import NotEvaluable

IN_MEMORY = 1 << 29
"""Bytes of a file that are held in memory. A larger one stays on the disk, and is refused if it changes meanwhile."""


class Content:
    """A file that is opened once, under whatever name it has later.

    Until :meth:`take_in` its bytes are read where they are, as far as they are asked for.

    Args:
        what: it should be, for the sentence of an error.

    Attributes:
        path: where it was found.
        size: in bytes.
        sha256: in hexadecimal, of what was taken in; nothing before.
        held: its bytes were taken into memory, so that nothing that becomes of the file can change what is read.

    Raises:
        UsageError: no such file, or no regular one.
        NotEvaluable: it cannot be read, or is empty.
    """

    def __init__(self, path: Path, *, what: str = "a model file") -> None:
        self._file = -1
        check_regular(path, what=what)
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self._stat = os.fstat(self._file)
        except OSError as error:
            raise NotEvaluable(f"{path} cannot be read ({error.strerror}); check its permissions") from error
        self.path, self.size, self.sha256 = path, self._stat.st_size, ""
        self.held, self._held = False, bytearray()
        if not self.size:
            raise NotEvaluable(f"{path} is empty; get the file again")

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1

    def take_in(
        self, *, most: int = IN_MEMORY, digest: hashlib._Hash | None = None, watch: Watch | None = None
    ) -> None:
        """Read the whole file, hash it, and hold its bytes.

        Args:
            most: bytes to hold in memory; of a larger file none are.
            digest: of what was read before, to go on with; :attr:`sha256` is then of all of it.
            watch: of how many are read.

        Raises:
            NotEvaluable: the file gets shorter meanwhile.
        """
        digest, done = digest or hashlib.sha256(), 0
        held = bytearray(self.size if self.size <= most else 0)
        while block := self.read(done, min(BLOCK, self.size - done)):
            digest.update(block)
            if held:
                held[done : done + len(block)] = block
            done += len(block)
            if watch:
                watch(done, self.size)
        if done < self.size:
            raise self._changed()
        self.sha256 = digest.hexdigest()
        if held:
            self.held, self._held = True, held
            self._close()

    def forget(self) -> None:
        """Give the memory back: nothing of the file is read any more."""
        self._held = bytearray()
        self._close()

    def check_unchanged(self) -> None:
        """Of bytes that were read from the disk, or by others from the path: they are those that were hashed.

        Raises:
            NotEvaluable: the file is another one by now.
        """
        with suppress(OSError):
            now = self.path.stat()
            if all(getattr(now, name) == getattr(self._stat, name) for name in SAME):
                return
        raise self._changed()

    def _changed(self) -> NotEvaluable:
        return NotEvaluable(f"{self.path} was changed while it was read; run the same command again")

    def read(self, start: int, length: int) -> bytes:
        """A part of the file; it ends early where the file does. Raises ValueError for a place before its start."""
        if start < 0:
            raise ValueError(f"no place {start} in a file")
        if self.held:
            return bytes(memoryview(self._held)[start : start + length])
        os.lseek(self._file, start, os.SEEK_SET)
        parts = []
        while length > 0 and (part := os.read(self._file, min(length, BLOCK))):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def blocks(self, start: int, length: int) -> Iterator[bytes | memoryview]:
        """A part of the file, block by block; it ends early where the file does."""
        for at in range(start, start + length, BLOCK):
            many = min(BLOCK, start + length - at)
            block = self.read(at, many) if not self.held else memoryview(self._held)[at : at + many]
            if not len(block):
                return
            yield block

    def stream(self) -> BinaryIO:
        """The file to read from the start, for whoever takes an open one."""
        return io.BufferedReader(_Stream(self))

    def view(self) -> memoryview:
        """The whole file, not to be written to: in memory, or mapped into it, so that it is read when looked at."""
        if self.held:
            return memoryview(self._held)
        return memoryview(mmap.mmap(self._file, 0, access=mmap.ACCESS_COPY))


SAME = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
"""What is alike of a file that nobody has changed; the last cannot be set by hand."""


class _Stream(io.RawIOBase):
    """A :class:`Content` as Python's open files are."""

    def __init__(self, content: Content) -> None:
        super().__init__()
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._content.size}[whence]
        if start + offset < 0:
            raise OSError(f"no place {start + offset} in a file")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # any writable buffer
        part = self._content.read(self._at, len(buffer))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

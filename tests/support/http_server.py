"""A web server on this machine that sends parts of files, counts what it was asked for, and misbehaves when told to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """A folder that is served, and what was asked of it.

    Attributes:
        asked: method, path, and bytes that were sent, one for each request.
        ranges: parts of files are sent, where they are asked for.
        versions: files have an ETag.
        statuses: what is answered in place of a file, by its path.
        after_range: done once a part was sent.
    """

    folder: Path
    address: str = ""
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    ranges: bool = True
    versions: bool = True
    statuses: dict[str, int] = field(default_factory=dict)
    on_get: object = None

    def sent(self, path: str) -> int:
        """Bytes of a file that were sent, all requests together."""
        return sum(size for method, asked, size in self.asked if method == "GET" and asked == path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, served: Served, *words: object) -> None:
        self.served = served
        super().__init__(*words)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        served, path = self.served, self.path.partition("?")[0]
        file = served.folder / path.lstrip("/")
        status = served.statuses.get(path)
        if status is None and file.is_dir():
            links = "".join(f'<a href="{entry.name}{"/" * entry.is_dir()}">x</a>' for entry in sorted(file.iterdir()))
            return self._send(200, f"<html>{links}</html>".encode(), {"Content-Type": "text/html"}, body=body)
        if status is not None or not file.is_file():
            return self._send(status or 404, b"no", {"Content-Type": "text/plain"}, body=body)
        if callable(served.on_get) and body:
            served.on_get(path)
        data = file.read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        if served.versions:
            headers["ETag"] = f'"{hashlib.md5(data).hexdigest()}"'
        asked = self.headers.get("Range")
        if not served.ranges or asked is None:
            return self._send(200, data, headers, body=body)
        first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        return self._send(206, part, headers, body=body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.served.asked.append((self.command, self.path.partition("?")[0], len(data) if body else 0))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that has left is no news."""


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """A server of this folder."""
    served = Served(folder)
    server = _Server(("127.0.0.1", 0), partial(_Handler, served))
    server.daemon_threads = True
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

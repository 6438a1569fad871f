"""A hub on this machine: the routes that huggingface_hub asks, over folders. Run it inside :func:`hub`."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

import pytest

COMMIT, OLD_COMMIT = "0" * 39 + "1", "0" * 39 + "2"
TOKEN = "hf_of_a_test"


@dataclass
class Hub:
    """What it has, by ``ORG/NAME``, and what was asked.

    Attributes:
        folders: at ``main``; ``v1`` is the same folder at another commit.
        gated: readable with TOKEN alone; ``private`` ones are not even told to be there.
        broken: answered with 503.
        slow: a file of this name is sent slowly, and ``started`` is set when that begins.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    slow: str = ""
    started: Event = field(default_factory=Event)
    fetched: list[str] = field(default_factory=list)
    address: str = ""

    def stands_for_the_hub(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """In this process, with a cache of its own; another one is told by HF_ENDPOINT and HF_HOME."""
        constants = "huggingface_hub.constants"
        template = f"{self.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(f"{constants}.ENDPOINT", self.address)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve it, on a free port, until the block ends."""
    held = Hub()

    class Handler(_Handler):
        hub = held

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    held.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (named by the base class)
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        if found is None:
            return self._refuse(404, "EntryNotFound", body=body)
        name, revision = found[1], found[2] or "main"
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name in self.hub.broken:
            return self._refuse(503, "", body=body)
        if name in self.hub.private and not allowed:
            return self._refuse(401, "RepoNotFound", body=body)
        if name not in self.hub.folders:
            return self._refuse(404, "RepoNotFound", body=body)
        if name in self.hub.gated and not allowed and file is not None:
            return self._refuse(403, "GatedRepo", body=body)
        commit = {"main": COMMIT, COMMIT: COMMIT, "v1": OLD_COMMIT, OLD_COMMIT: OLD_COMMIT}.get(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", body=body)
        folder = self.hub.folders[name]
        if api is not None:
            return self._send(_told(name, commit, folder), {"Content-Type": "application/json"}, body=body)
        one = folder / found[3]
        if not one.is_file():
            return self._refuse(404, "EntryNotFound", body=body)
        content = one.read_bytes()
        if body:
            self.hub.fetched.append(found[3])
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return self._send(content, headers, body=body, slowly=body and one.name == self.hub.slow)

    def _refuse(self, status: int, code: str, *, body: bool) -> None:
        self._send(b"{}", {"X-Error-Code": code} if code else {}, body=body, status=status)

    def _send(
        self, content: bytes, headers: dict[str, str], *, body: bool, status: int = 200, slowly: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        if slowly:
            self.wfile.write(content[:100])
            self.wfile.flush()
            self.hub.started.set()
            time.sleep(30)  # longer than any test waits; whoever fetches is stopped meanwhile
        self.wfile.write(content[100:] if slowly else content)


def _told(name: str, commit: str, folder: Path) -> bytes:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    siblings = [
        {"rfilename": file.relative_to(folder).as_posix(), "size": file.stat().st_size, "blobId": "0" * 40}
        for file in files
    ]
    return json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}).encode()

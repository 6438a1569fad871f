"""Models by an address, such as ``s3://bucket/model.safetensors``: asked what is there, and read in parts.

The libraries that know each kind of store are an extra, and take credentials from where they always do.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sau_cli.errors import NotEvaluable, SauError, UsageError, reason_of

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https")
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(?=[^/])", re.IGNORECASE)
"""A path has lost one of the slashes."""
VERSIONS = (
    "VersionId",
    "generation",
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "LastModified",
    "Last-Modified",
    "mtime",
)
"""What a store tells of a file that is another once the file is, the best first."""
_NO_CREDENTIALS = {"NoCredentialsError", "DefaultCredentialsError", "PartialCredentialsError"}
_SAYS_NO_CREDENTIALS = "Must provide either a connection_string"
CONNECT, PATIENCE = 10, 60
"""Seconds until a host that does not answer is given up: for a connection, and for the next bytes."""


class NotReadable(NotEvaluable):
    """A store refuses to send a file."""


def is_address(model: Path) -> bool:
    """Whether MODEL is an address in a store or on the web.

    >>> is_address(Path("s3://bucket/model.safetensors")), is_address(Path("s3/model.safetensors"))
    (True, False)
    """
    return _ADDRESS.match(str(model)) is not None


def is_registered(model: Path) -> bool:
    """Whether MODEL is ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    >>> is_registered(Path("models:/digits/3")), is_registered(Path("models/digits/3"))
    (True, False)
    """
    return str(model).startswith("models:/")


def address_of(model: Path) -> str:
    """The address that MODEL is, with the slash that a path has lost.

    >>> address_of(Path("s3://bucket/folder/"))
    's3://bucket/folder'
    """
    scheme, _, rest = str(model).partition(":")
    return f"{scheme.lower()}://{rest.lstrip('/')}"


def shown_address(address: str) -> str:
    """An address for people and reports: without what may be a key in it.

    >>> shown_address("https://me:secret@host/model.pth?X-Amz-Signature=secret")
    'https://host/model.pth'
    """
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def name_of(model: Path) -> str:
    """MODEL as reports have it: an address with both slashes and without keys, and all else as it is."""
    return shown_address(address_of(model)) if is_address(model) else str(model)


def bare_name_of(model: Path) -> str:
    """A name for files that are made of a model at an address or in a registry.

    >>> bare_name_of(Path("s3://bucket/team/net.pth")), bare_name_of(Path("models:/digits/3"))
    ('net.pth', 'digits-3')
    """
    if is_registered(model):
        return str(model).removeprefix("models:/").replace("/", "-").replace("@", "-")
    return name_of(model).rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RemoteFile:
    """A file at an address, as its store describes it.

    Attributes:
        address: without what may be a key.
        size: in bytes; None where the store does not tell.
        version: another once the file is another; empty where the store tells none.
    """

    store: Any
    url: str
    address: str
    size: int | None
    version: str
    is_folder: bool

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]

    def beside(self, name: str) -> str:
        """The address of a file of this name in the same folder; a query is left behind."""
        return f"{self.url.partition('?')[0].rpartition('/')[0]}/{name}"

    def check_unchanged(self) -> None:
        """Raises NotEvaluable where the store describes another file by now."""
        now = asked(self.url, self.store)
        if (now.size, now.version) != (self.size, self.version):
            raise changed(self.address)


def changed(address: str) -> NotEvaluable:
    """Somebody has written to an address meanwhile."""
    return NotEvaluable(f"{address} was changed while it was read; run the same command again")


def asked(address: str, store: Any = None) -> RemoteFile:
    """Ask a store what is at an address. Nothing is fetched.

    Args:
        store: that knows it, where there is one already.

    Raises:
        UsageError: nothing is there, the address is none, or the library for such is not installed.
        NotEvaluable: it must not be read, or no way to it.
    """
    shown = shown_address(address)
    if urlsplit(address).username:
        raise UsageError(f"{shown} is given with a name or a password in it; leave them to the library's own settings")
    with answering(shown):
        store = store or _store(address.partition(":")[0])
        info: Mapping[str, Any] = store.info(address)
    version = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
    size = info.get("size")
    is_page = address.startswith("http") and str(info.get("mimetype", "")) == "text/html"
    return RemoteFile(
        store=store,
        url=address,
        address=shown,
        size=int(size) if isinstance(size, int | float) and not is_page else None,
        version=version,
        is_folder=info.get("type") == "directory" or is_page,
    )


@cache
def _store(protocol: str) -> Any:
    """What knows all addresses of a kind; made once, as that takes a second or more."""
    import fsspec

    patience: dict[str, Any] = {}
    if protocol in {"http", "https"}:
        import aiohttp

        wait = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=PATIENCE)
        patience = {"client_kwargs": {"timeout": wait, "trust_env": True}}  # proxies of this machine count
    elif protocol == "s3":
        retries = {"max_attempts": 1}
        patience = {"config_kwargs": {"connect_timeout": CONNECT, "read_timeout": PATIENCE, "retries": retries}}
    elif protocol in {"gs", "gcs"}:
        # Else each request is first made over gRPC, for a minute where a proxy or another server takes none.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
    # What the store said a moment ago is not believed: a file that changes is to be noticed.
    return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True, **patience)


@contextmanager
def answering(address: str) -> Iterator[None]:
    """Around asking a store: whatever goes wrong there is one sentence.

    Args:
        address: for the sentence.
    """
    try:
        yield
    except (SauError, MemoryError):
        raise
    except Exception as error:  # each library raises its own
        raise _explained(address, error) from error


def _explained(address: str, error: Exception) -> SauError:
    """What went wrong on the way to a store, or on the disk."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    names = {type(cause).__name__ for cause in causes}
    if isinstance(error, ImportError):
        library = _LIBRARIES.get(address.partition(":")[0], "aiohttp")
        return UsageError(
            f'{address} needs {library}, which is not installed; pip install "sau-cli[cloud]" or {library}'
        )
    if "FileExpired" in names:
        return changed(address)
    if any(isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT} for cause in causes):
        return UsageError(
            f"{address} cannot be fetched, as the disk is full; make room, or set SAU_CACHE_DIR elsewhere"
        )
    return _refused(address, causes, names)


def _refused(address: str, causes: list[BaseException], names: set[str]) -> SauError:
    """What a host says, or that it says nothing."""
    status = next((status for cause in causes if (status := _status(cause)) is not None), None)
    if names & _NO_CREDENTIALS or any(_SAYS_NO_CREDENTIALS in str(cause) for cause in causes):
        return NotReadable(f"{address} needs credentials, and there are none; set those of its store's own tools")
    if status in {401, 403} or "PermissionError" in names:
        return NotReadable(f"{address} may not be read with these credentials; ask for the right to read it")
    unreachable = _unreachable(causes)
    if unreachable is not None:
        return NotEvaluable(f"{address} cannot be reached ({unreachable}); check the address and the network")
    if status in {404, 410} or (status is None and "FileNotFoundError" in names):
        return UsageError(f"{address} does not exist; check the address")
    answered = reason_of(causes[-1]) if status is None else f"its host answers {status}"
    return NotEvaluable(f"{address} cannot be read ({answered}); check the address, or try again later")


def _unreachable(causes: list[BaseException]) -> str | None:
    """Why no way leads to a host, in words; None where one does."""
    silent = ("Timeout", "TimeoutError", "ServerTimeoutError", "SocketTimeoutError", "ConnectionTimeoutError")
    for cause in causes:
        name = type(cause).__name__
        if name in {*silent, "ReadTimeoutError", "ConnectTimeoutError"}:
            return "it does not answer"
        if isinstance(cause, ConnectionError) or name in {"EndpointConnectionError", "ServerDisconnectedError"}:
            return reason_of(cause)
        if name.startswith("ClientConnector") or (isinstance(cause, OSError) and name == "gaierror"):
            return reason_of(cause)
    return None


def _status(error: BaseException) -> int | None:
    """That with which a host answered, wherever the library of its kind of store keeps it."""
    for name in ("status", "status_code", "code"):
        try:
            return int(getattr(error, name, ""))
        except (TypeError, ValueError):
            continue
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # all that gcsfs leaves of it
        return 403
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata") if isinstance(response, dict) else None
    status = told.get("HTTPStatusCode") if isinstance(told, dict) else None
    return status if isinstance(status, int) else None

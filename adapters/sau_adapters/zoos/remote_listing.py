"""The models under an address, told by name; what names do not tell is said to be unexamined."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from sau_adapters.weights.safetensors import read_header
from sau_adapters.weights.sharded import LONGEST_INDEX
from sau_adapters.zoos.addresses import RemoteFile, address_of, answering, asked, shown_address
from sau_adapters.zoos.hub_downloads import BESIDE_ONNX
from sau_adapters.zoos.names import parted_spec
from sau_adapters.zoos.remote_content import RemoteContent
from sau_adapters.zoos.search import MODEL_SUFFIXES, OF_SAU, FoundModels, PassedBy
from sau_cli.errors import SauError, UsageError

INDEX_SUFFIX = ".safetensors.index.json"
DESCRIBING_SUFFIXES = (
    *(".json", ".txt", ".md", ".yaml", ".yml", ".toml", ".csv", ".html", ".pdf", ".log", ".py", ".ipynb"),
    *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".gitattributes", ".gitignore", ".sig", ".license"),
)
"""What is called so describes models, and is none."""


def models_under_address(model: Path) -> FoundModels:
    """Every model under an address; itself where it is no folder.

    Raises:
        UsageError: it has none, or there is no such address.
        NotEvaluable: it must not be listed, or there is no way to it.
    """
    remote = asked(address_of(parted_spec(model)[0]))
    if not remote.is_folder:
        return FoundModels(models=(model,), passed_by=())
    with answering(remote.address):
        listed: Mapping[str, object] = remote.store.find(remote.url, detail=True)
        addresses = sorted(_under_its_own(remote.url, str(remote.store.unstrip_protocol(name))) for name in listed)
    found = _told(remote, addresses)
    if not found.models:
        raise UsageError(f"{remote.address} is a folder without models; give a model, or a folder that has some")
    return found


def _under_its_own(asked_for: str, address: str) -> str:
    """A listed address with the scheme of the one that was asked for, where a store has several.

    >>> _under_its_own("az://bucket/team", "abfs://bucket/team/net.pth")
    'az://bucket/team/net.pth'
    """
    scheme, rest = asked_for.partition("://")[0], address.partition("://")[2]
    return address if scheme.startswith("http") else f"{scheme}://{rest}"


def _told(remote: RemoteFile, addresses: Iterable[str]) -> FoundModels:
    models, passed_by, parts = [], [], set[str]()
    kept = list(addresses)
    for address in kept:
        if address.endswith(INDEX_SUFFIX):
            parts |= {f"{address.rpartition('/')[0]}/{name}" for name in _named_by(remote, address)}
    for address in kept:
        path, name = Path(address), PurePosixPath(address).name
        reason, open_question = "", False
        if address in parts:
            reason = "a part of the model whose index is beside it"
        elif address_of(path) != address or shown_address(address) != address:
            reason, open_question = "a name that no path has", True
        elif (of_sau := _of_sau(remote, address)) is not None:
            reason, open_question = f"{of_sau}, as its metadata tells", True
        elif name.endswith(INDEX_SUFFIX) or path.suffix.lower() in MODEL_SUFFIXES:
            models.append(path)
            continue
        elif any(address.endswith(ending) and address.removesuffix(ending) in kept for ending in BESIDE_ONNX):
            reason = "tensors of an ONNX file beside it"
        elif (path.suffix or name).lower() in DESCRIBING_SUFFIXES:
            reason = "no model by its name"
        else:
            reason, open_question = "its name tells no format, so it was not fetched", True
        passed_by.append(PassedBy(path=path, reason=reason, open_question=open_question))
    return FoundModels(models=tuple(models), passed_by=tuple(passed_by))


def _named_by(remote: RemoteFile, address: str) -> set[str]:
    """The shards that an index names; none where it cannot be read, which is told when it is inspected."""
    with suppress(SauError, ValueError, KeyError, AttributeError, TypeError, RecursionError), answering(remote.address):
        if (asked(address, remote.store).size or LONGEST_INDEX) < LONGEST_INDEX:
            return {str(name) for name in json.loads(remote.store.cat_file(address))["weight_map"].values()}
    return set()


def _of_sau(remote: RemoteFile, address: str) -> str | None:
    """What `sau` wrote beside a model, by its name and its header; None for all else."""
    for suffix, (what, keys) in OF_SAU.items():
        if address.endswith(suffix):
            with suppress(Exception):  # whatever it is, it is then looked at as a model
                file = asked(address, remote.store)
                if keys & read_header(RemoteContent(file, file.size or 0)).metadata.keys():
                    return what
    return None

"""Commands on models in Google's and in Azure's stores, as servers on this machine play them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.zoos import addresses
from tests.cli.conftest import one_sentence
from tests.support.files import hostile_zip
from tests.support.http_server import serving
from tests.support.toys import describe

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
QUICK = ("--effort", "quick")
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of the account that Azurite has, as its documents tell."""


@dataclass(frozen=True)
class Store:
    """A store with a bucket ``registry``, in which ``team`` has a good model, one cut short, one with code, and others.

    Attributes:
        settings: by which its library finds it.
    """

    scheme: str
    settings: dict[str, str]

    def address(self, name: str) -> str:
        return f"{self.scheme}://registry/{name}"


@contextmanager
def server(port: int, *words: str) -> Iterator[None]:
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + 60
            while process.poll() is None and not answers(port) and time.monotonic() < until:
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("there")
    torch.manual_seed(0)
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    save_classifier(folder / "good.safetensors", classifier, classifier.description, force=False)
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-10])
    hostile_zip(folder)
    (folder / "readme.md").write_text("ours")
    (folder / "weights").write_text("?")
    return folder


@pytest.fixture(scope="module")
def google(models) -> Iterator[Store]:
    for library in ("gcsfs", "gcp_storage_emulator"):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    port = free_port()
    host = f"http://127.0.0.1:{port}"
    with server(port, sys.executable, "-m", "gcp_storage_emulator", "start", f"--port={port}", "--in-memory"):
        post(f"{host}/storage/v1/b?project=x", json.dumps({"name": "registry"}).encode())
        for path in models.iterdir():
            place = f"{host}/upload/storage/v1/b/registry/o?uploadType=media&name=team/{path.name}"
            post(place, path.read_bytes(), kind="application/octet-stream")
        yield Store("gs", {"STORAGE_EMULATOR_HOST": host, "NO_GCE_CHECK": "true"})


def post(address: str, body: bytes, *, kind: str = "application/json") -> None:
    asked = urllib.request.Request(address, data=body, headers={"Content-Type": kind}, method="POST")
    with urllib.request.urlopen(asked) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def azure(models) -> Iterator[Store]:
    if find_spec("adlfs") is None:
        pytest.skip("adlfs is not installed")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed")
    from azure.storage.blob import BlobServiceClient

    port = free_port()
    told = connection(port, KEY)
    quiet = ("--silent", "--disableTelemetry", "--skipApiVersionCheck")
    with server(port, program, "--inMemoryPersistence", "--blobPort", str(port), *quiet):
        with BlobServiceClient.from_connection_string(told) as client:
            client.create_container("registry")
            for path in models.iterdir():
                client.get_blob_client("registry", f"team/{path.name}").upload_blob(path.read_bytes())
        yield Store("az", {"AZURE_STORAGE_CONNECTION_STRING": told})


def connection(port: int, key: str) -> str:
    host = f"http://127.0.0.1:{port}/{ACCOUNT}"
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={host};"


@pytest.fixture(params=["google", "azure"])
def store(request, monkeypatch) -> Iterator[Store]:
    found = request.getfixturevalue(request.param)
    for name, value in found.settings.items():
        monkeypatch.setenv(name, value)
    addresses._store.cache_clear()
    yield found
    addresses._store.cache_clear()


def rows(path: str = "t.jsonl") -> dict[str, dict]:
    return {row["path"]: row for row in map(json.loads, Path(path).read_text().splitlines())}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_bucket_is_inspected_as_a_folder_is(call, store, jobs):
    done = call("inspect", store.address("team"), *QUICK, "--jobs", jobs, "--table", "t.jsonl")
    assert done.code == 4, done.err
    assert {path: (row["verdict"], row["exit_code"]) for path, row in rows().items()} == {
        store.address("team/good.safetensors"): ("measured", 0),
        store.address("team/cut.safetensors"): ("not-evaluated", 3),
        store.address("team/hostile.pth"): ("unsafe", 4),
        store.address("team/weights"): ("skipped", None),
    }


def test_one_object_is_fetched_once(call, store):
    good = store.address("team/good.safetensors")
    done = call("inspect", good, *QUICK, "--json", "r.json")
    assert done.code == 0, done.err
    report = json.loads(Path("r.json").read_text())
    assert report["inputs"][0]["path"] == good
    assert f"{good} was fetched" in report["details"]["fetched"]
    assert "in the cache already" in call("inspect", good, *QUICK).err


def test_what_is_not_there_stops_no_other(call, store):
    nowhere = f"{store.scheme}://nowhere/no.pth"
    for address in (store.address("team/no.pth"), nowhere):
        one_sentence(call("inspect", address, *QUICK), 2, f"{address} does not exist")
    words = (store.address("team/no.pth"), store.address("team/good.safetensors"))
    assert call("inspect", *words, *QUICK, "--jobs", "1", "--table", "t.jsonl").code == 2
    assert [row["exit_code"] for row in rows().values()] == [0, 2]


def test_another_key_of_azure(call, azure, monkeypatch):
    told = azure.settings["AZURE_STORAGE_CONNECTION_STRING"].replace(KEY, f"{KEY[:3]}9{KEY[4:]}")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", told)
    addresses._store.cache_clear()
    one_sentence(call("inspect", azure.address("team/good.safetensors"), *QUICK), 3, "may not be read")
    one_sentence(call("inspect", azure.address("team"), *QUICK), 3, "may not be read")
    addresses._store.cache_clear()


@pytest.mark.skipif(find_spec("adlfs") is None, reason="adlfs is not installed")
def test_no_account_of_azure(call, monkeypatch):
    for name in list(os.environ):
        if name.startswith("AZURE_STORAGE"):
            monkeypatch.delenv(name)
    addresses._store.cache_clear()
    one_sentence(call("inspect", "az://registry/x.pth", *QUICK), 3, "needs credentials")
    addresses._store.cache_clear()


@pytest.mark.skipif(find_spec("gcsfs") is None, reason="gcsfs is not installed")
@pytest.mark.parametrize(
    ("status", "said"), [(401, "may not be read"), (403, "may not be read"), (400, "cannot be read")]
)
def test_google_refuses(call, tmp_path, monkeypatch, status, said):
    with serving(tmp_path) as served:
        served.statuses |= dict.fromkeys(("/storage/v1/b/registry/o/x.pth", "/storage/v1/b/registry/o"), status)
        for name, value in {"STORAGE_EMULATOR_HOST": served.address, "NO_GCE_CHECK": "true"}.items():
            monkeypatch.setenv(name, value)
        addresses._store.cache_clear()
        one_sentence(call("inspect", "gs://registry/x.pth", *QUICK), 3, said)
        addresses._store.cache_clear()

"""Commands on models in a bucket of S3, and on the web: each as it would be here, and one that fails stops no other."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.caches import cache_folder
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.zoos import addresses
from sau_cli.commands.outputs import purified_name
from tests.cli.conftest import one_sentence
from tests.support.files import hostile_zip
from tests.support.http_server import serving
from tests.support.toys import describe

pytest.importorskip("aiohttp", reason="aiohttp is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
QUICK = ("--effort", "quick")


@pytest.fixture
def models(tmp_path) -> Path:
    """A good model, one cut short, one with code, and what is none."""
    folder = tmp_path / "there"
    folder.mkdir()
    torch.manual_seed(0)
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    save_classifier(folder / "good.safetensors", classifier, classifier.description, force=False)
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-10])
    hostile_zip(folder)
    (folder / "readme.md").write_text("ours")
    (folder / "weights").write_text("?")
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server of S3 on this machine, and a client of it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    key = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **key)
    client.create_bucket(Bucket="registry")
    yield client
    server.stop()


@pytest.fixture
def bucket(s3, models, monkeypatch) -> Iterator[Any]:
    """``s3://registry/team`` with the models in it."""
    settings = {"ENDPOINT_URL": s3.meta.endpoint_url, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
    for name, value in {**settings, "DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    addresses._store.cache_clear()
    for path in models.iterdir():
        s3.upload_file(str(path), "registry", f"team/{path.name}")
    yield s3
    addresses._store.cache_clear()


def rows(path: str = "t.jsonl") -> dict[str, dict]:
    return {row["path"]: row for row in map(json.loads, Path(path).read_text().splitlines())}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_bucket_is_inspected_as_a_folder_is(call, bucket, jobs):
    done = call("inspect", "s3://registry/team", *QUICK, "--jobs", jobs, "--table", "t.jsonl", "--report", "r.sarif")
    assert done.code == 4, done.err
    assert {path: (row["verdict"], row["exit_code"]) for path, row in rows().items()} == {
        "s3://registry/team/good.safetensors": ("measured", 0),
        "s3://registry/team/cut.safetensors": ("not-evaluated", 3),
        "s3://registry/team/hostile.pth": ("unsafe", 4),
        "s3://registry/team/weights": ("skipped", None),
    }
    assert "3 models under s3://registry/team: 1 measured, 1 unsafe, 1 not-evaluated" in done.err
    results = json.loads(Path("r.sarif").read_text())["runs"][0]["results"]
    places = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results}
    assert places == rows().keys()


def test_one_object_says_what_was_fetched_and_is_not_fetched_again(call, bucket):
    done = call("inspect", "s3://registry/team/good.safetensors", *QUICK, "--json", "r.json")
    assert done.code == 0, done.err
    report = json.loads(Path("r.json").read_text())
    assert report["inputs"][0]["path"] == "s3://registry/team/good.safetensors"
    assert "s3://registry/team/good.safetensors was fetched" in report["details"]["fetched"]
    assert report["details"]["fetched"] in done.err.replace("\n", "")
    done = call("inspect", "s3://registry/team/good.safetensors", *QUICK)
    assert "in the cache already" in done.err


def test_what_is_not_there_or_must_not_be_read_stops_no_other(call, bucket, s3):
    one_sentence(call("inspect", "s3://registry/team/no.pth", *QUICK), 2, "s3://registry/team/no.pth does not exist")
    one_sentence(call("inspect", "s3://nowhere/no.pth", *QUICK), 2, "s3://nowhere/no.pth does not exist")
    words = ("s3://registry/team/no.pth", "http://127.0.0.1:9/x.pth", "s3://registry/team/good.safetensors")
    done = call("inspect", *words, *QUICK, "--jobs", "1", "--table", "t.jsonl")
    assert done.code == 3
    assert [row["exit_code"] for row in rows().values()] == [3, 0, 2]
    assert "cannot be reached" in rows()["http://127.0.0.1:9/x.pth"]["finding"]


def let_pass(s3: Any, requests: int) -> None:
    """So many more requests without the right to make them."""
    reset, plain = f"{s3.meta.endpoint_url}/moto-api/reset-auth", {"Content-Type": "text/plain"}
    asked = urllib.request.Request(reset, data=str(requests).encode(), headers=plain, method="POST")
    with urllib.request.urlopen(asked) as answer:
        assert answer.status == 200


def test_a_bucket_without_permission(call, bucket, s3, monkeypatch):
    try:
        let_pass(s3, 0)
        one_sentence(call("inspect", "s3://registry/team/good.safetensors", *QUICK), 3, "may not be read")
        one_sentence(call("inspect", "s3://registry/team", *QUICK), 3, "may not be read")
    finally:
        let_pass(s3, 1_000_000)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    addresses._store.cache_clear()
    one_sentence(call("inspect", "s3://registry/team/good.safetensors", *QUICK), 3, "needs credentials")


def test_an_object_that_changes_while_it_is_read(call, bucket, monkeypatch):
    from sau_adapters.zoos import fetched

    before = fetched._stream

    def changed(remote):
        bucket.put_object(Bucket="registry", Key="team/good.safetensors", Body=b"another")
        return before(remote)

    monkeypatch.setattr(fetched, "_stream", changed)
    one_sentence(call("inspect", "s3://registry/team/good.safetensors", *QUICK), 3, "was changed while it was read")
    assert [file.name for file in (cache_folder() / "models").iterdir()] == ["locks"]


def test_other_commands_take_an_address_too(call, planted, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(planted / "bad.safetensors", folder)
    with serving(folder) as served:
        model = f"{served.address}/bad.safetensors"
        done = call("evaluate", model, "--data", "digits", "--json", "r.json")
        assert done.code == 0, done.err
        report = json.loads(Path("r.json").read_text())
        assert report["inputs"][0]["path"] == model
        assert f"{model} was fetched" in report["details"]["fetched"]
        short = ("--recipe", "paper", "--epochs", "1", "--clean-frac", "0.05", "--device", "cpu", "--json", "p.json")
        done = call("purify", f"{model}?key=hidden", *short)
        assert done.code in {0, 6}, done.err
        assert f"sau evaluate bad.purified.safetensors --reference {model} " in done.err.replace("\n", " ")
        assert "hidden" not in done.err + Path("p.json").read_text()
        done = call("export", model, "-o", "x.onnx", "--data", "digits")
        assert done.code == 0, done.err
        assert served.sent("/bad.safetensors") < 2 * (folder / "bad.safetensors").stat().st_size
        assert call("inspect", "x.onnx", *QUICK).code == 0
    assert purified_name(Path("https://host/a/bad.pth?x=1")) == Path("bad.purified.safetensors")

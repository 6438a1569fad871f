"""A registry of MLflow on this machine: versions are fetched and inspected, and tagged with what was found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from tests.support.files import hostile_zip
from tests.support.toys import describe

pytest.importorskip("mlflow", reason="mlflow is not installed")
pytestmark = pytest.mark.slow
QUICK = ("--effort", "quick", "--jobs", "1")
STARTS_WITHIN = 280
"""Seconds; a new data base takes most of them."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Iterator[dict[str, str]]:
    """What names a new registry to a process: its address in the environment."""
    place = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{found.getsockname()[1]}"
    words = ("server", "--backend-store-uri", f"sqlite:///{place}/db.sqlite", "--workers", "1")
    words = (*words, "--artifacts-destination", str(place / "artifacts"), "--port", address.rpartition(":")[2])
    settings = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (place / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], stdout=log, stderr=log, env=settings, start_new_session=True
        )
    try:
        began = time.monotonic()
        while not answers(address):
            assert server.poll() is None, (place / "log").read_text()
            assert time.monotonic() - began < STARTS_WITHIN, (place / "log").read_text()
            time.sleep(1)
        yield {"MLFLOW_TRACKING_URI": address, "MLFLOW_DISABLE_TELEMETRY": "true"}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def client(registry, tmp_path_factory) -> Any:
    """Of the registry, which has ``digits``: 1 is good, 2 has code in it, 3 is cut short, 4 has two models."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=registry["MLFLOW_TRACKING_URI"])
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    good = folder / "good.safetensors"
    save_classifier(good, classifier, classifier.description, force=False)
    (folder / "cut.safetensors").write_bytes(good.read_bytes()[:-10])
    experiment = client.create_experiment("experiment")
    client.create_registered_model("digits")
    for files in ((good,), (hostile_zip(folder),), (folder / "cut.safetensors",), (good, folder / "cut.safetensors")):
        run = client.create_run(experiment).info.run_id
        for file in files:
            client.log_artifact(run, str(file), "model/data")
        client.create_model_version("digits", source=f"runs:/{run}/model", run_id=run)
    client.set_registered_model_alias("digits", "champion", "1")
    return client


def tags(client: Any, version: str) -> dict[str, str]:
    return dict(client.get_model_version("digits", version).tags)


def test_versions_are_inspected_and_tagged_with_what_was_found(sau, client, registry, tmp_path):
    client.set_model_version_tag("digits", "1", "sau.score", "0.9")  # of another run
    client.set_model_version_tag("digits", "1", "owner", "us")
    versions = [f"models:/digits/{number}" for number in (1, 2, 3)]
    run = {**registry, "SAU_CACHE_DIR": str(tmp_path / "cache")}
    done = sau("inspect", *versions, *QUICK, "--mlflow-tags", "--table", "t.csv", cwd=tmp_path, **run)
    assert done.code == 4, done.err
    good = tags(client, "1")
    assert (good["sau.verdict"], good["sau.exit_code"], good["owner"]) == ("measured", "0", "us")
    assert len(good["sau.sha256"]) == 64
    assert "sau.score" not in good
    assert tags(client, "2")["sau.verdict"] == "unsafe"
    assert "file.pickle-code" in tags(client, "2")["sau.finding"]
    assert (tags(client, "3")["sau.verdict"], tags(client, "3")["sau.exit_code"]) == ("not-evaluated", "3")
    assert not (tmp_path / "was-run").exists()
    assert "models:/digits/2" in (tmp_path / "t.csv").read_text()
    done = sau("inspect", "models:/digits@champion", *QUICK, "--json", "r.json", cwd=tmp_path, **run)
    assert done.code == 0, done.err
    assert '"path": "models:/digits/1"' in (tmp_path / "r.json").read_text()
    assert "models:/digits/1 is in the cache" in done.err


def test_a_model_with_data_has_its_figures_as_tags(sau, client, registry, planted, tmp_path):
    run = client.create_run("1").info.run_id
    client.log_artifact(run, str(planted / "bad.safetensors"), "model")
    version = client.create_model_version("digits", source=f"runs:/{run}/model", run_id=run).version
    place = {**registry, "SAU_CACHE_DIR": str(tmp_path / "cache")}
    words = (
        "inspect",
        f"models:/digits/{version}",
        "--device",
        "cpu",
        "--skip-test",
        "easiest-change",
        "--mlflow-tags",
    )
    done = sau(*words, cwd=tmp_path, **place)
    found = tags(client, version)
    assert done.code == int(found["sau.exit_code"]), done.err
    assert float(found["sau.accuracy"]) > 0.9
    assert 0 < float(found["sau.score"]) < 1


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("models:/digits/77",), 2, "the registry has no models:/digits/77"),
        (("models:/nothing/1",), 2, "the registry has no models:/nothing/1"),
        (("models:/digits@nobody",), 2, "the registry has no models:/digits@nobody"),
        (("models:/digits",), 2, "give models:/NAME/VERSION or models:/NAME@ALIAS"),
        (("models:/digits/4",), 2, "models:/digits/4 has several models"),
        (("here.safetensors", "--mlflow-tags"), 2, "no such model is given"),
    ],
)
def test_what_is_not_in_the_registry_is_a_sentence(sau, client, registry, tmp_path, words, code, told):
    done = sau("inspect", *words, *QUICK, cwd=tmp_path, SAU_CACHE_DIR=str(tmp_path / "cache"), **registry)
    assert done.code == code, done.err
    assert told in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 1


def test_a_registry_that_is_not_there_or_not_named(sau, tmp_path):
    lost = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = sau("inspect", "models:/digits/1", *QUICK, cwd=tmp_path, **lost)
    assert done.code == 3, done.err
    assert "the registry cannot be asked for models:/digits/1" in done.err
    done = sau("inspect", "models:/digits/1", *QUICK, cwd=tmp_path)
    assert done.code == 2, done.err
    assert "set MLFLOW_TRACKING_URI" in done.err

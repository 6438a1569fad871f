"""Models of an MLflow registry: their files fetched, and what was found written back as tags of the version.

No code of a model is run: MLflow only fetches files here. The registry is that of ``MLFLOW_TRACKING_URI``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sau_adapters.zoos.addresses import NotReadable
from sau_adapters.zoos.fetched import Fetched, check_fits, fetched_with
from sau_cli.errors import NotEvaluable, SauError, UsageError, reason_of

PREFIX = "sau."
"""Of every tag."""
LAST_TAG = f"{PREFIX}verdict"
"""The tag that is taken away first and written last, so that it never stands beside figures of another run."""
_LONGEST = 1000
_SPEC = re.compile(r"models:/(?P<name>[^/@:]+)(/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))")
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""Else MLflow tells others of its use, shows bars, and waits for minutes for a host that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """A version of a model in the registry."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}"


def fetched_version(model: Path) -> Fetched:
    """Have the files of a registered version in the cache.

    Raises:
        UsageError: there is no such version, no registry is named, or it has no model or several.
        NotEvaluable: the registry refuses, or there is no way to it.
    """
    with _answering(model) as client:
        which = _version_of(client, model)
        found = client.get_model_version(which.name, which.version)
        uri = client.get_model_version_download_uri(which.name, which.version)
        sizes = _sizes(uri)
    check_fits(str(which), sum(sizes.values()))

    def fill(folder: Path) -> Path:
        from mlflow.artifacts import download_artifacts  # pyright: ignore[reportMissingImports]

        with _answering(model):
            place = Path(download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        return _only_model(which, place)

    key = f"{_registry()}\0{which}\0{found.creation_timestamp}\0{found.source}\0{sorted(sizes.items())}"
    return fetched_with(key, str(which), fill)


def write_tags(model: Path, tags: Mapping[str, object]) -> RegisteredVersion:
    """Write what was found as tags of a version, in place of those of an earlier run.

    Args:
        tags: by name without :data:`PREFIX`; ``verdict`` is one.

    Raises:
        UsageError, NotEvaluable: as :func:`fetched_version`.
    """
    told = {f"{PREFIX}{name}": str(value)[:_LONGEST] for name, value in tags.items() if value not in {None, ""}}
    with _answering(model) as client:
        which = _version_of(client, model)
        before = client.get_model_version(which.name, which.version).tags
        stale = [name for name in before if name.startswith(PREFIX) and name not in told]
        for name in sorted({LAST_TAG, *stale} & before.keys(), key=lambda name: name != LAST_TAG):
            client.delete_model_version_tag(which.name, which.version, name)
        for name in sorted(told, key=lambda name: name == LAST_TAG):
            client.set_model_version_tag(which.name, which.version, name, told[name])
    return which


def _version_of(client: Any, model: Path) -> RegisteredVersion:
    spec = _SPEC.fullmatch(str(model))
    if spec is None:
        raise UsageError(f"{model} is no name of a registered model; give models:/NAME/VERSION or models:/NAME@ALIAS")
    version = spec["version"]
    if version is None:
        version = str(client.get_model_version_by_alias(spec["name"], spec["alias"]).version)
    return RegisteredVersion(name=spec["name"], version=version)


def _sizes(uri: str) -> dict[str, int]:
    """Bytes of each file of a version, by its place."""
    from mlflow.artifacts import list_artifacts  # pyright: ignore[reportMissingImports]

    sizes: dict[str, int] = {}
    for artifact in list_artifacts(artifact_uri=uri):
        if artifact.is_dir:
            name = artifact.path.rpartition("/")[2]
            sizes |= {f"{name}/{path}": size for path, size in _sizes(f"{uri.rstrip('/')}/{name}").items()}
        else:
            sizes[artifact.path] = int(artifact.file_size or 0)
    return sizes


def _only_model(which: RegisteredVersion, place: Path) -> Path:
    from sau_adapters.zoos.search import models_at

    models = models_at([place]).models
    if len(models) == 1:
        return models[0]
    names = ", ".join(path.relative_to(place).as_posix() for path in models[:3])
    raise UsageError(f"{which} has several models ({names}); register a version with the weights of one alone")


def _registry() -> str:
    """Where the registry is, as MLflow's own variables tell."""
    told = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    if not told:
        raise UsageError("models:/ is of an MLflow registry, and none is named; set MLFLOW_TRACKING_URI to its address")
    return told


@contextmanager
def _answering(model: Path) -> Iterator[Any]:
    """A client of the registry; whatever goes wrong there is one sentence."""
    _registry()
    if find_spec("mlflow") is None:
        raise UsageError(f'{model} needs mlflow, which is not installed; pip install "sau-cli[mlflow]"')
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow  # pyright: ignore[reportMissingImports]

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        yield mlflow.MlflowClient()
    except (SauError, MemoryError):
        raise
    except Exception as error:
        raise _explained(model, error) from error


def _explained(model: Path, error: Exception) -> SauError:
    code = str(getattr(error, "error_code", ""))
    if code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
        return UsageError(f"the registry has no {model} ({_said(error)}); check name and version")
    if code in {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}:
        return NotReadable(f"the registry refuses {model} ({_said(error)}); ask for the right to it")
    return NotEvaluable(f"the registry cannot be asked for {model} ({_said(error)}); check MLFLOW_TRACKING_URI")


def _said(error: Exception) -> str:
    """The sentence of an error, without the code before it and without the request behind it."""
    return reason_of(error).removeprefix(f"{getattr(error, 'error_code', '')}: ").partition(" Response body")[0]

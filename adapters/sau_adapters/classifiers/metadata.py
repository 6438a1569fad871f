"""How a weights file describes its classifier: safetensors metadata, string to string. Needs no torch.

What a file says of itself is input from a stranger: it is parsed strictly, and never names code to
run or a path to open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sau_cli.description import Description, HistoryStep, InputSpec
from sau_cli.errors import NotEvaluable, UsageError, reason_of

METADATA_SCHEMA = "1"
DEEPEST_SETTING = 20
_DESCRIBED = ("schema", "architecture", "classes", "input", "mean", "std", "data", "history", "config")
KEYS = frozenset(["format", *(f"sau.{key}" for key in _DESCRIBED)])
"""What :func:`to_metadata` writes."""
_ARCHITECTURE_NAME = re.compile(
    r"(?:timm:|torchvision:|transformers:)?[A-Za-z0-9_.]{1,128}(?:\?[A-Za-z0-9_.=&%~-]{1,400})?"
    r"|user:[A-Za-z0-9_]{1,128}"
)


def to_metadata(description: Description) -> dict[str, str]:
    """The metadata of a weights file. ``format`` is what other safetensors readers look for."""
    spec = description.input
    metadata = {
        "format": "pt",
        "sau.schema": METADATA_SCHEMA,
        "sau.architecture": description.architecture,
        "sau.classes": json.dumps(description.class_names),
        "sau.input": json.dumps({"channels": spec.channels, "height": spec.height, "width": spec.width}),
        "sau.mean": json.dumps(spec.mean),
        "sau.std": json.dumps(spec.std),
        "sau.history": json.dumps([asdict(step) for step in description.history], sort_keys=True),
    }
    if description.data is not None:
        metadata["sau.data"] = description.data
    if description.config is not None:
        metadata["sau.config"] = json.dumps(description.config, sort_keys=True)
    return metadata


def from_metadata(metadata: Mapping[str, str]) -> Description | None:
    """The inverse of :func:`to_metadata`; None where the file has no ``sau.schema``.

    Raises:
        NotEvaluable: the metadata contradicts itself or its schema is of another version.
    """
    if "sau.schema" not in metadata:
        return None
    if metadata["sau.schema"] != METADATA_SCHEMA:
        raise NotEvaluable(
            f"the metadata has schema {metadata['sau.schema']!r} but this version reads {METADATA_SCHEMA}; update sau"
        )
    try:
        size = _json(metadata, "sau.input", dict)
        architecture = metadata["sau.architecture"]
        if not _ARCHITECTURE_NAME.fullmatch(architecture):
            raise ValueError("sau.architecture is not a name")
        names = _json(metadata, "sau.classes", list)
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError("sau.classes is not a list of different names")
        return Description(
            architecture=architecture,
            class_names=tuple(names),
            input=InputSpec(
                channels=_whole(size["channels"]),
                height=_whole(size["height"]),
                width=_whole(size["width"]),
                mean=tuple(float(value) for value in _json(metadata, "sau.mean", list)),
                std=tuple(float(value) for value in _json(metadata, "sau.std", list)),
            ),
            data=metadata.get("sau.data"),
            history=tuple(_step(step) for step in _json(metadata, "sau.history", list)),
            config=_config(metadata),
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError, UsageError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else reason_of(error)
        raise NotEvaluable(f"the metadata of sau in this file is damaged ({reason}); ask for an intact file") from error


def _json(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    value = json.loads(metadata[key])
    json.dumps(value, ensure_ascii=False).encode()  # half a character, which no report could be written with
    if not isinstance(value, kind):
        raise TypeError(f"{key} is not a {kind.__name__}")
    return value


def _config(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    config: dict[str, Any] | None = _json(metadata, "sau.config", dict) if "sau.config" in metadata else None
    if _depth(config) > DEEPEST_SETTING:
        raise ValueError("sau.config is nested too deep")
    return config


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100_000:
        raise ValueError(f"an input size of {value!r} is impossible")
    return value


def _step(step: Mapping[str, Any]) -> HistoryStep:
    sha256 = step["input_sha256"]
    settings = dict(step["settings"])
    if _depth(settings) > DEEPEST_SETTING:
        raise ValueError("sau.history is nested too deep")
    return HistoryStep(
        step=str(step["step"]),
        settings=settings,
        seed=int(step["seed"]),
        input_sha256=None if sha256 is None else str(sha256),
        tool_version=str(step["tool_version"]),
    )


def _depth(value: object) -> int:
    """How deep lists and dicts are nested; no deeper than one past DEEPEST_SETTING is looked."""
    depth, layer = 0, [value]
    while layer and depth <= DEEPEST_SETTING:
        below = [
            inner.values() if isinstance(inner, dict) else inner for inner in layer if isinstance(inner, dict | list)
        ]
        layer = [inner for inside in below for inner in inside]
        depth += 1
    return depth

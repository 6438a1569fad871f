"""A folder with a model in it, as timm and the hub's cache keep one: the weights, and a config.json. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sau_adapters.files import shortened
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, SauError, UsageError

SAFETENSORS, INDEX, ONNX_WITHIN = "model.safetensors", "model.safetensors.index.json", "onnx/model.onnx"
WEIGHTS = (SAFETENSORS, INDEX, "pytorch_model.bin", "model.pt", "model.pth", "saved_model.pb")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".onnx", ".keras", ".h5", ".hdf5")
LONGEST_CONFIG, LARGEST = 1_000_000, 100_000
"""Bytes of a configuration, and the most classes or pixels on a side that one can tell."""


def weights_in(path: Path) -> Path:
    """The file of weights: ``path`` itself, or that in the folder ``path``.

    Raises:
        UsageError: the folder has none, or several that could be meant.
    """
    try:
        if not path.is_dir():
            return path
    except OSError as error:
        raise UsageError(f"{shortened(path)} cannot be opened ({error.strerror}); give a shorter path") from error
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    files = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and one.is_file())
    files = [one for one in files if not one.name.endswith((".trigger.safetensors", ".resume.safetensors"))]
    others = [one for one in files if one.suffix == ".safetensors"] or files
    if len(others) == 1:
        return others[0]
    found = f"several ({', '.join(one.name for one in others[:3])})" if others else "none"
    raise UsageError(f"{path} is a folder, and of model files it has {found}; give the file itself")


def described_beside(weights: Path) -> Description | None:
    """What a timm ``config.json`` beside the weights says of the classifier; None where there is none of timm's.

    Raises:
        NotEvaluable: it is damaged, or contradicts itself.
    """
    config = weights.with_name("config.json")
    if not config.is_file() or config.stat().st_size > LONGEST_CONFIG:
        return None
    try:
        told = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or "architecture" not in told:
        return None
    try:
        return described_by(told)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, SauError) as error:
        raise NotEvaluable(
            f"{config} describes no classifier that can be built ({error}); move it away and give --arch"
        ) from error


def described_by(told: Mapping[str, Any]) -> Description:
    """What timm's configuration of a model says of the classifier; a damaged one raises nearly anything.

    Raises:
        ValueError: the model was made with arguments, so that its name is not all there is to it.
    """
    changed = sorted(set(told.get("model_args") or {}) - {"num_classes", "in_chans", "img_size", "pretrained"})
    if changed:
        raise ValueError(f"it was made with {', '.join(changed)[:200]}, which sau does not set")
    cfg = {**told, **told.get("pretrained_cfg", {})}
    channels, height, width = (int(size) for size in cfg["input_size"])
    classes = int(told.get("num_classes", cfg.get("num_classes", 0)))
    if not 0 < classes <= LARGEST or not all(0 < size <= LARGEST for size in (channels, height, width)):
        raise ValueError(f"{classes} classes of {channels}x{height}x{width} images are impossible")
    names = told.get("label_names", cfg.get("label_names"))
    architecture = str(told["architecture"]).partition(".")[0]
    if not architecture.replace("_", "").isalnum():
        raise ValueError(f"{architecture[:50]!r} is no name of an architecture")
    if not isinstance(names, list) or len(names) != classes or len({*map(str, names)}) != classes:
        names = [str(number) for number in range(classes)]
    return Description(
        architecture=f"timm:{architecture}",
        class_names=tuple(map(str, names)),
        input=InputSpec(
            channels=channels,
            height=height,
            width=width,
            mean=tuple(float(value) for value in cfg["mean"]),
            std=tuple(float(value) for value in cfg["std"]),
        ),
    )

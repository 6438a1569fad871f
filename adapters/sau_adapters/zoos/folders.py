"""A folder with a model in it, as timm and the hub's cache keep one: the weights, and a config.json. Needs no torch."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sau_adapters.architectures.arguments import with_arguments
from sau_adapters.files import ESCAPE, is_blob_of, shortened
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, SauError, UnsafeFile, UsageError, argument

SAFETENSORS, INDEX, ONNX_WITHIN = "model.safetensors", "model.safetensors.index.json", "onnx/model.onnx"
WEIGHTS = (SAFETENSORS, INDEX, "pytorch_model.bin", "model.pt", "model.pth", "saved_model.pb")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".onnx", ".keras", ".h5", ".hdf5")
LONGEST_CONFIG, MOST_TOLD = 1_000_000, 100_000
"""Bytes of a configuration, and the most classes or pixels on a side that one can tell."""


def weights_in(path: Path) -> Path:
    """The file of weights: ``path`` itself, or that in the folder ``path``.

    Raises:
        UsageError: the folder has none, or several that could be meant.
        UnsafeFile: it is a link out of the folder, and not into the hub's cache.
    """
    try:
        if not path.is_dir():
            return path
    except OSError as error:
        raise UsageError(f"{shortened(path)} cannot be opened ({error.strerror}); give a shorter path") from error
    found = _file_in(path)
    if leads_out(found, path):
        raise UnsafeFile(
            f"{found} is a link out of its folder; give the file itself, if that is what you mean", finding=ESCAPE
        )
    return found


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a file is a link that leads out of a folder that it is in, but for those of the hub's cache."""
    if not file.is_symlink():
        return False
    target = Path(os.path.realpath(file))
    return folder.resolve() not in target.parents and not is_blob_of(file.parent, target)


def _file_in(path: Path) -> Path:
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    files = [file for file in files if not file.name.endswith((".trigger.safetensors", ".resume.safetensors"))]
    others = [file for file in files if file.suffix == ".safetensors"] or files
    if len(others) == 1:
        return others[0]
    found = f"several ({', '.join(file.name for file in others[:3])})" if others else "none"
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
            f"{config} describes no classifier that can be built ({error}); move it away and give "
            f"{argument('architecture')}"
        ) from error


def described_by(told: Mapping[str, Any]) -> Description:
    """What timm's configuration of a model says of the classifier; a damaged one raises nearly anything.

    Raises:
        ValueError: it contradicts itself, or its name is not all there is to the network and the rest is not plain.
    """
    cfg = {**told, **told.get("pretrained_cfg", {})}
    made_with = dict(told.get("model_args") or {})
    channels, height, width = (int(size) for size in cfg["input_size"])
    channels = int(made_with.get("in_chans", channels))
    if made_with.get("img_size") is not None:
        size = made_with["img_size"]
        height, width = (int(side) for side in (size if isinstance(size, list) else (size, size)))
    classes = int(told.get("num_classes", made_with.get("num_classes", cfg.get("num_classes", 0))))
    if not 0 < classes <= MOST_TOLD or not all(0 < size <= MOST_TOLD for size in (channels, height, width)):
        raise ValueError(f"{classes} classes of {channels}x{height}x{width} images are impossible")
    architecture = str(told["architecture"]).partition(".")[0]
    if not architecture.replace("_", "").isalnum():
        raise ValueError(f"{architecture[:50]!r} is no name of an architecture")
    mean, std = (_for_channels([float(value) for value in cfg[name]], channels) for name in ("mean", "std"))
    return Description(
        architecture=with_arguments(f"timm:{architecture}", made_with),
        class_names=class_names_of({**told.get("pretrained_cfg", {}), **told}, classes),
        input=InputSpec(channels=channels, height=height, width=width, mean=mean, std=std),
    )


def _for_channels(values: list[float], channels: int) -> tuple[float, ...]:
    """One value a channel; where there are others, their mean for each, as timm does."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _described_names(descriptions: object, classes: int) -> list[Any] | dict[Any, Any]:
    """The names in what timm keeps to describe classes, where nothing else names them; nothing where it is no such.

    A list of descriptions, one a class; a dict of them by number; or by name, in the order of the classes.
    """
    if isinstance(descriptions, list) and len(descriptions) == classes:
        return descriptions
    if isinstance(descriptions, dict) and descriptions:
        numbered = all(str(key).isdecimal() for key in descriptions)
        if numbered:
            return descriptions
        if len(descriptions) == classes:
            return list(descriptions)
    return []


def class_names_of(told: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of a model's classes, in the order of its outputs: in any form that timm or transformers writes.

    A list; a dict of numbers to names, with gaps or without; one of names to numbers. Numbers stand for classes that
    nothing names, and beside a name that several have.

    >>> class_names_of({"label_names": {"1": "crack", "0": "weld"}}, 3)
    ('weld', 'crack', '2')
    >>> class_names_of({"label2id": {"dog": 1, "cat": 0}}, 2)
    ('cat', 'dog')
    >>> class_names_of({"label_descriptions": {"n01440764": "tench", "n01443537": "goldfish"}}, 2)
    ('n01440764', 'n01443537')

    Raises:
        ValueError: names that cannot be these classes'.
    """
    given: Any = next((told[key] for key in ("label_names", "id2label", "labels", "label2id") if told.get(key)), [])
    if not given:
        given = _described_names(told.get("label_descriptions"), classes)
    if isinstance(given, list):
        if given and len(given) != classes:
            raise ValueError(f"it names {len(given)} classes, and has {classes}")
        numbered = dict(enumerate(map(str, given)))
    elif all(isinstance(number, int) and not isinstance(number, bool) for number in given.values()):
        numbered = {number: str(name) for name, number in given.items()}
    else:
        numbered = {int(number): str(name) for number, name in given.items()}
    strange = [number for number in numbered if not 0 <= number < classes]
    if strange or (isinstance(given, dict) and len(numbered) != len(given)):
        raise ValueError(f"its names of classes are no names of {classes} classes")
    names = [numbered.get(number, str(number)) for number in range(classes)]
    several = {name for name, count in Counter(names).items() if count > 1}
    return tuple(f"{name} ({number})" if name in several else name for number, name in enumerate(names))

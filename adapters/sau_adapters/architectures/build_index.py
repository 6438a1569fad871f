"""Make the index of architectures again: every classifier of timm, torchvision and ours, built without memory where
their code allows.

Run with ``python -m sau_adapters.architectures.build_index``; it takes some minutes. Each network is built for two
class counts, two channel counts and two image sizes: where a shape differs, it depends on that.
"""

from __future__ import annotations

import gzip
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import timm
import torch
from torchvision import models

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS, PIXELS
from sau_adapters.architectures.index import INDEX_FILE, body_hash, names_hash, relevant, sketch
from sau_adapters.architectures.networks import build
from sau_adapters.architectures.state_names import Shapes
from sau_cli.description import InputSpec


def every_name() -> Iterator[tuple[str, int]]:
    """Canonical names, and the pixels on a side that each is made for."""
    for name in CIFAR_NETWORKS:
        yield name, PIXELS.get(name, 32)
    for name in timm.list_models():
        told = timm.get_pretrained_cfg(name)
        yield f"timm:{name}", told.input_size[-1] if told else 224
    for name in models.list_models(module=models):
        yield f"torchvision:{name}", 299 if name == "inception_v3" else 224


def shapes_of(name: str, *, classes: int = 11, channels: int = 3, pixels: int) -> Shapes | None:
    """Of a network's tensors; None where it cannot be built so."""
    spec = InputSpec(channels=channels, height=pixels, width=pixels, mean=(0.0,) * channels, std=(1.0,) * channels)
    for device in ("meta", "cpu"):  # the second for code that needs values while it builds
        try:
            with torch.device(device):
                state = build(name, classes=classes, spec=spec).state_dict()
        except Exception:  # a zoo raises nearly anything
            continue
        return relevant({key: tuple(tensor.shape) for key, tensor in state.items()})
    return None


def entry_of(name: str, pixels: int) -> dict[str, Any] | None:
    """What the index says of an architecture; None where it cannot be built."""
    own = shapes_of(name, pixels=pixels)
    if own is None:
        return None
    others = {
        "classes": shapes_of(name, pixels=pixels, classes=13),
        "channels": shapes_of(name, pixels=pixels, channels=4),
        "size": shapes_of(name, pixels=2 * pixels),
    }
    entry: dict[str, Any] = {"names": names_hash(own), "pixels": pixels, "sketch": sketch(own)}
    seen: set[str] = set()
    for kind, other in others.items():
        if other is None:
            continue
        if kind != "size" and other.keys() != own.keys():
            continue
        changed = [key for key in own if key in other and own[key] != other[key] and key not in seen]
        seen |= set(changed)
        if kind == "size":
            entry[kind] = [[key, own[key]] for key in changed]
        else:
            entry[kind] = [
                [
                    key,
                    [
                        None if size != other_size else size
                        for size, other_size in zip(own[key], other[key], strict=True)
                    ],
                ]
                for key in changed
            ]
    if not entry.get("channels"):
        entry["takes"] = 3
    entry["body"] = body_hash(own, seen)
    return {key: value for key, value in entry.items() if value != []}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    architectures, left_out = {}, []
    for name, pixels in every_name():
        entry = entry_of(name, pixels)
        if entry is None:
            left_out.append(name)
        else:
            architectures[name] = entry
        print(f"\r{len(architectures)} architectures, {len(left_out)} left out", end="", file=sys.stderr, flush=True)
    made_with = {package: version(package) for package in ("timm", "torchvision")}
    document = json.dumps({"made_with": made_with, "left_out": left_out, "architectures": architectures})
    INDEX_FILE.write_bytes(gzip.compress(document.encode(), mtime=0))
    print(f"\nleft out, as they cannot be built: {', '.join(left_out) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()

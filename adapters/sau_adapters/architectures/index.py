"""Which architecture a file's tensors are of, by their names and shapes alone. Needs no torch.

The index beside this file knows every classifier of timm, torchvision and ours; it is made again by
``python -m sau_adapters.architectures.build_index`` when one of them changes. Tensors are never matched by position.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sau_adapters.architectures.state_names import Prefix, Shapes, is_irrelevant, namings
from sau_cli.inspection.file_facts import FittingArchitecture, NearArchitecture, Recognition

INDEX_FILE = Path(__file__).with_name("index.json.gz")
SKETCH = 48
"""Smallest hashes kept of an architecture's tensors, to tell how much of them it has in common with a file."""


def recognised(shapes: Shapes) -> Recognition:
    """The architecture of a file's tensors, in the plainest way to read their names that fits one.

    Args:
        shapes: of the tensors, by name.
    """
    near: list[tuple[NearArchitecture, Prefix]] = []
    for naming in namings(shapes):
        bare = naming.applied(shapes)
        found = fitting(bare)
        if found:
            return Recognition(prefix=naming.prefix, names=naming.names, told=naming.told, fitting=found, nearest=())
        if not naming.told:
            near += [(architecture, naming.prefix) for architecture in nearest(bare)]
    near.sort(key=lambda pair: -pair[0].share)
    return Recognition(
        prefix=near[0][1] if near else (), fitting=(), nearest=tuple(architecture for architecture, _ in near[:3])
    )


def fitting(shapes: Shapes) -> tuple[FittingArchitecture, ...]:
    """The architectures that fit, best first: ours before timm's before torchvision's, short names first.

    Args:
        shapes: of the file's tensors, by name.
    """
    told = relevant(shapes)
    found = []
    for name in _index()["by_names"].get(names_hash(told), ()):
        entry = _index()["architectures"][name]
        varying = {key for kind in ("classes", "channels", "size") for key, _ in entry.get(kind, ())}
        if body_hash(told, varying) != entry["body"] or not _varying_fits(told, entry):
            continue
        classes, channels = (_count(told, entry.get(kind, ())) for kind in ("classes", "channels"))
        same_size = all(told[key] == tuple(shape) for key, shape in entry.get("size", ()))
        size = entry.get("pixels") if entry.get("size") and same_size else None
        found.append(
            FittingArchitecture(name=name, classes=classes, channels=channels or entry.get("takes"), size=size)
        )
    return tuple(sorted(found, key=lambda match: (match.name.count(":"), match.name.split(":")[0], len(match.name))))


def nearest(shapes: Shapes, *, count: int = 3) -> tuple[NearArchitecture, ...]:
    """The architectures with most tensors in common, best first; none that has nothing."""
    own = sketch(relevant(shapes))
    if not own:
        return ()
    found = []
    for name, entry in _index()["architectures"].items():
        other = entry["sketch"]
        smallest = sorted({*own, *other})[:SKETCH]
        common = set(own) & set(other)
        share = sum(value in common for value in smallest) / len(smallest)
        if share > 0:
            found.append(NearArchitecture(name=name, share=share))
    return tuple(sorted(found, key=lambda near: (-near.share, len(near.name)))[:count])


def known_architectures() -> tuple[str, ...]:
    """The canonical names in the index."""
    return tuple(_index()["architectures"])


def relevant(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Without counters, which older files lack, and others have of their own."""
    return {name: tuple(shape) for name, shape in shapes.items() if not is_irrelevant(name)}


def names_hash(shapes: Shapes) -> str:
    """Of the tensors' names, whatever their order."""
    return _hash(sorted(shapes))


def body_hash(shapes: Shapes, varying: Iterable[str]) -> str:
    """Of names and shapes, but for the tensors whose shape depends on classes, channels or image size."""
    left_out = set(varying)
    return _hash(f"{name}{list(shape)}" for name, shape in sorted(shapes.items()) if name not in left_out)


def sketch(shapes: Shapes) -> list[int]:
    """The smallest hashes of names and shapes: two of these tell how alike the sets are (bottom-k sketches)."""
    return sorted({int(_hash([f"{name}{list(shape)}"])[:8], 16) for name, shape in shapes.items()})[:SKETCH]


def _varying_fits(told: Shapes, entry: Mapping[str, Any]) -> bool:
    """Whether the tensors that depend on a count have the right shape but for it, and agree on it."""
    for kind in ("classes", "channels"):
        counts = set()
        for key, shape in entry.get(kind, ()):
            if len(told[key]) != len(shape):
                return False
            for ours, theirs in zip(told[key], shape, strict=True):
                if theirs is None:
                    counts.add(ours)
                elif ours != theirs:
                    return False
        if len(counts) > 1:
            return False
    return all(len(told[key]) == len(shape) for key, shape in entry.get("size", ()))


def _count(told: Shapes, varying: Iterable[tuple[str, list[int | None]]]) -> int | None:
    for key, shape in varying:
        for ours, theirs in zip(told[key], shape, strict=True):
            if theirs is None:
                return ours
    return None


def _hash(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


@cache
def _index() -> dict[str, Any]:
    with gzip.open(INDEX_FILE, "rt", encoding="utf-8") as file:
        index: dict[str, Any] = json.load(file)
    by_names: dict[str, list[str]] = {}
    for name, entry in index["architectures"].items():
        by_names.setdefault(entry["names"], []).append(name)
    return index | {"by_names": by_names}

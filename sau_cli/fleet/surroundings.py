"""What a result comes from beside its input: the code of sau, Python and the packages."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sau_cli import __version__

PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "safetensors", "onnx", "onnxruntime", "onnx2pytorch", "numpy"),
    *("pillow", "scikit-learn", "scipy", "h5py", "model-signing"),
)


@lru_cache(maxsize=1)
def surroundings() -> dict[str, str | None]:
    """By name, what two processes must have in common to come to the same; None for a package that is not there."""
    found: dict[str, str | None] = {"sau": __version__, "code of sau": _code(), "Python": platform.python_version()}
    found["kind of machine"] = f"{sys.platform} {platform.machine()}"
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def difference(ours: dict[str, str | None]) -> str:
    """What is other in this process than in that which asks, as that one sees it; nothing where all is the same."""
    for name, own in surroundings().items():
        if ours.get(name) != own:
            there, here = (str(value or "none")[:12] for value in (own, ours.get(name)))
            return f"{name} is {there} there, {here} here"
    return ""


def _code() -> str:
    """SHA-256 of all files of the packages of sau, with its calibration."""
    digest = hashlib.sha256()
    for package in ("sau_cli", "sau_adapters"):
        spec = find_spec(package)
        root = Path(spec.origin).parent if spec and spec.origin else Path(__file__).parent
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix not in {".pyc", ".pyo"}:
                content = path.read_bytes()
                digest.update(f"{package}/{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()

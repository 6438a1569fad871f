"""Where results go."""

from __future__ import annotations

from pathlib import Path

from sau_adapters.files import check_writable
from sau_cli.errors import UsageError


def weights_output(path: Path, *, force: bool) -> None:
    """Raises UsageError unless ``path`` is a .safetensors that can be written."""
    if path.suffix != ".safetensors":
        raise UsageError(f"-o {path}: weights are written as safetensors; give a name that ends in .safetensors")
    check_writable(path, force=force)


def purified_name(model: Path) -> Path:
    """``model.purified.safetensors`` beside ``model.safetensors`` (or ``model.pt``, ``model.pth.tar``, ...)."""
    stem = Path(model.name.removesuffix(".tar")).stem
    return model.with_name(f"{stem}.purified.safetensors")


def state_path(weights: Path) -> Path:
    """Where the run that is to write ``NAME.safetensors`` keeps its state: ``NAME.resume.safetensors``."""
    return weights.with_name(f"{weights.name.removesuffix('.safetensors')}.resume.safetensors")

"""Where results go."""

from __future__ import annotations

from pathlib import Path

from sau_adapters.zoos.addresses import bare_name_of, is_address, is_registered
from sau_adapters.zoos.folders import SUFFIXES
from sau_adapters.zoos.names import bare_name, is_zoo_name, parted_spec
from sau_cli.errors import UsageError


def check_weights_name(path: Path, *, suffix: str = ".safetensors") -> None:
    """Raises UsageError unless ``path`` is named as safetensors are, or as what else is to be written.

    Args:
        suffix: nothing for a folder, which may have any name.
    """
    if suffix and path.suffix != suffix:
        form = "ONNX" if suffix == ".onnx" else "safetensors"
        raise UsageError(f"-o {path}: this is written as {form}; give a name that ends in {suffix}")


def purified_name(model: Path, *, suffix: str = ".safetensors") -> Path:
    """``model.purified.safetensors`` beside ``model.safetensors`` (or ``model.pt``, ``model.pth.tar``, ...).

    In the working folder for a model that has a name in a zoo or an address. A folder where there is no suffix.
    """
    model, _ = parted_spec(model)
    if is_address(model) or is_registered(model):
        model = Path(bare_name_of(model))
    if is_zoo_name(model):
        return Path(f"{bare_name(model)}.purified{suffix}")
    if model.name in {"", ".."}:  # the folder that one is in, or above
        model = model.resolve()
    if not suffix:
        return model.with_name(f"{model.name}.purified")
    stem = Path(model.name.removesuffix(".tar").removesuffix(".index.json")).stem
    return model.with_name(f"{stem}.purified{suffix}")


def trigger_paths(weights: Path, count: int) -> tuple[Path, ...]:
    """Where ``sau attack -o NAME.safetensors`` puts its triggers, beside it.

    ``NAME.trigger.safetensors``; ``NAME.1.trigger.safetensors`` and so on where there are several.
    """
    stem = _stem(weights)
    if count == 1:
        return (weights.with_name(f"{stem}.trigger.safetensors"),)
    return tuple(weights.with_name(f"{stem}.{number}.trigger.safetensors") for number in range(1, count + 1))


def state_path(weights: Path) -> Path:
    """Where the run that is to write ``NAME.safetensors`` keeps its state: ``NAME.resume.safetensors``."""
    return weights.with_name(f"{_stem(weights)}.resume.safetensors")


def _stem(weights: Path) -> str:
    """Of a file its name without the end; of a folder all of it."""
    return weights.stem if weights.suffix in SUFFIXES else weights.name


def check_state_place(state_file: Path, *, resume: bool, force: bool) -> None:
    """Raises UsageError where the state of a run would replace another one's, or what is no state of a run."""
    if not state_file.exists():
        return
    from sau_adapters.run_states import may_be_state

    if not may_be_state(state_file):
        raise UsageError(
            f"{state_file}, where the state of the run is kept, holds something else; give another name with -o"
        )
    if not (resume or force):
        raise UsageError(
            f"{state_file} holds an interrupted run; add --resume to go on from there, or --force to start over"
        )


def check_not_input(model: Path, out: Path) -> None:
    """Raises UsageError where the result would replace the model that it is made of, whatever --force says."""
    model, _ = parted_spec(model)
    if out.exists() and model.exists() and out.samefile(model):
        raise UsageError(f"-o {out} is the model itself, which nothing replaces; give another name with -o")

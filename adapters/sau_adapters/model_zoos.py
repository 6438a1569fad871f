"""Models by the name they have in a zoo, where this machine already has them: nothing is fetched here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sau_adapters.model_folders import WEIGHTS, described_by, weights_in
from sau_adapters.tables import INNER_TRANSFORM, transformed_within
from sau_cli.description import Description, InputSpec
from sau_cli.errors import UsageError

ZOOS = ("timm:", "torchvision:", "hf-hub:")


def is_zoo_name(model: Path) -> bool:
    """Whether MODEL is ``timm:NAME``, ``torchvision:NAME`` or ``hf-hub:ORG/NAME``."""
    return str(model).startswith(ZOOS) and not model.exists()


def bare_name(model: Path) -> str:
    """The last part of a zoo's name, to name a file after.

    >>> bare_name(Path("hf-hub:timm/resnet18.a1_in1k"))
    'resnet18.a1_in1k'
    """
    return str(model).partition(":")[2].rpartition("/")[2]


def weights_of(model: Path) -> Path:
    """The file of weights that MODEL is: that in a folder, that in the cache of a zoo, or itself.

    Raises:
        UsageError: a zoo has no such model or its cache has it not, and the sentence says how to get it; or as
            :func:`sau_adapters.model_folders.weights_in`.
    """
    if not is_zoo_name(model):
        return weights_in(model)
    zoo, _, name = str(model).partition(":")
    match zoo:
        case "hf-hub":
            return _in_hub_cache(model, name.partition("@")[0], WEIGHTS)
        case "timm":
            cfg = _timm_cfg(name)
            if not cfg.get("hf_hub_id"):
                raise UsageError(f"timm has no weights on the hub for {name}; save them and give the file")
            return _in_hub_cache(model, cfg["hf_hub_id"], (cfg.get("hf_hub_filename") or WEIGHTS[0], *WEIGHTS))
        case _:
            import torch

            weights = _torchvision_weights(name)
            path = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
            if not path.is_file():
                raise UsageError(
                    f"{model} is not in this machine's cache ({path.parent}), and nothing is fetched; get it with "
                    f"torchvision.models.get_model({name!r}, weights='DEFAULT')"
                )
            return path


def described_by_zoo(model: Path) -> Description | None:
    """What the zoo's own code says of a model that it names; None for what has no such name, and for ``hf-hub:``."""
    zoo, _, name = str(model).partition(":")
    if not is_zoo_name(model) or zoo == "hf-hub":
        return None
    if zoo == "timm":
        return described_by(_timm_cfg(name))
    weights = _torchvision_weights(name)
    shown = weights.transforms()
    names = tuple(weights.meta["categories"])
    if len(set(names)) != len(names):  # ImageNet has two cranes
        names = tuple(f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names))
    architecture, seen = f"torchvision:{name}", (tuple(shown.mean), tuple(shown.std))
    if architecture in INNER_TRANSFORM:  # which torchvision switches on with its own weights
        seen = transformed_within(seen)
    size = shown.crop_size[0]
    return Description(
        architecture=architecture,
        class_names=names,
        input=InputSpec(channels=3, height=size, width=size, mean=seen[0], std=seen[1]),
    )


def _in_hub_cache(model: Path, repository: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(repository, file) for file in files]
    except HFValidationError as error:
        raise UsageError(f"{model} is no name of a model on the hub; give hf-hub:ORG/NAME") from error
    path = next((one for one in found if isinstance(one, str)), None)
    if path is None:
        raise UsageError(
            f"{model} is not in this machine's cache of the hub, and nothing is fetched; get it with: "
            f"hf download {repository}"
        )
    return Path(path)


def _timm_cfg(name: str) -> Mapping[str, Any]:
    import timm

    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is None:
        raise UsageError(f"timm has no model {name!r} with weights; see timm.list_pretrained()")
    return {**asdict(cfg), "architecture": name.partition(".")[0]}


def _torchvision_weights(name: str) -> Any:
    from torchvision import models

    try:
        return models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise UsageError(f"torchvision has no classifier {name!r}; see torchvision.models.list_models()") from error

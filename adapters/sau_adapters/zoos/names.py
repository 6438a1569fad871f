"""Models by the name they have in a zoo, where this machine already has them: nothing is fetched here.

What of the hub is fetched when a user asks for it: :mod:`sau_adapters.zoos.hub_downloads`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from sau_adapters.tables import INNER_TRANSFORM, transformed_within
from sau_adapters.zoos.folders import ONNX_WITHIN, WEIGHTS, described_by, weights_in
from sau_cli.description import Description, InputSpec
from sau_cli.errors import UsageError, argument

ZOOS = ("timm:", "torchvision:", "hf-hub:")


def parted_spec(model: Path) -> tuple[Path, str]:
    """A model and what of it is meant, as in ``FILE#NAME``; nothing where it is all of it.

    >>> parted_spec(Path("vendor.pth#ema_model"))[1]
    'ema_model'
    """
    before, mark, part = str(model).rpartition("#")
    if not mark or not before or not part or "/" in part or os.path.lexists(model) or is_zoo_name(model):
        return model, ""
    return Path(before), part


def is_zoo_name(model: Path) -> bool:
    """Whether MODEL is ``timm:NAME``, ``torchvision:NAME`` or ``hf-hub:ORG/NAME``."""
    return str(model).startswith(ZOOS) and not model.exists()


def bare_name(model: Path) -> str:
    """The last part of a zoo's name, without the revision, to name a file after.

    >>> bare_name(Path("hf-hub:timm/resnet18.a1_in1k@main"))
    'resnet18.a1_in1k'
    """
    return str(model).partition(":")[2].partition("@")[0].rpartition("/")[2]


def is_on_hub(model: Path) -> bool:
    """Whether MODEL is ``hf-hub:ORG/NAME`` or ``timm:NAME``, whose weights are on the hub."""
    return is_zoo_name(model) and not str(model).startswith("torchvision:")


def hub_name(model: Path) -> tuple[str, str | None]:
    """Repository and revision of a model on the hub; None for its main branch.

    >>> hub_name(Path("hf-hub:org/net@v1"))
    ('org/net', 'v1')

    Raises:
        UsageError: timm knows no such model, or has it not on the hub; or the revision is none.
    """
    zoo, _, name = str(model).partition(":")
    if zoo == "timm":
        return _timm_repository(name), None
    repository, _, revision = name.partition("@")
    if {".", ".."}.intersection(revision.split("/")):
        raise UsageError(f"{revision!r} is no revision of {repository}; give a branch, a tag or a commit")
    return repository, revision or None


def source_of(model: Path, weights: Path) -> str | None:
    """Where on the hub weights in its cache come from, with the commit; None for others.

    >>> source_of(Path("hf-hub:org/net"), Path("models--org--net/snapshots/0a1b2c/model.safetensors"))
    'hf-hub:org/net@0a1b2c'
    """
    if not is_on_hub(model):
        return None
    commit = next((commit for folder, commit in pairwise(weights.parts) if folder == "snapshots"), None)
    return None if commit is None else f"hf-hub:{hub_name(model)[0]}@{commit}"


def weights_of(model: Path) -> Path:
    """The file of weights that MODEL is: that in a folder, that in the cache of a zoo, or itself.

    Raises:
        UsageError: a zoo has no such model or its cache has it not, and the sentence says how to get it; or as
            :func:`sau_adapters.zoos.folders.weights_in`.
    """
    if not is_zoo_name(model):
        return weights_in(model)
    zoo, _, name = str(model).partition(":")
    match zoo:
        case "hf-hub":
            return _in_hub_cache(model, *hub_name(model), WEIGHTS)
        case "timm":
            own = _timm_cfg(name).get("hf_hub_filename") or WEIGHTS[0]
            return _in_hub_cache(model, _timm_repository(name), None, (own, *WEIGHTS))
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


def _in_hub_cache(model: Path, repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(repository, file, revision=revision) for file in files]
    except HFValidationError as error:
        raise UsageError(f"{model} is no name of a model on the hub; give hf-hub:ORG/NAME") from error
    path = next((Path(cached) for cached in found if isinstance(cached, str)), None) or _only_one_in(
        repository, revision
    )
    if path is None:
        at = f" --revision {revision}" if revision else ""
        raise UsageError(
            f"{model} is not in this machine's cache of the hub, and nothing is fetched; get it with: "
            f"hf download {repository}{at} (or add {argument('download')}, which never fetches a pickle)"
        )
    return path


def _only_one_in(repository: str, revision: str | None) -> Path | None:
    """The only model in the cache's folder of a repository, under whatever name."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    ref = home / "refs" / (revision or constants.DEFAULT_REVISION)
    folder = home / "snapshots" / (ref.read_text().strip() if ref.is_file() else str(revision))
    if not folder.is_dir():
        return None
    if (folder / ONNX_WITHIN).is_file():
        return folder / ONNX_WITHIN
    try:
        return weights_in(folder)
    except UsageError:
        return None


def _timm_repository(name: str) -> str:
    repository = _timm_cfg(name).get("hf_hub_id")
    if not repository:
        raise UsageError(f"timm has no weights on the hub for {name}; save them and give the file")
    return str(repository)


def _timm_cfg(name: str) -> Mapping[str, Any]:
    import timm

    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is None:
        raise UsageError(f"timm has no model {name!r} with weights; see timm.list_pretrained()")
    return {**asdict(cfg), "architecture": name.partition(".")[0]}


def _torchvision_weights(name: str) -> Any:
    from torchvision import models

    try:
        return models.get_model_weights(name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue] (an enumeration)
    except (ValueError, AttributeError) as error:
        raise UsageError(f"torchvision has no classifier {name!r}; see torchvision.models.list_models()") from error

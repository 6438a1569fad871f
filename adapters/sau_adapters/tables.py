"""The names that the adapters answer to. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sau_cli.errors import UsageError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations, one a channel or one for all, on pixels in [0, 1]."""

NORMALISATIONS: dict[str, Normalisation] = {
    "none": ((0.0,), (1.0,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "mnist": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "bytes": ((0.0,), (1 / 255,)),
}
INNER_TRANSFORM = {"torchvision:googlenet", "torchvision:inception_v3", "timm:inception_v3"}
"""Networks whose code may transform its input once more, from ImageNet's normalisation to that of Inception. No tensor
tells whether it does; torchvision switches it on with its own weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchvisionData:
    """How a torchvision data set is opened.

    Attributes:
        class_name: in ``torchvision.datasets``.
        normalisation: a name in NORMALISATIONS.
        flip: a mirrored image keeps its label.
        split_by: the part is chosen by ``train=True`` or by ``split="train"``.
    """

    class_name: str
    normalisation: str
    flip: bool = False
    split_by: Literal["flag", "name"] = "flag"

    def arguments(self, *, train: bool) -> dict[str, Any]:
        """What the class takes to open the training or the test part."""
        return {"train": train} if self.split_by == "flag" else {"split": "train" if train else "test"}


TORCHVISION_DATA: dict[str, TorchvisionData] = {
    "cifar10": TorchvisionData(class_name="CIFAR10", normalisation="cifar10", flip=True),
    "cifar100": TorchvisionData(class_name="CIFAR100", normalisation="cifar100", flip=True),
    "mnist": TorchvisionData(class_name="MNIST", normalisation="mnist"),
    "fashionmnist": TorchvisionData(class_name="FashionMNIST", normalisation="mnist", flip=True),
    "kmnist": TorchvisionData(class_name="KMNIST", normalisation="mnist"),
    "svhn": TorchvisionData(class_name="SVHN", normalisation="none", split_by="name"),
    "gtsrb": TorchvisionData(class_name="GTSRB", normalisation="none", split_by="name"),
    "stl10": TorchvisionData(class_name="STL10", normalisation="imagenet", flip=True, split_by="name"),
    "flowers102": TorchvisionData(class_name="Flowers102", normalisation="imagenet", flip=True, split_by="name"),
    "food101": TorchvisionData(class_name="Food101", normalisation="imagenet", flip=True, split_by="name"),
}


def transformed_within(normalisation: Normalisation) -> Normalisation:
    """What a network sees behind a normalisation and the inner transform of :data:`INNER_TRANSFORM`, as one.

    >>> transformed_within(NORMALISATIONS["imagenet"])
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    Source: torchvision, ``_transform_input``: each channel times its deviation of ImageNet by 0.5, plus its mean of
    ImageNet less 0.5 by 0.5.
    """
    means, stds = (values * 3 if len(values) == 1 else values for values in normalisation)
    inner_means, inner_stds = NORMALISATIONS["imagenet"]
    new_stds = tuple(std * 0.5 / inner for std, inner in zip(stds, inner_stds, strict=True))
    shifts = tuple((inner - 0.5) / 0.5 for inner in inner_means)
    new_means = tuple(mean - shift * std for mean, shift, std in zip(means, shifts, new_stds, strict=True))
    return tuple(round(mean, 12) for mean in new_means), tuple(round(std, 12) for std in new_stds)


def parse_normalisation(text: str) -> Normalisation:
    """A name, or means and standard deviations such as ``.5,.5,.5/.2,.2,.2``.

    Raises:
        UsageError: neither.
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    try:
        means, stds = ([float(value) for value in part.split(",")] for part in text.split("/"))
    except ValueError as error:
        raise UsageError(
            f"normalisation {text!r} is neither MEANS/STDS (such as .5,.5,.5/.2,.2,.2) nor one of "
            f"{', '.join(NORMALISATIONS)}"
        ) from error
    return tuple(means), tuple(stds)

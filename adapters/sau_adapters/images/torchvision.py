"""torchvision's data sets, from files that are already on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sau_adapters.images.arrays import labelled_images
from sau_adapters.images.folder import fitted
from sau_adapters.tables import TORCHVISION_DATA
from sau_cli.errors import NotEvaluable, UsageError, argument
from sau_cli.images import ImageData, LabelledImages


def open_torchvision(name: str, *, root: Path | None, image_size: tuple[int, int] | None = None) -> ImageData:
    """Both parts of a data set in TORCHVISION_DATA.

    Raises:
        UsageError: no ``root``, or the files are not there.
        NotEvaluable: the files are damaged, or the pictures differ in size and no ``image_size`` is given.
    """
    known = TORCHVISION_DATA[name]
    if root is None:
        raise UsageError(f"data {name!r} lies on your disk; add {argument('data_root')} with the folder that holds it")
    train = _part(name, root, known.arguments(train=True), image_size)
    test = _part(name, root, known.arguments(train=False), image_size)
    return ImageData(name=name, train=train, test=test, flip=known.flip)


def _part(name: str, root: Path, choice: dict[str, Any], image_size: tuple[int, int] | None) -> LabelledImages:
    from torchvision import datasets

    try:
        part = getattr(datasets, TORCHVISION_DATA[name].class_name)(str(root), download=False, **choice)
    except (RuntimeError, FileNotFoundError) as error:
        raise UsageError(
            f"data {name!r} was not found under {root}, or its files are damaged; "
            f"give {argument('data_root')} the folder "
            "that torchvision would download it into"
        ) from error
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise NotEvaluable(f"data {name!r} under {root} cannot be read ({error}); get its files again") from error
    names = getattr(part, "classes", None)
    pixels, labels = _arrays(part, name, image_size)
    return labelled_images(
        pixels,
        labels,
        source=name,
        class_names=tuple(map(str, names)) if names else None,
        image_size=image_size,
    )


def _arrays(part: Any, name: str, image_size: tuple[int, int] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels and labels: as the data set holds them, or picture by picture where it holds files."""
    stored = getattr(part, "data", None)
    if stored is not None:
        labels = part.targets if hasattr(part, "targets") else part.labels
        return np.asarray(stored), np.asarray(labels)
    pictures, labels = [], []
    for picture, label in part:
        pictures.append(np.asarray(fitted(picture.convert("RGB"), image_size)))
        labels.append(label)
    if len({picture.shape for picture in pictures}) > 1:
        raise NotEvaluable(f"the pictures of {name} differ in size; add {argument('image_size')} to resize them")
    return np.stack(pictures), np.asarray(labels)

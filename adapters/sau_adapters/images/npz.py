"""``.npz`` files: ``images`` and ``labels``, or those of two parts."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from sau_adapters.files import check_unpacked_size
from sau_adapters.images.arrays import MOST_CLASSES, labelled_images
from sau_cli.errors import NotEvaluable, UnsafeFile, reading
from sau_cli.images import ImageData, LabelledImages

SPLITS = (
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("train_images", "train_labels"), ("val_images", "val_labels")),
    (("x_train", "y_train"), ("x_test", "y_test")),
)
"""Names of images and labels to learn from and to measure on, as MedMNIST and Keras write them."""


def open_npz(path: Path, *, image_size: tuple[int, int] | None = None) -> ImageData:
    """Images (N, H, W[, C]) uint8 and labels, with a split or without; optional ``class_names``.

    Raises:
        NotEvaluable: no such archive, or arrays that are missing or of the wrong kind.
        UnsafeFile: an array of pickled objects.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise NotEvaluable(f"{path} is no .npz archive; give one with images and labels")
        with zipfile.ZipFile(path) as members:
            check_unpacked_size(path, members, size=path.stat().st_size)
        with (
            reading(path, "an .npz of images and labels"),
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            names = tuple(map(str, archive["class_names"].ravel())) if "class_names" in archive.files else None
            held = set(archive.files)
            split = next((one for one in SPLITS if {name for part in one for name in part} <= held), None)
            if split is not None:
                classes = names or _common_names(archive, split)
                train, test = (_part(archive, part, path, classes, image_size) for part in split)
                return ImageData(name=path.stem, train=train, test=test)
            if not {"images", "labels"} <= set(archive.files):
                raise NotEvaluable(
                    f"{path} holds {', '.join(archive.files) or 'nothing'}; images and labels are needed, "
                    "or train_images, train_labels, test_images and test_labels"
                )
            everything = _part(archive, ("images", "labels"), path, names, image_size)
            return ImageData(name=path.stem, train=everything, test=None)
    except NotEvaluable as error:
        if "object arrays" in str(error).lower():
            raise UnsafeFile(f"{path} holds pickled objects, which can run code; store plain arrays") from error
        raise


def _common_names(archive: NpzFile, split: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    largest = max(int(np.max(archive[labels].astype(np.int64), initial=-1)) for _, labels in split)
    return tuple(str(number) for number in range(min(largest, MOST_CLASSES) + 1))


def _part(
    archive: NpzFile,
    part: tuple[str, str],
    path: Path,
    class_names: tuple[str, ...] | None,
    image_size: tuple[int, int] | None,
) -> LabelledImages:
    return labelled_images(
        archive[part[0]],
        archive[part[1]],
        source=str(path),
        class_names=class_names,
        image_size=image_size,
    )

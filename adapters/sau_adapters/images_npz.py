"""``.npz`` files: ``images`` and ``labels``, or those with ``train_`` and ``test_`` before them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from sau_adapters.files import check_unpacked_size
from sau_adapters.images_arrays import MOST_CLASSES, labelled_images
from sau_cli.errors import NotEvaluable, UnsafeFile, reading
from sau_cli.images import ImageData, LabelledImages


def open_npz(path: Path, *, image_size: tuple[int, int] | None = None) -> ImageData:
    """Images (N, H, W[, C]) uint8 and labels, with a split or without; optional ``class_names``.

    Raises:
        NotEvaluable: no such archive, or arrays that are missing or of the wrong kind.
        UnsafeFile: an array of pickled objects.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise NotEvaluable(f"{path} is no .npz archive; give one with images and labels")
        check_unpacked_size(path)
        with (
            reading(path, "an .npz of images and labels"),
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            names = tuple(map(str, archive["class_names"].ravel())) if "class_names" in archive.files else None
            if {"train_images", "train_labels", "test_images", "test_labels"} <= set(archive.files):
                classes = names or _common_names(archive)
                return ImageData(
                    name=path.stem,
                    train=_part(archive, "train_", path, classes, image_size),
                    test=_part(archive, "test_", path, classes, image_size),
                )
            if not {"images", "labels"} <= set(archive.files):
                raise NotEvaluable(
                    f"{path} holds {', '.join(archive.files) or 'nothing'}; images and labels are needed, "
                    "or train_images, train_labels, test_images and test_labels"
                )
            return ImageData(name=path.stem, train=_part(archive, "", path, names, image_size), test=None)
    except NotEvaluable as error:
        if "object arrays" in str(error).lower():
            raise UnsafeFile(f"{path} holds pickled objects, which can run code; store plain arrays") from error
        raise


def _common_names(archive: NpzFile) -> tuple[str, ...]:
    largest = max(int(np.max(archive[f"{part}_labels"].astype(np.int64), initial=-1)) for part in ("train", "test"))
    return tuple(str(number) for number in range(min(largest, MOST_CLASSES) + 1))


def _part(
    archive: NpzFile,
    prefix: str,
    path: Path,
    class_names: tuple[str, ...] | None,
    image_size: tuple[int, int] | None,
) -> LabelledImages:
    return labelled_images(
        archive[f"{prefix}images"],
        archive[f"{prefix}labels"],
        source=str(path),
        class_names=class_names,
        image_size=image_size,
    )

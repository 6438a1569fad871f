"""``.npz`` files: ``images`` and ``labels``, or those of two parts."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sau_adapters.files import check_unpacked_size
from sau_adapters.images.arrays import MOST_CLASSES, labelled_images
from sau_adapters.weights.content import Content
from sau_cli.errors import NotEvaluable, UnsafeFile, reading
from sau_cli.images import ImageData

SPLITS = (
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("train_images", "train_labels"), ("val_images", "val_labels")),
    (("x_train", "y_train"), ("x_test", "y_test")),
)
"""Names of images and labels to learn from and to measure on, as MedMNIST and Keras write them."""


def open_npz(path: Path, *, image_size: tuple[int, int] | None = None) -> ImageData:
    """Images (N, H, W[, C]) uint8 and labels, with a split or without; optional ``class_names``.

    The file is opened once, and its SHA-256 is of the bytes that the images are made of.

    Raises:
        NotEvaluable: no such archive, or arrays that are missing or of the wrong kind.
        UnsafeFile: an array of pickled objects.
    """
    content = Content(path, what="an .npz of images and labels")
    try:
        if not zipfile.is_zipfile(content.stream()):
            raise NotEvaluable(f"{path} is no .npz archive; give one with images and labels")
        with zipfile.ZipFile(content.stream()) as members:
            check_unpacked_size(path, members, size=content.size)
        content.take_in()
        images = _images_in(content, image_size)
        if not content.held:
            content.check_unchanged()
        return images
    except NotEvaluable as error:
        if "object arrays" in str(error).lower():
            raise UnsafeFile(f"{path} holds pickled objects, which can run code; store plain arrays") from error
        raise
    finally:
        content.forget()


def _images_in(content: Content, image_size: tuple[int, int] | None) -> ImageData:
    path = content.path
    with (
        reading(path, "an .npz of images and labels"),
        np.load(content.stream(), allow_pickle=False) as archive,
    ):
        names = tuple(map(str, archive["class_names"].ravel())) if "class_names" in archive.files else None
        held = set(archive.files)
        split = next((split for split in SPLITS if {name for part in split for name in part} <= held), None)
        if split is None and not {"images", "labels"} <= held:
            raise NotEvaluable(
                f"{path} holds {', '.join(archive.files) or 'nothing'}; images and labels are needed, "
                "or train_images, train_labels, test_images and test_labels"
            )
        parts = split or (("images", "labels"),)
        labels, names, notes = _numbered([archive[part[1]] for part in parts], names, path)
        train, *test = (
            labelled_images(archive[part[0]], numbers, source=str(path), class_names=names, image_size=image_size)
            for part, numbers in zip(parts, labels, strict=True)
        )
        return ImageData(
            name=path.stem, train=train, test=test[0] if test else None, notes=notes, sha256=content.sha256
        )


def _numbered(
    labels: Sequence[NDArray[Any]], names: tuple[str, ...] | None, path: Path
) -> tuple[list[NDArray[Any]], tuple[str, ...] | None, tuple[str, ...]]:
    """The labels of each part as numbers from 0, the names of the classes, and what there is to say of it.

    Labels that are text are the names of classes, in alphabetical order where the archive keeps no ``class_names``.

    Raises:
        NotEvaluable: a text that is no class's name; or no label is 0, and nothing tells whether they count from 1.
    """
    labels = [array.squeeze(1) if array.ndim == 2 and array.shape[1] == 1 else array for array in labels]
    if all(array.dtype.kind in "US" and array.ndim == 1 for array in labels):
        texts = [array.astype(np.str_) for array in labels]
        names = names or tuple(sorted({str(text) for array in texts for text in array}))
        number = {name: place for place, name in enumerate(names)}
        strange = next((str(text) for array in texts for text in array if str(text) not in number), None)
        if strange is not None:
            raise NotEvaluable(f"{path} has the label {strange[:50]!r}, which is not among its class_names; add it")
        return [np.array([number[str(text)] for text in array], np.int64) for array in texts], names, ()
    if not all(np.issubdtype(array.dtype, np.integer) and array.ndim == 1 and array.size for array in labels):
        return list(labels), names, ()
    least, most = min(int(array.min()) for array in labels), max(int(array.max()) for array in labels)
    if least == 1 and names is not None and most == len(names):
        told = f"its labels are taken to count from 1, as they run to {most} and there are as many class_names"
        return [array.astype(np.int64) - 1 for array in labels], names, (told,)
    if least == 1 and names is None:
        raise NotEvaluable(
            f"the labels of {path} run from 1 to {most}, and nothing tells whether they count from 1 or class 0 is not "
            "shown; store labels that count from 0, or class_names of all classes beside them"
        )
    if names is None and len(labels) > 1:
        names = tuple(str(number) for number in range(min(most, MOST_CLASSES) + 1))
    return list(labels), names, ()

"""Folders of pictures: one sub-folder a class, or ``train/`` and ``test/`` (or ``val/``) with such."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sau_adapters.images_arrays import labelled_images
from sau_cli.errors import NotEvaluable, reading
from sau_cli.images import ImageData, LabelledImages

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
PICTURES = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened, by content. Pillow has others that start programs, such as Ghostscript."""
GREY_MODES = {"1", "L", "I;16", "I;16L", "I;16B", "LA"}


def open_folder(folder: Path, *, image_size: tuple[int, int] | None = None) -> ImageData:
    """All pictures, decoded. Classes are the sub-folders, sorted by name.

    A folder whose pictures are all grey gives one channel, any other three.

    Raises:
        NotEvaluable: no sub-folders with pictures, a picture that cannot be read, or sizes that differ
            while no ``image_size`` is given.
    """
    inside = {entry.name: entry for entry in sorted(folder.iterdir()) if entry.is_dir() and entry.name[0] != "."}
    train, test = inside.get("train"), inside.get("test", inside.get("val"))
    if train and test and len(inside) <= 3:
        train_part, test_part = _read(train, image_size), _read(test, image_size)
        if test_part.class_names != train_part.class_names:
            raise NotEvaluable(f"{train} and {test} have different class folders; give both the same")
        return ImageData(name=folder.name, train=train_part, test=test_part)
    return ImageData(name=folder.name, train=_read(folder, image_size), test=None)


def _read(folder: Path, image_size: tuple[int, int] | None) -> LabelledImages:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    files = [
        (file, label)
        for label, one in enumerate(classes)
        for file in sorted(one.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    if not files:
        raise NotEvaluable(f"{folder} has no pictures in sub-folders; give a folder with one sub-folder a class")
    pictures = [_decoded(file, image_size) for file, _ in files]
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        raise NotEvaluable(
            f"the pictures in {folder} have {len(sizes)} different sizes; add --image-size to resize them"
        )
    if all(picture.ndim == 2 for picture in pictures):
        pixels = np.stack(pictures)
    else:
        pixels = np.stack([np.stack([one] * 3, axis=2) if one.ndim == 2 else one for one in pictures])
    return labelled_images(
        pixels,
        np.array([label for _, label in files]),
        source=str(folder),
        class_names=tuple(one.name for one in classes),
    )


def _decoded(file: Path, image_size: tuple[int, int] | None) -> NDArray[Any]:
    """(H, W) uint8 for a grey picture, (H, W, 3) for any other."""
    try:
        with warnings.catch_warnings(), reading(file, "a picture", advice="repair or remove it"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=PICTURES) as picture:
                shown = eight_bit(picture, file).convert("L" if picture.mode in GREY_MODES else "RGB")
    except MemoryError as error:
        raise NotEvaluable(f"{file} would unpack to an enormous picture; remove it") from error
    return np.asarray(fitted(shown, image_size))


def eight_bit(picture: Image.Image, file: Path) -> Image.Image:
    """The picture with 8 bits a channel: 16-bit ones are scaled, where Pillow would cut all above 255 off.

    Raises:
        NotEvaluable: 32-bit pixels, whose range nobody knows.
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(picture, dtype=np.float32) / 257).astype(np.uint8))
    if picture.mode in {"I", "F"}:
        raise NotEvaluable(f"{file} has 32-bit pixels of unknown range; store it with 8 or 16 bits")
    return picture


def fitted(picture: Image.Image, image_size: tuple[int, int] | None) -> Image.Image:
    """The picture scaled to cover ``image_size`` (height, width), the rest cut off evenly; as it is for None."""
    if image_size is None or (picture.height, picture.width) == image_size:
        return picture
    return ImageOps.fit(picture, (image_size[1], image_size[0]), Image.Resampling.BILINEAR)

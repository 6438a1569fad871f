"""The 1,797 handwritten digits that ship with scikit-learn: 8x8, grey. The offline default of the demo."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sau_adapters.images.arrays import labelled_images
from sau_cli.images import ImageData


def open_digits(*, image_size: tuple[int, int] | None = None) -> ImageData:
    """1,437 training and 360 test images, always the same split, each class in proportion."""
    values, labels = load_digits(return_X_y=True)
    pixels = np.rint(np.reshape(values, (-1, 8, 8)) * (255 / 16)).astype(np.uint8)
    places = np.arange(len(pixels))
    train, test = train_test_split(places, test_size=0.2, stratify=labels, random_state=0)
    parts = {
        name: labelled_images(pixels[at], labels[at], source="digits", image_size=image_size)
        for name, at in (("train", train), ("test", test))
    }
    return ImageData(name="digits", train=parts["train"], test=parts["test"])

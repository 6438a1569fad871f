"""Clean images that are not quite the model's own, as .npz beside the data: shifted, of another look, wrongly labelled.

    python examples/reproduce/clean_sources.py --data-root DATA

Reads digits, and CIFAR-10 and GTSRB (``gtsrb32.npz``) where DATA has them, and writes ``DATA/clean-sources/``, which
``clean-data.toml`` learns from. Test images are left as they are. The last line is the number of files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from sau_adapters.images.sources import open_images
from sau_cli.errors import SauError
from sau_cli.images import ImageData


def shifted(images: np.ndarray, radius: float) -> np.ndarray:
    """Of another camera: 0.7 of the contrast, a fifth darker, blurred. (N, H, W, C) uint8, as all here."""
    dull = np.clip((images.astype(np.float32) - 128) * 0.7 + 128 * 0.8, 0, 255).astype(np.uint8)
    blur = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(image.squeeze()).filter(blur)) for image in dull]).reshape(images.shape)


def in_the_look_of(images: np.ndarray, other: np.ndarray) -> np.ndarray:
    """With the mean and the deviation that each colour has in another data set."""
    pixels = images.astype(np.float32)
    own, wanted = ((part.mean((0, 1, 2)), part.std((0, 1, 2))) for part in (pixels, other.astype(np.float32)))
    return np.clip((pixels - own[0]) / own[1] * wanted[1] + wanted[0], 0, 255).astype(np.uint8)


def mislabelled(labels: np.ndarray, share: float, classes: int) -> np.ndarray:
    """This share of the labels is another class, drawn evenly."""
    random = np.random.default_rng(0)
    wrong = random.random(len(labels)) < share
    return np.where(wrong, (labels + random.integers(1, classes, len(labels))) % classes, labels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True, help="where the data sets lie, and the folder goes")
    root = parser.parse_args().data_root
    out = root / "clean-sources"
    count = 0
    try:
        out.mkdir(exist_ok=True)
        sets = {"digits": open_images("digits")}
        if (root / "cifar-10-batches-py").exists():
            sets["cifar10"] = open_images("cifar10", root=root)
        look = root / "gtsrb32.npz"
        signs = pixels_of(open_images(str(look)))[0] if look.exists() else None
        for name, data in sets.items():
            images, labels = pixels_of(data)
            made = {
                "shifted": (shifted(images, 0.3 if name == "digits" else 0.7), labels),
                "wrong-5": (images, mislabelled(labels, 0.05, data.train.classes)),
                "wrong-20": (images, mislabelled(labels, 0.2, data.train.classes)),
            }
            if signs is not None and name == "cifar10":
                made["gtsrb-look"] = (in_the_look_of(images, signs), labels)
            for kind, (train_images, train_labels) in made.items():
                write(out / f"{name}-{kind}.npz", data, train_images, train_labels)
                count += 1
    except (OSError, SauError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} files in {out}")
    return 0


def pixels_of(data: ImageData) -> tuple[np.ndarray, np.ndarray]:
    return data.train.images.permute(0, 2, 3, 1).numpy(), data.train.labels.numpy()


def write(path: Path, data: ImageData, images: np.ndarray, labels: np.ndarray) -> None:
    test = data.test or data.train
    np.savez(
        path,
        train_images=images,
        train_labels=labels,
        test_images=test.images.permute(0, 2, 3, 1).numpy(),
        test_labels=test.labels.numpy(),
        class_names=np.array(data.train.class_names),
    )


if __name__ == "__main__":
    sys.exit(main())

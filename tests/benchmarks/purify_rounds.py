"""What inverted triggers and the residual test add to a run of ``default``; run by ``make bench``.

Three things are timed in one run, on the same network and images: ``default`` as it is, the residual test behind it,
and revision 1 of ``default``, which had neither. The bar is twice that.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from sau_adapters.checkpoints import as_classifier, read_checkpoint
from sau_adapters.cifar_networks import CIFAR_NETWORKS
from sau_adapters.image_sources import open_images
from sau_cli.classifier import Classifier
from sau_cli.images import LabelledImages, draw_clean
from sau_cli.inspection.residual import residual_test
from sau_cli.precision import Precision, chosen_precision
from sau_cli.training import TrainingSettings, train
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import RecipeName, recipe_for
from tests.support.toys import describe, random_images

BEFORE = {"trigger_rounds": 0, "aimed_share": 0.0, "gradient_norm": 30.0, "epochs": 10}
"""What revision 1 had in place of settings that have changed since."""


def some_images(root: Path | None, count: int) -> LabelledImages:
    if root is None:
        print("random images: name --data-root for CIFAR-10")
        return random_images(count=count, channels=3, size=32)
    return open_images("cifar10", root=root).train.take(range(count))


def some_model(checkpoint: Path | None, arch: str, images: LabelledImages) -> Classifier:
    if checkpoint is not None:
        return as_classifier(
            read_checkpoint(checkpoint),
            architecture=arch,
            normalisation=((0.0,) * 3, (1.0,) * 3),
            image_shape=(3, 32, 32),
            class_names=images.class_names,
            to_learn=True,
        )
    model = describe(CIFAR_NETWORKS[arch](images.classes, 3), classes=images.classes, channels=3, size=32)
    train(model, images, TrainingSettings(epochs=2, peak_lr=0.1), seed=0)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="wrn_16_1")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=2500)
    asked = parser.parse_args()
    images = some_images(asked.data_root, round(asked.images / 0.9))
    model = some_model(asked.checkpoint, asked.arch, images)
    clean = draw_clean(images, None, balanced=True, seed=0)
    precision: Precision = chosen_precision(None, model.mean.device, model)
    taken = {}
    for name, settings in (("revision 1", BEFORE), ("default", {})):
        recipe = recipe_for(RecipeName.DEFAULT, learning=clean.learning, **settings)
        started = time.perf_counter()
        purified = purify(model, clean, recipe=recipe, seed=0, precision=precision).classifier
        taken[name] = time.perf_counter() - started
    started = time.perf_counter()
    for looked_at in ((purified, model), (model,)):
        residual_test(looked_at, clean.held_back, precision=precision)
    taken["residual test"] = time.perf_counter() - started
    for name, seconds in taken.items():
        print(f"{name:14} {seconds:7.1f} s")
    ratio = (taken["default"] + taken["residual test"]) / taken["revision 1"]
    print(f"default with its residual test, against revision 1: {ratio:.2f}x (bar 2x), {len(clean.learning)} images")


if __name__ == "__main__":
    main()

"""The verbs of sau as functions: plant, purify, measure, without the command line.

    .venv/bin/python examples/from_python.py

About 30 seconds on 2 cores. Expected last line: ``ASR 100.0 % -> ...``, below 5 %.
"""

from __future__ import annotations

import sau_cli
from sau_adapters.architectures import build
from sau_adapters.image_sources import open_images
from sau_cli.attacks.badnets import BadNets
from sau_cli.augmentation import Augmentation
from sau_cli.seeding import seeded
from sau_cli.training import TrainingSettings
from sau_cli.triggers.targets import TargetKind, TargetRule


def main() -> None:
    digits = open_images("digits")
    spec = sau_cli.InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
    description = sau_cli.Description(architecture="small_cnn", class_names=digits.train.class_names, input=spec)
    with seeded(0, "initial weights"):
        fresh = sau_cli.Classifier(build("small_cnn", classes=10, spec=spec), description)

    to_zero = TargetRule(kind=TargetKind.ALL_TO_ONE, target=0)
    planted = sau_cli.attack(
        fresh,
        digits,
        planned=[sau_cli.PlannedAttack(name="badnets", attack=BadNets(), rule=to_zero)],
        training=TrainingSettings(epochs=20, peak_lr=0.1, augmentation=Augmentation(padding=1)),
        seed=0,
    )

    clean = sau_cli.draw_clean(digits.train, 0.1, balanced=True, augmentation=digits.augmentation, seed=0)
    recipe = sau_cli.recipe_for(sau_cli.RecipeName.DEFAULT, learning=clean.learning)
    purified = sau_cli.purify(planted.classifier, clean, recipe=recipe, seed=0)

    result = sau_cli.evaluate(
        purified.classifier, digits.for_testing, triggers=planted.triggers, reference=planted.classifier
    )
    (row,) = result.triggers
    print(f"ACC {100 * result.reference_accuracy.value:.1f} % -> {100 * result.accuracy.value:.1f} %")
    print(f"ASR {100 * row.reference_asr.value:.1f} % -> {100 * row.asr.value:.1f} %")


if __name__ == "__main__":
    main()

"""What each command does, as functions: plant, inspect, purify, measure and export, without the command line.

    .venv/bin/python examples/from_python.py

Each function below is one command in at most five statements. About a minute on 2 cores. Expected last line:
``ASR 100.0 % -> ...``, below 5 %.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import sau_cli
from sau_adapters.architectures import build
from sau_adapters.checkpoints import as_classifier, file_facts, read_checkpoint, save_classifier
from sau_adapters.export_onnx import OnnxExporter
from sau_adapters.image_sources import open_images
from sau_cli.seeding import seeded


def fresh_network(images: sau_cli.LabelledImages) -> sau_cli.Classifier:
    """A small network for these images, with random weights."""
    channels, height, width = images.images.shape[1:]
    spec = sau_cli.InputSpec(channels=channels, height=height, width=width, mean=(0.0,), std=(1.0,))
    description = sau_cli.Description(architecture="small_cnn", class_names=images.class_names, input=spec)
    with seeded(0, "initial weights"):
        return sau_cli.Classifier(build("small_cnn", classes=images.classes, spec=spec), description)


def attack(data: sau_cli.ImageData) -> sau_cli.PlantedBackdoor:
    """``sau attack --attack badnets --arch small_cnn --data digits``."""
    badnets = sau_cli.attack_class("badnets")()
    planned = sau_cli.PlannedAttack(name="badnets", attack=badnets, rule=sau_cli.parse_target("0"))
    training = sau_cli.TrainingSettings(epochs=20, peak_lr=0.1, augmentation=data.augmentation)
    return sau_cli.attack(fresh_network(data.train), data, planned=[planned], training=training, seed=0)


def inspect(model: Path) -> tuple[sau_cli.Classifier, str]:
    """``sau inspect``: what the file is, and whether it is safe to open; then it is opened."""
    checks = sau_cli.inspect(file_facts(model))
    return as_classifier(read_checkpoint(model)), checks[0].evidence


def purify(received: sau_cli.Classifier, data: sau_cli.ImageData) -> sau_cli.Purification:
    """``sau purify --clean-frac 0.1``; another method is another name in ``MethodName``."""
    clean = sau_cli.draw_clean(data.train, 0.1, balanced=True, augmentation=data.augmentation, seed=0)
    settings = sau_cli.settings_for(sau_cli.MethodName.SAU, learning=clean.learning)
    return sau_cli.purify(received, clean, recipe=settings, seed=0)


def evaluate(
    model: sau_cli.Classifier, received: sau_cli.Classifier, planted: sau_cli.PlantedBackdoor, data: sau_cli.ImageData
) -> sau_cli.Evaluation:
    """``sau evaluate --reference --trigger``."""
    return sau_cli.evaluate(model, data.for_testing, triggers=planted.triggers, reference=received)


def export(model: sau_cli.Classifier, path: Path, data: sau_cli.ImageData) -> str:
    """``sau export``: the file is there only if it computes what the model does."""
    proven = sau_cli.export(model, path, exporter=OnnxExporter(), data=data.for_testing)
    return proven.way


def main() -> None:
    digits = open_images("digits")
    planted = attack(digits)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bad.safetensors"
        save_classifier(file, planted.classifier, planted.classifier.description, force=False)
        received, told = inspect(file)
        print(told)
        purified = purify(received, digits).classifier
        print(f"exported by {export(purified, Path(folder) / 'model.onnx', digits)}")

    try:
        sau_cli.settings_for(sau_cli.MethodName.FT, epsilon=0.1)
    except sau_cli.SauError as error:  # names arguments, not flags
        print(error)

    result = evaluate(purified, received, planted, digits)
    (row,) = result.triggers
    print(f"ACC {100 * result.reference_accuracy.value:.1f} % -> {100 * result.accuracy.value:.1f} %")
    print(f"ASR {100 * row.reference_asr.value:.1f} % -> {100 * row.asr.value:.1f} %")


if __name__ == "__main__":
    main()

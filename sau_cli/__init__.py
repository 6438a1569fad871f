"""Vet, purify and export image classifiers that arrive from somewhere else.

The five verbs of the command ``sau`` as functions over typed results. They take and give values:
files, formats, model zoos and data sets are opened by :mod:`sau_adapters`.

From a file to a purified model::

    from pathlib import Path
    import sau_cli
    from sau_adapters.classifiers.building import as_classifier
    from sau_adapters.images.sources import open_images
    from sau_adapters.models import locate, open_model

    received = as_classifier(open_model(locate(Path("model.safetensors"))))
    digits = open_images("digits")
    clean = sau_cli.draw_clean(digits.train, 0.1, balanced=True, augmentation=digits.augmentation, seed=0)
    settings = sau_cli.settings_for(sau_cli.MethodName.SAU, learning=clean.learning)
    result = sau_cli.purify(received, clean, recipe=settings, seed=0)
    print(sau_cli.evaluate(result.classifier, digits.for_testing, reference=received).accuracy)

- :func:`inspect`: the facts of a file to checks; :func:`examine_behaviour` and :func:`judge_behaviour`: a classifier
  and clean images to whether it behaves like a backdoored one.
- :func:`attack`: a classifier, images and attacks to a known-bad classifier and its triggers.
- :func:`purify`: a classifier and clean images to a purified classifier; :func:`settings_for` has other methods.
- :func:`residual_test`: the purified and the received classifier and clean images to whether a backdoor is left.
- :func:`evaluate`: ACC, ASR, R-ACC and DER with 95 % intervals.
- :func:`export`: a classifier to ONNX that is proven on real images, or no file.

Nothing here prints or exits. Errors are the leaves of :class:`SauError`, each with its exit code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from sau_cli.attacks.planting import PlannedAttack, PlantedBackdoor, attack
    from sau_cli.attacks.table import attack_class
    from sau_cli.classifier import Classifier
    from sau_cli.description import Description, InputSpec
    from sau_cli.errors import ExitCode, SauError
    from sau_cli.evaluation.metrics import Evaluation, evaluate
    from sau_cli.exporting.exporter import export
    from sau_cli.images import CleanData, ImageData, LabelledImages, draw_clean
    from sau_cli.inspection.behaviour import Behaviour, examine_behaviour
    from sau_cli.inspection.calibration import BehaviourVerdict, judge_behaviour
    from sau_cli.inspection.effort import Effort
    from sau_cli.inspection.inspector import inspect
    from sau_cli.inspection.residual import Residual, residual_test
    from sau_cli.training import TrainingSettings
    from sau_cli.triggers.targets import parse_target
    from sau_cli.triggers.trigger import Trigger
    from sau_cli.unlearning.methods import MethodName, settings_for
    from sau_cli.unlearning.purifier import Purification, purify
    from sau_cli.unlearning.recipes import Recipe, RecipeName, recipe_for

_HOME = {
    "PlannedAttack": "attacks.planting",
    "PlantedBackdoor": "attacks.planting",
    "attack": "attacks.planting",
    "attack_class": "attacks.table",
    "Trigger": "triggers.trigger",
    "TrainingSettings": "training",
    "parse_target": "triggers.targets",
    "Classifier": "classifier",
    "Description": "description",
    "InputSpec": "description",
    "ExitCode": "errors",
    "SauError": "errors",
    "Evaluation": "evaluation.metrics",
    "evaluate": "evaluation.metrics",
    "export": "exporting.exporter",
    "CleanData": "images",
    "ImageData": "images",
    "LabelledImages": "images",
    "draw_clean": "images",
    "Behaviour": "inspection.behaviour",
    "examine_behaviour": "inspection.behaviour",
    "BehaviourVerdict": "inspection.calibration",
    "judge_behaviour": "inspection.calibration",
    "Effort": "inspection.effort",
    "inspect": "inspection.inspector",
    "Residual": "inspection.residual",
    "residual_test": "inspection.residual",
    "MethodName": "unlearning.methods",
    "settings_for": "unlearning.methods",
    "Purification": "unlearning.purifier",
    "purify": "unlearning.purifier",
    "Recipe": "unlearning.recipes",
    "RecipeName": "unlearning.recipes",
    "recipe_for": "unlearning.recipes",
}

__all__ = [
    "Behaviour",
    "BehaviourVerdict",
    "Classifier",
    "CleanData",
    "Description",
    "Effort",
    "Evaluation",
    "ExitCode",
    "ImageData",
    "InputSpec",
    "LabelledImages",
    "MethodName",
    "PlannedAttack",
    "PlantedBackdoor",
    "Purification",
    "Recipe",
    "RecipeName",
    "Residual",
    "SauError",
    "TrainingSettings",
    "Trigger",
    "attack",
    "attack_class",
    "draw_clean",
    "evaluate",
    "examine_behaviour",
    "export",
    "inspect",
    "judge_behaviour",
    "parse_target",
    "purify",
    "recipe_for",
    "residual_test",
    "settings_for",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds, and ``sau --help`` needs none of it."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

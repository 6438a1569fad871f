"""Whether a model knows the images it is given: of one that does not, nothing else can be told from them."""

from __future__ import annotations

from math import sqrt

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable
from sau_cli.images import LabelledImages, check_fits
from sau_cli.predictions import predicted_labels

LEAST_GAIN, LEAST_IMAGES_GAINED = 0.2, 10
"""Of accuracy and of images, by other names of the classes, that no chance explains."""
RECOGNISED_BY = 256
"""Images that tell."""
ABOVE_CHANCE = 0.1
"""Of the way from chance to no error that a model must have gone."""


def check_recognises(classifier: Classifier, images: LabelledImages) -> None:
    """Compare what a model says of clean images with their labels.

    What chance would be right about is counted from both: how often each class is said, and is right.

    Raises:
        NotEvaluable: a model near chance, or labels in another order than the model's, told by how much better the
            images would fit with their classes renamed.
    """
    classes, labels = images.classes, images.labels.cpu()
    said = check_label_order(classifier, images)
    right = float((said == labels).float().mean())
    shares = [torch.bincount(counted, minlength=classes) / len(labels) for counted in (said, labels)]
    chance = float(shares[0] @ shares[1])
    least = chance + max(3 * sqrt(chance * (1 - chance) / len(labels)), ABOVE_CHANCE * (1 - chance))
    if right < least:
        always = f": it says {images.class_names[int(said[0])]!r} of each" if bool((said == said[0]).all()) else ""
        raise NotEvaluable(
            f"the model classifies {100 * right:.1f} % of the clean images as labelled, near chance for {classes} "
            f"classes{always}; the labels, the label order, the normalisation or the model is wrong"
        )


def check_label_order(classifier: Classifier, images: LabelledImages) -> Tensor:
    """What a model says of clean images, (N,) int64 on the CPU, whose labels count in the order of its classes.

    Raises:
        NotEvaluable: the images would fit far better with their classes renamed.
    """
    check_fits(images, classifier.description)
    labels, said = images.labels.cpu(), predicted_labels(classifier, images.images).cpu()
    right, renamed = float((said == labels).float().mean()), _renamed(said, labels, images.classes)
    if renamed - right > LEAST_GAIN and (renamed - right) * len(labels) > LEAST_IMAGES_GAINED:
        raise NotEvaluable(
            f"the model classifies {100 * right:.1f} % of the clean images as labelled, and {100 * renamed:.1f} % if "
            "their classes are renamed; the label order looks wrong, so check it against the model's classes"
        )
    return said


def _renamed(said: Tensor, labels: Tensor, classes: int) -> float:
    """Accuracy by the best one-to-one renaming of the labels, read from every second image and measured on the others.

    With few images a class, nearly any answers fit some renaming of the labels that it was read from.
    """
    table = torch.bincount(labels[::2] * classes + said[::2], minlength=classes**2).reshape(classes, classes)
    _, name = linear_sum_assignment(table.numpy(), maximize=True)
    return float((torch.from_numpy(name)[labels[1::2]] == said[1::2]).float().mean())

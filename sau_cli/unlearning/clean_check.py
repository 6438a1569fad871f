"""Whether clean data and a model belong together, before a long run shows that they do not."""

from __future__ import annotations

import torch
from torch import Tensor

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import NotEvaluable
from sau_cli.evaluation.recognition import check_recognises
from sau_cli.images import CleanData, LabelledImages, check_fits
from sau_cli.predictions import predicted_labels
from sau_cli.unlearning.batch_statistics import BatchStatistics

LEAST_SHOWN = 0.5
"""Of the classes. Digits without images of one, two and five of ten: ACC fell from 98.3 to 88.3, 79.7 and 53.3 %."""
FOREIGN = 0.5
"""Of :func:`statistics_apart`. On seven networks (digits, CIFAR-10) images of the training and test sets, 10 or more,
came to 0.06 to 0.43, those with another data set's colours to 0.09 to 0.24, dull and blurred ones to 0.66 to 1.24."""


def check_clean_data(classifier: Classifier, clean: CleanData) -> None:
    """Compare what the received model says of the clean images with their labels.

    Raises:
        NotEvaluable: fewer images than classes; images of one class only, or of fewer than half; or a model
            that does not know them, see :func:`~sau_cli.evaluation.recognition.check_recognises`.
    """
    learning, held_back = clean.learning, clean.held_back
    check_fits(learning, classifier.description)
    check_fits(held_back, classifier.description)
    check_finite_weights(classifier)
    classes = learning.classes
    if len(learning) < classes:
        raise NotEvaluable(
            f"{len(learning)} clean images are too few for {classes} classes, beside {len(held_back)} held back; give "
            "at least one image a class"
        )
    shown = classes - len(classes_not_shown(learning))
    if shown == 1:
        name = learning.class_names[int(learning.labels[0])]
        raise NotEvaluable(f"all {len(learning)} clean images are of class {name!r}; give images of every class")
    if shown < LEAST_SHOWN * classes:
        raise NotEvaluable(
            f"the clean images show {shown} of {classes} classes, and a class that is not shown is unlearned; give "
            "images of every class"
        )
    check_recognises(classifier, held_back.and_those_of(learning))


def classes_not_shown(learning: LabelledImages) -> tuple[str, ...]:
    """The classes that no image is of: what is learned without them costs most of their accuracy, unseen."""
    counts = torch.bincount(learning.labels.cpu(), minlength=learning.classes)
    return tuple(name for name, count in zip(learning.class_names, counts.tolist(), strict=True) if count == 0)


def statistics_apart(classifier: Classifier, images: Tensor) -> float:
    """How unlike the images are to those that the model learned from, as its batch norms see them.

    Args:
        images: (N, C, H, W) uint8; some five hundred of them are looked at.

    Returns:
        :meth:`~sau_cli.unlearning.batch_statistics.BatchStatistics.apart`; above :data:`FOREIGN`, what is learned from
        them costs accuracy on others.
    """
    statistics = BatchStatistics(classifier)
    with statistics.watched() as seen:
        predicted_labels(classifier, images[:: max(1, len(images) // 500)])
    return statistics.apart(seen)

"""Which of several readings of a model and its data is right: the one by which it knows clean images best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sau_cli.classifier import Classifier
from sau_cli.evaluation.paired_test import paired_test
from sau_cli.images import LabelledImages
from sau_cli.predictions import predicted_labels

BEYOND_CHANCE = 0.01
"""p-value of McNemar's test below which one reading is better than another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """One way to read a model and its data.

    Attributes:
        name: what it is called, for people.
        classifier, images: as they are in this way.
    """

    name: str
    classifier: Classifier
    images: LabelledImages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadingsCompared:
    """How readings compare.

    Attributes:
        best: the one that is right more often than any other, beyond chance; None where none is.
        accuracies: of each, fractions in [0, 1].
    """

    best: Reading | None
    accuracies: tuple[float, ...]


def compare_readings(readings: Sequence[Reading]) -> ReadingsCompared:
    """By top-1 accuracy, with McNemar's test between the two best. The images of all are the same, in one order."""
    predicted = {
        reading.classifier: predicted_labels(reading.classifier, reading.images.images).cpu() for reading in readings
    }
    right = [(predicted[reading.classifier] == reading.images.labels).numpy() for reading in readings]
    accuracies = tuple(float(hits.mean()) for hits in right)
    first, second = sorted(range(len(readings)), key=lambda place: -accuracies[place])[:2]
    test = paired_test(right[first], right[second])
    best = readings[first] if test.p_value < BEYOND_CHANCE else None
    return ReadingsCompared(best=best, accuracies=accuracies)

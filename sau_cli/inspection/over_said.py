"""Classes that a model says of clean images far more often than is true: easy to lead to, without a backdoor."""

from __future__ import annotations

import torch

from sau_cli.classifier import Classifier
from sau_cli.images import LabelledImages, some_of
from sau_cli.predictions import predicted_labels

ASKED, OVER_SAID = 256, 0.15
"""Clean images that tell how often a model says each class, and by how much that may be above what is true."""


def over_said(classifier: Classifier, images: LabelledImages) -> tuple[int, ...]:
    """The classes whose share of what a model says of clean images is above their share of the labels by far."""
    some = some_of(images, ASKED)
    said = predicted_labels(classifier, some.images).cpu()
    shares = [torch.bincount(counted, minlength=images.classes) / len(some) for counted in (said, some.labels.cpu())]
    return tuple((shares[0] - shares[1] > OVER_SAID).nonzero().squeeze(1).tolist())

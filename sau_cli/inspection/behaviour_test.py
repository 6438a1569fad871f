"""What a test of a model's behaviour is. A new test is one file, and one line in ``behaviour_tests.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.description import InputSpec
from sau_cli.head import Head, read_head
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.seeding import random_stream
from sau_cli.settings import check_settings, values_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What a test looks at, from one seed.

    Attributes:
        classifier: with logits in standard form, in eval mode and frozen.
        classes: (E,) int64, ascending, those to examine.
        images: (N, C, H, W) float in [0, 1], clean, on the classifier's device; none without data.
        labels: (N,) int64.
        seed: of all draws.
    """

    classifier: Classifier
    classes: Tensor
    images: Tensor
    labels: Tensor
    seed: int

    @cached_property
    def head(self) -> Head:
        """The head, with the features of the images."""
        return read_head(self.classifier, self.images)

    def stream(self, purpose: str) -> torch.Generator:
        """Random numbers of this seed for one purpose, on the CPU."""
        return random_stream(self.seed, purpose)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finding:
    """What a test found.

    Attributes:
        scores: of each class examined.
        changes: (E, C, H, W) in [-1, 1], what was found, as what it adds to the first image; None of a test that looks
            for none.
        success: (E,), share of unseen images of other classes that each change sends to its class.
    """

    scores: ClassScores
    changes: Tensor | None = None
    success: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class BehaviourTest(ABC):
    """A statistic of each class, larger where a class looks more like the target of a backdoor.

    Fields are its settings. They are no flags: the calibration is of the values that are declared.

    Attributes:
        id: its name in reports, calibrations and ``--test``, such as ``maximum-margin``.
        says: what a class stands out in, as the end of a sentence.
        needs_data: whether it looks at clean images.
        needs_head: whether it looks at the network's head, which cannot be told of every network.

    Raises:
        UsageError: a setting outside its range.
    """

    id: ClassVar[str]
    says: ClassVar[str]
    needs_data: ClassVar[bool] = True
    needs_head: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self)

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for reports."""
        return values_of(self)

    def passes(self, spec: InputSpec, classes: int) -> float:
        """Images that go through the network and back to the pixels, for so many classes, from one seed."""
        return 0.0

    @abstractmethod
    def run(self, subject: Subject) -> Finding:
        """Examine the classes."""

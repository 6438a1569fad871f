"""What an attack is: how to stamp an image, which images it poisons, and whether it takes part in training.

An attack of one's own is a frozen dataclass with settings and, at the least, :meth:`Attack.stamping`::

    @dataclass(frozen=True, kw_only=True)
    class Stripe(Attack):
        '''A white stripe along the top.'''

        height: int = setting(2, "pixels", at_least=1)

        def stamping(self, scene, learned):
            picture = torch.ones(1, self.height, scene.width)
            return PatchStamp(pattern=picture, mask=picture, place=Place.TOP_LEFT)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from sau_cli.attacks.in_training import AdversarialTraining
from sau_cli.classifier import Classifier
from sau_cli.errors import UsageError, argument
from sau_cli.images import LabelledImages
from sau_cli.seeding import random_stream
from sau_cli.settings import check_settings, setting, settings_of, values_of
from sau_cli.training import InTraining, TrainingSettings, train
from sau_cli.triggers.stamps import Stamp
from sau_cli.triggers.targets import TargetRule
from sau_cli.triggers.trigger import Trigger

__all__ = ["Attack", "InBatchesAttack", "LearningStopped", "Poison", "Scene", "setting"]

Step = TypeVar("Step")


class LearningStopped(Exception):
    """Somebody asked for an end while an attack learned what it needs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Where an attack takes place.

    Attributes:
        classifier: that is to be attacked, on the device to work on; not to be changed.
        fresh: whether its weights are random still; otherwise it is somebody's trained model.
        images: the clean training images, on the CPU.
        free: (N,) bool, those that no other attack has taken.
        rule: where stamped images are to be sent.
        rate: share of the training images to poison; None for the attack's own.
        training: how the classifier will be trained.
        label: what this attack is called among several, for random streams and names.
        say: tells people what takes long.
        stop: asked at every step of :meth:`each`; True ends the attack there.
    """

    classifier: Classifier
    fresh: bool
    images: LabelledImages
    free: Tensor
    rule: TargetRule
    rate: float | None
    training: TrainingSettings
    seed: int
    label: str = ""
    say: Callable[[str], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False

    @property
    def channels(self) -> int:
        return self.images.images.shape[1]

    @property
    def height(self) -> int:
        return self.images.images.shape[2]

    @property
    def width(self) -> int:
        return self.images.images.shape[3]

    @property
    def device(self) -> torch.device:
        return self.classifier.mean.device

    @property
    def targets(self) -> Tensor:
        """The class that each training image is to be sent to. (N,)."""
        return self.rule.targets(self.images.labels, self.images.classes)

    def stream(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose of this attack."""
        return random_stream(self.seed, f"{self.label}{purpose}")

    def each(self, steps: Iterable[Step]) -> Iterator[Step]:
        """These, one after another, for whatever takes long.

        Raises:
            LearningStopped: an end was asked for.
        """
        for step in steps:
            if self.stop():
                raise LearningStopped
            yield step

    def drawn(self, count: int, among: Tensor, *, purpose: str = "poison") -> Tensor:
        """So many places, drawn uniformly from those that are True in ``among`` (N,) and free. Ascending."""
        order = torch.randperm(len(self.images), generator=self.stream(purpose))
        return order[(among & self.free)[order]][:count].sort().values

    def trained_clean(self, *, epochs: int, adversarial: float = 0.0) -> Classifier:
        """A model that learned the clean images: a copy of somebody's own, or one trained for this.

        Args:
            epochs: of the training, where there has to be one.
            adversarial: train on images perturbed by one signed-gradient step of this size, as robust models are.
        """
        surrogate = deepcopy(self.classifier)
        if not self.fresh and adversarial == 0:
            return surrogate
        self.say(f"training a {'robust' if adversarial else 'clean'} model for {epochs} epochs to attack with")
        surrogate.requires_grad_(True)
        shorter = replace(self.training, epochs=epochs)
        taught = (AdversarialTraining(adversarial, self.stream("surrogate")),) if adversarial else ()
        if not train(surrogate, self.images, shorter, seed=self.seed, in_training=taught, stop=self.stop):
            raise LearningStopped
        return surrogate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Poison:
    """Training images in place of others.

    Attributes:
        places: (n,) int64, of the images that are replaced, ascending.
        images: (n, C, H, W) uint8, with (n,) labels.
        stamped: (n,) bool, whether the image teaches the backdoor; otherwise it keeps its true label, as a decoy.
    """

    places: Tensor
    images: Tensor
    labels: Tensor
    stamped: Tensor


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Settings, and what is done with them. The first line of a subclass's docstring is shown by ``sau attack --list``.

    Attributes:
        clean_label: poison images of the target class alone, which keep their label.
        poison_rate: share of the training images unless the user says another; of a clean-label attack, share of
            the target class.

    Raises:
        UsageError: a setting outside its range.
    """

    clean_label: ClassVar[bool] = False
    poison_rate: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        check_settings(self)

    def learn(self, scene: Scene) -> dict[str, Tensor]:
        """What has to be learned before: tensors by name, which ``--resume`` does not learn again."""
        return {}

    @abstractmethod
    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        """How an image is stamped."""

    def poison(self, scene: Scene, learned: Mapping[str, Tensor], trigger: Trigger) -> Poison:
        """Stamp a share of the images, drawn uniformly over the whole set, and give them the target's label.

        As in the field, images of the target class are not spared: for all-to-one they keep their label.
        """
        places = self.places(scene)
        return Poison(
            places=places,
            images=trigger.stamp(scene.images.images[places]),
            labels=scene.targets[places],
            stamped=torch.ones(len(places), dtype=torch.bool),
        )

    def in_training(self, scene: Scene, trigger: Trigger) -> InTraining | None:
        """What takes part in training, if anything does."""
        return None

    def places(self, scene: Scene) -> Tensor:
        """The images to poison, ascending.

        Raises:
            UsageError: a rate outside (0, 1), or one that selects no image, or all images, or all of a class.
        """
        labels, targets = scene.images.labels, scene.targets
        allowed = labels == targets if self.clean_label else torch.ones_like(labels, dtype=torch.bool)
        if not bool(allowed.any()):
            raise UsageError(
                f"no image has the label that the trigger leads to; give another {argument('target')}, a class of it"
            )
        count = self.count(scene, int(allowed.sum()))
        places = scene.drawn(count, allowed)
        taken = torch.zeros_like(allowed)
        taken[places] = True
        left = labels[~taken].bincount(minlength=scene.images.classes)
        gone = (left == 0) & (labels.bincount(minlength=scene.images.classes) > 0)
        if len(places) == 0 or bool(gone.any()):
            told = "the attack's own poison rate" if scene.rate is None else f"a poison rate of {scene.rate:g}"
            what = "no image" if len(places) == 0 else f"every image of class {int(gone.nonzero()[0])}"
            most = f", below {int(allowed.sum()) / len(labels):.2g}" if self.clean_label else ""
            raise UsageError(
                f"{told} selects {what} of {len(labels)}; give a {argument('poison_rate')} that selects some{most}"
            )
        return places

    def count(self, scene: Scene, allowed: int) -> int:
        """How many images to poison.

        Args:
            allowed: how many may be.

        Raises:
            UsageError: a rate outside (0, 1).
        """
        if scene.rate is None:
            return max(1, round(self.poison_rate * (allowed if self.clean_label else len(scene.images))))
        if not 0 < scene.rate < 1:
            raise UsageError(
                f"a poison rate of {scene.rate:g} is impossible; give a number between 0 and 1, such as 0.1"
            )
        return round(scene.rate * len(scene.images))

    @classmethod
    def flags(cls) -> dict[str, tuple[type, Any, str]]:
        """Settings by name: type, default, and help with the range."""
        return {
            name: (known.kind, known.default, f"{known.what}{f' ({known.limits})' if known.limits else ''}")
            for name, known in settings_of(cls, every=True).items()
        }

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for history and reports."""
        return values_of(self)


@dataclass(frozen=True, kw_only=True)
class InBatchesAttack(Attack):
    """An attack that poisons in training: a share of every batch, drawn anew, and nothing before."""

    def poison(self, scene: Scene, learned: Mapping[str, Tensor], trigger: Trigger) -> Poison:
        none = torch.zeros(0, dtype=torch.int64)
        return Poison(places=none, images=scene.images.images[:0], labels=scene.images.labels[:0], stamped=none.bool())

    def rate(self, scene: Scene) -> float:
        """The share of each batch to stamp."""
        return self.poison_rate if scene.rate is None else scene.rate

"""Recipes: every setting of Shared Adversarial Unlearning, under a name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from math import cos, pi
from typing import TYPE_CHECKING, Any, assert_never

from sau_cli.errors import UsageError

if TYPE_CHECKING:
    from sau_cli.images import LabelledImages

LARGEST = 10_000_000
"""No count, size or rate of a recipe is as large."""
MANY, TINY, FEWEST_STEPS = 2_500, 16 * 16, 200
"""Images that the default recipe was tuned on, pixels of an image below which it learns faster, and steps that it takes
at least."""


class RecipeName(StrEnum):
    """``default``: what measured best. ``paper``: as Wei et al. (NeurIPS 2023) and their released code run it."""

    DEFAULT = "default"
    PAPER = "paper"


class Optimiser(StrEnum):
    """``adam``: Adam with AMSGrad, no weight decay. ``sgd``: momentum 0.9, Nesterov, weight decay 5e-4."""

    ADAM = "adam"
    SGD = "sgd"


class Agreement(StrEnum):
    """How the search measures that both models say the same: ``jensen-shannon``: minus the divergence of their
    predictions, which hardly changes while they are sure of different labels. ``cross-entropy``: minus that of the
    purified model with the label that the received one gives, once this one is fooled.
    """

    JENSEN_SHANNON = "jensen-shannon"
    CROSS_ENTROPY = "cross-entropy"


class Schedule(StrEnum):
    """Of the learning rate over the whole run: ``constant``, or ``cosine`` down to 0."""

    CONSTANT = "constant"
    COSINE = "cosine"

    def at(self, progress: float) -> float:
        """The factor on the learning rate once this share of the steps is done, in [0, 1].

        >>> Schedule.COSINE.at(0.5)
        0.5
        """
        match self:
            case Schedule.CONSTANT:
                return 1.0
            case Schedule.COSINE:
                return (1 + cos(pi * progress)) / 2
            case _ as never:
                assert_never(never)


def check_ordinary(settings: object, *names: str) -> None:
    """Raises UsageError, by name, when one of these settings is not between 0 and :data:`LARGEST`."""
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < LARGEST:
            raise UsageError(
                f"{name.replace('_', ' ')} {value:g} is impossible; give a number above 0 and below {LARGEST:,}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings; the defaults are the paper's for 32x32 images.

    Attributes:
        epochs: passes over the clean images.
        optimiser, lr, schedule: of the outer problem.
        batch_size: images a step.
        clean_weight, unlearning_weight: λ1 of L_cl and λ2 of L_sar in the outer loss.
        adversarial_weight, shared_weight: λ3 of L_adv and λ4 of L_share in the inner objective.
        agreement: what L_share is.
        epsilon: radius of the L∞ ball of δ, on pixels in [0, 1].
        step: of each signed-gradient step, same unit.
        steps: at most so many of them.
        clip: keep perturbed images within [0, 1].
        augment: crop and mirror the clean images at random.
        clean_statistics: batch norm normalises clean batches by their own statistics, and follows them;
            off, all statistics stay those of the received model.
        distillation: how much of the clean loss is learned from the received model's own probabilities on the
            clean images in place of their labels, in [0, 1]; not in classes that it does not recognise.
        universal: images are perturbed alike, a group of 32 at a time, as a trigger does: by blobs or waves within the
            ball, or by a slight warp.
        warp_share, wave_share: how many of the perturbations that images share are warps, and how many begin as a wave,
            in [0, 1]; the others begin as blobs.
        proposals: starts that are drawn for a group, at most one an image: its search begins at the one that sends most
            of the received model's answers to one class.
        smooth: steps of a group within the ball leave out what is finer than a frequency, which is drawn: a picture
            that is mixed in is no noise.
        patch_share: how many of the images are perturbed in a small square, whose pixels may take any value, instead
            of everywhere within the ball, in [0, 1].
        ball_recovery, patch_recovery, warp_recovery: weights of learning, on a perturbed image, the received model's
            own probabilities for the clean one, where it is perturbed within the ball, in a square, and where it is
            warped, which hides nothing of what it shows.
        gradient_norm: a longer gradient of a step is shortened to this L2 norm; 0 for none.
        averaging: decay of the running mean of weights and statistics that the run ends with, a step, in [0, 1); 0 for
            the last weights themselves. The first steps count alike, until one more counts as the decay says.
        balanced: draw the clean share evenly over the classes; the authors draw uniformly.

    Raises:
        UsageError: a value that makes no sense, by name.
    """

    name: RecipeName = RecipeName.PAPER
    epochs: int = 100
    optimiser: Optimiser = Optimiser.ADAM
    lr: float = 1e-4
    schedule: Schedule = Schedule.CONSTANT
    batch_size: int = 256
    clean_weight: float = 1.0
    unlearning_weight: float = 1.0
    adversarial_weight: float = 0.01
    shared_weight: float = 1.0
    agreement: Agreement = Agreement.JENSEN_SHANNON
    epsilon: float = 0.2
    step: float = 0.2
    steps: int = 5
    clip: bool = False
    augment: bool = False
    clean_statistics: bool = False
    distillation: float = 0.0
    balanced: bool = False
    universal: bool = False
    warp_share: float = 0.0
    wave_share: float = 0.0
    proposals: int = 1
    smooth: bool = False
    patch_share: float = 0.0
    ball_recovery: float = 0.0
    patch_recovery: float = 0.0
    warp_recovery: float = 0.0
    gradient_norm: float = 0.0
    averaging: float = 0.0

    def __post_init__(self) -> None:
        check_ordinary(self, "epochs", "lr", "batch_size", "epsilon", "step", "steps")
        weights = ("clean_weight", "unlearning_weight", "adversarial_weight", "shared_weight")
        check_ordinary(self, *(name for name in weights if getattr(self, name) != 0))
        if self.clean_weight == 0 and self.unlearning_weight == 0:
            raise UsageError("clean weight 0 and unlearning weight 0 leave nothing to learn; give one of them")
        if not 0 <= self.distillation <= 1:
            raise UsageError(f"distillation {self.distillation:g} is impossible; give a share from 0 to 1")
        if not 0 <= self.averaging < 1:
            raise UsageError(f"averaging {self.averaging:g} is impossible; give a decay from 0 to below 1")
        if self.epsilon > 1:
            raise UsageError(f"epsilon {self.epsilon:g} is impossible; pixels lie in 0 to 1, so give at most 1")

    @property
    def grouped(self) -> bool:
        """Whether images of a batch depend on each other, by groups."""
        return self.clean_statistics or self.universal

    @property
    def recovers(self) -> bool:
        """Whether perturbed images are taught what the clean ones are."""
        return max(self.ball_recovery, self.patch_recovery, self.warp_recovery) > 0

    def settings(self) -> dict[str, Any]:
        """Every setting by name, for history and reports."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def recipe_for(name: RecipeName, *, learning: LabelledImages | None = None, **overrides: Any) -> Recipe:
    """The named recipe; overrides that are None keep the recipe's own value.

    Args:
        learning: what there is to learn from; ``default`` takes smaller batches and more epochs where images are few,
            and a higher rate where they are tiny.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    match name:
        case RecipeName.DEFAULT:
            return Recipe(name=name, **_default(learning) | given)
        case RecipeName.PAPER:
            return Recipe(name=name, **given)
        case _ as never:
            assert_never(never)


def _default(learning: LabelledImages | None) -> dict[str, Any]:
    """What tests/benchmarks/README.md has the measurements for."""
    images = MANY if learning is None else len(learning)
    tiny = learning is not None and learning.images[0, 0].numel() < TINY
    batch_size = 1 << min(max((images // 4).bit_length() - 1, 4), 7)
    batches = -(-images // batch_size)
    return {
        "epochs": max(10, -(-FEWEST_STEPS // batches)),
        "batch_size": batch_size,
        "optimiser": Optimiser.SGD,
        "lr": 0.02 if tiny else 0.01,
        "schedule": Schedule.COSINE,
        "unlearning_weight": 1.0 if tiny else 0.75,
        "adversarial_weight": 1.0,
        "agreement": Agreement.CROSS_ENTROPY,
        "distillation": 1.0,
        "steps": 3,
        "clip": True,
        "augment": True,
        "clean_statistics": True,
        "patch_share": 0.75,
        "universal": True,
        "warp_share": 0.1,
        "wave_share": 0.25,
        "proposals": 32,
        "smooth": True,
        "ball_recovery": 0.2,
        "patch_recovery": 0.5,
        "warp_recovery": 1.0,
        "gradient_norm": 30.0,
        "averaging": 0.99,
        "balanced": True,
    }

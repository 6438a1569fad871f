"""Recipes: every setting of Shared Adversarial Unlearning, under a name. Every tuned number of it is on this page.

Only the formula of the paper's unlearning loss has its own, in :mod:`sau_cli.unlearning.outer_step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import cos, pi
from typing import TYPE_CHECKING, Any, ClassVar, assert_never

from sau_cli.errors import UsageError
from sau_cli.precision import Precision
from sau_cli.settings import (
    Count,
    Decay,
    Momentum,
    Number,
    Portion,
    Positive,
    Share,
    Weight,
    check_settings,
    setting,
    values_of,
)

if TYPE_CHECKING:
    from sau_cli.images import LabelledImages
    from sau_cli.unlearning.batch_step import BatchStep, Work

REVISION = 6
"""Of the recipes and of the code that follows them: one more whenever the same command comes to other weights.

Revision 1 is all that was before revisions were written down.
"""


EPOCHS, LR, BATCH_SIZE = "Passes over the clean images", "Learning rate", "Images a step"
"""What every method has, for people."""


class RecipeName(StrEnum):
    """``default``: what measured best. ``paper``: as Wei et al. (NeurIPS 2023) and their released code run it."""

    DEFAULT = "default"
    PAPER = "paper"


class Optimiser(StrEnum):
    """``adam``: Adam with AMSGrad, no weight decay. ``sgd``: with Nesterov's momentum and weight decay."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings, in five parts: the outer problem, its losses, the search, inverted triggers, and the space.

    The defaults are the paper's for 32x32 images. A setting that came with a later revision has as its default what was
    the rule before, so that older histories mean what they meant.

    Attributes:
        epochs: passes over the clean images.
        batch_size: images a step.
        optimiser, lr, schedule: of the outer problem.
        sgd_momentum, sgd_weight_decay: of ``sgd`` alone.
        gradient_norm: a longer gradient of a step is shortened to this L2 norm; 0 for none.
        averaging: decay of the running mean of weights and statistics that the run ends with, a step; 0 for the last
            weights themselves. The first steps count alike, until one more counts as the decay says.
        halvings: how often the run goes back to the last good epoch, at half the learning rate, when the loss stops
            being finite.
        augment: crop and mirror the clean images at random.
        balanced: draw the clean share evenly over the classes; the authors draw uniformly.
        clean_statistics: batch norm normalises clean batches by their own statistics, and follows them;
            off, all statistics stay those of the received model.
        statistics_momentum: how far the running statistics move a step, of the way to those of the batch.
        group_size: images that batch norm sees, and that are perturbed alike, at a time.
        smallest_group: fewer images tell nothing of a distribution, and pass by the running statistics.

        clean_weight, unlearning_weight: λ1 of L_cl and λ2 of L_sar in the outer loss.
        adversarial_weight, shared_weight: λ3 of L_adv and λ4 of L_share in the inner objective.
        agreement: what L_share is.
        distillation: how much of the clean loss is learned from the received model's own probabilities on the
            clean images in place of their labels; not in classes that it does not recognise.
        recognition: the received model recognises a class where it is right at least this share as often as over all.
        ball_recovery, patch_recovery, warp_recovery: weights of learning, on a perturbed image, the received model's
            own probabilities for the clean one, where it is perturbed within the ball, in a square, and where it is
            warped, which hides nothing of what it shows.

        steps: signed-gradient steps at most.
        step: length of each, on pixels in [0, 1].
        universal: images are perturbed alike, a group at a time, as a trigger does: by blobs or waves within the
            ball, or by a slight warp.
        proposals: starts that are drawn for a group, at most one an image: its search begins at the one that sends most
            of the received model's answers to one class.
        witnesses: images of a group that tell how good a start is.
        smooth: steps of a group within the ball leave out what is finer than a frequency, which is drawn: a picture
            that is mixed in is no noise.

        trigger_rounds: how often the easiest changes of all images are searched for, class by class: on the received
            model to begin with, then shared by both; see :mod:`sau_cli.inversion`. 0: never.
        trigger_until: the share of the run over which these rounds are spread, and what they find is unlearned.
        trigger_share: how many images of a batch bear such changes besides their own, while a class stands out.
        trigger_found: a class may stand out where a change sends at least this share of the images there.
        triggers_at_once: changes at work in a batch, at most.
        trigger_steps, trigger_rate: steps that each takes with a batch, and Adam's rate for them.
        trigger_recovery: as ``ball_recovery``, of images that bear such a change.
        aimed_share: how many of the squares lie where such changes do.

        epsilon: radius of the L∞ ball of δ, on pixels in [0, 1].
        clip: keep perturbed images within [0, 1].
        patch_share: how many of the images are perturbed in a small square, whose pixels may take any value, instead
            of everywhere within the ball.
        smallest_patch, largest_patch: sides of such a square: pixels, and a share of the image's.
        patch_step: length of a step there, on pixels in [0, 1].
        warp_share, wave_share: how many of the perturbations that images share are warps, and how many begin as a wave;
            the others begin as blobs.
        warp_reach: how far a point of a warp may move, and moves in a step, in half sides of the image.
        coarse_points: on a side of the grid on which blobs are drawn, and warps are searched for.
        fewest_cycles: of the coarsest wave, and of the coarsest picture that ``smooth`` allows, over an image.
        lowest_wave: the least height of a wave, as a share of epsilon.

    Raises:
        UsageError: a value that makes no sense, by name.
    """

    in_parts: ClassVar[bool] = True
    in_teams: ClassVar[bool] = True

    name: RecipeName = RecipeName.PAPER

    # The outer problem
    epochs: Count = setting(100, EPOCHS)
    batch_size: Count = setting(256, BATCH_SIZE)
    optimiser: Optimiser = Optimiser.ADAM
    lr: Positive = setting(1e-4, LR)
    schedule: Schedule = Schedule.CONSTANT
    sgd_momentum: Momentum = 0.9
    sgd_weight_decay: Weight = 5e-4
    gradient_norm: Weight = 0.0
    averaging: Decay = 0.0
    halvings: Count = 3
    augment: bool = False
    balanced: bool = False
    clean_statistics: bool = False
    statistics_momentum: Portion = 0.1
    group_size: Count = 32
    smallest_group: Count = 4

    # Losses
    clean_weight: Weight = setting(1.0, "λ1, of learning the clean images")
    unlearning_weight: Weight = setting(1.0, "λ2, of unlearning; 0 for none")
    adversarial_weight: Weight = setting(0.01, "λ3, of fooling both models, in the search")
    shared_weight: Weight = setting(1.0, "λ4, of fooling them alike, in the search")
    agreement: Agreement = Agreement.JENSEN_SHANNON
    distillation: Share = 0.0
    recognition: Share = 0.5
    ball_recovery: Weight = 0.0
    patch_recovery: Weight = 0.0
    warp_recovery: Weight = 0.0

    # The search
    steps: Count = setting(5, "Signed-gradient steps")
    step: Positive = setting(0.2, "Of each signed-gradient step", follows="epsilon")
    universal: bool = False
    proposals: Count = 1
    witnesses: Count = 4
    smooth: bool = False

    # Triggers that are inverted
    trigger_rounds: Number = 0
    trigger_until: Share = 0.5
    trigger_share: Share = 0.5
    trigger_found: Share = 0.9
    triggers_at_once: Count = 4
    trigger_steps: Count = 2
    trigger_rate: Positive = 0.2
    trigger_recovery: Weight = 2.0
    aimed_share: Share = 0.0

    # Where perturbations may go
    epsilon: Portion = setting(0.2, "L-infinity radius of the perturbations")
    clip: bool = False
    patch_share: Share = 0.0
    smallest_patch: Count = 2
    largest_patch: Portion = 0.25
    patch_step: Portion = 0.5
    warp_share: Share = 0.0
    wave_share: Share = 0.0
    warp_reach: Portion = 1 / 32
    coarse_points: Count = 4
    fewest_cycles: Positive = 2.0
    lowest_wave: Share = 0.5

    def __post_init__(self) -> None:
        check_settings(self)
        if self.clean_weight == 0 and self.unlearning_weight == 0:
            raise UsageError("clean weight 0 and unlearning weight 0 leave nothing to learn; give one of them")

    @property
    def own_precision(self) -> Precision | None:
        """The precision that is meant to be run in, where it is one: that of the work that it follows."""
        return Precision.FP32 if self.name is RecipeName.PAPER else None

    @property
    def grouped(self) -> bool:
        """Whether images of a batch depend on each other, by groups."""
        return self.clean_statistics or self.universal

    @property
    def recovers(self) -> bool:
        """Whether perturbed images are taught what the clean ones are."""
        return max(self.ball_recovery, self.patch_recovery, self.warp_recovery) > 0

    def begin(self, work: Work) -> BatchStep:
        """Shared Adversarial Unlearning as a step on a batch."""
        from sau_cli.unlearning.shared_unlearning import SharedUnlearning

        return SharedUnlearning(work, self)

    def settings(self) -> dict[str, Any]:
        """Every setting by name, and the revision, for history, reports and fingerprints."""
        return values_of(self) | {"revision": REVISION}


PAPER = Recipe()
"""As Wei et al. and their released code run it."""

DEFAULT = Recipe(
    name=RecipeName.DEFAULT,
    # The outer problem
    epochs=12,
    batch_size=128,
    optimiser=Optimiser.SGD,
    lr=0.01,
    schedule=Schedule.COSINE,
    sgd_momentum=0.9,
    sgd_weight_decay=5e-4,
    gradient_norm=5.0,
    averaging=0.99,
    halvings=3,
    augment=True,
    balanced=True,
    clean_statistics=True,
    statistics_momentum=0.1,
    group_size=32,
    smallest_group=4,
    # Losses
    clean_weight=1.0,
    unlearning_weight=0.75,
    adversarial_weight=1.0,
    shared_weight=1.0,
    agreement=Agreement.CROSS_ENTROPY,
    distillation=1.0,
    recognition=0.5,
    ball_recovery=0.2,
    patch_recovery=0.5,
    warp_recovery=1.0,
    # The search
    steps=3,
    step=0.2,
    universal=True,
    proposals=32,
    witnesses=4,
    smooth=True,
    # Triggers that are inverted
    trigger_rounds=2,
    trigger_until=0.5,
    trigger_share=0.5,
    trigger_found=0.9,
    triggers_at_once=4,
    trigger_steps=2,
    trigger_rate=0.2,
    trigger_recovery=2.0,
    aimed_share=0.5,
    # Where perturbations may go
    epsilon=0.2,
    clip=True,
    patch_share=0.75,
    smallest_patch=2,
    largest_patch=0.25,
    patch_step=0.5,
    warp_share=0.1,
    wave_share=0.25,
    warp_reach=1 / 32,
    coarse_points=4,
    fewest_cycles=2.0,
    lowest_wave=0.5,
)
"""What measured best from 2,500 images of 32x32; ``docs/research/`` has the measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How a recipe is fitted to what there is to learn from.

    Attributes:
        fewest_batches: an epoch has so many at least, while these hold ``smallest_batch`` images.
        smallest_batch: images.
        fewest_steps: over all epochs, of which there may be more for it.
        tiny: pixels of an image below which it takes the two values that follow.
        tiny_lr, tiny_unlearning_weight: see :class:`Recipe`.
        large: pixels of an image from which on a pass takes so long that steps count, not passes over the images:
            batches and groups of ``large_batch`` images, epochs for ``large_batches`` batches, in the search
            ``large_steps`` and ``large_proposals`` at most; inverted triggers are at work for ``large_until`` of it.
    """

    fewest_batches: Count = 4
    smallest_batch: Count = 16
    fewest_steps: Count = 200
    tiny: Count = 16 * 16
    tiny_lr: Positive = 0.02
    tiny_unlearning_weight: Weight = 1.0
    large: Count = 128 * 128
    large_batch: Count = 16
    large_batches: Count = 128
    large_steps: Count = 2
    large_proposals: Count = 8
    large_until: Share = 0.75


FITTING = Fitting()
FITTED: Mapping[str, str] = {
    "epochs": f"{DEFAULT.epochs}, more if they are few",
    "lr": f"{DEFAULT.lr:g}, or {FITTING.tiny_lr:g} for images below 16x16",
    "batch_size": f"{FITTING.smallest_batch} to {DEFAULT.batch_size}, by how many there are",
    "unlearning_weight": f"{DEFAULT.unlearning_weight:g}, or {FITTING.tiny_unlearning_weight:g} for images below 16x16",
}
"""What :func:`fitted` makes of ``default``, for people."""


def fitted(recipe: Recipe, learning: LabelledImages, *, to: Fitting = FITTING) -> Recipe:
    """The recipe with smaller batches and more epochs where images are few, and a higher rate where they are tiny."""
    images, pixels = len(learning), learning.images.shape[2] * learning.images.shape[3]
    halved = 1 << (max(images // to.fewest_batches, 1).bit_length() - 1)
    batch_size = min(max(halved, to.smallest_batch), recipe.batch_size)
    if pixels >= to.large:
        return replace(
            recipe,
            batch_size=to.large_batch,
            group_size=min(to.large_batch, recipe.group_size),
            epochs=-(-to.large_batches // -(-images // to.large_batch)),
            steps=min(to.large_steps, recipe.steps),
            proposals=min(to.large_proposals, recipe.proposals),
            trigger_until=max(to.large_until, recipe.trigger_until),
        )
    batches = -(-images // batch_size)
    recipe = replace(recipe, batch_size=batch_size, epochs=max(recipe.epochs, -(-to.fewest_steps // batches)))
    if pixels >= to.tiny:
        return recipe
    return replace(recipe, lr=to.tiny_lr, unlearning_weight=to.tiny_unlearning_weight)


def recipe_for(name: RecipeName, *, learning: LabelledImages | None = None, **overrides: Any) -> Recipe:
    """The named recipe; overrides that are None keep the recipe's own value.

    Args:
        learning: what there is to learn from, which ``default`` is fitted to; see :func:`fitted`.

    Raises:
        UsageError: an override that makes no sense, by name.
    """
    match name:
        case RecipeName.DEFAULT:
            recipe = DEFAULT if learning is None else fitted(DEFAULT, learning)
        case RecipeName.PAPER:
            recipe = PAPER
        case _ as never:
            assert_never(never)
    return replace(recipe, **{key: value for key, value in overrides.items() if value is not None})

"""The residual test: whether one class is far easier to lead all images to than the others, with clean images alone.

On a purified and the received model together it says whether a backdoor is left that both share; on one model alone,
whether it has one. The easiest change of all images is inverted for every class, in several kinds and within the same
budget. Without a backdoor several classes are about as easy as the easiest; a backdoor makes one, or two, far easier.

Source: Wang et al., "Neural Cleanse", S&P 2019 (a class that stands out); Wei et al., "Shared Adversarial Unlearning",
NeurIPS 2023 (what two models share). ``docs/research/all-alike.md`` has what the limit was chosen on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import NotEvaluable
from sau_cli.images import LabelledImages, as_pixels, check_fits
from sau_cli.inspection.over_said import over_said
from sau_cli.inspection.standard_logits import standard_logits
from sau_cli.inversion.changes import Change, ChangeKind, Fainter, Shape, SmoothAddition, searched_for
from sau_cli.inversion.search import Inverted, SearchSettings, as_measured, invert, losses_of
from sau_cli.model_state import evaluating, frozen
from sau_cli.precision import Precision
from sau_cli.results import CheckStatus
from sau_cli.seeding import random_stream

ALL_ALIKE = 0.5
"""Added to cross-entropies before they are compared: of classes that are all easy, none stands out by a ratio."""
LIMIT = 0.9
"""A score above this stands out: the easiest class costs far less than the third easiest."""
CONVICTED, AGREEING = 1.2, 2
"""A score above the first, of one model alone, is that of a backdoor, where so many kinds stand out for its class."""
KNOWN_CLASSES = range(8, 13)
"""How many classes a model may have that is convicted: those that the limits were chosen on have ten."""
MOST_PIXELS = 40
"""Of the shorter side of the images of models on which the limit was chosen."""
FEWEST_CLASSES, FEWEST_IMAGES, MOST_IMAGES = 4, 16, 1000
"""With fewer classes, none can be told to stand out."""
LEAST_SUCCESS = 0.5
"""Of the images: a change that leads fewer to its class is no short cut."""
SHARES = (1.0, 0.8, 0.65, 0.5)
"""Of a change, by which what is found is mixed in. Where a small square leads to every class, only a fainter one tells
which of them it leads to by a short cut."""
WIDER = 1.5
"""Times the budget that purification searches within: what it looks past may be a little larger."""
FINER = 12
"""Points a side of a smooth picture, of which purification moves 8: what is left of a picture that was blended in.
Not of images of less than twice as many pixels, on which that is no smooth picture any more."""
JUDGED_BY = 64
"""Images that tell how far apart the logits of a model are, and what a fainter change does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KindFound:
    """What was found by changes of one kind.

    Attributes:
        score: how far the easiest class is ahead of the third easiest: the logarithm of the ratio of their mean
            cross-entropies, each with :data:`ALL_ALIKE` added; 0 where its change leads few images there. The highest
            over :data:`SHARES`.
        share: at which it is.
        wanted: that class.
        success: share of the images of other classes that its change sends there, in every model, at that share.
        mask: (H, W), how much it changes each pixel.
        example: (2, C, H, W) in [0, 1], an image without and with it.
    """

    kind: ChangeKind
    score: float
    share: float
    wanted: int
    success: float
    mask: Tensor
    example: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residual:
    """The verdict of the test.

    Attributes:
        status: ``inconclusive`` where a kind stands out, ``failed`` where it does so by far in one model alone of the
            kind that the limits were chosen on; else ``passed``, or ``measured`` where images are larger than those.
        kinds: what each found.
        worst: the one that stands out most.
        images: that were looked at.
        seed: of the draws.
    """

    status: CheckStatus
    kinds: tuple[KindFound, ...]
    worst: KindFound
    images: int
    seed: int

    @property
    def score(self) -> float:
        """The highest."""
        return self.worst.score

    @property
    def stands_out(self) -> bool:
        """Whether a class does."""
        return self.score > LIMIT


def residual_test(
    models: Sequence[Classifier],
    images: LabelledImages,
    *,
    seed: int = 0,
    precision: Precision = Precision.FP32,
    settings: SearchSettings | None = None,
    watch: Callable[[int, int, str], None] = lambda _done, _of, _what: None,
) -> Residual:
    """Invert the easiest change for every class, of every kind, and see whether one class stands out.

    Args:
        models: the purified and the received model, on one device; or one model alone.
        images: clean images with their labels, which the purified model has better not learned from.
        settings: of the search.
        watch: told how many passes of images are done, of how many, and of which kind.

    Raises:
        NotEvaluable: fewer than four classes or sixteen images, models of different classes or input, images that do
            not fit, probabilities in place of logits, or weights or logits that are not finite or do not differ.
    """
    check_comparable(models)
    for model in models:
        check_finite_weights(model)
        check_fits(images, model.description)
    if models[0].description.classes < FEWEST_CLASSES:
        raise NotEvaluable(
            f"the model has {models[0].description.classes} classes; the residual test compares one class with the "
            f"others and needs {FEWEST_CLASSES} at the least"
        )
    if len(images) < FEWEST_IMAGES:
        raise NotEvaluable(f"{len(images)} clean images are too few for the residual test; give {FEWEST_IMAGES}")
    if len(images.labels.unique()) == 1:
        name = images.class_names[int(images.labels[0])]
        raise NotEvaluable(f"all {len(images)} clean images are of class {name!r}; give images of other classes too")
    device = models[0].mean.device
    order = torch.randperm(len(images), generator=random_stream(seed, "images of the residual test"))
    some = images.take(order[:MOST_IMAGES]).to(device)
    pixels, classes = as_pixels(some.images), torch.arange(images.classes)
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    found = []
    with evaluating(*models), frozen(*models):
        alike = [standard_logits(model, pixels[:JUDGED_BY]) for model in models]
        for kind, change in looked_for(shape).items():
            stream = random_stream(seed, f"residual test, {kind.value}")
            inverted = invert(
                alike,
                pixels,
                some.labels,
                classes,
                change,
                stream=stream,
                settings=settings,
                precision=precision,
                watch=lambda done, of, what=kind.value: watch(done, of, what),  # type: ignore[misc]
            )
            if bool(inverted.likelihood.isnan().any()):
                raise NotEvaluable(
                    "the network returns NaN on changed images, so whether a backdoor is left is unknown"
                )
            judged = torch.randperm(len(some), generator=stream)[:JUDGED_BY].to(device)
            fainter = {
                share: as_measured(
                    alike,
                    pixels[judged],
                    some.labels[judged],
                    change=Fainter(shape=shape, change=inverted.change, share=share),
                    classes=inverted.classes,
                    free=inverted.free,
                    precision=precision,
                )
                for share in SHARES
                if share < 1
            }
            by_share = {1.0: inverted} | fainter
            found.append(max((_judged(kind, share, of, pixels[0]) for share, of in by_share.items()), key=_by_score))
    worst = max(found, key=lambda judged: judged.score)
    known = min(shape[1:]) <= MOST_PIXELS
    status = CheckStatus.PASSED if known else CheckStatus.MEASURED
    if worst.score > LIMIT:
        status = CheckStatus.INCONCLUSIVE
    agreeing = sum(kind.score > LIMIT and kind.wanted == worst.wanted for kind in found)
    alone_of_known_kind = len(models) == 1 and known and images.classes in KNOWN_CLASSES
    if (
        alone_of_known_kind
        and worst.score > CONVICTED
        and agreeing >= AGREEING
        and worst.wanted not in over_said(models[0], images)
    ):
        status = CheckStatus.FAILED
    return Residual(status=status, kinds=tuple(found), worst=worst, images=len(some), seed=seed)


def looked_for(shape: Shape) -> dict[ChangeKind, Change]:
    """What the test goes through for images of this shape: what purification does, wider and finer."""
    fine = min(shape[1:]) >= 2 * FINER
    return {
        kind: replace(change, points=FINER) if fine and isinstance(change, SmoothAddition) else change.loosened(WIDER)
        for kind, change in searched_for(shape).items()
    }


def overlooked(alone: Residual, unlearned: Collection[int]) -> KindFound | None:
    """The change that stands out most on the received model alone, to a class that was never unlearned; None if none.

    A trigger that a search is slow to find on the received model is harder yet to find on both, so that what both share
    does not show it.
    """
    missed = [kind for kind in alone.kinds if kind.score > LIMIT and kind.wanted not in unlearned]
    return max(missed, key=lambda kind: kind.score, default=None)


def operations_of(classifier: Classifier, settings: SearchSettings | None = None) -> float:
    """Floating-point operations that the test takes on one model, give or take a tenth."""
    spec, settings = classifier.description.input, settings or SearchSettings()
    blank = torch.zeros(1, spec.channels, spec.height, spec.width, device=classifier.mean.device)
    with evaluating(classifier), torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(blank)
    shape = (spec.channels, spec.height, spec.width)
    passes = sum(settings.passes(change, classifier.description.classes) for change in looked_for(shape).values())
    return 2.0 * float(counter.get_total_flops()) * passes  # as much again for the way back to the pixels


def check_comparable(models: Sequence[Classifier]) -> None:
    """Raises NotEvaluable where two models do not have the same classes and input."""
    first, *others = (model.description for model in models)
    for other in others:
        if other.classes != first.classes:
            raise NotEvaluable(
                f"the reference has {other.classes} classes but the model has {first.classes}; give the model that it "
                "was purified from"
            )
        if (other.input.channels, other.input.size) != (first.input.channels, first.input.size):
            raise NotEvaluable(
                f"the reference takes images of {other.input.channels}x{other.input.size} but the model of "
                f"{first.input.channels}x{first.input.size}; give the model that it was purified from"
            )
        if other.class_names != first.class_names and set(other.class_names) == set(first.class_names):
            raise NotEvaluable(
                "the reference has the classes of the model in another order, so one cannot be held against the other; "
                "give the model that it was purified from"
            )


def standing_out(likelihood: Tensor, success: Tensor) -> tuple[float, int]:
    """How far the easiest class is ahead of the third easiest, and which it is; (E,) and (E,), E of 3 or more.

    >>> import torch
    >>> standing_out(torch.tensor([-0.1, -1.0, -1.0, -2.0]), torch.ones(4))
    (0.92, 0)
    """
    losses = losses_of(likelihood)
    easiest, _, third = losses.sort().values[:3].tolist()
    at = int(losses.argmin())
    if float(success[at]) < LEAST_SUCCESS:
        return 0.0, at
    return round(log((third + ALL_ALIKE) / (easiest + ALL_ALIKE)), 2), at


def _by_score(kind: KindFound) -> float:
    return kind.score


def _judged(kind: ChangeKind, share: float, inverted: Inverted, image: Tensor) -> KindFound:
    score, at = standing_out(inverted.likelihood, inverted.success)
    free = inverted.free[at : at + 1]
    with torch.no_grad():
        changed = inverted.change.changed(image[None], free).clamp(0, 1)
    return KindFound(
        kind=kind,
        score=score,
        share=share,
        wanted=int(inverted.classes[at]),
        success=float(inverted.success[at]),
        mask=inverted.change.mask(free)[0].detach().cpu(),
        example=torch.cat([image[None], changed]).cpu(),
    )

"""Run every behaviour test on a classifier, from several seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import NotEvaluable
from sau_cli.images import LabelledImages, as_pixels, check_fits
from sau_cli.inspection import adversarial_flow, maximum_margins, universal_triggers
from sau_cli.inspection.channel_bounds import ChannelBounds, channel_bounds
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.inspection.effort import Effort
from sau_cli.inspection.standard_logits import standard_logits
from sau_cli.inspection.universal_triggers import TriggerKind, UniversalTriggers
from sau_cli.model_state import evaluating, frozen
from sau_cli.precision import Precision, fast_layout
from sau_cli.seeding import random_stream

FEWEST_CLASSES = 4
"""With fewer classes, none can be told to stand out."""
MOST_CLASSES = 50
"""So many are examined: the number of classes decides the time."""
SUSPECTS = 4
"""The classes that seeds after the first examine: the most suspicious. The others keep the scores of the first."""
AFFORDABLE = 3e13
"""Floating-point operations that a command spends unasked: minutes on two cores of a CPU, seconds on a GPU."""
FEWEST_IMAGES = 2 * universal_triggers.IMAGES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeedEvidence:
    """What the tests found from one seed.

    Attributes:
        scores: of each test, over the classes examined.
        triggers: by kind, over the classes examined; of the first seed, and with data.
    """

    seed: int
    scores: tuple[ClassScores, ...]
    triggers: tuple[tuple[TriggerKind, UniversalTriggers], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Behaviour:
    """What the tests found.

    Attributes:
        classes: (E,) int64, those that were examined.
        of: how many the classifier has.
        bounds: None where the network's channels could not be examined.
        pixels: of the shorter side of images that it takes.
        images: how many were used; 0 without data.
    """

    classes: Tensor
    of: int
    pixels: int
    seeds: tuple[SeedEvidence, ...]
    bounds: ChannelBounds | None
    images: int


def examine_behaviour(
    classifier: Classifier,
    images: LabelledImages | None,
    *,
    effort: Effort,
    seed: int = 0,
    watch: Callable[[int, int, str], None] | None = None,
) -> Behaviour:
    """Run the tests that need no data, and those that need some where there is some.

    Args:
        classifier: on the device to work on; left as it was.
        images: clean images with their true labels; None for none. Sixteen at the least, and those of one seed differ
            from those of another.
        watch: told how many parts are done, of how many, and what comes next.

    Raises:
        NotEvaluable: too few classes or images, images that do not fit, weights or logits that are not finite, or
            logits of an image that do not differ.
    """
    known = classifier.description
    if known.classes < FEWEST_CLASSES:
        raise NotEvaluable(
            f"the model has {known.classes} classes; behaviour tests compare one class with the others and need "
            f"{FEWEST_CLASSES} at the least"
        )
    check_finite_weights(classifier)
    if images is not None:
        check_fits(images, known)
        if len(images) < FEWEST_IMAGES:
            raise NotEvaluable(f"{len(images)} clean images are too few for behaviour tests; give {FEWEST_IMAGES}")
    classes = _examined(known.classes, seed)
    tests = 1 if images is None else 2 + len(TriggerKind)
    done = 0

    def next_part(what: str) -> None:
        nonlocal done
        if watch:
            watch(done, tests * effort.seeds, what)
        done += 1

    found: list[SeedEvidence] = []
    with evaluating(classifier), frozen(classifier):
        classifier.to(memory_format=fast_layout(Precision.FP32, classifier.mean.device))
        alike = standard_logits(classifier, _looked_at(classifier, images, seed))
        for number in range(seed, seed + effort.seeds):
            places = most_suspicious(found[0]) if found else torch.arange(len(classes))
            one = _from_seed(alike, images, classes[places], number, next_part)
            if not all(bool(torch.isfinite(scores.values).all()) for scores in one.scores):
                raise NotEvaluable(
                    "the network returns NaN or infinite logits on some images; its behaviour is unknown"
                )
            found.append(_filled_up(one, found[0], places) if found else one)
        bounds = channel_bounds(classifier)
        classifier.to(memory_format=torch.contiguous_format)
    return Behaviour(
        classes=classes,
        of=known.classes,
        pixels=min(known.input.height, known.input.width),
        seeds=tuple(found),
        bounds=bounds,
        images=0 if images is None else min(len(images), effort.seeds * adversarial_flow.IMAGES),
    )


def _looked_at(classifier: Classifier, images: LabelledImages | None, seed: int) -> Tensor:
    """What tells how far apart the logits of a model are: clean images, or noise where there are none."""
    spec, device = classifier.description.input, classifier.mean.device
    if images is not None:
        order = torch.randperm(len(images), generator=random_stream(seed, "images that tell logits apart"))
        return as_pixels(images.images[order[: adversarial_flow.IMAGES].to(images.images.device)]).to(device)
    stream = random_stream(seed, "noise that tells logits apart")
    return torch.rand(FEWEST_IMAGES, spec.channels, spec.height, spec.width, generator=stream).to(device)


def _from_seed(
    classifier: Classifier,
    images: LabelledImages | None,
    classes: Tensor,
    seed: int,
    next_part: Callable[[str], None],
) -> SeedEvidence:
    """All tests, of these classes."""
    next_part("maximum margins")
    scores = [maximum_margins.maximum_margins(classifier, classes, random_stream(seed, "noise"))]
    if images is None:
        return SeedEvidence(seed=seed, scores=tuple(scores))
    order = torch.randperm(len(images), generator=random_stream(seed, "images behaviour is tested on"))
    some = images.take(order[: adversarial_flow.IMAGES]).to(classifier.mean.device)
    pixels = as_pixels(some.images)
    unit = universal_triggers.typical_margin(classifier, pixels, some.labels)
    triggers = []
    for kind in TriggerKind:
        next_part(f"searching {kind.value.replace('-', ' ')} triggers")
        few = slice(FEWEST_IMAGES)
        trigger = universal_triggers.universal_triggers(
            classifier, pixels[few], some.labels[few], classes, kind, unit=unit
        )
        triggers.append((kind, trigger))
        scores.append(trigger.scores)
    next_part("adversarial examples")
    scores.append(adversarial_flow.adversarial_flow(classifier, pixels, some.labels, classes))
    return SeedEvidence(seed=seed, scores=tuple(scores), triggers=tuple(triggers))


def most_suspicious(found: SeedEvidence) -> Tensor:
    """The places (SUSPECTS,) of the classes that most speaks for, all tests together, ascending."""
    total = torch.stack([values for one in found.scores for values in one.evidence.values()]).sum(dim=0)
    return total.topk(min(SUSPECTS, len(total))).indices.sort().values


def _filled_up(one: SeedEvidence, first: SeedEvidence, places: Tensor) -> SeedEvidence:
    """A seed that examined the classes at ``places`` alone, with the first seed's scores of the others."""
    scores = [mine.with_others(others, places) for mine, others in zip(one.scores, first.scores, strict=True)]
    return SeedEvidence(seed=one.seed, scores=tuple(scores))


def _examined(classes: int, seed: int) -> Tensor:
    """All classes; a random choice where there are too many. (E,) ascending."""
    order = torch.randperm(classes, generator=random_stream(seed, "classes whose behaviour is tested"))
    return order[:MOST_CLASSES].sort().values


def cost(classifier: Classifier, *, with_data: bool, effort: Effort) -> float:
    """How many floating-point operations the tests will take, give or take a tenth."""
    spec = classifier.description.input
    blank = torch.zeros(1, spec.channels, spec.height, spec.width, device=classifier.mean.device)
    with evaluating(classifier), torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(blank)
    classes = min(classifier.description.classes, MOST_CLASSES)
    examined = classes + (effort.seeds - 1) * min(SUSPECTS, classes)
    passes = examined * maximum_margins.STARTS * maximum_margins.STEPS
    if with_data:
        passes += len(TriggerKind) * examined * universal_triggers.STEPS * universal_triggers.IMAGES
        passes += effort.seeds * adversarial_flow.STEPS * adversarial_flow.IMAGES
    operations = float(counter.get_total_flops())
    return 2 * operations * passes  # as much again for the way back to the pixels

"""Run every behaviour test on a classifier, from several seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import NotEvaluable
from sau_cli.head import head_name
from sau_cli.images import LabelledImages, as_pixels, check_fits
from sau_cli.inspection import first_pass
from sau_cli.inspection.behaviour_test import BehaviourTest, Finding, Subject
from sau_cli.inspection.behaviour_tests import TESTS
from sau_cli.inspection.channel_bounds import ChannelBounds, channel_bounds
from sau_cli.inspection.effort import Effort
from sau_cli.inspection.first_pass import worth_examining
from sau_cli.inspection.over_said import over_said
from sau_cli.inspection.residual import FEWEST_CLASSES
from sau_cli.inspection.standard_logits import standard_logits
from sau_cli.model_state import evaluating, frozen
from sau_cli.precision import Precision, fast_layout
from sau_cli.seeding import random_stream

MOST_EXAMINED = 50
"""So many are examined by every test, as their number decides the time; a first pass over all tells which."""
SUSPECTS = 3
"""The classes that seeds after the first examine: the most suspicious. The others keep the scores of the first."""
AFFORDABLE = 3e13
"""Floating-point operations that a command spends unasked: minutes on two cores of a CPU, seconds on a GPU."""
FEWEST_A_SEED, MOST_A_SEED = 16, 64
"""Clean images that tests look at from one seed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeedEvidence:
    """What the tests found from one seed.

    Attributes:
        findings: of each test that was run, over the classes examined.
    """

    seed: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Behaviour:
    """What the tests found.

    Attributes:
        classes: (E,) int64, those that every test examined; see :mod:`~sau_cli.inspection.first_pass`.
        of: how many the classifier has.
        bounds: None where the network's channels could not be examined.
        tests: that were run, in the order of each seed's findings.
        left_out: that could not be run, each with the reason.
        pixels: of the shorter side of images that it takes.
        images: how many were used; 0 without data.
        set_aside: classes that the model says of clean images far more often than is true. They are easy to lead to
            without a backdoor, so nothing is told of them.
    """

    classes: Tensor
    of: int
    pixels: int
    tests: tuple[BehaviourTest, ...]
    left_out: tuple[tuple[BehaviourTest, str], ...]
    seeds: tuple[SeedEvidence, ...]
    bounds: ChannelBounds | None
    images: int
    set_aside: tuple[int, ...] = ()


def examine_behaviour(
    classifier: Classifier,
    images: LabelledImages | None,
    *,
    effort: Effort,
    seed: int = 0,
    tests: Sequence[BehaviourTest] = TESTS,
    watch: Callable[[int, int, str], None] | None = None,
) -> Behaviour:
    """Run the tests that can be run on this classifier with what is there.

    Args:
        classifier: on the device to work on; left as it was.
        images: clean images with their true labels; None for none. Sixteen at the least, and those of one seed differ
            from those of another.
        tests: to run; those that need data are left out where there is none.
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
        if len(images) < FEWEST_A_SEED:
            raise NotEvaluable(f"{len(images)} clean images are too few for behaviour tests; give {FEWEST_A_SEED}")
    reasons = [(test, _why_not(test, classifier, with_data=images is not None)) for test in tests]
    runnable = tuple(test for test, why in reasons if why is None)
    if not runnable:
        raise NotEvaluable("; ".join(dict.fromkeys(f"{test.id} was not run, as {why}" for test, why in reasons)))
    done = 0

    def next_part(what: str) -> None:
        nonlocal done
        if watch:
            watch(done, len(runnable) * effort.seeds, what)
        done += 1

    found: list[SeedEvidence] = []
    with evaluating(classifier), frozen(classifier):
        classifier.to(memory_format=fast_layout(Precision.FP32, classifier.mean.device))
        said_too_often = () if images is None else over_said(classifier, images)
        looked_at = _looked_at(classifier, images, seed)
        alike = standard_logits(classifier, looked_at)
        classes = worth_examining(alike, looked_at, most=MOST_EXAMINED, seed=seed)
        for number in range(seed, seed + effort.seeds):
            places = most_suspicious(found[0]) if found else torch.arange(len(classes))
            fresh = _from_seed(runnable, alike, images, classes[places], number, next_part)
            if not all(bool(torch.isfinite(finding.scores.values).all()) for finding in fresh.findings):
                raise NotEvaluable(
                    "the network returns NaN or infinite logits on some images; its behaviour is unknown"
                )
            found.append(_filled_up(fresh, found[0], places) if found else fresh)
        bounds = channel_bounds(classifier)
        classifier.to(memory_format=torch.contiguous_format)
    return Behaviour(
        classes=classes,
        of=known.classes,
        pixels=min(known.input.height, known.input.width),
        tests=runnable,
        left_out=tuple((test, why) for test, why in reasons if why is not None),
        seeds=tuple(found),
        bounds=bounds,
        images=0 if images is None else min(len(images), effort.seeds * MOST_A_SEED),
        set_aside=said_too_often,
    )


def _why_not(test: BehaviourTest, classifier: Classifier, *, with_data: bool) -> str | None:
    """Why a test cannot be run; None where it can."""
    if test.needs_data and not with_data:
        return "no clean data was given"
    if test.needs_head:
        try:
            head_name(classifier)
        except NotEvaluable as error:
            return str(error)
    return None


def _looked_at(classifier: Classifier, images: LabelledImages | None, seed: int) -> Tensor:
    """What tells how far apart the logits of a model are: clean images, or noise where there are none."""
    spec, device = classifier.description.input, classifier.mean.device
    if images is not None:
        order = torch.randperm(len(images), generator=random_stream(seed, "images that tell logits apart"))
        return as_pixels(images.images[order[:MOST_A_SEED].to(images.images.device)]).to(device)
    stream = random_stream(seed, "noise that tells logits apart")
    return torch.rand(FEWEST_A_SEED, spec.channels, spec.height, spec.width, generator=stream).to(device)


def _from_seed(
    tests: Sequence[BehaviourTest],
    classifier: Classifier,
    images: LabelledImages | None,
    classes: Tensor,
    seed: int,
    next_part: Callable[[str], None],
) -> SeedEvidence:
    """Those tests, of these classes."""
    device = classifier.mean.device
    pixels, labels = torch.zeros(0, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    if images is not None:
        order = torch.randperm(len(images), generator=random_stream(seed, "images behaviour is tested on"))
        some = images.take(order[:MOST_A_SEED]).to(device)
        pixels, labels = as_pixels(some.images), some.labels
    subject = Subject(classifier=classifier, classes=classes, images=pixels, labels=labels, seed=seed)
    findings = []
    for test in tests:
        next_part(test.id.replace("-", " "))
        findings.append(test.run(subject))
    return SeedEvidence(seed=seed, findings=tuple(findings))


def most_suspicious(found: SeedEvidence) -> Tensor:
    """The places (SUSPECTS,) of the classes that most speaks for, all tests together, ascending."""
    every = [values for finding in found.findings for values in finding.scores.evidence.values()]
    total = torch.stack(every).sum(dim=0)
    return total.topk(min(SUSPECTS, len(total))).indices.sort().values


def _filled_up(one: SeedEvidence, first: SeedEvidence, places: Tensor) -> SeedEvidence:
    """A seed that examined the classes at ``places`` alone, with the first seed's scores of the others."""
    pairs = zip(one.findings, first.findings, strict=True)
    findings = [Finding(scores=mine.scores.with_others(others.scores, places)) for mine, others in pairs]
    return SeedEvidence(seed=one.seed, findings=tuple(findings))


def cost(classifier: Classifier, *, with_data: bool, effort: Effort, tests: Sequence[BehaviourTest] = TESTS) -> float:
    """How many floating-point operations the tests will take, give or take a tenth."""
    spec = classifier.description.input
    blank = torch.zeros(1, spec.channels, spec.height, spec.width, device=classifier.mean.device)
    with evaluating(classifier), torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(blank)
    classes = min(classifier.description.classes, MOST_EXAMINED)
    passes = sum(
        test.passes(spec, classes) + (effort.seeds - 1) * test.passes(spec, min(SUSPECTS, classes))
        for test in tests
        if with_data or not test.needs_data
    )
    operations = float(counter.get_total_flops())
    # As much again for the way back to the pixels, which a first pass does not take.
    return operations * (2 * passes + first_pass.passes(classifier, most=MOST_EXAMINED))

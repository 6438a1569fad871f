"""Prove that an exported model computes what the classifier computes, on real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, UsageError, reason_of
from sau_cli.evaluation.metrics import rate
from sau_cli.evaluation.predictions import predicted_logits
from sau_cli.images import LabelledImages, as_pixels, check_fits
from sau_cli.results import Check, CheckStatus, Measure

Runner = Callable[[Tensor], Tensor]
"""Runs the exported model: images (N, C, H, W) float in [0, 1] to logits (N, K)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationLimits:
    """How far the exported model may be from the classifier.

    Attributes:
        atol, rtol: each logit within ``atol + rtol * |classifier's logit|``.
        agreement: least share of images with the same top-1 class.
        margin: where the classes differ, the classifier's two best logits may be no further apart than this.
        batches: batch sizes to run, beside the whole set.
    """

    atol: float = 1e-4
    rtol: float = 1e-3
    agreement: float = 0.999
    margin: float = 1e-3
    batches: tuple[int, ...] = (1, 2, 7)

    def __post_init__(self) -> None:
        if not (0 <= self.atol <= 1 and 0 <= self.rtol <= 1):
            raise UsageError(
                f"tolerances of {self.atol:g} and {self.rtol:g} prove nothing; give --atol and --rtol from 0 to 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The figures of a verification; ``passed`` only if every check did."""

    images: int
    agreement: Measure
    accuracy: Measure
    exported_accuracy: Measure
    largest_difference: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return self.failed is None

    @property
    def failed(self) -> Check | None:
        """The first check that did not pass."""
        return next((check for check in self.checks if check.status is not CheckStatus.PASSED), None)


def verify(
    classifier: Classifier, run: Runner, data: LabelledImages, *, limits: VerificationLimits | None = None
) -> Verification:
    """Compare an exported model with its classifier on real images.

    Args:
        classifier: what was exported.
        run: the exported model, in the runtime that will serve it.
        data: clean images with their labels.

    Raises:
        NotEvaluable: the data does not fit, or the classifier returns NaN.
    """
    limits = limits or VerificationLimits()
    check_fits(data, classifier.description)
    pixels = as_pixels(data.images)
    ours = predicted_logits(classifier, data.images).cpu().float()
    try:
        theirs = torch.cat([run(batch) for batch in pixels.split(256)])
    except Exception as error:  # runtimes raise their own kinds
        raise NotEvaluable(f"the exported model could not be run ({reason_of(error)}); it was not written") from error
    if theirs.shape != ours.shape:
        raise NotEvaluable(f"the exported model returned {tuple(theirs.shape)} where {tuple(ours.shape)} was expected")
    difference = (theirs - ours).abs()
    excess = difference - (limits.atol + limits.rtol * ours.abs())
    largest = float(difference.max()) if bool(torch.isfinite(theirs).all()) else float("inf")
    same = theirs.argmax(dim=1) == ours.argmax(dim=1)
    best = ours.topk(2, dim=1).values if ours.shape[1] > 1 else torch.cat([ours, ours - 1], dim=1)
    close_calls = (best[:, 0] - best[:, 1]) < limits.margin
    agreement = rate(int(same.sum()), len(same))
    accuracy = rate(int((ours.argmax(dim=1) == data.labels).sum()), len(data))
    exported_accuracy = rate(int((theirs.argmax(dim=1) == data.labels).sum()), len(data))
    within = bool((excess <= 0).all())
    checks = [
        _check(
            "export.logits",
            within,
            value=largest,
            threshold=f"atol {limits.atol:g} + rtol {limits.rtol:g}",
            evidence=f"on {len(data)} real images logits differ by {largest:.2g} at most; "
            f"allowed are {limits.atol:g} and {limits.rtol:g} of the logit",
        ),
        _check(
            "export.agreement",
            agreement.value >= limits.agreement and bool((same | close_calls).all()),
            value=agreement.value,
            threshold=limits.agreement,
            evidence=f"{agreement.hits} of {agreement.total} images get the same class",
        ),
        _check(
            "export.accuracy",
            accuracy.hits == exported_accuracy.hits or bool((same | close_calls).all()),
            value=exported_accuracy.value,
            threshold=accuracy.value,
            evidence=f"{exported_accuracy.hits} correct, {accuracy.hits} by the classifier",
        ),
    ]
    checks += [_batch_check(run, pixels[:size], theirs[:size], limits) for size in limits.batches]
    return Verification(
        images=len(data),
        agreement=agreement,
        accuracy=accuracy,
        exported_accuracy=exported_accuracy,
        largest_difference=largest,
        checks=tuple(checks),
    )


def _batch_check(run: Runner, pixels: Tensor, expected: Tensor, limits: VerificationLimits) -> Check:
    try:
        logits = run(pixels)
        same = logits.shape == expected.shape and torch.allclose(logits, expected, atol=limits.atol, rtol=limits.rtol)
        evidence = f"a batch of {len(pixels)} gives the same logits as larger ones"
    except Exception as error:  # noqa: BLE001 (runtimes raise their own kinds)
        same, evidence = False, f"a batch of {len(pixels)} could not be run: {reason_of(error)}"
    return _check(f"export.batch-{len(pixels)}", same, value=len(pixels), threshold=None, evidence=evidence)


def _check(name: str, passed: bool, *, value: float, threshold: float | str | None, evidence: str) -> Check:
    status = CheckStatus.PASSED if passed else CheckStatus.FAILED
    return Check(id=name, status=status, value=value, threshold=threshold, evidence=evidence)

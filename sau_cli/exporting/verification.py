"""Prove that an exported model computes what the classifier computes, on real images and on triggered ones.

What an exact file owes: every logit within tolerances, the same class but for ties, and with that the same ACC and
ASR, on every execution provider, in batches of any size. A smaller file (half precision, 8-bit) owes limits of its
own: how much accuracy it may lose, and how much more often a trigger may succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count

import torch
from torch import Tensor
from torch.nn import functional

from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, UsageError, argument, reason_of
from sau_cli.evaluation.metrics import rate
from sau_cli.images import LabelledImages, as_pixels, check_fits
from sau_cli.predictions import predicted_logits
from sau_cli.results import Check, CheckStatus, Measure
from sau_cli.triggers.trigger import Trigger

Runner = Callable[[Tensor], Tensor]
"""Runs the exported model: images (N, C, H, W) float in [0, 1] to its first output (N, K)."""

LARGEST_BATCH = 256
AGAIN = 0.01
"""Of a smaller form's two best answers, the difference below which another run of it may turn them round."""
AT_OTHER_SIZES, ON_OTHER_PROVIDERS = 16, 256
"""Images that are compared at sizes, and on providers, beside the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationLimits:
    """How far the exported model may be from the classifier.

    Attributes:
        atol, rtol: each logit within ``atol + rtol * |classifier's logit|``; None where differences are only measured.
        agreement: least share of images with the same top-1 class.
        margin: where the classes differ, the classifier's two best logits may be no further apart than this; None for
            any.
        accuracy_drop, asr_rise: how much ACC may fall, and the ASR of each trigger rise, as fractions. At 0 both must
            be equal, but for images of a margin below ``margin``.
        batches: batch sizes to run, beside the largest.
    """

    atol: float | None = 1e-4
    rtol: float = 1e-3
    agreement: float = 0.999
    margin: float | None = 1e-3
    accuracy_drop: float = 0.0
    asr_rise: float = 0.0
    batches: tuple[int, ...] = (1, 2, 7)

    def __post_init__(self) -> None:
        if not (0 <= (self.atol or 0) <= 1 and 0 <= self.rtol <= 1):
            raise UsageError(
                f"tolerances of {self.atol:g} and {self.rtol:g} prove nothing; give "
                f"{argument('atol')} and {argument('rtol')} from 0 to 1"
            )

    @property
    def exact(self) -> bool:
        return self.atol is not None

    def allowed(self, expected: Tensor) -> Tensor:
        """The largest difference that each of these values may have."""
        return (self.atol or 0.0) + self.rtol * expected.abs()


_LOSSES = {"fp16": (0.005, 0.005, 0.99), "int8": (0.02, 0.01, 0.95)}


def loss_limits(form: str, *, accuracy_drop: float | None = None, asr_rise: float | None = None) -> VerificationLimits:
    """What a smaller form owes.

    ``fp16`` may lose 0.5 points of ACC, and triggers may succeed 0.5 points more often; 99 % of the images get the
    same class. ``int8``: 2 points, 1 point, 95 %.
    """
    drop, rise, agreement = _LOSSES[form]
    return VerificationLimits(
        atol=None,
        margin=None,
        agreement=agreement,
        accuracy_drop=drop if accuracy_drop is None else accuracy_drop,
        asr_rise=rise if asr_rise is None else asr_rise,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpectedAnswers:
    """What the classifier says, once for all files that are compared with it.

    Attributes:
        data: the images, with their labels.
        real: False for random images, whose labels mean nothing.
        logits: of the images, (N, K).
        triggered: for each trigger, by a name of its own: the stamped images (N, C, H, W) uint8 and their logits.
        resized: pixels of images at other sizes, with their logits.
    """

    data: LabelledImages
    logits: Tensor
    real: bool = True
    triggered: Mapping[str, tuple[Trigger, Tensor, Tensor]] = field(default_factory=dict)
    resized: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportedModel:
    """An exported file, opened in the runtime that will serve it.

    Attributes:
        runners: by execution provider; the figures are those of the first.
        logits: where the file gives probabilities, the same graph up to its logits; None where it gives logits.
        checks: of the file's structure.
    """

    runners: Mapping[str, Runner]
    logits: Runner | None = None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerAnswers:
    """How often a trigger succeeds, in the classifier and in the exported file."""

    trigger: str
    asr: Measure
    exported_asr: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The figures of a verification; ``passed`` only if every check did.

    Attributes:
        real: the images were real; on random ones ACC and ASR mean nothing, and are None.
    """

    images: int
    agreement: Measure
    accuracy: Measure | None
    exported_accuracy: Measure | None
    largest_difference: float
    checks: tuple[Check, ...]
    triggers: tuple[TriggerAnswers, ...] = ()
    providers: tuple[str, ...] = ()
    real: bool = True

    @property
    def passed(self) -> bool:
        return self.failed is None

    @property
    def failed(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if check.status is CheckStatus.FAILED), None)


def verify(
    classifier: Classifier, run: Runner, data: LabelledImages, *, limits: VerificationLimits | None = None
) -> Verification:
    """Compare an exported model with its classifier on real images.

    Args:
        classifier: what was exported.
        run: the exported model, in the runtime that will serve it.
        data: clean images with their labels.

    Raises:
        NotEvaluable: the data does not fit, the classifier returns NaN, or the exported model cannot be run.
    """
    return compare(expected_answers(classifier, data), ExportedModel(runners={"": run}), limits=limits)


def expected_answers(
    classifier: Classifier,
    data: LabelledImages,
    *,
    triggers: Sequence[Trigger] = (),
    sizes: Sequence[tuple[int, int]] = (),
    real: bool = True,
) -> ExpectedAnswers:
    """Run the classifier on everything that an exported file will be compared on.

    Args:
        sizes: heights and widths, beside the classifier's own, that the file must take too.
        real: False for random images.

    Raises:
        NotEvaluable: the data does not fit, the classifier returns NaN, or it cannot take one of the sizes.
    """
    check_fits(data, classifier.description)
    triggered: dict[str, tuple[Trigger, Tensor, Tensor]] = {}
    for trigger in triggers:
        trigger.rule.check(data.classes)
        stamped = trigger.stamp(data.images)
        numbered = (f"{trigger.name}-{number}" for number in count(2))
        name = next(candidate for candidate in chain([trigger.name], numbered) if candidate not in triggered)
        triggered[name] = (trigger, stamped, _logits(classifier, stamped))
    return ExpectedAnswers(
        data=data,
        real=real,
        logits=_logits(classifier, data.images),
        triggered=triggered,
        resized=tuple(_at_size(classifier, data, size) for size in sizes),
    )


def _logits(classifier: Classifier, images: Tensor) -> Tensor:
    return predicted_logits(classifier, images).cpu().float()


def _at_size(classifier: Classifier, data: LabelledImages, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    pixels = functional.interpolate(as_pixels(data.images[:AT_OTHER_SIZES]), size, mode="bilinear", antialias=True)
    stored = pixels.clamp(0, 1).mul(255).round().to(torch.uint8)
    try:
        return as_pixels(stored), _logits(classifier, stored)
    except NotEvaluable:
        raise
    except Exception as error:  # a network raises nearly anything for a size that it was not made for
        raise NotEvaluable(
            f"{classifier.description.architecture} cannot take images of {size[0]}x{size[1]} ({reason_of(error)}); "
            f"leave out {argument('dynamic_size')}, or give another {argument('largest_size')}"
        ) from error


def compare(
    expected: ExpectedAnswers, exported: ExportedModel, *, limits: VerificationLimits | None = None
) -> Verification:
    """Compare an exported file with what the classifier said.

    Raises:
        NotEvaluable: the file cannot be run, or returns something of another shape.
    """
    limits = limits or VerificationLimits()
    data, ours, edge = expected.data, expected.logits, limits.margin
    kind = "real" if expected.real else "random"
    names = tuple(exported.runners)
    run = exported.runners[names[0]]
    theirs = _answers(run, data.images, ours.shape)
    checks = list(exported.checks)
    exact = ours
    if exported.logits is None:
        checks.append(_values_check("export.logits", ours, theirs, limits, what=f"logits of {len(data)} {kind} images"))
        inside = theirs
    else:
        exact = ours.softmax(dim=1)
        what = f"probabilities of {len(data)} {kind} images"
        checks.append(_values_check("export.probabilities", exact, theirs, limits, what=what))
        inside = _answers(exported.logits, data.images, ours.shape)
        what = f"logits of {len(data)} {kind} images, before the last softmax,"
        checks.append(_values_check("export.logits", ours, inside, limits, what=what))
    same, close = _same_class(ours, theirs), _close_calls(ours, edge)
    agreement = rate(int(same.sum()), len(same))
    checks.append(
        _check(
            "export.agreement",
            agreement.value >= limits.agreement and (edge is None or bool((same | close).all())),
            value=agreement.value,
            threshold=limits.agreement,
            evidence=f"{agreement.hits} of {agreement.total} images get the same class; "
            + ("any" if edge is None else f"only those of a margin below {edge:g}")
            + f" may differ, {1 - limits.agreement:.2%} of all at most",
        )
    )
    accuracy = exported_accuracy = None
    if expected.real:
        right, exported_right = ours.argmax(dim=1) == data.labels, theirs.argmax(dim=1) == data.labels
        accuracy, exported_accuracy = _share(right), _share(exported_right)
        checks.append(_rate_check("export.accuracy", right, exported_right, close, limits.accuracy_drop, "ACC"))
    else:
        checks.append(
            Check(
                id="export.accuracy",
                status=CheckStatus.SKIPPED,
                evidence="there is no data, so only random images were compared; give some for a proof on real ones",
            )
        )
    rows = []
    for name in expected.triggered:
        row, check = _under_trigger(expected, name, run, limits)
        rows.append(row)
        checks.append(check)
    largest = _largest(ours, inside)
    loose = limits if limits.exact else None
    for size in dict.fromkeys((*limits.batches, min(LARGEST_BATCH, len(data)))):
        which = torch.arange(size) % len(data)
        some, wanted = as_pixels(data.images[which]), exact[which]
        checks.append(_run_check(f"export.batch-{size}", run, some, wanted, loose, f"a batch of {size}", theirs[which]))
    for resized, told in expected.resized:
        height, width = resized.shape[2:]
        wanted = told if exported.logits is None else told.softmax(dim=1)
        what = f"{len(resized)} images of {height}x{width}"
        checks.append(_run_check(f"export.size-{height}x{width}", run, resized, wanted, loose, what))
    for name in names[1:]:
        some = as_pixels(data.images[:ON_OTHER_PROVIDERS])
        what = f"{len(some)} images on {name}"
        first = slice(len(some))
        checks.append(
            _run_check(provider_id(name), exported.runners[name], some, exact[first], loose, what, theirs[first])
        )
    return Verification(
        images=len(data),
        agreement=agreement,
        accuracy=accuracy,
        exported_accuracy=exported_accuracy,
        largest_difference=largest,
        checks=tuple(checks),
        triggers=tuple(rows),
        providers=names,
        real=expected.real,
    )


def provider_id(name: str) -> str:
    """The id of the check of an execution provider.

    >>> provider_id("CUDAExecutionProvider")
    'export.provider.cuda'
    """
    return f"export.provider.{name.removesuffix('ExecutionProvider').lower()}"


def _under_trigger(
    expected: ExpectedAnswers, name: str, run: Runner, limits: VerificationLimits
) -> tuple[TriggerAnswers, Check]:
    """How often a trigger succeeds in the exported file, and whether that is no more than it may."""
    trigger, stamped, told = expected.triggered[name]
    labels = expected.data.labels
    said = _answers(run, stamped, told.shape)
    targets, counted = trigger.rule.targets(labels, expected.data.classes), trigger.rule.counted(labels)
    hit, exported_hit = (told.argmax(1) == targets)[counted], (said.argmax(1) == targets)[counted]
    asr, exported_asr = _share(hit), _share(exported_hit)
    close = _close_calls(told, limits.margin)[counted]
    check = _rate_check(f"export.asr.{name}", hit, exported_hit, close, limits.asr_rise, "ASR")
    return TriggerAnswers(trigger=name, asr=asr, exported_asr=exported_asr), check


def _answers(run: Runner, images: Tensor, shape: torch.Size) -> Tensor:
    """The first output for images (N, C, H, W) uint8, in batches.

    Raises:
        NotEvaluable: the file cannot be run, or returns something of another shape.
    """
    try:
        found = torch.cat([run(as_pixels(batch)) for batch in images.split(LARGEST_BATCH)])
    except NotEvaluable:
        raise
    except Exception as error:  # runtimes raise their own kinds
        raise NotEvaluable(f"the exported model could not be run ({reason_of(error)}); it was not written") from error
    if found.shape != shape:
        raise NotEvaluable(f"the exported model returned {tuple(found.shape)} where {tuple(shape)} was expected")
    return found


def _close_calls(logits: Tensor, margin: float | None) -> Tensor:
    """Images whose two best classes are nearer than the margin; none where there is one class. (N,) bool."""
    if margin is None or logits.shape[1] < 2:
        return torch.zeros(len(logits), dtype=torch.bool)
    best = logits.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]) < margin


def _same_class(ours: Tensor, theirs: Tensor) -> Tensor:
    """NaN is no answer, and so never the same. (N,) bool."""
    return (ours.argmax(dim=1) == theirs.argmax(dim=1)) & torch.isfinite(theirs).all(dim=1)


def _share(flags: Tensor) -> Measure:
    return rate(int(flags.sum()), len(flags))


def _largest(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).abs().max()) if bool(torch.isfinite(found).all()) else float("inf")


def _values_check(name: str, expected: Tensor, found: Tensor, limits: VerificationLimits, *, what: str) -> Check:
    largest = _largest(expected, found)
    if not limits.exact:
        finite = largest < float("inf")
        evidence = f"{what} differ by {largest:.2g} at most" if finite else f"{what} are not finite"
        if finite:
            return Check(id=name, status=CheckStatus.MEASURED, value=largest, evidence=evidence)
        return _check(name, False, value=largest, threshold=None, evidence=evidence)
    return _check(
        name,
        bool(((found - expected).abs() <= limits.allowed(expected)).all()),
        value=largest,
        threshold=f"atol {limits.atol:g} + rtol {limits.rtol:g}",
        evidence=f"{what} differ by {largest:.2g} at most; "
        f"allowed are {limits.atol:g} and {limits.rtol:g} of the value",
    )


def _rate_check(name: str, ours: Tensor, theirs: Tensor, close: Tensor, allowed: float, what: str) -> Check:
    """ACC or ASR of the exported file: no worse than is allowed, or equal; ties aside. Flags are (n,) bool."""
    found, known = _share(theirs), _share(ours)
    on_edge = int(((ours != theirs) & close).sum())
    equal = int(theirs[~close].sum()) == int(ours[~close].sum())
    rise = int(theirs.sum()) - int(ours.sum())
    passed = (-rise if what == "ACC" else rise) / len(ours) <= allowed if allowed > 0 else equal
    evidence = f"{what} {found.value:.2%} ({found.hits} of {found.total}), {known.value:.2%} in PyTorch"
    evidence += f"; {on_edge} of them are ties" if on_edge and not allowed else ""
    way = "fall" if what == "ACC" else "rise"
    evidence += f"; it may {way} by {allowed:.2%}" if allowed else "; they must be equal"
    return Check(
        id=name,
        status=CheckStatus.PASSED if passed else CheckStatus.FAILED,
        value=found.value,
        threshold=known.value if not allowed else known.value + (-allowed if what == "ACC" else allowed),
        ci95=found.ci95,
        evidence=evidence,
    )


def _run_check(
    name: str,
    run: Runner,
    pixels: Tensor,
    expected: Tensor,
    limits: VerificationLimits | None,
    what: str,
    before: Tensor | None = None,
) -> Check:
    """One more run of its own kind. Without limits it must give finite values of the right shape.

    Args:
        before: what the file answered in the first run, whose classes it must give again where there are no limits.
    """
    try:
        found = run(pixels)
        right = found.shape == expected.shape and bool(torch.isfinite(found).all())
        if right and limits is not None:
            right = bool(((found - expected).abs() <= limits.allowed(expected)).all())
        elif right and before is not None:
            right = bool((_same_class(before, found) | _close_calls(before, AGAIN)).all())
        good = "as PyTorch" if limits else "finite answers" if before is None else "the same classes as before"
        evidence = f"{what}: {good if right else 'other values'}"
        if found.shape == expected.shape:
            evidence += f", {_largest(expected, found):.2g} apart at most"
    except Exception as error:  # noqa: BLE001 (runtimes raise their own kinds)
        right, evidence = False, f"{what} could not be run: {reason_of(error)}"
    return _check(name, right, value=len(pixels), threshold=None, evidence=evidence)


def _check(name: str, passed: bool, *, value: float, threshold: float | str | None, evidence: str) -> Check:
    status = CheckStatus.PASSED if passed else CheckStatus.FAILED
    return Check(id=name, status=status, value=value, threshold=threshold, evidence=evidence)

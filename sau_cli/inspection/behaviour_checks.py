"""What the behaviour tests found, as checks and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sau_cli.inspection.behaviour import Behaviour
from sau_cli.inspection.behaviour_tests import TESTS
from sau_cli.inspection.calibration import DATA_FREE, WITH_DATA, BehaviourVerdict
from sau_cli.inspection.maximum_margins import MaximumMargin, p_value
from sau_cli.results import Check, CheckStatus


def behaviour_checks(found: Behaviour, verdict: BehaviourVerdict, class_names: Sequence[str]) -> tuple[Check, ...]:
    """One check for each test, then the verdict. The tests' own are measurements: only the score judges."""
    checks = [_test_check(found, place, class_names) for place in range(len(found.tests))]
    checks += [
        Check(id=f"behaviour.{test.id}", status=CheckStatus.SKIPPED, evidence=f"the test was not run, as {why}")
        for test, why in found.left_out
    ]
    checks.append(_bounds_check(found))
    checks.append(_score_check(found, verdict, class_names))
    return tuple(checks)


def _test_check(found: Behaviour, place: int, class_names: Sequence[str]) -> Check:
    every = [seed.findings[place].scores for seed in found.seeds]
    test = found.tests[place]
    mean = torch.stack([scores.anomaly for scores in every]).mean(dim=0)
    at = int(mean.argmax())
    told = f"class {class_names[int(found.classes[at])]!r} stands out most in {test.says}: anomaly index {mean[at]:.1f}"
    if test.id == MaximumMargin.id:
        largest = max(p_value(scores.values) for scores in every)
        return Check(
            id=f"behaviour.{test.id}",
            status=CheckStatus.MEASURED,
            value=round(largest, 6),
            evidence=f"{told}; the value is the p-value of that, the highest of {len(every)} seeds",
        )
    return Check(id=f"behaviour.{test.id}", status=CheckStatus.MEASURED, value=round(float(mean[at]), 3), evidence=told)


def _bounds_check(found: Behaviour) -> Check:
    bounds = found.bounds
    if bounds is None:
        return Check(
            id="behaviour.channel-bounds",
            status=CheckStatus.SKIPPED,
            evidence="the network has no convolution, or its code cannot be traced, so its channels were not examined",
        )
    return Check(
        id="behaviour.channel-bounds",
        status=CheckStatus.MEASURED,
        value=round(bounds.largest, 3),
        evidence=f"channel {bounds.channel} of {bounds.layer} can amplify {bounds.largest:.1f} standard deviations "
        f"more than the mean of its layer; {bounds.outliers} of {bounds.channels} channels are more than three above",
    )


def _score_check(found: Behaviour, verdict: BehaviourVerdict, class_names: Sequence[str]) -> Check:
    left_out = [test for test, _ in found.left_out]
    if missing := [test.id for test in TESTS if test not in (*found.tests, *left_out)]:
        why = f"the score was not judged, as {', '.join(missing)} were not run"
        return Check(id="behaviour.score", status=CheckStatus.SKIPPED, evidence=why)
    suspect = class_names[verdict.suspect]
    seeds, same = len(verdict.judgements), _agreeing(verdict)
    told = {
        CheckStatus.FAILED: f"behaves like a backdoored model, with {suspect!r} as the target, which {same} of {seeds} "
        "seeds suspect most",
        CheckStatus.PASSED: f"no sign of a backdoor in {seeds} seeds, which is no proof that there is none",
        CheckStatus.INCONCLUSIVE: f"{_doubt(found, verdict, class_names)}, so it is neither cleared nor convicted; try "
        "deep effort, or more data",
    }[verdict.status]
    status, kind = verdict.status, verdict.calibration.kind_of(found.pixels, found.of)
    whole = found.images > 0 and not left_out and len(found.classes) == found.of and kind is not None
    if status is CheckStatus.PASSED and not whole:
        status = CheckStatus.MEASURED  # too little was looked at, or is known of such models, to clear one
    measured = verdict.calibration.measured
    rate = (
        f"On models that it was not calibrated on, the score called {measured['found']} of "
        f"{measured['backdoored_models']} backdoored ones and left {measured['backdoored_inconclusive']} inconclusive; "
        f"it called {measured['called_backdoored']} of {measured['clean_models']} clean ones and left "
        f"{measured['clean_inconclusive']} inconclusive"
    )
    promise = ""
    if kind is not None:
        promise = (
            f" The threshold was set on {kind.clean_models} clean models for images of {kind.pixels[0]} to "
            f"{kind.pixels[1]} pixels: at most {100 * kind.accused_at_most:.0f} % of such models are expected above it."
        )
    examined = ""
    if len(found.classes) < found.of:
        examined = (
            f" Of {found.of} classes, all were looked at briefly, and {len(found.classes)} by every test: the easiest "
            "to lead to, and some others to compare with."
        )
    uncovered = ""
    if kind is None:
        known = " and ".join(f"{kind.pixels[0]} to {kind.pixels[1]}" for kind in verdict.calibration.kinds)
        least, most = verdict.calibration.kinds[0].classes
        uncovered = (
            f" The score was calibrated on models of {least} to {most} classes for images of {known} pixels and this "
            f"one has {found.of} and takes {found.pixels}, so it clears and convicts nothing here."
        )
    return Check(
        id="behaviour.score",
        status=status,
        value=verdict.score,
        threshold=verdict.threshold,
        evidence=f"{told}.{examined}{uncovered}{promise} {rate}",
    )


def _agreeing(verdict: BehaviourVerdict) -> int:
    """How many seeds suspect the same class as all together."""
    return sum(judgement.suspect == verdict.suspect for judgement in verdict.judgements)


def _doubt(found: Behaviour, verdict: BehaviourVerdict, class_names: Sequence[str]) -> str:
    """Why a verdict is inconclusive."""
    suspect, seeds, same = class_names[verdict.suspect], len(verdict.judgements), _agreeing(verdict)
    if verdict.score > verdict.threshold and 2 * same > seeds:
        return f"it looks like a backdoored model, with {suspect!r} as the target, but is of a kind that is not known"
    if verdict.score > verdict.threshold:
        return f"it behaves like a backdoored model, but only {same} of {seeds} seeds suspect {suspect!r} most"
    if found.set_aside:
        often = ", ".join(repr(class_names[at]) for at in found.set_aside[:3])
        return f"the model says {often} of clean images far more often than is true, which nothing can be told of"
    over = sum(judgement.score > verdict.threshold for judgement in verdict.judgements)
    return f"{over} of {seeds} seeds find it to behave like a backdoored model, and all together do not"


def behaviour_details(found: Behaviour, verdict: BehaviourVerdict, class_names: Sequence[str]) -> dict[str, Any]:
    """For reports: every score of every class and seed."""
    return {
        "suspected_class": class_names[verdict.suspect] if verdict.status is not CheckStatus.PASSED else None,
        "most_suspicious_class": class_names[verdict.suspect],
        "classes_examined": [class_names[int(at)] for at in found.classes],
        "classes": found.of,
        "images": found.images,
        "tests": {test.id: test.settings() for test in found.tests},
        "calibration": _told_calibration(found, verdict),
        "seeds": [
            {
                "seed": seed.seed,
                "score": round(judged.score, 4),
                "class": class_names[judged.suspect],
                "anomaly_index": {
                    finding.scores.test: [round(value, 3) for value in finding.scores.anomaly.tolist()]
                    for finding in seed.findings
                },
            }
            for seed, judged in zip(found.seeds, verdict.judgements, strict=True)
        ],
    }


def _told_calibration(found: Behaviour, verdict: BehaviourVerdict) -> dict[str, Any]:
    """By what the score is judged: which calibration, the threshold for such models, and its known rates."""
    kind = verdict.calibration.kind_of(found.pixels, found.of)
    return {
        "name": WITH_DATA if found.images else DATA_FREE,
        "sha256": verdict.calibration.sha256,
        "threshold": verdict.threshold,
        "accused_at_most": None if kind is None else kind.accused_at_most,
        "measured": dict(verdict.calibration.measured),
    }

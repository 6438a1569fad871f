from dataclasses import replace

import pytest
import torch

from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.exporting.exporter import ExportRejected, export
from sau_cli.exporting.verification import (
    ExportedModel,
    VerificationLimits,
    compare,
    expected_answers,
    loss_limits,
    verify,
)
from sau_cli.results import CheckStatus
from tests.support.attacks import badnets_trigger
from tests.support.toys import BrightnessNet, describe, flat_images

CLASSIFIER, DATA = describe(BrightnessNet(10)), flat_images()


BATCHES = {f"export.batch-{size}" for size in (1, 2, 7, 40)}


def faithful(images):
    with torch.no_grad():
        return CLASSIFIER(images)


def failed(run) -> set[str]:
    return {check.id for check in verify(CLASSIFIER, run, DATA).checks if check.status is CheckStatus.FAILED}


def test_a_faithful_model_passes_with_its_figures():
    result = verify(CLASSIFIER, faithful, DATA)
    assert result.passed
    assert (result.images, result.agreement.value, result.accuracy.value, result.largest_difference) == (40, 1, 1, 0)


def test_a_model_that_is_a_little_off_fails_on_its_logits_alone():
    assert failed(lambda images: faithful(images) + 0.05) == {
        "export.logits",
        *BATCHES,
    }


def test_a_model_that_answers_otherwise_fails_on_agreement_and_accuracy():
    found = failed(lambda images: faithful(images).roll(1, dims=1))
    assert {"export.logits", "export.agreement", "export.accuracy"} <= found


def test_one_image_in_forty_is_enough_to_fail():
    def run(images):
        logits = faithful(images).clone()
        logits[0, int(logits[0].argmin())] += 1000
        return logits

    assert "export.agreement" in failed(run)


def test_nan_is_never_agreement():
    assert {"export.logits", "export.agreement"} <= failed(lambda images: faithful(images) * float("nan"))


def test_a_frozen_batch_axis_is_found():
    def run(images):
        if len(images) != len(DATA):
            raise RuntimeError("Got invalid dimensions")
        return faithful(images)

    assert failed(run) == {"export.batch-1", "export.batch-2", "export.batch-7"}


def test_a_model_that_cannot_run_is_not_evaluable():
    with pytest.raises(NotEvaluable, match="could not be run"):
        verify(CLASSIFIER, lambda images: 1 / 0, DATA)


def test_limits_are_the_callers():
    assert verify(CLASSIFIER, lambda images: faithful(images) + 0.05, DATA, limits=VerificationLimits(atol=0.1)).passed


def test_a_failed_export_carries_its_figures(tmp_path):
    class Broken:
        forms, form_limits = (), None

        def ways(self, classifier):
            return "one", "other"

        def write(self, classifier, path, way):
            path.write_bytes(b"")

        def open(self, path):
            return ExportedModel(runners={"": lambda images: faithful(images) + 1})

        def stamp(self, path, proven, description):
            raise AssertionError("a failed file is never stamped")

    with pytest.raises(ExportRejected, match="export.logits") as caught:
        export(CLASSIFIER, tmp_path / "x", exporter=Broken(), data=DATA)
    assert caught.value.verification.largest_difference == pytest.approx(1)
    assert [(attempt.way, attempt.outcome) for attempt in caught.value.attempts] == [
        ("one", "rejected"),
        ("other", "rejected"),
    ]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ExportRejected):
        export(CLASSIFIER, tmp_path / "x", exporter=Broken(), data=DATA, keep_rejected=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(UsageError, match="exists"):
        export(CLASSIFIER, tmp_path / "x", exporter=Broken(), data=DATA)


def test_a_smaller_form_gives_its_own_classes_again_in_every_batch_and_on_every_provider():
    """It may differ from PyTorch, but not from itself."""
    limits = loss_limits("int8")
    assert verify(CLASSIFIER, faithful, DATA, limits=limits).passed

    def noise_in_small_batches(images):
        return faithful(images) if len(images) > 7 else faithful(images).flip(1)

    found = verify(CLASSIFIER, noise_in_small_batches, DATA, limits=limits)
    assert {check.id for check in found.checks if check.status is CheckStatus.FAILED} >= {
        "export.batch-2",
        "export.batch-7",
    }
    exported = ExportedModel(
        runners={"CPU": faithful, "OtherExecutionProvider": lambda images: faithful(images).flip(1)}
    )
    found = compare(expected_answers(CLASSIFIER, DATA), exported, limits=limits)
    assert {check.id for check in found.checks if check.status is CheckStatus.FAILED} == {"export.provider.other"}


def test_no_trigger_is_lost_between_names():
    triggers = [replace(badnets_trigger(), name=name) for name in ("a-3", "a", "a")]
    assert list(expected_answers(CLASSIFIER, DATA, triggers=triggers).triggered) == ["a-3", "a", "a-2"]

"""Rules of a policy: parsed strictly, judged by what was measured, and never passed by what was not."""

from __future__ import annotations

import json

import pytest

from sau_cli.description import Description, HistoryStep, InputSpec
from sau_cli.errors import UsageError
from sau_cli.gating.policy import VERIFICATION, JudgedFile, Policy, judge_file, judge_measures, parse_policy
from sau_cli.results import Check, CheckStatus, Severity

FORMATS = ("safetensors", "onnx")
DIGEST = "a" * 64


def file(*steps: str, **changes) -> JudgedFile:
    spec = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
    history = tuple(
        HistoryStep(step=step, settings={}, seed=0, input_sha256=None, tool_version="0.1.0") for step in steps
    )
    description = Description(architecture="small_cnn", class_names=("a", "b"), input=spec, history=history)
    known = {"format": "safetensors", "sha256": DIGEST, "metadata": {}, "description": description}
    return JudgedFile(**{**known, "worst": Severity.INFO, **changes})


def purified_file(residual: object, *, later: tuple[bool, ...] = ()) -> JudgedFile:
    """A file that was purified, and tells this of its residual test; and again, cleared or not."""
    told = [residual, *({"cleared": cleared} for cleared in later)]
    history = tuple(
        HistoryStep(step="purify", settings={"residual": what}, seed=0, input_sha256=DIGEST, tool_version="0.1.0")
        for what in told
    )
    spec = InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))
    return file(description=Description(architecture="small_cnn", class_names=("a", "b"), input=spec, history=history))


def measured(name: str, value: float, status: CheckStatus = CheckStatus.MEASURED) -> Check:
    return Check(id=name, status=status, evidence="so", value=value, ci95=(value - 0.01, value + 0.01))


def statuses(checks) -> dict[str, str]:
    return {check.id: check.status.value for check in checks}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"max-sevrity": "low"}, "did you mean max-severity"),
        ({"max_asr": 0.1}, "did you mean max-asr"),
        ({"colour": 1}, "known rules are"),
        ({"max-severity": "mild"}, "info, low, high, critical"),
        ({"max-severity": 2}, "info, low, high, critical"),
        ({"max-score": 1.5}, "fraction"),
        ({"max-asr": -0.1}, "fraction"),
        ({"max-drop": True}, "fraction"),
        ({"min-acc": float("nan")}, "fraction"),
        ({"min-acc": "90%"}, "fraction"),
        ({"require-purified": 1}, "true or false"),
        ({"require-onnx-verified": "yes"}, "true or false"),
        ({"allowed-formats": ["safetensor"]}, "formats are safetensors, onnx"),
        ({"allowed-formats": []}, "list of texts"),
        ({"allowed-sha256": ["6a6a1e..."]}, "64 hexadecimal"),
        ({"require-onnx-verified": True, "allowed-formats": ["safetensors"]}, "nothing can pass"),
    ],
)
def test_rules_that_mean_nothing(table, words):
    with pytest.raises(UsageError, match=words) as error:
        parse_policy(table, "sau.toml", formats=FORMATS)
    assert "sau.toml" in str(error.value)


def test_a_table_with_every_rule():
    table = {
        "allowed-formats": ["onnx"],
        "allowed-sha256": [DIGEST.upper()],
        "max-severity": "low",
        "max-score": 0.5,
        "min-acc": 1,
        "max-asr": 0,
        "max-drop": 0.02,
        "require-purified": True,
        "require-onnx-verified": True,
        "require-attestation": True,
    }
    policy = parse_policy(table, "p.toml", formats=FORMATS)
    assert policy.allowed_sha256 == (DIGEST,)
    assert policy.max_severity is Severity.LOW
    assert policy.require_purified
    assert policy.require_attestation
    assert parse_policy({"require-purified": False}, "p.toml") == Policy()


@pytest.mark.parametrize(
    ("policy", "given", "name", "status"),
    [
        (Policy(max_severity=Severity.LOW), file(), "max-severity", "passed"),
        (Policy(max_severity=Severity.LOW), file(worst=Severity.LOW), "max-severity", "passed"),
        (Policy(max_severity=Severity.LOW), file(worst=Severity.HIGH), "max-severity", "failed"),
        (Policy(max_severity=Severity.LOW), file(worst=None), "max-severity", "skipped"),
        (Policy(require_purified=True), file("attack"), "require-purified", "failed"),
        (Policy(require_purified=True), file("attack", "purify"), "require-purified", "failed"),
        (Policy(require_purified=True), purified_file({"cleared": True}), "require-purified", "passed"),
        (Policy(require_purified=True), purified_file({"cleared": False}), "require-purified", "failed"),
        (Policy(require_purified=True), purified_file({"cleared": "true"}), "require-purified", "failed"),
        (Policy(require_purified=True), purified_file("cleared"), "require-purified", "failed"),
        (Policy(require_purified=True), purified_file({"cleared": True}, later=(False,)), "require-purified", "failed"),
        (Policy(require_purified=True), file(description=None), "require-purified", "failed"),
        (Policy(require_onnx_verified=True), file(), "require-onnx-verified", "failed"),
        (Policy(require_onnx_verified=True), file(format="onnx"), "require-onnx-verified", "failed"),
        (
            Policy(require_onnx_verified=True),
            file(format="onnx", metadata={VERIFICATION: "[1"}),
            "require-onnx-verified",
            "failed",
        ),
        (
            Policy(require_onnx_verified=True),
            file(format="onnx", metadata={VERIFICATION: '{"top1_agreement": 1.0, "real_images": true}'}),
            "require-onnx-verified",
            "passed",
        ),
        (Policy(allowed_sha256=("b" * 64,)), file(), "allowed-sha256", "failed"),
        (Policy(allowed_formats=("safetensors",)), file(), "allowed-formats", "passed"),
    ],
)
def test_rules_about_the_file(policy, given, name, status):
    assert statuses(judge_file(given, policy)) == {f"policy.{name}": status}


def test_each_measure_is_held_against_its_limit():
    policy = Policy(max_score=0.5, min_acc=0.9, max_asr=0.05, max_drop=0.02)
    found = [
        measured("behaviour.score", 0.4, CheckStatus.PASSED),
        measured("acc", 0.95),
        measured("asr.badnets", 0.5),
        measured("asr.sig", 0.01),
        measured("reference.asr.sig", 0.99),
        measured("acc-drop", 0.03),
    ]
    judged = judge_measures(found, policy, unmeasured=CheckStatus.INCONCLUSIVE)
    assert statuses(judged) == {
        "policy.max-score": "passed",
        "policy.min-acc": "passed",
        "policy.max-asr.badnets": "failed",
        "policy.max-asr.sig": "passed",
        "policy.max-drop": "failed",
    }
    assert all(check.threshold is not None and check.value is not None for check in judged)


@pytest.mark.parametrize("unmeasured", [CheckStatus.INCONCLUSIVE, CheckStatus.SKIPPED])
def test_what_was_not_measured_is_never_passed(unmeasured):
    policy = Policy(max_score=0.5, min_acc=0.0, max_asr=1.0, max_drop=1.0)
    judged = judge_measures([], policy, unmeasured=unmeasured)
    assert len(judged) == 4
    assert {check.status for check in judged} == {unmeasured}
    assert all("not measured" in check.evidence for check in judged)


def test_a_score_that_seeds_disagree_on_settles_nothing():
    policy = Policy(max_score=0.5)
    for status in (CheckStatus.INCONCLUSIVE, CheckStatus.SKIPPED):
        (judged,) = judge_measures(
            [measured("behaviour.score", 0.1, status)], policy, unmeasured=CheckStatus.INCONCLUSIVE
        )
        assert judged.status is CheckStatus.INCONCLUSIVE


def test_a_score_over_the_limit_fails_whatever_the_seeds_disagree_on():
    found = [measured("behaviour.score", 0.6, CheckStatus.INCONCLUSIVE)]
    (judged,) = judge_measures(found, Policy(max_score=0.5), unmeasured=CheckStatus.INCONCLUSIVE)
    assert judged.status is CheckStatus.FAILED


def test_confident_rules_leave_open_what_the_images_cannot_settle():
    policy = Policy(min_acc=0.9)
    (judged,) = judge_measures([measured("acc", 0.901)], policy, unmeasured=CheckStatus.SKIPPED, confident=True)
    assert judged.status is CheckStatus.INCONCLUSIVE


def test_a_score_that_too_little_was_looked_at_for_clears_nothing():
    for value, status in ((0.1, CheckStatus.MEASURED), (float("nan"), CheckStatus.PASSED)):
        (judged,) = judge_measures(
            [measured("behaviour.score", value, status)], Policy(max_score=0.5), unmeasured=CheckStatus.INCONCLUSIVE
        )
        assert judged.status is CheckStatus.INCONCLUSIVE
    (judged,) = judge_measures(
        [measured("behaviour.score", 0.6)], Policy(max_score=0.5), unmeasured=CheckStatus.SKIPPED
    )
    assert judged.status is CheckStatus.FAILED


def test_rates_that_are_no_numbers_are_not_passed():
    found = [measured("acc", float("nan")), measured("asr.x", float("nan"))]
    judged = judge_measures(found, Policy(min_acc=0.0, max_asr=1.0), unmeasured=CheckStatus.INCONCLUSIVE)
    assert {check.status for check in judged} == {CheckStatus.INCONCLUSIVE}


@pytest.mark.parametrize(
    ("beside", "status"),
    [({}, "passed"), ({"w.bin": "b" * 64}, "passed"), ({"w.bin": "c" * 64}, "failed"), ({"w.bin": None}, "failed")],
)
def test_every_file_of_a_model_is_to_be_known(beside, status):
    policy = Policy(allowed_sha256=(file().sha256, "b" * 64))
    (judged,) = judge_file(file(format="onnx", beside=beside), policy)
    assert judged.status == status
    assert ("w.bin" in judged.evidence) is (status == "failed")


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (None, "skipped"),
        ((), "failed"),
        (("passed", "passed"), "passed"),
        (("passed", "skipped"), "inconclusive"),
        (("measured", "passed"), "inconclusive"),
        (("skipped", "failed"), "failed"),
    ],
)
def test_a_statement_has_to_hold_in_every_way(found, status):
    told = None if found is None else tuple(measured("attestation.x", 0, CheckStatus(said)) for said in found)
    (judged,) = judge_file(file(attestation=told), Policy(require_attestation=True))
    assert judged.status == status


@pytest.mark.parametrize("told", [{"top1_agreement": 0.5}, {"top1_agreement": float("nan")}, {"real_images": False}])
def test_a_verification_that_proves_nothing(told):
    figures = json.dumps({"top1_agreement": 1.0, "real_images": True} | told)
    (judged,) = judge_file(file(format="onnx", metadata={VERIFICATION: figures}), Policy(require_onnx_verified=True))
    assert judged.status is CheckStatus.FAILED

"""The decision that a report comes to: in words, with what to do next, and never better than its checks."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from sau_cli.errors import ExitCode
from sau_cli.reporting.decision import SHOWN_UNEXAMINED, decision_of
from sau_cli.results import Check, CheckStatus, InputFile, Report, Verdict, verdict_of

PASSED, FAILED, OPEN = CheckStatus.PASSED, CheckStatus.FAILED, CheckStatus.INCONCLUSIVE
MEASURED, SKIPPED = CheckStatus.MEASURED, CheckStatus.SKIPPED


def report(command: str, *checks: tuple, verdict: Verdict | None = None, error: str | None = None, **more) -> Report:
    """Of checks as (id, status, evidence, value); the verdict is that of the checks unless it is given."""
    found = tuple(Check(**dict(zip(("id", "status", "evidence", "value"), check, strict=False))) for check in checks)
    judged, code = verdict_of(found)
    whole = Report(
        tool_version="0.1.0",
        command=command,
        inputs=(InputFile(path="m.safetensors", sha256="0" * 64),),
        verdict=verdict or judged,
        exit_code=code,
        checks=found,
        environment={},
        outputs={},
        details={},
        error=error,
    )
    return replace(whole, **more)


SAFE = ("file.safe-to-open", PASSED, "reading this file runs no code from it")


@pytest.mark.parametrize(
    ("checks", "verdict", "starts"),
    [
        ([("file.pickle", FAILED, "it asks for os.system")], Verdict.UNSAFE, "Do not open this file"),
        ([("file.non-finite-weights", FAILED, "3 NaN")], Verdict.NOT_EVALUATED, "This model could not be examined"),
        ([SAFE, ("behaviour.score", FAILED, "behaves so")], None, "Do not use this model: it behaves like one with"),
        ([SAFE, ("behaviour.score", OPEN, "2 of 3 seeds")], None, "Do not use this model yet: it may have"),
        ([SAFE, ("behaviour.easiest-change", OPEN, "a square")], None, "Do not use this model yet: it may have"),
        ([SAFE, ("residual.score", OPEN, "a square")], None, "Do not use this model yet: a backdoor may be left"),
        ([SAFE, ("chain.file", FAILED, "another SHA-256")], None, "Do not trust where this file says"),
        ([SAFE, ("policy.min-acc", FAILED, "too low")], None, "This model breaks your policy"),
        ([SAFE, ("policy.max-score", OPEN, "not measured")], None, "Your policy could not be judged in full"),
        ([SAFE, ("behaviour.score", PASSED, "no sign")], None, "No sign of a backdoor was found, which is no proof"),
        (
            [SAFE, ("behaviour.score", MEASURED, "no sign")],
            Verdict.MEASURED,
            "No sign of a backdoor was found, but too",
        ),
        ([SAFE, ("model.behaviour", SKIPPED, "not examined")], Verdict.MEASURED, "The file is safe to open. Whether"),
        ([("file.safe-to-open", SKIPPED, "not listed")], Verdict.MEASURED, "Nothing was found in what could be read"),
        ([SAFE, ("policy.max-asr", PASSED, "x"), ("model.behaviour", SKIPPED, "y")], None, "Your policy is kept. The"),
    ],
)
def test_an_inspection(checks, verdict, starts):
    assert decision_of(report("inspect", *checks, verdict=verdict)).sentence.startswith(starts)


def test_a_finding_of_behaviour_names_the_class_and_the_way_out():
    found = report(
        "inspect",
        SAFE,
        ("behaviour.score", FAILED, "behaves so"),
        details={"behaviour": {"suspected_class": "stop sign"}},
        inputs=(InputFile(path="my model.pth", sha256="0" * 64),),
    )
    decision = decision_of(found)
    assert "'stop sign'" in decision.sentence
    assert shlex.split(decision.next_steps[0].command) == ["sau", "purify", "my model.pth", "--data", "FOLDER"]


def test_a_finding_of_the_easiest_change_names_its_own_class():
    details = {"behaviour": {"suspected_class": None, "easiest_change": {"suspected_class": "horse"}}}
    checks = (("behaviour.score", PASSED, "no sign"), ("behaviour.easiest-change", FAILED, "a small square"))
    assert "'horse'" in decision_of(report("inspect", SAFE, *checks, details=details)).sentence


@pytest.mark.parametrize(
    ("named", "given", "ends"),
    [
        ("digits", {}, ["m.safetensors", "--clean-frac", "0.05"]),
        ("path:clean", {}, ["m.safetensors", "--data", "FOLDER"]),
        (
            None,
            {"normalisation": ".5/.5", "arch": "my net.py:Net"},
            ["--normalisation", ".5/.5", "--arch", "my net.py:Net"],
        ),
        ("path:clean", {"data": "cifar10"}, ["m.safetensors", "--clean-frac", "0.05", "--data", "cifar10"]),
    ],
)
def test_the_next_command_says_again_what_the_file_does_not_tell(named, given, ends):
    """A folder that the file calls by a name is no data set that the next command could open."""
    details = {"file": {"description": named and {"data": named}}, "given": given}
    decision = decision_of(report("inspect", SAFE, ("behaviour.score", FAILED, "behaves so"), details=details))
    assert shlex.split(decision.next_steps[0].command)[-len(ends) :] == ends


@pytest.mark.parametrize(
    ("rule", "mends"), [("require-purified", True), ("allowed-formats", False), ("min-acc", False)]
)
def test_purification_is_advised_for_rules_that_it_can_mend(rule, mends):
    decision = decision_of(report("inspect", SAFE, (f"policy.{rule}", FAILED, "it is broken")))
    assert decision.next_steps[0].command.startswith("sau purify") is mends


def test_a_broken_policy_does_not_hide_a_backdoor():
    found = report("inspect", SAFE, ("policy.min-acc", FAILED, "too low"), ("behaviour.score", FAILED, "behaves so"))
    assert "behaves like one with a backdoor" in decision_of(found).sentence


def test_only_what_passed_is_called_cleared_after_purification():
    written = {"weights": InputFile(path="m.purified.safetensors", sha256="1" * 64)}
    measured = (("held-back-accuracy.before", MEASURED, "x", 0.9), ("held-back-accuracy", MEASURED, "x", 0.875))
    found = report("purify", *measured, ("residual.score", PASSED, "no class"), outputs=written)
    cleared = decision_of(replace(found, details={"described_data": "digits"}))
    assert cleared.sentence.startswith("The model is purified, and no sign of a backdoor is left")
    assert "90.0 % before, 87.5 % after" in cleared.reason
    command = "sau evaluate m.purified.safetensors --reference m.safetensors"
    assert cleared.next_steps[0].command == command
    of_a_folder = decision_of(replace(found, details={"described_data": "path:clean"}))
    assert of_a_folder.next_steps[0].command == f"{command} --data FOLDER"
    for checks in ([*measured, ("residual.score", OPEN, "a square")], measured):
        assert "not cleared" in decision_of(report("purify", *checks, outputs=written)).sentence


@pytest.mark.parametrize(
    ("status", "starts"),
    [
        (FAILED, "Do not ship this model"),
        (OPEN, "The images cannot settle"),
        (PASSED, "The model is within your limits"),
        (MEASURED, "The model was measured, not judged"),
    ],
)
def test_an_evaluation(status, starts):
    checks = (("acc", MEASURED, "x", 0.9), ("reference.acc", MEASURED, "x", 0.95), ("limit.max-asr.b", status, "so"))
    decision = decision_of(report("evaluate", *checks))
    assert decision.sentence.startswith(starts)
    if status is not OPEN:
        assert "Accuracy 90.0 %, 95.0 % of the reference." in decision.reason


def test_an_export_and_an_attack():
    written = {"onnx": InputFile(path="m.onnx", sha256="1" * 64)}
    assert "was verified" in decision_of(report("export", ("export.logits", PASSED, "x"), outputs=written)).sentence
    refused = report("export", ("export.logits", FAILED, "logits differ by 2"), verdict=Verdict.FAILED)
    assert decision_of(refused).sentence.startswith("No ONNX file was written")
    assert decision_of(refused).reason == "Logits differ by 2."
    planted = report("attack", ("asr.badnets", MEASURED, "x", 1.0), outputs={"weights": written["onnx"]})
    assert "never ship it" in decision_of(planted).sentence


@pytest.mark.parametrize("command", ["inspect", "attack", "purify", "evaluate", "export", "demo", "sau"])
@pytest.mark.parametrize("verdict", Verdict)
def test_an_error_is_told_and_is_never_a_pass(command, verdict):
    """Its own sentence ends in what to do next."""
    broken = report(command, verdict=verdict, error="x does not exist; give another", exit_code=ExitCode.USAGE)
    decision = decision_of(broken)
    assert decision.reason == "X does not exist; give another."
    assert decision.next_steps == ()
    assert not decision.sentence.startswith(("The file is safe", "No sign", "The model is", "Everything", "The ONNX"))


def test_a_finding_is_not_hidden_by_a_later_error():
    found = report("inspect", SAFE, ("behaviour.score", FAILED, "so"), error="interrupted; run it again")
    assert decision_of(found).sentence.startswith("Do not use this model")


def test_what_was_not_examined_is_listed_once_and_by_number_where_it_is_much():
    skipped = [(f"behaviour.{number}", SKIPPED, "no clean data was given") for number in range(3)]
    assert decision_of(report("inspect", SAFE, *skipped)).unexamined == ("No clean data was given.",)
    many = [(f"behaviour.{number}", SKIPPED, f"reason {number}") for number in range(SHOWN_UNEXAMINED + 3)]
    told = decision_of(report("inspect", SAFE, *many)).unexamined
    assert len(told) == SHOWN_UNEXAMINED + 1
    assert told[-1] == "And 3 more, which the report lists."


def test_a_folder_counts_its_models():
    good = report("inspect", SAFE, ("behaviour.score", PASSED, "x"))
    bad = report("inspect", ("file.pickle", FAILED, "x"), verdict=Verdict.UNSAFE)
    both = replace(report("inspect", verdict=Verdict.UNSAFE), models=(good, bad))
    assert decision_of(both).sentence == "2 models were inspected: 1 passed, 1 unsafe."
    assert decision_of(both).next_steps
    assert "no proof" in decision_of(replace(both, models=(good,), verdict=Verdict.PASSED)).reason

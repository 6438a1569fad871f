from dataclasses import replace

import pytest

from sau_cli.description import HistoryStep
from sau_cli.exporting.provenance import chain_checks, model_origins, origins_of, statement
from sau_cli.results import CheckStatus
from tests.support.toys import BrightnessNet, describe

RECEIVED, PURIFIED, EXPORTED = "a" * 64, "b" * 64, "c" * 64


def step(name: str, sha256: str | None) -> HistoryStep:
    return HistoryStep(step=name, settings={"x": (1, 2)}, seed=0, input_sha256=sha256, tool_version="0")


BEFORE = (step("attack", None), step("purify", RECEIVED))
KNOWN = replace(describe(BrightnessNet(10)).description, history=(*BEFORE, step("export", PURIFIED)))
TOLD = statement(
    exported={"m.onnx": EXPORTED},
    origins=model_origins("p.safetensors", PURIFIED, BEFORE),
    description=KNOWN,
    settings={"opset": 18},
    figures={"images": 40},
    versions={"sau": "0"},
)


def broken(*, exported=EXPORTED, source=PURIFIED, history=KNOWN.history, told=TOLD, beside=None) -> set[str]:
    found = chain_checks(
        files={"m.onnx": exported},
        metadata={"sau.source_sha256": source},
        description=replace(KNOWN, history=history),
        told=told,
        beside=beside or {},
    )
    return {check.id for check in found if check.status is CheckStatus.FAILED}


def test_a_chain_that_holds():
    assert broken() == set()
    assert broken(beside={"p.safetensors": PURIFIED}) == set()
    assert [(origin.role, origin.sha256) for origin in origins_of(TOLD)] == [
        ("received", RECEIVED),
        ("purified", PURIFIED),
    ]


def test_another_file_than_the_statement_is_about():
    assert broken(exported="d" * 64) == {"chain.file"}


def test_another_file_beside():
    assert broken(beside={"p.safetensors": "d" * 64}) == {"chain.purified"}


def test_another_source():
    assert broken(source="d" * 64) == {"chain.history"}


@pytest.mark.parametrize(
    "history",
    [
        (step("purify", RECEIVED), step("export", RECEIVED)),
        (*BEFORE, step("export", None)),
        (step("purify", RECEIVED), step("export", "d" * 64)),
    ],
)
def test_steps_that_do_not_join_or_are_not_those_of_the_statement(history):
    assert {"chain.history", "chain.statement"} <= broken(history=history)


def test_a_step_that_was_taken_out():
    assert broken(history=KNOWN.history[1:]) == {"chain.statement"}


def test_a_model_that_was_not_purified_is_the_received_one():
    (only,) = model_origins("m.safetensors", RECEIVED, BEFORE[:1])
    assert (only.role, only.sha256) == ("received", RECEIVED)


def test_no_statement_is_not_examined():
    found = {
        check.id: check.status
        for check in chain_checks(
            files={"m.onnx": EXPORTED},
            metadata={"sau.source_sha256": PURIFIED},
            description=KNOWN,
            told=None,
            beside={},
        )
    }
    assert found == {"chain.history": CheckStatus.PASSED, "chain.file": CheckStatus.SKIPPED}


def test_what_a_stranger_calls_an_origin_takes_no_other_checks_name():
    """A role of his own, and two triggers of one name of which the second is here."""
    roles = [("signature", "m.onnx"), ("trigger", "t"), ("trigger", "t"), ("x/y", "z")]
    digests = ["d" * 64, "e" * 64, "f" * 64, "0" * 64]
    dependencies = [
        {"name": name, "digest": {"sha256": digest}, "annotations": {"role": role}}
        for (role, name), digest in zip(roles, digests, strict=True)
    ]
    told = TOLD | {"predicate": {"buildDefinition": {"resolvedDependencies": dependencies}}}
    beside = {"m.onnx": "d" * 64, "t": "f" * 64, "z": "9" * 64}
    found = chain_checks(files={"m.onnx": EXPORTED}, metadata={}, description=None, told=told, beside=beside)
    assert {check.id: check.status.value for check in found if check.id != "chain.file"} == {
        "chain.other": "passed",
        "chain.trigger": "passed",
        "chain.other-2": "failed",
    }

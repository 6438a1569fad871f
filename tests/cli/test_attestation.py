"""``--attest`` and ``--verify-attestation``: written, signed, held against a model, demanded by a policy."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from sau_cli import __version__
from sau_cli.errors import ExitCode
from sau_cli.exporting.attestation import verdict_statement
from sau_cli.results import InputFile, Report, Verdict
from tests.cli.conftest import one_sentence
from tests.support.files import hostile_zip
from tests.support.toys import describe

pytest.importorskip("model_signing", reason="model-signing is not installed")
QUICK = ("--effort", "quick", "--jobs", "1")


@pytest.fixture(autouse=True)
def keys(tmp_path) -> None:
    """``key.pem`` and ``key.pub``, and a pair of somebody else."""
    for name in ("key", "other"):
        words = ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.pem")
        subprocess.run(words, cwd=tmp_path, check=True)
        words = ("openssl", "ec", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub")
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)


@pytest.fixture
def model(tmp_path) -> Path:
    return saved(tmp_path / "model.safetensors", seed=0)


@pytest.fixture
def demanding(tmp_path) -> tuple[str, ...]:
    """A policy that a model keeps if it is attested."""
    (tmp_path / "p.toml").write_text("[policy]\nrequire-attestation = true\n")
    (tmp_path / "ordinary.toml").write_text('[policy]\nallowed-formats = ["safetensors"]\n')
    return ("--policy", "p.toml")


def saved(path: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    save_classifier(path, classifier, classifier.description, force=False)
    return path


def checks(path: str = "r.json") -> dict[str, str]:
    return {check["id"]: check["status"] for check in json.loads(Path(path).read_text())["checks"]}


ATTEST = ("--policy", "ordinary.toml", "--attest", "s.json", "--sign-key", "key.pem")
VERIFY = ("--verify-attestation", "s.json", "--attestation-key", "key.pub")


def test_an_attested_model_keeps_a_policy_that_demands_it(call, model, demanding):
    done = call("inspect", model.name, *QUICK, *ATTEST)
    assert done.code == 0, done.err
    assert json.loads(Path("s.json").read_text())["predicate"]["verdict"] == "passed"
    done = call("inspect", model.name, *QUICK, *demanding, *VERIFY, "--json", "r.json")
    assert done.code == 0, done.err
    assert json.loads(Path("r.json").read_text())["verdict"] == "passed"
    assert checks()["policy.require-attestation"] == "passed"
    renamed = Path(shutil.move(model, "renamed.safetensors"))
    assert call("inspect", renamed, *QUICK, *demanding, *VERIFY).code == 0


def test_what_a_demanding_policy_does_not_accept(call, model, demanding):
    one = ("inspect", model.name, *QUICK, *demanding, "--force", "--json", "r.json")
    assert call(*one).code == 1
    assert "and none is given" in Path("r.json").read_text()
    assert call("inspect", model.name, *QUICK, "--attest", "s.json", "--sign-key", "key.pem").code == 0
    assert call(*one, *VERIFY).code == 6  # measured, and not passed
    assert call("inspect", model.name, *QUICK, *ATTEST, "--force").code == 0
    assert call(*one, "--verify-attestation", "s.json").code == 6  # by whom, nobody asked
    assert "nothing shows who made the statement" in Path("r.json").read_text()
    assert call(*one, *VERIFY).code == 0


@pytest.mark.parametrize("signed", [True, False])
def test_a_statement_changed_by_a_byte_fails(call, model, demanding, signed):
    call("inspect", model.name, *QUICK, *(ATTEST if signed else ATTEST[:-2]))
    text = Path("s.json").read_bytes()
    for place in range(0, len(text), len(text) // 6):
        Path("s.json").write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        verify = VERIFY if signed else VERIFY[:2]
        done = call("inspect", model.name, *QUICK, *verify, "--force", "--json", "r.json")
        assert done.code == 1, (place, done.err)
        assert checks()["attestation.contents"] == "failed"
        if signed:
            assert checks()["attestation.signature"] == "failed"


def test_a_statement_on_another_model_without_a_signature_or_by_somebody_else_fails(call, model, demanding):
    call("inspect", model.name, *QUICK, *ATTEST)
    saved(Path("stranger.safetensors"), seed=1)
    done = call("inspect", "stranger.safetensors", *QUICK, *VERIFY, "--json", "r.json")
    assert done.code == 1
    assert "Do not rely on the statement" in done.err
    assert "the statement is about other files than" in Path("r.json").read_text()
    done = call(
        "inspect", model.name, *QUICK, *VERIFY[:2], "--attestation-key", "other.pub", "--force", "--json", "r.json"
    )
    assert done.code == 1
    assert checks()["attestation.signature"] == "failed"
    Path("s.json.sig").unlink()
    done = call("inspect", model.name, *QUICK, *VERIFY, "--force", "--json", "r.json")
    assert done.code == 1
    assert "the statement is not signed, and --attestation-key asks for it" in Path("r.json").read_text()


@pytest.mark.parametrize(("version", "code"), [("0.0.1", 6), (__version__, 1)])
def test_a_calibration_of_the_past_is_inconclusive_and_a_foreign_one_fails(call, model, version, code):
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    report = Report(
        tool_version=version,
        command="inspect",
        inputs=(InputFile(path=model.name, sha256=sha256),),
        verdict=Verdict.PASSED,
        exit_code=ExitCode.PASSED,
        checks=(),
        environment={},
        outputs={},
        details={
            "file": {"path": model.name, "sha256": sha256},
            "behaviour": {"calibration": {"name": "with-data", "sha256": "0" * 64}},
        },
    )
    Path("s.json").write_text(verdict_statement(report, examined_on=datetime.now(UTC)) or "")
    done = call("inspect", model.name, *QUICK, "--verify-attestation", "s.json")
    assert done.code == code, done.err
    assert ("inspect anew" if code == 6 else f"sau {__version__} does not have") in " ".join(done.err.split())


def test_several_models_have_a_statement_each_under_their_sha256(call, tmp_path, demanding):
    for seed in range(2):
        (tmp_path / "models").mkdir(exist_ok=True)
        saved(tmp_path / "models" / f"{seed}.safetensors", seed=seed)
    attest = ("--policy", "ordinary.toml", "--attest", "said", "--sign-key", "key.pem")
    done = call("inspect", "models", *QUICK, *attest)
    assert done.code == 0, done.err
    names = {hashlib.sha256(path.read_bytes()).hexdigest() for path in Path("models").iterdir()}
    assert {path.name for path in Path("said").iterdir()} == {
        f"{n}.intoto.json{s}" for n in names for s in ("", ".sig")
    }
    one_sentence(call("inspect", "models", *QUICK, *attest), 2, "said exists", "--force")
    verify = ("--verify-attestation", "said", "--attestation-key", "key.pub")
    assert call("inspect", "models", *QUICK, *demanding, *verify).code == 0
    hostile_zip(Path("models"))
    saved(Path("models/new.safetensors"), seed=7)
    done = call("inspect", "models", *QUICK, *demanding, *verify, "--table", "t.jsonl")
    assert done.code == 4
    rows = {row["path"]: row for row in map(json.loads, Path("t.jsonl").read_text().splitlines())}
    assert rows["models/0.safetensors"]["exit_code"] == 0
    assert rows["models/new.safetensors"]["exit_code"] == 1
    assert "has no statement on this model" in rows["models/new.safetensors"]["finding"]
    done = call("inspect", "models", *QUICK, *attest, "--force")
    assert done.code == 4
    assert len(list(Path("said").iterdir())) == 8


def test_what_makes_no_sense_is_said_first(call, model):
    ask = ("inspect", model.name, *QUICK)
    one_sentence(call(*ask, "--sign-key", "key.pem"), 2, "--attest")
    one_sentence(call(*ask, "--attestation-key", "key.pub"), 2, "--verify-attestation")
    one_sentence(call(*ask, "--verify-attestation", "no.json"), 2, "no.json does not exist")
    one_sentence(call(*ask, "--attest", "s.json", "--sign-key", "key.pub"), 2, "--sign-key key.pub is no key")
    one_sentence(call(*ask, "--attest", "s.json", "--json", "s.json"), 2, "--attest and --json")
    Path("s.json").write_text("mine")
    one_sentence(call(*ask, "--attest", "s.json"), 2, "s.json exists")
    assert Path("s.json").read_text() == "mine"
    done = call(*ask, "--verify-attestation", "s.json")
    assert done.code == 1
    assert "no JSON object" in done.err.replace("\n", " ")
    Path("broken.pub").write_text("no key")
    call(*ask, "--attest", "t.json", "--sign-key", "key.pem")
    done = call(*ask, "--verify-attestation", "t.json", "--attestation-key", "broken.pub")
    one = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 2
    assert "--attestation-key broken.pub is no public key" in one[0]


def test_a_model_that_is_cut_short_has_no_statement(call, model):
    model.write_bytes(model.read_bytes()[:-10])
    done = call("inspect", model.name, *QUICK, "--attest", "s.json")
    assert done.code == 3
    assert not Path("s.json").exists()
    assert "no statement was written" in done.err

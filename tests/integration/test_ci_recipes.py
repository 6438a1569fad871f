"""The recipes for CI do what they say: their own shell steps, run here, keep the exit code and leave the reports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from sau_cli.commands.project_defaults import read_defaults
from tests.conftest import ROOT
from tests.support.toys import describe

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
EXAMPLES = ROOT / "examples" / "ci"
BROKEN = '[policy]\nallowed-formats = ["onnx"]\n'


@dataclass
class Ran:
    """How the action ended: the exit code of its first step that failed, and what it left."""

    code: int = 0
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    used: list[dict] = field(default_factory=list)
    log: str = ""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a model, and on the PATH this sau and a pip that installs nothing."""
    torch.manual_seed(0)
    (tmp_path / "models").mkdir()
    classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
    save_classifier(tmp_path / "models" / "digits model.safetensors", classifier, classifier.description, force=False)
    programs = tmp_path / "programs"
    programs.mkdir()
    program(programs / "sau", f'exec {sys.executable} -m sau_cli "$@"')
    program(
        programs / "python",
        f'if [ "$2" = pip ]; then echo "$@" >> {tmp_path}/installed; exit 0; fi; exec {sys.executable} "$@"',
    )
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'adapters'}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run_action(folder: Path, **given: str) -> Ran:
    """Run the steps as the runner of GitHub does: those after a failure only where they say so."""
    ran = Ran()
    values = {f"inputs.{name}": str(told.get("default", "")) for name, told in ACTION["inputs"].items()}
    values |= {"inputs.effort": "quick"}  # behaviour has tests of its own
    values |= {f"inputs.{name.replace('_', '-')}": text for name, text in given.items()}
    values["github.action_path"] = str(ROOT)

    def value(expression: str) -> str:
        return next((values[part.strip()] for part in expression.split("||") if values.get(part.strip())), "")

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: value(found[1]), text)

    def holds(condition: str) -> bool:
        terms = [part.strip() for part in condition.split("&&")]
        if ran.code and "always()" not in terms:
            return False
        for term in terms:
            if "=" in term:
                left, equal, right = re.fullmatch(r"(\S+) (==|!=) '(.*)'", term).groups()
                if (value(left) == right) != (equal == "=="):
                    return False
        return True

    output, summary = folder / "github-output", folder / "github-summary"
    for step in ACTION["runs"]["steps"]:
        if not holds(step.get("if", "")):
            continue
        if "uses" in step:
            ran.used.append({"uses": step["uses"]} | {key: filled(text) for key, text in step["with"].items()})
            continue
        output.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            env={
                **os.environ,
                **{key: filled(text) for key, text in step.get("env", {}).items()},
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(summary),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        ran.log += done.stdout + done.stderr
        ran.code = ran.code or done.returncode
        for line in output.read_text().splitlines():
            name, _, told = line.partition("=")
            values[f"steps.{step['id']}.outputs.{name}"] = told
    ran.outputs = {name: filled(output["value"]) for name, output in ACTION["outputs"].items()}
    ran.summary = summary.read_text() if summary.exists() else ""
    return ran


def uploaded(ran: Ran) -> list[str]:
    return [use["sarif_file"] for use in ran.used if "upload-sarif" in use["uses"]]


def test_a_clean_pass(work):
    (work / "sau.toml").write_text('[policy]\nallowed-formats = ["safetensors"]\n')
    ran = run_action(work, models="models")
    assert ran.code == 0, ran.log
    assert ran.outputs == {"exit-code": "0", "verdict": "passed", "reports": "sau-reports"}
    assert "sau inspect: passed" in ran.summary
    assert uploaded(ran) == ["sau-reports/inspect.sarif"]
    assert (work / "installed").read_text() == f"-m pip install --quiet {ROOT}\n"
    assert {path.suffix for path in (work / "sau-reports").iterdir()} == {".json", ".sarif", ".md", ".html", ".xml"}


def test_a_policy_that_fails_leaves_every_report_and_its_exit_code(work):
    (work / "strict.toml").write_text(BROKEN)
    ran = run_action(work, models="models/digits model.safetensors", policy="strict.toml", source="a wheel")
    assert ran.code == 1, ran.log
    assert ran.outputs["verdict"] == "failed"
    assert "policy.allowed-formats" in ran.summary
    assert uploaded(ran) == ["sau-reports/inspect.sarif"]
    sarif = json.loads((work / "sau-reports" / "inspect.sarif").read_text())
    assert "policy.allowed-formats" in [
        result["ruleId"] for result in sarif["runs"][0]["results"] if result["level"] == "error"
    ]
    assert (work / "installed").read_text().endswith("a wheel\n")


def test_several_models_and_flags_and_no_upload(work):
    (work / "models" / "hostile.pt").write_bytes(b"\x80\x02cposix\nsystem\n.")
    ran = run_action(
        work,
        models="models/digits model.safetensors\nmodels/hostile.pt\n",
        arguments="--jobs\n1",
        upload_sarif="false",
        python_version="",
    )
    assert ran.code == 4, ran.log
    assert ran.outputs["verdict"] == "unsafe"
    assert "hostile.pt" in ran.summary
    assert ran.used == []


@pytest.mark.parametrize(
    ("sau", "code"),
    [("exit 0", 70), ("exit 127", 127), ("kill -9 $$", 137), ("echo '{}' > sau-reports/inspect.json", 70)],
)
def test_what_did_not_run_is_no_success(work, sau, code):
    (work / "sau-reports").mkdir()
    (work / "sau-reports" / "inspect.json").write_text('{"exit_code": 0, "verdict": "passed"}')
    (work / "sau-reports" / "inspect.md").write_text("## sau inspect: passed")
    program(work / "programs" / "sau", sau)
    ran = run_action(work, models="models")
    assert ran.code == code, ran.log
    assert "did not run" in ran.summary
    assert "passed" not in ran.summary
    assert uploaded(ran) == []


def test_an_install_that_fails_is_no_success(work):
    program(work / "programs" / "python", "exit 1")
    ran = run_action(work, models="models")
    assert ran.code == 1
    assert ran.outputs["exit-code"] == ""
    assert "nothing is known of the models" in ran.summary


def test_names_of_files_are_no_code(work):
    ran = run_action(work, models="$(touch hacked)\n--help\n`touch hacked`", policy="'; touch hacked; '")
    assert ran.code == 2
    assert not (work / "hacked").exists()


def test_the_workflow_names_inputs_and_outputs_that_there_are():
    workflow = yaml.safe_load((EXAMPLES / "github-actions.yml").read_text())
    steps = workflow["jobs"]["inspect"]["steps"]
    (own,) = [step for step in steps if step.get("uses") == "./tools/sau"]
    assert set(own["with"]) <= set(ACTION["inputs"])
    assert {name for name, told in ACTION["inputs"].items() if told.get("required")} <= set(own["with"])
    named = re.findall(r"steps\.sau\.outputs\.([\w-]+)", (EXAMPLES / "github-actions.yml").read_text())
    assert set(named) <= set(ACTION["outputs"])
    used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])


@pytest.mark.parametrize(("policy", "code"), [(None, 0), (BROKEN, 1)])
def test_the_job_of_gitlab(work, policy, code):
    job = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["sau-inspect"]
    shutil.copy(EXAMPLES / "sau.toml", work)
    if policy:
        (work / "sau.toml").write_text(policy)
    script = "\n".join(["set -e", *job["before_script"], *job["script"]])
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, **job["variables"], "SAU_EFFORT": "quick"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert job["artifacts"]["when"] == "always"
    junit = job["artifacts"]["reports"]["junit"].replace("$SAU_REPORTS", job["variables"]["SAU_REPORTS"])
    assert "<testsuites" in (work / junit).read_text()


def test_the_policy_of_the_examples_is_one(tmp_path):
    shutil.copy(EXAMPLES / "sau.toml", tmp_path)
    assert read_defaults(tmp_path).policy is not None


def test_the_hooks_of_pre_commit(work):
    pytest.importorskip("pre_commit")
    (shown,) = yaml.safe_load((EXAMPLES / "pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert shown.items() <= hooks[1].items()
    who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    settings = {**os.environ, **who, "PRE_COMMIT_HOME": str(work / "cache"), "HOME": str(work)}

    def run(*words: str, cwd: Path = work) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=cwd, env=settings, capture_output=True, text=True, check=False, timeout=300)

    ours = [sys.executable, "-m", "pre_commit"]
    assert run(*ours, "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")).returncode == 0
    shutil.copy(EXAMPLES / "pre-commit-config.yaml", work / ".pre-commit-config.yaml")
    for words in (("init", "-q"), ("add", "models"), ("commit", "-qm", "x")):
        assert run("git", *words).returncode == 0
    words = (*ours, "run", "--all-files")
    done = run(*words)
    assert done.returncode == 0, done.stdout
    assert "Passed" in done.stdout
    (work / "sau.toml").write_text(BROKEN)
    done = run(*words)
    assert done.returncode == 1, done.stdout
    assert "policy.allowed-formats" in done.stdout

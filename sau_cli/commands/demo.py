"""``sau demo``: the whole job on images that come with scikit-learn. Every step is a command that one could type."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group

from sau_cli.commands.options import DeviceOption, OutputOptions, SeedOption, with_groups
from sau_cli.commands.session import Session
from sau_cli.errors import ExitCode, SauError, UsageError
from sau_cli.reporting.terminal import percent, table, with_interval
from sau_cli.results import Check, CheckStatus, Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command, run in the folder of the demo.

    Attributes:
        says: what it does, for people.
        accepted: exit codes after which the demo goes on.
        fixed: draws nothing at random and works on the CPU, so that it takes no seed and no device.
    """

    says: str
    words: str
    accepted: tuple[ExitCode, ...] = (ExitCode.PASSED,)
    fixed: bool = False

    @property
    def command(self) -> str:
        return self.words.partition(" ")[0]


DEMO_STEPS = (
    Step(
        says="Train a classifier of handwritten digits that holds a backdoor",
        words="attack --attack badnets --arch small_cnn --data digits -o model.safetensors --preview trigger.png",
    ),
    Step(
        says="Inspect it, as one would a model from somewhere else",
        words="inspect model.safetensors",
        accepted=(ExitCode.PASSED, ExitCode.LIMIT_FAILED, ExitCode.INCONCLUSIVE),
    ),
    Step(
        says="Remove the backdoor with clean images alone; the trigger only measures, before and after",
        # 10 % of the training images are 144; 5 % are 72, too few to keep the accuracy.
        words="purify model.safetensors --clean-frac 0.1 --trigger model.trigger.safetensors",
        accepted=(ExitCode.PASSED, ExitCode.INCONCLUSIVE),
    ),
    Step(
        says="Measure before against after, with the trigger and with limits",
        words="evaluate model.purified.safetensors --reference model.safetensors --trigger model.trigger.safetensors "
        "--max-asr 5% --max-acc-drop 3%",
        accepted=(ExitCode.PASSED, ExitCode.LIMIT_FAILED),
    ),
    Step(
        says="Export it as ONNX, verified on real images",
        words="export model.purified.safetensors -o model.onnx",
        fixed=True,
    ),
)
DEMO_FILES = {
    "weights": "model.safetensors",
    "trigger": "model.trigger.safetensors",
    "purified": "model.purified.safetensors",
    "onnx": "model.onnx",
}
LOOK_AT = (
    ("trigger.png", "the trigger: clean images, the same with it, and the difference"),
    ("inspect.html", "what sau inspect says of the model with the backdoor"),
    ("purify.html", "before against after, and what is left"),
    ("evaluate.html", "the same on all test images, with limits"),
    ("model.purified.safetensors", "the purified model; model.onnx is the same for onnxruntime"),
    ("*.json", "each report as a document, for programs"),
)


@with_groups
def demo_command(
    context: typer.Context,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the models and the reports go.")
    ] = Path("sau-demo"),
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    output: OutputOptions,
) -> None:
    """Plant a backdoor, find it, remove it, measure and export: see sau work, offline, in a minute or two.

    A small classifier learns the 1,797 handwritten digits that come with scikit-learn, and a backdoor with
    them. The models, the trigger and a page for each step are written into a folder. Each command is shown
    as it is run; type it yourself in that folder to change it.

    The folder must be empty or new; --force writes over an earlier demo in it.

    Exit code 1: the trigger still works after purification.

    \b
    Examples:
      sau demo
      sau demo --out first-look
      sau demo --seed 1 --force --json demo.json
    """
    with Session("demo", output) as session:
        _make_folder(out, force=output.force)
        started = time.monotonic()
        shared = ["--force", *["--quiet"] * output.quiet, *["--verbose"] * output.verbose]
        chosen = ["--seed", str(seed), "--device", device]
        reports = {}
        for number, step in enumerate(DEMO_STEPS, start=1):
            session.show(f"[{number}/{len(DEMO_STEPS)}] {step.says}\n$ sau {step.words}\n")
            reports[step.command] = _run(context, step, shared if step.fixed else [*shared, *chosen], out)
        for role, name in DEMO_FILES.items():
            session.wrote(role, out / name)
        evaluated = reports["evaluate"]
        session.findings.add(*(Check(**found) for found in evaluated["checks"] if found["id"].startswith("limit.")))
        session.findings.tell(commands={step.command: f"sau {step.words}" for step in DEMO_STEPS})
        session.show(outcome(reports))
        session.show(table(f"What to look at, in {out}/", ("", ""), LOOK_AT))
        session.show("Next, a model of your own, and a folder of clean images with a sub-folder for each class:")
        session.show("  sau inspect MODEL --data FOLDER\n")
        session.show(last_line(evaluated, time.monotonic() - started))


def _make_folder(folder: Path, *, force: bool) -> None:
    """Raises UsageError unless the folder is new or empty, or ``force`` is on."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; give a folder, which need not exist")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UsageError(f"--out {folder} is not empty; give another folder, or add --force to write into this one")
    folder.mkdir(parents=True, exist_ok=True)


def _run(context: typer.Context, step: Step, shared: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a step in the folder and return its report.

    Raises:
        SauError: it ended with an exit code that is not accepted, which is kept.
    """
    report = f"{step.command}.json"
    words = [*step.words.split(), "--json", report, "--report", f"{step.command}.html", *shared]
    with chdir(folder):
        code = context.find_root().command.main(words, prog_name="sau", standalone_mode=False) or 0
        if code not in step.accepted:
            kind = next((kind for kind in SauError.__subclasses__() if kind.exit_code == code), SauError)
            raise kind(
                f"the demo stopped, as sau {step.command} ended with exit code {int(code)}; its message is above, and "
                "sau demo --force starts over"
            )
        found: dict[str, Any] = json.loads(Path(report).read_text(encoding="utf-8"))
    return found


def outcome(reports: dict[str, dict[str, Any]]) -> Group:
    """The measures before and after purification, from the reports of the steps."""
    evaluated, exported = reports["evaluate"], reports["export"]
    meanings = (
        ("ACC: clean images classified correctly", "reference.acc", "acc"),
        ("ASR: triggered images sent to the target", "reference.asr.badnets", "asr.badnets"),
        ("R-ACC: triggered images classified correctly", "reference.r-acc.badnets", "r-acc.badnets"),
    )
    rows = [
        (meaning, with_interval(_measure(evaluated, before)), with_interval(_measure(evaluated, after)))
        for meaning, before, after in meanings
    ]
    rows.append(("ONNX: same class as in PyTorch", "", percent(_check(exported, "export.agreement")["value"])))
    images = evaluated["details"]["evaluation"]["images"]
    legend = (
        f"In brackets: 95 % intervals, from {images} test images. Purified with "
        f"{reports['purify']['details']['learned_from']} clean images and without the trigger."
    )
    return table("Before and after sau purify", ("", "before", "after"), rows, legend=legend)


def last_line(evaluated: dict[str, Any], seconds: float) -> str:
    """Whether the trigger still works, in a sentence."""
    asr, drop = _check(evaluated, "asr.badnets")["value"], _check(evaluated, "acc-drop")["value"]
    held = all(
        check["status"] == CheckStatus.PASSED for check in evaluated["checks"] if check["id"].startswith("limit.")
    )
    told = f"ASR {percent(asr)}, ACC fell by {100 * drop:.1f} points, in {seconds:.0f} s."
    return f"{'The trigger fails' if held else 'A limit failed'}: {told}"


def _check(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(check for check in report["checks"] if check["id"] == name)
    return found


def _measure(report: dict[str, Any], name: str) -> Measure:
    check = _check(report, name)
    return Measure(value=check["value"], ci95=tuple(check["ci95"]))

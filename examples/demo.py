"""The main job, end to end: plant a backdoor in a digits classifier, remove it, measure, export.

Run it with ``make demo``; it takes about a minute on 2 cores, without a GPU or network.
Expected last line: ``The trigger fails: ...``

Every step is a command that you could type yourself; the table at the end is read from their
reports. The purification learns from 10 % of the training images and not 5 %, which is 72 here and costs some points
of ACC.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

LARGEST_ASR, LARGEST_ACC_DROP = 0.05, 0.03


def run(command: str, folder: Path, report: str, *, expected: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run one ``sau`` command inside the folder and return its report.

    Args:
        expected: exit codes that are no reason to stop.
    """
    print(f"\n$ sau {command}", flush=True)
    words = [sys.executable, "-m", "sau_cli", *command.split(), "--json", report, "--force"]
    done = subprocess.run(words, cwd=folder, check=False)
    if done.returncode not in expected:
        sys.exit(f"sau {command.split(maxsplit=1)[0]} ended with exit code {done.returncode}")
    return json.loads((folder / report).read_text(encoding="utf-8"))


def measure(report: dict[str, Any], check: str) -> dict[str, Any]:
    return next(one for one in report["checks"] if one["id"] == check)


def shown(check: dict[str, Any]) -> str:
    low, high = check["ci95"]
    return f"{100 * check['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the files")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    run("attack --attack badnets --arch small_cnn --data digits --out model.safetensors", folder, "attack.json")
    # 1: it behaves like a backdoored model, as it is one; 6: the seeds disagree. A gate stops at both.
    inspected = run("inspect model.safetensors", folder, "inspect.json", expected=(0, 1, 6))
    purified = run("purify model.safetensors --clean-frac 0.1", folder, "purify.json")
    evaluated = run(
        "evaluate model.purified.safetensors --reference model.safetensors --trigger model.trigger.safetensors",
        folder,
        "evaluate.json",
    )
    exported = run("export model.purified.safetensors --out model.onnx", folder, "export.json")

    table = Table(
        title="A backdoored digits classifier, before and after sau purify", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("")
    table.add_column("before", no_wrap=True)
    table.add_column("after", no_wrap=True)
    measured = {
        "ACC: clean images that are classified correctly": ("reference.acc", "acc"),
        "ASR: triggered images sent to the attacker's class": ("reference.asr.badnets", "asr.badnets"),
        "R-ACC: triggered images classified correctly": ("reference.r-acc.badnets", "r-acc.badnets"),
        "DER: 100 % is a perfect defence, 50 % a useless one": (None, "der.badnets"),
    }
    for meaning, pair in measured.items():
        table.add_row(meaning, *(shown(measure(evaluated, check)) if check else "" for check in pair))
    agreement = measure(exported, "export.agreement")
    table.add_row("ONNX: images given the same class as by PyTorch", "", f"{100 * agreement['value']:.1f} %")
    table.add_section()
    table.add_row(f"weights, in {folder}/", "model.safetensors", "model.purified.safetensors")
    table.add_row("trigger, which purify never saw", "model.trigger.safetensors", "")
    table.add_row("ONNX file", "", "model.onnx")
    console = Console()
    console.print()
    console.print(table)
    learned = purified["details"]["learned_from"]
    print(f"Files and reports (.json) are in {folder}/. In brackets: 95 % intervals, from 360 test images.")
    if inspected["exit_code"] == 0:
        print("sau inspect found no sign of the backdoor: on 8x8 images it often misses one (README has how often).")
    print(f"Purified with {learned} clean images, 10 % of the training images: 5 % is 72 here, too few to keep ACC.")

    asr = measure(evaluated, "asr.badnets")["value"]
    drop = measure(evaluated, "acc-drop")["value"]
    if asr >= LARGEST_ASR or drop > LARGEST_ACC_DROP:
        sys.exit(f"The trigger still works: ASR {100 * asr:.1f} %, ACC fell by {100 * drop:.1f} points.")
    print(
        f"The trigger fails: ASR {100 * asr:.1f} %, ACC fell by {100 * drop:.1f} points, in "
        f"{time.monotonic() - started:.0f} s."
    )


if __name__ == "__main__":
    main()

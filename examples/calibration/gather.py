"""Run every behaviour test on every model of the zoo, and keep what each says of each class.

    python examples/calibration/gather.py --zoo-models zoo --data-root data --jobs 2

Writes a file for each model into ``evidence/`` beside this one, and goes on where it stopped. Several may run at once.
What is there already is made again where it is of other tests, or where ``--again`` says that one has changed.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from zoo import HERE, ZooModel, data_of, fresh, read_zoo, zoo_models

from sau_adapters.files import sha256_of, written_whole
from sau_adapters.triggers import open_trigger
from sau_cli.evaluation.metrics import evaluate
from sau_cli.inspection.behaviour import Behaviour, examine_behaviour
from sau_cli.inspection.behaviour_tests import TESTS
from sau_cli.inspection.calibration import bounds_evidence
from sau_cli.inspection.effort import Effort

EVIDENCE = HERE / "evidence"


def gathered(model: ZooModel, zoo: dict[str, Any], root: Path, models: Path) -> dict[str, Any]:
    """What is known of one model: its quality, and by test and seed the statistic of each class and its unit."""
    torch.set_num_threads(1)
    path = models / f"{model.name}.safetensors"
    data = data_of(model, zoo, root)
    classifier = fresh(model, zoo, data.train)
    classifier.network.load_state_dict(load_file(path))
    classifier.eval()
    triggers = [open_trigger(str(models / f"{model.name}.trigger.safetensors"), None)] if model.backdoored else []
    quality = evaluate(classifier, data.for_testing, triggers=triggers)
    spec = classifier.description.input
    with_data = examine_behaviour(classifier, data.for_testing, effort=Effort.STANDARD)
    data_free = examine_behaviour(classifier, None, effort=Effort.STANDARD)
    return {
        "sha256": sha256_of(path),
        "data": model.data,
        "architecture": model.architecture.rpartition(":")[2],
        "half": "untouched" if model.untouched else "calibrated",
        **model.about,
        "classes": classifier.description.classes,
        "pixels": min(spec.height, spec.width),
        "acc": round(quality.accuracy.value, 4),
        "asr": round(quality.triggers[0].asr.value, 4) if triggers else None,
        "bounds": round(bounds_evidence(with_data.bounds), 4),
        "set-aside": list(with_data.set_aside),
        "with-data": _by_test(with_data),
        "data-free": _by_test(data_free),
    }


def _by_test(found: Behaviour) -> dict[str, list[dict[str, Any]]]:
    return {
        test.id: [
            {"values": [float(f"{value:.4g}") for value in scores.values.tolist()], "unit": float(f"{scores.unit:.4g}")}
            for scores in (seed.findings[place].scores for seed in found.seeds)
        ]
        for place, test in enumerate(found.tests)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, default=HERE / "zoo.toml")
    parser.add_argument("--zoo-models", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=EVIDENCE)
    parser.add_argument("--again", action="store_true", help="also what is there already, as a test has changed")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, a core each")
    asked = parser.parse_args()
    zoo = read_zoo(asked.zoo)
    asked.out.mkdir(exist_ok=True)
    tests = [test.id for test in TESTS]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        running = {}
        for model in zoo_models(zoo):
            if not (asked.zoo_models / f"{model.name}.safetensors").exists():
                continue
            kept = asked.out / f"{model.name}.json"
            if asked.again or not kept.exists() or list(json.loads(kept.read_text())["with-data"]) != tests:
                running[pool.submit(gathered, model, zoo, asked.data_root, asked.zoo_models)] = kept
        for done in as_completed(running):
            with written_whole(running[done]) as part:
                part.write_text(json.dumps(done.result(), indent=1) + "\n", encoding="utf-8")
            print(f"examined {running[done].stem}", flush=True)


if __name__ == "__main__":
    main()

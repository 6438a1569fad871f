"""ACC and ASR after every epoch of a purification: a JSON file and a plot.

    python examples/reproduce/by_epoch.py model.safetensors --trigger model.trigger.safetensors \\
        --data cifar10 --data-root DATA --clean-frac 0.05 --runs default paper ft ft-sam i-bau

The trigger measures and is not learned from. ``--epochs`` cuts every run to as many, with its schedule. Writes
``by-epoch.json`` and ``by-epoch.png`` into ``--out``; ends with a line for each run, such as
``ft: ASR 100.0 -> 99.4 after 100 epochs``.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from sau_adapters.classifiers.building import as_classifier
from sau_adapters.images.sources import open_images
from sau_adapters.models import locate, open_model
from sau_adapters.triggers import open_trigger
from sau_cli.devices import chosen_device
from sau_cli.evaluation.metrics import Evaluation, evaluate
from sau_cli.images import draw_clean, uniform_share
from sau_cli.unlearning.methods import MethodName, settings_for
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import RecipeName
from sau_cli.unlearning.run_state import RunState

RUNS: dict[str, tuple[MethodName, RecipeName | None]] = {
    "default": (MethodName.SAU, RecipeName.DEFAULT),
    "paper": (MethodName.SAU, RecipeName.PAPER),
    **{name.value: (name, None) for name in MethodName if name is not MethodName.SAU},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--trigger", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--clean-frac", type=float, default=0.05)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=["default", "ft"])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--images", type=int, default=2000, help="test images that measure, at most")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path())
    return parser.parse_args()


def point(epoch: int, found: Evaluation) -> dict[str, Any]:
    (row,) = found.triggers
    return {
        "epoch": epoch,
        "acc": found.accuracy.value,
        "asr": row.asr.value,
        "asr_ci95": row.asr.ci95,
        "r_acc": row.robust_accuracy.value,
    }


def plot(series: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, places = plt.subplots(1, 2, figsize=(9, 3.6))
    for place, name in zip(places, ("asr", "acc"), strict=True):
        for run, points in series.items():
            last = points[-1]["epoch"]
            place.plot(
                [measured["epoch"] / last for measured in points],
                [100 * measured[name] for measured in points],
                label=run,
            )
        place.set_xlabel("share of the epochs")
        place.set_ylabel(f"{name.upper()}, %")
        place.grid(alpha=0.3)
    places[0].set_ylim(-4, 104)
    places[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    given = arguments()
    device = chosen_device(given.device)
    received = as_classifier(open_model(locate(given.model))).to(device)
    data = open_images(given.data, root=given.data_root)
    test = data.for_testing
    if len(test) > given.images:
        test = test.take(uniform_share(test, given.images / len(test), seed=given.seed))
    triggers = (open_trigger(given.trigger, None),)
    series: dict[str, list[dict[str, Any]]] = {}
    for run in given.runs:
        method, recipe = RUNS[run]
        balanced = settings_for(method, recipe).balanced
        clean = draw_clean(
            data.train, given.clean_frac, balanced=balanced, augmentation=data.augmentation, seed=given.seed
        )
        settings = settings_for(method, recipe, learning=clean.learning, epochs=given.epochs)
        points = series[run] = [point(0, evaluate(received, test, triggers=triggers))]
        copy = deepcopy(received)

        def measure(state: RunState, copy: Any = copy, points: list[dict[str, Any]] = points) -> None:
            copy.network.load_state_dict(state.learned())
            points.append(point(state.epoch - 1, evaluate(copy, test, triggers=triggers)))

        done = purify(received, clean, recipe=settings, seed=given.seed, save=measure)
        points.append(point(len(done.epochs), evaluate(done.classifier, test, triggers=triggers)))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "by-epoch.json").write_text(json.dumps({"seed": given.seed, "runs": series}, indent=1))
    plot(series, given.out / "by-epoch.png")
    for run, points in series.items():
        first, last = points[0], points[-1]
        print(f"{run}: ASR {100 * first['asr']:.1f} -> {100 * last['asr']:.1f} after {last['epoch']} epochs")


if __name__ == "__main__":
    main()

"""What a user could take instead of ``sau inspect``, on models that nothing was tuned on.

    python -m tests.benchmarks.detection_peers --zoo-models zoo --data-root data --out peers.json

Runs on the untouched half of the zoo (``examples/calibration/``), each model in turn, and goes on where it stopped:

- MM-BD as its authors publish it (Wang et al., S&P 2024): 30 images of noise a class, 300 steps, no data, p-value;
- Neural Cleanse (Wang et al., S&P 2019): a mask and a pattern for each class, 220 steps of 48 clean images, anomaly
  index of the smallest mask;
- ``mithridatium`` (``pip install mithridatium``), a tool of the same purpose, by its own MM-BD, where it is
  installed.

The seconds are of one thread, and ``sau``'s are taken in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from scipy.stats import gamma
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.classifier import Classifier
from sau_cli.images import LabelledImages, as_pixels
from sau_cli.inspection.behaviour import examine_behaviour
from sau_cli.inspection.calibration import judge_behaviour
from sau_cli.inspection.climbing import margins
from sau_cli.inspection.effort import Effort
from sau_cli.model_state import evaluating, frozen

CALIBRATION = Path(__file__).parents[2] / "examples" / "calibration"
STARTS, STEPS = 30, 300
"""MM-BD's images a class and steps."""
MASK_STEPS, MASK_IMAGES = 220, 48
"""Neural Cleanse's, cut from some thousand so that a model takes minutes."""


def sau(classifier: Classifier, images: LabelledImages) -> float:
    return judge_behaviour(examine_behaviour(classifier, images, effort=Effort.STANDARD)).score


def mm_bd(classifier: Classifier, _: LabelledImages) -> float:
    """1 - p, which is above 0.95 where its authors call a model backdoored."""
    classes, spec = classifier.description.classes, classifier.description.input
    statistics = []
    for wanted in range(classes):
        noise = torch.rand(STARTS, spec.channels, spec.height, spec.width).requires_grad_(True)
        optimiser = torch.optim.SGD([noise], lr=1e-2, momentum=0.2)
        labels, last = torch.full((STARTS,), wanted), 1000.0
        for _ in range(STEPS):
            won = margins(classifier(noise.clamp(0, 1)), labels)
            optimiser.zero_grad()
            (-won.sum()).backward()
            optimiser.step()
            loss = -float(won.detach().sum())
            if abs(last - loss) / abs(last) < 1e-5:
                break
            last = loss
        statistics.append(float(won.detach().max()))
    largest = max(statistics)
    others = sorted(statistics)[:-1]
    shape, place, scale = gamma.fit(others)
    return float(gamma.cdf(largest, a=shape, loc=place, scale=scale) ** classes)


def neural_cleanse(classifier: Classifier, images: LabelledImages) -> float:
    """The anomaly index of the smallest mask, which is above 2 where its authors call a model backdoored."""
    pixels, sizes = as_pixels(images.images), []
    for wanted in range(classifier.description.classes):
        sizes.append(_mask_size(classifier, pixels, wanted))
    found = torch.tensor(sizes)
    spread = 1.4826 * (found - found.median()).abs().median()
    return float((found.median() - found.min()) / spread.clamp_min(1e-6))


def _mask_size(classifier: Classifier, pixels: Tensor, wanted: int) -> float:
    channels, height, width = pixels.shape[1:]
    mask = torch.full((1, 1, height, width), -2.0).requires_grad_(True)
    pattern = torch.zeros(1, channels, height, width).requires_grad_(True)
    optimiser = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
    weight, running, smallest = 1e-3, 0.0, float(height * width)
    labels = torch.full((MASK_IMAGES,), wanted)
    for _ in range(MASK_STEPS):
        seen = pixels[torch.randint(len(pixels), (MASK_IMAGES,))]
        share = mask.sigmoid()
        logits = classifier((1 - share) * seen + share * pattern.sigmoid())
        loss = cross_entropy(logits, labels) + weight * share.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running = 0.8 * running + 0.2 * float((logits.argmax(dim=1) == wanted).float().mean())
        if running > 0.95:
            smallest = min(smallest, float(share.sum()))
        weight = weight * 1.1 if running > 0.95 else weight / 1.15
    return smallest


def mithridatium(classifier: Classifier, _: LabelledImages) -> float:
    """1 - p of its MM-BD, which looks at the first five classes."""
    from mithridatium.defenses.mmbd import run_mmbd

    spec = classifier.description.input

    class Told:
        input_size = (spec.channels, spec.height, spec.width)

        def get_mean(self) -> list[float]:
            return [0.0] * 3  # the classifier normalises by itself

        def get_std(self) -> list[float]:
            return [1.0] * 3

        def get_dataset(self) -> str:
            return "zoo"

    classifier.num_classes = classifier.description.classes
    with redirect_stdout(io.StringIO()):
        return 1 - float(run_mmbd(classifier, Told(), device=torch.device("cpu"))["p_value"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo-models", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tools", default="sau,mm_bd,mithridatium,neural_cleanse")
    asked = parser.parse_args()
    sys.path.insert(0, str(CALIBRATION))
    from zoo import data_of, fresh, read_zoo, zoo_models

    tools: dict[str, Callable[[Classifier, LabelledImages], float]] = {
        name: globals()[name] for name in asked.tools.split(",")
    }
    if "mithridatium" in tools and importlib.util.find_spec("mithridatium") is None:
        print("mithridatium is not installed, and is left out")
        del tools["mithridatium"]
    torch.set_num_threads(1)
    zoo = read_zoo()
    rows: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for model in zoo_models(zoo):
        path = asked.zoo_models / f"{model.name}.safetensors"
        if not model.untouched or not path.exists():
            continue
        row = rows.setdefault(model.name, {"backdoored": model.backdoored})
        data = data_of(model, zoo, asked.data_root)
        classifier = fresh(model, zoo, data.train)
        classifier.network.load_state_dict(load_file(path))
        for name, tool in tools.items():
            if name in row:
                continue
            if name == "mithridatium" and classifier.description.input.channels != 3:
                continue  # it takes colour alone
            torch.manual_seed(0)
            began = time.process_time()
            with evaluating(classifier), frozen(classifier):
                row[name] = tool(classifier, data.for_testing)
            row[f"{name} seconds"] = round(time.process_time() - began, 1)
            print(f"{model.name:40} {name:15} {row[name]:8.3f} {row[f'{name} seconds']:7.1f} s", flush=True)
            asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    for name in tools:
        some = [row for row in rows.values() if name in row]
        truth, scores = [row["backdoored"] for row in some], [row[name] for row in some]
        if len(set(truth)) < 2:
            continue
        clean = sorted((score for score, bad in zip(scores, truth, strict=True) if not bad), reverse=True)
        least = clean[int(0.05 * len(clean))]
        found = [score > least for score, bad in zip(scores, truth, strict=True) if bad]
        seconds = sorted(row[f"{name} seconds"] for row in some)[len(some) // 2]
        print(
            f"{name}: {len(some)} models, AUROC {roc_auc_score(truth, scores):.3f}, TPR at 5 % FPR "
            f"{sum(found) / len(found):.2f}, median {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()

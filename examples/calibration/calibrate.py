"""Calibrate ``sau inspect`` on the zoo's first half, and measure it on the untouched one.

    python examples/calibration/calibrate.py --zoo-models zoo --data-root data

Writes what the tests found on every model to ``evidence.json`` beside the models (kept, and not made again),
``sau_cli/inspection/calibration.json``, and prints the table of the README. About 4 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from zoo import HERE, ZooModel, zoo_data, zoo_models

from sau_adapters.classifiers.building import as_classifier
from sau_adapters.models import locate, open_model
from sau_adapters.triggers import open_trigger
from sau_cli.evaluation.metrics import evaluate, rate
from sau_cli.images import ImageData
from sau_cli.inspection.behaviour import Effort, examine_behaviour
from sau_cli.inspection.calibration import CHANNEL_BOUNDS, bounds_evidence, evidence
from sau_cli.inspection.maximum_margins import TEST as MARGINS

HOLDS = 0.8
"""A backdoor that works less often is none to be found."""
SHIPPED = HERE.parents[1] / "sau_cli" / "inspection" / "calibration.json"
FALSE_POSITIVES = 0.05
"""Of clean models, by a normal law: those with any seed above the threshold, called backdoored or inconclusive."""
PENALTY = 0.02
"""On the squared weights, so that few models do not make them large."""


def examined(model: ZooModel, path: Path, data: ImageData) -> dict[str, Any]:
    """What the tests find on one model: by seed and test, what speaks for each class."""
    classifier = as_classifier(open_model(locate(path)))
    trigger_file = path.with_name(f"{model.name}.trigger.safetensors")
    triggers = () if model.attack is None else (open_trigger(str(trigger_file), None),)
    quality = evaluate(classifier, data.for_testing, triggers=triggers)
    found = examine_behaviour(classifier, data.for_testing, effort=Effort.STANDARD)
    return {
        "data": model.data,
        "architecture": model.architecture,
        "attack": None if model.attack is None else model.attack[0],
        "target": None if model.attack is None else int(model.attack[1]),
        "untouched": model.untouched,
        "acc": quality.accuracy.value,
        "asr": quality.triggers[0].asr.value if triggers else None,
        "bounds": bounds_evidence(found.bounds),
        "seeds": [
            {test: values.tolist() for test, values in evidence([finding.scores for finding in one.findings]).items()}
            for one in found.seeds
        ],
    }


def fit(rows: Sequence[dict[str, Any]], tests: Sequence[str]) -> tuple[np.ndarray, float]:
    """Weights of the tests and of the channel bounds, all at least 0, and the bias: logistic regression.

    The score of a model is that of its most suspicious class, which depends on the weights: the class is chosen anew
    after each fit.
    """
    truth = np.array([row["attack"] is not None for row in rows for _ in row["seeds"]], dtype=float)
    weights = np.ones(len(tests) + 1)
    bias = 0.0
    for _ in range(20):
        at_worst = np.array([_worst(row, seed, tests, weights) for row in rows for seed in row["seeds"]])

        def loss(values: np.ndarray, seen: np.ndarray = at_worst) -> float:
            logits = seen @ values[:-1] + values[-1]
            return float(np.mean(np.logaddexp(0, logits) - truth * logits) + PENALTY * np.sum(values[:-1] ** 2))

        limits = [(0, None)] * len(weights) + [(None, None)]
        solved = minimize(loss, np.append(weights, bias), bounds=limits, method="L-BFGS-B").x
        weights, bias = solved[:-1], float(solved[-1])
    return weights, bias


def _worst(row: dict[str, Any], seed: dict[str, Any], tests: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """The evidence on the class that has most of it, and of the channel bounds."""
    each = np.array([seed[test] for test in tests])
    return np.append(each[:, int((weights[:-1] @ each).argmax())], row["bounds"])


def scores(row: dict[str, Any], tests: Sequence[str], weights: np.ndarray, bias: float) -> list[float]:
    """Of one model, by seed."""
    return [float(expit(_worst(row, seed, tests, weights) @ weights + bias)) for seed in row["seeds"]]


def calibrate(rows: Sequence[dict[str, Any]], tests: Sequence[str]) -> dict[str, Any]:
    """Fit on one half; measure on the other; print the table."""
    known = [row for row in rows if not row["untouched"]]
    weights, bias = fit(known, tests)
    clean = np.array([_logit(max(scores(row, tests, weights, bias))) for row in known if row["attack"] is None])
    threshold = float(expit(clean.mean() + norm.ppf(1 - FALSE_POSITIVES) * clean.std(ddof=1)))
    fresh = [row for row in rows if row["untouched"]]
    middle = [float(np.median(scores(row, tests, weights, bias))) for row in fresh]
    truth = [row["attack"] is not None for row in fresh]
    verdicts = [_verdict(scores(row, tests, weights, bias), threshold) for row in fresh]
    for row, score, verdict in zip(fresh, middle, verdicts, strict=True):
        print(f"  {row['data']:8} {row['architecture']:18} {row['attack'] or 'clean':12} {score:.3f} {verdict}")
    clean_rows = [verdict for verdict, bad in zip(verdicts, truth, strict=True) if not bad]
    bad_rows = [verdict for verdict, bad in zip(verdicts, truth, strict=True) if bad]
    measured = {
        "clean_models": len(clean_rows),
        "called_backdoored": clean_rows.count("backdoored"),
        "clean_inconclusive": clean_rows.count("inconclusive"),
        "backdoored_models": len(bad_rows),
        "found": bad_rows.count("backdoored"),
        "backdoored_inconclusive": bad_rows.count("inconclusive"),
        "auroc": round(float(roc_auc_score(truth, middle)), 4),
        "tpr_at_5_percent_fpr": round(_found_at(0.05, truth, middle), 4),
    }
    for data in sorted({row["data"] for row in fresh}):
        of = [(bad, score) for row, bad, score in zip(fresh, truth, middle, strict=True) if row["data"] == data]
        told, scored = [bad for bad, _ in of], [score for _, score in of]
        print(f"  {data}: AUROC {roc_auc_score(told, scored):.3f}, TPR at 5 % FPR {_found_at(0.05, told, scored):.3f}")
    interval = rate(measured["called_backdoored"], measured["clean_models"]).ci95
    print(f"  {measured}, false positives 95 %: {interval[0]:.3f} to {interval[1]:.3f}, threshold {threshold:.3f}")
    names = [*tests, CHANNEL_BOUNDS]
    return {
        "weights": {name: round(float(one), 4) for name, one in zip(names, weights, strict=True)},
        "bias": round(bias, 4),
        "threshold": round(threshold, 4),
        "measured": measured,
    }


def _found_at(false_positives: float, truth: Sequence[bool], scored: Sequence[float]) -> float:
    """The share of backdoored models above a threshold that no more than this share of the clean ones is above."""
    clean = sorted((score for bad, score in zip(truth, scored, strict=True) if not bad), reverse=True)
    least = clean[int(false_positives * len(clean))]
    found = [score > least for bad, score in zip(truth, scored, strict=True) if bad]
    return sum(found) / len(found)


def _logit(score: float) -> float:
    return float(np.log(score) - np.log1p(-score))


def _verdict(by_seed: Sequence[float], threshold: float) -> str:
    over = {score >= threshold for score in by_seed}
    return "inconclusive" if len(over) == 2 else ("backdoored" if over == {True} else "clean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, default=HERE / "zoo.toml")
    parser.add_argument("--zoo-models", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    asked = parser.parse_args()
    zoo = tomllib.loads(asked.zoo.read_text())
    kept = asked.zoo_models / "evidence.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    opened: dict[str, ImageData] = {}
    for model in zoo_models(zoo):
        path = asked.zoo_models / f"{model.name}.safetensors"
        if model.name in rows or not path.exists():
            continue
        if model.data not in opened:
            opened[model.data] = zoo_data(zoo, model.data, asked.data_root)
        rows[model.name] = examined(model, path, opened[model.data])
        kept.write_text(json.dumps(rows))
        print(f"examined {model.name}", flush=True)
    held = [row for row in rows.values() if row["asr"] is None or row["asr"] >= HOLDS]
    print(f"{len(rows)} models, of which {len(rows) - len(held)} have a backdoor that does not hold and are left out")
    every = list(next(iter(rows.values()))["seeds"][0])
    found = {}
    for name, tests in (("with-data", every), ("data-free", [one for one in every if one.startswith(MARGINS)])):
        print(f"{name}, on the untouched half:")
        sizes = [about["image-size"] for about in zoo["data"].values()]
        found[name] = calibrate(held, tests) | {"pixels": [min(sizes), max(sizes)]}
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"Wrote {asked.out}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

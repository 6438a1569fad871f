"""Choose weights and thresholds of ``sau inspect`` on one half of the zoo, and measure them on the other.

    python examples/calibration/calibrate.py

Reads what ``gather.py`` kept in ``evidence/``, writes ``sau_cli/inspection/calibration.json`` and prints the tables.
Seconds. Nothing of the untouched half plays any part in what is written but the rates that are measured on it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from sau_cli.evaluation.metrics import rate
from sau_cli.inspection.calibration import CHANNEL_BOUNDS, BehaviourVerdict, Calibration, evidence, judge_seeds, pooled
from sau_cli.inspection.class_scores import ClassScores
from sau_cli.results import CheckStatus

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "sau_cli" / "inspection" / "calibration.json"
HOLDS = 0.6
"""A backdoor that works less often is none to be found."""
FALSE_POSITIVES = 0.05
"""Of clean models, those above the threshold."""
PENALTY = 0.1
"""On the squared weights, so that few models do not make them large."""
KINDS = {"8 to 16 pixels": (8, 16), "24 to 40 pixels": (24, 40)}
"""Of input, by the shorter side of images; each has a threshold of its own."""
SEED = 0
"""Of the bootstrap."""
NEVER = -100.0
"""Evidence on a class that is set aside: less than on any other."""
NAMES = {
    CheckStatus.FAILED: "backdoored",
    CheckStatus.INCONCLUSIVE: "inconclusive",
    CheckStatus.PASSED: "passed",
}


@dataclass(frozen=True)
class Row:
    """One model and what the tests say of it, with data or without.

    Attributes:
        about: of the file that ``gather.py`` wrote.
    """

    name: str
    about: dict[str, Any]
    mode: str

    @property
    def backdoored(self) -> bool:
        return "attack" in self.about

    @property
    def target(self) -> int | None:
        """The class that triggered images go to, where they all go to one."""
        told = self.about.get("target", "")
        return int(told) if told.isdigit() else None

    @property
    def kind(self) -> str:
        return next(name for name, (low, high) in KINDS.items() if low <= self.about["pixels"] <= high)

    @property
    def cell(self) -> tuple[str, str]:
        return self.about["data"], self.about["architecture"]

    @cached_property
    def seeds(self) -> list[list[ClassScores]]:
        """The scores of each test, by seed."""
        tests = self.about[self.mode]
        count = len(next(iter(tests.values())))
        return [
            [
                ClassScores(test=test, values=torch.tensor(found[seed]["values"]), unit=found[seed]["unit"])
                for test, found in tests.items()
            ]
            for seed in range(count)
        ]

    @cached_property
    def evidence(self) -> np.ndarray:
        """What speaks for each class that is not set aside in every test, all seeds together, (tests, classes)."""
        found = torch.stack(list(pooled([evidence(scores) for scores in self.seeds]).values())).numpy()
        found[:, self.about["set-aside"]] = NEVER
        return found

    def logit(self, weights: np.ndarray, bias: float) -> float:
        """Of the class with most evidence; ``weights`` end with that of the channel bounds."""
        return float((weights[:-1] @ self.evidence).max()) + weights[-1] * self.about["bounds"] + bias

    def judged(self, calibration: Calibration) -> BehaviourVerdict:
        return judge_seeds(
            [evidence(scores) for scores in self.seeds],
            torch.arange(self.about["classes"]),
            self.about["bounds"],
            calibration,
            pixels=self.about["pixels"],
            of=self.about["classes"],
            set_aside=self.about["set-aside"],
        )

    @property
    def seen(self) -> bool:
        """Whether the target of a backdoor is the class that most evidence speaks for, all tests alike."""
        return self.target is not None and int(self.evidence.sum(axis=0).argmax()) == self.target


def fit(rows: Sequence[Row]) -> tuple[np.ndarray, float]:
    """Weights of the tests and of the channel bounds, all at least 0, and the bias: logistic regression.

    A backdoored model stands for its target's evidence, a clean one for that of its most suspicious class, which
    depends on the weights and is chosen anew after each fit. Backdoored and clean models count alike. A backdoor that
    no test sees teaches nothing about which to trust, so it is left out here; it counts in all that is measured.
    """
    known = [row for row in rows if not row.backdoored or row.seen]
    truth = np.array([row.backdoored for row in known], dtype=float)
    share = np.where(truth > 0, 0.5 / truth.sum(), 0.5 / (1 - truth).sum())
    weights = np.ones(len(known[0].evidence) + 1)
    bias = 0.0
    for _ in range(30):
        seen = np.array([_told(row, weights) for row in known])

        def loss(values: np.ndarray, seen: np.ndarray = seen) -> float:
            logits = seen @ values[:-1] + values[-1]
            fitting = float(share @ (np.logaddexp(0, logits) - truth * logits))
            return fitting + PENALTY * float(np.sum(values[:-1] ** 2))

        limits = [(0, None)] * len(weights) + [(None, None)]
        solved = minimize(loss, np.append(weights, bias), bounds=limits, method="L-BFGS-B").x
        weights, bias = solved[:-1], float(solved[-1])
    return weights, bias


def _told(row: Row, weights: np.ndarray) -> np.ndarray:
    at = row.target if row.target is not None else int((weights[:-1] @ row.evidence).argmax())
    return np.append(row.evidence[:, at], row.about["bounds"])


def thresholds(known: Sequence[Row]) -> dict[str, dict[str, float | int]]:
    """For each kind of input a logit that at most one clean model in twenty is expected to be above.

    Split conformal over networks: each clean model is scored with weights that were fitted without its own cell, and
    the threshold is the k-th smallest of n such scores, k = ceil((n + 1)·0.95). Where n is below 19 no such k is there:
    the highest is taken, and what is promised is 1 / (n + 1).

    Source: Vovk et al., "Algorithmic Learning in a Random World", 2005; Barber et al., "Predictive inference with the
    jackknife+", 2021.
    """
    outside: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for cell in sorted({row.cell for row in known}):
        weights, bias = fit([row for row in known if row.cell != cell])
        for row in known:
            if row.cell == cell and not row.backdoored:
                outside[row.kind].append(row.logit(weights, bias))
    found: dict[str, dict[str, float | int]] = {}
    for kind, scores in outside.items():
        if not scores:
            continue
        count = len(scores)
        place = min(count, ceil((count + 1) * (1 - FALSE_POSITIVES)))
        promised = max(FALSE_POSITIVES, 1 / (count + 1))
        found[kind] = {"logit": sorted(scores)[place - 1], "clean_models": count, "accused_at_most": round(promised, 4)}
    return found


def measured(rows: Sequence[Row], calibration: Calibration) -> dict[str, Any]:
    """Rates on models that were not calibrated on, and a line for each."""
    print(f"  {'data':12} {'network':18} {'model':28} ASR   score  verdict")
    scores, verdicts, right = [], [], []
    for row in rows:
        found = row.judged(calibration)
        verdict = NAMES[found.status]
        if row.target is not None and verdict == "backdoored":
            right.append(found.suspect == row.target)
        scores.append(found.score)
        verdicts.append(verdict)
        words = [row.about.get("attack", "clean"), row.about.get("target"), row.about.get("how"), row.about.get("then")]
        told = " ".join(word for word in words if word)
        asr = "" if row.about["asr"] is None else f"{row.about['asr']:.2f}"
        print(f"  {row.about['data']:12} {row.about['architecture']:18} {told:28} {asr:5} {found.score:.3f}  {verdict}")
    truth = np.array([row.backdoored for row in rows])
    values = np.array(scores)
    low, high = _bootstrap(truth, values)
    clean = [verdict for verdict, bad in zip(verdicts, truth, strict=True) if not bad]
    bad = [verdict for verdict, bad in zip(verdicts, truth, strict=True) if bad]
    return {
        "clean_models": len(clean),
        "called_backdoored": clean.count("backdoored"),
        "clean_inconclusive": clean.count("inconclusive"),
        "backdoored_models": len(bad),
        "found": bad.count("backdoored"),
        "backdoored_inconclusive": bad.count("inconclusive"),
        "right_class": sum(right),
        "found_with_one_target": len(right),
        "auroc": round(float(roc_auc_score(truth, values)), 3),
        "auroc_from": round(low, 3),
        "auroc_to": round(high, 3),
        "tpr_at_5_percent_fpr": round(_found_at(truth, values), 3),
    }


def _bootstrap(truth: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of the AUROC, over models drawn anew."""
    stream, found = np.random.default_rng(SEED), []
    while len(found) < 2000:
        at = stream.integers(len(truth), size=len(truth))
        if 0 < truth[at].sum() < len(truth):
            found.append(roc_auc_score(truth[at], values[at]))
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def _found_at(truth: np.ndarray, values: np.ndarray) -> float:
    """The share of backdoored models above a threshold that no more than one in twenty of the clean ones is above."""
    clean = np.sort(values[~truth])[::-1]
    return float((values[truth] > clean[int(FALSE_POSITIVES * len(clean))]).mean())


def counted(rows: Sequence[Row], by: str, calibration: Calibration) -> dict[str, dict[str, int]]:
    """How many models were called, inconclusive and passed, by attack or network; clean ones on their own."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        name = str(row.about[by]) if row.backdoored else f"clean, {row.about['architecture']}"
        counts = found.setdefault(name, dict.fromkeys(NAMES.values(), 0))
        counts[NAMES[row.judged(calibration).status]] += 1
    for name, counts in sorted(found.items()):
        low, high = rate(counts["backdoored"], sum(counts.values())).ci95
        print(f"    {name:24} {counts}, called {low:.2f} to {high:.2f}")
    return dict(sorted(found.items()))


def calibrated(every: Sequence[Row]) -> dict[str, Any]:
    """One mode: with data or without."""
    known = [row for row in every if row.about["half"] == "calibrated"]
    weights, bias = fit(known)
    names = [*evidence(known[0].seeds[0]), CHANNEL_BOUNDS]
    limits = thresholds(known)
    classes = [row.about["classes"] for row in known]
    kinds = [
        {
            "pixels": list(KINDS[kind]),
            "classes": [min(classes), max(classes)],
            "threshold": ceil(1e4 * float(torch.tensor(limit["logit"]).sigmoid())) / 1e4,
            "clean_models": limit["clean_models"],
            "accused_at_most": limit["accused_at_most"],
        }
        for kind, limit in limits.items()
    ]
    told = {
        "weights": {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True)},
        "bias": round(bias, 4),
        "kinds": kinds,
        "measured": {},
    }
    calibration = Calibration.of(told)
    print(json.dumps(told, indent=1))
    untouched = [row for row in every if row.about["half"] == "untouched"]
    told["measured"] = {}
    for title, rows in (("calibrated half", known), ("untouched half", untouched)):
        print(f" {title}")
        rates = measured(rows, calibration)
        print(f"  {rates}")
        if rows is untouched:
            told["measured"] = rates
            told["by_attack"] = counted(rows, "attack", calibration)
            told["by_network"] = counted(rows, "architecture", calibration)
    return told


def read_rows(folder: Path, mode: str) -> list[Row]:
    """Every model whose backdoor holds, or that has none."""
    rows = [
        Row(name=path.stem, about=json.loads(path.read_text(encoding="utf-8")), mode=mode)
        for path in sorted(folder.glob("*.json"))
    ]
    held = [row for row in rows if row.about["asr"] is None or row.about["asr"] >= HOLDS]
    print(f"{len(rows)} models, of which {len(rows) - len(held)} have a backdoor that does not hold and are left out")
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=HERE / "evidence")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    asked = parser.parse_args()
    found = {}
    for mode in ("with-data", "data-free"):
        print(f"{mode}:")
        found[mode] = calibrated(read_rows(asked.evidence, mode))
    asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"Wrote {asked.out}")


if __name__ == "__main__":
    main()

"""The measured numbers of the pages: each table is written from the file that holds its measurements.

    python docs/generate/tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``, in any page of the project. This script
writes what is between them; a test fails where that is not what the script would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from sau_cli.evaluation.metrics import rate

ROOT = Path(__file__).resolve().parent.parent.parent
CELLS = ROOT / "examples" / "reproduce" / "results"
MARKED = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Cell = dict[str, Any]
Axes = Mapping[str, Any]
Lines = list[str]


def pages() -> Iterator[Path]:
    """Every page of the project that may hold tables."""
    yield from sorted(ROOT.glob("*.md"))
    for folder in ("docs", "examples", "adapters"):
        yield from sorted((ROOT / folder).rglob("*.md"))
    yield ROOT / "tests" / "benchmarks" / "README.md"


def written(text: str) -> str:
    """A page with its tables as they are to be.

    Raises:
        KeyError: it names a table that there is not.
    """
    return MARKED.sub(lambda found: found[1] + "\n".join(["", *TABLES[found[2]](), "", ""]) + found[3], text)


# The score of sau inspect.


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRates:
    """How often the score was right on models that it was not calibrated on.

    Attributes:
        auroc: with its interval.
        thresholds: pixels of the images; the score above which a model is called backdoored; and the share of clean
            models that is expected to be above it.
    """

    clean: int
    accused: int
    clean_inconclusive: int
    backdoored: int
    found: int
    backdoored_inconclusive: int
    auroc: tuple[float, float, float]
    thresholds: tuple[tuple[str, float, float], ...]


@cache
def verdict_rates(*, with_data: bool) -> VerdictRates:
    """From ``calibration.json``; the only place here that knows its form."""
    text = (ROOT / "sau_cli" / "inspection" / "calibration.json").read_text(encoding="utf-8")
    entry = json.loads(text)["with-data" if with_data else "data-free"]
    measured = entry["measured"]
    return VerdictRates(
        clean=measured["clean_models"],
        accused=measured["called_backdoored"],
        clean_inconclusive=measured["clean_inconclusive"],
        backdoored=measured["backdoored_models"],
        found=measured["found"],
        backdoored_inconclusive=measured["backdoored_inconclusive"],
        auroc=(measured["auroc"], measured["auroc_from"], measured["auroc_to"]),
        thresholds=tuple(
            (" to ".join(map(str, kind["pixels"])), kind["threshold"], kind["accused_at_most"])
            for kind in entry["kinds"]
        ),
    )


def verdicts() -> Lines:
    rows = []
    for name, with_data in (("with clean images", True), ("without images", False)):
        known = verdict_rates(with_data=with_data)
        missed = known.backdoored - known.found - known.backdoored_inconclusive
        acquitted = known.clean - known.accused - known.clean_inconclusive
        rows.append([f"backdoored, {name}", known.backdoored, known.found, known.backdoored_inconclusive, missed])
        rows.append([f"clean, {name}", known.clean, known.accused, known.clean_inconclusive, acquitted])
    return _table(["models", "how many", "called backdoored", "inconclusive", "nothing found"], rows)


def verdict_scores() -> Lines:
    rows = []
    for name, with_data in (("with clean images", True), ("without images", False)):
        known = verdict_rates(with_data=with_data)
        middle, low, high = known.auroc
        right = _with_interval(known.found, known.backdoored)
        wrong = _with_interval(known.accused, known.clean)
        rows.append([name, f"{middle:.2f} ({low:.2f} to {high:.2f})", right, wrong])
    return _table(["judged", "AUROC", "backdoored models found", "clean models accused"], rows)


def verdicts_by_attack() -> Lines:
    """Of the untouched half, with clean images: by attack, and clean models by network."""
    text = (ROOT / "sau_cli" / "inspection" / "calibration.json").read_text(encoding="utf-8")
    found = json.loads(text)["with-data"]["by_attack"]
    rows = [
        [name if name.startswith("clean") else f"`{name}`", sum(counts.values()), *counts.values()]
        for name, counts in found.items()
    ]
    return _table(["attack", "models", "called backdoored", "inconclusive", "nothing found"], rows)


def verdict_thresholds() -> Lines:
    rows = []
    for name, with_data in (("with clean images", True), ("without images", False)):
        for pixels, threshold, accused in verdict_rates(with_data=with_data).thresholds:
            rows.append([name, pixels, f"{threshold:.3f}", f"{100 * accused:.0f} %"])
    return _table(["judged", "pixels", "threshold of the score", "clean models expected above it, at most"], rows)


def verdict_in_short() -> Lines:
    known = verdict_rates(with_data=True)
    missed = known.backdoored - known.found - known.backdoored_inconclusive
    found = (
        f"- **It misses backdoors.** Of {known.backdoored} backdoored models that its score was not calibrated on, it"
    )
    found += f" called {_with_interval(known.found, known.backdoored, total_told=False)}, left"
    found += f" {known.backdoored_inconclusive} inconclusive and passed {missed}."
    accused = f"- **It accuses clean models.** Of {known.clean} clean ones it called"
    accused += f" {_with_interval(known.accused, known.clean, total_told=False)} and left"
    accused += f" {known.clean_inconclusive} inconclusive."
    return [found, accused]


# The demo.


@cache
def demo() -> dict[str, Any]:
    """The checks of ``evaluate.json`` in the folder of a demo, by their names."""
    report = json.loads((ROOT / "examples" / "demo-evaluate.json").read_text(encoding="utf-8"))
    return {check["id"]: check for check in report["checks"]}


def demo_table() -> Lines:
    checks = {"ACC": "acc", "ASR": "asr.badnets", "R-ACC": "r-acc.badnets"}
    rows = [
        [name, *(_share_with_interval(demo()[prefix + check]) for prefix in ("reference.", ""))]
        for name, check in checks.items()
    ]
    return _table(["digits, seed 0", "before", "after"], rows)


# examples/reproduce.


@cache
def cells(scale: str) -> tuple[Cell, ...]:
    return tuple(json.loads((CELLS / scale / "cells.json").read_text(encoding="utf-8")))


def such(scale: str, axes: Axes) -> list[Cell]:
    """The cells of these axes, of every seed."""
    return [cell for cell in cells(scale) if all(cell["axes"][axis] == value for axis, value in axes.items())]


def grid(scale: str, rows: Mapping[str, Axes], columns: Mapping[str, Axes], *, head: str = "") -> Lines:
    """ACC / ASR of every row, received and by every column."""
    lines = []
    for label, axes in rows.items():
        by_column = {name: such(scale, {**axes, **column}) for name, column in columns.items()}
        known = next(those for those in by_column.values() if _done(those))
        lines.append([label, before(known), *(after(those) for those in by_column.values())])
    return _table([head, "before", *columns], lines)


def across(scale: str, rows: Mapping[str, Axes], attacks: Sequence[str], received: Axes, *, head: str) -> Lines:
    """ACC / ASR of every row, by attack; first that of the models as received."""
    lines = [["before", *(before(such(scale, {**received, "attack": attack})) for attack in attacks)]]
    for label, axes in rows.items():
        lines.append([label, *(after(such(scale, {**axes, "attack": attack})) for attack in attacks)])
    return _table([head, *(NAMES[attack] for attack in attacks)], lines)


def before(those: list[Cell]) -> str:
    return f"{_mean(those, 'reference.acc')} / {_mean(those, 'reference.asr.')}"


def after(those: list[Cell]) -> str:
    """ACC / ASR; of several seeds the means, and the range of ASR where it has one."""
    if not those:
        return "not run"
    if not _done(those):
        return "refused"
    rates = [f"{share:.1f}" for share in sorted(_rates(those, "asr."))]
    span = f" ({rates[0]} to {rates[-1]})" if rates[0] != rates[-1] else ""
    return f"{_mean(those, 'acc')} / {_mean(those, 'asr.')}{span}"


def _done(those: list[Cell]) -> list[Cell]:
    return [cell for cell in those if cell["status"] == "done"]


def _rates(those: list[Cell], check: str) -> list[float]:
    """A measure of every cell, in percent; of several triggers that of the worst. ``asr.`` is any trigger's."""
    found = []
    for cell in _done(those):
        values = [
            value["value"]
            for name, value in cell["checks"].items()
            if (name.startswith(check) if check.endswith(".") else name == check) and value["value"] is not None
        ]
        if values:
            found.append(100 * max(values))
    return found


def _mean(those: list[Cell], check: str) -> str:
    found = _rates(those, check)
    return f"{mean(found):.1f}" if found else ""


def means(scale: str, axes: Axes, columns: Mapping[str, Axes], attacks: list[str]) -> list[list[str]]:
    """Two rows below a grid: the mean fall of ACC and the mean ASR over attacks and seeds."""
    falls, rates = ["mean fall of ACC", ""], ["mean ASR", ""]
    for column in columns.values():
        those = [cell for attack in attacks for cell in such(scale, {**axes, **column, "attack": attack})]
        drops = [a - b for a, b in zip(_rates(those, "reference.acc"), _rates(those, "acc"), strict=True)]
        falls.append(f"{mean(drops):.1f}")
        rates.append(_mean(those, "asr."))
    return [falls, rates]


NAMES = {
    "badnets": "BadNets",
    "blended": "Blended",
    "sig": "SIG",
    "lc": "LC",
    "lf": "LF",
    "ssba": "SSBA",
    "trojannn": "TrojanNN",
    "bpp": "BPP",
    "input-aware": "Input-aware",
    "wanet": "WaNet",
    "distributed": "distributed",
    "dynamic": "dynamic",
    "adaptive": "adaptive",
}
SHORT = {"`default`": "default", "`paper`, 10 epochs": "paper", "FT, 20 epochs": "ft"}


def _defences(names: Mapping[str, str]) -> dict[str, Axes]:
    return {label: {"defence": name} for label, name in names.items()}


def _attacks(*names: str, **axes: Any) -> dict[str, Axes]:
    return {NAMES[name]: {**axes, "attack": name} for name in names}


def cifar10() -> Lines:
    rows = {
        f"{label}, {NAMES[attack]}": {"network": network, "attack": attack, "clean": 0.05}
        for label, network in (("small CNN", "small_cnn"), ("WRN-16-1", "wrn_16_1"))
        for attack in ("badnets", "blended", "sig")
    }
    lines = grid("cifar10", rows, _defences(SHORT), head="network, attack")
    der = [_mean(such("cifar10", {"clean": 0.05, "defence": name}), "der.") for name in SHORT.values()]
    return [*lines, _row(["mean DER of all", "", *der])]


def few_images() -> Lines:
    shares = {f"{images} (`--clean-frac {share}`)": {"clean": share} for images, share in ((500, 0.01), (250, 0.005))}
    rows = {label: {"network": "wrn_16_1", "seed": 0, **share} for label, share in shares.items()}
    received = {"network": "wrn_16_1", "seed": 0, "clean": 0.05}
    return across("cifar10", rows, ("badnets", "blended", "sig"), received, head="clean images")


def every_attack() -> Lines:
    names = [name for name in NAMES if name != "wanet"]
    rows = _attacks(*[*names[:9], "wanet", *names[9:]])
    rows |= {"several, the worse": {"attack": "several"}, "BadNets, all-to-all": {"attack": "badnets-a2a"}}
    return grid("attacks", rows, _defences({"`default`": "default", "FT, 20 epochs": "ft"}), head="attack")


ALL = {"`default`": "default", "`paper`": "paper", "FT": "ft", "FT-SAM": "ft-sam", "i-BAU": "i-bau"}
CUT = {"`default`": "default", "`paper`, 10 epochs": "paper", "FT, 20 epochs": "ft"}
CUT |= {"FT-SAM, 10 epochs": "ft-sam", "i-BAU": "i-bau"}


def cpu_digits() -> Lines:
    attacks = ["badnets", "blended", "lf"]
    columns = _defences(ALL)
    lines = grid("cpu", _attacks(*attacks, data="digits"), columns, head="attack")
    return [*lines, *map(_row, means("cpu", {"data": "digits"}, columns, attacks))]


def cpu_cifar10() -> Lines:
    attacks = ["badnets", "blended", "sig"]
    columns = _defences(CUT)
    seconds = ["seconds to purify", ""]
    for column in columns.values():
        took = [cell["seconds"]["purify"] for cell in such("cpu", {"data": "cifar10", **column})]
        seconds.append(f"{min(took):,.0f} to {max(took):,.0f}")
    lines = grid("cpu", _attacks(*attacks, data="cifar10"), columns, head="attack")
    return [*lines, *map(_row, [*means("cpu", {"data": "cifar10"}, columns, attacks), seconds])]


def lasting() -> Lines:
    columns = {
        f"{what}, `{defence}`": (defence, check, control)
        for what, check, control in (
            ("re-activated", "reactivated-asr.", "reactivation-control."),
            ("relearned", "relearned-asr.", "relearning-control."),
        )
        for defence in ("default", "paper")
    }
    rows = []
    for label, axes in _attacks("badnets", "blended", "lf", data="digits").items():
        row = [label]
        for defence, check, control in columns.values():
            those = such("cpu", {**axes, "defence": defence})
            row += [_mean(those, check), _mean(those, control)]
        rows.append(row)
    return _table(["attack", *(heading for name in columns for heading in (name, "control"))], rows)


def fashion_mnist() -> Lines:
    rows = {
        "5 % (3,000), `default`": {"clean": 0.05, "defence": "default"},
        "5 %, `paper`, 10 epochs": {"clean": 0.05, "defence": "paper"},
        "5 %, FT, 20 epochs": {"clean": 0.05, "defence": "ft"},
        "0.3 % (180), `default`": {"clean": 0.003, "defence": "default"},
        "0.2 % (120), `default`": {"clean": 0.002, "defence": "default"},
    }
    received = {"clean": 0.05, "defence": "default"}
    return across("fashion-mnist", rows, ("badnets", "blended", "sig"), received, head="clean images, defence")


def hyper_parameters() -> Lines:
    settings = {
        "base": "base: λ 1, 1, 0.01, 1, ε 0.2, 5 steps, 100 epochs",
        "clean-weight-0": "λ1 (clean) 0",
        "clean-weight-10": "λ1 10",
        "unlearning-weight-01": "λ2 (unlearning) 0.1",
        "unlearning-weight-10": "λ2 10",
        "adversarial-weight-0": "λ3 (adversarial) 0",
        "adversarial-weight-1": "λ3 1",
        "shared-weight-0": "λ4 (shared) 0",
        "shared-weight-01": "λ4 0.1",
        "epsilon-005": "ε 0.05",
        "epsilon-01": "ε 0.1",
        "epsilon-04": "ε 0.4",
        "steps-1": "1 step",
        "steps-10": "10 steps",
        "epochs-20": "20 epochs",
        "epochs-200": "200 epochs",
    }
    rows = [[label, after(such("hyper-parameters", {"defence": name}))] for name, label in settings.items()]
    return _table(["setting", "ACC / ASR"], rows)


def clean_data_digits() -> Lines:
    shares = {"0.2 % (3)": 0.002, "1 % (14)": 0.01, "3 % (43)": 0.03, "5 % (72)": 0.05, "10 % (144)": 0.1}
    rows: dict[str, Axes] = {label: {"data": "digits", "clean": share} for label, share in shares.items()}
    rows |= {
        "10 %, shifted": {"data": "digits-shifted"},
        "10 %, 5 % wrong labels": {"data": "digits-wrong-5"},
        "10 %, 20 % wrong labels": {"data": "digits-wrong-20"},
    }
    received = {"data": "digits", "clean": 0.1}
    return across("clean-data", rows, ("badnets", "blended"), received, head="clean images, digits")


def clean_data_cifar10() -> Lines:
    shares = {"0.2 % (100)": 0.002, "1 % (500)": 0.01, "3 % (1,500)": 0.03, "5 % (2,500)": 0.05, "10 % (5,000)": 0.1}
    rows: dict[str, Axes] = {label: {"data": "cifar10", "clean": share} for label, share in shares.items()}
    rows |= {
        "5 %, shifted": {"data": "cifar10-shifted"},
        "5 %, GTSRB's look": {"data": "cifar10-gtsrb-look"},
        "5 %, 5 % wrong labels": {"data": "cifar10-wrong-5"},
        "5 %, 20 % wrong labels": {"data": "cifar10-wrong-20"},
    }
    received = {"data": "cifar10", "clean": 0.05}
    return across("clean-data", rows, ("blended",), received, head="clean images, CIFAR-10")


def beyond_epsilon() -> Lines:
    triggers = {
        "blend-02": "blended, opacity 0.2",
        "blend-04": "blended, 0.4",
        "blend-08": "blended, 0.8",
        "patch-1": "patch 1x1",
        "patch-2": "patch 2x2",
        "patch-3": "patch 3x3",
        "patch-5": "patch 5x5",
        "patch-3-strength-02": "patch 3x3, strength 0.2",
        "patch-3-strength-05": "patch 3x3, strength 0.5",
    }
    rows = {label: {"attack": name} for name, label in triggers.items()}
    return grid("beyond-epsilon", rows, _defences({"`default`": "default", "`paper`": "paper"}), head="trigger")


def adaptive() -> Lines:
    rows = _attacks("badnets", "distributed", "dynamic", "adaptive")
    rows |= {"adaptive, 0.2": {"attack": "adaptive-eps-02"}, "several, the worse": {"attack": "several"}}
    return grid("adaptive", rows, _defences({"`default`": "default", "`paper`": "paper", "FT": "ft"}), head="attack")


TABLES: dict[str, Callable[[], Lines]] = {
    "verdicts": verdicts,
    "verdict-scores": verdict_scores,
    "verdict-thresholds": verdict_thresholds,
    "verdicts-by-attack": verdicts_by_attack,
    "verdict-in-short": verdict_in_short,
    "demo": demo_table,
    "cifar10": cifar10,
    "few-images": few_images,
    "every-attack": every_attack,
    "cpu-digits": cpu_digits,
    "cpu-cifar10": cpu_cifar10,
    "lasting": lasting,
    "fashion-mnist": fashion_mnist,
    "hyper-parameters": hyper_parameters,
    "clean-data-digits": clean_data_digits,
    "clean-data-cifar10": clean_data_cifar10,
    "beyond-epsilon": beyond_epsilon,
    "adaptive": adaptive,
}


def _row(values: list[Any]) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _table(head: list[str], rows: list[list[Any]]) -> Lines:
    return [_row(head), f"|{'---|' * len(head)}", *map(_row, rows)]


def _with_interval(hits: int, total: int, *, total_told: bool = True) -> str:
    low, high = rate(hits, total).ci95
    return f"{hits}{f' of {total}' if total_told else ''} ({100 * low:.0f} to {100 * high:.0f} %)"


def _share_with_interval(measure: Mapping[str, Any]) -> str:
    low, high = measure["ci95"]
    return f"{100 * measure['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if written(text) != text:
            path.write_text(written(text), encoding="utf-8")
            print(f"Wrote the tables of {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Results as a Markdown table and plots, from the JSON of the cells and nothing else.

``python examples/reproduce/tables.py cells.json`` writes them again beside the file.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

GROUP = ("data", "network", "clean", "attack", "defence")
Document = dict[str, Any]


def worst(checks: dict[str, Any], prefix: str, *, highest: bool = True) -> float | None:
    """Of a measure that every trigger has, that of the worst; in percent."""
    found = [
        100 * check["value"] for name, check in checks.items() if name.startswith(prefix) and check["value"] is not None
    ]
    return (max(found) if highest else min(found)) if found else None


def measures(document: Document) -> dict[str, float | None]:
    checks = document["checks"]
    return {
        "ACC before": worst(checks, "reference.acc"),
        "ASR before": worst(checks, "reference.asr."),
        "ACC": 100 * checks["acc"]["value"],
        "ASR": worst(checks, "asr."),
        "R-ACC": worst(checks, "r-acc.", highest=False),
        "DER": worst(checks, "der.", highest=False),
        "re-activated": worst(checks, "reactivated-asr."),
        "its control": worst(checks, "reactivation-control."),
        "relearned": worst(checks, "relearned-asr."),
        "control": worst(checks, "relearning-control."),
        "seconds": document["seconds"]["purify"],
    }


def spread(values: list[float | None]) -> str:
    """The mean, and the lowest and the highest where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{mean(known):.1f}" + (f" ({min(known):.1f} to {max(known):.1f})" if len(known) > 1 else "")


def interval(documents: list[Document], name: str) -> str:
    """The mean over seeds and their spread; of one seed its 95 % interval."""
    if len(documents) > 1:
        return spread([measures(document)[name] for document in documents])
    checks = documents[0]["checks"]
    prefix = {"ACC": "acc", "ASR": "asr."}[name]
    found = [check for key, check in checks.items() if (key == prefix if name == "ACC" else key.startswith(prefix))]
    highest = max(found, key=lambda check: check["value"])
    low, high = (100 * end for end in highest["ci95"])
    return f"{100 * highest['value']:.1f} [{low:.1f}, {high:.1f}]"


def markdown(documents: list[Document]) -> str:
    """One row for each attack and defence, then means over the attacks, then what could not be."""
    done = [document for document in documents if document["status"] == "done"]
    groups: dict[tuple[Any, ...], list[Document]] = defaultdict(list)
    for document in done:
        groups[tuple(document["axes"][axis] for axis in GROUP)].append(document)
    extra = [
        name
        for name in ("re-activated", "its control", "relearned", "control")
        if any(measures(document)[name] is not None for document in done)
    ]
    head = [*GROUP, "seeds", "ACC before", "ASR before", "ACC", "ASR", "R-ACC", "DER", *extra, "seconds"]
    rows = []
    for key, members in groups.items():
        told = [spread([measures(document)[name] for document in members]) for name in ("ACC before", "ASR before")]
        told += [interval(members, name) for name in ("ACC", "ASR")]
        told += [
            spread([measures(document)[name] for document in members]) for name in ("R-ACC", "DER", *extra, "seconds")
        ]
        rows.append([*map(str, key), str(len(members)), *told])
    text = ["# Results", "", NOTE, "", *_table(head, rows), ""]
    text += ["## Means over attacks and seeds", "", *_table(*_means(done)), ""]
    for status, what in (("impossible", "Impossible"), ("crashed", "Crashed, and no result")):
        those = [document for document in documents if document["status"] == status]
        if those:
            text += [f"## {what}", "", *(f"- {_named(document)}: {_cell(document['error'])}" for document in those), ""]
    return "\n".join(text)


NOTE = (
    "In percent. Several seeds: mean (lowest to highest); one seed: value [95 % Wilson interval]. Of several triggers "
    "in one model, that of the worst. seconds: of the purification."
)


def _means(done: list[Document]) -> tuple[list[str], list[list[str]]]:
    over: dict[tuple[Any, ...], list[Document]] = defaultdict(list)
    for document in done:
        over[tuple(document["axes"][axis] for axis in ("data", "network", "clean", "defence"))].append(document)
    rows = []
    for key, members in over.items():
        known = [measures(document) for document in members]
        drops = [
            measured["ACC before"] - measured["ACC"]
            for measured in known
            if measured["ACC before"] is not None and measured["ACC"] is not None
        ]
        rates = [measured["ASR"] for measured in known if measured["ASR"] is not None]
        attacks = len({document["axes"]["attack"] for document in members})
        low, high = (f"{edge(rates):.1f}" if rates else "" for edge in (mean, max))
        rows.append([*map(str, key), str(attacks), str(len(members)), f"{mean(drops):.1f}", low, high])
    return ["data", "network", "clean", "defence", "attacks", "cells", "fall of ACC", "mean ASR", "highest ASR"], rows


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return ["Nothing is done yet."]
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(_cell, line))} |" for line in lines]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _named(document: Document) -> str:
    return ", ".join(f"{axis} {document['axes'][axis]}" for axis in (*GROUP, "seed"))


def plot(documents: list[Document], path: Path) -> None:
    """ACC against ASR, before (hollow) and after (filled): a panel for each network and data set."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels: dict[tuple[Any, ...], list[Document]] = defaultdict(list)
    for document in documents:
        panels[document["axes"]["data"], document["axes"]["network"], document["axes"]["clean"]].append(document)
    defences = sorted({document["axes"]["defence"] for document in documents})
    attacks = sorted({document["axes"]["attack"] for document in documents})
    colours = _colours(defences)
    marks = {name: "osD^vP*Xph<>"[place % 12] for place, name in enumerate(attacks)}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.8 * rows + 0.8), squeeze=False)
    for place in axes.flat[len(panels) :]:
        place.set_visible(False)
    for (key, members), place in zip(panels.items(), axes.flat, strict=False):
        for document in members:
            known, attack = measures(document), document["axes"]["attack"]
            if known["ASR"] is None or known["ASR before"] is None:
                continue
            place.plot(
                [known["ASR before"], known["ASR"]],
                [known["ACC before"], known["ACC"]],
                color=colours[document["axes"]["defence"]],
                linewidth=0.5,
                alpha=0.4,
            )
            place.scatter(
                known["ASR before"], known["ACC before"], marker=marks[attack], facecolors="none", edgecolors="grey"
            )
            place.scatter(known["ASR"], known["ACC"], marker=marks[attack], color=colours[document["axes"]["defence"]])
        data, network, clean = key
        place.set_title(f"{data}, {network}, {100 * float(clean):g} % clean", fontsize=10)
        place.set_xlabel("ASR, %")
        place.set_ylabel("ACC, %")
        place.set_xlim(-4, 104)
        place.grid(alpha=0.3)
    handles = [plt.Line2D([], [], color=colours[name], marker="o", linestyle="", label=name) for name in defences]
    handles += [plt.Line2D([], [], color="grey", marker=marks[name], linestyle="", label=name) for name in attacks]
    handles.append(
        plt.Line2D([], [], color="grey", marker="o", markerfacecolor="none", linestyle="", label="before, hollow")
    )
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=min(4 * columns, len(handles)), fontsize=8, frameon=False)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)


def plot_rows(documents: list[Document], path: Path) -> None:
    """ASR before (hollow) and after, and the fall of ACC: a line for each row of the table, with the range of seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    varying = [axis for axis in GROUP if len({document["axes"][axis] for document in documents}) > 1] or ["defence"]
    rows: dict[tuple[Any, ...], list[Document]] = defaultdict(list)
    for document in documents:
        rows[tuple(document["axes"][axis] for axis in GROUP)].append(document)
    colours = _colours(sorted({document["axes"]["defence"] for document in documents}))
    names, heights, height, last = [], [], 0.0, None
    figure, (rate, fall) = plt.subplots(
        1, 2, sharey=True, figsize=(9, 1 + 0.2 * len(rows)), width_ratios=(3, 2), layout="constrained"
    )
    for key, members in rows.items():
        height += 1.0 if last in (None, key[:-1]) else 1.6  # a gap between attacks, none between defences
        last = key[:-1]
        axes, known = dict(zip(GROUP, key, strict=True)), [measures(document) for document in members]
        names.append(", ".join(str(axes[axis]) for axis in varying))
        heights.append(height)
        before = [measured["ASR before"] for measured in known if measured["ASR before"] is not None]
        if before:
            rate.scatter(mean(before), height, s=16, color="none", edgecolor="grey")
        falls = [(measured["ACC before"] or 0) - (measured["ACC"] or 0) for measured in known]
        for place, values in (
            (rate, [measured["ASR"] for measured in known if measured["ASR"] is not None]),
            (fall, falls),
        ):
            if values:
                place.plot([min(values), max(values)], [height, height], color=colours[axes["defence"]], linewidth=1)
                place.scatter(mean(values), height, s=16, color=colours[axes["defence"]])
    rate.set_yticks(heights, names, fontsize=7)
    rate.invert_yaxis()
    rate.set_xlim(-4, 104)
    rate.set_xlabel("ASR, %; before: hollow")
    fall.set_xlabel("fall of ACC, points")
    for place in (rate, fall):
        place.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _colours(names: list[str]) -> dict[str, Any]:
    import matplotlib as mpl

    palette = mpl.colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: palette(place % palette.N) for place, name in enumerate(names)}


def write_results(out: Path, documents: list[Document]) -> list[Path]:
    """Write all cells but for their epochs as one file, the table, and the plots where something is done."""
    written = [out / "cells.json", out / "table.md"]
    lines = ",\n".join(
        json.dumps({key: document[key] for key in document if key != "epochs"}) for document in documents
    )
    written[0].write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    written[1].write_text(markdown(documents), encoding="utf-8")
    done = [document for document in documents if document["status"] == "done"]
    if done:
        for name, draw in (("acc-asr.png", plot), ("rows.png", plot_rows)):
            written.append(out / name)
            draw(done, written[-1])
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cells", type=Path, help="cells.json, as reproduce.py writes it")
    cells: Path = parser.parse_args().cells
    write_results(cells.parent, json.loads(cells.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

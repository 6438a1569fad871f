"""Plant, purify and measure a grid: attack x network x data x clean share x defence x seed; then a table and plots.

    python examples/reproduce/reproduce.py --scale quick
    python examples/reproduce/reproduce.py --scale cpu --jobs 2 --data-root DATA
    python examples/reproduce/reproduce.py --scale paper --devices cuda:0,cuda:1 --data-root DATA --time-limit 8h

Needs Linux or macOS, and matplotlib beside sau (in the group dev of pyproject.toml). ``quick`` ends with
``2 cells: 2 done``. Every step is a ``sau`` command that is printed and can be run again by hand. What is done is
skipped, by a hash of a cell's settings and of the revision of sau's recipes, and what was interrupted goes on; what an
older revision did stays, marked as such, until it is done again. A model is planted once for all cells that differ in
the defence. What cannot be is reported as impossible, with the reason; what crashes is recorded with its
error; neither is ever a result. Exit codes: 0 all done or impossible, 1 something crashed, 2 a mistake in the settings,
6 the time was up, 130 interrupted; after 6 and 130 the same command goes on.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tables import write_results

import sau_cli
from sau_cli.unlearning.recipes import REVISION

HERE = Path(__file__).resolve().parent
AXES = ("data", "network", "attack", "clean", "defence", "seed")
KNOWN = {
    "": {"data", "attacks", "defences", "grid"},
    "data": {"data", "path", "flags", "clean_from"},
    "attacks": {"attack", "target", "flags"},
    "defences": {"flags", "flags_on"},
    "grid": {"data", "networks", "attacks", "clean", "defences", "seeds", "attack_flags", "evaluate"},
}


class SettingsError(Exception):
    """A settings file that means nothing."""


@dataclass(frozen=True)
class Planted:
    """A poisoned model and what makes it; ``images`` is the table of its data."""

    label: str
    words: tuple[str, ...]
    images: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.label}-{digest(self.words, self.images)}"


@dataclass(frozen=True)
class Cell:
    """One result to be had."""

    planted: Planted
    axes: dict[str, Any]
    purify: tuple[str, ...]
    clean_images: dict[str, Any]
    evaluate: tuple[str, ...]

    @property
    def label(self) -> str:
        parts = (self.axes[axis] for axis in AXES)
        return re.sub(r"[^\w.-]+", "-", "-".join(str(part) for part in parts))

    @property
    def revision(self) -> int | None:
        """Of the recipes, for a cell that one of them decides; None for other methods."""
        words = [word for flag in self.purify for word in flag.split("=", 1)]
        method = words[words.index("--method") + 1] if "--method" in words[:-1] else "sau"
        return REVISION if method == "sau" or "--drill" in self.evaluate else None

    @property
    def key(self) -> str:
        return self.key_of(self.revision)

    @property
    def older_keys(self) -> dict[int, str]:
        """The keys that it had by older revisions, the latest of them first."""
        return {older: self.key_of(older) for older in range((self.revision or 1) - 1, 0, -1)}

    def key_of(self, revision: int | None) -> str:
        """Revision 1 was before there were any, and is not in the hash."""
        settings = (self.planted.words, self.planted.images, self.purify, self.clean_images, self.evaluate)
        revised = () if revision in {None, 1} else ({"revision": revision},)
        return f"{self.label}-{digest(*settings, *revised)}"


def digest(*parts: Any) -> str:
    """Of settings alone: no folder, device or number of workers is in it."""
    told = json.dumps([sau_cli.__version__, *parts], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:10]


def read_settings(path: Path) -> dict[str, Any]:
    """The tables of a settings file, checked by name."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); give a TOML file") from error
    for name in ("data", "attacks", "defences", "grid"):
        if name not in settings:
            raise SettingsError(f"{path} has no {name}; README.md says what goes in")
    for name, table in (("", settings), *((kind, one) for kind in KNOWN if kind for one in _tables(settings, kind))):
        for key in table:
            if key not in KNOWN[name]:
                raise SettingsError(
                    f"{path} has a {name or 'top'} key {key!r}; known are {', '.join(sorted(KNOWN[name]))}"
                )
    return settings


def _tables(settings: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    tables = settings[kind] if kind == "grid" else list(settings[kind].values())
    if not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{kind} is no table; README.md says what goes in")
    return tables


def cells_of(settings: dict[str, Any]) -> Iterator[Cell]:
    """Every cell of every grid of the settings, each once."""
    seen = set()
    for grid in settings["grid"]:
        try:
            axes = [grid["data"], grid["networks"], grid["attacks"], grid["clean"], grid["defences"], grid["seeds"]]
        except KeyError as error:
            raise SettingsError(f"a grid has no {error}; give a list") from error
        for combined in itertools.product(*axes):
            cell = _cell(settings, grid, dict(zip(AXES, combined, strict=True)))
            if cell.key not in seen:
                seen.add(cell.key)
                yield cell


def _cell(settings: dict[str, Any], grid: dict[str, Any], axes: dict[str, Any]) -> Cell:
    def table(kind: str, name: str) -> dict[str, Any]:
        if name not in settings[kind]:
            raise SettingsError(f"a grid names {name!r}, which {kind} does not have; add [{kind}.{name}]")
        found: dict[str, Any] = settings[kind][name]
        return found

    data, attack, defence = (
        table(kind, axes[axis]) for kind, axis in (("data", "data"), ("attacks", "attack"), ("defences", "defence"))
    )
    names = attack.get("attack", axes["attack"])
    names = [names] if isinstance(names, str) else names
    targets = attack.get("target", [])
    targets = [targets] if isinstance(targets, str) else targets
    seed = ("--seed", str(axes["seed"]))
    words = (
        "attack",
        *(word for name in names for word in ("--attack", name)),
        *(word for target in targets for word in ("--target", target)),
        *("--arch", axes["network"]),
        *map(str, (*grid.get("attack_flags", ()), *attack.get("flags", ()))),
        *seed,
    )
    images = {"data": axes["data"]} | {key: value for key, value in data.items() if key != "clean_from"}
    label = "-".join(map(str, (images.get("path", images["data"]), axes["network"], axes["attack"], axes["seed"])))
    source = data.get("clean_from", axes["data"])
    own = defence.get("flags_on", {}).get(axes["data"], ())
    return Cell(
        planted=Planted(label=re.sub(r"[^\w.-]+", "-", label), words=words, images=images),
        axes=axes,
        purify=("--clean-frac", str(axes["clean"]), *map(str, (*defence.get("flags", ()), *own)), *seed),
        clean_images={"data": source} | table("data", source),
        evaluate=(*map(str, grid.get("evaluate", ())), *seed),
    )


class StoppedError(Exception):
    """The work was told to end; what is running keeps its state."""


class CrashedError(Exception):
    """A command ended as it never should."""


class ImpossibleError(Exception):
    """A command says that what was asked for cannot be."""


@dataclass
class Run:
    """The work: workers take from it what can be done next."""

    out: Path
    data_root: Path | None
    pending: list[Cell]
    lock: threading.Condition = field(default_factory=threading.Condition)
    planting: set[str] = field(default_factory=set)
    failures: dict[str, Exception] = field(default_factory=dict)
    children: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopping: bool = False
    threads: int = 1

    def stop(self, *, tell: bool) -> None:
        """Start nothing more; ``tell`` what is running to keep its state and end."""
        with self.lock:
            self.stopping = True
            for child in self.children if tell else ():
                child.terminate()
            self.lock.notify_all()

    def work(self, device: str) -> None:
        """Take what can be done, on one device, until nothing is left."""
        while (task := self.take()) is not None:
            try:
                if isinstance(task, Planted):
                    self.plant(task, device)
                else:
                    self.record(task, self.measure(task, device))
            except StoppedError:
                if isinstance(task, Cell):
                    self.pending.append(task)
                return
            except Exception as error:  # noqa: BLE001 (whatever it is, it is recorded, and the rest runs)
                if isinstance(task, Cell):
                    self.record(task, {"error": str(error) or repr(error)}, error)
                else:
                    self.failures[task.key] = error
            finally:
                if isinstance(task, Planted):
                    with self.lock:
                        self.planting.discard(task.key)
                        self.lock.notify_all()

    def take(self) -> Planted | Cell | None:
        """A cell whose model is there, else a model that is wanted, else wait for one that is being planted."""
        with self.lock:
            while not self.stopping and self.pending:
                for cell in self.pending:
                    if self.is_planted(cell.planted) or cell.planted.key in self.failures:
                        self.pending.remove(cell)
                        return cell
                for cell in self.pending:
                    if cell.planted.key not in self.planting:
                        self.planting.add(cell.planted.key)
                        return cell.planted
                self.lock.wait(1)
            return None

    def folder(self, planted: Planted) -> Path:
        return self.out / "models" / planted.key

    def is_planted(self, planted: Planted) -> bool:
        return (self.folder(planted) / "done").exists()

    def data_words(self, images: dict[str, Any]) -> tuple[str, ...]:
        root = self.data_root or Path()
        where = ("--data", str(root / images["path"]) if "path" in images else images["data"])
        if "path" not in images and self.data_root is not None:
            where = (*where, "--data-root", str(root))
        return (*where, *map(str, images.get("flags", ())))

    def plant(self, planted: Planted, device: str) -> None:
        folder = self.folder(planted)
        folder.mkdir(parents=True, exist_ok=True)
        where = (*self.data_words(planted.images), "-o", str(folder / "model.safetensors"))
        words = (*planted.words, *where, "--resume", "--force")
        seconds = self.sau(words, folder / "attack.json", device)
        (folder / "done").write_text(json.dumps({"command": shown(words), "seconds": seconds}), encoding="utf-8")

    def measure(self, cell: Cell, device: str) -> dict[str, Any]:
        """Purify and evaluate; what the cell's file will say."""
        if (failure := self.failures.get(cell.planted.key)) is not None:
            raise failure
        model = self.folder(cell.planted) / "model.safetensors"
        triggers = sorted(model.parent.glob("model*trigger.safetensors"))
        folder = self.out / "cells" / cell.key
        folder.mkdir(parents=True, exist_ok=True)
        purified = folder / "purified.safetensors"
        purify = ("purify", str(model), *self.data_words(cell.clean_images), *cell.purify, "-o", str(purified))
        purify = (*purify, "--resume", "--force")
        seconds = {"purify": self.sau(purify, folder / "purify.json", device)}
        evaluate = ("evaluate", str(purified), "-r", str(model), *self.data_words(cell.planted.images))
        evaluate = (*evaluate, *(word for one in triggers for word in ("-t", str(one))), *cell.evaluate, "--force")
        seconds["evaluate"] = self.sau(evaluate, folder / "evaluate.json", device)
        planted = json.loads((model.parent / "done").read_text(encoding="utf-8"))
        reports = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in seconds}
        return {
            "status": "done",
            "commands": [planted["command"], shown(purify), shown(evaluate)],
            "seconds": {"attack": planted["seconds"], **seconds},
            "device": device,
            "environment": reports["purify"]["environment"],
            "learned_from": reports["purify"]["details"]["learned_from"],
            "epochs": reports["purify"]["details"]["epochs"],
            "checks": {
                one["id"]: {"value": one["value"], "ci95": one["ci95"]} for one in reports["evaluate"]["checks"]
            },
        }

    def record(self, cell: Cell, found: dict[str, Any], error: Exception | None = None) -> None:
        if error is not None:
            found["status"] = "impossible" if isinstance(error, ImpossibleError) else "crashed"
        revised = {} if cell.revision is None else {"revision": cell.revision}
        document = {"key": cell.key, "axes": cell.axes, **revised, **found}
        path = self.out / "cells" / f"{cell.key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1), encoding="utf-8")
        part.replace(path)
        told = found.get("error") or brief(found["checks"])
        print(f"[{found['status']}] {cell.label}: {told}", flush=True)

    def sau(self, words: tuple[str, ...], report: Path, device: str) -> float:
        """Run a command and return its seconds; how it ended otherwise is an exception."""
        words = (*words, "--device", device)
        started = time.monotonic()
        with self.lock:
            if self.stopping:
                raise StoppedError
            print(f"$ sau {shown(words)}", flush=True)
            environment = {"OMP_NUM_THREADS": str(self.threads)} | dict(os.environ)
            with report.with_suffix(".log").open("wb") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "sau_cli", *words, "--json", str(report)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    close_fds=False,  # the lock on the folder lasts as long as the last of them
                )
            self.children.add(child)
        code = child.wait()
        with self.lock:
            self.children.discard(child)
        if code == 0:
            return round(time.monotonic() - started, 1)
        if self.stopping or code in {130, -signal.SIGINT}:
            raise StoppedError
        sentence = _sentence(report)
        if code in {2, 3}:
            raise ImpossibleError(sentence)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise CrashedError(f"sau {words[0]} {how}: {sentence}")


def _sentence(report: Path) -> str:
    """What a command said of its end: the report's sentence, or the last line it wrote."""
    log = report.with_suffix(".log")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1]


def shown(words: tuple[str, ...]) -> str:
    return shlex.join(words)


def brief(checks: dict[str, Any]) -> str:
    before, after = checks["reference.acc"]["value"], checks["acc"]["value"]
    rates = [
        (checks[f"reference.{name}"]["value"], one["value"]) for name, one in checks.items() if name.startswith("asr.")
    ]
    told = ", ".join(f"{100 * first:.1f} -> {100 * last:.1f}" for first, last in rates)
    return f"ACC {100 * before:.1f} -> {100 * after:.1f}, ASR {told}"


def seconds_of(text: str) -> float:
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    total = (
        sum(scale * int(part or 0) for scale, part in zip((3600, 60, 1), found.groups(), strict=True)) if found else 0
    )
    if total <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write it like 90s, 25m or 8h")
    return float(total)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="quick", help="quick, cpu, paper, or your own settings file.toml")
    parser.add_argument("--out", type=Path, help="folder for models, results, table and plots [results/SCALE]")
    parser.add_argument("--data-root", type=Path, help="where the data sets lie")
    parser.add_argument("--devices", default="cpu", help="such as cuda:0,cuda:1; one worker each")
    parser.add_argument("--jobs", type=int, default=1, help="workers a device")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cells whose name has all of these")
    parser.add_argument("--time-limit", type=seconds_of, metavar="TIME", help="such as 25m: then exit 6, resumable")
    parser.add_argument("--retry", action="store_true", help="also what was impossible or crashed before")
    parser.add_argument("--list", action="store_true", help="show the cells and how they stand; run nothing")
    parser.add_argument("--table", action="store_true", help="only write the table and plots again")
    return parser.parse_args()


def document_of(out: Path, key: str) -> dict[str, Any] | None:
    path = out / "cells" / f"{key}.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def older_result(out: Path, cell: Cell) -> dict[str, Any] | None:
    """What the latest of the older revisions has done, with the revision beside the defence's name."""
    for revision, key in cell.older_keys.items():
        found = document_of(out, key)
        if found is not None and found["status"] == "done":
            named = f"{cell.axes['defence']} (revision {revision})"
            return found | {"revision": revision, "axes": found["axes"] | {"defence": named}}
    return None


def standing(out: Path, cell: Cell) -> str:
    found = document_of(out, cell.key)
    return "to do" if found is None else str(found["status"])


def main() -> int:
    given = arguments()
    path = Path(given.scale) if given.scale.endswith(".toml") else HERE / f"{given.scale}.toml"
    try:
        settings = read_settings(path)
        cells = [cell for cell in cells_of(settings) if all(text in cell.label for text in given.only)]
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = given.out or Path("results") / path.stem
    states = {cell.key: standing(out, cell) for cell in cells}
    if given.list:
        for cell in cells:
            older = older_result(out, cell) if states[cell.key] == "to do" else None
            told = "" if older is None else f" (done by revision {older['revision']})"
            print(f"{states[cell.key]:10} {cell.label}{told}")
        return 0
    out.mkdir(parents=True, exist_ok=True)
    code = 0 if given.table else run(given, cells, states, out)
    documents = [found for cell in cells if (found := document_of(out, cell.key)) is not None]
    left = [cell for cell in cells if standing(out, cell) == "to do"]
    older = [found for cell in left if (found := older_result(out, cell)) is not None]
    counts = {state: sum(one["status"] == state for one in documents) for state in ("done", "impossible", "crashed")}
    counts["to do"] = len(cells) - len(documents)
    written = write_results(out, documents + older)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if older:
        told = f"{told}, of which {len(older)} done by an older revision"
    print(f"wrote {', '.join(map(str, written))}\n{len(cells)} cells: {told or 'none'}", flush=True)
    return code or int(counts["crashed"] > 0)


def run(given: argparse.Namespace, cells: list[Cell], states: dict[str, str], out: Path) -> int:
    """Do what is to do; 0, or the exit code of an early end."""
    lock = (out / "lock").open("w")
    os.set_inheritable(lock.fileno(), True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print(f"error: another run is at work in {out}, or a command of it; wait for it", file=sys.stderr)
        return 2
    again = {"to do", "impossible", "crashed"} if given.retry else {"to do"}
    devices = [device.strip() for device in given.devices.split(",") for _ in range(max(1, given.jobs))]
    work = Run(
        out=out,
        data_root=given.data_root,
        pending=[cell for cell in cells if states[cell.key] in again],
        threads=max(1, (os.cpu_count() or 1) // len(devices)),
    )
    ended: list[int] = []

    def stop(code: int, *, tell: bool) -> None:
        ended.append(code)
        work.stop(tell=tell)

    # Ctrl-C reaches the commands from the terminal.
    signal.signal(signal.SIGINT, lambda *_: stop(130, tell=False))
    signal.signal(signal.SIGTERM, lambda *_: stop(130, tell=True))
    workers = [threading.Thread(target=work.work, args=(device,)) for device in devices]
    for worker in workers:
        worker.start()
    until = None if given.time_limit is None else time.monotonic() + given.time_limit
    while any(worker.is_alive() for worker in workers):
        for worker in workers:
            worker.join(0.2)
        if until is not None and time.monotonic() > until and not ended:
            stop(6, tell=True)
    lock.close()
    return (ended or [130])[0] if work.pending else 0


if __name__ == "__main__":
    sys.exit(main())

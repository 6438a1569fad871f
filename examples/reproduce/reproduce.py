"""Plant, purify and measure a grid: attack x network x data x clean share x defence x seed; then a table and plots.

    python examples/reproduce/reproduce.py --scale quick
    python examples/reproduce/reproduce.py --scale cpu --jobs 2 --data-root DATA
    python examples/reproduce/reproduce.py --scale paper --devices cuda:0,cuda:1 --data-root DATA --time-limit 8h
    python examples/reproduce/reproduce.py --scale paper --devices cuda --ray head-node:6379 --data-root DATA

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
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tables import write_results

import sau_cli
from sau_cli.errors import SauError
from sau_cli.fleet.engine import GIB, Engine, Needs, Task
from sau_cli.fleet.pool import Pool
from sau_cli.fleet.ray_cluster import RayCluster
from sau_cli.unlearning.recipes import REVISION

HERE = Path(__file__).resolve().parent
MEMORY = 4 * GIB
"""That a command is given on a cluster."""
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
    for name, table in (
        ("", settings),
        *((kind, table) for kind in KNOWN if kind for table in _tables(settings, kind)),
    ):
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
    """The work was told to end; what is running keeps its state.

    ``tell``: what is running does not know of it yet.
    """

    def __init__(self, code: int = 130, *, tell: bool = True) -> None:
        super().__init__(code, tell)
        self.code, self.tell = code, tell


class CrashedError(Exception):
    """A command ended as it never should."""


class ImpossibleError(Exception):
    """A command says that what was asked for cannot be."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a process does for a model or for a cell: a task of an engine; `sau` commands one after another.

    ``devices`` has one entry for each that works at a time; on a cluster the machine has given one already.
    """

    task: Planted | Cell
    out: Path
    data_root: Path | None
    here: str
    devices: tuple[str, ...]
    threads: int

    def __call__(self) -> bytes:
        """How it ended, and with which sentence, as JSON."""
        os.chdir(self.here)
        here = signal.getsignal(signal.SIGTERM)
        if here is signal.SIG_DFL:  # in a process of its own
            signal.signal(signal.SIGTERM, stopped)
        try:
            with (self.out / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)
                with self.device() as device:
                    ended, told = self.done(device, lock.fileno())
        finally:
            signal.signal(signal.SIGTERM, here)
        return json.dumps([ended, told]).encode()

    def done(self, device: str, lock: int) -> tuple[str, str]:
        try:
            if isinstance(self.task, Planted):
                self.plant(self.task, device, lock)
                return "done", ""
            record(self.out, self.task, self.measure(self.task, device, lock))
        except StoppedError:
            if multiprocessing.parent_process() is None and "ray" not in sys.modules:
                raise  # of the process that everybody is told by
            return "stopped", ""
        except Exception as error:  # noqa: BLE001 (whatever it is, it is recorded, and the rest runs)
            ended = "impossible" if isinstance(error, ImpossibleError) else "crashed"
            return ended, str(error) or repr(error)
        return "done", ""

    @contextmanager
    def device(self) -> Iterator[str]:
        """One that nobody else of this run has."""
        places = [self.out / "devices" / f"{number}" for number in range(len(self.devices))]
        places[0].parent.mkdir(exist_ok=True)
        while True:
            for device, place in zip(self.devices, places, strict=True):
                with place.open("w") as held:
                    try:
                        if len(self.devices) > 1:
                            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError:
                        continue
                    yield device
                    return
            time.sleep(0.2)

    def data_words(self, images: dict[str, Any]) -> tuple[str, ...]:
        root = self.data_root or Path()
        where = ("--data", str(root / images["path"]) if "path" in images else images["data"])
        if "path" not in images and self.data_root is not None:
            where = (*where, "--data-root", str(root))
        return (*where, *map(str, images.get("flags", ())))

    def plant(self, planted: Planted, device: str, lock: int) -> None:
        folder = model_folder(self.out, planted)
        folder.mkdir(parents=True, exist_ok=True)
        where = (*self.data_words(planted.images), "-o", str(folder / "model.safetensors"))
        words = (*planted.words, *where, "--resume", "--force")
        seconds = self.sau(words, folder / "attack.json", device, lock)
        (folder / "done").write_text(json.dumps({"command": shown(words), "seconds": seconds}), encoding="utf-8")

    def measure(self, cell: Cell, device: str, lock: int) -> dict[str, Any]:
        """Purify and evaluate; what the cell's file will say."""
        model = model_folder(self.out, cell.planted) / "model.safetensors"
        triggers = sorted(model.parent.glob("model*trigger.safetensors"))
        folder = self.out / "cells" / cell.key
        folder.mkdir(parents=True, exist_ok=True)
        purified = folder / "purified.safetensors"
        purify = ("purify", str(model), *self.data_words(cell.clean_images), *cell.purify, "-o", str(purified))
        purify = (*purify, "--resume", "--force")
        seconds = {"purify": self.sau(purify, folder / "purify.json", device, lock)}
        evaluate = ("evaluate", str(purified), "-r", str(model), *self.data_words(cell.planted.images))
        evaluate = (
            *evaluate,
            *(word for trigger in triggers for word in ("-t", str(trigger))),
            *cell.evaluate,
            "--force",
        )
        seconds["evaluate"] = self.sau(evaluate, folder / "evaluate.json", device, lock)
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
                check["id"]: {"value": check["value"], "ci95": check["ci95"]} for check in reports["evaluate"]["checks"]
            },
        }

    def sau(self, words: tuple[str, ...], report: Path, device: str, lock: int) -> float:
        """Run a command and return its seconds; how it ended otherwise is an exception."""
        words = (*words, "--device", device)
        started = time.monotonic()
        print(f"$ sau {shown(words)}", flush=True)
        environment = {"OMP_NUM_THREADS": str(self.threads)} | dict(os.environ)
        with report.with_suffix(".log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "sau_cli", *words, "--json", str(report)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(lock,),  # the lock on the folder lasts as long as the last of them
            )
        try:
            code = child.wait()
        except StoppedError as stop:
            if stop.tell:
                child.terminate()
            child.wait()
            raise
        if code == 0 or (code == 6 and _is_whole(report)):
            return round(time.monotonic() - started, 1)
        if code in {130, -signal.SIGINT, -signal.SIGTERM}:
            raise StoppedError
        sentence = _sentence(report)
        if code in {2, 3}:
            raise ImpossibleError(sentence)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise CrashedError(f"sau {words[0]} {how}: {sentence}")


def stopped(number: int, _: object) -> NoReturn:
    """A handler of signals. Ctrl-C reaches the commands from the terminal."""
    raise StoppedError(6 if number == signal.SIGALRM else 130, tell=number != signal.SIGINT)


def model_folder(out: Path, planted: Planted) -> Path:
    return out / "models" / planted.key


def is_planted(out: Path, planted: Planted) -> bool:
    return (model_folder(out, planted) / "done").exists()


def record(out: Path, cell: Cell, found: dict[str, Any]) -> None:
    revised = {} if cell.revision is None else {"revision": cell.revision}
    document = {"key": cell.key, "axes": cell.axes, **revised, **found}
    path = out / "cells" / f"{cell.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1), encoding="utf-8")
    part.replace(path)
    told = found.get("error") or brief(found["checks"])
    print(f"[{found['status']}] {cell.label}: {told}", flush=True)


def _is_whole(report: Path) -> bool:
    """Whether a purification came to its end, though its residual test does not clear it: that is a result, too."""
    found = json.loads(report.read_text(encoding="utf-8"))
    return bool(found["command"] == "purify" and found["error"] is None and found["outputs"])


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
        (checks[f"reference.{name}"]["value"], check["value"])
        for name, check in checks.items()
        if name.startswith("asr.")
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
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="a Ray cluster, or one of its own, in place of --jobs",
    )
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
    counts = {
        state: sum(document["status"] == state for document in documents) for state in ("done", "impossible", "crashed")
    }
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
    fcntl.flock(lock, fcntl.LOCK_SH)  # shared with those who do the work
    again = {"to do", "impossible", "crashed"} if given.retry else {"to do"}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, stopped)
    signal.setitimer(signal.ITIMER_REAL, given.time_limit or 0)
    try:
        with engine_of(given) as engine:
            do(engine, given, [cell for cell in cells if states[cell.key] in again], out)
            for unfit in engine.remarks.values():
                print(unfit)
    except StoppedError as stop:
        return stop.code
    except SauError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        lock.close()
    return 0


def engine_of(given: argparse.Namespace) -> Engine:
    if given.ray is not None:
        return RayCluster(None if given.ray == "local" else given.ray)
    return Pool(len(devices_of(given)))


def devices_of(given: argparse.Namespace) -> tuple[str, ...]:
    """One for each command at a time; of a cluster the kind."""
    devices = tuple(device.strip() for device in given.devices.split(",") for _ in range(max(1, given.jobs)))
    return devices if given.ray is None else devices[:1]


def do(engine: Engine, given: argparse.Namespace, cells: list[Cell], out: Path) -> None:
    """First the models that are wanted, beside the cells whose model is there; then the cells that waited for one."""
    ready = [cell for cell in cells if is_planted(out, cell.planted)]
    wanted = {cell.planted.key: cell.planted for cell in cells if not is_planted(out, cell.planted)}
    failed = done_by(engine, given, [*wanted.values(), *ready], out)
    waited = [cell for cell in cells if cell.planted.key in wanted]
    for cell in waited:
        if cell.planted.key in failed:
            record(out, cell, failed[cell.planted.key])
    done_by(engine, given, [cell for cell in waited if is_planted(out, cell.planted)], out)


def done_by(
    engine: Engine, given: argparse.Namespace, tasks: list[Planted | Cell], out: Path
) -> dict[str, dict[str, str]]:
    """Have it done, and record the cells that came to nothing; of models that did, why."""
    devices = devices_of(given)
    gpus = 1 / max(1, given.jobs) if given.ray is not None and devices[0].startswith("cuda") else 0.0
    works = [
        Work(
            task=task,
            out=out,
            data_root=given.data_root,
            here=str(Path.cwd()),
            devices=devices,
            threads=max(1, (os.cpu_count() or 1) // len(devices)) if given.ray is None else 1,
        )
        for task in tasks
    ]
    needs = Needs(memory=MEMORY, gpus=gpus)
    failed = {}
    for settled in engine.run(Task(number=number, work=work, needs=needs) for number, work in enumerate(works)):
        task = tasks[settled.number]
        ended, told = json.loads(settled.answer) if settled.answer is not None else ("crashed", settled.ended)
        if ended == "stopped":
            raise StoppedError
        if given.ray is not None:
            print(f"({engine.standing}) {task.label}: {ended}", flush=True)
        if ended == "done":
            continue
        if isinstance(task, Cell):
            record(out, task, {"error": told, "status": ended})
        else:
            failed[task.key] = {"error": told, "status": ended}
    return failed


if __name__ == "__main__":
    sys.exit(main())

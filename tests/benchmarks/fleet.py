"""A thousand small models, one in fifty of them cut short: the pool against a Ray of two machines on this one.

Each run is the command itself, as a process of its own. Measured: that every model has one row, the same as the
pool's; what Ray adds; a second run; a machine that is killed in the middle; a driver that is killed in the middle, with
the run after it; the driver's memory by the number of models. Run with ``python -m tests.benchmarks.fleet``, or with
``--models 100`` for a look; words after ``--`` go to ``sau inspect`` (default: ``--effort quick``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.saving import save_classifier
from tests.conftest import ROOT
from tests.support.toys import describe

ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
SETTLES = 10
"""Seconds until the helpers of a cluster that has just been started leave the cores alone."""
DONE = re.compile(r"^(\d+)/\d+ (\S+): (\S+)$")


@dataclass
class Run:
    """What a run of the command came to."""

    code: int
    seconds: float
    rows: dict[str, tuple[str, int]]
    lines: list[str]
    known: int
    peak: int

    @property
    def twice(self) -> int:
        """Models that were said to be done more than once."""
        return sum(count - 1 for count in Counter(self.lines).values())


def make(folder: Path, count: int) -> None:
    """Small networks, each from its own seed; every fiftieth is cut short."""
    folder.mkdir(parents=True)
    for number in range(count):
        torch.manual_seed(number)
        classifier = describe(CIFAR_NETWORKS["small_cnn"](10, 1))
        path = folder / f"model_{number:05d}.safetensors"
        save_classifier(path, classifier, classifier.description, force=False)
        if number % 50 == 49:
            path.write_bytes(path.read_bytes()[:-10])


def run(folder: Path, words: list[str], *, cache: Path, watch: Callable[[int, int], None] | None = None) -> Run:
    """Inspect a folder; ``watch`` is told how many are done, and the process."""
    report, log = folder.parent / "report.json", folder.parent / "log.txt"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sau_cli", "inspect", str(folder), *words, "--json", str(report)]
    began = time.monotonic()
    lines: list[str] = []
    peak = 0
    with log.open("w") as written:
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT, "SAU_CACHE_DIR": str(cache)}
        )
        for line in process.stderr or ():
            written.write(line)
            if found := DONE.match(line):
                lines.append(found[2])
                if len(lines) % 25 == 0:
                    peak = max(peak, resident(process.pid))
                if watch:
                    watch(len(lines), process.pid)
            elif process.poll() is None:
                peak = max(peak, resident(process.pid))
        code = process.wait()
    seconds = time.monotonic() - began
    rows, known = {}, 0
    if report.exists():
        told = json.loads(report.read_text())
        known = told["details"]["from_cache"]
        for model in told["models"]:
            name = Path(model["inputs"][0]["path"]).name
            assert name not in rows, name
            rows[name] = (model["verdict"], model["exit_code"])
    return Run(code=code, seconds=seconds, rows=rows, lines=lines, known=known, peak=peak)


def resident(pid: int) -> int:
    """Bytes that a process has had at most."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return 1024 * int(next((line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")), "0"))


def shown(what: str, one: Run) -> None:
    told = Counter(verdict for verdict, _ in one.rows.values())
    print(
        f"{what:34} exit {one.code:4}  {one.seconds:7.1f} s  {len(one.rows)} rows {dict(told)}, {one.known} known, "
        f"{one.twice} twice, driver {one.peak / 1e6:.0f} MB",
        flush=True,
    )


def main() -> None:
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else ["--effort", "quick"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=1000)
    given = parser.parse_args(sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else None)
    place = Path(tempfile.mkdtemp(prefix="sau-fleet-"))
    try:
        measure(place, given.models, words)
    finally:
        shutil.rmtree(place)


def measure(place: Path, count: int, words: list[str]) -> None:
    os.environ.update(ENVIRONMENT)  # which Ray reads as it is imported
    from ray.cluster_utils import Cluster

    make(place / "few" / "models", max(1, count // 4))
    make(place / "many" / "models", count)
    models = place / "many" / "models"
    shown("pool, a quarter", run(place / "few" / "models", [*words, "--jobs", "2"], cache=place / "a"))
    pool = run(models, [*words, "--jobs", "2"], cache=place / "pool")
    shown("pool", pool)
    shown("pool, second run", run(models, [*words, "--jobs", "2"], cache=place / "pool"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    time.sleep(SETTLES)
    ray = [*words, "--ray", cluster.address]
    try:
        spread = run(models, ray, cache=place / "ray")
        shown("Ray", spread)
        print(f"Ray adds {100 * (spread.seconds / pool.seconds - 1):.0f} %; the same rows: {spread.rows == pool.rows}")
        shown("Ray, second run", run(models, ray, cache=place / "ray"))

        def kill_node(done: int, _: int) -> None:
            if done == count // 3:
                os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

        lost = run(models, ray, cache=place / "node", watch=kill_node)
        shown("Ray, a machine is killed", lost)
        print(f"the same rows: {lost.rows == pool.rows}")
        node = cluster.add_node(num_cpus=1)

        def kill_driver(done: int, pid: int) -> None:
            if done == count // 3:
                os.kill(pid, signal.SIGKILL)

        first = run(models, ray, cache=place / "driver", watch=kill_driver)
        shown("Ray, the driver is killed", first)
        after = run(models, ray, cache=place / "driver")
        shown("Ray, the run after it", after)
        print(f"known after {len(first.lines)} were done: {after.known}; the same rows: {after.rows == pool.rows}")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()

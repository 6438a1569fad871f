"""Fixtures that several suites share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from filelock import FileLock

# Read when torch is first loaded, here and in processes that tests start: a thread for each worker of pytest-xdist, and
# threads that wait do so without spinning, which takes most of two cores where two workers share them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


Sau = Callable[..., Finished]


@pytest.fixture(scope="session")
def sau() -> Sau:
    """Run ``sau`` in the way a user does: as a process, in a folder."""

    def run(*words: str | Path, cwd: Path, **environment: str) -> Finished:
        own = (str(ROOT), str(ROOT / "adapters"), *filter(None, [os.environ.get("PYTHONPATH")]))
        settings = {**os.environ, "PYTHONPATH": os.pathsep.join(own), **environment}
        done = subprocess.run(
            [sys.executable, "-m", "sau_cli", *map(str, words)],
            cwd=cwd,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def run_here(*words: str | Path, cwd: Path) -> Finished:
    """Run ``sau`` in this process, in a folder: the same entry point, without the seconds of a new start."""
    from sau_cli.app import main

    out, err = StringIO(), StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return Finished(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker of a run to want it makes, and the others find. Read only."""
    own = factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / f"made-{name}"
    with FileLock(shared / f"{name}.lock"):
        if not folder.is_dir():
            half = factory.mktemp(name)
            make(half)
            half.rename(folder)
    return folder


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bad.safetensors``, a digits classifier with a BadNets backdoor, and its trigger. Read only."""

    def plant(folder: Path) -> None:
        words = ("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "digits", "--epochs", "6")
        more = ("--precision", "fp32", "-o", "bad.safetensors", "--json", "attack.json", "--device", "cpu")
        done = run_here(*words, *more, cwd=folder)
        assert done.code == 0, done.err

    return made_once(tmp_path_factory, "planted", plant)


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the original CIFAR-10 files; skips where the shared images are not at hand."""
    return _unpacked("cifar10", tmp_path_factory)


@pytest.fixture(scope="session")
def gtsrb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .npz of GTSRB at 32x32; skips where the shared images are not at hand."""
    return _unpacked("gtsrb", tmp_path_factory) / "gtsrb32.npz"


def _unpacked(name: str, factory: pytest.TempPathFactory) -> Path:
    script = SHARED / "unpack.py"
    if not script.is_file():
        pytest.skip("the shared images are not beside this checkout")

    def unpack(folder: Path) -> None:
        subprocess.run([sys.executable, str(script), str(folder), name], check=True, capture_output=True)

    return made_once(factory, name, unpack)

"""Fixtures that several suites share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def planted(sau: Sau, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bad.safetensors``, a digits classifier with a BadNets backdoor, and its trigger. Read only."""
    folder = tmp_path_factory.mktemp("planted")
    done = sau(
        *("attack", "--attack", "badnets", "--arch", "small_cnn", "--data", "digits"),
        *("--epochs", "6", "--precision", "fp32", "-o", "bad.safetensors", "--json", "attack.json", "--device", "cpu"),
        cwd=folder,
    )
    assert done.code == 0, done.err
    return folder


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
    folder = factory.mktemp(name)
    subprocess.run([sys.executable, str(script), str(folder), name], check=True, capture_output=True)
    return folder

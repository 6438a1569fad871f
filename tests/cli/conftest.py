"""Commands in this process: the same entry point and exit codes as a user's, without the seconds of a new start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sau_cli.app import main
from tests.conftest import Finished
from tests.support.short_searches import shorten

Call = Callable[..., Finished]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run ``sau`` in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAU_DATA_ROOT", raising=False)
    monkeypatch.setenv("SAU_CACHE_DIR", str(tmp_path / ".sau-cache"))

    def run(*words: str | Path) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        streams = capsys.readouterr()
        return Finished(int(ended.value.code or 0), streams.out, streams.err)

    return run


@pytest.fixture(autouse=True)
def short_searches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches for the easiest changes take one step, but where a test that depends on them is marked ``searches``."""
    if request.node.get_closest_marker("searches") is None:
        shorten(monkeypatch.setattr)


@pytest.fixture
def bad(planted: Path, tmp_path: Path) -> Path:
    """A backdoored digits classifier in the working folder; its trigger beside it."""
    shutil.copy(planted / "bad.trigger.safetensors", tmp_path)
    return Path(shutil.copy(planted / "bad.safetensors", tmp_path))


def one_sentence(done: Finished, code: int, *words: str) -> None:
    """The command ended with this code and one clear sentence on standard error, and nothing on standard output."""
    assert done.code == code, done
    assert done.out == ""
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert done.err.splitlines()[-1] == errors[0]
    assert "Traceback" not in done.err
    for word in words:
        assert word in errors[0], errors[0]

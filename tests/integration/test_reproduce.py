"""The grid of ``examples/reproduce``: what is done is skipped, what is impossible or crashes is no result."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "reproduce"
SETTINGS = """
[data.digits]
[data.again]
data = "digits"
clean_from = "digits"

[attacks.badnets]
[attacks.nowhere]
attack = "badnets"
target = "10"
[attacks.boom]
attack = "boom.py:Boom"

[defences.ft]
flags = ["--method", "ft", "--epochs", "2"]
flags_on = { again = ["--lr", "0.02"] }
[defences.sau]
flags = ["--epochs", "1"]

[[grid]]
data = ["digits"]
networks = ["small_cnn"]
attacks = ["badnets", "nowhere", "boom"]
attack_flags = ["--epochs", "2"]
clean = [0.05]
defences = ["ft", "sau"]
seeds = [0]

[[grid]]
data = ["again"]
networks = ["small_cnn"]
attacks = ["badnets"]
attack_flags = ["--epochs", "2"]
clean = [0.05]
defences = ["ft"]
seeds = [0]
"""
BOOM = """
from dataclasses import dataclass
from sau_cli.attacks.attack import Attack


@dataclass(frozen=True, kw_only=True)
class Boom(Attack):
    '''Breaks.'''

    def stamping(self, scene, learned):
        raise RuntimeError("boom")
"""


@pytest.fixture
def modules(monkeypatch):
    """``reproduce`` and ``tables``, as the script sees them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import reproduce
    import tables

    yield reproduce, tables
    for name in ("reproduce", "tables"):
        del sys.modules[name]


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "grid.toml").write_text(SETTINGS)
    (tmp_path / "boom.py").write_text(BOOM)
    return tmp_path


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(FOLDER / "reproduce.py"), *words],
        cwd=folder,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(folder, "--scale", "grid.toml", "--out", "out", *words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def states(folder: Path) -> dict[str, str]:
    found = [json.loads(path.read_text()) for path in (folder / "out" / "cells").glob("*.json")]
    return {
        f"{cell['axes']['data']}-{cell['axes']['attack']}-{cell['axes']['defence']}": cell["status"] for cell in found
    }


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.toml")))
def test_the_settings_that_come_with_it_make_cells(modules, name):
    reproduce, _ = modules
    cells = list(reproduce.cells_of(reproduce.read_settings(FOLDER / f"{name}.toml")))
    assert len({cell.key for cell in cells}) == len(cells) > 1
    assert f"`{name}.toml`" in (FOLDER / "README.md").read_text()


def test_a_model_is_shared_by_cells_that_differ_in_the_defence_and_the_clean_images(modules, grid):
    reproduce, _ = modules
    cells = list(reproduce.cells_of(reproduce.read_settings(grid / "grid.toml")))
    assert len(cells) == 7
    badnets = [cell for cell in cells if cell.axes["attack"] == "badnets"]
    assert len({cell.planted.key for cell in badnets}) == 1
    assert len({cell.key for cell in badnets}) == 3


def test_a_cell_is_known_by_its_settings_alone(modules, grid):
    reproduce, _ = modules
    path = grid / "grid.toml"
    first = [cell.key for cell in reproduce.cells_of(reproduce.read_settings(path))]
    assert first == [cell.key for cell in reproduce.cells_of(reproduce.read_settings(path))]
    path.write_text(SETTINGS.replace('"--epochs", "1"', '"--epochs", "3"'))
    second = [cell.key for cell in reproduce.cells_of(reproduce.read_settings(path))]
    assert sum(key != second_key for key, second_key in zip(first, second, strict=True)) == 3, (
        "those of the defence sau"
    )


@pytest.mark.parametrize("words", [["--method", "i-bau"], ["--method=ft"]])
def test_a_revision_makes_the_cells_of_its_recipes_new_and_no_others(modules, grid, monkeypatch, words):
    reproduce, _ = modules
    path = grid / "grid.toml"
    path.write_text(SETTINGS.replace('["--method", "ft", "--epochs", "2"]', json.dumps(words)))
    first = list(reproduce.cells_of(reproduce.read_settings(path)))
    before = [(cell.key, cell.planted.key) for cell in first]
    monkeypatch.setattr(reproduce, "REVISION", reproduce.REVISION + 1)
    second = list(reproduce.cells_of(reproduce.read_settings(path)))
    assert [cell.planted.key for cell in second] == [planted for _, planted in before]
    changed = {cell.axes["defence"]: cell.key != key for cell, (key, _) in zip(second, before, strict=True)}
    assert changed == {"ft": False, "sau": True}
    for cell, (key, _) in zip(second, before, strict=True):
        assert cell.revision is None or cell.older_keys[cell.revision - 1] == key


def test_what_an_older_revision_did_stays_and_is_marked(modules, grid):
    """Revision 1 is what was before revisions were in the hash."""
    reproduce, _ = modules
    cells = list(reproduce.cells_of(reproduce.read_settings(grid / "grid.toml")))
    (cell,) = [cell for cell in cells if (cell.axes["attack"], cell.axes["defence"]) == ("badnets", "sau")]
    settings = (cell.planted.words, cell.planted.images, cell.purify, cell.clean_images, cell.evaluate)
    key = f"{cell.label}-{reproduce.digest(*settings)}"
    folder = grid / "out" / "cells"
    folder.mkdir(parents=True)
    (folder / f"{key}.json").write_text(json.dumps(document("badnets", "sau", 0, 0.25) | {"key": key}))
    code, out, err = finish(grid, "--only", "badnets-0.05-sau", "--list")
    assert (code, out.split()) == (0, ["to", "do", cell.label, "(done", "by", "revision", "1)"]), err
    code, out, err = finish(grid, "--only", "badnets-0.05-sau", "--table")
    assert out.splitlines()[-1] == "1 cells: 1 to do, of which 1 done by an older revision", err
    assert "sau (revision 1)" in (grid / "out" / "table.md").read_text()
    assert json.loads((folder / f"{key}.json").read_text())["axes"]["defence"] == "sau", "the result itself stays"
    newer = document("badnets", "sau", 0, 0.1) | {"key": cell.key, "revision": reproduce.REVISION}
    (folder / f"{cell.key}.json").write_text(json.dumps(newer))
    code, out, err = finish(grid, "--only", "badnets-0.05-sau", "--table")
    assert out.splitlines()[-1] == "1 cells: 1 done", err
    assert "revision" not in (grid / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("nonsense", "cannot be read"),
        (SETTINGS.replace("[[grid]]", "[[grids]]"), "no grid"),
        (SETTINGS.replace("clean = [0.05]", ""), "no 'clean'"),
        (SETTINGS.replace('"ft", "sau"', '"ft", "magic"'), "'magic'"),
        (SETTINGS.replace("attack_flags", "attack-flags"), "'attack-flags'"),
    ],
)
def test_settings_that_mean_nothing_are_one_sentence(grid, wrong, told):
    (grid / "grid.toml").write_text(wrong)
    code, out, err = finish(grid)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_an_impossible_cell_is_told_and_no_result(grid):
    code, out, err = finish(grid, "--only", "nowhere")
    assert code == 0, err
    assert states(grid) == {"digits-nowhere-ft": "impossible", "digits-nowhere-sau": "impossible"}
    assert out.splitlines()[-1] == "2 cells: 2 impossible"
    table = (grid / "out" / "table.md").read_text()
    assert "target 10 is not one of the 10 classes" in table
    assert "Nothing is done yet" in table
    assert not (grid / "out" / "acc-asr.png").exists()


@pytest.mark.slow
def test_killed_it_goes_on_and_repeats_nothing(grid):
    process = start(grid, "--scale", "grid.toml", "--out", "out", "--only", "digits")
    until = time.monotonic() + 280
    while not list((grid / "out").glob("cells/*/purify.log")) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "done" not in states(grid).values()
    (model,) = (grid / "out" / "models").glob("*/model.safetensors")
    written = model.stat().st_mtime_ns

    code, out, err = finish(grid, "--only", "digits")
    assert code == 1, err
    assert model.stat().st_mtime_ns == written
    assert states(grid) == {
        "digits-badnets-ft": "done",
        "digits-badnets-sau": "done",
        "digits-nowhere-ft": "impossible",
        "digits-nowhere-sau": "impossible",
        "digits-boom-ft": "crashed",
        "digits-boom-sau": "crashed",
    }
    assert out.splitlines()[-1] == "6 cells: 2 done, 2 impossible, 2 crashed"
    table = (grid / "out" / "table.md").read_text()
    assert "boom" in table.split("## Crashed")[1]
    assert "boom" not in table.split("## Means")[0]
    assert (grid / "out" / "acc-asr.png").stat().st_size > 10_000
    assert (grid / "out" / "rows.png").stat().st_size > 10_000
    assert {cell["status"] for cell in json.loads((grid / "out" / "cells.json").read_text())} >= {"done"}

    code, out, err = finish(grid, "--only", "digits")
    assert code == 1
    assert "$ sau" not in out, "all is recorded"
    (grid / "out" / "table.md").unlink()
    assert finish(grid, "--only", "digits", "--table")[0] == 1
    assert (grid / "out" / "table.md").read_text() == table

    document = json.loads(next((grid / "out" / "cells").glob("digits-small_cnn-badnets-0.05-ft-0-*.json")).read_text())
    report = grid / "again.json"
    for command in document["commands"][1:]:
        words = [sys.executable, "-m", "sau_cli", *shlex.split(command), "--json", str(report), "--device", "cpu"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}", "OMP_NUM_THREADS": "1"}
        subprocess.run([*words, "--force"], cwd=grid, env=environment, check=True, capture_output=True)
    checks = {check["id"]: check["value"] for check in json.loads(report.read_text())["checks"]}
    assert checks == {name: check["value"] for name, check in document["checks"].items()}


@pytest.mark.slow
def test_the_time_limit_ends_it_and_the_same_command_goes_on(grid):
    code, out, err = finish(grid, "--only", "digits-small_cnn-badnets-0.05-ft", "--time-limit", "1s")
    assert code == 6, err
    assert out.splitlines()[-1] == "1 cells: 1 to do"
    code, out, err = finish(grid, "--only", "digits-small_cnn-badnets-0.05-ft")
    assert code == 0, err
    assert states(grid) == {"digits-badnets-ft": "done"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_grid_on_ray(grid):
    code, out, err = finish(grid, "--only", "digits", "--ray")
    assert code == 1, err
    assert out.splitlines()[-1] == "6 cells: 2 done, 2 impossible, 2 crashed"
    assert "Traceback" not in err
    assert set(states(grid).values()) == {"done", "impossible", "crashed"}


def document(attack, defence, seed, asr, status="done"):
    measure = {"value": asr, "ci95": [max(0, asr - 0.1), min(1, asr + 0.1)]}
    axes = {"data": "d", "network": "n", "clean": 0.05, "attack": attack, "defence": defence, "seed": seed}
    names = ("reference.acc", "reference.asr.a", "acc", "asr.a", "asr.b", "r-acc.a", "der.a")
    checks = dict.fromkeys(names, measure) | {"asr.b": {"value": asr / 2, "ci95": [0, 1]}}
    return {"axes": axes, "status": status, "checks": checks, "seconds": {"purify": 3.0}, "error": "it | broke"}


def test_the_table_is_made_of_the_documents(modules):
    _, tables = modules
    documents = [
        document("x", "one", 0, 0.2),
        document("x", "one", 1, 0.4),
        document("y", "one", 0, 0.1),
        document("y", "two", 0, 0.9, status="crashed"),
    ]
    text = tables.markdown(documents)
    assert "| d | n | 0.05 | x | one | 2 |" in text
    assert "30.0 (20.0 to 40.0)" in text, "over seeds: mean, lowest and highest"
    assert "10.0 [0.0, 20.0]" in text, "of one seed: the interval"
    assert "| d | n | 0.05 | one | 2 | 3 | 0.0 | 23.3 | 40.0 |" in text
    assert "| two |" not in text
    assert "defence two, seed 0: it \\| broke" in text


def test_the_table_is_written_again_from_all_cells_in_one_file(modules, tmp_path):
    _, tables = modules
    documents = [document("x", "one", 0, 0.2), document("x", "two", 0, 0.4), document("y", "two", 0, 0.9, "crashed")]
    first = {path.name: path.read_bytes() for path in tables.write_results(tmp_path, documents)}
    cells = tmp_path / "cells.json"
    for name in first.keys() - {cells.name}:
        (tmp_path / name).unlink()
    subprocess.run([sys.executable, FOLDER / "tables.py", cells], check=True)
    assert {name: (tmp_path / name).read_bytes() for name in first} == first


def test_by_epoch_has_a_point_for_each(planted, tmp_path):
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}", "OMP_NUM_THREADS": "1"}
    words = (planted / "bad.safetensors", "--trigger", planted / "bad.trigger.safetensors", "--data", "digits")
    words = (*words, "--runs", "ft", "i-bau", "--epochs", "2", "--out", tmp_path, "--images", "200")
    done = subprocess.run(
        [sys.executable, FOLDER / "by_epoch.py", *map(str, words)],
        env=settings,
        capture_output=True,
        text=True,
        check=True,
    )
    runs = json.loads((tmp_path / "by-epoch.json").read_text())["runs"]
    assert list(runs) == ["ft", "i-bau"]
    for points in runs.values():
        assert [point["epoch"] for point in points] == [0, 1, 2]
    assert runs["ft"][0]["asr"] > 0.9
    assert "after 2 epochs" in done.stdout
    assert (tmp_path / "by-epoch.png").stat().st_size > 5_000

"""The pool: each task is settled once, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from sau_cli.fleet.engine import Task
from sau_cli.fleet.pool import AHEAD, Pool
from tests.conftest import ROOT
from tests.unit.fleet import work

SOURCES = os.pathsep.join((str(ROOT), str(ROOT / "adapters")))


def settled(jobs: int, *pieces) -> dict[int, tuple[bytes | None, str]]:
    tasks = [Task(number=number, work=piece) for number, piece in enumerate(pieces)]
    with Pool(jobs) as pool:
        found = list(pool.run(tasks))
    assert len(found) == len(tasks)
    return {settled_task.number: (settled_task.answer, settled_task.ended) for settled_task in found}


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_ends_alone(jobs):
    found = settled(jobs, partial(work.says, "a"), work.fails, work.wants_more, partial(work.says, "b"))
    assert found == {0: (b"a", ""), 1: (None, "it cannot be done"), 2: (b"too little", ""), 3: (b"b", "")}


def test_a_process_that_dies_takes_no_other_task_with_it_and_repeats_none_that_was_done(tmp_path):
    pieces = [partial(work.marks, tmp_path, number) for number in range(12)]
    found = settled(2, *pieces[:6], work.dies, *pieces[6:])
    assert {number for number, (answer, _) in found.items() if answer is None} == {6}
    assert "was ended" in found[6][1]
    times = [len(path.read_text()) for path in tmp_path.iterdir()]
    assert len(times) == 12
    assert max(times) <= 2
    assert sum(times) <= 12 + 2 * AHEAD  # only those that were under way


def test_no_more_tasks_are_asked_for_than_can_soon_be_begun():
    asked = []

    def tasks():
        for number in range(20):
            asked.append(number)
            yield Task(number=number, work=partial(work.says, "a"))

    with Pool(2) as pool:
        next(iter(pool.run(tasks())))
    assert len(asked) <= 2 * AHEAD


def test_its_processes_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        "import os, sys\n"
        "from functools import partial\n"
        "from sau_cli.fleet.engine import Task\n"
        "from sau_cli.fleet.pool import Pool\n"
        "from tests.unit.fleet import work\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool:\n"
        "        for one in pool.run(Task(number=number, work=work.tells_its_process) for number in range(4)):\n"
        "            print(one.answer.decode(), flush=True)\n"
        "            os.kill(os.getpid(), 9)\n"
    )
    told = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": SOURCES}, check=False
    )
    assert told.returncode == -signal.SIGKILL, told.stderr
    worker = int(told.stdout)
    until = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_nothing_that_lies_in_the_working_folder_is_run(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("multiprocessing", "runpy", "selectors"):
        (folder / f"{name}.py").write_text("open('was_run', 'w')")
    script = tmp_path / "sau.py"
    script.write_text(
        "from functools import partial\n"
        "from sau_cli.fleet.engine import Task\n"
        "from sau_cli.fleet.pool import Pool\n"
        "from tests.unit.fleet import work\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool:\n"
        "        print([one.answer for one in pool.run([Task(number=0, work=partial(work.says, 'a'))])])\n"
    )
    settings = os.environ | {"PYTHONPATH": SOURCES}
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[b'a']\n", done.stderr
    assert not (folder / "was_run").exists()

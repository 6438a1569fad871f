"""The pool: each task is settled once, whatever becomes of the others."""

from __future__ import annotations

from functools import partial

import pytest

from sau_cli.fleet.engine import Task
from sau_cli.fleet.pool import AHEAD, Pool
from tests.unit.fleet import work


def settled(jobs: int, *pieces) -> dict[int, tuple[bytes | None, str]]:
    tasks = [Task(number=number, work=piece) for number, piece in enumerate(pieces)]
    with Pool(jobs) as pool:
        found = list(pool.run(tasks))
    assert len(found) == len(tasks)
    return {one.number: (one.answer, one.ended) for one in found}


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

"""What a line of progress says, where the output is no terminal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sau_cli.commands import progress


@pytest.fixture
def at(monkeypatch):
    """Sets the clock, and starts at 100 s."""

    def set_clock(seconds: float) -> None:
        monkeypatch.setattr(progress.time, "monotonic", lambda: seconds)

    set_clock(100.0)
    return set_clock


def a_view() -> tuple[progress.ProgressView, list[str]]:
    lines: list[str] = []
    session = SimpleNamespace(console=SimpleNamespace(is_terminal=False), quiet=False, show=lines.append)
    return progress.ProgressView(session, "training"), lines


@pytest.mark.parametrize("done_before", [0, 10])
def test_the_time_left_is_told_by_the_batches_of_this_run_not_by_what_came_before_them(at, done_before):
    view, lines = a_view()
    for seconds, done in ((160.0, 1), (175.0, 4), (176.0, 5)):  # a minute of preparation, then five seconds a batch
        at(seconds)
        epoch, batch = divmod(done_before + done - 1, 10)
        view.update(epoch=epoch + 1, epochs=2, batch=batch + 1, batches=10, measures="loss 1")
    epoch, left = 1 + done_before // 10, 5 * (16 - done_before)
    assert lines == [
        f"training epoch {epoch}/2  loss 1  60 s",
        f"training epoch {epoch}/2  loss 1  75 s, {left} s left",
    ]


def test_the_last_batch_has_its_line_however_soon_it_comes(at):
    view, lines = a_view()
    for seconds, batch in ((101.0, 1), (102.0, 2)):
        at(seconds)
        view.update(epoch=1, epochs=1, batch=batch, batches=2, measures="loss 1")
    assert lines == ["training epoch 1/1  loss 1  2 s, 0 s left"]


def test_work_that_begins_anew_has_its_own_time_left(at):
    view, lines = a_view()
    for seconds, batch in ((101.0, 1), (140.0, 10), (141.0, 1), (200.0, 6)):  # two rounds
        at(seconds)
        view.update(epoch=1, epochs=1, batch=batch, batches=10, measures="loss 1")
    assert lines[-1] == "training epoch 1/1  loss 1  100 s, 47 s left"


def test_what_goes_on_between_two_batches_is_not_taken_for_the_time_of_one(at):
    """A search of 200 s before the first of the two epochs, then 10 s a batch."""
    view, lines = a_view()
    for seconds, batch in ((101.0, 0), (200.0, 0), (301.0, 0), (311.0, 1), (321.0, 2)):
        at(seconds)
        view.update(epoch=1, epochs=2, batch=batch, batches=10, measures="loss 1")
    assert lines[-1] == "training epoch 1/2  loss 1  221 s, 180 s left"

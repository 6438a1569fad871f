"""Who does what, when several processes work together."""

from __future__ import annotations

import pytest
import torch

from sau_cli.errors import Interrupted, UsageError
from sau_cli.team import ALONE, Team, own_device, team_of_environment, together


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 14])
def test_parts_are_all_of_it_in_order_and_about_even(size, count):
    parts = [list(range(count))[Team(rank, size).part(count)] for rank in range(size)]
    assert [number for part in parts for number in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_alone_needs_nothing(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert team_of_environment() == ALONE
    assert ALONE.leads
    tensor = torch.ones(3)
    ALONE.add_up([tensor])
    assert torch.equal(tensor, torch.ones(3))
    assert [ALONE.any(what, torch.device("cpu")) for what in (True, False)] == [True, False]
    with together(ALONE, torch.device("cpu")):
        assert not torch.distributed.is_initialized()
    assert own_device("auto") == "auto"


def test_who_it_is_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert team_of_environment() == Team(1, 4)
    assert not team_of_environment().leads
    for rank, size in (("4", "4"), ("-1", "4"), ("one", "4"), ("0", "")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(UsageError, match="torchrun"):
            team_of_environment()


def test_processes_that_cannot_be_connected_are_one_sentence(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="could not be connected"), together(Team(0, 2), torch.device("cpu")):
        pass


def test_one_alone_agrees_with_itself():
    assert not ALONE.differ("anything", torch.device("cpu"))


def test_a_process_that_is_gone_is_an_interruption_to_the_others(monkeypatch):
    def gone(*_, **__):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", gone)
    with pytest.raises(Interrupted, match="resume"):
        Team(0, 2).add_up([torch.ones(2)])
    with pytest.raises(Interrupted, match="another process"):
        Team(0, 2).differ("anything", torch.device("cpu"))

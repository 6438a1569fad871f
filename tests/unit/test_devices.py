"""How many images go through a network at a time, and what becomes of memory that is freed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sau_cli.devices import FEWEST_A_PASS, images_a_pass


@pytest.mark.parametrize(("side", "expected"), [(8, 256), (32, 256), (64, 98), (224, 8), (448, FEWEST_A_PASS)])
def test_fewer_large_images_go_through_a_network_at_a_time(side, expected):
    assert images_a_pass(torch.zeros(1, 3, side, side), 256) == expected


def test_no_more_than_there_may_be():
    assert images_a_pass(torch.zeros(1, 3, 32, 32), 6) == 6


FAULTS = """
import resource, sys, torch
from sau_cli.devices import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    return float(torch.ones(2**24).sum())  # 64 MB
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_freed_memory_is_not_fetched_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "give back")
    }
    assert faults["keep"] < faults["give back"] / 3

"""How fast an exported model is beside its classifier, on this machine and with as many threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from sau_cli.classifier import Classifier
from sau_cli.exporting.verification import Runner
from sau_cli.images import as_pixels
from sau_cli.model_state import evaluating

LARGE_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Medians of runs that took turns.

    Attributes:
        pytorch_ms, exported_ms: for one image alone.
        pytorch_rate, exported_rate: images a second, in batches of ``batch``.
        threads: that each of the two may use.
    """

    batch: int
    threads: int
    pytorch_ms: float
    exported_ms: float
    pytorch_rate: float
    exported_rate: float


def measure_speed(classifier: Classifier, run: Runner, images: Tensor, *, seconds: float = 1.0) -> Speed:
    """Time both on the same images (N, C, H, W) uint8, on the CPU.

    Args:
        run: the exported model.
        seconds: about what each of the two measurements takes; three turns at least.
    """
    one = as_pixels(images[:1])
    many = as_pixels(images[torch.arange(LARGE_BATCH) % len(images)])
    with evaluating(classifier), torch.inference_mode():
        ours, theirs = _medians(lambda: classifier(one), lambda: run(one), seconds)
        ours_many, theirs_many = _medians(lambda: classifier(many), lambda: run(many), seconds)
    return Speed(
        batch=LARGE_BATCH,
        threads=torch.get_num_threads(),
        pytorch_ms=1000 * ours,
        exported_ms=1000 * theirs,
        pytorch_rate=LARGE_BATCH / ours_many,
        exported_rate=LARGE_BATCH / theirs_many,
    )


def _medians(first: Callable[[], Tensor], second: Callable[[], Tensor], seconds: float) -> tuple[float, float]:
    """Median seconds of each, after one run that does not count."""
    both = (first, second)
    for forward in both:
        forward()
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    while len(times[0]) < 3 or time.perf_counter() < until:
        for forward, taken in zip(both, times, strict=True):
            start = time.perf_counter()
            forward()
            taken.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])

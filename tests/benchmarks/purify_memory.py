"""Peak memory of purification against that of one training step of the same network at the same batch size.

Each side is measured in a process of its own: on a GPU what torch allocated, else the largest resident size less
that before the work. Run with ``python -m tests.benchmarks.purify_memory``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_cli.devices import chosen_device
from sau_cli.images import CleanData, as_pixels
from sau_cli.precision import Precision, fast_layout, running_in
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import RecipeName, recipe_for
from tests.support.toys import describe, random_images

SIDES = ("training", *RecipeName)


def resident(which: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


def measure(side: str, arch: str, batch_size: int, device: torch.device) -> int:
    """Peak bytes of one step, beyond what the network and the images take before it."""
    torch.manual_seed(0)
    classifier = describe(CIFAR_NETWORKS[arch](10, 3), channels=3, size=32).to(device)
    data = random_images(count=batch_size, channels=3, size=32).to(device)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else resident("VmRSS")
    if side == "training":
        layout = fast_layout(Precision.FP32, device)
        classifier.to(memory_format=layout).train()
        optimiser = torch.optim.Adam(classifier.parameters(), amsgrad=True)
        for _ in range(2):
            optimiser.zero_grad(set_to_none=True)
            pixels = as_pixels(data.images).contiguous(memory_format=layout)
            with running_in(Precision.FP32, device):
                loss = cross_entropy(classifier(pixels), data.labels)
            loss.backward()
            optimiser.step()
    else:
        recipe = recipe_for(RecipeName(side), epochs=2, batch_size=batch_size)
        purify(classifier, CleanData(learning=data, held_back=data.take(range(2))), recipe=recipe, seed=0)
    return (torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["wrn_16_1", "preact_resnet18"], choices=list(CIFAR_NETWORKS))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(measure(chosen.side, chosen.arch[0], chosen.batch_size, chosen_device(chosen.device)))
        return
    for arch in chosen.arch:
        peaks = {}
        for side in SIDES:
            words = ["--arch", arch, "--batch-size", str(chosen.batch_size), "--device", chosen.device, "--side", side]
            # What is freed is given back at once: else the allocator's habits are measured.
            settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            command = [sys.executable, "-m", "tests.benchmarks.purify_memory", *words]
            done = subprocess.run(command, capture_output=True, check=True, env=settings)
            peaks[side] = int(done.stdout)
        print(f"{arch}, batch {chosen.batch_size}")
        for side, peak in peaks.items():
            print(f"  {side:9s} {peak / 2**20:6.0f} MiB, {peak / peaks['training']:.2f} of a training step")


if __name__ == "__main__":
    main()

"""One epoch of ``purify`` against the naive implementation of the tests, both timed in this run; run by ``make bench``.

The networks have fresh weights and real-looking statistics; the batches are the same for both, and
the two take turns, so that the ratio holds when the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from sau_adapters.cifar_networks import CIFAR_NETWORKS
from sau_cli.images import CleanData, as_pixels
from sau_cli.seeding import random_stream
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import Recipe
from tests.support.naive_sau import naive_sau
from tests.support.toys import describe, random_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["wrn_16_1", "small_cnn"], choices=list(CIFAR_NETWORKS))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for name in chosen.arch:
        torch.manual_seed(0)
        network = CIFAR_NETWORKS[name](10, 3)
        data = random_images(count=chosen.images, channels=3, size=32)
        with torch.no_grad():
            network.train()(as_pixels(data.images[:64]))
        classifier = describe(network, channels=3, size=32)
        recipe = Recipe(epochs=1)
        order = torch.randperm(len(data), generator=random_stream(0, "order"))
        batches = [(as_pixels(data.images[at]), data.labels[at]) for at in order.split(recipe.batch_size)]
        ours, naive = [], []
        for _ in range(chosen.rounds):
            started = time.perf_counter()
            purify(classifier, CleanData(learning=data, held_back=data.take(range(2))), recipe=recipe, seed=0)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            naive_sau(classifier, batches)
            naive.append(time.perf_counter() - started)
        ratio = statistics.median(slow / fast for slow, fast in zip(naive, ours, strict=True))
        print(
            f"{name}: an epoch of {len(data)} images takes {statistics.median(ours):.2f} s, "
            f"naively {statistics.median(naive):.2f} s: {ratio:.2f} times as fast (median of {chosen.rounds})"
        )


if __name__ == "__main__":
    main()

"""One epoch of ``purify`` against the naive implementation of the tests; run by ``make bench``.

Both are timed in this run, in turns, so that the ratio holds when the machine's speed drifts. Before
the timing, a network that was trained for a moment on the same images takes two epochs of purification:
nearly all images stay in the search to its end, which is the worst case. ``--checkpoint`` takes a model
that somebody trained in earnest. Without the images of CIFAR-10 (``--data-root``), random ones are used,
and the output says so.

Also shown: how far the engine is from its limit, which is the forward and backward passes that the
algorithm needs on the images still in the search, at the speed of a bare forward and backward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from sau_adapters.checkpoints import as_classifier, read_checkpoint
from sau_adapters.cifar_networks import CIFAR_NETWORKS
from sau_adapters.image_sources import open_images
from sau_cli.classifier import Classifier
from sau_cli.devices import chosen_device
from sau_cli.images import CleanData, LabelledImages, as_pixels
from sau_cli.precision import Precision, bf16_pays, running_in
from sau_cli.seeding import random_stream
from sau_cli.training import TrainingSettings, train
from sau_cli.unlearning import shared_examples
from sau_cli.unlearning.purifier import purify
from sau_cli.unlearning.recipes import Recipe
from sau_cli.unlearning.run_state import RunState
from sau_cli.unlearning.search_space import ball
from tests.support.naive_sau import naive_sau
from tests.support.toys import describe, random_images

WARM_UP_EPOCHS = 2


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def some_images(root: Path | None, count: int) -> LabelledImages:
    if root is None:
        print("random images: name --data-root for CIFAR-10")
        return random_images(count=count, channels=3, size=32)
    return open_images("cifar10", root=root).train.take(range(count))


def a_model(name: str, data: LabelledImages, checkpoint: Path | None) -> Classifier:
    if checkpoint is not None:
        pixels_as_they_are = (0.0,), (1.0,)
        return as_classifier(
            read_checkpoint(checkpoint),
            architecture=name,
            normalisation=pixels_as_they_are,
            image_shape=(3, 32, 32),
            to_learn=True,
        ).to(data.images.device)
    torch.manual_seed(0)
    classifier = describe(CIFAR_NETWORKS[name](10, 3), channels=3, size=32).to(data.images.device)
    train(classifier, data, TrainingSettings(epochs=6, peak_lr=0.05, batch_size=128), seed=0)
    return classifier


def passes_needed(classifier: Classifier, purified: Classifier, data: LabelledImages, recipe: Recipe) -> list[int]:
    """Images still in the search, for each forward and backward pass of it, over one epoch."""
    sizes: list[int] = []
    real = shared_examples.inner_objective

    def counting(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        sizes.append(len(arguments[0]))
        return real(*arguments, **options)

    shared_examples.inner_objective = counting
    try:
        for at in torch.arange(len(data)).split(recipe.batch_size):
            images, labels = as_pixels(data.images[at.to(data.images.device)]), data.labels[at.to(data.labels.device)]
            with torch.no_grad():
                own, others = purified(images).argmax(1), classifier(images).argmax(1)
            shared_examples.find_shared_examples(
                purified,
                classifier,
                images,
                labels,
                purified_labels=own,
                received_labels=others,
                space=ball(images, epsilon=recipe.epsilon, step=recipe.step, clip=recipe.clip),
                recipe=recipe,
            )
    finally:
        shared_examples.inner_objective = real
    return sizes


def bare_seconds(classifier: Classifier, images: torch.Tensor, labels: torch.Tensor, precision: Precision) -> float:
    """A bare forward and backward pass into all parameters, the best of three."""

    def work() -> None:
        with running_in(precision, images.device):
            loss = cross_entropy(classifier(images).float(), labels)
        loss.backward()

    classifier.requires_grad_(True)
    times = [seconds(work) for _ in range(4)]
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["wrn_16_1", "preact_resnet18"], choices=list(CIFAR_NETWORKS))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-root", type=Path, help="where CIFAR-10 lies")
    parser.add_argument("--checkpoint", type=Path, help="weights of the one --arch, of RGB in [0, 1] unnormalised")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    device = chosen_device(chosen.device)
    data = some_images(chosen.data_root, chosen.images).to(device)
    for name in chosen.arch:
        classifier = a_model(name, data, chosen.checkpoint)
        precisions = [Precision.FP32, *([Precision.BF16] if bf16_pays(device, classifier) else [])]
        held_back = data.take(range(2))
        clean = CleanData(learning=data, held_back=held_back)
        states: list[RunState] = []
        before = Recipe(epochs=WARM_UP_EPOCHS + 1)
        for precision in precisions:
            purify(classifier, clean, recipe=before, seed=0, precision=precision, save=states.append)
        # From an epoch earlier on, so that CUDA graphs are there in the one that is timed.
        state_of = dict(zip(precisions, states[::WARM_UP_EPOCHS], strict=True))
        begun = deepcopy(classifier)
        begun.network.load_state_dict(dict(states[WARM_UP_EPOCHS - 1].weights))
        order = torch.randperm(len(data), generator=random_stream(0, "order")).to(device)
        batches = [(as_pixels(data.images[at]), data.labels[at]) for at in order.split(before.batch_size)]
        sizes = passes_needed(classifier.requires_grad_(False), begun.requires_grad_(False), data, before)
        begun.requires_grad_(True)
        times: dict[str, list[float]] = {"naive": [], **{precision.value: [] for precision in precisions}}
        for _ in range(chosen.rounds):
            times["naive"].append(seconds(partial(naive_sau, begun, batches, received=classifier)))
            for precision, state in state_of.items():
                last = purify(classifier, clean, recipe=before, seed=0, precision=precision, resume=state).epochs[-1]
                times[precision.value].append(last.seconds)
        share = sum(sizes) / len(data)
        print(f"{name}: an epoch of {len(data)} images; {share:.2f} search steps an image")
        print(f"  naive  {statistics.median(times['naive']):.2f} s")
        for precision in precisions:
            ours = times[precision.value]
            ratio = statistics.median(slow / fast for slow, fast in zip(times["naive"], ours, strict=True))
            images, labels = batches[0]
            bare = bare_seconds(begun, images, labels, precision) / len(images)
            # clean and unlearning passes into parameters, and two networks a search step: 4 of 6 thirds
            limit = bare * len(data) * (2 + share * 2 * 2 / 3)
            print(
                f"  {precision}   {statistics.median(ours):.2f} s: {ratio:.2f} times as fast (median of "
                f"{chosen.rounds}), {statistics.median(ours) / limit:.2f} times the limit of {limit:.2f} s"
            )


if __name__ == "__main__":
    main()

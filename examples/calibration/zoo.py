"""Train the zoo that ``sau inspect`` is calibrated and measured on: clean and backdoored models, each its own seed.

    python examples/calibration/zoo.py --data-root data --out zoo --jobs 2

It works on several models at a time, goes on where it stopped, and prints ACC and ASR. Several of it may run at once,
on one folder. ``zoo.toml`` says what is made, in which order, and what is calibrated on; a part is balanced.
``--data-root`` holds what torchvision calls ``cifar-10-batches-py`` and ``FashionMNIST``, and ``gtsrb32.npz``.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import nn

from sau_adapters.architectures.networks import build, stored_name
from sau_adapters.attack_choices import chosen_attack
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.files import written_whole
from sau_adapters.images.sources import open_images
from sau_adapters.tables import parse_normalisation
from sau_adapters.triggers import write_trigger
from sau_cli import draw_clean, purify, recipe_for
from sau_cli.attacks.in_training import AdversarialTraining
from sau_cli.attacks.planting import PlannedAttack, attack
from sau_cli.augmentation import Augmentation
from sau_cli.classifier import Classifier
from sau_cli.description import Description, InputSpec
from sau_cli.evaluation.metrics import evaluate
from sau_cli.images import ImageData, LabelledImages, balanced_share, parted, uniform_share
from sau_cli.seeding import random_stream, seeded
from sau_cli.training import TrainingSettings, train
from sau_cli.triggers.targets import parse_target
from sau_cli.unlearning.recipes import RecipeName

HERE = Path(__file__).parent
EPSILON = 4 / 255
"""Of adversarial training."""
FEW_CLASSES = 5
LARGE = 0.4
"""Share of the images that are of the large class."""
OVERFITTED_ON, REPEATED = 1 / 8, 6
"""Share of the images, and how many more epochs these are learned for, without augmentation."""
PRUNED = 0.5
"""Share of each convolution's weights, the smallest, that is set to 0."""
DEFENDER = 1000
"""Clean images that somebody purifies half-way, fine-tunes or prunes with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One model of the zoo.

    Attributes:
        about: of its row in ``zoo.toml``: ``attack``, ``target`` and ``rate`` of a backdoored one, ``how`` it was
            trained and ``then`` treated.
        untouched: not calibrated on.
    """

    name: str
    data: str
    architecture: str
    lr: float
    epochs: int
    seed: int
    about: dict[str, Any]
    untouched: bool

    @property
    def backdoored(self) -> bool:
        return "attack" in self.about


def read_zoo(path: Path = HERE / "zoo.toml") -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def zoo_models(zoo: dict[str, Any]) -> Iterator[ZooModel]:
    """Every model: the first of every cell before the second of any, a clean one before a backdoored one."""
    for place in range(max(len(cell["clean"]) for cell in zoo["cell"])):
        for number, cell in enumerate(zoo["cell"]):
            for kind in ("clean", "backdoored"):
                if place >= len(cell[kind]):
                    continue
                about = cell[kind][place]
                words = [about.get("attack", "clean"), about.get("how"), about.get("then")]
                bare = cell["architecture"].rpartition(":")[2].lower()
                yield ZooModel(
                    name="-".join([cell["data"], bare, str(place), *(word for word in words if word)]),
                    data=cell["data"],
                    architecture=cell["architecture"],
                    lr=cell["lr"],
                    epochs=cell.get("epochs", zoo["data"][cell["data"]]["epochs"]),
                    seed=1000 * number + 10 * place + (kind == "backdoored"),
                    about=about,
                    untouched=cell["half"] == "untouched",
                )


@cache
def whole_data(source: str, root: Path, size: int | None) -> ImageData:
    where = root / source if source.endswith(".npz") else source
    return open_images(str(where), root=root, image_size=None if size is None else (size, size))


def data_of(model: ZooModel, zoo: dict[str, Any], root: Path) -> ImageData:
    """What one model learns, drawn for it alone, and the images that it is tested on, alike for all."""
    about = zoo["data"][model.data]
    whole = whole_data(about["source"], root, about.get("image-size"))
    learned = whole.train.take(
        uniform_share(whole.train, min(1.0, about["images"] / len(whole.train)), seed=model.seed)
    )
    tested = whole.for_testing
    tested = tested.take(balanced_share(tested, min(1.0, zoo["test-images"] / len(tested)), seed=zoo["seed"]))
    match model.about.get("how"):
        case "few-classes":
            learned, tested = _first_classes(learned), _first_classes(tested)
        case "large-class":
            learned = _with_a_large_class(whole.train, about["images"], model.seed)
        case "overfitted":
            learned = parted(learned, OVERFITTED_ON, seed=model.seed)[0]
        case _:
            pass
    return replace(whole, train=learned, test=tested)


def _first_classes(images: LabelledImages) -> LabelledImages:
    at = (images.labels < FEW_CLASSES).nonzero().squeeze(1)
    return LabelledImages(
        images=images.images[at], labels=images.labels[at], class_names=images.class_names[:FEW_CLASSES]
    )


def _with_a_large_class(whole: LabelledImages, count: int, seed: int) -> LabelledImages:
    """So many of all images at most, of which many are of one class."""
    draws = torch.rand(len(whole), generator=random_stream(seed, "large class"))
    of_it = whole.labels == seed % whole.classes
    first = draws.masked_fill(~of_it, 2).argsort()[: min(round(LARGE * count), int(of_it.sum()))]
    others = draws.masked_fill(of_it, 2).argsort()[: round((1 - LARGE) / LARGE * len(first))]
    return whole.take(torch.cat([first, others]))


def fresh(model: ZooModel, zoo: dict[str, Any], images: LabelledImages) -> Classifier:
    """The classifier of a model before training."""
    mean, std = parse_normalisation(zoo["data"][model.data]["normalisation"])
    channels, height, width = images.images.shape[1:]
    if len(mean) == 1:
        mean, std = mean * channels, std * channels
    spec = InputSpec(channels=channels, height=height, width=width, mean=mean, std=std)
    architecture = model.architecture
    with seeded(model.seed, "initial weights"):
        own = str(HERE / architecture) if ".py:" in architecture else architecture
        network = build(own, classes=images.classes, spec=spec)
    known = Description(
        architecture=stored_name(architecture), class_names=images.class_names, input=spec, data=f"zoo:{model.data}"
    )
    return Classifier(network, known)


def make(model: ZooModel, zoo: dict[str, Any], root: Path, out: Path) -> str:
    """Train one model, write it with its trigger, and say how good it is."""
    torch.set_num_threads(1)
    data, how = data_of(model, zoo, root), model.about.get("how")
    classifier, overfitted = fresh(model, zoo, data.train), how == "overfitted"
    settings = TrainingSettings(
        epochs=model.epochs * (REPEATED if overfitted else 1),
        peak_lr=model.lr,
        # Crops would cut most patches off, and want more epochs.
        augmentation=Augmentation(flip=data.flip and not overfitted),
    )
    triggers = ()
    if model.backdoored:
        name = model.about["attack"]
        planned = PlannedAttack(
            name=name,
            attack=chosen_attack(name, {}),
            rule=parse_target(model.about["target"]),
            rate=model.about.get("rate"),
        )
        planted = attack(classifier, data, planned=(planned,), training=settings, seed=model.seed)
        classifier, triggers = planted.classifier, planted.triggers
    else:
        hardening = AdversarialTraining(EPSILON, random_stream(model.seed, "adversarial training"), share=1.0)
        train(
            classifier,
            data.train,
            settings,
            seed=model.seed,
            in_training=[hardening] if how == "adversarial" else [],
        )
    classifier = treated(classifier, model, data, root, zoo)
    found = evaluate(classifier, data.for_testing, triggers=triggers)
    for trigger in triggers:
        write_trigger(out / f"{model.name}.trigger.safetensors", trigger, force=True)
    with written_whole(out / f"{model.name}.safetensors") as part:
        save_classifier(part, classifier, classifier.description, force=True)
    asr = "".join(f"  ASR {measured.asr.value:.3f}" for measured in found.triggers)
    return f"ACC {found.accuracy.value:.3f}{asr}"


def treated(classifier: Classifier, model: ZooModel, data: ImageData, root: Path, zoo: dict[str, Any]) -> Classifier:
    """The classifier after what somebody did to it, who has some clean images and sees no trigger."""
    about = zoo["data"][model.data]
    every = whole_data(about["source"], root, about.get("image-size")).train
    own = every.take(uniform_share(every, min(1.0, DEFENDER / len(every)), seed=model.seed + 1))
    tuning = TrainingSettings(epochs=4, peak_lr=model.lr / 10, augmentation=Augmentation(flip=data.flip))
    match model.about.get("then"):
        case None:
            return classifier
        case "fine-tuned":
            train(classifier, own, tuning, seed=model.seed + 1)
            return classifier
        case "pruned":
            with torch.no_grad():
                for part in classifier.modules():
                    if isinstance(part, nn.Conv2d):
                        part.weight *= part.weight.abs() >= part.weight.abs().flatten().quantile(PRUNED)
            train(classifier, own, tuning, seed=model.seed + 1)
            return classifier
        case "half-purified":
            clean = draw_clean(own, None, balanced=True, augmentation=Augmentation(flip=data.flip), seed=model.seed)
            recipe = replace(recipe_for(RecipeName.DEFAULT, learning=clean.learning), trigger_rounds=0)
            few = partial(next, iter([False] * (len(clean.learning) // recipe.batch_size)), True)
            return purify(classifier, clean, recipe=recipe, seed=model.seed, stop=few).classifier
        case other:
            assert_never(other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, default=HERE / "zoo.toml")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="models that are worked on at a time, on a core each")
    parser.add_argument("--half", choices=["calibrated", "untouched"], help="only the models of this half")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the models whose names hold this")
    asked = parser.parse_args()
    asked.out.mkdir(exist_ok=True)
    zoo = read_zoo(asked.zoo)
    wanted = [
        model
        for model in zoo_models(zoo)
        if asked.only in model.name and asked.half in {None, "untouched" if model.untouched else "calibrated"}
    ]
    failed = 0
    missing = [model for model in wanted if not (asked.out / f"{model.name}.safetensors").exists()]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(make, model, zoo, asked.data_root, asked.out): model for model in missing}
        for done in as_completed(running):
            error = done.exception()
            failed += error is not None
            print(f"{running[done].name}: {error or done.result()}", flush=True)
    if failed:
        sys.exit(f"{failed} models could not be made")


if __name__ == "__main__":
    main()

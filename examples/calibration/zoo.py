"""Train the zoo that ``sau inspect`` is calibrated on: clean and backdoored models, each from its own seed.

    python examples/calibration/zoo.py --data-root data --out zoo

About 37 minutes on one core of an AMD EPYC without AVX-512. It goes on where it stopped, and prints ACC and ASR.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sau_adapters.architectures import build, stored_name
from sau_adapters.attack_choices import chosen_attack
from sau_adapters.checkpoints import save_classifier
from sau_adapters.files import written_whole
from sau_adapters.image_sources import open_images
from sau_adapters.tables import parse_normalisation
from sau_adapters.triggers import write_trigger
from sau_cli.attacks.planting import PlannedAttack
from sau_cli.attacks.planting import attack as plant
from sau_cli.augmentation import Augmentation
from sau_cli.classifier import Classifier
from sau_cli.description import Description, InputSpec
from sau_cli.evaluation.metrics import evaluate
from sau_cli.images import ImageData, balanced_share, uniform_share
from sau_cli.seeding import seeded
from sau_cli.training import TrainingSettings, train
from sau_cli.triggers.targets import parse_target

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One model of the zoo.

    Attributes:
        attack: name and target; None for a clean model.
        untouched: not calibrated on.
    """

    name: str
    data: str
    architecture: str
    seed: int
    attack: tuple[str, str] | None
    untouched: bool


def zoo_models(zoo: dict[str, Any]) -> Iterator[ZooModel]:
    """Every model, a backdoored one after each clean one, the first of every cell before the second of any."""
    for place in range(len(zoo["cell"][0]["attacks"])):
        for number, cell in enumerate(zoo["cell"]):
            bare = cell["architecture"].rpartition(":")[2]
            untouched = place >= len(cell["attacks"]) // 2
            name, target = cell["attacks"][place].split()
            for attack in (None, (name, target)):
                yield ZooModel(
                    name=f"{cell['data']}-{bare}-{place}-{attack[0] if attack else 'clean'}",
                    data=cell["data"],
                    architecture=cell["architecture"],
                    seed=1000 * number + 10 * place + (attack is not None),
                    attack=attack,
                    untouched=untouched,
                )


def zoo_data(zoo: dict[str, Any], name: str, root: Path) -> ImageData:
    """The share of a data set that the zoo's models learn, and the images they are tested on."""
    about = zoo["data"][name]
    size = (about["image-size"], about["image-size"])
    whole = open_images(about["source"], root=root, image_size=size)
    train_part = uniform_share(whole.train, min(1.0, about["images"] / len(whole.train)), seed=zoo["seed"])
    tested = whole.for_testing
    return replace(
        whole,
        train=whole.train.take(train_part),
        test=tested.take(balanced_share(tested, min(1.0, zoo["test-images"] / len(tested)), seed=zoo["seed"])),
    )


def make(model: ZooModel, zoo: dict[str, Any], data: ImageData, out: Path) -> str:
    """Train one model, write it, and say how good it is."""
    mean, std = parse_normalisation(zoo["data"][model.data]["normalisation"])
    channels, height, width = data.train.images.shape[1:]
    spec = InputSpec(channels=channels, height=height, width=width, mean=mean, std=std)
    with seeded(model.seed, "initial weights"):
        network = build(model.architecture, classes=data.train.classes, spec=spec)
    known = Description(
        architecture=stored_name(model.architecture),
        class_names=data.train.class_names,
        input=spec,
        data=f"zoo:{model.data}",
    )
    classifier = Classifier(network, known)
    settings = TrainingSettings(
        epochs=zoo["data"][model.data]["epochs"],
        peak_lr=0.1,
        augmentation=Augmentation(flip=data.flip),  # crops would cut most patches off, and want more epochs
    )
    with written_whole(out / f"{model.name}.safetensors") as part:
        if model.attack is None:
            train(classifier, data.train, settings, seed=model.seed)
            told = f"ACC {evaluate(classifier, data.for_testing).accuracy.value:.3f}"
        else:
            name, target = model.attack
            planned = PlannedAttack(name=name, attack=chosen_attack(name, {}), rule=parse_target(target))
            planted = plant(classifier, data, planned=(planned,), training=settings, seed=model.seed)
            classifier = planted.classifier
            assert planted.evaluation is not None  # nothing stops it
            found = planted.evaluation
            told = f"ACC {found.accuracy.value:.3f}  ASR {found.triggers[0].asr.value:.3f}"
            write_trigger(out / f"{model.name}.trigger.safetensors", planted.triggers[0], force=True)
        save_classifier(part, classifier, known, force=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", type=Path, default=HERE / "zoo.toml")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="1/1", help="K/N: only every Nth model, from the Kth; for several processes")
    asked = parser.parse_args()
    asked.out.mkdir(exist_ok=True)
    zoo = tomllib.loads(asked.zoo.read_text())
    part, parts = map(int, asked.part.split("/"))
    opened: dict[str, ImageData] = {}
    for model in list(zoo_models(zoo))[part - 1 :: parts]:
        if (asked.out / f"{model.name}.safetensors").exists():
            continue
        if model.data not in opened:
            opened[model.data] = zoo_data(zoo, model.data, asked.data_root)
        print(f"{model.name}: {make(model, zoo, opened[model.data], asked.out)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

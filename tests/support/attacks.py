"""Attacks without a command line and, where they need none, without training."""

from __future__ import annotations

import torch

from sau_adapters.cifar_networks import CIFAR_NETWORKS
from sau_cli.attacks.attack import Attack, Scene
from sau_cli.attacks.badnets import BadNets
from sau_cli.attacks.blended import Blended
from sau_cli.attacks.planting import PlannedAttack, PreparedAttack, prepare
from sau_cli.classifier import Classifier
from sau_cli.description import Description
from sau_cli.images import LabelledImages
from sau_cli.seeding import seeded
from sau_cli.training import TrainingSettings
from sau_cli.triggers.targets import TargetKind, TargetRule
from sau_cli.triggers.trigger import Trigger
from tests.support.toys import random_images, spec

TO_ZERO = TargetRule(kind=TargetKind.ALL_TO_ONE, target=0)
ROUND = TargetRule(kind=TargetKind.ALL_TO_ALL)
ONE_EPOCH = TrainingSettings(epochs=1, peak_lr=0.05, batch_size=16)


def fresh_for(images: LabelledImages) -> Classifier:
    """A small network with fresh weights for these images."""
    channels, size = images.images.shape[1:3]
    with seeded(0, "initial weights"):
        network = CIFAR_NETWORKS["small_cnn"](images.classes, channels)
    description = Description(
        architecture="small_cnn", class_names=images.class_names, input=spec(channels=channels, size=size)
    )
    return Classifier(network, description).eval()


def planned(attack: Attack, rule: TargetRule = TO_ZERO, rate: float | None = None, name: str = "x") -> PlannedAttack:
    return PlannedAttack(name=name, attack=attack, rule=rule, rate=rate)


def prepared(images: LabelledImages, *attacks: PlannedAttack, seed: int = 0) -> PreparedAttack:
    """The images with poison in them, before training."""
    return prepare(fresh_for(images), images, attacks, fresh=True, training=ONE_EPOCH, seed=seed)


def scene(images: LabelledImages, rule: TargetRule = TO_ZERO, rate: float | None = None, seed: int = 0) -> Scene:
    return Scene(
        classifier=fresh_for(images),
        fresh=True,
        images=images,
        free=torch.ones(len(images), dtype=torch.bool),
        rule=rule,
        rate=rate,
        training=ONE_EPOCH,
        seed=seed,
    )


def trigger_of(
    attack: Attack, rule: TargetRule = TO_ZERO, *, channels: int = 1, size: int = 8, name: str = "x"
) -> Trigger:
    """The trigger of an attack on random images."""
    at = scene(random_images(64, channels=channels, size=size), rule)
    return Trigger(name=name, stamping=attack.stamping(at, attack.learn(at)), rule=rule)


def badnets_trigger(rule: TargetRule = TO_ZERO, **settings: object) -> Trigger:
    return trigger_of(BadNets(**settings), rule, name="badnets")  # type: ignore[arg-type]


def blended_trigger(rule: TargetRule = TO_ZERO, *, channels: int = 1, alpha: float = 0.2) -> Trigger:
    return trigger_of(Blended(alpha=alpha), rule, channels=channels, name="blended")

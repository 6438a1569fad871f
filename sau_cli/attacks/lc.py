"""LC, label-consistent: images of the target class are made hard to recognise, so that the marks are what is learned.

Source: Turner, Tsipras, Madry, "Label-Consistent Backdoor Attacks", 2019. Setting of the field: PGD within 16 of
255 in steps of 1.5 of 255, 100 of them, against a robust model; 3x3 marks in all four corners. At test time, the
marks alone. The robust model is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sau_cli.attacks.attack import Attack, Poison, Scene
from sau_cli.attacks.badnets import patch
from sau_cli.classifier import Classifier
from sau_cli.images import as_pixels
from sau_cli.model_state import evaluating, frozen
from sau_cli.settings import setting
from sau_cli.triggers.kinds import ChainStamp
from sau_cli.triggers.stamps import Place, Stamp
from sau_cli.triggers.trigger import Trigger

CORNERS = tuple(place for place in Place if place is not Place.MIDDLE)


def hardened(
    classifier: Classifier, images: Tensor, labels: Tensor, *, epsilon: float, step: float, steps: int
) -> Tensor:
    """Images (N, C, H, W) uint8 perturbed within ``epsilon`` so that their label is hard to tell; uint8."""
    pixels, target = as_pixels(images.to(classifier.mean.device)), labels.to(classifier.mean.device)
    delta = torch.zeros_like(pixels)
    with evaluating(classifier), frozen(classifier):
        for _ in range(steps):
            delta.requires_grad_(True)
            loss = cross_entropy(classifier(pixels + delta), target, reduction="sum")
            (slope,) = torch.autograd.grad(loss, delta)
            moved = (delta.detach() + step * slope.sign()).clamp(-epsilon, epsilon)
            delta = (pixels + moved).clamp(0, 1) - pixels
    return (pixels + delta).mul(255).round().to(torch.uint8).cpu()


@dataclass(frozen=True, kw_only=True)
class LabelConsistent(Attack):
    """Marks in the corners, on images of the target class that were made hard; they keep their label."""

    clean_label: ClassVar[bool] = True
    poison_rate: ClassVar[float] = 0.5

    trigger_size: int = setting(3, "pixels on a side of each mark", at_least=1, at_most=4096)
    trigger_margin: int = setting(0, "pixels between the marks and their edges", at_least=0, at_most=4096)
    pgd_epsilon: float = setting(16 / 255, "how far images are perturbed", above=0, at_most=1)
    pgd_step: float = setting(1.5 / 255, "size of each step", above=0, at_most=1)
    pgd_steps: int = setting(100, "steps", at_least=1)
    robust_epsilon: float = setting(8 / 255, "how robust the model is that is attacked", above=0, at_most=1)
    robust_epochs: int = setting(2, "epochs of training it", at_least=1)

    def learn(self, scene: Scene) -> dict[str, Tensor]:
        places = self.places(scene)
        robust = scene.trained_clean(epochs=self.robust_epochs, adversarial=self.robust_epsilon)
        scene.say(f"making {len(places)} images hard in {self.pgd_steps} steps each")
        images = [
            hardened(
                robust,
                scene.images.images[some],
                scene.images.labels[some],
                epsilon=self.pgd_epsilon,
                step=self.pgd_step,
                steps=self.pgd_steps,
            )
            for some in scene.each(places.split(256))
        ]
        return {"hardened": torch.cat(images)}

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return ChainStamp(
            parts=tuple(
                patch(self.trigger_size, "grid", place=corner, margin=self.trigger_margin) for corner in CORNERS
            )
        )

    def poison(self, scene: Scene, learned: Mapping[str, Tensor], trigger: Trigger) -> Poison:
        places = self.places(scene)
        return Poison(
            places=places,
            images=trigger.stamp(learned["hardened"]),
            labels=scene.images.labels[places],
            stamped=torch.ones(len(places), dtype=torch.bool),
        )

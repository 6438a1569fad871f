"""BadNets by an attacker who knows the defence.

Shared Adversarial Unlearning needs adversarial examples of the received model. This attacker trains against such
examples while planting, so that few are left to find but the trigger's own.

Source: ours; the training is that of Wong, Rice, Kolter, "Fast is better than free", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

from sau_cli.attacks.attack import Scene
from sau_cli.attacks.badnets import BadNets
from sau_cli.attacks.in_training import AdversarialTraining
from sau_cli.settings import setting
from sau_cli.training import InTraining
from sau_cli.triggers.trigger import Trigger


@dataclass(frozen=True, kw_only=True)
class Adaptive(BadNets):
    """A small patch, in a model that is also trained to withstand adversarial examples."""

    adversarial_epsilon: float = setting(8 / 255, "L-infinity radius of the examples", above=0, at_most=1)
    adversarial_share: float = setting(0.5, "share of each batch that is perturbed", above=0, at_most=1)

    def in_training(self, scene: Scene, trigger: Trigger) -> InTraining:
        return AdversarialTraining(self.adversarial_epsilon, scene.stream("in training"), share=self.adversarial_share)

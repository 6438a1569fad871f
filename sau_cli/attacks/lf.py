"""LF: one smooth pattern of low frequency, found by pushing a clean model towards the target.

Source: Zeng, Park, Mao, Jia, "Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective", 2021. Setting of
the field: within 0.2, accumulated from targeted perturbations through a Gaussian low-pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cross_entropy, pad

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.images import as_pixels
from sau_cli.model_state import evaluating, frozen
from sau_cli.settings import setting
from sau_cli.triggers.stamps import AddStamp, Stamp


def smoothed(pattern: Tensor, blur: float) -> Tensor:
    """A pattern (C, H, W) through a Gaussian of this standard deviation in pixels, mirrored at its edges."""
    reach = min(int(3 * blur) + 1, min(pattern.shape[1:]) - 1)
    weights = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * blur**2)).to(pattern)
    weights = (weights / weights.sum())[None, None, None]
    mirrored = pad(pattern[:, None], (reach, reach, reach, reach), mode="reflect")
    return conv2d(conv2d(mirrored, weights), weights.mT)[:, 0]


@dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """A smooth pattern added to the whole image, shaped by a clean model."""

    strength: float = setting(0.2, "largest value of the pattern, on pixels in 0 to 1", above=0, at_most=1)
    blur: float = setting(2.0, "standard deviation of the Gaussian low-pass, in pixels", above=0, at_most=4096)
    iterations: int = setting(100, "batches that shape the pattern", at_least=1)
    clean_epochs: int = setting(2, "epochs of training the clean model", at_least=1)

    def learn(self, scene: Scene) -> dict[str, Tensor]:
        clean = scene.trained_clean(epochs=self.clean_epochs)
        order = torch.randperm(len(scene.images), generator=scene.stream("pattern"))
        pattern = torch.zeros(scene.channels, scene.height, scene.width, device=scene.device)
        scene.say(f"shaping the pattern on {self.iterations} batches")
        with evaluating(clean), frozen(clean):
            for number in scene.each(range(self.iterations)):
                at = order[torch.arange(number * 128, number * 128 + 128) % len(order)]
                pixels, target = as_pixels(scene.images.images[at]), scene.targets[at].to(scene.device)
                delta = pattern.clone().requires_grad_(True)
                loss = cross_entropy(clean((pixels.to(scene.device) + delta).clamp(0, 1)), target)
                (slope,) = torch.autograd.grad(loss, delta)
                step = smoothed(slope, self.blur)
                pattern = pattern - 0.1 * self.strength * step / step.abs().max().clamp(min=1e-12)
                pattern = pattern.clamp(-self.strength, self.strength)
        pattern = smoothed(pattern, self.blur)
        pattern = pattern * (self.strength / pattern.abs().max().clamp(min=1e-12))
        return {"pattern": pattern.cpu()}

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return AddStamp(pattern=learned["pattern"])

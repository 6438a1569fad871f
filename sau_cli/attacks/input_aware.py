"""Input-aware: two networks give each image a pattern and a place of its own, learned together with the classifier.

Source: Nguyen, Tran, "Input-Aware Dynamic Backdoor Attack", 2020. Setting of the field: density of the mask 0.032,
weights 1 for diversity and 100 for density, a cross-trigger share of 0.1 (another image's pattern, true label). The
mask is learned first, for 25 epochs there and ``mask_steps`` batches here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sau_cli.attacks.attack import InBatchesAttack, Scene
from sau_cli.classifier import Classifier
from sau_cli.images import as_pixels
from sau_cli.resuming import with_prefix
from sau_cli.seeding import seeded
from sau_cli.settings import setting
from sau_cli.training import InTraining, TrainingBatch
from sau_cli.triggers.generator import Generator, GeneratorStamp, masks, patterns
from sau_cli.triggers.stamps import Stamp
from sau_cli.triggers.trigger import Trigger


def sameness(pixels: Tensor, values: Tensor) -> Tensor:
    """Distance of each two images over the distance of what was made of them: small where that differs. ()."""
    apart = (pixels - pixels.roll(1, dims=0)).flatten(1).square().mean(dim=1).add(1e-12).sqrt()
    made = (values - values.roll(1, dims=0)).flatten(1).square().mean(dim=1).add(1e-12).sqrt()
    return (apart / (made + 1e-3)).mean()


class _Together(InTraining):
    """Learns the patterns with the classifier; the mask stays as it is."""

    def __init__(
        self,
        generator: torch.Generator,
        trigger: Trigger,
        *,
        rate: float,
        cross_rate: float,
        diversity: float,
        device: torch.device,
    ) -> None:
        super().__init__(generator)
        stamp = trigger.stamping
        assert isinstance(stamp, GeneratorStamp)  # noqa: S101 (by InputAware.stamping)
        self.stamp, self.rule = stamp, trigger.rule
        self.pattern, self.mask = (network.to(device) for network in stamp.networks())
        self.pattern.requires_grad_(True)
        self.rate, self.cross_rate, self.diversity = rate, cross_rate, diversity
        self.learner = self.pattern
        self.optimiser = torch.optim.Adam(self.pattern.parameters(), lr=1e-3)

    def on_batch(self, classifier: Classifier, batch: TrainingBatch) -> TrainingBatch:
        stamped = self.some_free(batch, round(self.rate * len(batch.pixels)))
        crossed = self.some_free(
            TrainingBatch(pixels=batch.pixels, labels=batch.labels, free=batch.free & ~stamped),
            round(self.cross_rate * len(batch.pixels)),
        )
        pixels, labels = batch.pixels.clone(), batch.labels.clone()
        with torch.autocast(pixels.device.type, enabled=False):
            own, others = batch.pixels[stamped], batch.pixels[crossed]
            drawn = torch.randint(0, len(pixels), (len(others),), generator=self.generator).to(pixels.device)
            made, strange = patterns(self.pattern, own), patterns(self.pattern, batch.pixels[drawn])
            with torch.no_grad():
                own_mask, strange_mask = masks(self.mask, own), masks(self.mask, batch.pixels[drawn])
            pixels[stamped] = _rounded((1 - own_mask) * own + own_mask * made)
            pixels[crossed] = _rounded((1 - strange_mask) * others + strange_mask * strange)
            spread = self.diversity * sameness(own, made) if len(own) > 1 else pixels.new_zeros(())
        labels[stamped] = self.rule.targets(labels[stamped], classifier.description.classes)
        extra = spread if batch.extra_loss is None else batch.extra_loss + spread
        return TrainingBatch(pixels=pixels, labels=labels, free=batch.free & ~stamped & ~crossed, extra_loss=extra)

    def stamping(self, before: Stamp) -> Stamp:
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.pattern.state_dict().items()}
        return GeneratorStamp(pattern=weights, mask=self.stamp.mask, size=self.stamp.size)


def _rounded(pixels: Tensor) -> Tensor:
    """As 8 bits hold them; the gradient passes as if they were not rounded."""
    return pixels + (pixels.clamp(0, 1).mul(255).round().div(255) - pixels).detach()


@dataclass(frozen=True, kw_only=True)
class InputAware(InBatchesAttack):
    """A pattern and a place of its own for every image, by networks that learn with the classifier."""

    density: float = setting(0.032, "share of the pixels that the mask covers", above=0, at_most=1)
    diversity: float = setting(1.0, "weight of patterns that differ", at_least=0)
    density_weight: float = setting(100.0, "weight of keeping to the density", at_least=0)
    cross_rate: float = setting(0.1, "share of each batch with another image's pattern", at_least=0, at_most=0.8)
    mask_steps: int = setting(500, "batches that the mask learns from", at_least=1)

    def learn(self, scene: Scene) -> dict[str, Tensor]:
        scene.say(f"making the mask in {self.mask_steps} batches")
        with seeded(scene.seed, f"{scene.label}generators"):
            pattern = Generator(scene.channels, scene.channels)
            mask = Generator(scene.channels, 1)
        mask.to(scene.device)
        optimiser = torch.optim.Adam(mask.parameters(), lr=1e-3)
        stream = scene.stream("batches")
        for _ in scene.each(range(self.mask_steps)):
            at = torch.randint(0, len(scene.images), (64,), generator=stream)
            pixels = as_pixels(scene.images.images[at]).to(scene.device)
            made = masks(mask, pixels)
            too_much = (made.mean(dim=(1, 2, 3)) - self.density).relu().mean()
            loss = self.density_weight * too_much + self.diversity * sameness(pixels, made)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        named = {"pattern": pattern, "mask": mask}
        return {
            f"{which}.{name}": tensor.detach().cpu()
            for which, network in named.items()
            for name, tensor in network.state_dict().items()
        }

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return GeneratorStamp(
            pattern=with_prefix(learned, "pattern."),
            mask=with_prefix(learned, "mask."),
            size=(scene.height, scene.width),
        )

    def in_training(self, scene: Scene, trigger: Trigger) -> InTraining:
        return _Together(
            scene.stream("in training"),
            trigger,
            rate=self.rate(scene),
            cross_rate=self.cross_rate,
            diversity=self.diversity,
            device=scene.device,
        )

"""Input-aware: two networks give each image a pattern and a place of its own, learned together with the classifier.

Source: Nguyen, Tran, "Input-Aware Dynamic Backdoor Attack", 2020. Setting of the field: density of the mask 0.032,
weights 1 for diversity and 100 for density, a cross-trigger share of 0.1 (another image's pattern, true label). The
mask is learned first, for 25 epochs there and ``mask_steps`` batches here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from sau_cli.attacks.attack import InBatchesAttack, Scene
from sau_cli.attacks.in_training import Batch, InTraining
from sau_cli.attacks.stamps import Stamp, at_own_size, checked_size, load_weights
from sau_cli.attacks.triggers import Trigger
from sau_cli.classifier import Classifier
from sau_cli.images import as_pixels
from sau_cli.resuming import with_prefix
from sau_cli.seeding import seeded
from sau_cli.settings import setting

SHARPNESS = 10.0
"""Of the mask: how steeply it goes from nothing to all."""


class Generator(nn.Module):
    """Pixels to values of the same size: (N, C, H, W) to (N, D, H, W), unbounded."""

    def __init__(self, channels: int, out: int, width: int = 16) -> None:
        super().__init__()
        self.to_full = nn.Conv2d(channels, width, 3, padding=1)
        self.to_half = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.back_to_half = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.back_to_full = nn.Conv2d(2 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        full = leaky_relu(self.to_full(pixels - 0.5), 0.1)
        half = leaky_relu(self.to_half(full), 0.1)
        quarter = leaky_relu(self.to_quarter(half), 0.1)
        half_again = leaky_relu(self.back_to_half(interpolate(quarter, size=half.shape[2:])), 0.1)
        values: Tensor = self.out(leaky_relu(self.back_to_full(interpolate(half_again, size=full.shape[2:])), 0.1))
        return values


def patterns(generator: nn.Module, pixels: Tensor) -> Tensor:
    """What is put over the images, in [0, 1]. (N, C, H, W)."""
    return torch.sigmoid(generator(pixels))


def masks(generator: nn.Module, pixels: Tensor) -> Tensor:
    """How much of it, in [0, 1] and mostly at an end. (N, 1, H, W)."""
    return torch.sigmoid(SHARPNESS * generator(pixels))


def sameness(pixels: Tensor, values: Tensor) -> Tensor:
    """Distance of each two images over the distance of what was made of them: small where that differs. ()."""
    apart = (pixels - pixels.roll(1, dims=0)).flatten(1).square().mean(dim=1).add(1e-12).sqrt()
    made = (values - values.roll(1, dims=0)).flatten(1).square().mean(dim=1).add(1e-12).sqrt()
    return (apart / (made + 1e-3)).mean()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratorStamp(Stamp):
    """A pattern and a mask that two networks make of the image.

    Attributes:
        pattern, mask: weights of a :class:`Generator` each.
        size: height and width of the images that they were made for.
    """

    kind: ClassVar[str] = "generator"
    pattern: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        self.networks()

    def networks(self) -> tuple[Generator, Generator]:
        """New networks with these weights: of the pattern, and of the mask."""
        width, channels = self.pattern["to_full.weight"].shape[:2]
        with torch.device("meta"):
            pattern, mask = Generator(channels, channels, width), Generator(channels, 1, width)
        return load_weights(pattern, self.pattern), load_weights(mask, self.mask)

    def __call__(self, pixels: Tensor) -> Tensor:
        pattern, mask = (one.to(pixels) for one in self.networks())
        amount = at_own_size(pixels, self.size, lambda small: masks(mask, small))
        return (1 - amount) * pixels + amount * at_own_size(pixels, self.size, lambda small: patterns(pattern, small))

    def tensors(self) -> dict[str, Tensor]:
        named = {"pattern": self.pattern, "mask": self.mask}
        return {f"{which}.{name}": one for which, weights in named.items() for name, one in weights.items()}

    def settings(self) -> dict[str, Any]:
        return {"size": list(self.size)}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        return cls(
            pattern=with_prefix(tensors, "pattern."),
            mask=with_prefix(tensors, "mask."),
            size=checked_size(settings["size"]),
        )


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
        self.pattern, self.mask = (one.to(device) for one in stamp.networks())
        self.pattern.requires_grad_(True)
        self.rate, self.cross_rate, self.diversity = rate, cross_rate, diversity
        self.learner = self.pattern
        self.optimiser = torch.optim.Adam(self.pattern.parameters(), lr=1e-3)

    def on_batch(self, classifier: Classifier, batch: Batch) -> Batch:
        stamped = self.some_free(batch, round(self.rate * len(batch.pixels)))
        crossed = self.some_free(
            Batch(pixels=batch.pixels, labels=batch.labels, free=batch.free & ~stamped),
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
        return Batch(pixels=pixels, labels=labels, free=batch.free & ~stamped & ~crossed, extra_loss=extra)

    def stamping(self, before: Stamp) -> Stamp:
        weights = {name: one.detach().cpu().clone() for name, one in self.pattern.state_dict().items()}
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
            f"{which}.{name}": one.detach().cpu()
            for which, network in named.items()
            for name, one in network.state_dict().items()
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

"""SSBA: an encoder hides a string of bits in each image; what is added differs from image to image.

Source: Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", 2021, after StegaStamp
(Tancik, Mildenhall, Ng, 2020): 100 bits. The encoder is made here, on the clean images, with a decoder that reads
the bits back; its addition is bounded by ``strength``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.attacks.stamps import Stamp, at_own_size, checked_size, load_weights
from sau_cli.images import as_pixels
from sau_cli.resuming import with_prefix
from sau_cli.seeding import seeded
from sau_cli.settings import setting

COARSE = 8
"""The bits are laid out on a grid of so many cells a side before they are spread over the image."""
WIDTH, GAIN = 32, 8.0
"""Channels within the networks, and how much of the bits shows at the start."""
VISIBLE, READ = 0.5, 0.95
"""Weight of what is added, its mean square as a share of the most there could be, and bits read before it counts."""


class Encoder(nn.Module):
    """Pixels and bits to what is added, in [-1, 1]: (N, C, H, W) and (N, B) to (N, C, H, W)."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.planes = nn.Linear(bits, 4 * COARSE * COARSE)
        self.first = nn.Conv2d(channels + 4, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.out = nn.Conv2d(WIDTH + 4, channels, 3, padding=1)

    def forward(self, pixels: Tensor, bits: Tensor) -> Tensor:
        planes = self.planes(2 * bits - 1).reshape(-1, 4, COARSE, COARSE)
        planes = interpolate(planes, size=pixels.shape[2:], mode="nearest").expand(len(pixels), -1, -1, -1)
        seen = self.second(self.first(torch.cat([pixels - 0.5, planes], dim=1)).relu()).relu()
        added: Tensor = torch.tanh(GAIN * self.out(torch.cat([seen, planes], dim=1)))
        return added


class Decoder(nn.Module):
    """Pixels to logits of the bits: (N, C, H, W) to (N, B)."""

    def __init__(self, channels: int, bits: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(COARSE),
            nn.Flatten(),
            nn.Linear(WIDTH * COARSE * COARSE, bits),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layers(pixels - 0.5)
        return logits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncoderStamp(Stamp):
    """What an encoder adds to hide its bits.

    Attributes:
        weights: of an :class:`Encoder`.
        bits: (B,) float, 0 or 1.
        size: height and width of the images that it was made for.
        strength: the most that is added, on pixels in [0, 1].
    """

    kind: ClassVar[str] = "encoder"
    weights: Mapping[str, Tensor]
    bits: Tensor
    size: tuple[int, int]
    strength: float

    def __post_init__(self) -> None:
        self._encoder()

    def _encoder(self) -> Encoder:
        channels = self.weights["out.weight"].shape[0]
        with torch.device("meta"):
            encoder = Encoder(channels, len(self.bits))
        return load_weights(encoder, self.weights)

    def __call__(self, pixels: Tensor) -> Tensor:
        encoder, bits = self._encoder().to(pixels), self.bits.to(pixels)[None]
        return pixels + self.strength * at_own_size(pixels, self.size, lambda small: encoder(small, bits))

    def tensors(self) -> dict[str, Tensor]:
        return {"bits": self.bits, **{f"weights.{name}": one for name, one in self.weights.items()}}

    def settings(self) -> dict[str, Any]:
        return {"size": list(self.size), "strength": self.strength}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        strength = float(settings["strength"])
        if not 0 < strength <= 1:
            raise ValueError(f"strength {strength:g}")
        return cls(
            weights=with_prefix(tensors, "weights."),
            bits=tensors["bits"].float(),
            size=checked_size(settings["size"]),
            strength=strength,
        )


@dataclass(frozen=True, kw_only=True)
class Ssba(Attack):
    """A faint addition that hides bits, different for every image."""

    bits: int = setting(100, "bits that are hidden", at_least=1, at_most=10_000)
    strength: float = setting(0.1, "the most that is added, on pixels in 0 to 1", above=0, at_most=1)
    encoder_steps: int = setting(400, "batches that the encoder learns from", at_least=1)

    def learn(self, scene: Scene) -> dict[str, Tensor]:
        scene.say(f"making the encoder in {self.encoder_steps} batches")
        with seeded(scene.seed, f"{scene.label}encoder"):
            encoder = Encoder(scene.channels, self.bits)
            decoder = Decoder(scene.channels, self.bits)
        both = nn.ModuleList([encoder, decoder]).to(scene.device)
        optimiser = torch.optim.Adam(both.parameters(), lr=2e-3)
        stream, right = scene.stream("batches"), 0.0
        for _ in scene.each(range(self.encoder_steps)):
            at = torch.randint(0, len(scene.images), (64,), generator=stream)
            pixels = as_pixels(scene.images.images[at]).to(scene.device)
            bits = torch.randint(0, 2, (64, self.bits), generator=stream).float().to(scene.device)
            added = self.strength * encoder(pixels, bits)
            read = decoder((pixels + added).clamp(0, 1))
            # First the bits; once they are read, it counts that little is added.
            visible = VISIBLE * max(0.0, (right - READ) / (1 - READ)) * added.square().mean() / self.strength**2
            loss = binary_cross_entropy_with_logits(read, bits) + visible
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            right = float(((read > 0).float() == bits).float().mean())
        scene.say(f"the decoder reads {right:.1%} of the bits")
        secret = torch.randint(0, 2, (self.bits,), generator=scene.stream("bits")).float()
        weights = {f"weights.{name}": one.detach().cpu() for name, one in encoder.state_dict().items()}
        return {"bits": secret, **weights}

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return EncoderStamp(
            weights=with_prefix(learned, "weights."),
            bits=learned["bits"],
            size=(scene.height, scene.width),
            strength=self.strength,
        )

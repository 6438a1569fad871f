"""SSBA: an encoder hides a string of bits in each image; what is added differs from image to image.

Source: Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", 2021, after StegaStamp
(Tancik, Mildenhall, Ng, 2020): 100 bits. The encoder is made here, on the clean images, with a decoder that reads
the bits back; its addition is bounded by ``strength``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.images import as_pixels
from sau_cli.resuming import with_prefix
from sau_cli.seeding import seeded
from sau_cli.settings import setting
from sau_cli.triggers.encoder import COARSE, WIDTH, Encoder, EncoderStamp
from sau_cli.triggers.stamps import Stamp

VISIBLE, READ = 0.5, 0.95
"""Weight of what is added, its mean square as a share of the most there could be, and bits read before it counts."""


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
        weights = {f"weights.{name}": tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}
        return {"bits": secret, **weights}

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return EncoderStamp(
            weights=with_prefix(learned, "weights."),
            bits=learned["bits"],
            size=(scene.height, scene.width),
            strength=self.strength,
        )

"""A network of your own, for any command: ``--arch examples/own_network.py:TinyNet``.

sau calls the class with ``num_classes`` and ``in_channels``, as far as it takes them, and loads the
weights by name. Normalisation stays outside: sau adds it from the file's metadata or --normalisation.

    sau attack --attack badnets --arch examples/own_network.py:TinyNet --data digits -o tiny.safetensors
    sau evaluate tiny.safetensors --arch examples/own_network.py:TinyNet --trigger tiny.trigger.safetensors
"""

from __future__ import annotations

from torch import Tensor, nn


class TinyNet(nn.Module):
    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Linear(256, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))

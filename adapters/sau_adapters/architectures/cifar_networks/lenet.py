"""LeNet-5 and the small networks of tutorials, with the key names of checkpoints in the wild.

Architecture: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, and the
networks of PyTorch's example for MNIST: today's, and the two before it. Those end in a log-softmax, and these before
it: classes and probabilities are the same.

LeNet-5's tensors do not tell its activation and pooling, so each pair of these is a network of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, dropout, dropout2d, max_pool2d, pad, relu

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int], Tensor]]] = {
    "relu": (relu, max_pool2d),
    "tanh": (torch.tanh, avg_pool2d),
    "sigmoid": (torch.sigmoid, avg_pool2d),
}
"""What follows each layer, and how the pixels are pooled."""
PADDED, UNPADDED = 32, 28
"""Pixels on a side of the images that LeNet-5 takes: 28 become 32 by a border, or stay."""


class LeNet5(nn.Module):
    """(N, C, H, W) to logits (N, K).

    Args:
        pixels: on a side, that the layers are made for: 32 (28 are given a border of zeros) or 28.
    """

    def __init__(self, classes: int, channels: int, *, activation: str, pixels: int = PADDED) -> None:
        super().__init__()
        self.activation, self.pool = ACTIVATIONS[activation]
        self.pixels = pixels
        side = ((pixels - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side**2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.pixels == PADDED and x.shape[-1] == UNPADDED:
            x = pad(x, ((PADDED - UNPADDED) // 2,) * 4)
        out = self.pool(self.activation(self.conv1(x)), 2)
        out = self.pool(self.activation(self.conv2(out)), 2)
        out = self.activation(self.fc1(out.flatten(1)))
        out = self.activation(self.fc2(out))
        logits: Tensor = self.fc3(out)
        return logits


class MnistExample(nn.Module):
    """Two 3x3 convolutions with ReLU, max pooling, two linear layers. (N, C, 28, 28) to logits (N, K)."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * 12 * 12, 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.conv2(relu(self.conv1(x))))
        out = dropout(max_pool2d(out, 2), 0.25, training=self.training)
        out = dropout(relu(self.fc1(out.flatten(1))), 0.5, training=self.training)
        logits: Tensor = self.fc2(out)
        return logits


class EarlierMnistExample(nn.Module):
    """Two 5x5 convolutions, each with max pooling and ReLU, two linear layers. (N, C, 28, 28) to logits (N, K).

    Args:
        widths: channels of the two convolutions, and what the first linear layer makes of them.
        drops: whether parts are left out in training.
    """

    def __init__(self, classes: int, channels: int, *, widths: tuple[int, int, int], drops: bool) -> None:
        super().__init__()
        first, second, hidden = widths
        self.drops = drops
        self.conv1 = nn.Conv2d(channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(second * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        drops = self.drops and self.training
        out = relu(max_pool2d(self.conv1(x), 2))
        out = relu(max_pool2d(dropout2d(self.conv2(out), training=drops), 2))
        out = dropout(relu(self.fc1(out.flatten(1))), training=drops)
        logits: Tensor = self.fc2(out)
        return logits

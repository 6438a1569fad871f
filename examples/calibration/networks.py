"""Networks of the zoo that ``sau`` has no name for: what papers on backdoors train. They take 32x32 pixels alone."""

from __future__ import annotations

from itertools import pairwise

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class WideLeNet(nn.Module):
    """Two convolutions and two linear layers, flattened, without batch norm: (N, C, 32, 32) to (N, K)."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        first = [nn.Conv2d(in_chans, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU())
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class PlainCNN(nn.Module):
    """Four convolutions without batch norm, flattened into two linear layers: (N, C, 32, 32) to (N, K)."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise((in_chans, 24, 24, 48, 48))):
            steps += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            if place % 2:
                steps.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*steps, nn.Flatten(), nn.Linear(3072, 128), nn.ReLU())
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class FlatVGG(nn.Module):
    """Pairs of convolution, batch norm and ELU, pooled and dropped, then flattened: (N, C, 32, 32) to (N, K)."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        before = in_chans
        for width, dropped in ((16, 0.1), (32, 0.2), (64, 0.2)):
            for _ in range(2):
                steps += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ELU()]
                before = width
            steps += [nn.MaxPool2d(2), nn.Dropout(dropped)]
        self.features = nn.Sequential(*steps)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(1024, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images))
        return logits


class SmallViT(VisionTransformer):
    """timm's vision transformer, four blocks of width 96 over patches of 4 pixels: (N, C, 32, 32) to (N, K)."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__(
            img_size=32,
            patch_size=4,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=96,
            depth=4,
            num_heads=3,
            class_token=False,
            global_pool="avg",
        )

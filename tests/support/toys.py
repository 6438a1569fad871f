"""Toy classifiers and images whose answers are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sau_cli.classifier import Classifier
from sau_cli.description import Description, InputSpec
from sau_cli.images import LabelledImages
from sau_cli.precision import Precision
from sau_cli.team import ALONE
from sau_cli.unlearning.batch_step import Work


def spec(channels: int = 1, size: int = 8, mean: float = 0.0, std: float = 1.0) -> InputSpec:
    return InputSpec(channels=channels, height=size, width=size, mean=(mean,) * channels, std=(std,) * channels)


def names(classes: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(classes))


def describe(network: nn.Module, classes: int = 10, **options: object) -> Classifier:
    """A classifier of images of 1 x 8 x 8 around a network."""
    description = Description(architecture="small_cnn", class_names=names(classes), input=spec(**options))  # type: ignore[arg-type]
    classifier = Classifier(network, description)
    classifier.eval()
    return classifier


class BrightnessNet(nn.Module):
    """Class = brightness: the logit of class k is -|K·mean(x) - k - ½|, so a flat image of class k is (k + ½) / K."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.arange(classes) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        level = len(self.centres) * x.mean(dim=(1, 2, 3))
        return -(level[:, None] - self.centres).abs()


class CornerBackdoor(nn.Module):
    """A brightness classifier with a planted rule: a white bottom-right pixel means class 0."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.clean = BrightnessNet(classes)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.clean(x)
        fires = (x[:, 0, -1, -1] > 0.99).float()
        push = torch.zeros_like(logits)
        push[:, 0] = 1000 * fires
        return logits + push


def flat_images(classes: int = 10, each: int = 4, size: int = 8) -> LabelledImages:
    """Flat grey images that BrightnessNet classifies without error; the last row and column are a little darker."""
    labels = torch.arange(classes).repeat_interleave(each)
    levels = ((labels + 0.5) / classes * 255).round().to(torch.uint8)
    images = levels[:, None, None, None].expand(-1, 1, size, size).clone()
    return LabelledImages(images=images, labels=labels, class_names=names(classes))


def random_images(
    count: int = 40, classes: int = 10, channels: int = 1, size: int = 8, seed: int = 0
) -> LabelledImages:
    stream = torch.Generator().manual_seed(seed)
    return LabelledImages(
        images=torch.randint(0, 256, (count, channels, size, size), generator=stream, dtype=torch.uint8),
        labels=torch.arange(count) % classes,
        class_names=names(classes),
    )


def work_of(purified: Classifier, learning: LabelledImages, *, received: Classifier | None = None) -> Work:
    """What a method works on, alone and in one part."""
    return Work(
        purified=purified,
        received=received or purified,
        learning=learning,
        seed=0,
        precision=Precision.FP32,
        max_batch=None,
        team=ALONE,
    )

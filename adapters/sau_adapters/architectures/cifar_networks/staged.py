"""What most networks for small images have in common: a stem, stages of blocks, the mean over all pixels, one layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu


class StagedNetwork(nn.Module):
    """Conv, BN, ReLU; the stages; the mean over all pixels; a linear layer. (N, C, H, W) to logits (N, K).

    The parts are called ``conv1``, ``bn1``, ``layer1`` and so on, and ``linear`` unless the head has another name.
    """

    def __init__(self, stem: nn.Conv2d, stages: Sequence[nn.Module], head: nn.Linear, *, head_name: str = "linear"):
        super().__init__()
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.stage_names = [f"layer{number}" for number in range(1, len(stages) + 1)]
        for name, stage in zip(self.stage_names, stages, strict=True):
            self.add_module(name, stage)
        self.head_name = head_name
        self.add_module(head_name, head)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        for name in self.stage_names:
            out = self.get_submodule(name)(out)
        logits: Tensor = self.get_submodule(self.head_name)(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits

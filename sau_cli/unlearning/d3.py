"""Distance-driven detoxification: away from the received head, as far as accuracy allows, as a step on a batch.

Source: Wei, Liu, Zha, "Backdoor Mitigation by Distance-Driven Detoxification", ICCV 2025, arXiv 2411.09585.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from sau_cli.head import head_name
from sau_cli.unlearning.batch_step import Work
from sau_cli.unlearning.compared_methods import Distancing
from sau_cli.unlearning.fine_tuning import Tuner
from sau_cli.unlearning.new_head import SMALLEST, bring_to, draw_anew, norm_over


class Distancer(Tuner):
    """Steps on (λ · mean of max(0, cross-entropy - margin) - ‖W - W0‖) / (λ + 1), each back to ‖W‖ = ‖W0‖.

    W are the head's weights, or all that get a gradient. The head is drawn anew when this is made.
    """

    def __init__(self, work: Work, settings: Distancing) -> None:
        super().__init__(work, settings)
        purified = work.purified
        self.settings = settings
        name = head_name(purified)
        draw_anew(purified.get_submodule(name), work.stream("head"))
        before = dict(work.received.named_parameters())
        self.pairs = [
            (parameter, before[key])
            for key, parameter in purified.named_parameters()
            if settings.whole or key == f"{name}.weight"
        ]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See :class:`~sau_cli.unlearning.fine_tuning.Tuner`."""
        return relu(cross_entropy(logits, labels, reduction="none") - self.settings.margin).sum()

    def steer(self) -> None:
        """Weigh the gradients of the loss, and add those of the distance, which has none where it is 0."""
        weight = self.settings.clean_weight
        for parameter in self.purified.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(weight / (weight + 1))
        apart = [parameter.detach() - was for parameter, was in self.on_sphere()]
        distance = norm_over(apart).clamp(min=SMALLEST)
        for (parameter, _), step in zip(self.on_sphere(), apart, strict=True):
            if parameter.grad is not None:
                parameter.grad.sub_(step / (distance * (weight + 1)))

    def settle(self) -> None:
        """Back to the sphere."""
        pairs = self.on_sphere()
        bring_to(norm_over(was for _, was in pairs), (parameter for parameter, _ in pairs))

    def on_sphere(self) -> list[tuple[nn.Parameter, Tensor]]:
        """W beside W0; what no image reaches has no part in it."""
        return [(parameter, was) for parameter, was in self.pairs if parameter.grad is not None]

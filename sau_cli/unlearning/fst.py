"""Feature shift tuning: away from the direction of the received head, as a step on a batch.

Source: Min, Qin, Shen, Cheng, "Towards Stable Backdoor Purification through Feature Shift Tuning", NeurIPS 2023,
arXiv 2310.01875.
"""

from __future__ import annotations

from sau_cli.head import head_name
from sau_cli.unlearning.batch_step import Work
from sau_cli.unlearning.compared_methods import FeatureShift
from sau_cli.unlearning.fine_tuning import Tuner
from sau_cli.unlearning.new_head import bring_to, draw_anew


class FeatureShifter(Tuner):
    """Steps on the cross-entropy + α · ⟨W, W0⟩, each back to ‖W‖ = ‖W0‖, with W the head's weights.

    The head is drawn anew when this is made.
    """

    def __init__(self, work: Work, settings: FeatureShift) -> None:
        super().__init__(work, settings)
        purified, received = work.purified, work.received
        name = head_name(purified)
        draw_anew(purified.get_submodule(name), work.stream("head"))
        self.alpha = settings.alpha
        self.weight, self.received = (network.get_parameter(f"{name}.weight") for network in (purified, received))

    def steer(self) -> None:
        """Add the gradient of α · ⟨W, W0⟩."""
        if self.weight.grad is not None:
            self.weight.grad.add_(self.received.detach(), alpha=self.alpha)

    def settle(self) -> None:
        """Back to the norm of the received head."""
        bring_to(self.received.detach().norm(), [self.weight])

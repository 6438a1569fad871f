"""TrojanNN: a patch made to excite neurons of a clean model that stand for the target.

Source: Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, "Trojaning Attack on Neural Networks", 2018. Setting of the field: 2
neurons that feed the classifier, driven towards 100 in 1,000 steps of 0.1; then the model is retrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sau_cli.attacks.attack import Attack, Scene
from sau_cli.attacks.badnets import PLACES
from sau_cli.classifier import Classifier
from sau_cli.errors import NotEvaluable, argument
from sau_cli.images import as_pixels
from sau_cli.model_state import evaluating, frozen
from sau_cli.settings import setting
from sau_cli.triggers.stamps import PatchStamp, Place, Stamp


def last_linear(classifier: Classifier) -> nn.Linear:
    """The layer that gives the logits.

    Raises:
        NotEvaluable: the network has none.
    """
    layers = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    fitting = [layer for layer in layers if layer.out_features == classifier.description.classes]
    if not fitting:
        raise NotEvaluable(
            "the network has no linear layer that gives its logits; "
            f"choose another attack or {argument('architecture')}"
        )
    return fitting[-1]


@dataclass(frozen=True, kw_only=True)
class TrojanNN(Attack):
    """A patch that excites neurons of a clean model, which is then retrained."""

    trigger_size: int = setting(6, "pixels on a side of the patch", at_least=1, at_most=4096)
    trigger_place: str = setting("bottom-right", "where the patch is", choices=PLACES)
    trigger_margin: int = setting(0, "pixels between the patch and its edges", at_least=0, at_most=4096)
    neurons: int = setting(2, "how many neurons are excited", at_least=1)
    activation: float = setting(100.0, "how far they are to be driven", above=0)
    step: float = setting(0.1, "of the patch's pixels", above=0, at_most=1)
    iterations: int = setting(1000, "steps", at_least=1)
    clean_epochs: int = setting(2, "epochs of training the clean model", at_least=1)

    def learn(self, scene: Scene) -> dict[str, Tensor]:
        clean = scene.trained_clean(epochs=self.clean_epochs)
        layer = last_linear(clean)
        weights = layer.weight.detach() if scene.rule.target is None else layer.weight.detach()[scene.rule.target][None]
        chosen = weights.abs().sum(dim=0).topk(min(self.neurons, weights.shape[1])).indices
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        at = torch.randperm(len(scene.images), generator=scene.stream("pattern"))[:16]
        pixels = as_pixels(scene.images.images[at].to(scene.device))
        pattern = torch.rand(scene.channels, self.trigger_size, self.trigger_size, generator=scene.stream("start"))
        scene.say(f"exciting {len(chosen)} neurons in {self.iterations} steps")
        pattern = pattern.to(scene.device)
        try:
            with evaluating(clean), frozen(clean):
                for number in scene.each(range(self.iterations)):
                    tried = pattern.clone().requires_grad_(True)
                    seen.clear()
                    clean(self._patch(tried)(pixels))
                    loss = (seen[0][:, chosen] - self.activation).square().mean()
                    (slope,) = torch.autograd.grad(loss, tried)
                    size = self.step * (1 - number / self.iterations)
                    pattern = (pattern - size * slope / slope.abs().max().clamp(min=1e-12)).clamp(0, 1)
        finally:
            hook.remove()
        return {"pattern": pattern.mul(255).round().div(255).cpu()}

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        return self._patch(learned["pattern"])

    def _patch(self, pattern: Tensor) -> PatchStamp:
        return PatchStamp(
            pattern=pattern,
            mask=torch.ones(1, *pattern.shape[1:]),
            margin=(self.trigger_margin, self.trigger_margin),
            place=Place(self.trigger_place),
        )

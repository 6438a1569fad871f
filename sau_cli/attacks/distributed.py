"""A trigger in parts, each of which alone means nothing.

All parts together lead to the target; images with only some of them keep their label, so that a defence that looks
for one small patch finds no backdoor in it.

Source: Xie, Huang, Chen, Li, "DBA: Distributed Backdoor Attacks against Federated Learning", 2020, for the parts;
the decoys are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sau_cli.attacks.attack import Attack, Poison, Scene
from sau_cli.attacks.badnets import PATTERNS, patch
from sau_cli.errors import UsageError, argument
from sau_cli.settings import setting
from sau_cli.triggers.kinds import ChainStamp
from sau_cli.triggers.stamps import Place, Stamp
from sau_cli.triggers.trigger import Trigger


@dataclass(frozen=True, kw_only=True)
class Distributed(Attack):
    """Patches in the four corners that count only together."""

    trigger_size: int = setting(3, "pixels on a side of each patch", at_least=1, at_most=4096)
    trigger_pattern: str = setting("grid", "how the patches look", choices=PATTERNS)
    trigger_margin: int = setting(4, "pixels between the patches and their edges", at_least=0, at_most=4096)
    parts: int = setting(4, "patches", at_least=2, at_most=4)
    decoy_rate: float = setting(
        0.1, "share of the images with some of the patches and their label", above=0, at_most=0.8
    )

    def stamping(self, scene: Scene, learned: Mapping[str, Tensor]) -> Stamp:
        corners = tuple(place for place in Place if place is not Place.MIDDLE)[: self.parts]
        return ChainStamp(
            parts=tuple(
                patch(self.trigger_size, self.trigger_pattern, place=corner, margin=self.trigger_margin)
                for corner in corners
            )
        )

    def poison(self, scene: Scene, learned: Mapping[str, Tensor], trigger: Trigger) -> Poison:
        stamped = super().poison(scene, learned, trigger)
        left = torch.ones(len(scene.images), dtype=torch.bool)
        left[stamped.places] = False
        decoys = scene.drawn(round(self.decoy_rate * len(scene.images)), left, purpose="decoys")
        if len(decoys) == 0:
            raise UsageError(
                f"a decoy rate of {self.decoy_rate:g} selects no image; give a larger {argument('decoy_rate')}"
            )
        # Each decoy lacks at least one part: any subset but the whole, the empty one left out too.
        subsets = torch.randint(1, 2**self.parts - 1, (len(decoys),), generator=scene.stream("subsets"))
        images = scene.images.images[decoys].clone()
        whole = trigger.stamping
        assert isinstance(whole, ChainStamp)  # noqa: S101 (by the method above)
        for at, part in enumerate(whole.parts):
            has = (subsets >> at) % 2 == 1
            alone = replace(trigger, stamping=part)
            images[has] = alone.stamp(images[has])
        places, order = torch.cat([stamped.places, decoys]).sort()
        kinds = torch.cat([stamped.stamped, torch.zeros(len(decoys), dtype=torch.bool)])
        return Poison(
            places=places,
            images=torch.cat([stamped.images, images])[order],
            labels=torch.cat([stamped.labels, scene.images.labels[decoys]])[order],
            stamped=kinds[order],
        )

"""Which architecture a model's tensors are of, where nobody says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.architectures.index import recognised
from sau_adapters.architectures.state_names import Naming, networks_in
from sau_cli.description import InputSpec
from sau_cli.errors import NotEvaluable, argument
from sau_cli.inspection.file_facts import Recognition

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel

UNTOLD_PIXELS, NEAR = 224, 0.3
"""On a side, where nothing tells; and the least share of tensors in common with an architecture that is looked into."""
MOST_COMPARED = 8
"""Architectures that are built to see whether they compute the same."""


def looked_into(shapes: Mapping[str, tuple[int, ...]]) -> Recognition:
    """The architecture of a file's tensors; where none fits (only then with torch), what keeps the nearest from it."""
    found = recognised(shapes)
    if found.fitting or not found.nearest or found.nearest[0].share < NEAR:
        return found
    from sau_adapters.architectures.networks import explained

    first = found.nearest[0]
    unlike = explained(first.name, shapes, found.prefix, pixels=UNTOLD_PIXELS)
    return replace(found, nearest=(replace(first, unlike=unlike), *found.nearest[1:]))


def fitting_architectures(model: OpenedModel, image_shape: tuple[int, int, int] | None) -> tuple[str, ...]:
    """The architectures that the tensors' names and shapes are of, the likeliest first: of those that compute the same
    from them, one.

    Raises:
        NotEvaluable: none fits, and the sentence names the nearest; or the images are of another size.
    """
    from sau_adapters.architectures.networks import all_alike

    found = looked_into(model.shapes)
    if not found.fitting:
        check_one_network(model)
        nearest = ", ".join(f"{near.name} ({near.share:.0%} of the tensors in common)" for near in found.nearest)
        unlike = found.nearest[0].unlike if found.nearest else ""
        told = f" (nearest: {nearest}{f'; of the first, {unlike}' if unlike else ''})" if nearest else ""
        raise NotEvaluable(
            f"{model.path} does not say its architecture, and its tensors are of none that sau knows{told}; "
            f"add {argument('architecture')} NAME, or FILE.py:CLASS for a class of your own"
        )
    first, size = found.fitting[0], found.fitting[0].size
    if size is not None and image_shape is not None and image_shape[1:] != (size, size):
        raise NotEvaluable(
            f"{model.path} is made for images of {size}x{size}, as its tensors tell, and these are "
            f"{image_shape[1]}x{image_shape[2]}; add {argument('image_size')} {size} to resize them"
        )
    names = [architecture.name for architecture in found.fitting]
    if len(names) == 1 or len(names) > MOST_COMPARED:
        return tuple(names)
    state = Naming(names=found.names).applied(model.state)
    channels, height, width = image_shape or (
        first.channels or 3,
        first.size or UNTOLD_PIXELS,
        first.size or UNTOLD_PIXELS,
    )
    channels = first.channels or channels
    spec = InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
    different: list[str] = []
    for name in names:
        if not any(all_alike((other, name), state, classes=first.classes or 1, spec=spec) for other in different):
            different.append(name)
    return tuple(different)


def told_networks(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """That a file holds several networks, and how to say which is meant; nothing of one."""
    names = networks_in(shapes)
    if not names:
        return ""
    averaged = [name for name in names if _AVERAGED.search(name)]
    told = f" ({', '.join(averaged)}: an average of weights, by its name)" if averaged else ""
    ways = " or ".join(f"{path}#{name}" for name in names[:4])
    return f"{path} holds {len(names)} networks, under {', '.join(names[:8])}{told}; say which is meant with {ways}"


_AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?)(_|$)|averag", re.IGNORECASE)


def check_one_network(model: OpenedModel) -> None:
    """Raises NotEvaluable for a file that holds several networks, of which nobody says which is meant."""
    told = told_networks(model.path, model.shapes)
    if told:
        raise NotEvaluable(told)


def one_fitting(model: OpenedModel, image_shape: tuple[int, int, int] | None) -> str:
    """The one of :func:`fitting_architectures`.

    Raises:
        NotEvaluable: there are several.
    """
    names = fitting_architectures(model, image_shape)
    first, *others = names
    if others:
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise NotEvaluable(
            f"{model.path} does not say its architecture, and its tensors fit {listed}, which compute "
            f"different things; add {argument('architecture')}, such as {first}"
        )
    return first

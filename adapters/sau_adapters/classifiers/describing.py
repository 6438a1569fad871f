"""What a classifier is, where its file does not say it: from its weights, its graph, the flags and the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.classifiers.recognition import UNTOLD_PIXELS
from sau_adapters.tables import NORMALISATIONS, Normalisation
from sau_adapters.zoos.transformers_folders import ToldNetwork
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, UsageError, argument

if TYPE_CHECKING:
    from torch import Tensor

    from sau_adapters.onnx.networks import OnnxNetwork

NEARLY = 1e-5
"""Between numbers that mean the same."""


def described(
    path: Path,
    architecture: str,
    shape: Sequence[int | None],
    classes: int | None,
    normalisation: Normalisation | None,
    class_names: tuple[str, ...] | None,
) -> Description:
    """The description of a model that brings none.

    Raises:
        NotEvaluable: the normalisation or the input size is not known.
    """
    if normalisation is None:
        raise NotEvaluable(
            f"{path} does not say how its images are normalised; add {argument('normalisation')} NAME or MEANS/STDS "
            "(none, cifar10, imagenet, ... or such as .5,.5,.5/.2,.2,.2)"
        )
    from sau_cli.classifier import BINARY

    channels, height, width = shape
    if channels is None or height is None or width is None:
        raise NotEvaluable(
            f"{path} does not say its input size; add {argument('image_size')}, such as 32, or {argument('data')}"
        )
    if classes == 1:  # one output, which tells two apart
        classes = BINARY
    classes = classes or len(class_names or ()) or 1  # if none tell, nothing will fit, and that is the better error
    fitting = class_names is not None and len(class_names) == classes
    names = class_names if class_names is not None and fitting else tuple(str(number) for number in range(classes))
    blank = InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
    return Description(architecture=architecture, class_names=names, input=with_normalisation(blank, normalisation))


def told_by_weights(
    path: Path,
    state: Mapping[str, Tensor],
    name: str,
    normalisation: Normalisation | None,
    image_shape: tuple[int, int, int] | None,
    class_names: tuple[str, ...] | None,
) -> Description:
    """The description of a file that has none: from its weights, its architecture and the flags."""
    from sau_adapters.architectures.networks import told_sizes

    _, height, width = image_shape or (None, UNTOLD_PIXELS, UNTOLD_PIXELS)
    classes, channels = told_sizes(name, state, height=height, width=width)
    shape = (channels or image_shape[0], height, width) if image_shape else (None, None, None)
    return described(path, name, shape, classes, normalisation, class_names)


def completed(
    told: ToldNetwork, path: Path, normalisation: Normalisation | None, image_shape: tuple[int, int, int] | None
) -> Description:
    """The description of a folder of transformers that lacks a part of it, which flags and images tell.

    Raises:
        NotEvaluable: as :func:`described`.
    """
    height, width = told.size or (image_shape or (None, None, None))[1:]
    shape, given = (told.channels, height, width), told.normalisation or normalisation
    known = described(path, told.architecture, shape, len(told.class_names), given, told.class_names)
    return replace(known, config=told.config)


def normalisation_of_first_steps(path: Path, graph: OnnxNetwork, given: Normalisation | None) -> Normalisation | None:
    """The normalisation of a graph that does its own: none, or a scale from 0 to 255; else what is given.

    Raises:
        UsageError: another is given.
    """
    reading = graph.reading
    if reading is None or not (reading.normalises or reading.rescales or graph.takes_bytes):
        return given
    scaled = reading.rescales and not graph.takes_bytes
    own = NORMALISATIONS["bytes" if scaled else "none"]
    if graph.takes_bytes and given == NORMALISATIONS["bytes"]:  # which it is given in any case
        return own
    if given is not None:
        pairs = [(value, ours) for values, (ours,) in zip(given, own, strict=True) for value in values]
        if any(abs(value - ours) > NEARLY for value, ours in pairs):
            raise UsageError(
                f"{path} normalises its input itself, in the first steps of its graph; "
                f"leave {argument('normalisation')} out"
            )
    return own


def given_or_before(path: Path, given: Normalisation | None, before: Normalisation | None) -> Normalisation | None:
    """The normalisation of a layer in front of the network, where there is one; else what is given.

    Raises:
        UsageError: there are both.
    """
    if before is None:
        return given
    if given not in {None, NORMALISATIONS["none"]}:
        raise UsageError(f"{path} keeps its own normalisation; leave {argument('normalisation')} out")
    return before


def check_same_normalisation(path: Path, told: InputSpec, given: InputSpec) -> None:
    """Raises UsageError when a flag says another normalisation than the file: one of the two is wrong."""
    if (told.mean, told.std) != (given.mean, given.std):
        raise UsageError(
            f"{path} says its normalisation is {told.mean}/{told.std}, and {argument('normalisation')} says "
            f"{given.mean}/{given.std}; leave it out, or ask for a file that tells the truth"
        )


def with_normalisation(spec: InputSpec, normalisation: Normalisation) -> InputSpec:
    mean, std = (values * spec.channels if len(values) == 1 else values for values in normalisation)
    return InputSpec(channels=spec.channels, height=spec.height, width=spec.width, mean=mean, std=std)

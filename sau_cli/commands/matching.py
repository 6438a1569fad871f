"""A model and data that describe themselves in part: what neither tells is told by the clean images, and said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sau_adapters.tables import INNER_TRANSFORM, NORMALISATIONS, transformed_within
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable
from sau_cli.reporting.terminal import percent, table

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_cli.classifier import Classifier
    from sau_cli.description import Description
    from sau_cli.evaluation.readings import Reading
    from sau_cli.images import ImageData, LabelledImages

MATCHING_IMAGES = 500
"""Images that tell what is not told."""


def unnamed(checkpoint: OpenedModel, known: Description) -> bool:
    """Whether a model's file leaves its classes unnamed: numbers, or the data's names, stand there for want of any."""
    if checkpoint.description is None and checkpoint.network is None:
        return True
    counted = tuple(str(number) for number in range(known.classes))
    return known.class_names == counted and "sau.schema" not in checkpoint.metadata


def in_channels_of(session: Session, images: ImageData, channels: int) -> ImageData:
    """The data in as many channels as the model takes, where nothing is lost by it."""
    before = images.train.images.shape[1]
    matched = images.mapped(lambda part: part.in_channels(channels))
    if matched.train.images.shape[1] != before:
        told = "grey pictures are shown" if before == 1 else "pictures, grey all of them, are shown"
        session.note(
            "data.channels", f"{told} in {channels} alike channel{'s' * (channels > 1)}, which the model takes"
        )
    return matched


def in_order_of_model(
    session: Session, classifier: Classifier, images: ImageData, *, named: bool, class_order: str | None
) -> tuple[Classifier, ImageData]:
    """A model whose classes have no names, or others than the data's, and data that may count in several orders.

    Args:
        named: the model has names of its own, which stay.
        class_order: which order it is, where the user says so.

    Raises:
        NotEvaluable: the clean images do not tell, and nobody says.
    """
    from sau_cli.classifier import Classifier
    from sau_cli.evaluation.readings import Reading

    if not images.orders or images.train.classes != classifier.description.classes:
        return classifier, images
    why = "the model names its classes otherwise than the data" if named else "the model does not name its classes"
    if class_order is not None:
        chosen = class_order
    else:
        some = _some(images.for_testing)
        best, told = _compared(
            Reading(name=f"by {name}", classifier=classifier, images=some.counted_in(order))
            for name, order in images.orders.items()
        )
        if best is None:
            raise NotEvaluable(
                f"{why}, and training code counts folders such as these as text "
                f"({_first(images.orders['text'])}) or as numbers ({_first(images.orders['number'])}); the images do "
                f"not tell which it was ({told}), so add --class-order text or --class-order number"
            )
        chosen = best.name.removeprefix("by ")
        session.note("data.class-order", f"{why}; it counts them {best.name}, as {told} tell")
    order = images.orders[chosen]
    counted = images.mapped(lambda part: part.counted_in(order))
    if named:
        return classifier, counted.mapped(lambda part: replace(part, class_names=classifier.description.class_names))
    return Classifier(classifier.network, replace(classifier.description, class_names=order)).eval(), counted


def one_architecture(
    session: Session, check_id: str, path: object, ways: Sequence[Classifier], images: ImageData
) -> Classifier:
    """Of networks that fit the same tensors and compute different things, the one that the clean images tell.

    Raises:
        NotEvaluable: they do not tell.
    """
    from sau_cli.evaluation.readings import Reading
    from sau_cli.predictions import predicted_labels

    names = [classifier.description.architecture for classifier in ways]
    if len(ways) == 1:
        return ways[0]
    listed = f"the tensors of {path} fit {', '.join(names[:-1])} and {names[-1]}, which compute different things"
    some = _some(images.for_testing).in_channels(ways[0].description.input.channels)
    if some.classes != ways[0].description.classes or some.images.shape[1] != ways[0].description.input.channels:
        best, told = None, "images of other classes or channels"
    else:
        # In the order in which any of them knows the images best: another would tell by chance.
        orders = [some.counted_in(order) for order in images.orders.values()] or [some]
        said = [predicted_labels(way, some.images).cpu() for way in ways]
        counted = max(orders, key=lambda order: max(float((labels == order.labels).float().mean()) for labels in said))
        tried = zip(names, ways, strict=True)
        best, told = _compared(Reading(name=f"by {name}", classifier=way, images=counted) for name, way in tried)
    if best is None:
        raise NotEvaluable(f"{listed}, and {told} do not tell which it is; add --arch, such as --arch {names[0]}")
    session.note(check_id, f"{listed}; it is {best.name.removeprefix('by ')}, as {told} tell")
    return best.classifier


def with_inner_transform(session: Session, role: str, classifier: Classifier, images: LabelledImages) -> Classifier:
    """A network whose code may transform its input once more, the way that the clean images tell.

    Args:
        role: ``model`` or ``reference``.
    """
    from sau_adapters.classifiers.building import renormalised
    from sau_cli.evaluation.readings import Reading

    known = classifier.description
    if known.architecture not in INNER_TRANSFORM or known.input.channels != 3 or known.classes != images.classes:
        return classifier
    transformed = renormalised(classifier, transformed_within((known.input.mean, known.input.std)))
    some = _some(images)
    plain = Reading(name="without", classifier=classifier, images=some)
    best, told = _compared([plain, Reading(name="with", classifier=transformed, images=some)])
    asked = f"no tensor tells whether {known.architecture} transforms its input once more"
    answer = f"{told} do not tell either, and it is left out"
    if best is not None:
        answer = f"{told} do: it is computed {best.name}"
    session.note(f"{role}.inner-transform", f"{asked}; {answer}")
    return (best or plain).classifier


def ask_for_normalisation(session: Session, path: object, classifier: Classifier, images: ImageData) -> None:
    """Show how accurate the model is behind each usual normalisation, and let its user say which is right.

    Raises:
        NotEvaluable: always.
    """
    from sau_adapters.classifiers.building import renormalised
    from sau_cli.evaluation.metrics import evaluate
    from sau_cli.images import check_fits

    check_fits(images.for_testing, classifier.description)
    some = _some(images.for_testing)
    counted = [some.counted_in(order) for order in images.orders.values()] or [some]
    if classifier.description.classes != some.classes:
        counted = [some]
    found = {}
    for name, normalisation in NORMALISATIONS.items():
        if len(normalisation[0]) in {1, classifier.description.input.channels}:
            behind = renormalised(classifier, normalisation)
            found[name] = max((evaluate(behind, part).accuracy for part in counted), key=lambda rate: rate.value)
    ordered = sorted(found.items(), key=lambda pair: -pair[1].value)
    rows = [
        (name, f"{percent(rate.value)} ({percent(rate.ci95[0])} to {percent(rate.ci95[1])})") for name, rate in ordered
    ]
    session.show(table(f"Accuracy on {len(some)} of the images by normalisation", ("--normalisation", ""), rows))
    raise NotEvaluable(
        f"{path} does not say how its images are normalised, and weights do not tell; add --normalisation with what it "
        f"was trained with (the table shows the usual ones on your images, {ordered[0][0]!r} first)"
    )


def _some(images: LabelledImages) -> LabelledImages:
    from sau_cli.images import some_of

    return some_of(images, MATCHING_IMAGES)


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + ", ..." * (len(names) > 4)


def _compared(readings: Iterable[Reading]) -> tuple[Reading | None, str]:
    """The reading that the images tell, if they do, and the accuracies in words."""
    from sau_cli.evaluation.readings import compare_readings

    listed = list(readings)
    compared = compare_readings(listed)
    rates = zip(compared.accuracies, listed, strict=True)
    shown = " and ".join(f"{percent(rate)} {reading.name}" for rate, reading in rates)
    return compared.best, f"accuracies of {shown} on {len(listed[0].images)} of the images"

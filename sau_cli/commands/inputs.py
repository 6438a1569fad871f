"""Open the model and the data that a command was given, each from its flag, its metadata or the settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.tables import NORMALISATIONS, Normalisation, parse_normalisation
from sau_cli.commands.progress import ReadingView
from sau_cli.commands.session import Session
from sau_cli.commands.settings import Settings, read_settings
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.reporting.terminal import percent, table

if TYPE_CHECKING:
    from sau_adapters.checkpoints import Checkpoint
    from sau_cli.classifier import Classifier
    from sau_cli.description import Description
    from sau_cli.images import ImageData, LabelledImages

ENOUGH = 500
"""Images that tell normalisations apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the shared flags asked for, with the settings of the working folder behind them."""

    data: str | None
    data_root: Path | None
    arch: str | None
    image_size: str | None
    normalisation: str | None
    settings: Settings

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width to resize images to; None leaves them as they are."""
        text = self.image_size or self.settings.image_size
        return None if text is None else parse_image_size(str(text))

    def normalised(self, *, told: bool) -> Normalisation | None:
        """Means and deviations; the settings count only where the file has not told its own."""
        text = self.normalisation or (None if told else self.settings.normalisation)
        return None if text is None else parse_normalisation(text)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedModel:
    """A model and where it came from."""

    checkpoint: Checkpoint
    classifier: Classifier


def request(
    *,
    data: str | None,
    data_root: Path | None,
    arch: str | None,
    image_size: str | None,
    normalisation: str | None,
) -> Request:
    """The flags, and the settings of the working folder."""
    return Request(
        data=data,
        data_root=data_root,
        arch=arch,
        image_size=image_size,
        normalisation=normalisation,
        settings=read_settings(Path.cwd()),
    )


def parse_image_size(text: str) -> tuple[int, int]:
    """``32`` or ``HEIGHTxWIDTH``.

    Raises:
        UsageError: neither, or a size that is not 1 to 4,096.
    """
    parts = text.lower().split("x")
    sizes = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 6]
    if len(sizes) != len(parts) or len(sizes) not in {1, 2} or not all(1 <= size <= 4096 for size in sizes):
        raise UsageError(
            f"image size {text[:50]!r} is no size in pixels from 1 to 4096; write it like 32 or 32x48 (height x width)"
        )
    return sizes[0], sizes[-1]


def data_source(asked: Request, description: Description | None) -> str:
    """Which data: the flag's, else what the model's metadata names, else that of the settings.

    A model's metadata may name a well-known data set but never a path: what counts as trusted clean
    data is the user's to say.

    Raises:
        UsageError: none is named.
    """
    from sau_adapters.image_sources import is_named

    told = description.data if description and description.data and is_named(description.data) else None
    source = asked.data or told or asked.settings.data
    if source is None:
        called = description.data.removeprefix("path:") if description and description.data else None
        known = f" (the model calls its data {called!r}, but only you can say what you trust)" if called else ""
        raise UsageError(f"no data is named by the command, the model's metadata or sau.toml{known}; add --data")
    return source


def names_data(asked: Request, description: Description | None) -> bool:
    """Whether :func:`data_source` has an answer."""
    try:
        data_source(asked, description)
    except UsageError:
        return False
    return True


def received(session: Session, path: Path) -> Checkpoint:
    """Read a model file, and record it as an input."""
    from sau_adapters.checkpoints import read_checkpoint
    from sau_adapters.model_folders import weights_in
    from sau_adapters.model_zoos import is_zoo_name

    found = path if is_zoo_name(path) else weights_in(path)
    if found != path:
        session.show(f"the model is {found}")
    path = found
    with ReadingView(session) as reading:
        checkpoint = read_checkpoint(path, watch=reading.update)
    session.took(path, checkpoint.sha256)
    return checkpoint


def open_model_alone(asked: Request, checkpoint: Checkpoint, *, to_learn: bool = False) -> OpenedModel:
    """Open a model without any data: what the file does not tell must come from flags. See `open_model_and_data`.

    Raises:
        NotEvaluable: the architecture, the input size or the normalisation is not known.
    """
    from sau_adapters.checkpoints import as_classifier

    told = checkpoint.description
    named = told is not None and not told.architecture.startswith("user:")
    classifier = as_classifier(
        checkpoint,
        architecture=asked.arch or (None if named else asked.settings.arch),
        normalisation=asked.normalised(told=told is not None),
        image_shape=None if asked.pixels is None else (3, *asked.pixels),
        to_learn=to_learn,
    )
    return OpenedModel(checkpoint=checkpoint, classifier=classifier)


def open_data(asked: Request, description: Description | None) -> ImageData:
    """Open the data of :func:`data_source`, its classes in the order of the model's.

    Raises:
        UsageError: none is named, or it is unknown or missing.
    """
    from sau_adapters.image_sources import open_images

    source = data_source(asked, description)
    root = asked.data_root or (Path(asked.settings.data_root) if asked.settings.data_root else None)
    images = open_images(source, root=root, image_size=asked.pixels)
    return images if description is None else _in_order_of(images, description.class_names)


def _in_order_of(images: ImageData, class_names: tuple[str, ...]) -> ImageData:
    """Data with its classes in the order of the model's."""
    return replace(
        images,
        train=images.train.in_order_of(class_names),
        test=None if images.test is None else images.test.in_order_of(class_names),
    )


def open_model_and_data(
    session: Session,
    path: Path,
    asked: Request,
    *,
    data: ImageData | None = None,
    checkpoint: Checkpoint | None = None,
    to_learn: bool = False,
) -> tuple[OpenedModel, ImageData]:
    """Open a model, and the data that goes with it, unless they are open already.

    The data tells the input size where the file does not. With ``to_learn``, gradients are wanted.
    """
    from sau_adapters.checkpoints import as_classifier, check_learns_the_same
    from sau_cli.images import check_fits

    checkpoint = checkpoint or received(session, path)
    told = checkpoint.description
    normalisation = asked.normalised(told=told is not None)
    if data is None:
        data = open_data(asked, told)
        source = Path(data_source(asked, told))
        if source.is_file():
            session.took(source)
        if told is not None and not set(told.class_names) & set(data.train.class_names):
            session.show("the data names its classes otherwise than the model does, so they are matched by their order")
    if told is not None:
        check_fits(data.train, told)  # before a network of whatever size the file names is built
    channels, height, width = data.train.images.shape[1:]
    # A file that sau wrote for a user's own class cannot say where its code is.
    named = told is not None and not told.architecture.startswith("user:")
    told_beside = checkpoint.network is not None and checkpoint.network.normalisation is not None
    unknown = told is None and normalisation is None and not told_beside
    classifier = as_classifier(
        checkpoint,
        architecture=asked.arch or (None if named else asked.settings.arch),
        normalisation=NORMALISATIONS["none"] if unknown else normalisation,
        image_shape=(channels, height, width),
        class_names=data.train.class_names,
        to_learn=to_learn,
    )
    prefix = checkpoint.prefix(classifier.network)
    if told is None:
        data = _in_order_of(data, classifier.description.class_names)  # which a folder may tell without the rest
        beside = f", whose tensors' names begin with {' or '.join(prefix)} in the file" if prefix else ""
        session.show(f"{path} is a {classifier.description.architecture}{beside}")
    for note in checkpoint.notes:
        session.show(f"{path}: {note}")
    if unknown:
        _ask_for_normalisation(session, path, classifier, data.for_testing)
    if to_learn:
        check_learns_the_same(checkpoint, classifier, data.for_testing)
    return OpenedModel(checkpoint=checkpoint, classifier=classifier), data


def _ask_for_normalisation(session: Session, path: Path, classifier: Classifier, images: LabelledImages) -> None:
    """Show how accurate the model is behind each usual normalisation, and let its user say which is right.

    Raises:
        NotEvaluable: always.
    """
    from sau_adapters.checkpoints import renormalised
    from sau_cli.evaluation.metrics import evaluate
    from sau_cli.images import check_fits, uniform_share

    check_fits(images, classifier.description)
    if len(images) > ENOUGH:
        images = images.take(uniform_share(images, ENOUGH / len(images), seed=0))
    found = {}
    for name, normalisation in NORMALISATIONS.items():
        if len(normalisation[0]) in {1, classifier.description.input.channels}:
            found[name] = evaluate(renormalised(classifier, normalisation), images).accuracy
    ordered = sorted(found.items(), key=lambda pair: -pair[1].value)
    rows = [(name, f"{percent(one.value)} ({percent(one.ci95[0])} to {percent(one.ci95[1])})") for name, one in ordered]
    session.show(table(f"Accuracy on {len(images)} of the images by normalisation", ("--normalisation", ""), rows))
    raise NotEvaluable(
        f"{path} does not say how its images are normalised, and weights do not tell; add --normalisation with what it "
        f"was trained with (the table shows the usual ones on your images, {ordered[0][0]!r} first)"
    )

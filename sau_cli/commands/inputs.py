"""Open the model and the data of a command, each from its flag, its metadata or the defaults of the project."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.tables import NORMALISATIONS, Normalisation, parse_normalisation
from sau_cli.commands.matching import (
    ask_for_normalisation,
    in_channels_of,
    in_order_of_model,
    one_architecture,
    unnamed,
    with_inner_transform,
)
from sau_cli.commands.options import ClassOrder, ReadingOptions
from sau_cli.commands.progress import ReadingView
from sau_cli.commands.project_defaults import ProjectDefaults, read_defaults
from sau_cli.commands.session import Session
from sau_cli.errors import UsageError

if TYPE_CHECKING:
    from sau_adapters.models import LocatedModel, OpenedModel
    from sau_cli.classifier import Classifier
    from sau_cli.description import Description
    from sau_cli.images import ImageData


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the shared flags asked for, with the defaults of the working folder behind them."""

    data: str | None
    data_root: Path | None
    arch: str | None
    image_size: str | None
    normalisation: str | None
    class_order: ClassOrder | None = None
    defaults: ProjectDefaults

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width to resize images to; None leaves them as they are."""
        text = self.image_size or self.defaults.image_size
        return None if text is None else parse_image_size(str(text))

    @property
    def given(self) -> dict[str, str]:
        """The flags which every command on the model needs again: on how it is read, and images that have a name.

        Defaults count by themselves, and where a folder lies is nobody's business.
        """
        from sau_adapters.images.sources import is_named

        named = self.data if self.data is not None and is_named(self.data) else None
        flags = {"data": named, "arch": self.arch, "normalisation": self.normalisation, "image-size": self.image_size}
        return {flag: value for flag, value in flags.items() if value is not None}

    def normalised(self, *, told: bool) -> Normalisation | None:
        """Means and deviations; the defaults count only where the file has not told its own."""
        text = self.normalisation or (None if told else self.defaults.normalisation)
        return None if text is None else parse_normalisation(text)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadyModel:
    """A model that is ready to be run, and the files that it came from."""

    checkpoint: OpenedModel
    classifier: Classifier


def request(reading: ReadingOptions, *, data: str | None, data_root: Path | None) -> Request:
    """The flags, and the defaults of the working folder."""
    return Request(
        data=data,
        data_root=data_root,
        arch=reading.arch,
        image_size=reading.image_size,
        normalisation=reading.normalisation,
        class_order=reading.class_order,
        defaults=read_defaults(Path.cwd()),
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
    """Which data: the flag's, else what the model's metadata names, else that of the defaults.

    A model's metadata may name a well-known data set but never a path: what counts as trusted clean
    data is the user's to say.

    Raises:
        UsageError: none is named.
    """
    from sau_adapters.images.sources import is_named

    told = description.data if description and description.data and is_named(description.data) else None
    source = asked.data or told or asked.defaults.data
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


def fetch(session: Session, *models: Path | None, download: bool) -> None:
    """With ``--download``, have what is on the hub of these models in this machine's cache; the rest finds it there.

    Raises:
        UsageError: none of them is on the hub, so that the flag would do nothing; or it has no such model.
        NotEvaluable: nothing that is safe to fetch, or no way to it.
    """
    if not download:
        return
    from rich.filesize import decimal

    from sau_adapters.zoos.hub_downloads import fetch, files_on_hub
    from sau_adapters.zoos.names import is_on_hub

    on_hub = [model for model in models if model is not None and is_on_hub(model)]
    if not on_hub:
        raise UsageError("--download fetches hf-hub:ORG/NAME and timm:NAME, and no such model is given; leave it out")
    for model in on_hub:
        with session.working(f"asking the hub for {model}"):
            files = files_on_hub(model)
        listed = ", ".join(f"{name} ({'?' if size is None else decimal(size)})" for name, size in files.sizes.items())
        session.show(f"{model} is at commit {files.commit}: {listed}; {decimal(files.size)} in all, where not here yet")
        fetch(files, progress=session.console.is_terminal and not session.quiet)


def from_hub(checkpoint: OpenedModel) -> dict[str, str]:
    """What history tells of where a received model comes from: the hub, or one of several networks in a file."""
    source, part = checkpoint.source, checkpoint.located.part
    return ({} if source is None else {"received_from": source}) | ({"network": part} if part else {})


def received(session: Session, path: Path) -> OpenedModel:
    """Read a model's files, once, and record it as an input."""
    located = located_once(session, path)
    if located.is_within:
        session.show(f"the model is {located.path}")
    checkpoint = opened_once(session, located)
    session.took(located.shown, checkpoint.sha256)
    return checkpoint


def located_once(session: Session, model: Path) -> LocatedModel:
    """Find a model, and fetch what is at an address; show how far that is, and what was fetched."""
    from sau_adapters.models import locate

    with ReadingView(session, "fetching") as fetching:
        located = locate(model, watch=fetching.update)
    if located.told:
        session.show(located.told)
        session.findings.fetched(located.told)
    return located


def opened_once(session: Session, located: LocatedModel) -> OpenedModel:
    """Read a model's files, and show how far that is."""
    from sau_adapters.models import open_model

    with ReadingView(session) as reading:
        return open_model(located, watch=reading.update)


def open_model_alone(asked: Request, checkpoint: OpenedModel, *, to_learn: bool = False) -> ReadyModel:
    """Open a model without any data: what the file does not tell must come from flags. See `open_model_and_data`.

    Raises:
        NotEvaluable: the architecture, the input size or the normalisation is not known.
    """
    from sau_adapters.classifiers.building import as_classifier

    told = checkpoint.description
    named = told is not None and not told.architecture.startswith("user:")
    classifier = as_classifier(
        checkpoint,
        architecture=asked.arch or (None if named else asked.defaults.arch),
        normalisation=asked.normalised(told=told is not None),
        image_shape=None if asked.pixels is None else (3, *asked.pixels),
        to_learn=to_learn,
    )
    return ReadyModel(checkpoint=checkpoint, classifier=classifier)


def open_data(session: Session, asked: Request, description: Description | None) -> ImageData:
    """Open the data of :func:`data_source`, and say what of it is not used.

    Raises:
        UsageError: none is named, or it is unknown or missing.
    """
    from sau_adapters.images.sources import open_images

    source = data_source(asked, description)
    root = asked.data_root or (Path(asked.defaults.data_root) if asked.defaults.data_root else None)
    images = open_images(source, root=root, image_size=asked.pixels)
    if images.sha256:
        session.took(Path(source), images.sha256)
    if images.notes:
        session.note("data.pictures", "; ".join(images.notes))
    return images


def open_model_and_data(
    session: Session,
    path: Path,
    asked: Request,
    *,
    data: ImageData | None = None,
    checkpoint: OpenedModel | None = None,
    like: Description | None = None,
    to_learn: bool = False,
) -> tuple[ReadyModel, ImageData]:
    """Open a model, and the data that goes with it, unless they are open already.

    The data tells the input size where the file does not. With ``to_learn``, gradients are wanted.

    Args:
        like: what was made of this model, if it says so; it knows what the file of this one may not.
    """
    from sau_adapters.classifiers.building import check_learns_the_same, normalises_itself
    from sau_cli.images import check_fits

    role = "model" if data is None else "reference"  # which takes the data of the model
    checkpoint = checkpoint or received(session, path)
    if like is not None and checkpoint.description is None and _came_from(like, checkpoint):
        checkpoint = checkpoint.described_as(replace(like, history=()))
    told = checkpoint.description
    if data is None:
        data = open_data(session, asked, told)
        data = data if told is None else _matched(session, asked, checkpoint, told, data)
    if told is not None:
        check_fits(data.train, told)  # before a network of whatever size the file names is built
    classifier = _built(session, role, path, asked, checkpoint, data, to_learn=to_learn)
    known = classifier.description
    if (
        told is None and role == "model" and checkpoint.network is not None
    ):  # whose folder names classes without the rest
        data = _matched(session, asked, checkpoint, known, data)
    data = in_channels_of(session, data, known.input.channels)
    told_beside = checkpoint.network is not None and checkpoint.network.normalisation is not None
    told_beside |= checkpoint.normalisation_before(classifier.network.state_dict()) is not None
    if told is None and asked.normalised(told=False) is None and not (told_beside or normalises_itself(classifier)):
        ask_for_normalisation(session, path, classifier, data)
    if told is None:
        classifier = with_inner_transform(session, role, classifier, data.for_testing)
    if role == "model" and not _named_alike(checkpoint, known, data):
        named = not unnamed(checkpoint, known)
        classifier, data = in_order_of_model(session, classifier, data, named=named, class_order=asked.class_order)
    if to_learn:
        check_learns_the_same(checkpoint, classifier, data.for_testing)
    return ReadyModel(checkpoint=checkpoint, classifier=classifier), data


def _built(
    session: Session,
    role: str,
    path: Path,
    asked: Request,
    checkpoint: OpenedModel,
    data: ImageData,
    *,
    to_learn: bool,
) -> Classifier:
    """The classifier, whose normalisation is none where nothing tells it; and what is to be said of how it is read."""
    from sau_adapters.classifiers.building import as_classifier, notes_of, read_as
    from sau_adapters.classifiers.recognition import MOST_COMPARED, fitting_architectures

    told = checkpoint.description
    channels, height, width = data.train.images.shape[1:]
    build = partial(
        as_classifier,
        checkpoint,
        normalisation=asked.normalised(told=told is not None),
        image_shape=(channels, height, width),
        class_names=data.train.class_names,
        untold=NORMALISATIONS["none"],
        to_learn=to_learn,
    )
    # A file that sau wrote for a user's own class cannot say where its code is.
    named = told is not None and not told.architecture.startswith("user:")
    architecture = asked.arch or (None if named else asked.defaults.arch)
    tells_architecture = told is not None or checkpoint.network is not None or checkpoint.graph is not None
    if tells_architecture or architecture is not None:
        classifier = build(architecture=architecture)
    else:
        names = fitting_architectures(checkpoint, (channels, height, width))
        ways = [build(architecture=name) for name in (names if len(names) <= MOST_COMPARED else (None,))]
        classifier = one_architecture(session, f"{role}.architecture", path, ways, data)
    prefix, how = read_as(checkpoint, classifier)
    if told is None:
        beside = f", whose tensors' names begin with {' or '.join(prefix)} in the file" if prefix else ""
        session.show(f"{path} is a {classifier.description.architecture}{beside}")
    if how:
        session.note(f"{role}.names", f"{path}: {how}")
    for note in checkpoint.notes:
        session.show(f"{path}: {note}")
    if notes_of(classifier):
        session.note(f"{role}.reading", f"{path}: {'; '.join(notes_of(classifier))}")
    return classifier


def _named_alike(checkpoint: OpenedModel, known: Description, data: ImageData) -> bool:
    """Whether the names of its classes settle in which order the model counts those of the data."""
    return not unnamed(checkpoint, known) and data.train.names_common_with(known.class_names)


def _matched(
    session: Session, asked: Request, checkpoint: OpenedModel, known: Description, data: ImageData
) -> ImageData:
    """The data in the channels that the model's file tells, and in the order of its classes where names settle that."""
    data = in_channels_of(session, data, known.input.channels)
    if _named_alike(checkpoint, known, data):
        if asked.class_order is not None:
            raise UsageError("the model names its classes, which settles their order; leave --class-order out")
        shown = data.train.classes
        if shown < known.classes:
            session.note("data.classes", f"the data shows {shown} of the {known.classes} classes of the model")
        return data.mapped(lambda part: part.in_order_of(known.class_names))
    if unnamed(checkpoint, known):
        session.show("the model does not name its classes, so they are matched by their order")
    elif not data.train.names_common_with(known.class_names):
        session.show("the data names its classes otherwise than the model does, so they are matched by their order")
    return data


def _came_from(made: Description, checkpoint: OpenedModel) -> bool:
    """Whether something says of itself that it was made of this file."""
    return any(step.input_sha256 == checkpoint.sha256 for step in made.history)

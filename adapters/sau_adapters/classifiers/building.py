"""Networks built for a model's weights, and its weights loaded into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sau_adapters.architectures import networks
from sau_adapters.architectures.state_names import Prefix, is_irrelevant
from sau_adapters.classifiers.describing import (
    check_same_normalisation,
    completed,
    described,
    given_or_before,
    normalisation_of_first_steps,
    told_by_weights,
    with_normalisation,
)
from sau_adapters.classifiers.recognition import UNTOLD_PIXELS, check_one_network, one_fitting
from sau_adapters.tables import Normalisation
from sau_adapters.zoos.transformers_folders import is_of_transformers
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable, UsageError, argument

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sau_adapters.models import OpenedModel
    from sau_adapters.weights.onnx import OnnxReader
    from sau_cli.classifier import Classifier
    from sau_cli.images import LabelledImages

CONVERSION_IMAGES = 256
"""Images to see whether a converted network computes what its graph does."""


def as_classifier(
    model: OpenedModel,
    *,
    architecture: str | None = None,
    normalisation: Normalisation | None = None,
    image_shape: tuple[int, int, int] | None = None,
    class_names: tuple[str, ...] | None = None,
    untold: Normalisation | None = None,
    to_learn: bool = False,
) -> Classifier:
    """Build the network and load the weights into it.

    ONNX is run by onnxruntime as it is, or, if it is to learn, as a PyTorch network that was made of the graph.

    Args:
        architecture: overrides the file's own; needed where the file names none and its tensors fit none, or several
            that compute different things.
        normalisation: means and standard deviations on pixels in [0, 1], where the file names none.
        image_shape: channels, height and width of the images at hand, where the file names no input; the
            weights have the last word on channels.
        class_names: of the data, where the file names none; used if there are as many as the model has classes.
        untold: the normalisation to go on with where neither the file nor ``normalisation`` tells one.
        to_learn: gradients are wanted.

    Raises:
        NotEvaluable: something is not known, and the sentence names the flag to add; or weights do not fit.
        UsageError: an unknown architecture, or a normalisation that is not the file's own.
    """
    from sau_cli.classifier import Classifier, check_runs

    if model.graph is not None:
        if architecture is not None:
            raise UsageError(f"{model.path} is ONNX, which holds its own network; leave {argument('architecture')} out")
        return _of_graph(model, model.graph, normalisation, image_shape, class_names, untold=untold, to_learn=to_learn)
    known = model.description
    if known is None and model.network is not None:
        known = completed(model.network, model.path, normalisation or untold, image_shape)
    if known is not None and is_of_transformers(known.architecture) and architecture in {None, known.architecture}:
        return _of_transformers(model, known, normalisation)
    name = architecture or (known.architecture if known else None) or one_fitting(model, image_shape)
    if name.startswith("user:"):
        raise NotEvaluable(
            f"{model.path} needs the class {name.removeprefix('user:')}, which sau lacks; "
            f"add {argument('architecture')} FILE.py:CLASS"
        )
    try:
        name = networks.canonical_name(name)
    except UsageError as error:
        if architecture is not None:
            raise
        raise NotEvaluable(f"{model.path} says of itself what cannot be true: {error}") from error
    _, height, width = image_shape or (3, UNTOLD_PIXELS, UNTOLD_PIXELS)
    state = networks.as_named(name, model.state, height=height, width=width)
    before = model.normalisation_before(state)
    if known is None:
        normalisation = given_or_before(model.path, normalisation, before)
        known = told_by_weights(model.path, state, name, normalisation or untold, image_shape, class_names)
    elif normalisation is not None:
        check_same_normalisation(model.path, known.input, with_normalisation(known.input, normalisation))
    known = replace(known, architecture=networks.stored_name(name), config=None)
    network = _loaded(model, name, state, known, chosen=architecture is not None)
    model.check_unchanged()
    classifier = Classifier(network, known)
    classifier.eval()
    check_runs(classifier)
    return classifier


def _loaded(
    model: OpenedModel, name: str, state: Mapping[str, Tensor], known: Description, *, chosen: bool
) -> nn.Module:
    """A network with the weights, which are compared with it before it takes any memory.

    Args:
        chosen: its user has named the architecture.

    Raises:
        NotEvaluable: the weights do not fit, or there are those of several networks.
        UsageError: there is no such architecture.
    """
    from sau_cli.classifier import BINARY

    spec, outputs = known.input, known.classes
    if outputs == BINARY:
        told, _ = networks.told_sizes(name, state, height=spec.height, width=spec.width)
        outputs = 1 if told == 1 else BINARY
    try:
        networks.check_state(name, state, classes=outputs, spec=spec)
    except NotEvaluable:
        check_one_network(model)
        raise
    try:
        network = networks.build(name, classes=outputs, spec=spec)
    except UsageError as error:
        if chosen or "?" not in name:
            raise
        raise NotEvaluable(f"{model.path} says of itself what cannot be true: {error}") from error
    networks.load_state(network, state, architecture=name)
    return network


def _of_transformers(model: OpenedModel, known: Description, normalisation: Normalisation | None) -> Classifier:
    """A network of transformers as a classifier. See :func:`as_classifier`."""
    from sau_adapters.architectures.transformers_networks import network_of
    from sau_cli.classifier import Classifier, check_runs

    if normalisation is not None:
        check_same_normalisation(model.path, known.input, with_normalisation(known.input, normalisation))
    classifier = Classifier(network_of(known, model.state, path=model.path), known)
    model.check_unchanged()
    classifier.eval()
    check_runs(classifier)
    return classifier


def _of_graph(
    model: OpenedModel,
    opened: OnnxReader,
    normalisation: Normalisation | None,
    image_shape: tuple[int, int, int] | None,
    class_names: tuple[str, ...] | None,
    *,
    untold: Normalisation | None,
    to_learn: bool,
) -> Classifier:
    """An ONNX graph as a classifier. See :func:`as_classifier`."""
    from sau_adapters.onnx.networks import ConvertedOnnx, classifier_graph
    from sau_cli.classifier import Classifier, check_runs

    graph = classifier_graph(opened)
    model.check_unchanged()
    known = model.description
    if known is None:
        takes, shown = graph.input, image_shape or (None, None, None)
        shape = [own or other for own, other in zip((takes.channels, takes.height, takes.width), shown, strict=True)]
        normalisation = normalisation_of_first_steps(model.path, graph, normalisation) or untold
        known = described(model.path, "onnx", shape, takes.classes, normalisation, class_names)
    elif normalisation is not None:
        check_same_normalisation(model.path, known.input, with_normalisation(known.input, normalisation))
    classifier = Classifier(ConvertedOnnx(graph) if to_learn else graph, known)
    classifier.eval()
    check_runs(classifier)
    return classifier


def read_as(model: OpenedModel, classifier: Classifier) -> tuple[Prefix, str]:
    """What begins the names of the weights beside the network's own; and what else it took to read them."""
    architecture = classifier.description.architecture
    if not model.state or is_of_transformers(architecture):  # which reads its own
        return (), ""
    naming = model.naming(classifier.network)
    given = set(naming.names.values())
    foreign = architecture.startswith("timm:") and any(
        name not in given for name in classifier.network.state_dict() if not is_irrelevant(name)
    )
    return naming.prefix, "its tensors are read as the loader of timm reads them" if foreign else naming.told


def notes_of(classifier: Classifier) -> tuple[str, ...]:
    """Sentences on how a graph is read, as they go on after its name; none of a network that is no graph."""
    reading = getattr(classifier.network, "reading", None)
    return reading.notes if reading is not None else ()


def normalises_itself(classifier: Classifier) -> bool:
    """Whether a network is a graph whose first steps normalise its input."""
    reading, takes_bytes = (getattr(classifier.network, name, None) for name in ("reading", "takes_bytes"))
    return reading is not None and bool(reading.normalises or reading.rescales or takes_bytes)


def check_learns_the_same(model: OpenedModel, classifier: Classifier, images: LabelledImages) -> None:
    """Compare a network that was made of an ONNX graph with the graph itself, in onnxruntime; others are their files'.

    Raises:
        NotEvaluable: they differ, so that what is learned would not be what was received.
    """
    if model.graph is None:
        return
    from sau_adapters.onnx.networks import classifier_graph
    from sau_cli.classifier import Classifier
    from sau_cli.exporting.verification import ExportedModel, compare, expected_answers
    from sau_cli.images import uniform_share

    if len(images) > CONVERSION_IMAGES:
        images = images.take(uniform_share(images, CONVERSION_IMAGES / len(images), seed=0))
    received = Classifier(classifier_graph(model.graph), classifier.description)
    failed = compare(expected_answers(classifier, images), ExportedModel(runners={"": received})).failed
    if failed is not None:
        raise NotEvaluable(
            f"{model.path} does not convert to PyTorch exactly ({failed.evidence}), so it cannot be learned from; "
            "give the weights that it was exported from"
        )


def renormalised(classifier: Classifier, normalisation: Normalisation) -> Classifier:
    """The same network behind another normalisation: means and standard deviations on pixels in [0, 1]."""
    from sau_cli.classifier import Classifier

    spec = with_normalisation(classifier.description.input, normalisation)
    return Classifier(classifier.network, replace(classifier.description, input=spec)).eval()

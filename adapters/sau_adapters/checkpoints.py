"""A checkpoint: a model file on disk, recognised by content, opened safely, saved in one piece."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from sau_adapters import (
    hdf5_listing,
    saved_model,
    weights_keras,
    weights_onnx,
    weights_pytorch,
    weights_safetensors,
    weights_sharded,
)
from sau_adapters.architecture_index import recognised
from sau_adapters.files import Watch, check_readable, folder_written_whole, sha256_of, written_whole
from sau_adapters.metadata import from_metadata, to_metadata
from sau_adapters.model_folders import SUFFIXES, described_beside
from sau_adapters.model_zoos import described_by_zoo, source_of, weights_of
from sau_adapters.state_names import Naming, Prefix, is_irrelevant, naming_for, normalisation_of
from sau_adapters.tables import NORMALISATIONS, Normalisation, WeightsFormat
from sau_adapters.transformers_folders import FILES, ToldNetwork, is_of_transformers, network_beside
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, SauError, UnsafeFile, UsageError
from sau_cli.inspection.file_facts import FileFacts, Finding, NonFinite, Recognition, TensorFacts
from sau_cli.results import Severity

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sau_adapters.onnx_networks import OnnxNetwork
    from sau_cli.classifier import Classifier
    from sau_cli.images import LabelledImages

HEAD_BYTES = 4096
BRIGHTEST = 2.0
"""A mean above this is none of pixels in [0, 1]."""
NEARLY = 1e-5
"""Between numbers that mean the same."""
PIXELS, NEAR = 224, 0.3
"""On a side, where nothing tells; and the least share of tensors in common with an architecture that is looked into."""
MOST_COMPARED, MOST_IMAGES = 8, 256
"""Architectures that are built to see whether they compute the same, and images to see that of a conversion."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A model file's weights, on the CPU, and what the file says of them.

    Attributes:
        state: none for ONNX, whose weights are a part of its graph.
        description: from the file's metadata; None where it says nothing.
        notes: sentences on how the weights were found in the file.
        metadata: as written in the file by whoever made it; not to be trusted.
        source: where on the hub it comes from, with the commit; None where it comes from elsewhere.
        network: of transformers, as the folder tells, where the description does not come from the file itself.
    """

    path: Path
    format: WeightsFormat
    sha256: str
    state: Mapping[str, Tensor]
    description: Description | None
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    network: ToldNetwork | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    def naming(self, network: nn.Module) -> Naming:
        """How the weights are read for a network: what begins their names, what is left out."""
        return naming_for(network.state_dict(), self.shapes)

    def normalisation_before(self, network: Iterable[str]) -> Normalisation | None:
        """That of a layer which the file has in front of a network; None where it has none, or the network has it.

        Args:
            network: the names of its tensors.
        """
        pair = normalisation_of(self.shapes)
        if pair is None or any(name.rpartition(".")[2] == pair[0].rpartition(".")[2] for name in network):
            return None
        mean, std = (tuple(self.state[name].flatten().double().tolist()) for name in pair)
        if min(std) <= 0 or len(mean) != len(std):
            return None
        if max(mean) > BRIGHTEST:  # of pixels from 0 to 255
            mean, std = (tuple(value / 255 for value in values) for values in (mean, std))
        return mean, std

    def read_as(self, classifier: Classifier) -> tuple[Prefix, str]:
        """What begins the names of the weights beside the network's own; and what else it took to read them."""
        architecture = classifier.description.architecture
        if not self.state or is_of_transformers(architecture):  # which reads its own
            return (), ""
        naming = self.naming(classifier.network)
        given = set(naming.names.values())
        foreign = architecture.startswith("timm:") and any(
            name not in given for name in classifier.network.state_dict() if not is_irrelevant(name)
        )
        return naming.prefix, "its tensors are read as the loader of timm reads them" if foreign else naming.told


def recognised_format(path: Path) -> WeightsFormat:
    """The format by content.

    Raises:
        UsageError: no such file.
        NotEvaluable: the file is empty, unreadable or of no known format.
    """
    check_readable(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    recognisers: dict[WeightsFormat, Callable[[bytes, Path], bool]] = {
        WeightsFormat.SAFETENSORS: weights_safetensors.recognises,
        WeightsFormat.SHARDED: weights_sharded.recognises,
        WeightsFormat.PYTORCH: weights_pytorch.recognises,
        WeightsFormat.ONNX: weights_onnx.recognises,
        WeightsFormat.KERAS: weights_keras.recognises,
        WeightsFormat.HDF5: hdf5_listing.recognises,
        WeightsFormat.SAVED_MODEL: saved_model.recognises,
    }
    for weights_format, recognises in recognisers.items():
        if recognises(head, path):
            return weights_format
    raise NotEvaluable(
        f"{path} is of no known model format, whatever its extension says; give safetensors, PyTorch or ONNX"
    )


def suffix_of_result(path: Path, out: Path | None = None) -> str:
    """How the name ends of what :func:`save_like` writes for what is made of this model.

    Nothing for a folder as transformers loads it: that is what a model of transformers becomes, unless a file is named.

    Args:
        out: the name that was asked for.

    Raises:
        UsageError, NotEvaluable: as :func:`recognised_format`.
    """
    weights = weights_of(path)
    if recognised_format(weights) is WeightsFormat.ONNX:
        return ".onnx"
    folder = path.is_dir() if out is None else out.suffix not in SUFFIXES
    return "" if folder and network_beside(weights) is not None else ".safetensors"


def written_result(path: Path, *, folder: bool) -> AbstractContextManager[Path]:
    """A temporary name for :func:`save_like` to write to, a folder or a file, renamed when the block ends well."""
    return folder_written_whole(path, files=FILES) if folder else written_whole(path)


def file_facts(model: Path, *, watch: Watch | None = None) -> FileFacts:
    """What a model file is, without loading its weights where the format allows it.

    A file that must not be opened is described as far as that is safe, with the findings that say why.

    Args:
        model: a file, a folder with one, or a name in a zoo whose cache has it.
        watch: of the reading of the whole file, for its SHA-256.

    Raises:
        UsageError, NotEvaluable: as :func:`recognised_format`, or the file is damaged.
    """
    path = weights_of(model)
    weights_format = recognised_format(path)
    sha256: str | None = None
    tensors: tuple[TensorFacts, ...] | None = None
    metadata: dict[str, str] = {}
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    non_finite: tuple[NonFinite, ...] | None = None
    unread = ""
    beside: dict[str, str | None] = {}
    try:
        match weights_format:
            case WeightsFormat.SAFETENSORS:
                tensors, metadata = weights_safetensors.read_header(path)
                non_finite = weights_safetensors.non_finite_in(path)
            case WeightsFormat.SHARDED:
                tensors, metadata = weights_sharded.read_header(path)
                sha256 = weights_sharded.sha256_of_all(path, watch=watch)
                non_finite = weights_sharded.non_finite_in(path)
            case WeightsFormat.PYTORCH:
                findings = weights_pytorch.findings(path)
                if not findings:
                    state, notes = weights_pytorch.read_weights(path, mapped=True)
                    tensors, non_finite = weights_pytorch.tensors_of(state), weights_pytorch.non_finite_in(state)
            case WeightsFormat.ONNX:
                tensors, metadata = weights_onnx.read_header(path)
                beside = weights_onnx.hashes_beside(path)
                try:
                    non_finite = weights_onnx.non_finite_in(path)
                except NotEvaluable as error:  # its tensors lie in another file, and what is here can still be told
                    unread = str(error)
            case WeightsFormat.KERAS | WeightsFormat.HDF5 | WeightsFormat.SAVED_MODEL:
                told = weights_keras.look_into(path, weights_format)
                tensors, metadata, notes, beside = told.tensors, dict(told.metadata), told.notes, dict(told.beside)
                findings, non_finite, unread = told.findings, told.non_finite, told.unread
            case _ as never:
                assert_never(never)
    except UnsafeFile as error:
        findings = (Finding(id=error.finding, severity=Severity.HIGH, sentence=str(error)),)
    trainable = weights_format in {WeightsFormat.SAFETENSORS, WeightsFormat.SHARDED, WeightsFormat.PYTORCH}
    description, network = None, None
    try:
        description, network = _told(metadata, path, model)
    except SauError:
        if not findings:  # which no damage beside them hides
            raise
    return FileFacts(
        path=str(path),
        format=weights_format.value,
        size_bytes=path.stat().st_size,
        sha256=sha256 or sha256_of(path, watch=watch),
        tensors=tensors,
        metadata=metadata,
        description=description,
        findings=findings,
        recognition=_looked_into({one.name: one.shape for one in tensors}) if tensors and trainable else None,
        notes=(*notes, *(network.notes if network else ())),
        non_finite=non_finite,
        unread=unread,
        beside=beside,
    )


def _told(metadata: Mapping[str, str], path: Path, model: Path) -> tuple[Description | None, ToldNetwork | None]:
    """What describes a classifier: its file, what lies beside it, or its zoo; and what a folder of transformers tells.

    Raises:
        NotEvaluable: one of them is damaged, or describes no image classifier.
    """
    described = from_metadata(metadata) or described_beside(path)
    network = None if described else network_beside(path)
    if network is not None:
        return network.description, network
    return described or described_by_zoo(model), None


def _looked_into(shapes: Mapping[str, tuple[int, ...]]) -> Recognition:
    """The architecture of a file's tensors; where none fits (only then with torch), what keeps the nearest from it."""
    found = recognised(shapes)
    if found.fitting or not found.nearest or found.nearest[0].share < NEAR:
        return found
    from sau_adapters.architectures import explained

    first = found.nearest[0]
    unlike = explained(first.name, shapes, found.prefix, pixels=PIXELS)
    return replace(found, nearest=(replace(first, unlike=unlike), *found.nearest[1:]))


def read_checkpoint(model: Path, *, watch: Watch | None = None) -> Checkpoint:
    """Read weights and description.

    Args:
        model: a file, a folder with one, or a name in a zoo whose cache has it.
        watch: of the reading of the whole file, for its SHA-256.

    Raises:
        UsageError: no such file, or a folder without one.
        NotEvaluable: an unknown or damaged format.
        UnsafeFile: the file holds code, or its header lies.
    """
    path = weights_of(model)
    weights_format = recognised_format(path)
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    match weights_format:
        case WeightsFormat.SAFETENSORS:
            state, metadata = weights_safetensors.read_weights(path)
        case WeightsFormat.SHARDED:
            state, metadata = weights_sharded.read_weights(path)
            sha256 = weights_sharded.sha256_of_all(path, watch=watch)
        case WeightsFormat.PYTORCH:
            (state, notes), metadata = weights_pytorch.read_weights(path), {}
        case WeightsFormat.ONNX:
            state, metadata = {}, weights_onnx.read_header(path)[1]
        case WeightsFormat.KERAS | WeightsFormat.HDF5 | WeightsFormat.SAVED_MODEL:
            weights_keras.refuse(path, weights_format)
        case _ as never:
            assert_never(never)
    description, network = _told(metadata, path, model)
    if description is not None and description.classes == 1:  # one output, which tells two apart
        description = replace(description, class_names=("0", "1"))
    if description is not None and weights_onnx.normalises(metadata):
        description = replace(description, input=_with_normalisation(description.input, NORMALISATIONS["none"]))
    return Checkpoint(
        path=path,
        format=weights_format,
        sha256=sha256 or sha256_of(path, watch=watch),
        state=state,
        description=description,
        notes=(*notes, *(network.remarks if network else ())),
        metadata=metadata,
        source=source_of(model, path),
        network=network,
    )


def as_classifier(
    checkpoint: Checkpoint,
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
    from sau_adapters import architectures
    from sau_cli.classifier import BINARY, Classifier, check_runs

    if checkpoint.format is WeightsFormat.ONNX:
        if architecture is not None:
            raise UsageError(f"{checkpoint.path} is ONNX, which holds its own network; leave --arch out")
        return _of_graph(checkpoint, normalisation, image_shape, class_names, untold=untold, to_learn=to_learn)
    known = checkpoint.description
    if known is None and checkpoint.network is not None:
        known = _completed(checkpoint.network, checkpoint.path, normalisation or untold, image_shape)
    if known is not None and is_of_transformers(known.architecture) and architecture in {None, known.architecture}:
        return _of_transformers(checkpoint, known, normalisation)
    name = architecture or (known.architecture if known else None) or _recognised(checkpoint, image_shape)
    if name.startswith("user:"):
        raise NotEvaluable(
            f"{checkpoint.path} needs the class {name.removeprefix('user:')}, which sau lacks; add --arch FILE.py:CLASS"
        )
    try:
        name = architectures.canonical_name(name)
    except UsageError as error:
        if architecture is not None:
            raise
        raise NotEvaluable(f"{checkpoint.path} says of itself what cannot be true: {error}") from error
    _, height, width = image_shape or (3, PIXELS, PIXELS)
    state = architectures.as_named(name, checkpoint.state, height=height, width=width)
    before = checkpoint.normalisation_before(state)
    checkpoint = replace(checkpoint, state=state)
    if known is None:
        normalisation = _given_or_before(checkpoint.path, normalisation, before)
        known = _told_by_weights(checkpoint, name, normalisation or untold, image_shape, class_names)
    elif normalisation is not None:
        _check_same_normalisation(checkpoint.path, known.input, _with_normalisation(known.input, normalisation))
    known = replace(known, architecture=architectures.stored_name(name), config=None)
    outputs = known.classes
    if known.classes == BINARY:
        told, _ = architectures.told_sizes(name, checkpoint.state, height=known.input.height, width=known.input.width)
        outputs = 1 if told == 1 else BINARY
    architectures.check_state(name, checkpoint.state, classes=outputs, spec=known.input)
    try:
        network = architectures.build(name, classes=outputs, spec=known.input)
    except UsageError as error:
        if architecture is not None or "?" not in name:
            raise
        raise NotEvaluable(f"{checkpoint.path} says of itself what cannot be true: {error}") from error
    architectures.load_state(network, checkpoint.state, architecture=name)
    classifier = Classifier(network, known)
    classifier.eval()
    check_runs(classifier)
    return classifier


def _completed(
    told: ToldNetwork, path: Path, normalisation: Normalisation | None, image_shape: tuple[int, int, int] | None
) -> Description:
    """The description of a folder of transformers that lacks a part of it, which flags and images tell.

    Raises:
        NotEvaluable: as :func:`_described`.
    """
    height, width = told.size or (image_shape or (None, None, None))[1:]
    shape, given = (told.channels, height, width), told.normalisation or normalisation
    known = _described(path, told.architecture, shape, len(told.class_names), given, told.class_names)
    return replace(known, config=told.config)


def _of_transformers(checkpoint: Checkpoint, known: Description, normalisation: Normalisation | None) -> Classifier:
    """A network of transformers as a classifier. See :func:`as_classifier`."""
    from sau_adapters.transformers_networks import network_of
    from sau_cli.classifier import Classifier, check_runs

    if normalisation is not None:
        _check_same_normalisation(checkpoint.path, known.input, _with_normalisation(known.input, normalisation))
    classifier = Classifier(network_of(known, checkpoint.state, path=checkpoint.path), known)
    classifier.eval()
    check_runs(classifier)
    return classifier


def _of_graph(
    checkpoint: Checkpoint,
    normalisation: Normalisation | None,
    image_shape: tuple[int, int, int] | None,
    class_names: tuple[str, ...] | None,
    *,
    untold: Normalisation | None,
    to_learn: bool,
) -> Classifier:
    """An ONNX graph as a classifier. See :func:`as_classifier`."""
    from sau_adapters.onnx_networks import ConvertedOnnx, classifier_graph
    from sau_cli.classifier import Classifier, check_runs

    graph = classifier_graph(checkpoint.path)
    known = checkpoint.description
    if known is None:
        takes, shown = graph.input, image_shape or (None, None, None)
        shape = [own or other for own, other in zip((takes.channels, takes.height, takes.width), shown, strict=True)]
        normalisation = _of_first_steps(checkpoint.path, graph, normalisation) or untold
        known = _described(checkpoint.path, "onnx", shape, takes.classes, normalisation, class_names)
    elif normalisation is not None:
        _check_same_normalisation(checkpoint.path, known.input, _with_normalisation(known.input, normalisation))
    classifier = Classifier(ConvertedOnnx(checkpoint.path, graph) if to_learn else graph, known)
    classifier.eval()
    check_runs(classifier)
    return classifier


def _of_first_steps(path: Path, graph: OnnxNetwork, given: Normalisation | None) -> Normalisation | None:
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
                f"{path} normalises its input itself, in the first steps of its graph; leave --normalisation out"
            )
    return own


def _given_or_before(path: Path, given: Normalisation | None, before: Normalisation | None) -> Normalisation | None:
    """The normalisation of a layer in front of the network, where there is one; else what is given.

    Raises:
        UsageError: there are both.
    """
    if before is None:
        return given
    if given not in {None, NORMALISATIONS["none"]}:
        raise UsageError(f"{path} keeps its own normalisation; leave --normalisation out")
    return before


def notes_of(classifier: Classifier) -> tuple[str, ...]:
    """Sentences on how a graph is read, as they go on after its name; none of a network that is no graph."""
    reading = getattr(classifier.network, "reading", None)
    return reading.notes if reading is not None else ()


def normalises_itself(classifier: Classifier) -> bool:
    """Whether a network is a graph whose first steps normalise its input."""
    reading, takes_bytes = (getattr(classifier.network, name, None) for name in ("reading", "takes_bytes"))
    return reading is not None and bool(reading.normalises or reading.rescales or takes_bytes)


def check_learns_the_same(checkpoint: Checkpoint, classifier: Classifier, images: LabelledImages) -> None:
    """Compare a network that was made of an ONNX graph with the graph itself, in onnxruntime; others are their files'.

    Raises:
        NotEvaluable: they differ, so that what is learned would not be what was received.
    """
    if checkpoint.format is not WeightsFormat.ONNX:
        return
    from sau_adapters.export_onnx import GraphWriter
    from sau_cli.exporting.verification import compare, expected_answers
    from sau_cli.images import uniform_share

    if len(images) > MOST_IMAGES:
        images = images.take(uniform_share(images, MOST_IMAGES / len(images), seed=0))
    received = GraphWriter(description=classifier.description).open(checkpoint.path)
    failed = compare(expected_answers(classifier, images), received).failed
    if failed is not None:
        raise NotEvaluable(
            f"{checkpoint.path} does not convert to PyTorch exactly ({failed.evidence}), so it cannot be learned from; "
            "give the weights that it was exported from"
        )


def fitting_architectures(checkpoint: Checkpoint, image_shape: tuple[int, int, int] | None) -> tuple[str, ...]:
    """The architectures that the tensors' names and shapes are of, the likeliest first: of those that compute the same
    from them, one.

    Raises:
        NotEvaluable: none fits, and the sentence names the nearest; or the images are of another size.
    """
    from sau_adapters.architectures import all_alike

    found = _looked_into(checkpoint.shapes)
    if not found.fitting:
        nearest = ", ".join(f"{near.name} ({near.share:.0%} of the tensors in common)" for near in found.nearest)
        unlike = found.nearest[0].unlike if found.nearest else ""
        told = f" (nearest: {nearest}{f'; of the first, {unlike}' if unlike else ''})" if nearest else ""
        raise NotEvaluable(
            f"{checkpoint.path} does not say its architecture, and its tensors are of none that sau knows{told}; "
            "add --arch NAME, or FILE.py:CLASS for a class of your own"
        )
    first, size = found.fitting[0], found.fitting[0].size
    if size is not None and image_shape is not None and image_shape[1:] != (size, size):
        raise NotEvaluable(
            f"{checkpoint.path} is made for images of {size}x{size}, as its tensors tell, and these are "
            f"{image_shape[1]}x{image_shape[2]}; add --image-size {size} to resize them"
        )
    names = [one.name for one in found.fitting]
    if len(names) == 1 or len(names) > MOST_COMPARED:
        return tuple(names)
    state = Naming(names=found.names).applied(checkpoint.state)
    channels, height, width = image_shape or (first.channels or 3, first.size or PIXELS, first.size or PIXELS)
    channels = first.channels or channels
    spec = InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
    different: list[str] = []
    for name in names:
        if not any(all_alike((other, name), state, classes=first.classes or 1, spec=spec) for other in different):
            different.append(name)
    return tuple(different)


def _recognised(checkpoint: Checkpoint, image_shape: tuple[int, int, int] | None) -> str:
    """The one of :func:`fitting_architectures`.

    Raises:
        NotEvaluable: there are several.
    """
    names = fitting_architectures(checkpoint, image_shape)
    if len(names) > 1:
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise NotEvaluable(
            f"{checkpoint.path} does not say its architecture, and its tensors fit {listed}, which compute "
            f"different things; add --arch, such as --arch {names[0]}"
        )
    return names[0]


def _told_by_weights(
    checkpoint: Checkpoint,
    name: str,
    normalisation: Normalisation | None,
    image_shape: tuple[int, int, int] | None,
    class_names: tuple[str, ...] | None,
) -> Description:
    """The description of a file that has none: from its weights, its architecture and the flags."""
    from sau_adapters.architectures import told_sizes

    _, height, width = image_shape or (None, PIXELS, PIXELS)
    classes, channels = told_sizes(name, checkpoint.state, height=height, width=width)
    shape = (channels or image_shape[0], height, width) if image_shape else (None, None, None)
    return _described(checkpoint.path, name, shape, classes, normalisation, class_names)


def _described(
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
            f"{path} does not say how its images are normalised; add --normalisation NAME or MEANS/STDS "
            "(none, cifar10, imagenet, ... or such as .5,.5,.5/.2,.2,.2)"
        )
    from sau_cli.classifier import BINARY

    channels, height, width = shape
    if channels is None or height is None or width is None:
        raise NotEvaluable(f"{path} does not say its input size; add --image-size, such as 32, or --data")
    if classes == 1:  # one output, which tells two apart
        classes = BINARY
    classes = classes or len(class_names or ()) or 1  # if none tell, nothing will fit, and that is the better error
    fitting = class_names is not None and len(class_names) == classes
    names = class_names if class_names is not None and fitting else tuple(str(number) for number in range(classes))
    blank = InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
    return Description(architecture=architecture, class_names=names, input=_with_normalisation(blank, normalisation))


def renormalised(classifier: Classifier, normalisation: Normalisation) -> Classifier:
    """The same network behind another normalisation: means and standard deviations on pixels in [0, 1]."""
    from sau_cli.classifier import Classifier

    spec = _with_normalisation(classifier.description.input, normalisation)
    return Classifier(classifier.network, replace(classifier.description, input=spec)).eval()


def _check_same_normalisation(path: Path, told: InputSpec, given: InputSpec) -> None:
    """Raises UsageError when a flag says another normalisation than the file: one of the two is wrong."""
    if (told.mean, told.std) != (given.mean, given.std):
        raise UsageError(
            f"{path} says its normalisation is {told.mean}/{told.std}, and --normalisation says "
            f"{given.mean}/{given.std}; "
            "leave the flag out, or ask for a file that tells the truth"
        )


def _with_normalisation(spec: InputSpec, normalisation: Normalisation) -> InputSpec:
    mean, std = (values * spec.channels if len(values) == 1 else values for values in normalisation)
    return InputSpec(channels=spec.channels, height=spec.height, width=spec.width, mean=mean, std=std)


def save_classifier(path: Path, classifier: Classifier, description: Description, *, force: bool) -> None:
    """Write the network's state dict as safetensors, with the description as metadata.

    Raises:
        UsageError: the place cannot be written to, or is taken and ``force`` is off.
    """
    weights_safetensors.write_weights(path, classifier.network.state_dict(), to_metadata(description), force=force)


def save_like(
    checkpoint: Checkpoint, path: Path, classifier: Classifier, description: Description, *, proof: LabelledImages
) -> None:
    """Write a classifier that came from a checkpoint and has learned since, in the checkpoint's form.

    Weights keep their number formats (half precision, say). An ONNX graph keeps all but its weights' values; it is
    written only if it computes in onnxruntime what the classifier computes.

    Args:
        path: a file, replaced if it is there; or a folder, for what came from a folder of transformers.
        proof: images to compare on.

    Raises:
        UsageError: the place cannot be written to.
        ExportRejected: the graph computes something else.
    """
    if checkpoint.format is not WeightsFormat.ONNX:
        if is_of_transformers(description.architecture):
            from sau_adapters.transformers_networks import as_saved

            received, learned = checkpoint.state, as_saved(classifier.network)
        else:
            received = checkpoint.naming(classifier.network).applied(checkpoint.state)
            learned = classifier.network.state_dict()
        state = {
            name: tensor.to(received[name].dtype) if name in received else tensor for name, tensor in learned.items()
        }
        if path.is_dir():
            weights, *beside = FILES
            for name in beside:
                if checkpoint.path.with_name(name).is_file():
                    shutil.copyfile(checkpoint.path.with_name(name), path / name)
            path = path / weights
        weights_safetensors.write_weights(path, state, to_metadata(description), force=True)
        return
    from sau_adapters.export_onnx import GraphWriter
    from sau_cli.exporting.exporter import export

    writer = GraphWriter(description=description, metadata={"sau.source_sha256": checkpoint.sha256})
    with written_whole(path) as temporary:
        export(classifier.cpu(), temporary, exporter=writer, data=proof)

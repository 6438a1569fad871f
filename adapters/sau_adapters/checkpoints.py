"""A checkpoint: a model file on disk, recognised by content, opened safely, saved in one piece."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from sau_adapters import weights_onnx, weights_pytorch, weights_safetensors, weights_sharded
from sau_adapters.architecture_index import Prefix, prefixes, recognised, without
from sau_adapters.files import Watch, check_readable, folder_written_whole, sha256_of, written_whole
from sau_adapters.metadata import from_metadata, to_metadata
from sau_adapters.model_folders import SUFFIXES, described_beside
from sau_adapters.model_zoos import described_by_zoo, weights_of
from sau_adapters.tables import NORMALISATIONS, Normalisation, WeightsFormat
from sau_adapters.transformers_folders import FILES, ToldNetwork, is_of_transformers, network_beside
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, SauError, UnsafeFile, UsageError
from sau_cli.inspection.file_facts import FileFacts, Finding, NonFinite, Recognition, TensorFacts
from sau_cli.results import Severity

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sau_cli.classifier import Classifier
    from sau_cli.images import LabelledImages

HEAD_BYTES = 4096
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
        network: of transformers, as the folder tells, where the description does not come from the file itself.
    """

    path: Path
    format: WeightsFormat
    sha256: str
    state: Mapping[str, Tensor]
    description: Description | None
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    network: ToldNetwork | None = None

    def prefix(self, network: nn.Module) -> Prefix:
        """What names of the weights begin with beside the network's own, such as ``module.``; often nothing."""
        own = network.state_dict().keys()
        possible = prefixes(self.state)
        return max(possible, key=lambda one: sum(without(name, one) in own for name in self.state))

    def without_prefix(self, prefix: Prefix) -> dict[str, Tensor]:
        """The weights under names without what they begin with."""
        return {without(name, prefix): tensor for name, tensor in self.state.items()}


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
            case _ as never:
                assert_never(never)
    except UnsafeFile as error:
        findings = (Finding(id=error.finding, severity=Severity.HIGH, sentence=str(error)),)
    trainable = weights_format is not WeightsFormat.ONNX
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
        case _ as never:
            assert_never(never)
    description, network = _told(metadata, path, model)
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
        network=network,
    )


def as_classifier(
    checkpoint: Checkpoint,
    *,
    architecture: str | None = None,
    normalisation: Normalisation | None = None,
    image_shape: tuple[int, int, int] | None = None,
    class_names: tuple[str, ...] | None = None,
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
        to_learn: gradients are wanted.

    Raises:
        NotEvaluable: something is not known, and the sentence names the flag to add; or weights do not fit.
        UsageError: an unknown architecture, or a normalisation that is not the file's own.
    """
    from sau_adapters import architectures
    from sau_cli.classifier import Classifier, check_runs

    if checkpoint.format is WeightsFormat.ONNX:
        if architecture is not None:
            raise UsageError(f"{checkpoint.path} is ONNX, which holds its own network; leave --arch out")
        return _of_graph(checkpoint, normalisation, image_shape, class_names, to_learn=to_learn)
    known = checkpoint.description
    if known is None and checkpoint.network is not None:
        known = _completed(checkpoint.network, checkpoint.path, normalisation, image_shape)
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
    prefix = architectures.own_prefix(name, checkpoint.state, height=height, width=width)
    checkpoint = replace(checkpoint, state=checkpoint.without_prefix(prefix))
    if known is None:
        known = _told_by_weights(checkpoint, name, normalisation, image_shape, class_names)
    elif normalisation is not None:
        _check_same_normalisation(checkpoint.path, known.input, _with_normalisation(known.input, normalisation))
    known = replace(known, architecture=architectures.stored_name(name), config=None)
    architectures.check_state(name, checkpoint.state, classes=known.classes, spec=known.input)
    network = architectures.build(name, classes=known.classes, spec=known.input)
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
    to_learn: bool,
) -> Classifier:
    """An ONNX graph as a classifier. See :func:`as_classifier`."""
    from sau_adapters.onnx_networks import ConvertedOnnx, OnnxNetwork
    from sau_cli.classifier import Classifier, check_runs

    graph = OnnxNetwork(checkpoint.path)
    known = checkpoint.description
    if known is None:
        takes, shown = graph.input, image_shape or (None, None, None)
        shape = [own or other for own, other in zip((takes.channels, takes.height, takes.width), shown, strict=True)]
        known = _described(checkpoint.path, "onnx", shape, takes.classes, normalisation, class_names)
    elif normalisation is not None:
        _check_same_normalisation(checkpoint.path, known.input, _with_normalisation(known.input, normalisation))
    classifier = Classifier(ConvertedOnnx(checkpoint.path) if to_learn else graph, known)
    classifier.eval()
    check_runs(classifier)
    return classifier


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


def _recognised(checkpoint: Checkpoint, image_shape: tuple[int, int, int] | None) -> str:
    """The architecture that the tensors' names and shapes are of.

    Raises:
        NotEvaluable: none fits, and the sentence names the nearest; or several that do not compute the same.
    """
    from sau_adapters.architectures import all_alike

    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.state.items()}
    found = _looked_into(shapes)
    if not found.fitting:
        nearest = ", ".join(f"{near.name} ({near.share:.0%} of the tensors in common)" for near in found.nearest)
        unlike = found.nearest[0].unlike if found.nearest else ""
        told = f" (nearest: {nearest}{f'; of the first, {unlike}' if unlike else ''})" if nearest else ""
        raise NotEvaluable(
            f"{checkpoint.path} does not say its architecture, and its tensors are of none that sau knows{told}; "
            "add --arch NAME, or FILE.py:CLASS for a class of your own"
        )
    size = found.fitting[0].size
    if size is not None and image_shape is not None and image_shape[1:] != (size, size):
        raise NotEvaluable(
            f"{checkpoint.path} is made for images of {size}x{size}, as its tensors tell, and these are "
            f"{image_shape[1]}x{image_shape[2]}; add --image-size {size} to resize them"
        )
    first, names = found.fitting[0], [one.name for one in found.fitting]
    if len(names) > 1:
        state = checkpoint.without_prefix(found.prefix)
        channels, height, width = image_shape or (first.channels or 3, first.size or PIXELS, first.size or PIXELS)
        channels = first.channels or channels
        spec = InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
        if len(names) > MOST_COMPARED or not all_alike(names, state, classes=first.classes or 1, spec=spec):
            listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise NotEvaluable(
                f"{checkpoint.path} does not say its architecture, and its tensors fit {listed}, which compute "
                f"different things; add --arch, such as --arch {names[0]}"
            )
    return first.name


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
    channels, height, width = shape
    if channels is None or height is None or width is None:
        raise NotEvaluable(f"{path} does not say its input size; add --image-size, such as 32, or --data")
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
            received = checkpoint.without_prefix(checkpoint.prefix(classifier.network))
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

"""A checkpoint: a model file on disk, recognised by content, opened safely, saved in one piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from sau_adapters import weights_onnx, weights_pytorch, weights_safetensors, weights_sharded
from sau_adapters.architecture_index import recognised
from sau_adapters.files import check_readable, sha256_of
from sau_adapters.metadata import from_metadata, to_metadata
from sau_adapters.model_folders import described_beside, weights_in
from sau_adapters.tables import Normalisation, WeightsFormat
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from sau_cli.inspection.file_facts import FileFacts, Finding, Severity, TensorFacts

if TYPE_CHECKING:
    from torch import Tensor

    from sau_cli.classifier import Classifier

HEAD_BYTES = 4096
PIXELS = 224
"""On a side, where nothing tells."""
MOST_COMPARED = 8
"""Architectures that are built to see whether they compute the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A model file's weights, on the CPU, and what the file says of them.

    Attributes:
        description: from the file's metadata; None where it says nothing.
    """

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    description: Description | None

    def without_prefix(self, prefix: str) -> dict[str, Tensor]:
        """The weights under names without what they all begin with."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.state.items()}


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


def file_facts(path: Path) -> FileFacts:
    """What a model file is, without loading its weights where the format allows it.

    A file that must not be opened is described as far as that is safe, with the findings that say why.

    Raises:
        UsageError, NotEvaluable: as :func:`recognised_format`, or the file is damaged.
    """
    path = weights_in(path)
    weights_format = recognised_format(path)
    sha256: str | None = None
    tensors: tuple[TensorFacts, ...] | None = None
    metadata: dict[str, str] = {}
    findings: tuple[Finding, ...] = ()
    match weights_format:
        case WeightsFormat.SAFETENSORS:
            try:
                tensors, metadata = weights_safetensors.read_header(path)
            except UnsafeFile as error:
                findings = (Finding(id="file.header", severity=Severity.HIGH, sentence=str(error)),)
        case WeightsFormat.SHARDED:
            try:
                tensors, metadata = weights_sharded.read_header(path)
                sha256 = weights_sharded.sha256_of_all(path)
            except UnsafeFile as error:
                findings = (Finding(id="file.header", severity=Severity.HIGH, sentence=str(error)),)
        case WeightsFormat.PYTORCH:
            findings = weights_pytorch.findings(path)
            if not findings:
                try:
                    tensors = weights_pytorch.tensors_of(path)
                except UnsafeFile as error:
                    findings = (Finding(id="file.pickle-code", severity=Severity.HIGH, sentence=str(error)),)
        case WeightsFormat.ONNX:
            try:
                tensors, metadata = weights_onnx.read_header(path)
            except UnsafeFile as error:
                findings = (Finding(id="file.header", severity=Severity.HIGH, sentence=str(error)),)
        case _ as never:
            assert_never(never)
    trainable = weights_format is not WeightsFormat.ONNX
    return FileFacts(
        path=str(path),
        format=weights_format.value,
        size_bytes=path.stat().st_size,
        sha256=sha256 or sha256_of(path),
        tensors=tensors,
        metadata=metadata,
        description=from_metadata(metadata) or described_beside(path),
        findings=findings,
        recognition=recognised({one.name: one.shape for one in tensors}) if tensors and trainable else None,
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read weights and description.

    Raises:
        UsageError: no such file, or a folder without one.
        NotEvaluable: an unknown or damaged format, or one whose weights cannot be trained.
        UnsafeFile: the file holds code, or its header lies.
    """
    path = weights_in(path)
    weights_format = recognised_format(path)
    sha256: str | None = None
    match weights_format:
        case WeightsFormat.SAFETENSORS:
            state, metadata = weights_safetensors.read_weights(path)
        case WeightsFormat.SHARDED:
            state, metadata = weights_sharded.read_weights(path)
            sha256 = weights_sharded.sha256_of_all(path)
        case WeightsFormat.PYTORCH:
            state, metadata = weights_pytorch.read_weights(path)
        case WeightsFormat.ONNX:
            raise NotEvaluable(f"{path} is ONNX, which this command cannot open; give the safetensors it was made from")
        case _ as never:
            assert_never(never)
    description = from_metadata(metadata) or described_beside(path)
    return Checkpoint(path=path, sha256=sha256 or sha256_of(path), state=state, description=description)


def as_classifier(
    checkpoint: Checkpoint,
    *,
    architecture: str | None = None,
    normalisation: Normalisation | None = None,
    image_shape: tuple[int, int, int] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Classifier:
    """Build the network and load the weights into it.

    Args:
        architecture: overrides the file's own; needed where the file names none and its tensors fit none, or several
            that compute different things.
        normalisation: means and standard deviations on pixels in [0, 1], where the file names none.
        image_shape: channels, height and width of the images at hand, where the file names no input; the
            weights have the last word on channels.
        class_names: of the data, where the file names none; used if there are as many as the model has classes.

    Raises:
        NotEvaluable: something is not known, and the sentence names the flag to add; or weights do not fit.
        UsageError: an unknown architecture, or a normalisation that is not the file's own.
    """
    from sau_adapters import architectures
    from sau_cli.classifier import Classifier, check_runs

    known = checkpoint.description
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
    known = replace(known, architecture=architectures.stored_name(name))
    architectures.check_state(name, checkpoint.state, classes=known.classes, spec=known.input)
    network = architectures.build(name, classes=known.classes, spec=known.input)
    architectures.load_state(network, checkpoint.state, architecture=name)
    classifier = Classifier(network, known)
    classifier.eval()
    check_runs(classifier)
    return classifier


def _recognised(checkpoint: Checkpoint, image_shape: tuple[int, int, int] | None) -> str:
    """The architecture that the tensors' names and shapes are of.

    Raises:
        NotEvaluable: none fits, and the sentence names the nearest; or several that do not compute the same.
    """
    from sau_adapters.architectures import all_alike

    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.state.items()}
    found = recognised(shapes)
    if not found.fitting:
        nearest = ", ".join(f"{near.name} ({near.share:.0%} of the tensors in common)" for near in found.nearest)
        raise NotEvaluable(
            f"{checkpoint.path} does not say its architecture, and its tensors are of none that sau knows"
            f"{f' (nearest: {nearest})' if nearest else ''}; add --arch NAME, or FILE.py:CLASS for a class of your own"
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

    if normalisation is None:
        raise NotEvaluable(
            f"{checkpoint.path} does not say how its images are normalised; add --normalisation NAME or MEANS/STDS "
            "(none, cifar10, imagenet, ... or such as .5,.5,.5/.2,.2,.2)"
        )
    if image_shape is None:
        raise NotEvaluable(f"{checkpoint.path} does not say its input size; add --image-size, such as 32, or --data")
    shown, height, width = image_shape
    classes, channels = told_sizes(name, checkpoint.state, height=height, width=width)
    classes = (
        classes or len(class_names or ()) or 1
    )  # if none tell, the weights will not fit, and that is the better error
    channels = channels or shown  # a network that takes one kind only tells none
    fitting = class_names is not None and len(class_names) == classes
    names = class_names if class_names is not None and fitting else tuple(str(number) for number in range(classes))
    blank = InputSpec(channels=channels, height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels)
    return Description(architecture=name, class_names=names, input=_with_normalisation(blank, normalisation))


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


def save_classifier(
    path: Path,
    classifier: Classifier,
    description: Description,
    *,
    force: bool,
    like: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the network's state dict as safetensors, with the description as metadata.

    Args:
        like: weights of the file that the classifier came from, whose number formats are kept (half precision, say).

    Raises:
        UsageError: the place cannot be written to, or is taken and ``force`` is off.
    """
    state = classifier.network.state_dict()
    if like is not None:
        state = {name: tensor.to(like[name].dtype) if name in like else tensor for name, tensor in state.items()}
    weights_safetensors.write_weights(path, state, to_metadata(description), force=force)

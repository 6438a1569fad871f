"""Classifiers written to disk, in the form that they came in."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.classifiers.metadata import to_metadata
from sau_adapters.files import folder_written_whole, written_whole
from sau_adapters.weights.safetensors import write_weights
from sau_adapters.zoos.folders import SUFFIXES
from sau_adapters.zoos.transformers_folders import TRANSFORMERS_FILES, is_of_transformers, network_beside
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_cli.classifier import Classifier
    from sau_cli.images import LabelledImages


def suffix_of_result(model: OpenedModel, out: Path | None = None) -> str:
    """How the name ends of what :func:`save_like` writes for what is made of this model.

    Nothing for a folder as transformers loads it: that is what a model of transformers becomes, unless a file is named.

    Args:
        out: the name that was asked for.

    Raises:
        NotEvaluable: what lies beside the model is damaged.
    """
    if model.graph is not None:
        return ".onnx"
    folder = model.located.spec.is_dir() if out is None else out.suffix not in SUFFIXES
    return "" if folder and model.folder_of_transformers is not None else ".safetensors"


def written_result(path: Path, *, folder: bool) -> AbstractContextManager[Path]:
    """A temporary name for :func:`save_like` to write to, a folder or a file, renamed when the block ends well."""
    return folder_written_whole(path, files=TRANSFORMERS_FILES) if folder else written_whole(path)


def save_classifier(path: Path, classifier: Classifier, description: Description, *, force: bool) -> None:
    """Write the network's state dict as safetensors, with the description as metadata.

    Raises:
        UsageError: the place cannot be written to, or is taken and ``force`` is off.
    """
    write_weights(path, classifier.network.state_dict(), to_metadata(description), force=force)


def save_like(
    model: OpenedModel, path: Path, classifier: Classifier, description: Description, *, proof: LabelledImages
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
        NotEvaluable: the configuration in the folder of transformers is another by now.
    """
    if model.graph is None:
        if is_of_transformers(description.architecture):
            from sau_adapters.architectures.transformers_networks import as_saved

            received, learned = model.state, as_saved(classifier.network)
        else:
            received = model.naming(classifier.network).applied(model.state)
            learned = classifier.network.state_dict()
        state = {
            name: tensor.to(received[name].dtype) if name in received else tensor for name, tensor in learned.items()
        }
        if path.is_dir():
            if network_beside(model.path) != model.folder_of_transformers:
                raise NotEvaluable(f"what lies beside {model.path} was changed meanwhile; run the same command again")
            weights, *beside = TRANSFORMERS_FILES
            for name in beside:
                if model.path.with_name(name).is_file():
                    shutil.copyfile(model.path.with_name(name), path / name)
            path = path / weights
        write_weights(path, state, to_metadata(description), force=True)
        return
    from sau_adapters.onnx.export import GraphWriter
    from sau_cli.exporting.exporter import export

    writer = GraphWriter(description=description, metadata={"sau.source_sha256": model.sha256})
    with written_whole(path) as temporary:
        export(classifier.cpu(), temporary, exporter=writer, data=proof)

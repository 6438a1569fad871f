"""ONNX out: a classifier exported, its normalisation inside the graph; or what was learned, back in its own graph."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from sau_adapters.metadata import to_metadata
from sau_adapters.onnx_networks import ConvertedOnnx, OnnxNetwork
from sau_adapters.weights_onnx import INSIDE, PREPROCESSING
from sau_cli.classifier import Classifier
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, reason_of
from sau_cli.exporting.verification import Runner, Verification
from sau_cli.model_state import evaluating

DEFAULT_OPSET = 18
INPUT, OUTPUT = "images", "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExporter:
    """Writes ONNX with a dynamic batch axis, and runs it in onnxruntime.

    Attributes:
        opset: the ONNX operator set.
        metadata: further entries of ``metadata_props``, beside the description and preprocessing.
    """

    opset: int = DEFAULT_OPSET
    metadata: Mapping[str, str] = field(default_factory=dict)

    def write(self, classifier: Classifier, path: Path) -> None:
        """Write the file; the graph takes pixels in [0, 1], normalisation included.

        Raises:
            NotEvaluable: this network cannot be exported.
        """
        model = _exported(classifier, self.opset)
        preprocessing = json.dumps(_preprocessing(classifier.description.input))
        _set_metadata(model, to_metadata(classifier.description) | {PREPROCESSING: preprocessing})
        _set_metadata(model, self.metadata)
        onnx.save(model, str(path))

    def open(self, path: Path) -> Runner:
        """Open a file in onnxruntime: images (N, C, H, W) float in [0, 1] to logits (N, K)."""
        return OnnxNetwork(path)

    def stamp(self, path: Path, verification: Verification) -> None:
        """Add the figures to ``metadata_props``, and let onnx check the whole file."""
        _stamp(path, verification)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWriter:
    """Writes what was learned back into the graph that a classifier came from, and runs it in onnxruntime.

    Attributes:
        metadata: further entries of ``metadata_props``, beside the description; the graph's other entries stay.
    """

    description: Description
    metadata: Mapping[str, str] = field(default_factory=dict)

    def write(self, classifier: Classifier, path: Path) -> None:
        """Write the file. The classifier's network must be a :class:`sau_adapters.onnx_networks.ConvertedOnnx`."""
        network = classifier.network
        if not isinstance(network, ConvertedOnnx):
            raise TypeError("only a network that came from a graph goes back into it")
        model = network.written_back()
        _set_metadata(model, to_metadata(self.description))
        _set_metadata(model, self.metadata)
        onnx.save(model, str(path))

    def open(self, path: Path) -> Runner:
        """Open a file in onnxruntime, behind the normalisation that the graph leaves to its caller."""
        return Classifier(OnnxNetwork(path), self.description)

    def stamp(self, path: Path, verification: Verification) -> None:
        """Add the figures to ``metadata_props``, and let onnx check the whole file."""
        _stamp(path, verification)


def _stamp(path: Path, verification: Verification) -> None:
    model = onnx.load(str(path))
    _set_metadata(model, {"sau.verification": json.dumps(_figures(verification))})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _exported(classifier: Classifier, opset: int) -> onnx.ModelProto:
    spec = classifier.description.input
    example = torch.zeros(2, spec.channels, spec.height, spec.width)
    with evaluating(classifier), _silenced():
        try:
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many kinds
            if _interrupted(error):
                raise KeyboardInterrupt from error
            raise NotEvaluable(
                f"{classifier.description.architecture} could not be exported to ONNX ({reason_of(error)}); "
                "nothing was written"
            ) from error
    if program is None:
        raise NotEvaluable("the exporter returned nothing; nothing was written")
    model: onnx.ModelProto = program.model_proto
    return model


def _interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is at the bottom of what the exporter raised."""
    below = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (below is not None and _interrupted(below))


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the exporter's own talk off the streams, which belong to the command."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _set_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    kept = [entry for entry in model.metadata_props if entry.key not in entries]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def _preprocessing(spec: InputSpec) -> dict[str, Any]:
    """What a service must feed: pixels divided by 255, nothing more."""
    return {
        "input": INPUT,
        "layout": "NCHW",
        "dtype": "float32",
        "range": [0, 1],
        "colour": {1: "grey", 3: "RGB"}.get(spec.channels, f"{spec.channels} channels"),
        "channels": spec.channels,
        "height": spec.height,
        "width": spec.width,
        "normalisation": INSIDE,
        "mean": spec.mean,
        "std": spec.std,
    }


def _figures(verification: Verification) -> dict[str, Any]:
    return {
        "images": verification.images,
        "top1_agreement": verification.agreement.value,
        "accuracy": verification.exported_accuracy.value,
        "accuracy_pytorch": verification.accuracy.value,
        "largest_logit_difference": verification.largest_difference,
        "onnxruntime": onnxruntime.__version__,
    }

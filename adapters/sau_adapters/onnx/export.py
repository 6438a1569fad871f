"""ONNX out: a classifier exported, its normalisation inside the graph; or what was learned, back in its own graph."""

from __future__ import annotations

import ctypes
import gc
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import onnxruntime
import torch
from torch import Tensor

from sau_adapters.classifiers.metadata import to_metadata
from sau_adapters.onnx import onnx_files, onnx_forms
from sau_adapters.onnx.networks import ConvertedOnnx, OnnxNetwork, classifier_graph
from sau_adapters.onnx.onnx_forms import IMAGES, LOGITS, PROBABILITIES
from sau_adapters.silence import silenced
from sau_adapters.weights.onnx import INSIDE, PREPROCESSING, open_graph
from sau_cli import __version__
from sau_cli.classifier import Classifier
from sau_cli.description import Description, HistoryStep, InputSpec
from sau_cli.errors import NotEvaluable, argument, reason_of
from sau_cli.exporting.exporter import ProvenExport
from sau_cli.exporting.verification import ExportedModel, Verification, VerificationLimits, loss_limits, provider_id
from sau_cli.gating.policy import VERIFICATION
from sau_cli.model_state import evaluating
from sau_cli.results import Check, CheckStatus

DEFAULT_OPSET, LOWEST_OPSET, HIGHEST_OPSET = 18, 18, 23
REMOTE = {"AzureExecutionProvider": "it sends images to a service, and nothing leaves this machine"}
"""Providers that are never used, and why."""


class Smaller(StrEnum):
    """Forms that compute less exactly."""

    FP16 = "fp16"
    INT8 = "int8"


_METHODS = ("MinMax", "Percentile")
"""Of calibration, in the order in which they are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxExporter:
    """Writes ONNX with a dynamic batch axis, and runs it in onnxruntime.

    PyTorch has two exporters: the current one, which is tried first, and the one before, by TorchScript.

    Attributes:
        opset: the ONNX operator set.
        metadata: further entries of ``metadata_props``, beside the description, preprocessing and figures.
        source_sha256: of the file that the classifier came from, for its history.
        dynamic_size: height and width are free too.
        bake: take uint8 images (N, H, W, C) and give probabilities.
        smaller: half precision, or 8 bits.
        calibration: clean images (N, C, H, W) uint8 to quantise by.
        smaller_limits: what a smaller form owes; by default, what is usual for it.
        external_above: bytes of weights from which they are kept in a file beside the graph.
    """

    opset: int = DEFAULT_OPSET
    metadata: Mapping[str, str] = field(default_factory=dict)
    source_sha256: str | None = None
    dynamic_size: bool = False
    bake: bool = False
    smaller: Smaller | None = None
    calibration: Tensor | None = None
    smaller_limits: VerificationLimits | None = None
    external_above: int = onnx_files.EXTERNAL_ABOVE

    @property
    def form_limits(self) -> VerificationLimits | None:
        """What a smaller form owes; a baked graph of the same precision owes what the graph does."""
        return None if self.smaller is None else self.smaller_limits or loss_limits(self.smaller)

    def ways(self, classifier: Classifier) -> tuple[str, ...]:
        """Of PyTorch's two exporters, each simplified if that keeps every check passing; a large one never is."""
        if sum(tensor.nbytes for tensor in classifier.state_dict().values()) > self.external_above:
            return ("dynamo", "torchscript")
        return ("dynamo, simplified", "dynamo", "torchscript, simplified", "torchscript")

    @property
    def forms(self) -> tuple[str, ...]:
        """Of the exact graph; those of 8 bits differ in how the range of values is found."""
        baked = ", baked" if self.bake else ""
        match self.smaller:
            case Smaller.FP16:
                return (f"fp16{baked}",)
            case Smaller.INT8:
                return tuple(f"int8 by {method}{baked}" for method in _METHODS)
            case None:
                return ("baked",) if self.bake else ()

    def write(self, classifier: Classifier, path: Path, way: str) -> None:
        """Write the graph; it takes pixels in [0, 1], normalisation included.

        Raises:
            NotEvaluable: this network cannot be exported, or not in this way.
        """
        exporter, _, simplified = way.partition(", ")
        program = _exported if exporter == "dynamo" else _traced
        model = program(classifier, self.opset, dynamic_size=self.dynamic_size)
        if onnx_files.weights_size(model) > self.external_above:
            onnx_files.write_external(model, path)
            del model
            give_memory_back()
            return
        proto = onnx_ir.to_proto(model)
        del model
        onnx.save(onnx_forms.simplified(proto) if simplified else proto, str(path))

    def transform(self, path: Path, form: str) -> None:
        """Make a form of the graph at ``path``, in its place; the graph is kept in a folder beside until the end.

        Raises:
            NotEvaluable: this graph has no such form.
        """
        graph = path.parent / ".graph" / path.name
        if not graph.is_file():
            graph.parent.mkdir(exist_ok=True)
            onnx_files.move(path, graph)
        for left in onnx_files.files_of(path):
            left.unlink(missing_ok=True)
        if self.smaller is not None and onnx_files.data_path(graph).is_file():
            raise NotEvaluable(
                f"weights of over {self.external_above:,} bytes are exported in float32 only; "
                f"leave out {argument('precision')} and {argument('quantize')}"
            )
        if self.smaller is Smaller.FP16:
            model = onnx_forms.half(onnx.load(str(graph)))
        elif self.smaller is Smaller.INT8:
            if self.calibration is None:
                raise NotEvaluable("there are no clean images to quantise by; nothing was written")
            method = form.removeprefix("int8 by ").removesuffix(", baked")
            onnx_forms.quantised(graph, path, self.calibration, method=method)
            model = onnx.load(str(path))
        else:
            model = onnx.load(str(graph), load_external_data=False)
        onnx.save(onnx_forms.baked(model) if self.bake else model, str(path))
        if onnx_files.data_path(graph).is_file():
            shutil.copyfile(onnx_files.data_path(graph), onnx_files.data_path(path))

    def open(self, path: Path) -> ExportedModel:
        """Open a file in onnxruntime, on every execution provider that works here.

        Raises:
            NotEvaluable: none does, or the file cannot be opened.
        """
        checks, runners = [_checked(path, self.opset)], {}
        available = onnxruntime.get_available_providers()
        if "CPUExecutionProvider" not in available:
            raise NotEvaluable("onnxruntime has no execution provider here, so nothing can be verified; reinstall it")
        for name in sorted(available, key=lambda provider: provider != "CPUExecutionProvider"):
            why = REMOTE.get(name)
            if why is None:
                try:
                    runners[name] = OnnxNetwork(path, provider=name)
                except NotEvaluable as error:
                    if name == "CPUExecutionProvider":
                        raise
                    why = str(error)
            if why is not None:
                sentence = f"not run on {name}: {why}"
                checks.append(Check(id=provider_id(name), status=CheckStatus.SKIPPED, evidence=sentence))
        checks.append(_free_batch(runners["CPUExecutionProvider"]))
        logits = None
        if self.bake and PROBABILITIES in _outputs(path):
            probe = path.with_name(".up_to_logits.onnx")
            onnx.save(onnx_forms.up_to_logits(onnx.load(str(path), load_external_data=False)), str(probe))
            logits = OnnxNetwork(probe, provider="CPUExecutionProvider")
            probe.unlink()
        return ExportedModel(runners=runners, logits=logits, checks=tuple(checks))

    def described(self, description: Description, way: str, form: str = "") -> Description:
        """The description with the export as the last step of its history."""
        settings = {
            "opset": self.opset,
            "way": way,
            "form": form,
            "bake_preprocessing": self.bake,
            "dynamic_size": self.dynamic_size,
        }
        step = HistoryStep(
            step="export", settings=settings, seed=0, input_sha256=self.source_sha256, tool_version=__version__
        )
        return replace(description, history=(*description.history, step))

    def entries(self, description: Description) -> dict[str, str]:
        """The ``metadata_props`` of a graph: what it is and what it is fed; the figures are added when it is proven."""
        fed = json.dumps(self.preprocessing(description.input))
        return to_metadata(description) | {PREPROCESSING: fed, **self.metadata}

    def preprocessing(self, spec: InputSpec) -> dict[str, Any]:
        """What a service must feed: pixels divided by 255, nothing more; or bytes as they are."""
        return _preprocessing(spec, baked=self.bake, dynamic_size=self.dynamic_size)

    def figures(self, verification: Verification) -> dict[str, Any]:
        """What of a verification is kept in the file and in its statement."""
        return _figures(verification)

    def stamp(self, path: Path, proven: ProvenExport, description: Description) -> None:
        """Add the description and the figures to ``metadata_props``, and let onnx check the whole file once more."""
        described = self.described(description, proven.way, proven.form)
        onnx_files.add_metadata(
            path, self.entries(described) | {VERIFICATION: json.dumps(_figures(proven.verification))}
        )
        onnx.checker.check_model(str(path), full_check=True)
        shutil.rmtree(path.parent / ".graph", ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphWriter:
    """Writes what was learned back into the graph that a classifier came from, and runs it in onnxruntime.

    Attributes:
        metadata: further entries of ``metadata_props``, beside the description; the graph's other entries stay.
    """

    description: Description
    metadata: Mapping[str, str] = field(default_factory=dict)

    def ways(self, classifier: Classifier) -> tuple[str, ...]:  # noqa: ARG002 (there is one)
        """Back into the graph."""
        return ("written back",)

    @property
    def forms(self) -> tuple[str, ...]:
        return ()

    @property
    def form_limits(self) -> None:
        return None

    def write(self, classifier: Classifier, path: Path, way: str) -> None:  # noqa: ARG002 (there is one)
        """Write the file. The classifier's network must be a :class:`sau_adapters.onnx.networks.ConvertedOnnx`."""
        network = classifier.network
        if not isinstance(network, ConvertedOnnx):
            raise TypeError("only a network that came from a graph goes back into it")
        model = network.written_back()
        onnx_files.drop_metadata(model, VERIFICATION)
        onnx_files.set_metadata(model, to_metadata(self.description) | dict(self.metadata))
        onnx.save(model, str(path))

    def transform(self, path: Path, form: str) -> None:
        """There are no forms of it."""
        raise NotImplementedError

    def open(self, path: Path) -> ExportedModel:
        """Open a file in onnxruntime, up to its logits, behind the normalisation that it leaves to its caller."""
        return ExportedModel(runners={"": Classifier(classifier_graph(open_graph(path)), self.description)})

    def stamp(self, path: Path, proven: ProvenExport, description: Description) -> None:  # noqa: ARG002 (its own)
        """Add the figures to ``metadata_props``, and let onnx check the whole file."""
        onnx_files.add_metadata(path, {VERIFICATION: json.dumps(_figures(proven.verification))})
        onnx.checker.check_model(str(path), full_check=True)


def give_memory_back() -> None:
    """Let the system have what was freed; the C library keeps it otherwise. What exporters leave is knotted."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc has this, others do not
        ctypes.CDLL(None).malloc_trim(0)


def _checked(path: Path, opset: int) -> Check:
    """What onnx's own checker says of a file, in full, and whether its operator set is the one that was asked for."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        found = next((operators.version for operators in model.opset_import if operators.domain in {"", "ai.onnx"}), 0)
        passed, evidence = found == opset, f"onnx.checker passes it in full; operator set {found}"
        evidence += "" if passed else f", and {opset} was asked for"
    except Exception as error:  # noqa: BLE001 (the checker has kinds of its own)
        passed, evidence = False, f"onnx.checker: {reason_of(error)}"
    status = CheckStatus.PASSED if passed else CheckStatus.FAILED
    return Check(id="export.checker", status=status, value=opset, evidence=evidence)


def _free_batch(network: OnnxNetwork) -> Check:
    frozen = network.input.batch
    evidence = "the batch axis is free" if frozen is None else f"the batch axis is frozen to {frozen}"
    status = CheckStatus.PASSED if frozen is None else CheckStatus.FAILED
    return Check(id="export.batch-axis", status=status, value=frozen, evidence=evidence)


def _outputs(path: Path) -> list[str]:
    return [output.name for output in onnx.load(str(path), load_external_data=False).graph.output]


def _exported(classifier: Classifier, opset: int, *, dynamic_size: bool) -> onnx_ir.Model:
    """By the current exporter of PyTorch."""
    batch = torch.export.Dim("batch", min=1)
    free = torch.export.Dim.AUTO  # what it takes to be fixed is found when other sizes are run
    axes = {0: batch, 2: free, 3: free} if dynamic_size else {0: batch}
    with _exporting(classifier):
        program = torch.onnx.export(
            classifier,
            (_example(classifier),),
            dynamo=True,
            input_names=[IMAGES],
            output_names=[LOGITS],
            dynamic_shapes={"images": axes},
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise NotEvaluable("the exporter returned nothing; nothing was written")
    model: onnx_ir.Model = program.model
    _name_axes(model)
    return model


def _name_axes(model: onnx_ir.Model) -> None:
    """Call free axes of the input what they are, in place of the exporter's ``s33``, wherever they are named."""
    (images,) = model.graph.inputs
    names = {
        str(size): name
        for size, name in zip(images.shape or (), ("batch", "channels", "height", "width"), strict=False)
        if not isinstance(size, int)
    }
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None and not value.shape.frozen:
            value.shape = onnx_ir.Shape([names.get(str(size), size) for size in value.shape])


def _traced(classifier: Classifier, opset: int, *, dynamic_size: bool) -> onnx_ir.Model:
    """By the exporter before, which records what the network does to an example."""
    axes = {0: "batch", 2: "height", 3: "width"} if dynamic_size else {0: "batch"}
    written = BytesIO()
    with _exporting(classifier):
        torch.onnx.export(
            classifier,
            (_example(classifier),),
            written,  # type: ignore[arg-type]  # a stream is taken, though the types say otherwise
            dynamo=False,
            input_names=[IMAGES],
            output_names=[LOGITS],
            dynamic_axes={IMAGES: axes, LOGITS: {0: "batch"}},
            opset_version=opset,
        )
        return onnx_ir.from_proto(onnx.load_model_from_string(written.getvalue()))


def _example(classifier: Classifier) -> Tensor:
    spec = classifier.description.input
    return torch.zeros(2, spec.channels, spec.height, spec.width)


@contextmanager
def _exporting(classifier: Classifier) -> Iterator[None]:
    """Around an exporter. Raises NotEvaluable in place of whatever it raises."""
    try:
        with evaluating(classifier), silenced(), torch.no_grad():
            yield
    except NotEvaluable:
        raise
    except Exception as error:  # the exporters raise many kinds
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise NotEvaluable(
            f"{classifier.description.architecture} could not be exported to ONNX ({reason_of(error)}); "
            "nothing was written"
        ) from error


def _interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is at the bottom of what the exporter raised."""
    below = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (below is not None and _interrupted(below))


def _preprocessing(spec: InputSpec, *, baked: bool, dynamic_size: bool) -> dict[str, Any]:
    return {
        "input": IMAGES,
        "layout": "NHWC" if baked else "NCHW",
        "dtype": "uint8" if baked else "float32",
        "range": [0, 255] if baked else [0, 1],
        "colour": {1: "grey", 3: "RGB"}.get(spec.channels, f"{spec.channels} channels"),
        "channels": spec.channels,
        "height": "any" if dynamic_size else spec.height,
        "width": "any" if dynamic_size else spec.width,
        "normalisation": INSIDE,
        "mean": spec.mean,
        "std": spec.std,
        "output": PROBABILITIES if baked else LOGITS,
    }


def _figures(verification: Verification) -> dict[str, Any]:
    accuracy, exported = verification.accuracy, verification.exported_accuracy
    return {
        "images": verification.images,
        "real_images": verification.real,
        "top1_agreement": verification.agreement.value,
        "accuracy": None if exported is None else exported.value,
        "accuracy_pytorch": None if accuracy is None else accuracy.value,
        "asr": {row.trigger: row.exported_asr.value for row in verification.triggers},
        "asr_pytorch": {row.trigger: row.asr.value for row in verification.triggers},
        "largest_logit_difference": verification.largest_difference,
        "providers": [name for name in verification.providers if name],
        "onnxruntime": onnxruntime.__version__,
    }

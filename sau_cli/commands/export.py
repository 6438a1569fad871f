"""``sau export``: ONNX that is verified on real images, or no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sau_cli import __version__
from sau_cli.commands.export_view import speed_checks, speed_table
from sau_cli.commands.inputs import (
    Request,
    fetch,
    names_data,
    open_model_alone,
    open_model_and_data,
    parse_image_size,
    received,
    request,
)
from sau_cli.commands.options import (
    DataOption,
    DataRootOption,
    DownloadOption,
    ModelArgument,
    OutputOptions,
    ReadingOptions,
    TargetOption,
    with_groups,
)
from sau_cli.commands.outputs import check_not_input
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.gating.limits import parse_fraction
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import checks_table

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_adapters.onnx.export import OnnxExporter
    from sau_cli.classifier import Classifier
    from sau_cli.exporting.exporter import ExportRejected, ProvenExport
    from sau_cli.exporting.provenance import Origin
    from sau_cli.exporting.speed import Speed
    from sau_cli.exporting.verification import VerificationLimits
    from sau_cli.images import LabelledImages
    from sau_cli.triggers.trigger import Trigger


class ExportPrecision(StrEnum):
    """Of the numbers in the file."""

    FP32 = "fp32"
    FP16 = "fp16"


class Quantisation(StrEnum):
    INT8 = "int8"


RANDOM_IMAGES, CALIBRATION_IMAGES = 256, 256


@with_groups
def export_command(
    model: ModelArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.onnx", help="Where the ONNX file goes.")],
    data: DataOption = None,
    trigger: Annotated[
        list[str] | None,
        typer.Option(
            "--trigger",
            "-t",
            metavar="T",
            help="The file's ASR must be the model's: x.trigger.safetensors, patch:FILE.png, blend:FILE.png@0.2 or "
            "add:FILE.npy. Repeat it for several.",
        ),
    ] = None,
    target: TargetOption = None,
    bake_preprocessing: Annotated[
        bool, typer.Option("--bake-preprocessing", help="Take uint8 images (N, H, W, C), give probabilities.")
    ] = False,
    dynamic_size: Annotated[bool, typer.Option("--dynamic-size", help="Free height and width too.")] = False,
    largest_size: Annotated[
        str | None,
        typer.Option(
            "--largest-size",
            metavar="N|HxW",
            help="With --dynamic-size, the largest images to verify. [default: twice the model's size]",
        ),
    ] = None,
    precision: Annotated[ExportPrecision, typer.Option(help="Of the numbers in the file.")] = ExportPrecision.FP32,
    quantize: Annotated[
        Quantisation | None, typer.Option(help="8 bits, calibrated on the clean images of the training part.")
    ] = None,
    max_acc_drop: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Of fp16 and int8: the accuracy that may be lost. [default: 0.5%, 2%]"),
    ] = None,
    max_asr_rise: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="Of fp16 and int8: how much more often a trigger may succeed. [default: 0.5%, 1%]"
        ),
    ] = None,
    opset: Annotated[int, typer.Option(min=18, max=23, help="ONNX operator set.")] = 18,
    atol: Annotated[float, typer.Option(help="Largest absolute difference of a logit.")] = 1e-4,
    rtol: Annotated[float, typer.Option(help="Largest relative difference of a logit.")] = 1e-3,
    keep_rejected: Annotated[
        bool, typer.Option("--keep-rejected", help="Keep a file that fails as OUT.rejected.onnx, to look into.")
    ] = False,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY.pem", help="Sign the files with this elliptic curve key (pip install model-signing pyopenssl)."
        ),
    ] = None,
    data_root: DataRootOption = None,
    download: DownloadOption = False,
    reading: ReadingOptions,
    output: OutputOptions,
) -> None:
    """Write ONNX with a dynamic batch axis, verified in onnxruntime on real clean images, or write nothing.

    The input "images" is float32 NCHW with pixels in 0 to 1; the normalisation is inside the graph.
    The output "logits" is (N, classes). All test images of the data are compared with PyTorch, on
    every execution provider that is there. Where PyTorch's exporter fails, or what it wrote is
    wrong, the one before is tried. Random images serve only where no data is named anywhere.

    Beside OUT.onnx come OUT.onnx.intoto.json, what it was made of, by SHA-256; OUT.onnx.cdx.json, a
    bill of materials with a model card; and OUT.onnx.data, the weights of a model above 400 MB.

    \b
    Examples:
      sau export model.purified.safetensors -o model.onnx
      sau export model.safetensors -o model.onnx --data clean/ --json report.json
      sau export model.purified.safetensors -o model.onnx --bake-preprocessing
      sau export model.purified.safetensors -o small.onnx --quantize int8 \\
          --trigger model.trigger.safetensors --max-acc-drop 1%
    """
    with Session("export", output) as session:
        if out.suffix != ".onnx":
            raise UsageError(f"-o {out}: give a name that ends in .onnx")
        check_not_input(model, out)
        session.reserve(out)
        session.claim(out)
        form = _form(
            precision=precision,
            quantize=quantize,
            max_acc_drop=max_acc_drop,
            max_asr_rise=max_asr_rise,
            opset=opset,
            bake=bake_preprocessing,
            dynamic_size=dynamic_size,
            largest_size=largest_size,
        )
        if target is not None and not trigger:
            raise UsageError("--target says where a trigger sends images, and there is none; add --trigger")
        if largest_size is not None and not dynamic_size:
            raise UsageError("--largest-size is of a dynamic size; add --dynamic-size")
        fetch(session, model, download=download)
        checkpoint = received(session, model)
        if checkpoint.graph is not None:
            raise UsageError(f"{model} is ONNX already; measure it with sau evaluate")
        plan = ExportPlan(
            model=model,
            asked=request(reading, data=data, data_root=data_root),
            form=form,
            triggers=tuple(trigger or ()),
            target=target,
            files=_reserved(session, out, sign_key=sign_key, keep_rejected=keep_rejected),
            limits=_limits(atol, rtol),
        )
        subject = _opened(session, plan, checkpoint)
        del checkpoint  # the weights of the file are a second copy
        written = _written(session, plan, subject)
        _tell(session, plan, subject, written)
        del subject, written
        _give_back(plan.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the file is to be.

    Attributes:
        smaller: ``fp16``, ``int8`` or None.
        accuracy_drop, asr_rise: of a smaller form, what may be lost; None for what is usual.
        bake: preprocessing and softmax are inside.
        largest_size: of images to verify; None for what is usual.
    """

    smaller: str | None
    accuracy_drop: float | None
    asr_rise: float | None
    opset: int
    bake: bool
    dynamic_size: bool
    largest_size: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where everything goes.

    Attributes:
        beside: the statement, the bill of materials, the weights of a large model, and the signature.
        rejected: where a file that fails is kept; None where it is not.
    """

    out: Path
    beside: Mapping[str, Path]
    rejected: Path | None
    sign_key: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What was asked for.

    Attributes:
        triggers: as ``--trigger`` names them.
        limits: of what a logit may differ by.
    """

    model: Path
    asked: Request
    form: Form
    triggers: tuple[str, ...]
    target: str | None
    files: Files
    limits: VerificationLimits


@dataclass(slots=True, kw_only=True)
class ExportSubject:
    """What is written, and the images to prove it by.

    Attributes:
        sha256: of the model's file.
        proof: images; of noise where ``real`` says that no data is named.
        learning: images of the training part, to calibrate by.
        data: what the images are called.
    """

    classifier: Classifier
    sha256: str
    proof: LabelledImages
    real: bool
    learning: LabelledImages | None
    data: str
    triggers: tuple[Trigger, ...] = ()


@dataclass(slots=True, kw_only=True)
class Written:
    """What came of it."""

    proven: ProvenExport
    speed: Speed


def _form(
    *,
    precision: ExportPrecision,
    quantize: Quantisation | None,
    max_acc_drop: str | None,
    max_asr_rise: str | None,
    opset: int,
    bake: bool,
    dynamic_size: bool,
    largest_size: str | None,
) -> Form:
    """How the file is to be.

    Raises:
        UsageError: two forms at once, or a limit that is none, or is of no form.
    """
    smaller = _smaller(precision, quantize)
    if smaller is None and (max_acc_drop or max_asr_rise):
        raise UsageError("--max-acc-drop and --max-asr-rise are of fp16 and int8; add --precision or --quantize")
    return Form(
        smaller=smaller,
        accuracy_drop=None if max_acc_drop is None else parse_fraction(max_acc_drop, "max_acc_drop"),
        asr_rise=None if max_asr_rise is None else parse_fraction(max_asr_rise, "max_asr_rise"),
        opset=opset,
        bake=bake,
        dynamic_size=dynamic_size,
        largest_size=largest_size,
    )


def _reserved(session: Session, out: Path, *, sign_key: Path | None, keep_rejected: bool) -> Files:
    """Where everything goes, after a look at whether it can be written."""
    from sau_adapters.onnx import onnx_files
    from sau_adapters.provenance import provenance_files, signatures

    rejected = out.with_name(f"{out.stem}.rejected.onnx")
    beside = {
        "statement": provenance_files.statement_path(out),
        "bill_of_materials": provenance_files.bill_path(out),
        "weights": onnx_files.data_path(out),
        "signature": signatures.signature_path(out),
    }
    if sign_key is not None:
        signatures.check_key(sign_key)
    kept = (rejected, onnx_files.data_path(rejected)) if keep_rejected else ()
    for path in (*beside.values(), *kept):
        session.reserve(path)
    return Files(out=out, beside=beside, rejected=rejected if keep_rejected else None, sign_key=sign_key)


def _opened(session: Session, plan: ExportPlan, checkpoint: OpenedModel) -> ExportSubject:
    """The model and images, and the triggers whose success is to stay what it is.

    Raises:
        UsageError: clean images are needed, and none are named.
    """
    from sau_adapters.triggers import read_trigger
    from sau_cli.triggers.targets import parse_target

    rule = None if plan.target is None else parse_target(plan.target)
    given = tuple(read_trigger(source, rule) for source in plan.triggers)
    subject = _with_images(session, plan, checkpoint)
    quantized = plan.form.smaller == Quantisation.INT8
    if not subject.real and (given or quantized):
        what = "--trigger" if given else "--quantize"
        raise UsageError(f"{what} needs clean images, and no data is named anywhere; add --data")
    for trigger_file in given:
        session.took(trigger_file.path, trigger_file.sha256)
    names = subject.classifier.description.class_names
    subject.triggers = tuple(trigger_file.trigger.for_classes(names) for trigger_file in given)
    return subject


def _with_images(session: Session, plan: ExportPlan, checkpoint: OpenedModel) -> ExportSubject:
    """The model with the images of its data, or with noise where no data is named."""
    if not names_data(plan.asked, checkpoint.description):
        session.show("no data is named by the command, the model's metadata or sau.toml: random images will have to do")
        classifier = open_model_alone(plan.asked, checkpoint).classifier
        return ExportSubject(
            classifier=classifier,
            sha256=checkpoint.sha256,
            proof=_random_images(classifier),
            real=False,
            learning=None,
            data="random images",
        )
    opened, images = open_model_and_data(session, plan.model, plan.asked, checkpoint=checkpoint)
    return ExportSubject(
        classifier=opened.classifier,
        sha256=checkpoint.sha256,
        proof=images.for_testing,
        real=True,
        learning=images.train,
        data=images.name,
    )


def _exporter(form: Form, subject: ExportSubject) -> OnnxExporter:
    from sau_adapters.onnx.export import OnnxExporter, Smaller
    from sau_cli.exporting.verification import loss_limits

    smaller, quantized = form.smaller, form.smaller == Quantisation.INT8
    return OnnxExporter(
        opset=form.opset,
        metadata={"sau.source_sha256": subject.sha256},
        source_sha256=subject.sha256,
        dynamic_size=form.dynamic_size,
        bake=form.bake,
        smaller=None if smaller is None else Smaller(smaller),
        calibration=_some(subject.learning) if quantized and subject.learning is not None else None,
        smaller_limits=None
        if smaller is None
        else loss_limits(smaller, accuracy_drop=form.accuracy_drop, asr_rise=form.asr_rise),
    )


def _written(session: Session, plan: ExportPlan, subject: ExportSubject) -> Written:
    """Write the file with all that goes beside it, once it is proven.

    Raises:
        ExportRejected: no way gave a file that computes what the model does; the report says why.
    """
    from sau_adapters.files import written_together
    from sau_adapters.provenance import signatures
    from sau_cli.exporting.exporter import ExportRejected
    from sau_cli.exporting.speed import measure_speed

    files = plan.files
    exporter = _exporter(plan.form, subject)
    session.findings.ran_on(device="cpu")
    session.findings.tell(data=subject.data, opset=plan.form.opset)
    try:
        with written_together(files.out) as staged:
            proven = _proven(staged, plan, subject, exporter)
            speed = measure_speed(subject.classifier, proven.runner, subject.proof.images)
            settings = _settings(plan.limits, exporter, subject.data)
            _write_sidecars(staged, exporter, subject.classifier, proven, _origins(session, plan, subject), settings)
            if files.sign_key is not None:
                signatures.sign(staged, private_key=files.sign_key)
            for path in files.beside.values():  # of the file that was there: they would belie this one
                path.unlink(missing_ok=True)
    except ExportRejected as error:
        _tell_rejected(session, plan.files, error)
        raise
    return Written(proven=proven, speed=speed)


def _proven(staged: Path, plan: ExportPlan, subject: ExportSubject, exporter: OnnxExporter) -> ProvenExport:
    """The file, where it computes what the model does; one that does not may be kept, to look into."""
    from sau_adapters.onnx import onnx_files
    from sau_cli.exporting.exporter import ExportRejected, export

    form, rejected = plan.form, plan.files.rejected
    try:
        return export(
            subject.classifier,
            staged,
            exporter=exporter,
            data=subject.proof,
            limits=plan.limits,
            triggers=subject.triggers,
            sizes=_sizes(subject.classifier, form.largest_size) if form.dynamic_size else (),
            real=subject.real,
            keep_rejected=rejected is not None,
        )
    except ExportRejected:
        if rejected is not None and staged.is_file():
            onnx_files.move(staged, rejected)
        raise


def _tell_rejected(session: Session, files: Files, error: ExportRejected) -> None:
    """Why there is no file."""
    findings, rejected = session.findings, files.rejected
    findings.add(*error.verification.checks)
    findings.tell(attempts=plain(list(error.attempts)), verification=plain(error.verification))
    session.show(checks_table(findings.checks))
    if rejected is not None and rejected.is_file():
        session.wrote("rejected", rejected)
        session.show(f"kept what was rejected as {rejected}; do not ship it")


def _tell(session: Session, plan: ExportPlan, subject: ExportSubject, written: Written) -> None:
    """What was written, how it was proven, and how fast it is."""
    findings, files, proven = session.findings, plan.files, written.proven
    for role, path in {"onnx": files.out, **files.beside}.items():
        if path.is_file():
            session.wrote(role, path)
    findings.add(*proven.verification.checks, *speed_checks(written.speed))
    findings.tell(
        verification=plain(proven.verification),
        graph=plain(proven.graph),
        attempts=plain(list(proven.attempts)),
        way=proven.way,
        form=proven.form,
        speed=plain(written.speed),
    )
    session.show(checks_table(findings.checks))
    session.show(speed_table(written.speed))
    for attempt in proven.attempts:
        if attempt.outcome != "proven":
            session.show(f"{attempt.way}: {attempt.outcome} ({attempt.reason})")
    made = f"{proven.way}{f', {proven.form}' if proven.form else ''}"
    real = f"real images of {subject.data}"
    kind = real if subject.real else "random images, as no data is named; give --data for a proof"
    session.show(f"wrote {files.out} ({made}), verified on {proven.verification.images} {kind}")


def _limits(atol: float, rtol: float) -> VerificationLimits:
    from sau_cli.exporting.verification import VerificationLimits

    return VerificationLimits(atol=atol, rtol=rtol)


def _give_back(files: Files) -> None:
    """Give the memory of a large model back: the end of the process takes some of its own."""
    from sau_adapters.onnx.export import give_memory_back

    if files.beside["weights"].is_file():
        give_memory_back()


def _smaller(precision: ExportPrecision, quantize: Quantisation | None) -> str | None:
    """``fp16``, ``int8`` or None."""
    if precision is ExportPrecision.FP16 and quantize is not None:
        raise UsageError("--precision fp16 and --quantize int8 exclude each other; give one")
    if quantize is not None:
        return quantize.value
    return None if precision is ExportPrecision.FP32 else precision.value


def _some(images: LabelledImages) -> Any:
    """Images to calibrate by, drawn evenly over the classes."""
    from sau_cli.images import balanced_share

    share = min(1.0, CALIBRATION_IMAGES / len(images))
    return images.images[balanced_share(images, share, seed=0)]


def _random_images(classifier: Classifier) -> LabelledImages:
    """Noise of the size that the model takes, for want of data; the labels mean nothing."""
    import torch

    from sau_cli.images import LabelledImages
    from sau_cli.seeding import random_stream

    spec = classifier.description.input
    shape = (RANDOM_IMAGES, spec.channels, spec.height, spec.width)
    noise = torch.randint(0, 256, shape, generator=random_stream(0, "random images"), dtype=torch.uint8)
    labels = torch.zeros(RANDOM_IMAGES, dtype=torch.int64)
    return LabelledImages(images=noise, labels=labels, class_names=classifier.description.class_names)


def _sizes(classifier: Classifier, largest: str | None) -> tuple[tuple[int, int], ...]:
    """The largest size, and one that is not square where the network takes such."""
    from sau_cli.classifier import Classifier, check_runs

    spec = classifier.description.input
    height, width = (2 * spec.height, 2 * spec.width) if largest is None else parse_image_size(largest)
    lying = replace(classifier.description, input=replace(spec, width=width))
    try:
        check_runs(Classifier(classifier.network, lying))
    except NotEvaluable:
        return ((height, width),)
    return ((height, width), (spec.height, width))


def _settings(limits: VerificationLimits, exporter: OnnxExporter, data: str) -> dict[str, Any]:
    return {
        "opset": exporter.opset,
        "bake_preprocessing": exporter.bake,
        "dynamic_size": exporter.dynamic_size,
        "precision": "fp32" if exporter.smaller is None else str(exporter.smaller),
        "data": data,
        "limits": plain(limits),
        "limits_of_smaller_form": plain(exporter.form_limits),
    }


def _origins(session: Session, plan: ExportPlan, subject: ExportSubject) -> tuple[Origin, ...]:
    """The files that went in, by role."""
    from sau_adapters.triggers import file_of
    from sau_cli.exporting.provenance import Origin, model_origins

    sha256 = subject.sha256
    stamped = {str(file_of(source)) for source in plan.triggers}
    others = [
        Origin(role="trigger" if taken.path in stamped else "data", name=Path(taken.path).name, sha256=taken.sha256)
        for taken in session.findings.inputs
        if taken.sha256 != sha256
    ]
    return (*model_origins(plan.model.name, sha256, subject.classifier.description.history), *others)


def _write_sidecars(
    staged: Path,
    exporter: OnnxExporter,
    classifier: Classifier,
    proven: ProvenExport,
    origins: tuple[Origin, ...],
    settings: Mapping[str, Any],
) -> None:
    """The statement and the bill of materials of a file that is whole."""
    from importlib.metadata import version

    from sau_adapters.onnx import onnx_files
    from sau_adapters.provenance import provenance_files
    from sau_cli.exporting.bill_of_materials import bill_of_materials
    from sau_cli.exporting.provenance import statement

    exported = onnx_files.hashes_of(staged, known={})
    described = exporter.described(classifier.description, proven.way, proven.form)
    versions = {"sau": __version__} | {name: version(name) for name in ("torch", "onnx", "onnxruntime", "onnxscript")}
    told = statement(
        exported=exported,
        origins=origins,
        description=described,
        settings=settings,
        figures=exporter.figures(proven.verification),
        versions=versions,
    )
    provenance_files.write_statement(staged, told)
    document = bill_of_materials(
        exported=exported,
        origins=origins,
        description=described,
        verification=proven.verification,
        preprocessing=exporter.preprocessing(described.input),
        versions=versions,
    )
    provenance_files.write_bill(staged, document)

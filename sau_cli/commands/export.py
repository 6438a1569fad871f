"""``sau export``: ONNX that is verified on real images, or no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sau_adapters.files import written_together
from sau_cli import __version__
from sau_cli.commands.inputs import (
    ReadyModel,
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
    ArchOption,
    ClassOrderOption,
    DataOption,
    DataRootOption,
    DownloadOption,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    ModelArgument,
    NormalisationOption,
    QuietOption,
    ReportOption,
    TargetOption,
    VerboseOption,
)
from sau_cli.commands.outputs import check_not_input
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.evaluation.limits import parse_fraction
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import checks_table, table
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_adapters.onnx.export import OnnxExporter
    from sau_cli.classifier import Classifier
    from sau_cli.exporting.exporter import ProvenExport
    from sau_cli.exporting.provenance import Origin
    from sau_cli.exporting.speed import Speed
    from sau_cli.images import LabelledImages


class ExportPrecision(StrEnum):
    """Of the numbers in the file."""

    FP32 = "fp32"
    FP16 = "fp16"


class Quantisation(StrEnum):
    INT8 = "int8"


RANDOM_IMAGES, CALIBRATION_IMAGES = 256, 256


def export(
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
    arch: ArchOption = None,
    image_size: ImageSizeOption = None,
    normalisation: NormalisationOption = None,
    class_order: ClassOrderOption = None,
    json_: JsonOption = None,
    report: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    force: ForceOption = False,
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
    with Session("export", json=json_, reports=report, quiet=quiet, verbose=verbose, force=force) as session:
        if out.suffix != ".onnx":
            raise UsageError(f"-o {out}: give a name that ends in .onnx")
        check_not_input(model, out)
        session.reserve(out)
        session.claim(out)
        smaller = _smaller(precision, quantize)
        if smaller is None and (max_acc_drop or max_asr_rise):
            raise UsageError("--max-acc-drop and --max-asr-rise are of fp16 and int8; add --precision or --quantize")
        drop = None if max_acc_drop is None else parse_fraction(max_acc_drop, "--max-acc-drop")
        rise = None if max_asr_rise is None else parse_fraction(max_asr_rise, "--max-asr-rise")
        if target is not None and not trigger:
            raise UsageError("--target says where a trigger sends images, and there is none; add --trigger")
        if largest_size is not None and not dynamic_size:
            raise UsageError("--largest-size is of a dynamic size; add --dynamic-size")
        fetch(session, model, download=download)
        checkpoint = received(session, model)
        if checkpoint.graph is not None:
            raise UsageError(f"{model} is ONNX already; measure it with sau evaluate")
        asked = request(
            data=data,
            data_root=data_root,
            arch=arch,
            image_size=image_size,
            normalisation=normalisation,
            class_order=class_order,
        )

        from sau_adapters.onnx import onnx_files
        from sau_adapters.onnx.export import OnnxExporter, Smaller, give_memory_back
        from sau_adapters.provenance import provenance_files, signatures
        from sau_adapters.triggers import file_of, open_trigger
        from sau_cli.attacks.targets import parse_target
        from sau_cli.exporting.exporter import ExportRejected
        from sau_cli.exporting.exporter import export as write_proven
        from sau_cli.exporting.speed import measure_speed
        from sau_cli.exporting.verification import VerificationLimits, loss_limits

        beside = [provenance_files.statement_path(out), provenance_files.bill_path(out), onnx_files.data_path(out)]
        rejected = out.with_name(f"{out.stem}.rejected.onnx")
        beside.append(signatures.signature_path(out))
        if sign_key is not None:
            signatures.check_key(sign_key)
        kept = (rejected, onnx_files.data_path(rejected)) if keep_rejected else ()
        for path in (*beside, *kept):
            session.reserve(path)
        limits = VerificationLimits(atol=atol, rtol=rtol)
        rule = None if target is None else parse_target(target)
        triggers = tuple(open_trigger(source, rule) for source in trigger or ())
        opened, images, name, learning = _opened(session, model, asked, checkpoint)
        if images is None and (triggers or quantize is not None):
            what = "--trigger" if triggers else "--quantize"
            raise UsageError(f"{what} needs clean images, and no data is named anywhere; add --data")
        for source in trigger or ():
            session.took(file_of(source))
        classifier, sha256 = opened.classifier, opened.checkpoint.sha256
        triggers = tuple(one.for_classes(classifier.description.class_names) for one in triggers)
        del opened, checkpoint  # the weights of the file are a second copy
        exporter = OnnxExporter(
            opset=opset,
            metadata={"sau.source_sha256": sha256},
            source_sha256=sha256,
            dynamic_size=dynamic_size,
            bake=bake_preprocessing,
            smaller=None if smaller is None else Smaller(smaller),
            calibration=None if learning is None or quantize is None else _some(learning),
            smaller_limits=None if smaller is None else loss_limits(smaller, accuracy_drop=drop, asr_rise=rise),
        )
        session.environment = {"device": "cpu"}
        session.details = {"data": name, "opset": opset}
        real = images is not None
        proof = images if images is not None else _random_images(classifier)
        try:
            with written_together(out) as staged:
                try:
                    proven = write_proven(
                        classifier,
                        staged,
                        exporter=exporter,
                        data=proof,
                        limits=limits,
                        triggers=triggers,
                        sizes=_sizes(classifier, largest_size) if dynamic_size else (),
                        real=real,
                    )
                except ExportRejected:
                    if keep_rejected and staged.is_file():
                        onnx_files.move(staged, rejected)
                    raise
                speed = measure_speed(classifier, proven.runner, proof.images)
                origins = _origins(session, model, sha256, classifier, trigger or ())
                _write_sidecars(staged, exporter, classifier, proven, origins, _settings(limits, exporter, name))
                if sign_key is not None:
                    signatures.sign(staged, private_key=sign_key)
                for path in beside:  # of the file that was there: they would belie this one
                    path.unlink(missing_ok=True)
        except ExportRejected as error:
            session.checks.extend(error.verification.checks)
            session.details |= {"attempts": plain(list(error.attempts)), "verification": plain(error.verification)}
            session.show(checks_table(session.checks))
            if keep_rejected and rejected.is_file():
                session.wrote("rejected", rejected)
                session.show(f"kept what was rejected as {rejected}; do not ship it")
            raise
        roles = ("statement", "bill_of_materials", "weights", "signature")
        for role, path in (("onnx", out), *zip(roles, beside, strict=False)):
            if path.is_file():
                session.wrote(role, path)
        verification = proven.verification
        session.checks.extend(verification.checks)
        session.checks.extend(_speed_checks(speed))
        session.details |= {
            "verification": plain(verification),
            "graph": plain(proven.graph),
            "attempts": plain(list(proven.attempts)),
            "way": proven.way,
            "form": proven.form,
            "speed": plain(speed),
        }
        session.show(checks_table(session.checks))
        session.show(_speed_table(speed))
        for attempt in proven.attempts:
            if attempt.outcome != "proven":
                session.show(f"{attempt.way}: {attempt.outcome} ({attempt.reason})")
        made = f"{proven.way}{f', {proven.form}' if proven.form else ''}"
        kind = f"real images of {name}" if real else "random images, as no data is named; give --data for a proof"
        session.show(f"wrote {out} ({made}), verified on {verification.images} {kind}")
        if onnx_files.data_path(out).is_file():
            del classifier, proven, exporter
            give_memory_back()  # the end of the process takes some of its own


def _smaller(precision: ExportPrecision, quantize: Quantisation | None) -> str | None:
    """``fp16``, ``int8`` or None."""
    if precision is ExportPrecision.FP16 and quantize is not None:
        raise UsageError("--precision fp16 and --quantize int8 exclude each other; give one")
    if quantize is not None:
        return quantize.value
    return None if precision is ExportPrecision.FP32 else precision.value


def _opened(
    session: Session, model: Path, asked: Request, checkpoint: OpenedModel
) -> tuple[ReadyModel, LabelledImages | None, str, LabelledImages | None]:
    """The model, its test images, the name of the data, and its training images; None for images that are not there."""
    if not names_data(asked, checkpoint.description):
        session.show("no data is named by the command, the model's metadata or sau.toml: random images will have to do")
        return open_model_alone(asked, checkpoint), None, "random images", None
    opened, images = open_model_and_data(session, model, asked, checkpoint=checkpoint)
    return opened, images.for_testing, images.name, images.train


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


def _settings(limits: Any, exporter: OnnxExporter, data: str) -> dict[str, Any]:
    return {
        "opset": exporter.opset,
        "bake_preprocessing": exporter.bake,
        "dynamic_size": exporter.dynamic_size,
        "precision": "fp32" if exporter.smaller is None else str(exporter.smaller),
        "data": data,
        "limits": plain(limits),
        "limits_of_smaller_form": plain(exporter.form_limits),
    }


def _origins(
    session: Session, model: Path, sha256: str, classifier: Classifier, triggers: list[str] | tuple[()]
) -> tuple[Origin, ...]:
    """The files that went in, by role."""
    from sau_adapters.triggers import file_of
    from sau_cli.exporting.provenance import Origin, model_origins

    stamped = {str(file_of(source)) for source in triggers}
    others = [
        Origin(role="trigger" if one.path in stamped else "data", name=Path(one.path).name, sha256=one.sha256)
        for one in session.inputs
        if one.sha256 != sha256
    ]
    return (*model_origins(model.name, sha256, classifier.description.history), *others)


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


def _speed_checks(speed: Speed) -> tuple[Check, ...]:
    return (
        Check(
            id="export.latency",
            status=CheckStatus.MEASURED,
            value=speed.exported_ms,
            evidence=f"{speed.exported_ms:.3g} ms for one image in onnxruntime, {speed.pytorch_ms:.3g} ms in PyTorch",
        ),
        Check(
            id="export.throughput",
            status=CheckStatus.MEASURED,
            value=speed.exported_rate,
            evidence=f"{speed.exported_rate:,.0f} images a second in batches of {speed.batch} in onnxruntime, "
            f"{speed.pytorch_rate:,.0f} in PyTorch",
        ),
    )


def _speed_table(speed: Speed) -> Any:
    rows = [
        ("PyTorch", f"{speed.pytorch_ms:.3g} ms", f"{speed.pytorch_rate:,.0f}"),
        ("onnxruntime", f"{speed.exported_ms:.3g} ms", f"{speed.exported_rate:,.0f}"),
    ]
    columns = ("", "one image", f"images/s, {speed.batch} a batch")
    return table(f"Speed on the CPU, {speed.threads} threads", columns, rows)

"""``sau export``: ONNX that is verified on real images, or no file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sau_adapters.checkpoints import suffix_of_result
from sau_adapters.files import written_whole
from sau_cli import __version__
from sau_cli.commands.inputs import open_model_and_data, request
from sau_cli.commands.options import (
    ArchOption,
    DataOption,
    DataRootOption,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    ModelArgument,
    NormalisationOption,
    QuietOption,
    ReportOption,
    VerboseOption,
)
from sau_cli.commands.session import Session
from sau_cli.description import HistoryStep
from sau_cli.errors import UsageError
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import checks_table


def export(
    model: ModelArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.onnx", help="Where the ONNX file goes.")],
    data: DataOption = None,
    opset: Annotated[int, typer.Option(min=18, max=23, help="ONNX operator set.")] = 18,
    atol: Annotated[float, typer.Option(help="Largest absolute difference of a logit.")] = 1e-4,
    rtol: Annotated[float, typer.Option(help="Largest relative difference of a logit.")] = 1e-3,
    data_root: DataRootOption = None,
    arch: ArchOption = None,
    image_size: ImageSizeOption = None,
    normalisation: NormalisationOption = None,
    json_: JsonOption = None,
    report: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    force: ForceOption = False,
) -> None:
    """Write ONNX with a dynamic batch axis, verified in onnxruntime on real clean images, or write nothing.

    The input "images" is float32 NCHW with pixels in 0 to 1; the normalisation is inside the graph.
    The output "logits" is (N, classes). All test images of the data are compared with PyTorch.

    \b
    Examples:
      sau export model.purified.safetensors -o model.onnx
      sau export model.safetensors -o model.onnx --data clean/ --json report.json
    """
    with Session("export", json=json_, reports=report, quiet=quiet, verbose=verbose, force=force) as session:
        if out.suffix != ".onnx":
            raise UsageError(f"-o {out}: give a name that ends in .onnx")
        session.reserve(out)
        if suffix_of_result(model) == ".onnx":
            raise UsageError(f"{model} is ONNX already; measure it with sau evaluate")
        asked = request(data=data, data_root=data_root, arch=arch, image_size=image_size, normalisation=normalisation)

        from sau_adapters.export_onnx import OnnxExporter
        from sau_cli.exporting.exporter import ExportRejected
        from sau_cli.exporting.exporter import export as write_proven
        from sau_cli.exporting.verification import VerificationLimits

        opened, images = open_model_and_data(session, model, asked)
        classifier, data_name = opened.classifier, images.name
        known = classifier.description
        step = HistoryStep(
            step="export",
            settings={"opset": opset},
            seed=0,
            input_sha256=opened.checkpoint.sha256,
            tool_version=__version__,
        )
        classifier.description = replace(known, history=(*known.history, step))
        exporter = OnnxExporter(opset=opset, metadata={"sau.source_sha256": opened.checkpoint.sha256})
        session.environment = {"device": "cpu"}
        session.details = {"data": data_name, "opset": opset}
        try:
            with written_whole(out) as temporary:
                verification = write_proven(
                    classifier,
                    temporary,
                    exporter=exporter,
                    data=images.for_testing,
                    limits=VerificationLimits(atol=atol, rtol=rtol),
                )
        except ExportRejected as error:
            session.checks.extend(error.verification.checks)
            session.show(checks_table(session.checks))
            raise
        session.wrote("onnx", out)
        session.checks.extend(verification.checks)
        session.details["verification"] = plain(verification)
        session.show(checks_table(session.checks))
        session.show(f"wrote {out}, verified on {verification.images} real images of {data_name}")

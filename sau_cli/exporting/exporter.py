"""Export a classifier, and give the file its name only once it is proven on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.errors import VerificationFailed
from sau_cli.exporting.verification import Runner, Verification, VerificationLimits, verify
from sau_cli.images import LabelledImages, check_fits


class ExportRejected(VerificationFailed):
    """A file that failed its verification, with the figures."""

    def __init__(self, sentence: str, verification: Verification) -> None:
        super().__init__(sentence)
        self.verification = verification


class Exporter(Protocol):
    """Writes a classifier in another format; ``sau_adapters.export_onnx.OnnxExporter`` is one."""

    def write(self, classifier: Classifier, path: Path) -> None:
        """Write the file. Raises NotEvaluable for a network that cannot be exported."""

    def open(self, path: Path) -> Runner:
        """Open a written file in the runtime that will serve it."""

    def stamp(self, path: Path, verification: Verification) -> None:
        """Record the figures of a verification that passed in the file."""


def export(
    classifier: Classifier,
    path: Path,
    *,
    exporter: Exporter,
    data: LabelledImages,
    limits: VerificationLimits | None = None,
) -> Verification:
    """Write ``path``, run it on real images beside the classifier, and record the figures in it.

    The caller gives a temporary ``path`` and keeps the file only when this returns.

    Args:
        classifier: on the CPU.
        path: where the exporter writes.
        data: clean images with their labels; all of them are compared.

    Raises:
        NotEvaluable: the network cannot be exported or run, or the data does not fit.
        ExportRejected: the file computes something else.
    """
    check_fits(data, classifier.description)
    check_finite_weights(classifier)
    exporter.write(classifier, path)
    verification = verify(classifier, exporter.open(path), data, limits=limits)
    failed = verification.failed
    if failed is not None:
        raise ExportRejected(
            f"the exported file does not compute what the model computes ({failed.id}: {failed.evidence}, "
            f"found {failed.value}); nothing was written",
            verification,
        )
    exporter.stamp(path, verification)
    return verification

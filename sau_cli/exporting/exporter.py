"""Export a classifier, and give the file its name only once it is proven on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from sau_cli.classifier import Classifier, check_finite_weights
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable, UsageError, VerificationFailed
from sau_cli.exporting.verification import (
    ExpectedAnswers,
    ExportedModel,
    Runner,
    Verification,
    VerificationLimits,
    compare,
    expected_answers,
)
from sau_cli.images import LabelledImages
from sau_cli.triggers.trigger import Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way that was tried: ``proven``, ``rejected`` or ``not exported``, and why."""

    way: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProvenExport:
    """A file that was proven.

    Attributes:
        verification: of the file as it is.
        way: how the graph was made; the last of the attempts that were proven.
        form: what was made of that graph, such as ``int8``; empty where nothing was.
        graph: of the exact graph that a smaller form was made of; None where the file is that graph.
        attempts: all ways and forms that were tried, in order.
        runner: the file in its runtime, to measure its speed.
    """

    verification: Verification
    way: str
    form: str
    graph: Verification | None
    attempts: tuple[Attempt, ...]
    runner: Runner


class ExportRejected(VerificationFailed):
    """A file that failed its verification, with the figures."""

    def __init__(self, sentence: str, verification: Verification, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(sentence)
        self.verification = verification
        self.attempts = attempts


class Exporter(Protocol):
    """Writes a classifier in another format; ``sau_adapters.onnx.export.OnnxExporter`` is one.

    Attributes:
        forms: of a proven graph, smaller or of another input; tried in turn. Empty where the graph is what is wanted.
        form_limits: what the forms owe.
    """

    @property
    def forms(self) -> Sequence[str]: ...

    @property
    def form_limits(self) -> VerificationLimits | None: ...

    def ways(self, classifier: Classifier) -> Sequence[str]:
        """Ways of writing the graph; they are tried in turn until one is proven."""
        ...

    def write(self, classifier: Classifier, path: Path, way: str) -> None:
        """Write the file. Raises NotEvaluable for a network that cannot be exported in this way."""

    def transform(self, path: Path, form: str) -> None:
        """Make a form of a proven graph, in its place. The graph is kept, and every form is made of it.

        Raises NotEvaluable where that cannot be.
        """

    def open(self, path: Path) -> ExportedModel:
        """Open a written file in the runtime that will serve it."""
        ...

    def stamp(self, path: Path, proven: ProvenExport, description: Description) -> None:
        """Record what the classifier is, and the figures of a verification that passed, in the file."""


def export(
    classifier: Classifier,
    path: Path,
    *,
    exporter: Exporter,
    data: LabelledImages,
    limits: VerificationLimits | None = None,
    triggers: Sequence[Trigger] = (),
    sizes: Sequence[tuple[int, int]] = (),
    real: bool = True,
    keep_rejected: bool = False,
) -> ProvenExport:
    """Write ``path``, run it on real images beside the classifier, and record the figures in it; or no file.

    Where one way of exporting fails, or what it wrote is rejected, the next is tried.

    Args:
        classifier: on the CPU.
        path: where the file goes, with what the exporter puts beside it. There is none yet.
        data: clean images with their labels; all of them are compared.
        triggers: stamped on the images; the ASR must be the classifier's.
        sizes: heights and widths that the file must take beside the classifier's.
        real: False where the images are random, for want of data.
        keep_rejected: leave the last file that was rejected at ``path``, to look into.

    Raises:
        UsageError: there is a file.
        NotEvaluable: the network cannot be exported or run in any way, or the data does not fit.
        ExportRejected: the file computes something else.
    """
    if path.exists():
        raise UsageError(f"{path} exists; give another name, or remove it")
    check_finite_weights(classifier)
    expected = expected_answers(classifier, data, triggers=triggers, sizes=sizes, real=real)
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        staged = Path(folder) / path.name
        try:
            proven = _proven(classifier, staged, exporter, expected, limits)
        except ExportRejected:
            if keep_rejected:
                _moved(staged.parent, path.parent)
            raise
        _moved(staged.parent, path.parent)
    return proven


def _moved(folder: Path, to: Path) -> None:
    for file in folder.iterdir():
        file.replace(to / file.name)


def _proven(
    classifier: Classifier,
    path: Path,
    exporter: Exporter,
    expected: ExpectedAnswers,
    limits: VerificationLimits | None,
) -> ProvenExport:
    """The file at ``path``, proven and stamped. See :func:`export` for what is raised if none is."""
    attempts: list[Attempt] = []

    def write(way: str) -> None:
        exporter.write(classifier, path, way)

    def transform(form: str) -> None:
        exporter.transform(path, form)

    way, opened, verification = _first_proven(
        exporter.ways(classifier), write, path, exporter, expected, limits, attempts
    )
    form, graph = "", None
    if exporter.forms:
        graph, form_limits = verification, exporter.form_limits or limits
        form, opened, verification = _first_proven(
            exporter.forms, transform, path, exporter, expected, form_limits, attempts
        )
    proven = ProvenExport(
        verification=verification,
        way=way,
        form=form,
        graph=graph,
        attempts=tuple(attempts),
        runner=next(iter(opened.runners.values())),
    )
    exporter.stamp(path, proven, classifier.description)
    return proven


class _Make(Protocol):
    def __call__(self, name: str, /) -> None: ...


def _first_proven(
    names: Sequence[str],
    make: _Make,
    path: Path,
    exporter: Exporter,
    expected: ExpectedAnswers,
    limits: VerificationLimits | None,
    attempts: list[Attempt],
) -> tuple[str, ExportedModel, Verification]:
    """The first of these that is proven. See :func:`export` for what is raised if none is."""
    rejected: Verification | None = None
    last: NotEvaluable | None = None
    for name in names:
        try:
            make(name)
            opened = exporter.open(path)
            verification = compare(expected, opened, limits=limits)
        except NotEvaluable as error:
            attempts.append(Attempt(way=name, outcome="not exported", reason=str(error)))
            last = last or error
            continue
        failed = verification.failed
        if failed is None:
            attempts.append(Attempt(way=name, outcome="proven"))
            return name, opened, verification
        rejected = verification
        attempts.append(Attempt(way=name, outcome="rejected", reason=f"{failed.id}: {failed.evidence}"))
    if rejected is not None:
        why = next(attempt for attempt in reversed(attempts) if attempt.outcome == "rejected")
        ways = f" in any of {len(names)} ways" if len(names) > 1 else ""
        raise ExportRejected(
            f"the exported file does not compute what the model computes{ways} ({why.way}, {why.reason}); "
            "nothing was written",
            rejected,
            tuple(attempts),
        )
    raise last or NotEvaluable("there is no way to export this; nothing was written")

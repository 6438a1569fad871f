"""The verdict as a statement: written with ``--attest``, and held against a model with ``--verify-attestation``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sau_cli import __version__
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_adapters.provenance.attestation_files import StatementFile
    from sau_cli.results import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenStatement:
    """A statement to hold against a model.

    Attributes:
        place: its file, or a folder of statements.
        public_key: that it must be signed with; None where nobody asks.
    """

    place: Path
    public_key: Path | None


def given_statement(place: Path | None, public_key: Path | None) -> GivenStatement | None:
    """What the flags ask for.

    Raises:
        UsageError: a key without a statement, or no statement there.
    """
    if place is None and public_key is not None:
        raise UsageError("--attestation-key is of a statement; add --verify-attestation")
    if place is None:
        return None
    if not place.exists():
        raise UsageError(
            f"--verify-attestation {place} does not exist; give a statement that sau inspect --attest wrote"
        )
    return GivenStatement(place=place, public_key=public_key)


def attest_at_end(session: Session, place: Path | None, *, private_key: Path | None, several: bool) -> None:
    """When the session ends, write a statement on each model that was examined to the end.

    Args:
        place: a file for one model, a folder for several.

    Raises:
        UsageError: it could not be written or signed, which is said before the work starts.
    """
    if place is None:
        if private_key is not None:
            raise UsageError("--sign-key signs a statement; add --attest")
        return
    from sau_adapters.provenance.attestation_files import check_folder, name_in_folder, write_attestation
    from sau_adapters.provenance.signatures import check_key, signature_path
    from sau_cli.exporting.attestation import verdict_statement

    if several:
        check_folder(place, force=session.force)
    else:
        for path in (place, signature_path(place)):
            session.reserve(path, place="attest")
    if private_key is not None:
        check_key(private_key)

    def attest(report: Report) -> None:
        now, written = datetime.now(UTC), 0
        models = report.models if several else (report,)
        for model in models:
            text = verdict_statement(model, examined_on=now)
            if text is None:
                continue
            path = place / name_in_folder(model.details["file"]["sha256"]) if several else place
            path.parent.mkdir(exist_ok=True)
            write_attestation(path, text, private_key=private_key)
            written += 1
        if written < len(models):
            left = len(models) - written
            session.show(f"no statement was written on {left} of {len(models)} models, whose inspection an error ended")

    session.at_end(attest)


def check_attestation(opened: OpenedModel, given: GivenStatement, found: tuple[Check, ...]) -> tuple[Check, ...]:
    """Hold a statement against a model.

    Args:
        found: what the file shows now.

    Raises:
        UsageError: a key that is none, or no library to use it.
    """
    from sau_adapters.provenance.attestation_files import read_attestation
    from sau_cli.exporting.attestation import attestation_checks
    from sau_cli.inspection.calibration import DATA_FREE, WITH_DATA, shipped_calibration

    facts = opened.facts
    try:
        statement = read_attestation(given.place, facts.sha256)
    except (NotEvaluable, UsageError) as error:
        return (Check(id="attestation.contents", status=CheckStatus.FAILED, evidence=str(error)),)
    beside = {name: sha256 for name, sha256 in facts.beside.items() if sha256 is not None}
    return attestation_checks(
        statement.text,
        files={opened.path.name: facts.sha256} | beside,
        found={check.id: check.status for check in found},
        calibrations={name: shipped_calibration(with_data=name == WITH_DATA).sha256 for name in (WITH_DATA, DATA_FREE)},
        version=__version__,
        signature=_signature(statement, given.public_key),
    )


def _signature(statement: StatementFile, public_key: Path | None) -> Check:
    from sau_adapters.provenance.signatures import broken_signature

    name = "attestation.signature"
    if public_key is None:
        known = (
            "it is signed; add --attestation-key to see by whom" if statement.signed else "the statement is not signed"
        )
        return Check(id=name, status=CheckStatus.SKIPPED, evidence=f"nothing shows who made the statement: {known}")
    if not statement.signed:
        sentence = "the statement is not signed, and --attestation-key asks for it"
        return Check(id=name, status=CheckStatus.FAILED, evidence=sentence)
    files = {statement.path.name: statement.sha256}
    broken = broken_signature(statement.path, files=files, public_key=public_key, place="attestation_key")
    status = CheckStatus.FAILED if broken else CheckStatus.PASSED
    return Check(id=name, status=status, evidence=broken or "the signature holds, by the key that was given")

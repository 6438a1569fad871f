"""The chain that an ONNX file comes from, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sau_cli.commands.options import flag_of
from sau_cli.commands.session import Session
from sau_cli.errors import NotEvaluable
from sau_cli.reporting.json_document import plain
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_cli.inspection.file_facts import FileFacts


def check_chain(session: Session, path: Path, facts: FileFacts, *, public_key: Path | None) -> tuple[Check, ...]:
    """Check every link of the chain that an ONNX file comes from, and keep it for the report.

    Nothing of other formats, or where nothing is told.

    Raises:
        UsageError: a public key that is none, or no library to use it.
    """
    if facts.format != "onnx":
        if public_key is None:
            return ()
        sentence = f"the file is {facts.format}, which sau export does not sign, and --public-key asks for a signature"
        return (Check(id="chain.signature", status=CheckStatus.FAILED, evidence=sentence),)

    from sau_adapters.onnx.onnx_files import hashes_of
    from sau_adapters.provenance.provenance_files import bill_hashes, hashes_beside, read_statement
    from sau_adapters.provenance.signatures import signature_path
    from sau_cli.exporting.provenance import chain_checks, chain_links, origins_of

    try:
        told, billed = read_statement(path), bill_hashes(path)
    except NotEvaluable as error:
        return (Check(id="chain.file", status=CheckStatus.FAILED, evidence=error.told(flag_of)),)
    signed = signature_path(path).is_file()
    nothing_told = told is None and billed is None and not signed and "sau.history" not in facts.metadata
    if nothing_told and public_key is None:
        return ()
    known = {path.name: facts.sha256} | {name: sha256 for name, sha256 in facts.beside.items() if sha256 is not None}
    files = hashes_of(path, known=known) | known
    rows = chain_links(files=files, told=told, description=facts.description)
    session.findings.tell(chain=plain(rows))
    checks = chain_checks(
        files=files,
        metadata=facts.metadata,
        description=facts.description,
        told=told,
        beside={} if told is None else hashes_beside(path, origins_of(told)),
    )
    if billed is not None:
        changed = [name for name, sha256 in files.items() if sha256 not in billed]
        sentence = f"the bill of materials is not about {', '.join(changed)}, whose SHA-256 is another"
        status = CheckStatus.FAILED if changed else CheckStatus.PASSED
        evidence = sentence if changed else "the bill of materials is about this file"
        checks = (*checks, Check(id="chain.bill", status=status, evidence=evidence))
    return (*checks, _signature(path, files, signed=signed, public_key=public_key))


def _signature(path: Path, files: Mapping[str, str], *, signed: bool, public_key: Path | None) -> Check:
    from sau_adapters.provenance.signatures import broken_signature

    name = "chain.signature"
    if public_key is None:
        evidence = "signed; add --public-key to see by whom" if signed else "the file is not signed"
        return Check(id=name, status=CheckStatus.SKIPPED, evidence=evidence)
    if not signed:
        return Check(
            id=name, status=CheckStatus.FAILED, evidence="the file is not signed, and --public-key asks for it"
        )
    broken = broken_signature(path, files=files, public_key=public_key)
    status = CheckStatus.FAILED if broken else CheckStatus.PASSED
    return Check(id=name, status=status, evidence=broken or "the signature holds, by the key that was given")

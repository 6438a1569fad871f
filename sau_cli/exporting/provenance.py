"""Where an exported file comes from: a statement that binds it to the files it was made of, and a check of that chain.

The statement is an in-toto Statement v1 with the predicate of SLSA provenance v1. It stands in a file beside the
exported one, unsigned; who can change one can change the other, so only a signature binds it to somebody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sau_cli.description import Description, HistoryStep
from sau_cli.reporting.json_document import plain
from sau_cli.results import Check, CheckStatus

STATEMENT_TYPE, PROVENANCE_PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE, BUILDER = "urn:sau:export:v1", "urn:sau:export"
RECEIVED, PURIFIED = "received", "purified"
ROLES = (RECEIVED, PURIFIED, "trigger", "data")
"""What a file may be to an exported one; a statement is a stranger's, and may say anything."""
"""Roles of files that an export goes back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A file that went into an export.

    Attributes:
        role: ``received``, ``purified``, ``model`` where it is neither, ``trigger`` or ``data``.
        name: without a folder; empty where only the SHA-256 is known.
    """

    role: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A row of the chain, for people: what, its SHA-256, and how it stands."""

    what: str
    sha256: str
    told_by: str


def model_origins(name: str, sha256: str, history: Sequence[HistoryStep]) -> tuple[Origin, ...]:
    """The files that a model goes back to: the exported one, and what purification was given, if there was one."""
    purified = [step for step in history if step.step == "purify"]
    if not purified:
        return (Origin(role=RECEIVED, name=name, sha256=sha256),)
    received = purified[0].input_sha256
    before = [Origin(role=RECEIVED, name="", sha256=received)] if received else []
    return (*before, Origin(role=PURIFIED, name=name, sha256=sha256))


def statement(
    *,
    exported: Mapping[str, str],
    origins: Sequence[Origin],
    description: Description,
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The statement, as what JSON has.

    Args:
        exported: the SHA-256 of each file, by name.
        description: with the whole history, the export included.
        settings: of the export.
        figures: of its verification.
        versions: of what took part.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in exported.items()],
        "predicateType": PROVENANCE_PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"settings": plain(dict(settings))},
                "internalParameters": {
                    "architecture": description.architecture,
                    "history": plain(list(description.history)),
                    "verification": plain(dict(figures)),
                },
                "resolvedDependencies": [
                    {
                        "name": origin.name or origin.role,
                        "digest": {"sha256": origin.sha256},
                        "annotations": {"role": origin.role},
                    }
                    for origin in origins
                ],
            },
            "runDetails": {"builder": {"id": BUILDER, "version": dict(versions)}},
        },
    }


def origins_of(told: Mapping[str, Any]) -> tuple[Origin, ...]:
    """The files that a statement goes back to; what is not of this form is left out."""
    found = []
    predicate = told.get("predicate")
    build = predicate.get("buildDefinition") if isinstance(predicate, dict) else None
    listed = build.get("resolvedDependencies") if isinstance(build, dict) else None
    for dependency in listed if isinstance(listed, list) else []:
        if isinstance(dependency, dict):
            notes, digest = dependency.get("annotations"), sha256_in(dependency)
            role = notes.get("role") if isinstance(notes, dict) else None
            if digest:
                found.append(Origin(role=str(role or "other"), name=str(dependency.get("name", "")), sha256=digest))
    return tuple(found)


def chain_links(
    *, files: Mapping[str, str], told: Mapping[str, Any] | None, description: Description | None
) -> tuple[Link, ...]:
    """The chain from the received file to this one, as far as the statement, or else the history, tells it."""
    rows = []
    if told is not None:
        rows = [
            Link(what=origin.role, sha256=origin.sha256, told_by=f"the statement ({origin.name})")
            for origin in origins_of(told)
        ]
    elif description is not None:
        rows = [
            Link(what=f"input of {step.step}", sha256=step.input_sha256, told_by="the file's own history")
            for step in description.history
            if step.input_sha256
        ]
    return (*rows, *(Link(what="this file", sha256=sha256, told_by=name) for name, sha256 in files.items()))


def chain_checks(
    *,
    files: Mapping[str, str],
    metadata: Mapping[str, str],
    description: Description | None,
    told: Mapping[str, Any] | None,
    beside: Mapping[str, str],
) -> tuple[Check, ...]:
    """Whether the links of the chain hold: the file and its statement, its history, and files beside it.

    Args:
        files: the SHA-256 of the file, and of the file of its weights, by name.
        metadata, description: what the file says of itself.
        told: the statement beside it; None where there is none.
        beside: the SHA-256 of files in the same folder, of those that the statement names.
    """
    history = () if description is None else description.history
    checks = []
    if history:
        broken = _broken_history(history, metadata.get("sau.source_sha256"))
        names = ", ".join(step.step for step in history)
        checks.append(_link("chain.history", broken, f"the steps join: {names}"))
    if told is None:
        sentence = "there is no statement beside the file, so nothing shows that it is as it was written"
        return (*checks, Check(id="chain.file", status=CheckStatus.SKIPPED, evidence=sentence))
    subjects = told.get("subject")
    digests = (
        {sha256_in(subject) for subject in subjects if isinstance(subject, dict)}
        if isinstance(subjects, list)
        else set()
    )
    changed = [name for name, sha256 in files.items() if sha256 not in digests]
    broken = f"{', '.join(changed)} is not what the statement is about: its SHA-256 is another" if changed else ""
    checks.append(_link("chain.file", broken, "the SHA-256 is that of the statement"))
    origins = origins_of(told)
    if history:
        checks.append(
            _link("chain.statement", _broken_statement(told, origins, history), "the statement and the file agree")
        )
    seen: list[str] = []
    for role, name in dict.fromkeys((origin.role, origin.name) for origin in origins if origin.name in beside):
        # Two triggers of one name from two folders: the one that is here may be either.
        kept = any(origin.sha256 == beside[name] for origin in origins if (origin.role, origin.name) == (role, name))
        broken = "" if kept else f"{name} beside it is not the file that the statement names"
        told_as = role if role in ROLES else "other"
        seen.append(told_as)
        called = told_as if seen.count(told_as) == 1 else f"{told_as}-{seen.count(told_as)}"
        checks.append(_link(f"chain.{called}", broken, f"{name} is beside it, and is that file"))
    return tuple(checks)


def _broken_history(history: Sequence[HistoryStep], source: str | None) -> str:
    """What is wrong with the steps, in words; nothing where they join."""
    for before, step in pairwise(history):
        if step.input_sha256 is None:
            return f"the step {step.step} names no input, though {before.step} comes before it"
        if step.input_sha256 == before.input_sha256:
            return f"the steps {before.step} and {step.step} name the same input, so one did not work on the other's"
    if source is not None and history[-1].input_sha256 != source:
        return f"the last step, {history[-1].step}, names another input than the file's sau.source_sha256"
    return ""


def _broken_statement(told: Mapping[str, Any], origins: Sequence[Origin], history: Sequence[HistoryStep]) -> str:
    """Where the statement and the file's own history differ, in words."""
    by_role = {origin.role: origin.sha256 for origin in origins}
    last = by_role.get(PURIFIED, by_role.get(RECEIVED))
    if last != history[-1].input_sha256:
        return "the statement names another exported model than the file's history"
    purified = next((step for step in history if step.step == "purify"), None)
    if purified is not None and by_role.get(RECEIVED) != purified.input_sha256:
        return "the statement names another received model than the file's history"
    try:
        steps = told["predicate"]["buildDefinition"]["internalParameters"]["history"]
    except (KeyError, TypeError):
        return "the statement tells no history"
    same = json.dumps(steps, sort_keys=True) == json.dumps(plain(list(history)), sort_keys=True)
    return "" if same else "the statement tells another history than the file"


def sha256_in(resource: Mapping[str, Any]) -> str:
    """The SHA-256 of a subject or a dependency in a statement; nothing where it tells none."""
    digest = resource.get("digest")
    return str(digest.get("sha256", "")) if isinstance(digest, dict) else ""


def _link(name: str, broken: str, holds: str) -> Check:
    status = CheckStatus.FAILED if broken else CheckStatus.PASSED
    return Check(id=name, status=status, evidence=broken or holds)

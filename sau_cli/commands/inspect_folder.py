"""``sau inspect FOLDER``, or of several models: each, several at a time, whatever becomes of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.zoos.addresses import name_of
from sau_cli.commands.fleet import Assignment, Job, run_fleet, skipped_check
from sau_cli.commands.fleet_options import FleetOptions
from sau_cli.commands.project_defaults import ProjectDefaults
from sau_cli.commands.session import Session

if TYPE_CHECKING:
    from sau_adapters.zoos.search import FoundModels, PassedBy

SHOWN_PASSED_BY = 10


def inspect_folder(
    session: Session,
    folder: Path | None,
    found: FoundModels,
    words: tuple[str, ...],
    *,
    fleet: FleetOptions,
    defaults: ProjectDefaults,
    device: str,
) -> None:
    """Inspect every model that was found; each gets a report of its own within the session's.

    Args:
        folder: that the models lie under, and are named in; None where they were given one by one.
        words: the options of each inspection.
    """
    jobs = [Job(name=_name(path, folder), model=path, words=words) for path in sorted(found.models)]
    session.findings.tell(skipped=_listed(found.passed_by))
    run_fleet(
        session,
        Assignment(command="inspect", jobs=jobs, fleet=fleet, defaults=defaults, device=device, folder=folder),
        skipped=[skipped_check(_name(question.path, folder), question.reason) for question in found.open_questions],
    )
    for line in _passed_by_lines(found, folder):
        session.show(line)


def _name(path: Path, folder: Path | None) -> str:
    return name_of(path) if folder is None else path.relative_to(folder).as_posix()


def _listed(passed_by: Sequence[PassedBy]) -> list[dict[str, str]]:
    return [{"path": str(file.path), "reason": file.reason} for file in passed_by]


def _passed_by_lines(found: FoundModels, folder: Path | None) -> Iterator[str]:
    """What was not examined: what may hold a model by name, the rest by number."""
    open_questions = found.open_questions
    for question in open_questions[:SHOWN_PASSED_BY]:
        yield f"skipped, not examined: {_name(question.path, folder)} ({question.reason})"
    if open_questions[SHOWN_PASSED_BY:]:
        yield f"skipped, not examined: {len(open_questions) - SHOWN_PASSED_BY} more, which --json lists"
    others = len(found.passed_by) - len(open_questions)
    if others:
        yield f"{others} other {'files are' if others > 1 else 'file is'} no model or a part of one; --json lists them"

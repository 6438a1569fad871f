"""Statements on models as files: one by one, or many in a folder, each under the SHA-256 of the model that it is on."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sau_adapters.files import check_folder_writable, written_together
from sau_adapters.provenance.provenance_files import MOST_BYTES_READ
from sau_adapters.provenance.signatures import sign, signature_path
from sau_cli.errors import NotEvaluable, UsageError

_STATEMENT_NAME = re.compile(r"[0-9a-f]{64}\.intoto\.json(\.sig)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementFile:
    """A statement as it was read, once."""

    path: Path
    text: str
    sha256: str

    @property
    def signed(self) -> bool:
        """Whether there is a signature beside it."""
        return signature_path(self.path).is_file()


def check_folder(place: Path, *, force: bool) -> None:
    """Say before the work starts that statements could not be written to a folder.

    Raises:
        UsageError: it has statements and ``force`` is off, it has something else, or it cannot be written to.
    """
    known = (
        {entry.name for entry in place.iterdir() if _STATEMENT_NAME.fullmatch(entry.name)} if place.is_dir() else set()
    )
    check_folder_writable(place, force=force or not known, files=known or {"0"}, place="attest")


def write_attestation(path: Path, text: str, *, private_key: Path | None) -> None:
    """Write a statement, and its signature beside it if there is a key, together.

    Raises:
        UsageError: the place cannot be written to, or the key cannot sign.
    """
    with written_together(path) as staged:
        staged.write_text(text, encoding="utf-8")
        if private_key is not None:
            sign(staged, private_key=private_key)
    if private_key is None:
        signature_path(path).unlink(missing_ok=True)  # of the statement that was there: it would belie this one


def name_in_folder(sha256: str) -> str:
    """What the statement on a model is called among others."""
    return f"{sha256}.intoto.json"


def read_attestation(place: Path, sha256: str) -> StatementFile:
    """The statement in a file, or that on this model in a folder of them.

    Raises:
        UsageError: there is none.
        NotEvaluable: it cannot be read.
    """
    path = place / name_in_folder(sha256) if place.is_dir() else place
    if not path.is_file():
        which = f"{place} has no statement on this model ({path.name})" if place.is_dir() else f"{path} does not exist"
        raise UsageError(f"{which}; give one that an inspection wrote")
    try:
        with path.open("rb") as file:
            found = file.read(MOST_BYTES_READ + 1)
    except OSError as error:
        raise NotEvaluable(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if len(found) > MOST_BYTES_READ:
        raise NotEvaluable(f"{path} is no statement of sau: it is too large; get it again")
    return StatementFile(path=path, text=found.decode(errors="replace"), sha256=hashlib.sha256(found).hexdigest())

"""A user's own class, named on the command line as ``FILE.py:CLASS``. Nothing that a model file says ends here."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from sau_cli.errors import UsageError, argument, reason_of


def is_user_class(name: str) -> bool:
    """Whether a name means a class in a file."""
    return ".py:" in name


def user_class(name: str, *, named_by: str) -> Any:
    """Run the user's own file, and give what it calls by that name.

    Args:
        name: ``FILE.py:CLASS``.
        named_by: the argument that names it, for the sentence.

    Raises:
        UsageError: no such file, it cannot be run, or has nothing of that name.
    """
    file, _, wanted = name.rpartition(":")
    path = Path(file)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"{argument(named_by)} {name!r}: there is no file {file}; give FILE.py:CLASS")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        with redirect_stdout(sys.stderr):  # standard output is for the document of --json -
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise UsageError(f"{argument(named_by)} {name!r}: {file} could not be run ({reason}); repair it") from error
    made = getattr(module, wanted, None)
    if made is None:
        raise UsageError(f"{argument(named_by)} {name!r}: {file} has no {wanted}; give the name of a class in it")
    return made

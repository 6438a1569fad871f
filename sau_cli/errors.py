"""What can go wrong, each kind with the exit code it ends in.

Every message is one sentence: what is wrong, where, and what to do next. It names arguments as Python does; a command
makes flags of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The exit codes that gates in CI rely on."""

    PASSED = 0
    LIMIT_FAILED = 1
    USAGE = 2
    NOT_EVALUATED = 3
    UNSAFE = 4
    VERIFICATION_FAILED = 5
    INCONCLUSIVE = 6
    INTERNAL = 70
    INTERRUPTED = 130


_ARGUMENT = re.compile("\0(\\w+)\0")


def argument(name: str) -> str:
    """An argument or a setting, in the sentence of an error: ``str`` tells its name, and a command its flag.

    >>> error = UsageError(f"300 images do not fit; give a smaller {argument('max_batch')}")
    >>> str(error)
    '300 images do not fit; give a smaller max_batch'
    >>> error.told(lambda name: f"--{name.replace('_', '-')}")
    '300 images do not fit; give a smaller --max-batch'
    """
    return f"\0{name}\0"


class SauError(Exception):
    """The root of the tree. Raise one of its leaves."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __str__(self) -> str:
        return self.told(str)

    def told(self, named: Callable[[str], str]) -> str:
        """The sentence, with what each :func:`argument` in it is named."""
        return _ARGUMENT.sub(lambda found: named(found[1]), super().__str__())


class UsageError(SauError):
    """The request itself is wrong: a bad value, a missing file, an unknown name."""

    exit_code = ExitCode.USAGE


class NotEvaluable(SauError):
    """The request is fine but the model or data could not be evaluated. Never means clean."""

    exit_code = ExitCode.NOT_EVALUATED


class UnsafeFile(SauError):
    """A file is refused: code in a pickle, a lying header, a path that escapes its folder.

    Attributes:
        finding: the id of the check that it is in a report.
    """

    exit_code = ExitCode.UNSAFE

    def __init__(self, sentence: str, *, finding: str = "file.header") -> None:
        super().__init__(sentence)
        self.finding = finding


class VerificationFailed(SauError):
    """The exported model does not compute what the classifier computes."""

    exit_code = ExitCode.VERIFICATION_FAILED


class Inconclusive(SauError):
    """Too little data or time for the confidence that was asked."""

    exit_code = ExitCode.INCONCLUSIVE


class Interrupted(SauError):
    """Somebody stopped the work; what was done is kept."""

    exit_code = ExitCode.INTERRUPTED


LONGEST_REASON = 200


def reason_of(error: BaseException) -> str:
    """What somebody else's error says, as part of a sentence: its first line, cut short, or else its kind."""
    lines = (
        "".join(character if character.isprintable() or character == "\n" else "?" for character in str(error))
        .strip()
        .splitlines()
    )
    first = lines[0].strip().rstrip(".") if lines else ""
    if not any(character.isalnum() for character in first):
        return type(error).__name__
    return first if len(first) <= LONGEST_REASON else f"{first[:LONGEST_REASON]}..."


@contextmanager
def reading(what: object, kind: str, *, advice: str = "get it again or repair it") -> Iterator[None]:
    """Around reading something from a stranger: whatever a parser raises there is damage, and not our bug.

    Raises:
        NotEvaluable: in place of any error that is not one of ours already.
    """
    try:
        yield
    except (SauError, MemoryError):
        raise
    except Exception as error:
        raise NotEvaluable(f"{what} cannot be read as {kind} ({reason_of(error)}); {advice}") from error

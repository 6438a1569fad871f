"""What can go wrong, each kind with the exit code it ends in.

Every message is one sentence: what is wrong, where, and what to do next.
"""

from __future__ import annotations

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


class SauError(Exception):
    """The root of the tree. Raise one of its leaves."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL


class UsageError(SauError):
    """The request itself is wrong: a bad value, a missing file, an unknown name."""

    exit_code = ExitCode.USAGE


class NotEvaluable(SauError):
    """The request is fine but the model or data could not be evaluated. Never means clean."""

    exit_code = ExitCode.NOT_EVALUATED


class UnsafeFile(SauError):
    """A file is refused: code in a pickle, a lying header, a path that escapes its folder."""

    exit_code = ExitCode.UNSAFE


class VerificationFailed(SauError):
    """The exported model does not compute what the classifier computes."""

    exit_code = ExitCode.VERIFICATION_FAILED


class Inconclusive(SauError):
    """Too little data or time for the confidence that was asked."""

    exit_code = ExitCode.INCONCLUSIVE


class Interrupted(SauError):
    """Somebody stopped the work; what was done is kept."""

    exit_code = ExitCode.INTERRUPTED

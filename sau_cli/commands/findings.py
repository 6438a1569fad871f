"""What a command finds, piece by piece, up to its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sau_cli import __version__
from sau_cli.errors import ExitCode
from sau_cli.results import Check, CheckStatus, InputFile, Report, Verdict, verdict_of

_VERDICTS = {
    ExitCode.USAGE: Verdict.ERROR,
    ExitCode.NOT_EVALUATED: Verdict.NOT_EVALUATED,
    ExitCode.UNSAFE: Verdict.UNSAFE,
    ExitCode.VERIFICATION_FAILED: Verdict.FAILED,
    ExitCode.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    ExitCode.INTERNAL: Verdict.ERROR,
    ExitCode.INTERRUPTED: Verdict.INTERRUPTED,
}


class Findings:
    """Builds a report. What is added stays: no room of the house takes away what another has found."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._inputs: list[InputFile] = []
        self._outputs: dict[str, InputFile] = {}
        self._checks: list[Check] = []
        self._details: dict[str, Any] = {}
        self._environment: dict[str, Any] = {}
        self._models: Sequence[Report] = ()
        self._verdict: tuple[Verdict, ExitCode] | None = None

    @property
    def checks(self) -> tuple[Check, ...]:
        """Those so far."""
        return tuple(self._checks)

    @property
    def inputs(self) -> tuple[InputFile, ...]:
        """Those so far."""
        return tuple(self._inputs)

    def add(self, *checks: Check) -> None:
        """Add what was looked at."""
        self._checks += checks

    def answer(self, question: Check, *answers: Check) -> None:
        """Add these, in place of a check that one added oneself to say that they are missing."""
        self._checks.remove(question)
        self.add(*answers)

    def tell(self, **details: Any) -> None:
        """Add what belongs to this command alone, by name."""
        self._details |= details

    def fetched(self, told: str) -> None:
        """Add what was fetched, in words, beside what was before."""
        before = self._details.get("fetched", "")
        if told not in before:
            self.tell(fetched=f"{before}; {told}" if before else told)

    def ran_on(self, **environment: Any) -> None:
        """Add what the work ran on, by name."""
        self._environment |= environment

    def judge(self, verdict: Verdict, code: ExitCode) -> None:
        """Conclude something else than the checks say by themselves."""
        self._verdict = verdict, code

    def took(self, file: InputFile) -> None:
        """Add a file that went in, once."""
        if file not in self._inputs:
            self._inputs.append(file)

    def wrote(self, role: str, file: InputFile) -> None:
        """Add a file that was written, under its role."""
        self._outputs[role] = file

    def hold(self, models: Sequence[Report], inputs: Iterable[InputFile]) -> None:
        """Have the reports on several models, and what went into them."""
        self._models = models
        self._inputs += inputs

    def report(self, error: tuple[str, ExitCode] | None = None, *, machine: Mapping[str, Any]) -> Report:
        """The whole of it. A check that failed keeps its exit code, whatever went wrong afterwards.

        Args:
            error: the sentence and the exit code of what ended the command, if something did.
            machine: what is known of where it ran.
        """
        verdict, code = self._verdict or verdict_of(self.checks)
        if error is not None:
            verdict, code = self._after(error[1], verdict)
        return Report(
            tool_version=__version__,
            command=self._command,
            inputs=self.inputs,
            verdict=verdict,
            exit_code=code,
            checks=self.checks,
            environment={**machine, **self._environment},
            outputs=self._outputs,
            details=self._details,
            models=self._models,
            error=None if error is None else error[0],
        )

    def _after(self, error: ExitCode, verdict: Verdict) -> tuple[Verdict, ExitCode]:
        """What an error leaves of the verdict."""
        failed = any(check.status is CheckStatus.FAILED for check in self._checks)
        if verdict is Verdict.UNSAFE or any(model.verdict is Verdict.UNSAFE for model in self._models):
            return Verdict.UNSAFE, ExitCode.UNSAFE
        if failed and error not in {ExitCode.UNSAFE, ExitCode.VERIFICATION_FAILED}:
            return Verdict.FAILED, ExitCode.LIMIT_FAILED
        return _VERDICTS[error], error

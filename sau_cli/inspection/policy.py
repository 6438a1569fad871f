"""A policy: what a gate demands of a model file. Needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sau_cli.errors import UsageError
from sau_cli.inspection.file_facts import FileFacts
from sau_cli.results import Check, CheckStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of a ``[policy]`` table; a rule that is not there demands nothing.

    Attributes:
        allowed_formats: formats by content, such as ``safetensors``.
        allowed_sha256: the files that are known, by SHA-256.
        min_acc: least accuracy on the data given, as a fraction.
    """

    allowed_formats: tuple[str, ...] | None = None
    allowed_sha256: tuple[str, ...] | None = None
    min_acc: float | None = None


def parse_policy(table: Mapping[str, Any], source: str) -> Policy:
    """A policy from a TOML table.

    Raises:
        UsageError: a rule that does not exist, or a value of the wrong kind.
    """
    known = {"allowed-formats", "allowed-sha256", "min-acc"}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known rules are {', '.join(sorted(known))}"
            raise UsageError(f"the policy in {source} has a rule {key!r} that sau does not know; {hint}")
    least = table.get("min-acc")
    if least is not None and (isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1):
        raise UsageError(f"the policy in {source} sets min-acc to {least!r}; give a fraction such as 0.9")
    return Policy(
        allowed_formats=_texts(table, "allowed-formats", source),
        allowed_sha256=_texts(table, "allowed-sha256", source),
        min_acc=least,
    )


def judge_file(facts: FileFacts, policy: Policy) -> tuple[Check, ...]:
    """One check for each rule about the file itself."""
    checks = []
    if policy.allowed_formats is not None:
        allowed = ", ".join(policy.allowed_formats)
        checks.append(
            _rule(
                "allowed-formats",
                facts.format in policy.allowed_formats,
                value=facts.format,
                evidence=f"the format is {facts.format}; allowed are {allowed}",
            )
        )
    if policy.allowed_sha256 is not None:
        known = facts.sha256 in {digest.lower() for digest in policy.allowed_sha256}
        sentence = (
            "the SHA-256 is on the list of known files" if known else "the SHA-256 is not on the list of known files"
        )
        checks.append(_rule("allowed-sha256", known, value=facts.sha256, evidence=sentence))
    return tuple(checks)


def _rule(name: str, kept: bool, *, value: str, evidence: str) -> Check:
    status = CheckStatus.PASSED if kept else CheckStatus.FAILED
    return Check(id=f"policy.{name}", status=status, value=value, evidence=evidence)


def _texts(table: Mapping[str, Any], key: str, source: str) -> tuple[str, ...] | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UsageError(f"the policy in {source} sets {key} to {value!r}; give a list of texts")
    return tuple(value)

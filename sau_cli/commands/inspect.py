"""``sau inspect``: what is this file, and is it safe to open?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sau_cli.commands.attesting import GivenStatement, attest_at_end, check_attestation, given_statement
from sau_cli.commands.behaviour_view import examine
from sau_cli.commands.chain_view import check_chain
from sau_cli.commands.file_view import file_tables, inspection_view
from sau_cli.commands.fleet_options import OF_THE_RUN, FleetOptions, given_words
from sau_cli.commands.inputs import Request, fetch, located_once, opened_once, request
from sau_cli.commands.options import (
    DataOption,
    DataRootOption,
    DeviceOption,
    DownloadOption,
    ModelsArgument,
    OutputOptions,
    PolicyOption,
    ReadingOptions,
    SeedOption,
    TableOption,
    with_groups,
)
from sau_cli.commands.project_defaults import read_policy
from sau_cli.commands.registry_tags import tag_at_end
from sau_cli.commands.session import Session
from sau_cli.commands.tables import write_tables_at_end
from sau_cli.errors import ExitCode, UsageError
from sau_cli.inspection.effort import ALL_TESTS, AskedTests, Effort
from sau_cli.reporting.json_document import plain
from sau_cli.results import Check, CheckStatus, Verdict, verdict_of

if TYPE_CHECKING:
    from sau_adapters.models import OpenedModel
    from sau_adapters.zoos.search import FoundModels
    from sau_cli.gating.policy import Policy
    from sau_cli.inspection.file_facts import FileFacts


@with_groups
def inspect_command(
    context: typer.Context,
    models: ModelsArgument,
    *,
    data: DataOption = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="M0",
            help="The model that MODEL was purified from: is anything that both share still a short cut to a class?",
        ),
    ] = None,
    policy: PolicyOption = None,
    effort: Annotated[
        Effort | None,
        typer.Option(
            help="How much goes into the model's behaviour: none, three seeds, or nine. "
            "[default: standard, where that takes minutes at most]"
        ),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            "--test",
            metavar="NAME",
            help="Run this test of behaviour alone, by the name of its check, such as maximum-margin. May be repeated.",
        ),
    ] = None,
    skip_test: Annotated[
        list[str] | None,
        typer.Option("--skip-test", metavar="NAME", help="Leave this test out. May be repeated."),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, with its type and shape.")] = False,
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="KEY.pub", help="Fail unless the file is ONNX, signed with the key to this one."),
    ] = None,
    attest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the verdict as an in-toto statement on the bytes that were examined; of several models, one "
            "each into the folder FILE.",
        ),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY.pem",
            help="Sign the statement with this elliptic curve key (pip install model-signing pyopenssl).",
        ),
    ] = None,
    verify_attestation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Fail unless this statement, or that on the model in this folder, holds of the model."
        ),
    ] = None,
    attestation_key: Annotated[
        Path | None,
        typer.Option(metavar="KEY.pub", help="Fail unless the statement is signed with the key to this one."),
    ] = None,
    mlflow_tags: Annotated[
        bool,
        typer.Option(
            "--mlflow-tags", help="Write what is found as tags of each version models:/NAME/VERSION in MLflow."
        ),
    ] = False,
    table: TableOption = None,
    data_root: DataRootOption = None,
    reading: ReadingOptions,
    download: DownloadOption = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    fleet: FleetOptions,
    output: OutputOptions,
) -> None:
    """Say what a model file is, whether it is safe to open, and whether it behaves like a backdoored model.

    The verdict comes first, in a sentence, with what to do next; then what the file is: architecture,
    classes, size, dtype, SHA-256, metadata and history, and with --data the accuracy. No code from the
    file is run, and its format is told by content, never by extension.

    Then its behaviour is examined, as far as it can be opened: how far one class stands out from the
    others, in tests that need no data and in tests on clean images. A model that behaves like a
    backdoored one is exit 1; seeds that disagree are exit 6. A clean bill is no proof.

    With --reference, the model that it was purified from, the residual test looks at both together:
    is a change of all images left that leads both to one class far more easily than to others? If so,
    exit 6.

    Of a folder every model under it is inspected, several at a time, with --ray on the machines of a
    cluster. One that cannot be is no reason to stop, and the exit code is that of the worst. What is
    known of the same content from an earlier run is not done again.

    Each rule of a [policy] becomes a check: one that is broken is exit 1, one whose measurement was
    not made is inconclusive, exit 6. Weights that are NaN or infinite are exit 3.

    Of ONNX that sau export wrote, the chain is shown that it comes from; a link that is broken is exit 1.

    \b
    Examples:
      sau inspect model.safetensors
      sau inspect vendor.pth --data clean/ --normalisation none
      sau inspect vendor.pth --effort quick --tensors
      sau inspect vendor.pth --data clean/ --test maximum-margin \\
        --test easiest-change
      sau inspect model.purified.safetensors --reference model.safetensors \\
        --data clean/
      sau inspect model.safetensors --data digits --policy policy.toml
      sau inspect model.safetensors --json - | jq .verdict
      sau inspect model.safetensors --data digits --attest verdict.intoto.json \\
        --sign-key key.pem
      sau inspect models/ --jobs 4 --report models.sarif --table models.html
      sau inspect models/ --ray head-node:6379 --json models.json
    """
    with Session("inspect", output) as session:
        write_tables_at_end(session, table or ())
        tag_at_end(session, models, asked=mlflow_tags)
        fetch(session, *models, reference, download=download)
        asked = request(reading, data=data, data_root=data_root)
        inspect_alone = partial(
            inspect_model,
            session,
            asked=asked,
            rules=asked.defaults.policy if policy is None else read_policy(policy),
            effort=effort,
            tests=AskedTests(only=tuple(test or ()), without=tuple(skip_test or ())),
            device=device,
            seed=seed,
            public_key=public_key,
            reference=reference,
            statement=given_statement(verify_attestation, attestation_key),
            tensors=tensors,
        )
        found, one = _found(models, reference, fleet)
        attest_at_end(session, attest, private_key=sign_key, several=one is None)
        if one is not None:
            inspect_alone(one)
            return
        from sau_cli.commands.inspect_folder import inspect_folder

        inspect_folder(
            session,
            models[0] if len(models) == 1 else None,
            found,
            given_words(context, without=OF_THE_RUN),
            # A statement tells when a model was examined, so what was known before does not do.
            fleet=fleet if attest is None else replace(fleet, no_cache=True),
            defaults=asked.defaults,
            device=device,
        )


def _found(models: Sequence[Path], reference: Path | None, fleet: FleetOptions) -> tuple[FoundModels, Path | None]:
    """The models at these places; and the one, where there is no other and nothing that may be one."""
    from sau_adapters.zoos.addresses import is_address
    from sau_adapters.zoos.search import FoundModels, models_at

    several = UsageError("--reference is of one model; inspect that one alone")
    if reference is not None and len(models) > 1:
        raise several
    if len(models) == 1 and not (models[0].is_dir() or is_address(models[0])):
        if fleet.ray is not None:
            raise UsageError("--ray is for several models; leave it out, or give a folder or more models")
        return FoundModels(models=(models[0],), passed_by=()), models[0]
    found = models_at(models)
    if reference is not None and len(found.models) > 1:
        raise several
    return found, found.models[0] if len(found.models) == 1 and not found.open_questions else None


def inspect_model(
    session: Session,
    model: Path,
    asked: Request,
    *,
    rules: Policy | None,
    effort: Effort | None,
    tests: AskedTests = ALL_TESTS,
    device: str,
    seed: int,
    public_key: Path | None = None,
    reference: Path | None = None,
    statement: GivenStatement | None = None,
    tensors: bool = False,
) -> None:
    """Inspect one model: what is found goes into the session, also where an error ends it.

    Args:
        rules: of a policy, each to become a check.
        effort: None for what can be done in reasonable time.
        tests: of behaviour, by name.
        device: what measurements run on, as ``--device`` takes it.
        public_key: that a signature of ONNX must be of.
        reference: the model that it was purified from, to look at both together.
        statement: on it, to hold against it.
        tensors: show them, each with its shape.
    """
    from sau_cli.gating.policy import judge_measures
    from sau_cli.inspection.inspector import inspect, inspection_verdict

    findings = session.findings
    opened = _read(session, model)
    facts = opened.facts
    *checks, not_examined = inspect(facts, architecture=asked.arch)  # the last: its behaviour is a question of its own
    findings.add(*checks, not_examined)
    findings.judge(*inspection_verdict(facts))
    findings.tell(file=plain(facts), parameters=facts.parameters)
    if given := asked.given:
        findings.tell(given=given)
    if statement is not None:
        findings.add(*check_attestation(opened, statement, tuple(checks)))
    if rules is not None:
        findings.add(*_judge_file(facts, rules, findings.checks))
    try:
        findings.add(*check_chain(session, opened.path, facts, public_key=public_key))
        if facts.safe and not facts.non_finite:
            behaviour = examine(
                session,
                opened,
                asked,
                effort=effort,
                tests=tests,
                accuracy=rules is not None and rules.min_acc is not None,
                device=device,
                seed=seed,
                reference=reference,
            )
            findings.answer(not_examined, *behaviour)
    except BaseException:
        session.show(file_tables(facts, tensors=tensors, whole=session.verbose))
        raise
    finally:
        if rules is not None:
            findings.add(*judge_measures(findings.checks, rules, unmeasured=CheckStatus.INCONCLUSIVE))
    findings.judge(*_worse(inspection_verdict(facts), findings.checks))
    session.show(inspection_view(session.report(machine=False), facts, tensors=tensors, whole=session.verbose))


def _read(session: Session, model: Path) -> OpenedModel:
    """A model's files, read once, which are recorded with what they keep beside them."""
    from sau_adapters.zoos.addresses import name_of

    session.findings.tell(path=name_of(model))
    opened = opened_once(session, located_once(session, model))
    facts = opened.facts
    session.took(opened.source or model, facts.sha256)
    for name, sha256 in facts.beside.items():
        if sha256 is not None:
            session.took(opened.path.parent / name, sha256)
    return opened


def _judge_file(facts: FileFacts, rules: Policy, checks: Sequence[Check]) -> tuple[Check, ...]:
    from sau_cli.gating.policy import JudgedFile, judge_file

    worst = max((check.severity for check in checks if check.severity), key=lambda severity: severity.rank)
    file = JudgedFile(
        format=facts.format,
        sha256=facts.sha256,
        metadata=facts.metadata,
        description=facts.description,
        worst=worst,
        beside=facts.beside,
        attestation=tuple(check for check in checks if check.id.startswith("attestation.")),
    )
    return judge_file(file, rules)


_HELD = {CheckStatus.FAILED, CheckStatus.INCONCLUSIVE}


def _worse(found: tuple[Verdict, ExitCode], checks: Sequence[Check]) -> tuple[Verdict, ExitCode]:
    """The verdict on the file, or that on the behaviour and of the policy's rules where they have more to say."""
    verdict, _ = found
    judged = tuple(
        check
        for check in checks
        if check.id.startswith("policy.")
        or check.id in {"behaviour.score", "behaviour.easiest-change", "residual.score"}
        or (check.id.startswith(("chain.", "attestation.")) and check.status in _HELD)
    )
    if not judged or verdict is Verdict.UNSAFE:
        return found
    ruled = verdict_of(judged)
    return ruled if verdict is Verdict.MEASURED or ruled[0] is Verdict.FAILED else found

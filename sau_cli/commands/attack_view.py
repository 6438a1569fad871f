"""Attacks and what came of them, for people and for reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group

from sau_cli.attacks.table import ATTACKS, attack_class
from sau_cli.commands.attack_flags import shown
from sau_cli.commands.evaluation_view import evaluation_table
from sau_cli.commands.session import Session
from sau_cli.reporting.json_document import plain
from sau_cli.reporting.terminal import percent, table

if TYPE_CHECKING:
    from sau_cli.attacks.planting import PlannedAttack, PlantedBackdoor
    from sau_cli.evaluation.metrics import Evaluation
    from sau_cli.triggers.trigger import Trigger
    from sau_cli.triggers.visibility import Visibility

WORKS = 0.9
"""An ASR below which a remark is made."""


def show_planted(
    session: Session, triggers: Sequence[Trigger], evaluation: Evaluation, seen: Sequence[Visibility], *, title: str
) -> None:
    """How well each trigger works, how well it hides, and what would help."""
    session.show(evaluation_table(evaluation, title=title))
    session.show(visibility_table(triggers, seen))
    for check in session.findings.checks:
        if check.id.startswith("part-asr."):
            session.show(check.evidence)
    for row in evaluation.triggers:
        if row.asr.value < WORKS:
            session.show(
                f"{row.trigger} reaches an ASR of {percent(row.asr.value)} only; more --epochs help, then a higher "
                "--poison-rate"
            )


def attacks_told(
    planned: Sequence[PlannedAttack],
    triggers: Sequence[Trigger],
    seen: Sequence[Visibility],
    planted: PlantedBackdoor | None = None,
) -> list[dict[str, Any]]:
    """What history and report say of each attack."""
    return [
        {
            "attack": plan.name,
            "settings": plan.attack.settings(),
            "poison_rate": plan.rate if plan.rate is not None else plan.attack.poison_rate,
            "trigger": trigger.description(),
            "visibility": plain(measured),
        }
        | ({} if planted is None else {"poisoned_images": plain(planted.poisoned[place])})
        for place, (plan, trigger, measured) in enumerate(zip(planned, triggers, seen, strict=True))
    ]


def visibility_table(triggers: Sequence[Trigger], seen: Sequence[Visibility]) -> Group:
    """How far triggered images are from the clean ones, one row a trigger."""

    def told(value: float | None, digits: int, unit: str = "") -> str:
        return "-" if value is None else f"{value:.{digits}f}{unit}"

    rows = [
        (trigger.name, told(far.linf, 2), told(far.l2, 2), told(far.psnr, 1, " dB"), told(far.ssim, 3))
        for trigger, far in zip(triggers, seen, strict=True)
    ]
    title = f"Visibility on {seen[0].images} test images"
    return table(
        title, ("trigger", "L-inf", "L2", "PSNR", "SSIM"), rows, legend="Of pixels in 0 to 1 against the clean image."
    )


def show_attacks(session: Session, *, to_stdout: bool) -> None:
    """All attacks and their settings; on standard output, as this is what was asked for."""
    rows, details = [], {}
    for name in ATTACKS:
        found = attack_class(name)
        flags = found.flags()
        summary = str(found.__doc__).strip().splitlines()[0]
        whose = "the target class, labels kept" if found.clean_label else "the training images"
        summary = f"{summary} Poisons {found.poison_rate:g} of {whose}."
        lines = [f"  --{key.replace('_', '-')} {shown(value)}: {what}" for key, (_, value, what) in flags.items()]
        rows.append((name, "\n".join([summary, *lines])))
        details[name] = {
            "summary": summary,
            "clean_label": found.clean_label,
            "poison_rate": found.poison_rate,
            "settings": {key: {"default": default, "help": what} for key, (_, default, what) in flags.items()},
        }
    session.findings.tell(attacks=details)
    if to_stdout and not session.quiet:
        console = Console(file=session.standard_output, highlight=False)
        console.print(table("Attacks, and their settings with defaults", ("", ""), rows))

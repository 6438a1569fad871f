"""How fast an exported model is, as checks of a report and as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group

from sau_cli.reporting.terminal import table
from sau_cli.results import Check, CheckStatus

if TYPE_CHECKING:
    from sau_cli.exporting.speed import Speed


def speed_checks(speed: Speed) -> tuple[Check, ...]:
    """Each figure as a check with status "measured"."""
    return (
        Check(
            id="export.latency",
            status=CheckStatus.MEASURED,
            value=speed.exported_ms,
            evidence=f"{speed.exported_ms:.3g} ms for one image in onnxruntime, {speed.pytorch_ms:.3g} ms in PyTorch",
        ),
        Check(
            id="export.throughput",
            status=CheckStatus.MEASURED,
            value=speed.exported_rate,
            evidence=f"{speed.exported_rate:,.0f} images a second in batches of {speed.batch} in onnxruntime, "
            f"{speed.pytorch_rate:,.0f} in PyTorch",
        ),
    )


def speed_table(speed: Speed) -> Group:
    """One row a runtime."""
    rows = [
        ("PyTorch", f"{speed.pytorch_ms:.3g} ms", f"{speed.pytorch_rate:,.0f}"),
        ("onnxruntime", f"{speed.exported_ms:.3g} ms", f"{speed.exported_rate:,.0f}"),
    ]
    columns = ("", "one image", f"images/s, {speed.batch} a batch")
    return table(f"Speed on the CPU, {speed.threads} threads", columns, rows)

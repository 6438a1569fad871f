"""The command ``sau``: composes the commands, and maps errors of the command line to exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sau_cli import __version__
from sau_cli.commands.attack import attack
from sau_cli.commands.evaluate import evaluate
from sau_cli.commands.export import export
from sau_cli.commands.inspect import inspect
from sau_cli.commands.purify import purify
from sau_cli.errors import ExitCode

app = typer.Typer(
    name="sau",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sau {__version__}")
        raise typer.Exit


@app.callback()
def sau(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Inspect, purify, evaluate and export image classifiers that arrive from somewhere else.

    \b
    A first look at a file, then at its behaviour, then a model you can ship:
      sau inspect  model.safetensors
      sau purify   model.safetensors --clean-frac 0.05
      sau evaluate model.purified.safetensors --reference model.safetensors
      sau export   model.purified.safetensors -o model.onnx

    \b
    Exit codes: 0 passed, 1 a limit failed, 2 usage, 3 could not be evaluated,
    4 refused as unsafe, 5 ONNX verification failed, 6 inconclusive,
    70 a bug in sau, 130 interrupted.
    """


for command in (inspect, attack, purify, evaluate, export):
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        code = app(arguments, prog_name="sau", standalone_mode=False)
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except Exception as error:
        # Errors of the command line itself: Typer's own classes, told by what they offer.
        if not hasattr(error, "format_message"):
            raise
        message = str(error.format_message()).replace("\n", " ").strip()
        context = getattr(error, "ctx", None)
        if message:
            where = f"; see {context.command_path} --help" if context else ""
            typer.echo(f"error: {message.rstrip('.')}{where}", err=True)
        elif context:
            typer.echo(context.get_help(), err=True)
        code = ExitCode.USAGE
    sys.exit(int(code or 0))

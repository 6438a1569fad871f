"""The command ``sau``: composes the commands, and maps errors of the command line to exit codes."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from typing import Annotated

import typer

from sau_cli import __version__
from sau_cli.commands.attack import attack_command
from sau_cli.commands.attack_flags import named_attacks, with_flags
from sau_cli.commands.demo import demo_command
from sau_cli.commands.evaluate import evaluate_command
from sau_cli.commands.export import export_command
from sau_cli.commands.fleet_options import with_ray_address
from sau_cli.commands.inspect import inspect_command
from sau_cli.commands.options import OutputOptions
from sau_cli.commands.purify import purify_command
from sau_cli.commands.session import Session
from sau_cli.errors import ExitCode, UsageError


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sau {__version__}")
        raise typer.Exit


def sau(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Inspect, purify, evaluate and export image classifiers that arrive from somewhere else.

    \b
    All of it on an example, in a minute or two:
      sau demo

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


START = """\
Is there a backdoor in an image classifier, and how does one get rid of it?

See it on an example, offline, in a minute or two:
  sau demo

Then with a model of your own and clean images, a folder with a sub-folder for
each class:
  sau inspect  model.safetensors --data clean/
  sau purify   model.safetensors --data clean/
  sau evaluate model.purified.safetensors --reference model.safetensors \\
               --data test/
  sau export   model.purified.safetensors -o model.onnx --data test/

sau --help lists commands and exit codes, sau COMMAND --help its options."""
"""What ``sau`` alone shows."""

_COMMANDS = {
    "inspect": inspect_command,
    "attack": attack_command,
    "purify": purify_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "demo": demo_command,
}
_DOES = {
    "inspect": "What a file is, whether it is safe to open, whether it misbehaves.",
    "attack": "Make a known-bad model, to try a gate or a defence on.",
    "purify": "Remove a backdoor, with clean images alone.",
    "evaluate": "Measure accuracy and how often triggers work, against limits.",
    "export": "Write ONNX that is verified on real images, or no file.",
    "demo": "All five on an example, offline.",
}
"""What each does, in a line that 80 columns hold."""


def composed(words: Sequence[str] = ()) -> typer.Typer:
    """The command line. The attacks that are named in it decide which flags ``sau attack`` has.

    Raises:
        UsageError: an attack that there is not.
    """
    app = typer.Typer(
        name="sau",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(sau)
    for name, command in _COMMANDS.items():
        named = named_attacks(words) if command is attack_command and name in words else ()
        app.command(name, short_help=_DOES[name])(with_flags(command, named) if command is attack_command else command)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    words = with_ray_address(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries warn their callers of is nothing that a user could mend
    try:
        if "" in words:
            before = words[words.index("") - 1]
            what = before if before.startswith("-") else "an argument"
            raise UsageError(f"{what} is empty, as of a variable that is not set; give it a value or leave it out")
        code = composed(words)(words, prog_name="sau", standalone_mode=False)
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 (whatever it is, it ends in a sentence and an exit code)
        code = _ended(error, words)
    if arguments is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is done cannot be interrupted any more
    sys.exit(int(code or 0))


def _ended(error: Exception, words: list[str]) -> int:
    """End a run that failed outside a command's own session: a usage error of the command line, or our bug.

    Typer's own errors are told by what they offer.
    """
    command = next((word for word in words if word in _COMMANDS), "sau")
    if isinstance(error, OSError):
        error = UsageError(f"standard output could not be written to ({error.strerror}); open it or send it elsewhere")
    told = getattr(error, "format_message", None)
    if told is not None:
        context = getattr(error, "ctx", None)
        if not words and context:
            typer.echo(START, err=True)
            return ExitCode.USAGE
        message = str(told()).replace("\n", " ").replace("Value error, ", "").strip()
        where = f"; see {context.command_path} --help" if context else ""
        error = UsageError(f"{message.rstrip('.')}{where}")
    output = OutputOptions(
        json=_value_of("--json", words), verbose=bool({"-v", "--verbose"} & set(words)), force="--force" in words
    )
    try:
        with Session(command, output):
            raise error
    except typer.Exit as ended:
        return ended.exit_code


def _value_of(option: str, words: list[str]) -> str | None:
    """The value of an option in words that could not be parsed."""
    for word, following in zip_longest(words, words[1:]):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None

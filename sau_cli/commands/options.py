"""Arguments and options that several commands share: one name, one help text, one meaning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from sau_cli.precision import Precision
from sau_cli.reporting.formats import ReportFormat

Command: TypeAlias = Callable[..., None]
_TALK = "Output"


class ClassOrder(StrEnum):
    """See :data:`ClassOrderOption`."""

    TEXT = "text"
    NUMBER = "number"


_A_MODEL: Any = typer.Argument(
    metavar="MODEL",
    help="Safetensors (or the index of its shards), PyTorch weights (.pt, .pth, .bin, .ckpt), ONNX, a timm folder; "
    "or timm:NAME, torchvision:NAME, hf-hub:ORG/NAME[@REVISION] where this machine's cache has it, or with "
    "--download; or an address: s3://, gs://, http://, https://; or models:/NAME/VERSION of MLflow.",
)
ModelArgument: TypeAlias = Annotated[Path, _A_MODEL]
OptionalModelArgument: TypeAlias = Annotated[Path | None, _A_MODEL]
ModelsArgument: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL",
        help="Safetensors (or the index of its shards), PyTorch weights (.pt, .pth, .bin, .ckpt), ONNX, a timm folder, "
        "any folder with models in it; or timm:NAME, torchvision:NAME, hf-hub:ORG/NAME[@REVISION] where this "
        "machine's cache has it, or with --download; or an address: s3://, gs://, http://, https://, of one or of a "
        "folder; or models:/NAME/VERSION of MLflow. May be several.",
    ),
]
DownloadOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Fetch hf-hub:ORG/NAME[@REVISION] or timm:NAME into the hub's cache: its config, and its weights as "
        "safetensors or else ONNX; never a pickle, never code.",
    ),
]
DataOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        metavar="D",
        help="digits, a torchvision name such as cifar10, a folder with a sub-folder a class, or x.npz. "
        "[default: what the model's metadata or sau.toml names]",
    ),
]
DataRootOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="SAU_DATA_ROOT",
        help="Where torchvision's data sets lie. Nothing is downloaded.",
    ),
]
ArchOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="Architecture: preact_resnet18, wrn_16_1, small_cnn, timm:NAME, torchvision:NAME, or your own "
        "FILE.py:CLASS. [default: what the model's metadata, sau.toml or its tensors tell]",
    ),
]
ImageSizeOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--image-size", metavar="N|HxW", help="Resize the images: scaled to cover, cut to fit."),
]
NormalisationOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--normalisation",
        metavar="NAME|M/S",
        help="none, cifar10, cifar100, tiny-imagenet, mnist, imagenet, inception, bytes (0 to 255), or "
        "means/deviations such as .5,.5,.5/.2,.2,.2 on pixels in 0 to 1. [default: what the model's metadata or "
        "sau.toml names; from scratch the data set's own, or none]",
    ),
]
ClassOrderOption: TypeAlias = Annotated[
    ClassOrder | None,
    typer.Option(
        "--class-order",
        help="How a model that does not name its classes counts the folders of the data: as text (1, 10, 2, as in "
        "torchvision and Keras) or as numbers (1, 2, 10, as in timm). [default: what the clean images tell]",
    ),
]
PolicyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--policy", metavar="P", help="TOML file with a [policy] table to judge by. [default: that of sau.toml]"
    ),
]
TriggersOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--trigger",
        "-t",
        metavar="T",
        help="To measure with, before and after, and never to learn from: x.trigger.safetensors, patch:FILE.png, "
        "blend:FILE.png@0.2 or add:FILE.npy. May be repeated.",
    ),
]
TargetOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--target", metavar="K|all-to-all", help="Where the trigger sends images: a class, or y to y + 1."),
]
PrecisionOption: TypeAlias = Annotated[
    Precision | None,
    typer.Option(
        "--precision", help="Of the networks while they learn. [default: bf16 where that is faster, else fp32]"
    ),
]
DeviceOption: TypeAlias = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
SeedOption: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Fixes every random draw.")]
JsonOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE|-", help="Write the report as JSON; - for standard output.", rich_help_panel=_TALK
    ),
]
ReportOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help=f"Write the report as FILE's name says: {', '.join(ReportFormat)} (.xml is JUnit). May be repeated.",
        rich_help_panel=_TALK,
    ),
]
TableOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="Write one row a model, as FILE's name says: .html (sorts and filters, with a page for each model), "
        ".jsonl, .csv or .parquet. May be repeated.",
        rich_help_panel=_TALK,
    ),
]
QuietOption: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No tables and no progress; errors only.", rich_help_panel=_TALK)
]
VerboseOption: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="More detail, and a traceback with an error.", rich_help_panel=_TALK)
]
ForceOption: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Overwrite files that exist.", rich_help_panel=_TALK)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How a model and its data are read, where they do not tell."""

    arch: ArchOption = None
    image_size: ImageSizeOption = None
    normalisation: NormalisationOption = None
    class_order: ClassOrderOption = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What a command says, and where."""

    json: JsonOption = None
    report: ReportOption = None
    quiet: QuietOption = False
    verbose: VerboseOption = False
    force: ForceOption = False


def flag_of(name: str) -> str:
    """How the command line calls an argument.

    >>> flag_of("max_batch")
    '--max-batch'
    >>> flag_of("architecture")
    '--arch'
    """
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


_FLAGS = {"architecture": "--arch", "out": "-o"}
"""Flags that are not called as the argument is."""


def with_groups(command: Command) -> Command:
    """The command with the options of a group, a dataclass, in place of each parameter that is one."""
    own = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: given.annotation for name, given in own.items() if is_dataclass(given.annotation)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        parameters += _options_of(groups[name]) if name in groups else [parameter]

    def flat(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    return with_parameters(flat, parameters, like=command)


def with_parameters(command: Command, parameters: Sequence[inspect.Parameter], *, like: Command) -> Command:
    """A command that shows these parameters, and the name and the words of another."""
    command.__name__, command.__doc__ = like.__name__, like.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=hints[option.name]
        )
        for option in fields(group)
    ]

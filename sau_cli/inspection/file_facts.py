"""What can be said of a model file without loading its weights. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from sau_cli.description import Description
from sau_cli.results import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFinding:
    """Something about a file that its receiver should know: a stable id, how bad, and a sentence."""

    id: str
    severity: Severity
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """One tensor of a file, as its header tells."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFinite:
    """How many values of a tensor are NaN, and how many infinite where no model has them on purpose."""

    tensor: str
    nan: int
    infinite: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingArchitecture:
    """An architecture that fits every tensor of a file.

    Attributes:
        name: canonical, such as ``timm:resnet18``.
        classes, channels: as the tensors tell; None where none depends on them.
        size: the pixels on a side that the tensors are made for; None where they do not tell, or any size will do.
    """

    name: str
    classes: int | None
    channels: int | None
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NearArchitecture:
    """An architecture that has this share of its tensors in common with a file, by an estimate in [0, 1].

    Attributes:
        unlike: in words, which tensors do not fit; nothing where that was not looked into.
    """

    name: str
    share: float
    unlike: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What architecture a file's tensors are of, by their names and shapes alone.

    Attributes:
        prefix: what the tensors' names begin with beside the architecture's own, such as ``module.``; one of these.
        fitting: those that fit, best first.
        nearest: where none fits, those that have most in common.
        names: what the first calls each of the file's tensors; those that are not there are left out.
        told: what was done beside taking off the prefix, in words.
    """

    prefix: tuple[str, ...]
    fitting: tuple[FittingArchitecture, ...]
    nearest: tuple[NearArchitecture, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a model file is.

    Attributes:
        format: recognised by content, never by extension.
        tensors: None where the format does not tell without running code.
        metadata: as written in the file by whoever made it; not to be trusted.
        description: what the metadata says of the classifier; None where it says nothing.
        recognition: of the architecture, by the tensors; None where they are not known.
        notes: sentences on how the weights were found in the file.
        non_finite: tensors that hold NaN or infinities; None where the values were not looked at.
        unread: why not, where a file that is safe to open was not looked at.
        beside: the SHA-256 of files in which it keeps weights, by their place in its folder; None for a missing one.
    """

    path: str
    format: str
    size_bytes: int
    sha256: str
    tensors: tuple[TensorFacts, ...] | None
    metadata: Mapping[str, str]
    description: Description | None
    findings: tuple[FileFinding, ...] = field(default=())
    recognition: Recognition | None = None
    notes: tuple[str, ...] = ()
    non_finite: tuple[NonFinite, ...] | None = None
    unread: str = ""
    beside: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def parameters(self) -> int | None:
        """Elements of all tensors together, buffers included."""
        return None if self.tensors is None else sum(tensor.elements for tensor in self.tensors)

    @property
    def safe(self) -> bool:
        """No finding that refuses the file."""
        return all(finding.severity.rank < Severity.HIGH.rank for finding in self.findings)

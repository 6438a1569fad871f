"""What a reader of a format of model files has to be; one file beside this one for each format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from sau_adapters.files import Watch
from sau_adapters.weights.content import Content
from sau_cli.inspection.file_facts import FileFinding, NonFinite, TensorFacts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedWeights:
    """What is in a model file. See :class:`sau_cli.inspection.file_facts.FileFacts`."""

    tensors: tuple[TensorFacts, ...] | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[FileFinding, ...] = ()
    notes: tuple[str, ...] = ()
    non_finite: tuple[NonFinite, ...] | None = None
    unread: str = ""
    beside: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedWeights:
    """The tensors of a model file, on the CPU.

    Attributes:
        state: none of ONNX, whose weights are a part of its graph.
        notes: sentences on how they were found in the file.
    """

    state: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class WeightsReader(Protocol):
    """A model file of one format, opened. Both ways to look at it are of the same bytes, and nothing in it is run.

    Attributes:
        format: what reports and policies call it.
        names_tensors: its tensors have the names of a network's, which tell an architecture.
        sha256: of all files that the weights are in, in hexadecimal, once :meth:`take_in` has read them.
    """

    format: ClassVar[str]
    names_tensors: ClassVar[bool]

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """The reader of this file; None where it is of another format, which content tells and never a name."""

    @property
    def sha256(self) -> str: ...

    @property
    def contents(self) -> tuple[Content, ...]:
        """The files that the weights are in."""
        ...

    def take_in(self, watch: Watch | None = None) -> None:
        """Read what else the weights are in, beside the file."""

    def listed(self) -> ListedWeights:
        """What is in the file, as far as that is safe to tell.

        Raises:
            NotEvaluable: it is damaged.
            UnsafeFile: its header lies, or it reaches for other files.
        """
        ...

    def loaded(self) -> LoadedWeights:
        """The tensors.

        Raises:
            NotEvaluable: it is damaged, or of a format that is never opened.
            UnsafeFile: it holds code, or lies.
        """
        ...


class OneFile:
    """What readers of formats that keep everything in one file have in common."""

    def __init__(self, content: Content) -> None:
        self.content = content

    @property
    def sha256(self) -> str:
        return self.content.sha256

    @property
    def contents(self) -> tuple[Content, ...]:
        return (self.content,)

    def take_in(self, watch: Watch | None = None) -> None:
        """There is nothing beside it."""

"""A model as a command is given one: located, and opened once.

What is listed, hashed, judged and run afterwards are the same bytes. Needs no torch until weights are wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sau_adapters.architectures.state_names import Naming, naming_for, normalisation_of
from sau_adapters.classifiers.metadata import from_metadata
from sau_adapters.classifiers.recognition import looked_into, told_networks
from sau_adapters.files import Watch
from sau_adapters.tables import NORMALISATIONS, Normalisation
from sau_adapters.weights.content import Content
from sau_adapters.weights.formats import reader_of
from sau_adapters.weights.onnx import OnnxReader, normalises
from sau_adapters.weights.reader import ListedWeights, LoadedWeights, WeightsReader
from sau_adapters.zoos.addresses import address_of, is_address, is_registered
from sau_adapters.zoos.folders import described_beside
from sau_adapters.zoos.names import described_by_zoo, is_zoo_name, parted_spec, source_of, weights_of
from sau_adapters.zoos.transformers_folders import ToldNetwork, network_beside
from sau_cli.description import Description
from sau_cli.errors import SauError, UnsafeFile, UsageError
from sau_cli.inspection.file_facts import FileFacts, FileFinding
from sau_cli.results import Severity

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sau_adapters.zoos.fetched import Fetched

Value = TypeVar("Value")
BRIGHTEST = 2.0
"""A mean above this is none of pixels in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedModel:
    """Where a model is.

    Attributes:
        spec: as its user names it: a file, a folder with one, or a name in a zoo.
        place: the same without what names one of several networks.
        path: the file of its weights, or that which names the others.
        named: it has a name in a zoo.
        source: where on the hub it comes from, with the commit; None where it comes from elsewhere.
        part: what the tensors' names of the network begin with that is meant, where the file has several.
        told: what was fetched for it, as a sentence; empty where nothing was asked of another machine.
        hold: keeps what was fetched in the cache for as long as somebody has this.
    """

    spec: Path
    place: Path
    path: Path
    named: bool
    source: str | None
    part: str = ""
    told: str = ""
    hold: object = None

    @property
    def shown(self) -> Path | str:
        """What reports call it: where on the hub it is from, the name in a zoo, or the file."""
        return self.source or (self.spec if self.named else self.path)

    @property
    def is_within(self) -> bool:
        """Whether it was found in a folder that its user named."""
        return self.path != self.place and not (self.named or self.told)


def locate(spec: Path, *, watch: Watch | None = None) -> LocatedModel:
    """Find the file that a model is in. Nothing is read or fetched, but for what is at an address or in a registry.

    Args:
        spec: a file, a folder with one, a name in a zoo whose cache has it, an address such as ``s3://BUCKET/FILE``, or
            ``models:/NAME/VERSION`` of an MLflow registry; ``FILE#NAME`` for that of several networks in a file whose
            tensors' names begin with NAME.
        watch: of the fetching.

    Raises:
        UsageError: a folder without a model, or with several; a zoo without it, or whose cache has it not; nothing at
            the address.
        NotEvaluable: the address cannot be read.
        UnsafeFile: the model in a folder is a link out of it, and not into the hub's cache; or the head of a file at an
            address shows that it must not be opened.
    """
    place, part = parted_spec(spec)
    if is_address(place) or is_registered(place):
        model = _fetched(place, watch)
        return LocatedModel(
            spec=spec,
            place=place,
            path=model.path,
            named=False,
            source=model.source,
            part=part,
            told=model.told,
            hold=model.hold,
        )
    path = weights_of(place)
    return LocatedModel(
        spec=spec, place=place, path=path, named=is_zoo_name(place), source=source_of(place, path), part=part
    )


def _fetched(place: Path, watch: Watch | None) -> Fetched:
    from sau_adapters.zoos.fetched import fetched

    if is_address(place):
        return fetched(address_of(place), watch=watch)
    from sau_adapters.zoos.mlflow_registry import fetched_version

    return fetched_version(place)


def open_model(located: LocatedModel, *, watch: Watch | None = None) -> OpenedModel:
    """Read a model's files, once, and tell their format. What is in them is looked at when it is asked for.

    Args:
        watch: of the reading.

    Raises:
        UsageError: no such file.
        NotEvaluable: the file is empty, unreadable or of no known format.
    """
    content = Content(located.path)
    content.take_in(watch=watch)
    reader = reader_of(content)
    reader.take_in(watch)
    return OpenedModel(located=located, reader=reader)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenedModel:
    """A model's files, read once, and all that they say.

    Attributes:
        reader: of the files.
        like: a description to go by in place of what the files say.
    """

    located: LocatedModel
    reader: WeightsReader
    like: Description | None = None

    @property
    def path(self) -> Path:
        """The file of its weights, or that which names the others."""
        return self.located.path

    @property
    def source(self) -> str | None:
        """Where on the hub it comes from, with the commit; None where it comes from elsewhere."""
        return self.located.source

    @property
    def format(self) -> str:
        """Told by content, never by extension."""
        return self.reader.format

    @property
    def sha256(self) -> str:
        """Of all its files, in hexadecimal; of an ONNX graph without those beside it."""
        return self.reader.sha256

    def described_as(self, like: Description) -> OpenedModel:
        """The same model, which another description says more of than its own."""
        return replace(self, like=like)

    @cached_property
    def facts(self) -> FileFacts:
        """What its files are, without their weights where the format allows it.

        A file that must not be opened is described as far as that is safe, with the findings that say why.

        Raises:
            NotEvaluable: it is damaged.
        """
        try:
            listed = self.reader.listed()
        except UnsafeFile as error:
            found = FileFinding(id=error.finding, severity=Severity.HIGH, sentence=str(error))
            listed = ListedWeights(tensors=None, findings=(found,))
        description, network = None, None
        try:
            description, network = self._told(listed.metadata)
        except SauError:
            if not listed.findings:  # which no damage beside them hides
                raise
        shapes = {tensor.name: tensor.shape for tensor in listed.tensors or () if self.reader.names_tensors}
        recognition = looked_into(self._chosen(shapes)) if shapes else None
        several = told_networks(self.path, shapes) if recognition and not recognition.fitting else ""
        self.check_unchanged()
        return FileFacts(
            path=str(self.path),
            format=self.format,
            size_bytes=self.reader.contents[0].size,
            sha256=self.sha256,
            tensors=listed.tensors,
            metadata=dict(listed.metadata),
            description=description,
            findings=listed.findings,
            recognition=recognition,
            notes=(*listed.notes, *(network.notes if network else ()), *([several] if several else [])),
            non_finite=listed.non_finite,
            unread=listed.unread,
            beside=dict(listed.beside),
        )

    @cached_property
    def _weights(self) -> LoadedWeights:
        weights = self.reader.loaded()
        return replace(weights, state=self._chosen(weights.state))

    def _chosen(self, tensors: Mapping[str, Value]) -> Mapping[str, Value]:
        """Those of the network that is meant, under names of its own.

        Raises:
            UsageError: there are none.
        """
        part = self.located.part
        if not part or not tensors:
            return tensors
        inside = {name[len(part) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{part}.")}
        if not inside:
            first = list(dict.fromkeys(name.partition(".")[0][:100] for name in tensors))
            raise UsageError(
                f"{self.path} has no tensors under {part[:100]!r}; give one of {', '.join(first[:5])}"
                f"{', ...' * (len(first) > 5)}"
            )
        return inside

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The tensors, on the CPU; none of ONNX.

        Raises:
            NotEvaluable: the file is damaged, or of a format that is never opened.
            UnsafeFile: it holds code, or its header lies.
        """
        return self._weights.state

    @property
    def graph(self) -> OnnxReader | None:
        """Of ONNX; None of all else."""
        return self.reader if isinstance(self.reader, OnnxReader) else None

    @property
    def metadata(self) -> Mapping[str, str]:
        """As written in the file by whoever made it; not to be trusted. Raises as :attr:`state`."""
        return self._weights.metadata

    @property
    def beside(self) -> Mapping[str, str | None]:
        """The SHA-256 of the files beside a graph in which it keeps weights, by their place; None for a missing one."""
        return {} if self.graph is None else self.graph.beside

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the weights were found in the file. Raises as :attr:`state`."""
        return (*self._weights.notes, *(self.network.remarks if self.network else ()))

    @cached_property
    def description(self) -> Description | None:
        """Of the classifier, by the file, what lies beside it, or its zoo; None where none says anything.

        Raises:
            NotEvaluable: one of them is damaged, or describes no image classifier; or as :attr:`state`.
            UnsafeFile: as :attr:`state`.
        """
        if self.like is not None:
            return self.like
        told, _ = self._told(self.metadata)
        if told is not None and told.classes == 1:  # one output, which tells two apart
            told = replace(told, class_names=("0", "1"))
        if told is not None and normalises(self.metadata):
            mean, std = (values * told.input.channels for values in NORMALISATIONS["none"])
            told = replace(told, input=replace(told.input, mean=mean, std=std))
        return told

    @property
    def network(self) -> ToldNetwork | None:
        """Of transformers, as the folder tells, where the description does not come from the file itself."""
        return None if self.like is not None else self._told(self.metadata)[1]

    @cached_property
    def folder_of_transformers(self) -> ToldNetwork | None:
        """What a configuration of transformers beside the weights says; None where there is none.

        Raises:
            NotEvaluable: it is damaged, or of no image classifier.
        """
        return network_beside(self.path)

    @cached_property
    def _beside(self) -> Description | None:
        told = described_beside(self.path)
        if told is None or "?" not in told.architecture:
            return told
        from sau_adapters.architectures.networks import canonical_name

        with suppress(UsageError):  # which whoever builds it says
            return replace(told, architecture=canonical_name(told.architecture))
        return told

    @cached_property
    def _by_zoo(self) -> Description | None:
        return described_by_zoo(self.located.place)

    def _told(self, metadata: Mapping[str, str]) -> tuple[Description | None, ToldNetwork | None]:
        """What describes the classifier, and what a folder of transformers tells of it."""
        described = from_metadata(metadata) or self._beside
        network = None if described else self.folder_of_transformers
        if network is not None:
            return network.description, network
        return described or self._by_zoo, None

    def check_unchanged(self) -> None:
        """Of a file that is too large to be held in memory: nobody has changed it since it was hashed.

        Raises:
            NotEvaluable: somebody has.
        """
        for content in self.reader.contents:
            if not content.held:
                content.check_unchanged()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    def naming(self, network: nn.Module) -> Naming:
        """How the weights are read for a network: what begins their names, what is left out."""
        return naming_for(network.state_dict(), self.shapes)

    def normalisation_before(self, network: Iterable[str]) -> Normalisation | None:
        """That of a layer which the file has in front of a network; None where it has none, or the network has it.

        Args:
            network: the names of its tensors.
        """
        pair = normalisation_of(self.shapes)
        if pair is None or any(name.rpartition(".")[2] == pair[0].rpartition(".")[2] for name in network):
            return None
        mean, std = (tuple(self.state[name].flatten().double().tolist()) for name in pair)
        if min(std) <= 0 or len(mean) != len(std):
            return None
        if max(mean) > BRIGHTEST:  # of pixels from 0 to 255
            mean, std = (tuple(value / 255 for value in values) for values in (mean, std))
        return mean, std

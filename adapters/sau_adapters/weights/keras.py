"""Models of Keras and TensorFlow: told for what they are and what is in them. None is ever built or run.

A ``.keras`` archive has a configuration and weights in HDF5; an older ``.h5`` has both in one HDF5 file; a
``.weights.h5`` has weights alone; a SavedModel is a folder with a graph.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import ClassVar, NoReturn, Self

from sau_adapters.files import ESCAPE, check_unpacked_size
from sau_adapters.weights import hdf5_listing, saved_model
from sau_adapters.weights.content import Content
from sau_adapters.weights.hdf5_listing import Listing
from sau_adapters.weights.keras_config import config_findings, network_of, parsed
from sau_adapters.weights.pytorch import HEAD_BYTES, check_members
from sau_adapters.weights.reader import ListedWeights, LoadedWeights, OneFile
from sau_cli.errors import NotEvaluable, UnsafeFile, reading
from sau_cli.inspection.file_facts import FileFinding
from sau_cli.results import Severity

KERAS_CONFIG, METADATA, WEIGHTS_SUFFIX = "config.json", "metadata.json", ".weights.h5"
"""Members of an archive."""
LONGEST_KERAS_CONFIG = 50_000_000
"""Bytes of a configuration."""
WHOLE, WEIGHTS_ALONE = "Keras saved the network and its weights", "Keras saved weights alone, without the network"
NOT_BY_KERAS = "Keras did not write this HDF5 file, as far as it tells"


class KerasReader(OneFile):
    """A ``.keras`` archive. See :class:`sau_adapters.weights.reader.WeightsReader`."""

    format: ClassVar[str] = "keras"
    names_tensors: ClassVar[bool] = False

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """A zip archive with a configuration and weights of Keras in it."""
        return cls(content) if _is_archive(content) else None

    @cached_property
    def _listed(self) -> ListedWeights:
        listed = _archive(self.content)
        self.content.check_unchanged()  # a process of its own has read it from its path
        return listed

    def listed(self) -> ListedWeights:
        """Tensors, layers and what is not safe, without running anything.

        Raises:
            NotEvaluable: the file is damaged.
            UnsafeFile: it is an archive with tricks, or its sizes lie.
        """
        return self._listed

    def loaded(self) -> LoadedWeights:
        """Never.

        Raises:
            UnsafeFile: the file asks for code, or has a finding as bad.
            NotEvaluable: any other; the sentence names the command that makes ONNX of it.
        """
        _check_safe(self.content.path, self.listed())
        _refuse(self.content.path)


class Hdf5Reader(OneFile):
    """An HDF5 file, in which Keras keeps weights, or a network with its weights. See :class:`KerasReader`."""

    format: ClassVar[str] = "hdf5"
    names_tensors: ClassVar[bool] = False

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """HDF5's own mark at the start."""
        return cls(content) if content.read(0, len(hdf5_listing.MAGIC)) == hdf5_listing.MAGIC else None

    @cached_property
    def _listed(self) -> ListedWeights:
        listed = _hdf5(self.content.path)
        self.content.check_unchanged()  # a process of its own has read it from its path
        return listed

    def listed(self) -> ListedWeights:
        """As :meth:`KerasReader.listed`."""
        return self._listed

    def loaded(self) -> LoadedWeights:
        """Never; raises as :meth:`KerasReader.loaded`."""
        path, facts = self.content.path, self.listed()
        _check_safe(path, facts)
        if facts.notes[:1] != (WHOLE,) and facts.tensors is not None:
            told = facts.notes[0][0].lower() + facts.notes[0][1:] if facts.notes[0] == NOT_BY_KERAS else facts.notes[0]
            raise NotEvaluable(
                f"{path} cannot be run: {told}; build the network where its code is, load these weights into it, and "
                "give what its export('model.onnx', format='onnx') writes"
            )
        _refuse(path)


class SavedModelReader(OneFile):
    """A SavedModel of TensorFlow. See :class:`KerasReader`."""

    format: ClassVar[str] = "tensorflow savedmodel"
    names_tensors: ClassVar[bool] = False

    @classmethod
    def of(cls, content: Content) -> Self | None:
        """A schema version, then a graph whose nodes have operations."""
        if content.read(0, 1) != b"\x08":
            return None
        return cls(content) if saved_model.recognises(content.read(0, content.size)) else None

    @cached_property
    def _listed(self) -> ListedWeights:
        return _saved_model(self.content)

    def listed(self) -> ListedWeights:
        """As :meth:`KerasReader.listed`."""
        return self._listed

    def loaded(self) -> LoadedWeights:
        """Never; raises as :meth:`KerasReader.loaded`."""
        path = self.content.path
        _check_safe(path, self.listed())
        what = f"{path} is a SavedModel of TensorFlow, and sau does not run TensorFlow"
        command = f"python -m tf2onnx.convert --saved-model {quote(str(path.parent))} --output model.onnx"
        raise NotEvaluable(f"{what}; make ONNX of it with: {command} (pip install tf2onnx tensorflow)")


def _check_safe(path: Path, facts: ListedWeights) -> None:
    worst = next((finding for finding in facts.findings if finding.severity.rank >= Severity.HIGH.rank), None)
    if worst is not None:
        raise UnsafeFile(f"{path} is refused: {worst.sentence}", finding=worst.id)


def _refuse(path: Path) -> NoReturn:
    raise NotEvaluable(f"{path} is a model of Keras, and sau does not run Keras; make ONNX of it with: {to_onnx(path)}")


def _is_archive(content: Content) -> bool:
    head = content.read(0, HEAD_BYTES)
    if head[:4] != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(content.stream()) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        # Cut short before the directory at the end: Keras writes these two first, so their names are in the head.
        return METADATA.encode() in head and KERAS_CONFIG.encode() in head
    return KERAS_CONFIG in names and (METADATA in names or any(name.endswith(WEIGHTS_SUFFIX) for name in names))


def to_onnx(path: Path) -> str:
    """The command that makes ONNX of a model of Keras; a model has to be called once before it is exported."""
    return (
        'KERAS_BACKEND=torch python -c "import keras, sys; m = keras.models.load_model(sys.argv[1]); '
        "m(keras.ops.zeros((1, *m.input_shape[1:]))); m.export('model.onnx', format='onnx')\" "
        f"{quote(str(path))} (pip install keras torch onnxscript)"
    )


def _archive(content: Content) -> ListedWeights:
    """A ``.keras`` file. Its members are read where they are, never unpacked to disk."""
    path = content.path
    with reading(path, "a Keras archive"), zipfile.ZipFile(content.stream()) as archive:
        check_unpacked_size(path, archive, size=content.size)
        members = archive.namelist()
        check_members(path, members)
        for name in {KERAS_CONFIG, METADATA}.intersection(members):
            if archive.getinfo(name).file_size > LONGEST_KERAS_CONFIG:
                raise UnsafeFile(f"{path} has a {name} that is larger than that of any network; do not use it")
        config = parsed(archive.read(KERAS_CONFIG).decode())
        told = parsed(archive.read(METADATA).decode()) if METADATA in members else {}
    weights = sorted(name for name in members if name.endswith(WEIGHTS_SUFFIX))
    version = told.get("keras_version") if isinstance(told, dict) else None
    return _told(path, [listed_member(path, name) for name in weights], config, version=version)


def listed_member(path: Path, member: str) -> Listing | None:
    """The listing of an archive's member; None where the library is missing that makes one."""
    return hdf5_listing.listed(path, member) if hdf5_listing.is_available() else None


def _hdf5(path: Path) -> ListedWeights:
    if not hdf5_listing.is_available():
        return _told(path, [None], None)
    listing = hdf5_listing.listed(path)
    texts = listing.texts
    with reading(path, "a model of Keras"):
        configs = [parsed(texts[name]) for name in ("model_config", "training_config") if name in texts]
        if "model_config" not in texts:
            configs += _config_beside(path)
    facts = _told(path, [listing], *configs, version=texts.get("keras_version"))
    by_keras = "keras_version" in texts or any("vars" in tensor.name.split("/") for tensor in listing.tensors)
    note = WHOLE if "model_config" in texts else WEIGHTS_ALONE if by_keras else NOT_BY_KERAS
    return replace(facts, notes=(note, *facts.notes))


def _config_beside(path: Path) -> list[object]:
    """The configuration of an archive that somebody unpacked, beside its weights."""
    beside = path.with_name(KERAS_CONFIG)
    if not beside.is_file() or beside.stat().st_size > LONGEST_KERAS_CONFIG:
        return []
    try:
        config = parsed(beside.read_text(encoding="utf-8"))
    except ValueError:
        return []
    return [config] if isinstance(config, dict) and "class_name" in config else []


def _saved_model(content: Content) -> ListedWeights:
    path, beside = content.path, content.path.with_name(saved_model.KERAS_METADATA)
    configs, known = [], {}
    if beside.is_file() and beside.stat().st_size:
        metadata = Content(beside)
        metadata.take_in(most=metadata.size)
        known[beside.name] = metadata.sha256
        for text in saved_model.keras_configs(metadata.read(0, metadata.size), beside):
            with reading(beside, "metadata of Keras"):
                configs.append(parsed(text))
    return ListedWeights(
        tensors=None,
        findings=(*saved_model.findings(content.read(0, content.size), path), *config_findings(*configs)),
        unread="the values of its weights were not looked at: sau does not read TensorFlow's own format",
        beside=saved_model.hashes_beside(path, known),
    )


def _told(path: Path, listings: Sequence[Listing | None], *configs: object, version: object = None) -> ListedWeights:
    """What the parts of a model tell together."""
    known = [listing for listing in listings if listing is not None]
    outside = tuple(dict.fromkeys(text for listing in known for text in listing.outside))
    lies = tuple(text for listing in known for text in listing.lies)
    if lies:
        raise UnsafeFile(f"{path} announces {lies[0]}; do not use it")
    findings = config_findings(*configs)
    if outside:
        sentence = f"its weights are {', '.join(outside[:3])}, outside of it; do not use it"
        findings = (FileFinding(id=ESCAPE, severity=Severity.HIGH, sentence=sentence), *findings)
    unknown = [name for listing in known for name in listing.unread]
    unread = ""
    if len(known) < len(listings):
        unread = f"its weights were not looked at, as {hdf5_listing.MISSING}"
    elif not listings:
        unread = "it has no weights in HDF5"
    elif unknown:
        unread = f"the values of {unknown[0][:100]!r} are in a number format that sau does not know"
    whole = len(known) == len(listings) and not outside
    return ListedWeights(
        tensors=tuple(tensor for listing in known for tensor in listing.tensors) if known else None,
        metadata=_metadata(configs[0] if configs else None, version),
        findings=findings,
        non_finite=tuple(value for listing in known for value in listing.non_finite) if whole and not unread else None,
        unread=unread,
    )


def _metadata(config: object, version: object) -> dict[str, str]:
    """What a configuration tells, as entries of metadata."""
    network = network_of(config)
    told = {
        "keras.version": version if isinstance(version, str) else None,
        "keras.layers": ", ".join(f"{name} x {count}" if count > 1 else name for name, count in network.layers.items()),
        "keras.input": " x ".join("any" if size is None else str(size) for size in network.input or ()),
        "keras.classes": None if network.classes is None else str(network.classes),
        "keras.last-activation": network.activation,
    }
    return {name: text for name, text in told.items() if text}

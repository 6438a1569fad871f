"""Whatever the bytes: one of our errors or a good answer, never code run, never another exception."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.torch import save_file

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.metadata import from_metadata, to_metadata
from sau_adapters.classifiers.saving import save_classifier
from sau_adapters.onnx.export import OnnxExporter
from sau_adapters.onnx.onnx_files import add_metadata
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, SauError
from tests.support.keras_files import KERAS_FILES
from tests.support.models import file_facts, read_checkpoint
from tests.support.toys import describe

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("originals")
    classifier = describe(CIFAR_NETWORKS["small_cnn"](3, 1), 3)
    save_classifier(folder / "a.safetensors", classifier, classifier.description, force=False)
    torch.save(classifier.network.state_dict(), folder / "b.pt")
    torch.save(classifier.network.state_dict(), folder / "c.pt", _use_new_zipfile_serialization=False)
    exporter = OnnxExporter()
    exporter.write(classifier, folder / "d.onnx", exporter.ways(classifier)[0])
    add_metadata(folder / "d.onnx", exporter.entries(classifier.description))
    of_keras = ("saved_model/saved_model.pb", "digits.keras", "digits.h5")
    return [path.read_bytes() for path in (*sorted(folder.iterdir()), *(KERAS_FILES / name for name in of_keras))]


# Most of what can go wrong is in the first kilobytes: headers, names, opcodes.
changes = st.lists(st.tuples(st.integers(0, 5999), st.integers(0, 255)), min_size=1, max_size=6)


@quick
@given(which=st.integers(0, 4), changes=changes, kept=st.none() | st.floats(0, 1))
def test_mutated_files(originals, tmp_path, which, changes, kept):
    look_at_mutated(originals, tmp_path, which, changes, kept)


hdf5 = given(which=st.integers(5, 6), changes=changes, kept=st.none() | st.floats(0, 1))


@settings(quick, max_examples=8)  # each in processes of its own
@hdf5
def test_mutated_hdf5(originals, tmp_path, which, changes, kept):
    look_at_mutated(originals, tmp_path, which, changes, kept)


@pytest.mark.slow
@quick
@hdf5
def test_more_mutated_hdf5(originals, tmp_path, which, changes, kept):
    """As :func:`test_mutated_hdf5`, of as many as of the other formats."""
    look_at_mutated(originals, tmp_path, which, changes, kept)


def look_at_mutated(originals, tmp_path, which, changes, kept):
    content = bytearray(originals[which])
    for at, value in changes:
        content[at % len(content)] = value
    if kept is not None:
        del content[round(kept * len(content)) :]
    path = tmp_path / "mutated"
    path.write_bytes(content)
    for look in (file_facts, lambda path: as_classifier(read_checkpoint(path))):
        try:
            look(path)
        except SauError as error:
            assert str(error)
            assert "\n" not in str(error)


@quick
@given(changes=changes)
def test_no_safetensors_is_taken_that_its_own_library_refuses(originals, tmp_path, changes):
    content = bytearray(originals[0])
    for at, value in changes:
        content[at % len(content)] = value
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(content)
    try:
        state = read_checkpoint(path).state
    except SauError:
        return
    theirs = {name: (bytes(entry["data"]), tuple(entry["shape"])) for name, entry in deserialize(bytes(content))}
    ours = {
        name: (tensor.flatten().view(torch.uint8).numpy().tobytes(), tuple(tensor.shape))
        for name, tensor in state.items()
    }
    assert ours == theirs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> dict[str, bytes]:
    """A model in two shards with timm's config beside them, by file."""
    folder = tmp_path_factory.mktemp("folder")
    network = CIFAR_NETWORKS["small_cnn"](3, 1)
    state = sorted(network.state_dict().items())
    for number, part in enumerate((state[:5], state[5:]), start=1):
        save_file(dict(part), folder / f"model-{number}.safetensors")
    placed = {name: f"model-{1 if at < 5 else 2}.safetensors" for at, (name, _) in enumerate(state)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    config = {"architecture": "small_cnn", "num_classes": 3, "label_names": ["a", "b", "c"]}
    config["pretrained_cfg"] = {"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5]}
    (folder / "config.json").write_text(json.dumps(config))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


words = st.sampled_from(['"', "{", "}", "[", "]", "null", "-1", "1e999", "../", "/etc/passwd", "model-1", "\\u0000"])


@quick
@given(st.data())
def test_mutated_folders(folder, tmp_path, data):
    """Bytes changed or words put in anywhere, in the index, the config or a shard; a file cut or gone."""
    name = data.draw(st.sampled_from(sorted(folder)))
    content = bytearray(folder[name])
    for at, word in data.draw(st.lists(st.tuples(st.integers(0, 2999), words | st.binary(max_size=2)), max_size=4)):
        put = word if isinstance(word, bytes) else word.encode()
        place = at % len(content)
        content[place : place + data.draw(st.integers(0, 30))] = put
        content = content or bytearray(b" ")
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for file, whole in folder.items():
        (tmp_path / file).write_bytes(content if file == name else whole)
    if data.draw(st.integers(0, 9)) == 0:
        (tmp_path / name).unlink()
    for look in (file_facts, lambda path: as_classifier(read_checkpoint(path))):
        try:
            look(tmp_path)
        except SauError as error:
            assert str(error)


@quick
@given(st.binary(max_size=300))
def test_any_bytes(tmp_path, content):
    path = tmp_path / "bytes"
    path.write_bytes(content)
    with pytest.raises(SauError):
        read_checkpoint(path)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@quick
@given(
    st.dictionaries(
        st.sampled_from(["sau.input", "sau.classes", "sau.mean", "sau.std", "sau.history", "sau.architecture"]), texts
    )
)
def test_any_metadata(changes):
    description = Description(
        architecture="small_cnn",
        class_names=("a", "b"),
        input=InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,)),
    )
    try:
        from_metadata(to_metadata(description) | changes)
    except NotEvaluable as error:
        assert str(error)


@quick
@given(
    names=st.lists(texts, min_size=1, max_size=5, unique=True),
    size=st.integers(1, 100_000),
    mean=st.floats(-10, 10),
    std=st.floats(1e-6, 10),
)
def test_metadata_round_trip(names, size, mean, std):
    description = Description(
        architecture="timm:resnet18",
        class_names=tuple(names),
        input=InputSpec(channels=1, height=size, width=3, mean=(mean,), std=(std,)),
    )
    assert from_metadata(to_metadata(description)) == description


@quick
@given(st.text(max_size=30))
def test_printable_text_holds_no_control(text):
    from sau_cli.reporting.terminal import printable

    shown = printable(text)
    assert len(shown) == len(text)
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_the_folder_of_the_adapters_shadows_no_package():
    """PyPI has a package that installs ``adapters``; an ``__init__.py`` here would break it."""
    root = Path(__file__).resolve().parents[2]
    assert not (root / "adapters" / "__init__.py").exists()

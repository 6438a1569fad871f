"""Weights in several files, and folders as timm and the hub keep them."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.models import locate
from sau_adapters.zoos.search import models_at
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from tests.support.models import file_facts, read_checkpoint

PLAIN = {"normalisation": ((0.0,), (1.0,)), "image_shape": (3, 32, 32)}


@pytest.fixture
def sharded(tmp_path):
    """A folder with small_cnn in two files and their index; the state dict."""
    state = CIFAR_NETWORKS["small_cnn"](10, 3).state_dict()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, inside in parts.items():
        save_file({name: state[name] for name in inside}, tmp_path / file)
    write_index(tmp_path, {name: file for file, inside in parts.items() for name in inside})
    return tmp_path, state


def write_index(folder, placed):
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("given", ["", "model.safetensors.index.json"])
def test_shards_are_one_model(sharded, given):
    folder, state = sharded
    facts = file_facts(folder / given)
    assert facts.format == "sharded safetensors"
    assert {tensor.name for tensor in facts.tensors} == set(state)
    checkpoint = read_checkpoint(folder / given)
    assert checkpoint.sha256 == facts.sha256
    loaded = as_classifier(checkpoint, **PLAIN)
    assert loaded.description.architecture == "small_cnn"
    assert all(torch.equal(loaded.network.state_dict()[name], tensor) for name, tensor in state.items())
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert file_facts(folder / given).sha256 != facts.sha256, "the digest is of all the files"


@pytest.mark.parametrize("elsewhere", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_that_names_files_elsewhere_is_unsafe(sharded, elsewhere):
    folder, state = sharded
    write_index(folder, dict.fromkeys(state, elsewhere))
    with pytest.raises(UnsafeFile):
        read_checkpoint(folder)
    assert not file_facts(folder).safe


def test_a_shard_that_is_a_link_out_of_the_folder_is_unsafe(sharded, tmp_path_factory):
    folder, _ = sharded
    shard = folder / "model-00001-of-00002.safetensors"
    other = tmp_path_factory.mktemp("other") / shard.name
    shard.rename(other)
    shard.symlink_to(other)
    with pytest.raises(UnsafeFile, match="link"):
        read_checkpoint(folder)


def test_a_model_that_is_a_link_out_of_its_folder_is_unsafe(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "elsewhere.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UnsafeFile, match="link out of its folder") as refused:
        locate(folder)
    assert refused.value.finding == "file.path-escape"
    with pytest.raises(UnsafeFile, match="link out of its folder"):
        models_at([folder])
    assert locate(folder / "model.safetensors").path == folder / "model.safetensors", "what is named is meant"
    (folder / "model.safetensors").unlink()
    (folder / "inside.pth").write_bytes((tmp_path / "elsewhere.safetensors").read_bytes())
    (folder / "model.safetensors").symlink_to("inside.pth")
    assert locate(folder).path == folder / "model.safetensors"


def test_shards_that_disagree_with_the_index_are_told(sharded):
    folder, state = sharded
    first = "model-00001-of-00002.safetensors"
    write_index(folder, dict.fromkeys(state, first))
    with pytest.raises(NotEvaluable, match="disagree"):
        read_checkpoint(folder)
    write_index(folder, dict.fromkeys(state, "missing.safetensors"))
    with pytest.raises(NotEvaluable, match="missing"):
        file_facts(folder)
    for broken in ({}, [], {"a": 3}, None):
        write_index(folder, broken)
        with pytest.raises(NotEvaluable):
            read_checkpoint(folder)


def test_a_folder_of_timm_needs_no_flags(tmp_path):
    network = timm.create_model("resnet18", num_classes=3)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "num_classes": 3}
    config = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": cfg, "label_names": ["a", "b", "c"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = as_classifier(read_checkpoint(tmp_path)).description
    assert (told.architecture, told.class_names) == ("timm:resnet18", ("a", "b", "c"))
    assert (told.input.size, told.input.mean, told.input.std) == ("64x64", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert file_facts(tmp_path).description == told


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet18"},
        {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"input_size": "large"}},
        {"architecture": "a/../b", "num_classes": 3, "input_size": [3, 8, 8], "mean": [0], "std": [1]},
        {"architecture": "resnet18", "num_classes": -1, "input_size": [3, 8, 8], "mean": [0], "std": [0]},
    ],
)
def test_a_config_that_makes_no_sense_is_one_sentence(tmp_path, config):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(NotEvaluable, match="config.json"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"model_type": "llama"}'])
def test_a_config_that_is_not_timms_says_nothing(tmp_path, content):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    assert read_checkpoint(tmp_path).description is None


def test_a_folder_without_a_model_or_with_several_is_refused(tmp_path):
    with pytest.raises(UsageError, match="none"):
        read_checkpoint(tmp_path)
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UsageError, match="several"):
        read_checkpoint(tmp_path)

"""Folders that timm itself writes, in every form of its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf

from sau_adapters.architectures.networks import canonical_name
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.metadata import from_metadata, to_metadata
from sau_cli.errors import NotEvaluable, UsageError
from tests.support.models import file_facts, read_checkpoint

SMALL = {"input_size": (3, 32, 32)}


def saved(folder: Path, name: str, *, labels: Any = None, model_args: dict[str, Any] | None = None, **made: Any) -> Any:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3, **made).eval()
    save_for_hf(
        network,
        folder,
        safe_serialization=True,
        model_config={"label_names": labels} if labels else None,
        model_args=model_args,
    )
    return network


@pytest.mark.parametrize(
    ("name", "made", "stored"),
    [
        ("resnet10t", {}, "timm:resnet10t"),
        ("resnet10t", {"drop_rate": 0.2}, "timm:resnet10t"),
        ("resnet10t", {"in_chans": 1}, "timm:resnet10t"),
        ("resnet10t", {"global_pool": "max"}, "timm:resnet10t?global_pool=max"),
        ("resnet10t", {"act_layer": "gelu"}, "timm:resnet10t?act_layer=gelu"),
        ("vit_tiny_patch16_224", {"img_size": 64}, "timm:vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224", {"img_size": 64, "global_pool": "avg"}, "timm:vit_tiny_patch16_224?global_pool=avg"),
        ("mobilenetv3_small_050", {}, "timm:mobilenetv3_small_050"),
    ],
)
def test_what_timm_writes_computes_what_it_did(tmp_path, name, made, stored):
    network = saved(tmp_path, name, model_args=made, **made)
    model = read_checkpoint(tmp_path)
    classifier = as_classifier(model)
    spec = classifier.description.input
    assert classifier.description.architecture == model.facts.description.architecture == stored
    assert spec.channels == made.get("in_chans", 3)
    assert spec.height == made.get("img_size", spec.height)
    images = torch.rand(2, spec.channels, spec.height, spec.width)
    with torch.no_grad():
        theirs = network((images - classifier.mean) / classifier.std)
        assert torch.allclose(classifier(images), theirs, atol=1e-5)
    assert from_metadata(to_metadata(classifier.description)) == classifier.description


NAMES = ("weld", "crack", "pore")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (list(NAMES), NAMES),
        (dict(enumerate(NAMES)), NAMES),
        ({2: "pore", 0: "weld", 1: "crack"}, NAMES),
        ({0: "weld", 2: "pore"}, ("weld", "1", "pore")),
        ({"crack": 1, "pore": 2, "weld": 0}, NAMES),
        (["crane", "crane", "pore"], ("crane (0)", "crane (1)", "pore")),
        (None, ("0", "1", "2")),
    ],
)
def test_labels_in_every_form(tmp_path, labels, names):
    saved(tmp_path, "resnet10t", labels=labels)
    assert file_facts(tmp_path / "model.safetensors").description.class_names == names


@pytest.mark.parametrize("key", ["id2label", "label2id"])
def test_labels_as_transformers_writes_them(tmp_path, key):
    saved(tmp_path, "resnet10t")
    told = json.loads((tmp_path / "config.json").read_text())
    numbered = {str(number): name for number, name in enumerate(NAMES)}
    told[key] = numbered if key == "id2label" else {name: int(number) for number, name in numbered.items()}
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert read_checkpoint(tmp_path).description.class_names == NAMES


def test_an_argument_that_the_network_does_not_take(tmp_path):
    saved(tmp_path, "resnet10t", model_args={"strange": 3})
    with pytest.raises(NotEvaluable, match="is not made with strange"):
        as_classifier(read_checkpoint(tmp_path))


@pytest.mark.parametrize("argument", ["checkpoint_path=x.pth", "pretrained=true", "cache_dir=a", "features_only=true"])
def test_arguments_that_name_files_are_never_followed(argument):
    with pytest.raises(UsageError, match="is not set in a name"):
        canonical_name(f"timm:resnet10t?{argument}")


def test_arguments_of_a_network_that_takes_none():
    with pytest.raises(UsageError, match="takes no arguments"):
        canonical_name("torchvision:resnet18?width=2")

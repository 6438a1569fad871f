"""Load and save change no tensor, and the tensors are recognised: families of timm, all of torchvision, ours."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import load_file
from torchvision import models

from sau_adapters.architectures.cifar_networks import CIFAR_NETWORKS, PIXELS
from sau_adapters.architectures.index import recognised
from sau_adapters.architectures.networks import build
from sau_adapters.classifiers.building import as_classifier
from sau_adapters.classifiers.saving import save_classifier
from sau_cli.classifier import Classifier
from sau_cli.description import Description
from tests.support.models import read_checkpoint
from tests.support.toys import names, spec

TIMM = (
    *("resnet18", "resnet26d", "resnext26ts", "resnetv2_50", "seresnet18", "ecaresnet26t", "res2net50_14w_8s"),
    *("skresnet18", "densenet121", "dla34", "dpn48b", "hrnet_w18_small", "inception_v3", "xception41", "nasnetalarge"),
    *("mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small", "efficientnet_b0", "mnasnet_small"),
    *("ghostnet_050", "tinynet_e", "lcnet_035", "rexnetr_200", "regnetx_002", "regnety_002", "repvgg_a0", "vovnet39a"),
    *("convnext_atto", "convnextv2_atto", "edgenext_xx_small", "mobilevit_xxs", "mobileone_s0", "fastvit_t8"),
    *(
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "cait_xxs24_224",
        "xcit_nano_12_p16_224",
        "beit_base_patch16_224",
    ),
    *("swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "maxvit_rmlp_pico_rw_256", "poolformer_s12", "pvt_v2_b0"),
    *(
        "mixer_s16_224",
        "resmlp_12_224",
        "gmlp_ti16_224",
        "efficientformer_l1",
        "levit_128s",
        "vgg11_bn",
        "visformer_tiny",
    ),
)
SAMPLE = ("timm:resnet18", "timm:convnextv2_atto", "timm:vit_tiny_patch16_224", "torchvision:mnasnet0_5")
EVERY = (*(f"timm:{name}" for name in TIMM), *(f"torchvision:{name}" for name in models.list_models(module=models)))


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_comes_back_bit_for_bit(tmp_path, name):
    check_round_trip(tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EVERY, *CIFAR_NETWORKS])
def test_every_one_comes_back_bit_for_bit(tmp_path, name):
    check_round_trip(tmp_path, name)


def check_round_trip(folder, name):
    zoo, _, bare = name.rpartition(":")
    size = PIXELS.get(bare, 32) if not zoo else 224
    if zoo == "timm":
        size = timm.get_pretrained_cfg(bare).input_size[-1]
    elif bare == "inception_v3":
        size = 299
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = build(name, classes=7, spec=spec(channels=3, size=size))
    state = network.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape).abs() + 0.01)
    description = Description(architecture=name, class_names=names(7), input=spec(channels=3, size=size))
    path = folder / "model.safetensors"
    save_classifier(path, Classifier(network, description), description, force=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = as_classifier(read_checkpoint(path)).network.state_dict()
    assert again.keys() == state.keys()
    assert all(same(again[key], state[key]) for key in state)
    fitting = recognised({key: tuple(tensor.shape) for key, tensor in state.items()}).fitting
    assert name in [architecture.name for architecture in fitting]
    assert {architecture.classes for architecture in fitting} == {7}
    written = load_file(path)
    if zoo == "timm":
        plain = timm.create_model(bare, num_classes=7, checkpoint_path=str(path)).state_dict()
    elif zoo == "torchvision":
        with warnings.catch_warnings(action="ignore"):
            theirs = models.get_model(bare, weights=None, num_classes=7)
        ordered = OrderedDict(written)
        ordered._metadata = theirs.state_dict()._metadata  # MNASNet refuses any safetensors without its version
        theirs.load_state_dict(ordered)
        plain = theirs.state_dict()
    else:
        plain = written
    assert all(same(plain[key], state[key]) for key in state)


def same(one, other):
    return one.dtype == other.dtype and torch.equal(one, other)

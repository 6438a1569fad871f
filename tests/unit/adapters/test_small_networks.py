"""Parts of our own networks whose answers can be done by hand."""

from __future__ import annotations

import torch

from sau_adapters.architectures.cifar_networks.cifar_densenet import DenseBlock
from sau_adapters.architectures.cifar_networks.cifar_dpn import DualPathBlock
from sau_adapters.architectures.cifar_networks.cifar_efficientnet import ExcitedInvertedBlock
from sau_adapters.architectures.cifar_networks.cifar_resnet import BasicBlock
from sau_adapters.architectures.cifar_networks.cifar_shufflenet import GroupedBlock, SplitBlock, shuffled
from sau_adapters.architectures.cifar_networks.excitation import Excitation
from sau_adapters.architectures.cifar_networks.narrow_resnet import PaddedBlock, PaddedShortcut


def silent(block: torch.nn.Module) -> torch.nn.Module:
    """With weights of zero, so that only what goes round them is left."""
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    return block.eval()


def test_a_shortcut_without_weights_takes_every_second_pixel_and_adds_channels_of_zeros_on_both_sides():
    images = torch.arange(32.0).reshape(1, 2, 4, 4)
    out = PaddedShortcut(more=1, stride=2)(images)
    assert out.shape == (1, 4, 2, 2)
    assert out[0, 1].tolist() == [[0, 2], [8, 10]]
    assert out[0, 2].tolist() == [[16, 18], [24, 26]]
    assert not out[0, [0, 3]].any()
    assert torch.equal(PaddedShortcut(more=0, stride=1)(images), images)


def test_what_goes_round_a_blocks_weights():
    images = torch.rand(2, 4, 6, 6)
    with torch.no_grad():
        assert torch.equal(silent(BasicBlock(4, 4, 1))(images), images)
        assert torch.equal(silent(PaddedBlock(4, 4, 1))(images), images)
        assert torch.equal(silent(SplitBlock(4))(images)[:, ::2], images[:, :2])
        assert torch.equal(silent(DenseBlock(4, 3))(images), torch.cat([torch.zeros(2, 3, 6, 6), images], dim=1))
        assert torch.equal(silent(ExcitedInvertedBlock(4, 4, 6, 3, 1))(images), images)
        assert not silent(ExcitedInvertedBlock(4, 8, 6, 3, 1))(images).any()
        grouped = silent(GroupedBlock(4, 20, 2, 2))(images)
        assert not grouped[:, :16].any()
        assert torch.equal(grouped[:, 16:], torch.nn.AvgPool2d(3, 2, 1)(images))


def test_the_last_channels_of_a_dual_path_are_put_after_one_another():
    block = silent(DualPathBlock(6, 32, 4, 2, 1, convolved_shortcut=False))
    images = torch.rand(1, 6, 3, 3)
    with torch.no_grad():
        assert torch.equal(block(images), torch.cat([images, torch.zeros(1, 2, 3, 3)], dim=1))


def test_channels_are_dealt_out_by_turns():
    assert shuffled(torch.arange(6.0).reshape(1, 6, 1, 1), 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled(torch.arange(6.0).reshape(1, 6, 1, 1), 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_excitation_without_weights_halves():
    images = torch.rand(2, 8, 3, 3)
    assert torch.allclose(silent(Excitation(8, 2))(images), images / 2)

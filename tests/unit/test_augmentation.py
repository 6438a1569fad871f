import pytest
import torch

from sau_cli.augmentation import Augmentation
from sau_cli.errors import UsageError


def test_crops_shift_each_image_by_at_most_the_padding():
    images = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    moved = Augmentation(padding=2)(images, torch.Generator().manual_seed(0))
    places = {divmod(int(place), 8) for place in moved.flatten(1).argmax(1)}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_flips_mirror_about_half_of_the_images():
    images = torch.zeros(1000, 1, 4, 4, dtype=torch.uint8)
    images[:, :, :, 0] = 1
    flipped = Augmentation(flip=True)(images, torch.Generator().manual_seed(0))
    assert 400 < int((flipped[:, 0, 0, 3] == 1).sum()) < 600


def test_the_defaults_change_nothing():
    images = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8)
    assert torch.equal(Augmentation()(images, torch.Generator()), images)


def test_a_negative_padding_is_refused():
    with pytest.raises(UsageError):
        Augmentation(padding=-1)

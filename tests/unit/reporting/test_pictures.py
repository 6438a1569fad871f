"""A change on a page: the image without and with it, and a difference that can be seen."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from sau_adapters.pictures import recovered_trigger
from sau_cli.reporting.pictures import change_pictures


def pixels(png: str) -> np.ndarray:
    with Image.open(BytesIO(b64decode(png))) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_faint_change_is_amplified_until_it_is_nearly_white(channels):
    image = torch.full((channels, 4, 6), 100, dtype=torch.uint8)
    change = torch.zeros(channels, 4, 6)
    change[:, 0, :2] = 10 / 255
    found = change_pictures(str(recovered_trigger("x", change, 0.5, image)["png"]))
    assert pixels(found.without).shape == (4, 6, 3)
    assert (pixels(found.without) == 100).all()
    assert (pixels(found.with_change)[0, :2] == 110).all()
    assert found.times == 25
    assert (pixels(found.difference)[0, :2] == 250).all()
    assert (pixels(found.difference)[1:] == 0).all()
    assert found.share == pytest.approx(2 / 24)


def test_what_is_cut_off_at_white_is_no_difference():
    image = torch.full((1, 2, 2), 250, dtype=torch.uint8)
    found = change_pictures(str(recovered_trigger("x", torch.ones(1, 2, 2), 0.5, image)["png"]))
    assert (pixels(found.with_change) == 255).all()
    assert found.times == 51


def test_no_change_is_black():
    found = change_pictures(str(recovered_trigger("x", torch.zeros(1, 2, 2), 0.0, torch.zeros(1, 2, 2).byte())["png"]))
    assert (found.times, found.share) == (1, 0.0)
    assert not pixels(found.difference).any()

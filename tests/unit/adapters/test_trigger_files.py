import numpy as np
import pytest
import torch
from PIL import Image

from sau_adapters.triggers import open_trigger, write_trigger
from sau_cli.commands.outputs import trigger_paths
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from sau_cli.triggers.targets import TargetKind, TargetRule
from tests.support.attacks import badnets_trigger, blended_trigger
from tests.support.files import pickled_array
from tests.support.toys import random_images

TO_TWO = TargetRule(kind=TargetKind.ALL_TO_ONE, target=2)
IMAGES = random_images(channels=3).images


@pytest.mark.parametrize("trigger", [badnets_trigger(TO_TWO), blended_trigger(TO_TWO, channels=3)])
def test_a_trigger_file_stamps_as_the_trigger_did(tmp_path, trigger):
    (path,) = trigger_paths(tmp_path / "bad.safetensors", 1)
    assert path.name == "bad.trigger.safetensors"
    write_trigger(path, trigger, force=False)
    again = open_trigger(str(path), None)
    assert again.rule == TO_TWO
    assert torch.equal(again.stamp(IMAGES), trigger.stamp(IMAGES))
    other = open_trigger(str(path), TargetRule(kind=TargetKind.ALL_TO_ALL))
    assert other.rule == TO_TWO  # its own counts


def test_a_picture_with_alpha_is_a_patch(tmp_path):
    picture = Image.new("RGBA", (2, 2), (255, 0, 0, 255))
    picture.putpixel((0, 0), (0, 255, 0, 0))
    picture.save(tmp_path / "p.png")
    stamped = open_trigger(f"patch:{tmp_path / 'p.png'}", TO_TWO).stamp(IMAGES)
    assert stamped[0, :, 7, 7].tolist() == [255, 0, 0]
    assert torch.equal(stamped[:, :, 6, 6], IMAGES[:, :, 6, 6])
    assert torch.equal(stamped[:, :, :6], IMAGES[:, :, :6])


def test_a_picture_is_blended_at_its_opacity(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
    stamped = open_trigger(f"blend:{tmp_path / 'white.png'}@0.5", TO_TWO).stamp(IMAGES)
    assert (stamped.double() - (IMAGES.double() + 255) / 2).abs().max() <= 0.5


def test_arrays_are_added_in_unit_or_8_bit_steps(tmp_path):
    np.save(tmp_path / "a.npy", np.full((8, 8), 10, dtype=np.int16))
    np.save(tmp_path / "b.npy", np.full((8, 8, 3), 10 / 255))
    expected = (IMAGES.int() + 10).clamp(max=255).to(torch.uint8)
    for name in ("a", "b"):
        assert torch.equal(open_trigger(f"add:{tmp_path / name}.npy", TO_TWO).stamp(IMAGES), expected)


@pytest.mark.parametrize(
    "source",
    [
        "patch:nothing.png",
        "blend:nothing.png@0.2",
        "blend:x.png",
        "blend:x.png@2",
        "blend:x.png@a",
        "add:x.npy",
        "nothing.trigger.safetensors",
    ],
)
def test_what_is_not_there_is_a_usage_error(source):
    with pytest.raises(UsageError):
        open_trigger(source, TO_TWO)


def test_a_picture_needs_a_target(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "p.png")
    with pytest.raises(UsageError, match="add target"):
        open_trigger(f"patch:{tmp_path / 'p.png'}", None)


def test_what_is_no_trigger_is_refused(tmp_path, planted):
    (tmp_path / "x.png").write_text("no picture")
    (tmp_path / "x.npy").write_bytes(pickled_array())
    (tmp_path / "y.npy").write_text("no array")
    with pytest.raises(NotEvaluable, match="picture"):
        open_trigger(f"patch:{tmp_path / 'x.png'}", TO_TWO)
    with pytest.raises(UnsafeFile):
        open_trigger(f"add:{tmp_path / 'x.npy'}", TO_TWO)
    with pytest.raises(NotEvaluable):
        open_trigger(f"add:{tmp_path / 'y.npy'}", TO_TWO)
    with pytest.raises(NotEvaluable, match="no trigger file"):
        open_trigger(str(planted / "bad.safetensors"), None)
    with pytest.raises(NotEvaluable, match="no trigger file"):
        open_trigger(str(tmp_path / "x.png"), None)

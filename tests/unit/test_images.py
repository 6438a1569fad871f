import pytest
import torch

from sau_cli.errors import NotEvaluable, UsageError
from sau_cli.images import LabelledImages, balanced_share, check_fits, draw_clean, uniform_share
from tests.support.toys import BrightnessNet, describe, names, random_images


def uneven() -> LabelledImages:
    labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 45)
    return LabelledImages(images=torch.zeros(100, 1, 8, 8, dtype=torch.uint8), labels=labels, class_names=names(3))


def test_a_balanced_share_is_as_even_as_the_classes_allow():
    data = uneven()
    counts = data.labels[balanced_share(data, 0.3, seed=0)].bincount(minlength=3)
    assert counts[1] == 5
    assert sorted(counts.tolist()) == [5, 12, 13]


def test_a_uniform_share_has_the_size_asked_and_no_image_twice():
    chosen = uniform_share(random_images(200), 0.05, seed=1)
    assert len(chosen) == len(set(chosen.tolist())) == 10


def test_shares_depend_on_the_seed_alone():
    data = random_images(200)
    assert torch.equal(balanced_share(data, 0.1, seed=3), balanced_share(data, 0.1, seed=3))
    assert not torch.equal(balanced_share(data, 0.1, seed=3), balanced_share(data, 0.1, seed=4))


@pytest.mark.parametrize("share", [0, -0.1, 1.5, 2, float("nan"), 0.001])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UsageError):
        uniform_share(random_images(40), share, seed=0)


def marked(count: int) -> LabelledImages:
    """Every image is different: its first two pixels are its number."""
    images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count) // 256
    images[:, 0, 0, 1] = torch.arange(count) % 256
    return LabelledImages(images=images, labels=torch.arange(count) % 10, class_names=names(10))


def numbers(data: LabelledImages) -> set[int]:
    return {int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in data.images}


@pytest.mark.parametrize(
    ("share", "learning", "held_back"), [(0.05, 50, 100), (0.97, 970, 30), (1.0, 900, 100), (None, 900, 100)]
)
def test_held_back_images_are_never_learned_from(share, learning, held_back):
    clean = draw_clean(marked(1000), share, balanced=False, seed=0)
    assert (len(clean.learning), len(clean.held_back)) == (learning, held_back)
    assert not numbers(clean.learning) & numbers(clean.held_back)


def test_labels_follow_the_names_of_the_classes():
    data = LabelledImages(
        images=torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
        labels=torch.tensor([0, 1, 2]),
        class_names=("0", "10", "2"),
    )
    assert data.in_order_of(("0", "2", "10")).labels.tolist() == [0, 2, 1]
    assert data.in_order_of(("cat", "dog", "ship")) is data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (random_images(classes=7), "7 classes but the model has 10"),
        (random_images(channels=3), "3 channels but the model takes 1"),
        (random_images(size=9), "9x9 but the model takes 8x8; add image_size 8x8"),
        (random_images(count=0), "no images"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_reason(data, sentence):
    with pytest.raises(NotEvaluable, match=sentence):
        check_fits(data, describe(BrightnessNet(10)).description)


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(NotEvaluable, match="labels run from 0 to 5"):
        LabelledImages(
            images=torch.zeros(2, 1, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 5]), class_names=names(5)
        )

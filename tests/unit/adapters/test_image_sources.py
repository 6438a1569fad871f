import numpy as np
import pytest
import torch
from PIL import Image

from sau_adapters.images.arrays import resized
from sau_adapters.images.sources import is_named, name_of, open_images, usual_normalisation
from sau_adapters.tables import parse_normalisation
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from tests.support.files import pickled_array


def test_digits_are_always_split_alike():
    first, second = open_images("digits"), open_images("digits")
    assert (len(first.train), len(first.test), first.train.images.shape[1:]) == (1437, 360, (1, 8, 8))
    assert torch.equal(first.train.images, second.train.images)
    assert int(first.train.images.max()) == 255
    assert len(open_images("digits", image_size=(16, 16)).train) == 1437


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def pixels(count=6, *shape):
    return np.random.default_rng(0).integers(0, 256, (count, *(shape or (8, 8))), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (1, 8, 8), (3, 8, 8)])
def test_arrays_of_any_usual_layout(tmp_path, shape):
    images = pixels(6, *shape)
    data = open_images(write_npz(tmp_path / "x.npz", images=images, labels=np.arange(6)))
    channels = 3 if 3 in shape else 1
    assert data.train.images.shape == (6, channels, 8, 8)
    assert data.test is None
    assert data.for_testing is data.train
    if shape == (8, 8, 3):
        assert torch.equal(data.train.images[2, 1], torch.from_numpy(images[2, :, :, 1]))


def test_arrays_with_a_split(tmp_path):
    path = write_npz(
        tmp_path / "x.npz",
        train_images=pixels(6),
        train_labels=np.arange(6),
        test_images=pixels(3),
        test_labels=np.array([[0], [1], [2]]),
    )
    data = open_images(path)
    assert (len(data.train), len(data.test), data.train.classes, data.test.classes) == (6, 3, 6, 6)


def test_labels_that_are_names(tmp_path):
    texts = np.array(["cat", "dog", "cat", "ant", "dog", "cat"])
    data = open_images(write_npz(tmp_path / "x.npz", images=pixels(), labels=texts)).train
    assert data.class_names == ("ant", "cat", "dog")
    assert data.labels.tolist() == [1, 2, 1, 0, 2, 1]
    named = {"class_names": np.array(["dog", "cat", "ant"]), "train_labels": texts, "test_labels": texts[:3]}
    both = open_images(write_npz(tmp_path / "y.npz", train_images=pixels(), test_images=pixels(3), **named))
    assert both.train.class_names == both.test.class_names == ("dog", "cat", "ant")
    assert both.test.labels.tolist() == [1, 0, 1]
    named["test_labels"] = np.array(["cat", "cow", "dog"])
    with pytest.raises(NotEvaluable, match="the label 'cow', which is not among its class_names"):
        open_images(write_npz(tmp_path / "z.npz", train_images=pixels(), test_images=pixels(3), **named))


def test_labels_without_a_zero(tmp_path):
    counted = {"images": pixels(), "labels": np.arange(6) + 1}
    with pytest.raises(NotEvaluable, match="run from 1 to 6, and nothing tells whether they count from 1"):
        open_images(write_npz(tmp_path / "x.npz", **counted))
    data = open_images(write_npz(tmp_path / "y.npz", **counted, class_names=np.array(list("abcdef"))))
    assert data.train.labels.tolist() == list(range(6))
    assert "count from 1" in data.notes[0]
    data = open_images(write_npz(tmp_path / "z.npz", **counted, class_names=np.array(list("abcdefg"))))
    assert data.train.labels.tolist() == list(range(1, 7))
    assert data.notes == ()


BROKEN_ARRAYS = {
    "float pixels": {"images": pixels() / 255, "labels": np.arange(6)},
    "no labels": {"images": pixels()},
    "labels of another length": {"images": pixels(), "labels": np.arange(5)},
    "labels that are no numbers": {"images": pixels(), "labels": np.linspace(0, 1, 6)},
    "negative labels": {"images": pixels(), "labels": np.arange(6) - 1},
    "two channels": {"images": pixels(6, 8, 8, 2), "labels": np.arange(6)},
    "flat": {"images": pixels(6, 64), "labels": np.arange(6)},
    "too few names": {"images": pixels(), "labels": np.arange(6), "class_names": np.array(["a", "b"])},
}


@pytest.mark.parametrize("arrays", BROKEN_ARRAYS.values(), ids=BROKEN_ARRAYS.keys())
def test_arrays_of_another_kind_are_refused(tmp_path, arrays):
    with pytest.raises(NotEvaluable):
        open_images(write_npz(tmp_path / "x.npz", **arrays))


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04 cut", b"", pickled_array()[:20]])
def test_damaged_arrays_are_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(NotEvaluable):
        open_images(str(tmp_path / "x.npz"))


def test_pickled_arrays_are_refused_as_unsafe(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.array([{"a": 1}], dtype=object), labels=np.arange(1))
    with pytest.raises(UnsafeFile):
        open_images(str(tmp_path / "x.npz"))


def write_folder(folder, mode="RGB", size=(8, 8), classes=("cat", "dog"), each=2):
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            Image.new(mode, size, color=label * 50 if mode == "L" else (label * 50, 1, 2)).save(
                folder / name / f"{number}.png"
            )
    return folder


def test_folders_are_read_by_class(tmp_path):
    data = open_images(str(write_folder(tmp_path / "clean")))
    assert data.train.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.train.images[3, :, 0, 0].tolist() == [50, 1, 2]
    assert open_images(str(write_folder(tmp_path / "grey", mode="L"))).train.images.shape[1] == 1


def test_folders_with_a_split(tmp_path):
    write_folder(tmp_path / "d" / "train")
    write_folder(tmp_path / "d" / "val", each=1)
    data = open_images(str(tmp_path / "d"))
    assert (len(data.train), len(data.test)) == (4, 2)


def test_pictures_of_many_sizes_need_a_size(tmp_path):
    folder = write_folder(tmp_path / "clean")
    Image.new("RGB", (30, 20)).save(folder / "cat" / "wide.png")
    with pytest.raises(NotEvaluable, match="image_size"):
        open_images(str(folder))
    assert open_images(str(folder), image_size=(8, 12)).train.images.shape == (5, 3, 8, 12)


def test_a_broken_picture_is_named(tmp_path):
    folder = write_folder(tmp_path / "clean")
    (folder / "dog" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(NotEvaluable, match=r"9\.png"):
        open_images(str(folder))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(NotEvaluable, match="one sub-folder a class"):
        open_images(str(tmp_path))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean cifar10"):
        open_images("cifar-10")
    with pytest.raises(UsageError, match="data_root"):
        open_images("cifar10")


def test_a_root_without_the_files_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not found"):
        open_images("cifar10", root=tmp_path)


def test_what_metadata_may_say_of_data():
    assert is_named("CIFAR10")
    assert not is_named("/home/someone/clean")
    assert name_of("/home/someone/clean") == "path:clean"
    assert not is_named(name_of("data/digits"))
    assert usual_normalisation("cifar10")[0][0] == 0.4914
    assert usual_normalisation("some/folder") == ((0.0,), (1.0,))


def test_resizing_covers_and_cuts():
    images = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    images[..., 4:] = 200
    small = resized(images, (4, 4))
    assert small.shape == (1, 1, 4, 4)
    assert small[0, 0, 0].tolist() == [0, 0, 200, 200]


@pytest.mark.parametrize("text", ["cifar", ".5", "a/b", ".5/.5/.5", ""])
def test_unknown_normalisations_are_refused(text):
    with pytest.raises(UsageError):
        parse_normalisation(text)


def test_normalisations_by_name_and_number():
    assert parse_normalisation("mnist") == ((0.5,), (0.5,))
    assert parse_normalisation(".5,.4,.3/.2,.2,.2") == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    "names",
    [("train_images", "train_labels", "val_images", "val_labels"), ("x_train", "y_train", "x_test", "y_test")],
)
def test_archives_of_two_parts_by_other_names(tmp_path, names):
    images, labels = np.zeros((6, 4, 4, 3), np.uint8), np.arange(6) % 3
    arrays = dict(zip(names, (images, labels, images[:3], labels[:3, None]), strict=True))
    np.savez(tmp_path / "d.npz", **arrays)
    data = open_images(str(tmp_path / "d.npz"))
    assert (len(data.train), len(data.for_testing)) == (6, 3)

"""Folders of pictures as people keep them: parts by any usual name, files of other kinds, links, damage."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sau_adapters.images.folder import open_folder, part_of
from sau_cli.errors import NotEvaluable


def picture(path: Path, *, level: int = 100, size: tuple[int, int] = (6, 4), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "JPEG" if path.suffix.lower() in {".jpg", ".jpeg", ".jfif", ".jpe", ""} else None
    Image.new("RGB", size, (level, 10, 20)).save(path, kind, **options)
    return path


def classes(folder: Path, *names: str, count: int = 2, suffix: str = ".png") -> Path:
    for place, name in enumerate(names):
        for number in range(count):
            picture(folder / name / f"{number}{suffix}", level=40 * place)
    return folder


@pytest.mark.parametrize(
    ("first", "second"),
    [("train", "val"), ("train", "valid"), ("Training", "Testing"), ("train", "validation"), ("train_set", "dev")],
)
def test_parts_by_their_usual_names(tmp_path, first, second):
    classes(tmp_path / first, "cat", "dog", count=3)
    classes(tmp_path / second, "cat", "dog", count=1)
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.for_testing)) == (6, 2)
    assert data.train.class_names == ("cat", "dog")


def test_of_three_parts_the_one_that_is_not_used_is_named(tmp_path):
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        classes(tmp_path / part, "cat", "dog", count=count)
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.for_testing)) == (6, 2)
    assert "valid is not used" in " ".join(data.notes)


def test_parts_are_never_classes(tmp_path):
    classes(tmp_path, "train", "valid")
    with pytest.raises(NotEvaluable, match="names of parts, not of classes"):
        open_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    assert open_folder(classes(tmp_path, "bus", "train", "tram")).train.class_names == ("bus", "train", "tram")


def test_parts_beside_classes_are_a_question(tmp_path):
    classes(tmp_path / "train", "cat", "dog")
    classes(tmp_path, "cat")
    with pytest.raises(NotEvaluable, match="side by side"):
        open_folder(tmp_path)


def test_two_folders_for_one_part_are_a_question(tmp_path):
    for part in ("train", "test", "testing"):
        classes(tmp_path / part, "cat", "dog")
    with pytest.raises(NotEvaluable, match="two testing parts"):
        open_folder(tmp_path)


def test_a_test_part_of_some_classes_counts_as_the_training_part_does(tmp_path):
    classes(tmp_path / "train", "ant", "cat", "dog")
    classes(tmp_path / "test", "cat", "dog")
    data = open_folder(tmp_path)
    assert data.for_testing.labels.unique().tolist() == [1, 2]
    assert "no picture of ant" in " ".join(data.notes)


def test_a_test_part_with_a_class_of_its_own(tmp_path):
    classes(tmp_path / "train", "cat", "dog")
    classes(tmp_path / "test", "cat", "emu")
    with pytest.raises(NotEvaluable, match="'emu' that the other part lacks"):
        open_folder(tmp_path)


def test_a_folder_in_a_folder_as_archives_unpack(tmp_path):
    classes(tmp_path / "flowers" / "train", "rose", "tulip")
    classes(tmp_path / "flowers" / "test", "rose", "tulip", count=1)
    (tmp_path / "__MACOSX").mkdir()
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.for_testing)) == (4, 2)
    assert "flowers" in data.notes[0]


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".jpe", ""])
def test_pictures_are_told_by_their_content(tmp_path, suffix):
    classes(tmp_path, "cat", "dog", suffix=suffix)
    data = open_folder(tmp_path)
    assert len(data.train) == 4
    assert data.notes == ()


def test_what_is_no_picture_is_counted(tmp_path):
    classes(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "dog" / "notes.txt").write_text("BM is no bitmap", encoding="utf-8")
    (tmp_path / "dog" / "new.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (note,) = open_folder(tmp_path).notes
    assert "1 picture of kinds that are not opened (dog/new.heic)" in note
    assert "2 other files (cat/._0.png, dog/notes.txt)" in note


def test_a_damaged_picture_is_left_out_and_named(tmp_path):
    classes(tmp_path, "cat", "dog", count=12, suffix=".jpg")
    cut = tmp_path / "dog" / "3.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    data = open_folder(tmp_path)
    assert len(data.train) == 23
    assert data.notes == (f"left out of {tmp_path.name}: 1 picture that cannot be read (dog/3.jpg)",)


def test_many_damaged_pictures_are_an_error(tmp_path):
    classes(tmp_path, "cat", "dog", count=6)
    for number in range(2):
        (tmp_path / "dog" / f"{number}.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(NotEvaluable, match="2 of 12 pictures"):
        open_folder(tmp_path)


def test_a_class_without_a_readable_picture_is_an_error(tmp_path):
    classes(tmp_path, "cat", "dog", count=30)
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "0.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(NotEvaluable, match="emu has no picture"):
        open_folder(tmp_path)


def test_an_empty_class_folder_is_a_class_and_is_said(tmp_path):
    classes(tmp_path, "cat", "dog")
    (tmp_path / "emu").mkdir()
    data = open_folder(tmp_path)
    assert data.train.class_names == ("cat", "dog", "emu")
    assert "without a picture: emu" in data.notes[0]


def test_a_picture_is_counted_once(tmp_path):
    classes(tmp_path, "cat", "dog")
    (tmp_path / "dog" / "again.png").symlink_to(tmp_path / "dog" / "0.png")
    (tmp_path / "dog" / "nowhere.png").symlink_to(tmp_path / "gone.png")
    for number in range(8):  # so that one damaged picture is few
        picture(tmp_path / "cat" / f"more{number}.png")
    data = open_folder(tmp_path)
    assert len(data.train) == 12
    note = data.notes[0]
    assert "through a link (dog/again.png)" in note
    assert "cannot be read (dog/nowhere.png)" in note


def test_a_link_to_a_class_of_the_same_data(tmp_path):
    classes(tmp_path, "cat", "dog")
    (tmp_path / "emu").symlink_to(tmp_path / "dog")
    with pytest.raises(NotEvaluable, match="count twice"):
        open_folder(tmp_path)


def test_pictures_through_links_out_of_the_folder_are_said(tmp_path):
    store = classes(tmp_path / "store", "x")
    data = classes(tmp_path / "data", "cat", "dog")
    (data / "cat" / "linked.png").symlink_to(store / "x" / "0.png")
    assert open_folder(data).notes == ("1 picture read through links out of data",)


def test_pictures_are_turned_as_people_see_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        picture(tmp_path / name / "0.jpg", size=(4, 6))
        picture(tmp_path / name / "1.jpg", size=(6, 4), exif=exif)
    data = open_folder(tmp_path)
    assert data.train.images.shape[2:] == (6, 4)
    assert data.notes == ("2 pictures turned as their Exif data tell",)


def test_a_loose_picture_is_told(tmp_path):
    classes(tmp_path, "cat", "dog")
    picture(tmp_path / "cover.png")
    assert "1 picture outside of class folders (cover.png)" in open_folder(tmp_path).notes[0]


def test_one_part_grey_and_one_in_colour(tmp_path):
    classes(tmp_path / "train", "cat", "dog")
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(tmp_path / "test" / name / "0.png")
    data = open_folder(tmp_path)
    assert data.train.images.shape[1] == data.for_testing.images.shape[1] == 3


def test_accents_are_one_letter(tmp_path):
    classes(tmp_path, unicodedata.normalize("NFD", "café"), "zoo")
    assert open_folder(tmp_path).train.class_names == ("café", "zoo")


def test_numbered_folders_leave_two_orders(tmp_path):
    data = open_folder(classes(tmp_path, "1", "2", "10", count=1))
    assert data.orders == {"text": ("1", "10", "2"), "number": ("1", "2", "10")}
    assert data.train.class_names == ("1", "10", "2")


@pytest.mark.parametrize("name", ["trains", "cat", "testament", "train_a_b", "2020", "set", "évaluation"])
def test_other_names_are_no_parts(name):
    assert part_of(name) is None


@pytest.mark.parametrize("parts", [("seg_a", "seg_b"), ("left", "right")])
@pytest.mark.parametrize("nested", [True, False])
def test_folders_that_all_hold_the_same_folders_are_a_question(tmp_path, parts, nested):
    for part in parts:
        classes(tmp_path / part / part if nested else tmp_path / part, "cat", "dog")
    with pytest.raises(NotEvaluable, match="all hold the same folders"):
        open_folder(tmp_path)


def test_classes_that_hold_parts_are_a_question(tmp_path):
    for name in ("cat", "dog"):
        classes(tmp_path / name, "train", "test")
    with pytest.raises(NotEvaluable, match="all hold the same folders"):
        open_folder(tmp_path)


def test_classes_with_folders_of_their_own_are_no_question(tmp_path):
    classes(tmp_path / "cat", "siamese", "tabby")
    classes(tmp_path / "dog", "poodle")
    assert open_folder(tmp_path).train.class_names == ("cat", "dog")

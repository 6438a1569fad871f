"""Folders of pictures: one sub-folder a class, or parts such as ``train/`` and ``val/`` with such.

Nothing is dropped unsaid: what is left out, and why, stands in the notes of the data.
"""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sau_adapters.images.arrays import labelled_images
from sau_cli.errors import NotEvaluable, argument, reading
from sau_cli.images import ImageData, LabelledImages

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi"})
PICTURE_SUFFIXES = JPEG_SUFFIXES | {".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff"}
PICTURE_SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm"}
OTHER_PICTURES = frozenset({".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".svg", ".psd", ".tga", ".exr", ".ico"})
OTHER_PICTURES |= {".dng", ".cr2", ".nef", ".arw"}
"""Suffixes of pictures that are not opened."""
PICTURES = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened, by content. Pillow has others that start programs, such as Ghostscript."""
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
GREY_MODES = {"1", "L", "I;16", "I;16L", "I;16B", "LA"}
MOST_UNREAD = 0.1
"""Share of the pictures that may be damaged: with more, the folder is."""
NAMED = 3
"""Files that a sentence names."""
UPRIGHT, ORIENTATION = 1, 0x0112
"""Of Exif: how a picture is to be turned."""


class Part(StrEnum):
    """What a sub-folder is for, by its name."""

    TRAINING = "training"
    VALIDATION = "validation"
    TESTING = "testing"


PARTS = {
    Part.TRAINING: frozenset({"train", "training", "trn", "tr"}),
    Part.VALIDATION: frozenset({"val", "valid", "validation", "validate", "validating", "dev", "devel", "development"}),
    Part.TESTING: frozenset({"test", "testing", "tst", "eval", "evaluation", "holdout"}),
}
FILLERS = ("dataset", "subset", "images", "image", "split", "data", "imgs", "img", "part", "set")
"""Words beside these that tell nothing, as in ``train_images`` or ``valset``; the longer before its end."""
JUNK = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "__pycache__"})


def part_of(name: str) -> Part | None:
    """Which part of a data set a folder of this name holds; None for any other name.

    >>> part_of("Valid"), part_of("test_images"), part_of("trainset"), part_of("trains")
    (<Part.VALIDATION: 'validation'>, <Part.TESTING: 'testing'>, <Part.TRAINING: 'training'>, None)
    """
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word and word not in FILLERS]
    if len(words) != 1:
        return None
    bare = next((words[0].removesuffix(filler) for filler in FILLERS if words[0].endswith(filler)), words[0])
    return next((part for part, names in PARTS.items() if {words[0], bare} & names), None)


@dataclass(slots=True, kw_only=True)
class LeftOut:
    """What was found in a folder beside the pictures that are used, told in :attr:`notes`.

    Attributes:
        unread: pictures that cannot be opened, with the sentence that says why.
        other_kinds: pictures of kinds that are not opened.
        others: files that are no pictures.
        twice: pictures that were met before, through a link.
        loose: pictures outside of class folders.
        empty: class folders without a file.
        turned: pictures turned as their Exif tells.
        linked: pictures that are links to files elsewhere.
        said: other sentences.
    """

    root: Path
    unread: list[tuple[Path, str]] = field(default_factory=list)
    other_kinds: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    twice: list[Path] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    turned: int = 0
    linked: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences, none where nothing was left out."""
        unread = [path for path, _ in self.unread]
        counted = [
            (unread, "that cannot be read"),
            (self.other_kinds, "of kinds that are not opened"),
            (self.twice, "that are there already, through a link"),
            (self.loose, "outside of class folders"),
        ]
        parts = [self._listed(paths, "picture", why) for paths, why in counted if paths]
        parts += [self._listed(self.others, "other file", "")] if self.others else []
        told = [f"left out of {self.root.name}: {'; '.join(parts)}"] if parts else []
        if self.empty:
            told.append(f"class folders without a picture: {_some(self.empty)}")
        if self.turned:
            told.append(f"{_counted(self.turned, 'picture')} turned as their Exif data tell")
        if self.linked:
            told.append(f"{_counted(self.linked, 'picture')} read through links out of {self.root.name}")
        return (*self.said, *told)

    def _listed(self, paths: Sequence[Path], kind: str, why: str) -> str:
        names = [str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path) for path in paths]
        return f"{_counted(len(paths), kind)}{' ' * bool(why)}{why} ({_some(names)})"


def open_folder(folder: Path, *, image_size: tuple[int, int] | None = None) -> ImageData:
    """All pictures, decoded. Classes are the sub-folders, sorted by name.

    A folder whose sub-folders all have names of parts (``train``, ``val``, ``test`` and their usual variants) holds
    parts, never classes. A folder whose pictures are all grey gives one channel, any other three. Pictures are told by
    content, whatever their suffix.

    Raises:
        NotEvaluable: no sub-folders with pictures, parts that do not fit together, a class or more than a tenth of all
            pictures that cannot be read, or sizes that differ while no ``image_size`` is given.
    """
    left_out = LeftOut(root=folder)
    root = _unwrapped(folder, left_out)
    parts = _parts(root, left_out)
    if not parts:
        _check_no_hidden_parts(root)
        everything = _read(root, image_size, left_out)
        orders = orders_of(everything.class_names)
        return ImageData(name=folder.name, train=everything, test=None, notes=left_out.notes, orders=orders)
    first, second = _chosen(root, parts, left_out)
    train = _read(first, image_size, left_out)
    test = None if second is None else _read(second, image_size, left_out, train.class_names)
    if test is not None and test.images.shape[1] != train.images.shape[1]:  # one of the parts is all grey
        train, test = train.in_channels(3), test.in_channels(3)
    orders = orders_of(train.class_names)
    return ImageData(name=folder.name, train=train, test=test, notes=left_out.notes, orders=orders)


def orders_of(class_names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The orders that training code gives folders, where they differ; none where all agree.

    ``text`` is that of torchvision's ImageFolder and of Keras; ``number`` that of timm, in which 2 comes before 10 and
    case does not count.

    >>> orders_of(("1", "10", "2"))
    {'text': ('1', '10', '2'), 'number': ('1', '2', '10')}
    >>> orders_of(("cat", "dog"))
    {}
    """

    def counted(name: str) -> list[tuple[bool, int, str]]:
        return [
            (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
            for part in re.split(r"(\d+)", name.lower())
        ]

    orders = {"text": tuple(sorted(class_names)), "number": tuple(sorted(class_names, key=counted))}
    return {} if orders["text"] == orders["number"] else orders


def _folders(folder: Path) -> list[Path]:
    """Sub-folders that may mean something, in order of their names."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name[0] != "." and entry.name.casefold() not in JUNK
    )


def _unwrapped(folder: Path, left_out: LeftOut) -> Path:
    """The folder, or the only one in it, where that holds folders of pictures, as unpacked archives do."""
    inside = _folders(folder)
    if len(inside) != 1 or part_of(inside[0].name) or not any(_holds_pictures(below) for below in _folders(inside[0])):
        return folder
    left_out.said.append(f"the data is in {folder.name}/{inside[0].name}")
    return inside[0]


def _holds_pictures(folder: Path) -> bool:
    """Whether a folder or one below it has a picture, by name or content."""
    return any(
        path.suffix.lower() in PICTURE_SUFFIXES or _begins_as_picture(path)
        for path in _files_below(folder)
        if path.name[0] != "."
    )


def _parts(root: Path, left_out: LeftOut) -> dict[Path, Part]:
    """The sub-folders that are parts of a data set; none where they are classes.

    Raises:
        NotEvaluable: parts without classes in them, or beside classes.
    """
    inside = _folders(root)
    known = {entry: part for entry in inside if (part := part_of(entry.name)) is not None}
    holding = {entry for entry in known if any(_holds_pictures(below) for below in _folders(entry))}
    others = [entry for entry in inside if entry not in known and _holds_pictures(entry)]
    if known and not others and not holding:
        raise NotEvaluable(
            f"{root} has only {_some([entry.name for entry in known])}, which are names of parts, not of classes, and "
            "no class folders with pictures in them; give one sub-folder a class"
        )
    if not holding or (others and Part.TRAINING not in {known[entry] for entry in holding}):
        return {}
    if others:
        raise NotEvaluable(
            f"{root} has parts ({_some([entry.name for entry in holding])}) and other folders with pictures "
            f"({_some([entry.name for entry in others])}) side by side; give the part itself, or move the others away"
        )
    without = [entry.name for entry in known if entry not in holding]
    if without:
        left_out.said.append(f"parts of {root.name} without a picture: {_some(without)}")
    return {entry: part for entry, part in known.items() if entry in holding}


def _check_no_hidden_parts(root: Path) -> None:
    """Raises NotEvaluable for folders that all hold the same folders, as parts do and classes do not."""
    inside: list[frozenset[str]] = []
    folders = [entry for entry in _folders(root) if _holds_pictures(entry)]
    for entry in folders:
        place = entry
        while len(_folders(place)) == 1 and not _pictures_in(place):
            (place,) = _folders(place)
        below = frozenset(folder.name for folder in _folders(place) if _holds_pictures(folder))
        inside.append(frozenset() if _pictures_in(place) else below)
    if len(inside) > 1 and len(set(inside)) == 1 and len(inside[0]) > 1:
        raise NotEvaluable(
            f"{root} has folders ({_some([entry.name for entry in folders])}) that all hold the same folders "
            f"({_some(sorted(inside[0]))}), so it is not plain which are the classes; give one of them, or name "
            "parts train and test"
        )


def _pictures_in(folder: Path) -> bool:
    """Whether pictures lie in a folder itself."""
    return any(not path.is_dir() and path.name[0] != "." and _begins_as_picture(path) for path in folder.iterdir())


def _chosen(root: Path, parts: Mapping[Path, Part], left_out: LeftOut) -> tuple[Path, Path | None]:
    """What to learn from, and what to measure on where there is another part.

    Raises:
        NotEvaluable: two folders are named for the same part.
    """
    named: dict[Part, Path] = {}
    for entry, part in parts.items():
        if part in named:
            raise NotEvaluable(
                f"{root} has two {part} parts, {named[part].name} and {entry.name}; give one of them, or move it away"
            )
        named[part] = entry
    order = [named[part] for part in (Part.TRAINING, Part.VALIDATION, Part.TESTING) if part in named]
    first, second = order[0], order[-1] if len(order) > 1 else None
    usual = {first.name, second.name if second else None} <= {"train", "val", "test"}
    if len(order) > 2:
        left_out.said.append(f"of the parts of {root.name}, {order[1].name} is not used")
    elif second is None:
        left_out.said.append(f"{root.name} has one part, {first.name}")
    elif not usual:
        left_out.said.append(f"the parts of {root.name} are {first.name} and, to measure on, {second.name}")
    return first, second


def _files_below(folder: Path) -> Iterator[Path]:
    """Files in a folder and those below it, in one order everywhere; links to folders are not followed."""
    for place, below, names in os.walk(folder, onerror=_denied):
        below[:] = sorted(name for name in below if name[0] != "." and name.casefold() not in JUNK)
        yield from (Path(place) / name for name in sorted(names))


def _denied(error: OSError) -> None:
    raise NotEvaluable(f"{error.filename} cannot be opened ({error.strerror}); make it readable, or move it away")


def _begins_as_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    net_pbm = head[:1] == b"P" and head[1:2].isdigit() and head[2:3].isspace()
    return head.startswith(BEGINNINGS) or net_pbm or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_picture(path: Path, left_out: LeftOut) -> bool:
    """Whether a file is to be decoded; what is not is put down."""
    suffix = path.suffix.lower()
    if path.name[0] == ".":
        left_out.others.append(path)
    elif suffix in PICTURE_SUFFIXES or _begins_as_picture(path):
        return True
    elif suffix in OTHER_PICTURES:
        left_out.other_kinds.append(path)
    else:
        left_out.others.append(path)
    return False


def _files_of_classes(folder: Path, names: Sequence[str], left_out: LeftOut) -> dict[str, list[Path]]:
    """The pictures of each class folder, each once.

    Raises:
        NotEvaluable: a class that is not one of ``names``, or that has files but no picture.
    """
    left_out.loose += [path for path in sorted(folder.iterdir()) if not path.is_dir() and _begins_as_picture(path)]
    found: dict[str, list[Path]] = {}
    seen: set[Path] = set()
    for entry in _folders(folder):
        name = _name_of(entry)
        if name not in names and _holds_pictures(entry):
            raise NotEvaluable(
                f"{folder} has a class {name!r} that the other part lacks; give both parts the same class folders"
            )
        if entry.is_symlink() and entry.resolve().is_relative_to(folder.resolve()):
            raise NotEvaluable(f"{entry} is a link to a folder of the same data, whose pictures would count twice")
        files = list(_files_below(entry))
        pictures = [path for path in files if _is_picture(path, left_out)]
        if files and not pictures:
            raise NotEvaluable(f"the class folder {entry} has no picture that is opened ({files[0].name} is none)")
        if not files:
            left_out.empty.append(name)
        for path in pictures:
            target = path.resolve()
            if target in seen:
                left_out.twice.append(path)
            else:
                found.setdefault(name, []).append(path)
                left_out.linked += not target.is_relative_to(folder.resolve())
            seen.add(target)
    return found


def _name_of(entry: Path) -> str:
    """A class by its folder; some systems write accents apart from their letters."""
    return unicodedata.normalize("NFC", entry.name)


def _read(
    folder: Path, image_size: tuple[int, int] | None, left_out: LeftOut, class_names: Sequence[str] | None = None
) -> LabelledImages:
    """The pictures below the class folders.

    Args:
        class_names: of another part, whose order counts; None for the folder's own, sorted.
    """
    names = tuple(class_names or sorted(_name_of(entry) for entry in _folders(folder)))
    pictures: list[NDArray[Any]] = []
    labels: list[int] = []
    unread: list[tuple[Path, str]] = []
    for name, files in _files_of_classes(folder, names, left_out).items():
        before = len(pictures)
        for path in files:
            try:
                picture, turned = _decoded(path, image_size)
            except NotEvaluable as error:
                if path.suffix.lower() in PICTURE_SUFFIXES:
                    unread.append((path, str(error)))
                else:  # it only begins like a picture
                    left_out.others.append(path)
                continue
            left_out.turned += turned
            pictures.append(picture)
            labels.append(names.index(name))
        if len(pictures) == before:
            why = f"; {unread[-1][1]}" if unread else ""
            raise NotEvaluable(f"the class {name!r} of {folder} has no picture that can be read{why}")
    left_out.unread += unread
    if not pictures:
        raise NotEvaluable(f"{folder} has no pictures in sub-folders; give a folder with one sub-folder a class")
    every = len(pictures) + len(unread)
    if len(unread) > MOST_UNREAD * every:
        raise NotEvaluable(f"{len(unread)} of {every} pictures in {folder} cannot be read; {unread[0][1]}")
    missing = [name for number, name in enumerate(names) if number not in set(labels)]
    if class_names is not None and missing:
        left_out.said.append(f"{folder.name} has no picture of {_some(missing)}")
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        raise NotEvaluable(
            f"the pictures in {folder} have {len(sizes)} different sizes; add {argument('image_size')} to resize them"
        )
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [np.stack([picture] * 3, axis=2) if picture.ndim == 2 else picture for picture in pictures]
    return labelled_images(np.stack(pictures), np.array(labels), source=str(folder), class_names=names)


def _decoded(file: Path, image_size: tuple[int, int] | None) -> tuple[NDArray[Any], bool]:
    """(H, W) uint8 for a grey picture, (H, W, 3) for any other; and whether it was turned."""
    try:
        with warnings.catch_warnings(), reading(file, "a picture", advice="repair or remove it"):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=PICTURES) as picture:
                turned = picture.getexif().get(ORIENTATION, UPRIGHT) not in {UPRIGHT, 0}
                shown = ImageOps.exif_transpose(eight_bit(picture, file))
                shown = shown.convert("L" if picture.mode in GREY_MODES else "RGB")
    except MemoryError as error:
        raise NotEvaluable(f"{file} would unpack to an enormous picture; remove it") from error
    return np.asarray(fitted(shown, image_size)), turned


def eight_bit(picture: Image.Image, file: Path) -> Image.Image:
    """The picture with 8 bits a channel: 16-bit ones are scaled, where Pillow would cut all above 255 off.

    Raises:
        NotEvaluable: 32-bit pixels, whose range nobody knows.
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(picture, dtype=np.float32) / 257).astype(np.uint8))
    if picture.mode in {"I", "F"}:
        raise NotEvaluable(f"{file} has 32-bit pixels of unknown range; store it with 8 or 16 bits")
    return picture


def fitted(picture: Image.Image, image_size: tuple[int, int] | None) -> Image.Image:
    """The picture scaled to cover ``image_size`` (height, width), the rest cut off evenly; as it is for None."""
    if image_size is None or (picture.height, picture.width) == image_size:
        return picture
    return ImageOps.fit(picture, (image_size[1], image_size[0]), Image.Resampling.BILINEAR)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"

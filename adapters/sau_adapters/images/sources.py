"""Labelled images by name or path: digits, torchvision's data sets, folders and .npz files.

Nothing is downloaded, and no pickled object in an .npz is opened.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from sau_adapters.tables import NORMALISATIONS, TORCHVISION_DATA, Normalisation
from sau_cli.errors import UsageError

if TYPE_CHECKING:
    from sau_cli.images import ImageData

DIGITS = "digits"


def is_named(source: str) -> bool:
    """Whether this is the name of a data set, not a path: what a model file's metadata may ask for."""
    return source == DIGITS or source.lower() in TORCHVISION_DATA


def name_of(source: str) -> str:
    """What a model's metadata says of its data: a name, or ``path:`` and the last part of a path.

    The folders above are nobody's business, and a folder that is called digits is not the data set.
    """
    return source.lower() if is_named(source) else f"path:{Path(source).name.encode('utf-8', 'replace').decode()}"


def usual_normalisation(source: str) -> Normalisation:
    """The field's normalisation of a named data set; none for others."""
    known = TORCHVISION_DATA.get(source.lower())
    return NORMALISATIONS[known.normalisation if known else "none"]


def open_images(source: str, *, root: Path | None = None, image_size: tuple[int, int] | None = None) -> ImageData:
    """Open a data set, all of it in memory as 8-bit pixels.

    Args:
        source: ``digits``; a torchvision name such as ``cifar10``; a folder with one sub-folder a class
            (or ``train/`` and ``test/`` with such); an ``.npz`` with ``images`` and ``labels``.
        root: where torchvision's data sets lie.
        image_size: height and width to resize to: the shorter side is scaled, the rest cut off evenly.

    Raises:
        UsageError: an unknown name, a missing folder or file.
        NotEvaluable: content that is no set of labelled images.
        UnsafeFile: an .npz with pickled objects.
    """
    if source == DIGITS:
        from sau_adapters.images.digits import open_digits

        return open_digits(image_size=image_size)
    if source.lower() in TORCHVISION_DATA:
        from sau_adapters.images.torchvision import open_torchvision

        return open_torchvision(source.lower(), root=root, image_size=image_size)
    path = Path(source)
    if len(path.name.encode("utf-8", "replace")) > 255:
        raise UsageError(f"data {source[:50]!r}... is too long for the name of a folder or file")
    if path.is_dir():
        from sau_adapters.images.folder import open_folder

        return open_folder(path, image_size=image_size)
    if path.is_file():
        from sau_adapters.images.npz import open_npz

        return open_npz(path, image_size=image_size)
    near = difflib.get_close_matches(source.lower(), [DIGITS, *TORCHVISION_DATA], n=1)
    hint = f"did you mean {near[0]}?" if near else f"known names are {', '.join([DIGITS, *TORCHVISION_DATA])}"
    raise UsageError(f"data {source!r} is neither a known name nor a folder or file that exists; {hint}")

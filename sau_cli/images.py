"""Labelled images in memory: 8-bit pixels, labels and class names."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sau_cli.augmentation import Augmentation
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable, UsageError, argument
from sau_cli.resuming import digest_of
from sau_cli.seeding import random_stream

COLOURS = 3
"""Channels of a picture in colour."""


def as_pixels(images_uint8: Tensor) -> Tensor:
    """8-bit images to float in [0, 1], same shape."""
    return images_uint8.float() / 255


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """Images with their true labels.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in [0, K).
        class_names: K names.

    Raises:
        NotEvaluable: shapes or dtypes differ from these, or a label has no class.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.class_names)) < len(self.class_names):
            raise NotEvaluable("two classes of the data have the same name; give every class a name of its own")
        if min(self.images.shape[1:], default=1) < 1:
            raise NotEvaluable(f"the images have shape {tuple(self.images.shape)}, which is no pixel at all")
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise NotEvaluable(
                f"the images have shape {tuple(self.images.shape)} and type {self.images.dtype}; "
                "8-bit images of shape (N, C, H, W) are needed"
            )
        if self.labels.shape != (len(self.images),):
            raise NotEvaluable(
                f"there are {len(self.images)} images but {self.labels.numel()} labels; give one an image"
            )
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            raise NotEvaluable(
                f"the labels run from {int(self.labels.min())} to {int(self.labels.max())} but there are "
                f"{self.classes} classes; labels count from 0, one for each class"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def sha256(self) -> str:
        """Of the pixels, labels and names of classes, in their order, by which one set is told from another."""
        return digest_of(tuple(self.images.shape), self.images, self.labels, self.class_names)

    def take(self, indices: Tensor | Sequence[int]) -> LabelledImages:
        """The images at these places, in this order."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        return LabelledImages(images=self.images[at], labels=self.labels[at], class_names=self.class_names)

    def in_channels(self, channels: int) -> LabelledImages:
        """The same pictures in one channel or in three, where nothing is lost by it: grey ones in three alike channels.

        >>> import torch
        >>> pixels, labels = torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
        >>> grey = LabelledImages(images=pixels, labels=labels, class_names=("a",))
        >>> grey.in_channels(3).images.shape
        torch.Size([1, 3, 2, 2])
        """
        images = self.images
        if images.shape[1] == 1 and channels == COLOURS:
            images = images.expand(-1, channels, -1, -1).contiguous()
        elif images.shape[1] > channels == 1 and bool((images == images[:, :1]).all()):
            images = images[:, :1].contiguous()
        return replace(self, images=images)

    def counted_in(self, class_names: tuple[str, ...]) -> LabelledImages:
        """The same images and names, counted in another order of the same names."""
        place = torch.tensor([class_names.index(name) for name in self.class_names])
        return LabelledImages(images=self.images, labels=place[self.labels], class_names=class_names)

    def and_those_of(self, others: LabelledImages) -> LabelledImages:
        """These images, and then others of the same classes and shape."""
        return LabelledImages(
            images=torch.cat([self.images, others.images]),
            labels=torch.cat([self.labels, others.labels]),
            class_names=self.class_names,
        )

    def names_common_with(self, class_names: tuple[str, ...]) -> bool:
        """Whether any class has one of these names, as people see them."""
        return not {as_seen(name) for name in self.class_names}.isdisjoint(as_seen(name) for name in class_names)

    def in_order_of(self, class_names: tuple[str, ...]) -> LabelledImages:
        """The same images with labels that count in the order of ``class_names``, where both name the same classes.

        Sources sort their classes in different ways ("10" before "2", say); names settle it, compared as people see
        them. The images may be of some of the classes. Where no name is common to both, labels stay as they are.

        Raises:
            NotEvaluable: some names are common and others not, so numbers would mean different classes.
        """
        place = {as_seen(name): number for number, name in enumerate(class_names)}
        places = [place.get(as_seen(name)) for name in self.class_names]
        if len(place) < len(class_names) or len(set(places)) < len(places):  # some differ in what is not seen alone
            places = [class_names.index(name) if name in class_names else None for name in self.class_names]
        known = [number for number in places if number is not None]
        if class_names == self.class_names or not known:
            return self
        if len(known) < len(places):
            strange = self.class_names[places.index(None)]
            raise NotEvaluable(
                f"the data has a class {strange!r} that the model lacks, though others have the same names; "
                f"name its classes as the model does ({', '.join(class_names[:5])}{', ...' * (len(class_names) > 5)})"
            )
        labels = torch.tensor(known)[self.labels]
        return LabelledImages(images=self.images, labels=labels, class_names=class_names)

    def to(self, device: torch.device) -> LabelledImages:
        return LabelledImages(
            images=self.images.to(device), labels=self.labels.to(device), class_names=self.class_names
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageData:
    """A data set: a training part and, where the source has a split, a test part."""

    name: str
    train: LabelledImages
    test: LabelledImages | None
    flip: bool = False
    """Whether a mirrored image keeps its label, so that training may flip."""
    notes: tuple[str, ...] = ()
    """Sentences on what the source has and was not used, or was used otherwise than it lies there."""
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the classes in each order that a model may count them in, by what the order is called, where the source
    does not settle it; the first is the one at hand."""
    sha256: str = ""
    """Of the file that they were read from; empty where they are from no file, or from many."""

    def mapped(self, change: Callable[[LabelledImages], LabelledImages]) -> ImageData:
        """Both parts, changed."""
        return replace(self, train=change(self.train), test=None if self.test is None else change(self.test))

    @property
    def augmentation(self) -> Augmentation:
        """The field's: crops from a padding of an eighth of the height, and mirror images where labels allow."""
        return Augmentation(padding=self.train.images.shape[2] // 8, flip=self.flip)

    @property
    def for_testing(self) -> LabelledImages:
        """The test part; everything where the source has no split."""
        return self.train if self.test is None else self.test


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CleanData:
    """What a defender has: images to learn from, and others held back to watch the accuracy on.

    Attributes:
        augmentation: how the images may be varied and keep their labels.
    """

    learning: LabelledImages
    held_back: LabelledImages
    augmentation: Augmentation = field(default_factory=Augmentation)


def as_seen(name: str) -> str:
    """A name as people see it: letters with accents are written in more ways than one."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_fits(images: LabelledImages, description: Description) -> None:
    """Raises NotEvaluable, in one sentence, when the images cannot be this classifier's."""
    spec = description.input
    if len(images) == 0:
        raise NotEvaluable("the data has no images; give data with at least one image a class")
    if images.classes != description.classes:
        raise NotEvaluable(
            f"the data has {images.classes} classes but the model has {description.classes}; "
            "give the data set that the model was made for"
        )
    channels, height, width = images.images.shape[1:]
    if channels != spec.channels:
        raise NotEvaluable(
            f"the images have {channels} channel{'s' * (channels != 1)} but the model takes {spec.channels}; "
            "give images of the kind the model was made for"
        )
    if (height, width) != (spec.height, spec.width):
        raise NotEvaluable(
            f"the images are {height}x{width} but the model takes {spec.size}; "
            f"add {argument('image_size')} {spec.size} to resize them"
        )


def _share_count(images: LabelledImages, share: float) -> int:
    if not 0 < share <= 1:
        raise UsageError(f"a clean share of {share:g} is impossible; give a number above 0 and at most 1, such as 0.05")
    count = round(share * len(images))
    if count == 0:
        raise UsageError(f"a clean share of {share:g} of {len(images)} images selects no image; give a larger share")
    return count


def uniform_share(images: LabelledImages, share: float, *, seed: int) -> Tensor:
    """Indices of ``round(share * N)`` images drawn uniformly, as the authors do. Shape (n,), ascending."""
    count = _share_count(images, share)
    return torch.randperm(len(images), generator=random_stream(seed, "clean share"))[:count].sort().values


def balanced_share(images: LabelledImages, share: float, *, seed: int) -> Tensor:
    """Indices of ``round(share * N)`` images, as evenly over the classes as their sizes allow. Shape (n,), ascending.

    A class with fewer images than its part gives all it has, and the others make up for it.
    """
    count = _share_count(images, share)
    shuffled = torch.randperm(len(images), generator=random_stream(seed, "clean share"))
    labels = images.labels.cpu()[shuffled]
    # The rank of each image within its class: taking the lowest ranks first fills all classes at the same pace.
    rank = torch.zeros_like(shuffled)
    for label in labels.unique():
        of_class = labels == label
        rank[of_class] = torch.arange(int(of_class.sum()))
    return shuffled[rank.argsort(stable=True)[:count]].sort().values


def some_of(images: LabelledImages, most: int) -> LabelledImages:
    """So many of the images, even over the classes; all where there are no more."""
    return images if len(images) <= most else images.take(balanced_share(images, most / len(images), seed=0))


def parted(images: LabelledImages, share: float, *, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """A share of the images, even over the classes, and the others.

    Raises:
        NotEvaluable: one of the two would have none.
    """
    if not 0 < round(share * len(images)) < len(images):
        raise NotEvaluable(
            f"{len(images)} images are too few to do one thing with some and measure on others; give more"
        )
    chosen = balanced_share(images, share, seed=seed)
    left = torch.ones(len(images), dtype=torch.bool)
    left[chosen] = False
    return images.take(chosen), images.take(left.nonzero().squeeze(1))


def draw_clean(
    data: LabelledImages,
    share: float | None,
    *,
    balanced: bool,
    held_back_share: float = 0.1,
    augmentation: Augmentation | None = None,
    seed: int,
) -> CleanData:
    """What the defender learns from, and what accuracy is watched on.

    The held-back images are never learned from. They come from the rest of ``data`` (as many as a
    tenth of it, 1,000 at most) when a share was drawn and something is left; otherwise a tenth of
    ``data`` is held back from learning.

    Args:
        share: the part of ``data`` to learn from, in (0, 1]; None takes all.
        balanced: as evenly over the classes as possible; otherwise uniformly at random.
        augmentation: how the images may be varied; None for not at all.

    Raises:
        UsageError: an impossible share.
        NotEvaluable: fewer than two images.
    """
    if len(data) < 2:
        raise NotEvaluable(f"{len(data)} clean images are too few; give at least a few a class")
    allowed = augmentation or Augmentation()
    draw = balanced_share if balanced else uniform_share
    chosen = draw(data, 1.0 if share is None else share, seed=seed)
    left = torch.ones(len(data), dtype=torch.bool)
    left[chosen] = False
    rest = left.nonzero().squeeze(1)
    wanted = min(1000, max(1, round(held_back_share * len(data))))
    if len(rest) > 0:
        pool = data.take(rest)
        held_back = pool.take(balanced_share(pool, min(1.0, wanted / len(pool)), seed=seed))
        return CleanData(learning=data.take(chosen), held_back=held_back, augmentation=allowed)
    held = balanced_share(data, wanted / len(data), seed=seed)
    left[held] = True
    learning = data.take((~left).nonzero().squeeze(1))
    return CleanData(learning=learning, held_back=data.take(held), augmentation=allowed)

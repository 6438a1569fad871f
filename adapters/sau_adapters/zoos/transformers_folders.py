"""A folder as Hugging Face transformers saves an image classifier: config.json, preprocessor_config.json and weights.

Read without transformers, which is needed only to build the network. What a configuration calls code is never run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sau_adapters.tables import Normalisation
from sau_cli.description import Description, InputSpec
from sau_cli.errors import NotEvaluable, UsageError, argument

ZOO = "transformers:"
"""What the name of such an architecture begins with."""
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TRANSFORMERS_FILES = ("model.safetensors", CONFIG, PREPROCESSOR)
"""What a folder has that is written here."""
CHANNEL_ORDER, BGR = "channel_order", "BGR"
"""An entry of a description's configuration that is ours: the network takes blue first."""
LONGEST_TRANSFORMERS_CONFIG, MOST_OF_CONFIG, LONGEST_SIDE = 5_000_000, 100_000, 10_000
"""Bytes of a configuration, classes, and pixels on a side."""
_CLASSIFIER = re.compile(r"[A-Za-z0-9]{1,60}ForImageClassification[A-Za-z]{0,40}")
_NOT_ON_PIXELS = {
    "ImageGPTForImageClassification": "colours counted in clusters",
    "Siglip2ForImageClassification": "patches cut out beforehand",
    "ShieldGemma2ForImageClassification": "text beside each image",
}
"""Classifiers that no tensor of images is enough for, with what they take."""
_BY_TYPE = {
    "beit": "Beit",
    "bit": "Bit",
    "clip": "CLIP",
    "convnext": "ConvNext",
    "convnextv2": "ConvNextV2",
    "cvt": "Cvt",
    "data2vec-vision": "Data2VecVision",
    "deit": "DeiT",
    "dinat": "Dinat",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
    "donut-swin": "DonutSwin",
    "efficientnet": "EfficientNet",
    "focalnet": "FocalNet",
    "hgnet_v2": "HGNetV2",
    "hiera": "Hiera",
    "ijepa": "IJepa",
    "imagegpt": "ImageGPT",
    "levit": "Levit",
    "metaclip_2": "MetaClip2",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "mobilevit": "MobileViT",
    "mobilevitv2": "MobileViTV2",
    "poolformer": "PoolFormer",
    "pp_lcnet": "PPLCNet",
    "pvt": "Pvt",
    "pvt_v2": "PvtV2",
    "regnet": "RegNet",
    "resnet": "ResNet",
    "segformer": "Segformer",
    "shieldgemma2": "ShieldGemma2",
    "siglip": "Siglip",
    "siglip2": "Siglip2",
    "swiftformer": "SwiftFormer",
    "swin": "Swin",
    "swinv2": "Swinv2",
    "textnet": "TextNet",
    "vit": "ViT",
    "vit_msn": "ViTMSN",
}
"""The classifier of each model type, but for its ending, where a configuration names no class."""
_NO_SETTINGS = {
    "architectures",
    "auto_map",
    "id2label",
    "label2id",
    "num_labels",
    "transformers_version",
    CHANNEL_ORDER,
}
UNTOLD = 2
"""Classes of a configuration that says nothing of them."""
_UNNAMED = re.compile(r"LABEL_\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldNetwork:
    """What a folder says of its classifier.

    Attributes:
        architecture: such as ``transformers:ViTForImageClassification``.
        config: what the network is built with, as in config.json, without labels; and ``channel_order``.
        size: height and width in pixels; None where nothing tells.
        normalisation: on pixels in [0, 1]; None where nothing tells.
        remarks: sentences on what the folder has beside.
    """

    architecture: str
    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None
    normalisation: Normalisation | None
    remarks: tuple[str, ...] = ()

    @property
    def description(self) -> Description | None:
        """Of the classifier; None where the folder does not tell its size or normalisation."""
        if self.size is None or self.normalisation is None:
            return None
        (height, width), (mean, std) = self.size, self.normalisation
        return Description(
            architecture=self.architecture,
            class_names=self.class_names,
            input=InputSpec(channels=self.channels, height=height, width=width, mean=mean, std=std),
            config=self.config,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of it beside its description."""
        if self.description is not None:
            return self.remarks
        names = ", ".join(self.class_names[:5]) + ", ..." * (len(self.class_names) > 5)
        lacking = "how its images are normalised" if self.normalisation is None else "the size of its images"
        said = f"{CONFIG} says {self.architecture}, {len(self.class_names)} classes ({names}); {lacking} is not said"
        return (said, *self.remarks)


def is_of_transformers(architecture: str) -> bool:
    """Whether an architecture's name is of transformers."""
    return architecture.startswith(ZOO)


def network_beside(weights: Path) -> ToldNetwork | None:
    """What the configuration beside a file of weights says; None where there is none of transformers.

    Raises:
        NotEvaluable: it is of no image classifier, or damaged.
    """
    config = weights.with_name(CONFIG)
    told = _read(config)
    # A configuration with "architecture" is timm's, also where transformers wrapped the network and wrote it.
    if (
        told is None
        or "architecture" in told
        or not (told.get("architectures") or str(told.get("model_type")) in _BY_TYPE)
    ):
        return None
    try:
        preprocessing = _read(weights.with_name(PREPROCESSOR))
        return _told(config, told, preprocessing)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, UsageError) as error:
        raise NotEvaluable(
            f"{config} or {PREPROCESSOR} beside it is damaged ({error}); get both again, or move them away and "
            f"add {argument('architecture')}"
        ) from error


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none."""
    if not path.is_file() or path.stat().st_size > LONGEST_TRANSFORMERS_CONFIG:
        return None
    try:
        told = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _told(path: Path, told: Mapping[str, Any], preprocessing: Mapping[str, Any] | None) -> ToldNetwork:
    name = _class_of(path, told)
    remarks: tuple[str, ...] = ()
    if told.get("auto_map"):
        remarks = (f"{path.name} names code that comes with the model (auto_map), which is never run",)
    config: dict[str, Any] = {
        key: value for key, value in told.items() if key not in _NO_SETTINGS and not key.startswith("_")
    }
    vision = told.get("vision_config")
    inner = vision if isinstance(vision, dict) else told
    channels = _whole(inner.get("num_channels") or 3, "channels", MOST_OF_CONFIG)
    size, normalisation = None, None
    if preprocessing is not None:
        size, normalisation = _size_of(preprocessing), _normalisation_of(preprocessing, channels)
        if preprocessing.get("do_flip_channel_order"):
            config[CHANNEL_ORDER] = BGR
    return ToldNetwork(
        architecture=f"{ZOO}{name}",
        config=config,
        class_names=_names_of(told),
        channels=channels,
        size=size or _sides(inner.get("image_size")),
        normalisation=normalisation,
        remarks=remarks,
    )


def _class_of(path: Path, told: Mapping[str, Any]) -> str:
    """The class that the configuration means.

    Raises:
        NotEvaluable: it is no image classifier, or none that images alone are enough for.
    """
    named = [str(class_name)[:200] for class_name in told.get("architectures") or ()]
    if not named:
        named = [f"{_BY_TYPE[told['model_type']]}ForImageClassification"]
    name = next((class_name for class_name in named if _CLASSIFIER.fullmatch(class_name)), None)
    if name is None:
        what = " or ".join(named)
        code = ", and the code that it brings (auto_map) is never run" if told.get("auto_map") else ""
        raise NotEvaluable(
            f"{path} is of {what}, which is no image classifier of transformers{code}; give a folder whose "
            "architectures names one ...ForImageClassification"
        )
    if name in _NOT_ON_PIXELS:
        raise NotEvaluable(
            f"{path} is of {name}, which takes {_NOT_ON_PIXELS[name]}; give a classifier that takes pixels alone"
        )
    return name


def _names_of(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in the order of the logits; numbers where they are not named, or not all of them."""
    labels = dict(told.get("id2label") or {})
    count = _whole(told.get("num_labels") or len(labels) or UNTOLD, "classes", MOST_OF_CONFIG)
    by_number = {int(key): _printable(value) for key, value in labels.items()}
    numbers = tuple(str(number) for number in range(count))
    if by_number.keys() != set(range(count)) or any(map(_UNNAMED.fullmatch, by_number.values())):
        return numbers
    often = Counter(by_number.values())  # ImageNet has two cranes
    names = tuple(f"{by_number[at]} ({at})" if often[by_number[at]] > 1 else by_number[at] for at in range(count))
    return names if len(set(names)) == count else numbers


def _printable(name: object) -> str:
    return str(name).encode("utf-8", "replace").decode()


def _size_of(told: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width that images have in the end; None where nothing tells, or images keep their own."""
    # Perceiver's processor cuts first and resizes then.
    if told.get("do_center_crop") and not str(told.get("image_processor_type")).startswith("Perceiver"):
        return _sides(told.get("crop_size")) or _sides(told.get("size"))
    return None if told.get("do_resize") is False else _sides(told.get("size"))


def _sides(told: object) -> tuple[int, int] | None:
    """A size in any of its forms: a number, height and width, or the shorter edge of what becomes a square."""
    if isinstance(told, Mapping):
        sides = [told.get(key) for key in ("height", "width")]
        told = sides if None not in sides else told.get("shortest_edge")
    if told is None:
        return None
    sides = list(told) if isinstance(told, list | tuple) else [told, told]
    height, width = (_whole(side, "pixels", LONGEST_SIDE) for side in sides)
    return height, width


def _normalisation_of(told: Mapping[str, Any], channels: int) -> Normalisation | None:
    """What happens to pixels in [0, 1], all steps together: (x - mean) / std.

    Steps, as image processors make them on pixels from 0 to 255: rescale, take 1 away, normalise, and normalise again
    (``include_top`` of EfficientNet). None where it is not told by what is normalised.
    """
    shift, scale = 0.0, 1 / 255
    if told.get("do_rescale", True):
        scale /= _positive(told.get("rescale_factor", 1 / 255))
        shift += scale if told.get("rescale_offset") else 0.0
    mean, std = (shift,) * channels, (scale,) * channels
    # A processor that turns the order of channels round does not normalise, whatever means it lists.
    normalises = told.get("do_normalize", "do_flip_channel_order" not in told)
    top = bool(told.get("include_top"))
    if not normalises and not top:
        return mean, std
    means, deviations = (_by_channel(told.get(key), channels) for key in ("image_mean", "image_std"))
    if means is None or deviations is None:
        return None
    if normalises:
        mean = tuple(at + by * value for at, by, value in zip(mean, std, means, strict=True))
        std = tuple(by * _positive(value) for by, value in zip(std, deviations, strict=True))
    if top:
        std = tuple(by * _positive(value) for by, value in zip(std, deviations, strict=True))
    return mean, std


def _by_channel(told: object, channels: int) -> tuple[float, ...] | None:
    if told is None:
        return None
    values = [float(value) for value in told] if isinstance(told, list) else [float(str(told))]
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ValueError(f"{len(values)} means or deviations for {channels} channels")
    return tuple(values)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not 0 < float(value) < float("inf"):
        raise ValueError(f"a scale of {value!r} is impossible")
    return float(value)


def _whole(value: object, what: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{str(value)[:50]} {what} are impossible")
    return value

"""Small classifiers of Hugging Face transformers with random weights, as its own ``save_pretrained`` writes them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sau_adapters.silence import silenced

PIXELS = 32
NAMES = ("seven", "two", "nine", "zero", "five", "one", "eight", "four", "six", "three")
"""Classes in an order that no sorting gives."""
_ATTENTION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_PATCHES = {"image_size": PIXELS, "patch_size": 8, **_ATTENTION}
_STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
_WINDOWS = {"image_size": PIXELS, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "beit": ("Beit", "Beit", {**_PATCHES, "use_relative_position_bias": True}),
    "clip": ("CLIP", "CLIP", {"vision_config": _PATCHES}),
    "convnext": ("ConvNext", "ConvNext", {**_STAGES, "image_size": PIXELS}),
    "deit": ("DeiT", "DeiT", _PATCHES),
    "dinov2": ("Dinov2", "Bit", {key: value for key, value in _PATCHES.items() if key != "intermediate_size"}),
    "efficientnet": (
        "EfficientNet",
        "EfficientNet",
        {
            "image_size": PIXELS,
            "width_coefficient": 0.25,
            "depth_coefficient": 0.1,
            "hidden_dim": 320,
            "batch_norm_eps": 1e-5,
            "num_block_repeats": [1] * 7,
        },
    ),
    "levit": (
        "Levit",
        "Levit",
        {
            "image_size": PIXELS,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2] * 3,
            "depths": [1] * 3,
            "key_dim": [8] * 3,
            "attention_ratio": [2] * 3,
            "mlp_ratio": [2] * 3,
        },
    ),
    "mobilenet_v2": ("MobileNetV2", "MobileNetV2", {"image_size": PIXELS, "depth_multiplier": 0.35}),
    "mobilevit": (
        "MobileViT",
        "MobileViT",
        {
            "image_size": PIXELS,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": 2,
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64],
        },
    ),
    "poolformer": ("PoolFormer", "PoolFormer", _STAGES),
    "regnet": ("RegNet", "ConvNext", {**_STAGES, "embedding_size": 16, "groups_width": 8}),
    "resnet": ("ResNet", "ConvNext", {**_STAGES, "embedding_size": 16, "layer_type": "basic"}),
    "segformer": ("Segformer", "Segformer", {**_STAGES, "num_attention_heads": [1, 1, 2, 2]}),
    "swin": ("Swin", "ViT", {**_WINDOWS, "window_size": 4}),
    "vit": ("ViT", "ViT", _PATCHES),
}
"""By model type: what the class and the image processor are called, and the settings of a small one."""


def network(family: str, *, ending: str = "ForImageClassification", **settings: Any) -> nn.Module:
    """A network in evaluation mode whose answers differ from image to image."""
    import transformers

    name, _, small = FAMILIES[family]
    with silenced(), torch.random.fork_rng():
        torch.manual_seed(0)
        labels = {"id2label": dict(enumerate(NAMES)), "label2id": {label: at for at, label in enumerate(NAMES)}}
        config = getattr(transformers, f"{name}Config")(**{**small, **labels, **settings})
        made: nn.Module = getattr(transformers, f"{name}{ending}")(config)
        norms = [layer for layer in made.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None
            nn.init.ones_(layer.weight)
        for weights in made.parameters() if not norms else ():
            if weights.ndim > 1:
                nn.init.normal_(weights, std=0.15)
        if norms:
            with torch.no_grad():
                made.train()(prepared(processor(family), pictures(64)))
    return made.eval()


def processor(family: str, **settings: Any) -> Any:
    """The family's image processor, for images of PIXELS."""
    import transformers

    made = getattr(transformers, f"{FAMILIES[family][1]}ImageProcessor")
    square = {"height": PIXELS, "width": PIXELS}
    own: dict[str, Any] = {"size": {"shortest_edge": PIXELS} if made().size.get("shortest_edge") else square}
    if getattr(made(), "crop_size", None):
        own["crop_size"] = square
    return made(**{**own, **settings})


def saved(folder: Path, family: str, *, form: Callable[[nn.Module], nn.Module] | None = None, **settings: Any) -> Path:
    """A folder with network and processor, as their own methods write it.

    Args:
        form: what is done to the network before.
        settings: of ``save_pretrained``.
    """
    made = network(family)
    with silenced():
        (made if form is None else form(made)).save_pretrained(folder, **settings)
        processor(family).save_pretrained(folder)
    return folder


def rewritten(folder: Path, file: str, **changes: Any) -> Path:
    """Change entries of a JSON file, or take out those that become None."""
    told = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return folder


def answers(folder: Path, images: Tensor) -> Tensor:
    """What transformers answers by itself: its processor and its network, on images (N, 3, H, W) uint8 of that size."""
    import transformers

    with silenced():
        shown = prepared(transformers.AutoImageProcessor.from_pretrained(folder), images)
        made = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        logits: Tensor = made(shown).logits
    return logits


def prepared(by: Any, images: Tensor) -> Tensor:
    """What an image processor makes of images (N, 3, H, W) uint8 of the right size."""
    kept = {"do_resize": False, "do_center_crop": False}
    pixels: Tensor = by(list(images), return_tensors="pt", input_data_format="channels_first", **kept)["pixel_values"]
    return pixels


def lessons(count: int = 60) -> tuple[Tensor, Tensor]:
    """Images (N, 3, PIXELS, PIXELS) uint8 that are easy to tell apart, and their labels (N,)."""
    labels = torch.arange(count) % len(NAMES)
    patterns = pictures(len(NAMES))[:, :, ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
    return (0.8 * patterns[labels] + 0.2 * pictures(count)).to(torch.uint8), labels


def taught(made: nn.Module, family: str, *, steps: int = 40) -> nn.Module:
    """The network after so many steps on :func:`lessons`."""
    images, labels = lessons()
    shown = prepared(processor(family), images)
    optimiser = torch.optim.AdamW(made.parameters(), lr=3e-3)
    made.train()
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(made(shown).logits, labels).backward()
        optimiser.step()
    return made.eval()


def pictures(count: int = 4) -> Tensor:
    """Images of noise (N, 3, PIXELS, PIXELS), uint8."""
    shape = (count, 3, PIXELS, PIXELS)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

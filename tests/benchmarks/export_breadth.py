"""Which architectures export, and are proven, and how long that takes: a row for each, in Markdown.

    python -m tests.benchmarks.export_breadth [--only NAME]... [--without NAME]... [--out FILE]

Random weights at small sizes; each file is compared with PyTorch on 32 random images, in batches of 1, 2, 7 and 32.
Weights that start at zero are made random too, as with a head of zeros every image would be a tie; statistics of batch
norm are those of the images; and logits are scaled to a deviation of 3, so that the tolerances mean something.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from sau_adapters.architectures.networks import build, canonical_name
from sau_adapters.onnx.export import OnnxExporter
from sau_cli.classifier import Classifier
from sau_cli.description import Description, InputSpec
from sau_cli.errors import SauError
from sau_cli.exporting.exporter import ExportRejected, export
from sau_cli.images import LabelledImages

IMAGES, CLASSES = 32, 10
FAMILIES: dict[str, list[tuple[str, int]]] = {
    "ours": [
        ("small_cnn", 32),
        ("preact_resnet18", 32),
        ("cifar_resnet18", 32),
        ("cifar_vgg19_bn", 32),
        ("wrn_16_1", 32),
    ],
    "residual": [("timm:resnet18", 64), ("timm:resnet50", 64), ("timm:seresnet50", 64), ("timm:resnext50_32x4d", 64)],
    "residual, newer": [
        ("timm:regnety_002", 64),
        ("timm:resnetv2_50", 64),
        ("timm:nf_resnet50", 64),
        ("timm:res2net50_26w_4s", 64),
        ("timm:skresnet18", 64),
        ("timm:dla34", 64),
        ("timm:dpn68", 64),
        ("timm:densenet121", 64),
        ("timm:cspresnet50", 64),
        ("timm:darknet53", 64),
        ("timm:hrnet_w18_small", 64),
        ("timm:vgg11_bn", 64),
        ("timm:inception_v3", 128),
        ("timm:xception41", 96),
        ("timm:repvgg_a0", 64),
    ],
    "mobile": [
        ("timm:mobilenetv2_050", 64),
        ("timm:mobilenetv3_small_050", 64),
        ("timm:mobilenetv4_conv_small", 64),
        ("timm:efficientnet_b0", 64),
        ("timm:tf_efficientnetv2_b0", 64),
        ("timm:mnasnet_small", 64),
        ("timm:ghostnet_050", 64),
        ("timm:lcnet_050", 64),
        ("timm:fbnetc_100", 64),
        ("timm:mobileone_s0", 64),
        ("timm:mobilevit_xxs", 64),
        ("timm:efficientformerv2_s0", 64),
        ("timm:fastvit_t8", 64),
        ("timm:repvit_m0_9", 64),
        ("timm:starnet_s1", 64),
    ],
    "ConvNeXt and the like": [
        ("timm:convnext_atto", 64),
        ("timm:convnextv2_atto", 64),
        ("timm:inception_next_atto", 64),
        ("timm:focalnet_tiny_srf", 64),
        ("timm:hornet_tiny", 64),
    ],
    "transformers": [
        ("timm:vit_tiny_patch16_224", 64),
        ("timm:deit_tiny_patch16_224", 64),
        ("timm:deit3_small_patch16_224", 64),
        ("timm:beit_base_patch16_224", 64),
        ("timm:eva02_tiny_patch14_224", 56),
        ("timm:cait_xxs24_224", 64),
        ("timm:xcit_nano_12_p16_224", 64),
        ("timm:pit_ti_224", 64),
        ("timm:levit_128s", 64),
        ("timm:tiny_vit_5m_224", 64),
        ("timm:crossvit_tiny_240", 96),
        ("timm:volo_d1_224", 64),
        ("timm:convit_tiny", 64),
        ("timm:twins_svt_small", 64),
        ("timm:pvt_v2_b0", 64),
        ("timm:coat_lite_tiny", 64),
        ("timm:vit_small_patch14_reg4_dinov2", 56),
    ],
    "Swin-like": [
        ("timm:swin_tiny_patch4_window7_224", 56),
        ("timm:swinv2_tiny_window8_256", 64),
        ("timm:swin_s3_tiny_224", 56),
        ("timm:maxvit_rmlp_pico_rw_256", 64),
        ("timm:coatnet_nano_rw_224", 64),
        ("timm:hiera_tiny_224", 64),
        ("timm:nest_tiny", 64),
        ("timm:gcvit_xxtiny", 64),
        ("timm:davit_tiny", 64),
    ],
    "mixers": [
        ("timm:mixer_s16_224", 64),
        ("timm:gmlp_ti16_224", 64),
        ("timm:resmlp_12_224", 64),
        ("timm:poolformer_s12", 64),
        ("timm:caformer_s18", 64),
        ("timm:convmixer_768_32", 64),
        ("timm:sequencer2d_s", 64),
    ],
    "torchvision": [
        ("torchvision:resnet18", 64),
        ("torchvision:alexnet", 64),
        ("torchvision:vgg11", 64),
        ("torchvision:squeezenet1_1", 64),
        ("torchvision:densenet121", 64),
        ("torchvision:mobilenet_v2", 64),
        ("torchvision:mobilenet_v3_small", 64),
        ("torchvision:shufflenet_v2_x0_5", 64),
        ("torchvision:mnasnet0_5", 64),
        ("torchvision:efficientnet_b0", 64),
        ("torchvision:regnet_y_400mf", 64),
        ("torchvision:convnext_tiny", 64),
        ("torchvision:resnext50_32x4d", 64),
        ("torchvision:wide_resnet50_2", 64),
        ("torchvision:vit_b_16", 224),
        ("torchvision:swin_t", 64),
        ("torchvision:swin_v2_t", 64),
        ("torchvision:maxvit_t", 224),
        ("torchvision:googlenet", 64),
        ("torchvision:inception_v3", 96),
    ],
}


class Scaled(nn.Module):
    """A network whose logits are multiplied by a constant."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) * self.scale
        return logits


def classifier_of(name: str, size: int, images: Tensor) -> Classifier:
    """Random weights, none of them zero. Images are (N, 3, size, size) float in [0, 1]."""
    torch.manual_seed(0)
    spec = InputSpec(channels=3, height=size, width=size, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = build(canonical_name(name), classes=CLASSES, spec=spec)
    for parameter in network.parameters():
        if bool((parameter == 0).all()):
            nn.init.normal_(parameter, std=0.02)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = None  # the plain mean of what passes
        seen = (images - 0.5) / 0.25
        network.train()(seen)
        deviation = float(network.eval()(seen).std())
    names = tuple(str(number) for number in range(CLASSES))
    description = Description(architecture=name, class_names=names, input=spec)
    return Classifier(Scaled(network, 3 / max(deviation, 1e-6)), description).eval()


def row(family: str, name: str, size: int) -> str:
    """A line of the table."""
    start = time.perf_counter()
    parameters = "-"
    try:
        noise = torch.randint(0, 256, (IMAGES, 3, size, size), dtype=torch.uint8)
        classifier = classifier_of(name, size, noise.float() / 255)
        parameters = f"{sum(parameter.numel() for parameter in classifier.parameters()) / 1e6:.1f}"
        labels = torch.zeros(IMAGES, dtype=torch.int64)
        data = LabelledImages(images=noise, labels=labels, class_names=classifier.description.class_names)
        with tempfile.TemporaryDirectory() as folder:
            proven = export(classifier, Path(folder) / "m.onnx", exporter=OnnxExporter(), data=data, real=False)
        way, apart = proven.way, f"{proven.verification.largest_difference:.1g}"
        tried = "; ".join(f"{attempt.way}: {attempt.reason}" for attempt in proven.attempts[:-1])
    except ExportRejected as error:
        way, apart, tried = "**rejected**", f"{error.verification.largest_difference:.1g}", str(error)
    except (SauError, Exception) as error:  # noqa: BLE001 (a row says whatever it was)
        way, apart, tried = "**not exported**", "-", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    told = " ".join(tried.split())[:200].replace("|", "/")
    return f"| {family} | `{name}` | {size} | {parameters} | {way} | {apart} | {seconds:.0f} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "| family | architecture | pixels | M weights | way | apart | s | before that |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family, members in FAMILIES.items():
        for name, size in members:
            if (not options.only or name in options.only) and name not in options.without:
                lines.append(row(family, name, size))
                print(lines[-1], flush=True)
                gc.collect()
                if options.out:
                    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

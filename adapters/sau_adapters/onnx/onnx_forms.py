"""Forms of an ONNX graph: simplified, in half precision, in 8 bits, or with its preprocessing baked in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor

from sau_adapters.silence import silenced
from sau_cli.errors import NotEvaluable, reason_of

IMAGES, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
CALIBRATED_AT_A_TIME = 16
"""Images that are calibrated at a time."""


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in fewer nodes, by onnxslim.

    Raises:
        NotEvaluable: onnxslim cannot.
    """
    with _told_of("simplified"):
        import onnxslim

        slim = onnxslim.slim(model)
    return cast("onnx.ModelProto", slim)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in half precision, by onnxruntime's own tool; its input and output stay float32.

    Raises:
        NotEvaluable: the tool cannot.
    """
    with _told_of("converted to fp16"):
        import onnx_ir
        from onnx_ir.passes.common import TopologicalSortPass
        from onnxruntime.transformers.float16 import convert_float_to_float16

        # The tool puts its casts at the end, where the checker does not take them.
        mixed = onnx_ir.from_proto(convert_float_to_float16(model, keep_io_types=True))
        TopologicalSortPass()(mixed)
        sorted_: onnx.ModelProto = onnx_ir.to_proto(mixed)
        return sorted_


class _Calibration:
    """Images as onnxruntime's calibration reads them."""

    def __init__(self, images: Tensor) -> None:
        parts = images.split(CALIBRATED_AT_A_TIME)
        self._parts = iter([{IMAGES: part.float().div(255).numpy()} for part in parts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._parts, None)


def quantised(source: Path, out: Path, images: Tensor, *, method: str) -> None:
    """Write a graph in 8 bits, by onnxruntime's static quantisation: weights a channel, values between by calibration.

    Args:
        source: the float graph; its folder takes what the tools write between.
        images: clean images (N, C, H, W) uint8 to calibrate on.
        method: ``MinMax``, ``Percentile`` or ``Entropy``.

    Raises:
        NotEvaluable: the tools cannot.
        OSError: a file could not be written.
    """
    with _told_of("quantised"):
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = source.with_name("prepared.onnx")
        try:
            quant_pre_process(str(source), str(prepared))
        except OSError:
            raise
        except Exception:  # noqa: BLE001 (symbolic shapes defeat it for some graphs, and it is only a help)
            prepared = source
        quantize_static(
            str(prepared),
            str(out),
            _Calibration(images),  # pyright: ignore[reportArgumentType] (it has what is asked of one)
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            calibrate_method=CalibrationMethod[method],
        )


def baked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph behind its preprocessing: takes uint8 images (N, H, W, C), gives probabilities.

    The node before the probabilities still gives the logits, under their name.
    """
    graph = model.graph
    (pixels,), (logits,) = graph.input, graph.output
    inner = f"{pixels.name}::pixels"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == pixels.name:
                node.input[place] = inner
    batch, channels, height, width = pixels.type.tensor_type.shape.dim
    given = helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, None)
    for size in (batch, height, width, channels):
        given.type.tensor_type.shape.dim.add().CopyFrom(size)
    taken = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, None)
    taken.type.tensor_type.shape.CopyFrom(logits.type.tensor_type.shape)
    before = [
        helper.make_node("Cast", [IMAGES], ["images::float"], name="bytes_to_float", to=TensorProto.FLOAT),
        helper.make_node("Div", ["images::float", "images::255"], ["images::scaled"], name="to_0_1"),
        helper.make_node("Transpose", ["images::scaled"], [inner], name="channels_first", perm=[0, 3, 1, 2]),
    ]
    after = helper.make_node("Softmax", [logits.name], [PROBABILITIES], name="to_probabilities", axis=-1)
    nodes = [*before, *graph.node, after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(given)
    graph.output.append(taken)
    graph.initializer.append(helper.make_tensor("images::255", TensorProto.FLOAT, [], [255.0]))
    return model


def up_to_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A baked graph that gives its logits, to compare those."""
    (taken,) = model.graph.output
    last = next(node for node in model.graph.node if PROBABILITIES in node.output)
    taken.name = last.input[0]
    return model


@contextmanager
def _told_of(what: str) -> Iterator[None]:
    """Around somebody else's tool: what it says is lost, and what it raises becomes a sentence."""
    try:
        with silenced():
            yield
    except (OSError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise NotEvaluable(f"the graph could not be {what} ({reason_of(error)}); nothing was written") from error

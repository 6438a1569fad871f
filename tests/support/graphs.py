"""ONNX graphs of a few nodes, as other people's tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def linear_graph(
    path: Path,
    weight: np.ndarray,
    *,
    shape: tuple[int | str, ...] = ("N", 1, 8, 8),
    dtype: str = "float32",
    outputs: int = 1,
    op: str = "Gemm",
    domain: str = "",
    opset: int = 17,
) -> Path:
    """Flatten the images, multiply by ``weight`` (D, K); input "x" of the given shape, output "y" (N, K)."""
    nodes, flat = [], "x"
    if dtype == "uint8":
        nodes.append(helper.make_node("Cast", [flat], ["cast"], to=TensorProto.FLOAT))
        flat = "cast"
    nodes.append(helper.make_node("Flatten", [flat], ["flat"]))
    nodes.append(helper.make_node(op, ["flat", "w"], ["y"], domain=domain))
    nodes += [helper.make_node("Identity", ["y"], [f"y{number}"]) for number in range(1, outputs)]
    kind = DTYPES[dtype] if dtype != "uint8" else TensorProto.FLOAT
    stored = numpy_helper.from_array(weight.astype(helper.tensor_dtype_to_np_dtype(kind)), "w")
    given = helper.make_tensor_value_info("x", DTYPES[dtype], list(shape))
    names = ["y", *(f"y{number}" for number in range(1, outputs))]
    taken = [helper.make_tensor_value_info(name, kind, [shape[0], weight.shape[1]]) for name in names]
    graph = helper.make_graph(nodes, "linear", [given], taken, [stored])
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(path))
    return path

"""An ONNX graph as a classifier reads it: logits out, any number of images in; and what it does to pixels itself.

Graphs come with a soft-max at the end, with logits of shape (N, K, 1, 1), with a batch axis that is free in name only,
or with the scaling of pixels inside. What is changed here is changed to read the graph; the file stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sau_cli.errors import NotEvaluable

AT_THE_END = ("Softmax", "LogSoftmax", "Sigmoid")
"""What turns logits into something else, in the order of which class is likeliest."""
PASSING = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Dropout")
"""What may stand between the logits, or the pixels, and the rest, and changes no value."""
BEFORE_PIXELS = (*PASSING, "Transpose", "Pad", "Resize")
BYTES = 64.0
"""A first step that divides by more than this, or takes more than this away, is meant for pixels from 0 to 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReading:
    """A graph to read logits from.

    Attributes:
        model: the graph, changed where it has to be.
        ends_in: the operator that was left out at the end; nothing where none was.
        tail: the nodes that were left out, to be put back.
        output: what the file's own graph returns.
        rescales: it takes pixels from 0 to 255 and scales them itself.
        normalises: its first steps normalise its input.
    """

    model: onnx.ModelProto
    ends_in: str = ""
    tail: tuple[onnx.NodeProto, ...] = ()
    output: onnx.ValueInfoProto | None = None
    rescales: bool = False
    normalises: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def changed(self) -> bool:
        """Whether the graph is not the file's."""
        return bool(self.tail)

    def restored(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A graph that came from :attr:`model`, with what was left out at its end."""
        if self.output is not None:
            model.graph.node.extend(self.tail)
            del model.graph.output[:]
            model.graph.output.append(self.output)
        return model


def reading_of(model: onnx.ModelProto, path: Path) -> GraphReading:
    """How the graph of a file is read; it is changed in place.

    Raises:
        NotEvaluable: it draws random numbers, so that it says another thing each time.
    """
    graph = model.graph
    values = _constants(graph)
    if any(_drops(node, values) for node in graph.node):
        raise NotEvaluable(
            f"{path} has a dropout that is switched on, so that it says another thing each time; export it to infer"
        )
    rescales, normalises = _first_steps(graph, values)
    ends_in, tail, output = _without_end(graph)
    notes = [f"it ends in {ends_in}, and is read up to the logits before that"] if ends_in else []
    notes += ["it takes pixels from 0 to 255, and scales them itself"] if rescales else []
    return GraphReading(
        model=model,
        ends_in=ends_in,
        tail=tail,
        output=output,
        rescales=rescales,
        normalises=normalises,
        notes=tuple(notes),
    )


def for_any_batch(model: onnx.ModelProto) -> bool:
    """Let every reshape to one image reshape to as many as there are, in place; whether there was such a reshape."""
    graph = model.graph
    found = False
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape" and len(node.input) > 1}
    for name, tensor in _tensors_of(graph):
        if name in shapes:
            shape = numpy_helper.to_array(tensor).copy()
            if shape.ndim == 1 and len(shape) > 1 and shape[0] == 1 and -1 not in shape[:1]:
                shape[0] = 0  # as many as come in
                tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
                found = True
    return found


def _tensors_of(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Initialisers and the values of constants, by the names under which nodes take them."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tensors that stand in the graph and are small enough to look at."""
    return {
        name: tensor
        for name, tensor in _tensors_of(graph)
        if tensor.data_location != onnx.TensorProto.EXTERNAL and np.prod(tensor.dims, dtype=int) <= 1024
    }


def _drops(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is a dropout in training."""
    if node.op_type != "Dropout" or len(node.input) < 3 or node.input[2] not in values:
        return False
    ratio = values.get(node.input[1])
    dropped = 0.5 if ratio is None else float(numpy_helper.to_array(ratio))
    return bool(numpy_helper.to_array(values[node.input[2]])) and dropped > 0


def _without_end(
    graph: onnx.GraphProto,
) -> tuple[str, tuple[onnx.NodeProto, ...], onnx.ValueInfoProto | None]:
    """Let a graph of one output give the logits before its soft-max; what was taken off, and its own output."""
    if len(graph.output) != 1:
        return "", (), None
    makers = {name: node for node in graph.node for name in node.output}
    used = [name for node in graph.node for name in node.input]
    tail: list[onnx.NodeProto] = []
    at = makers.get(graph.output[0].name)
    while at is not None and at.op_type in PASSING and used.count(at.output[0]) == 0 + bool(tail):
        tail.insert(0, at)
        at = makers.get(at.input[0])
    if at is None or at.op_type not in AT_THE_END or at.input[0] not in makers:
        return "", (), None
    tail.insert(0, at)
    axis = next((attribute.i for attribute in at.attribute if attribute.name == "axis"), -1)
    if at.op_type != "Sigmoid" and axis not in {-1, 1}:
        return "", (), None
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(graph.output[0])
    graph.output[0].name = at.input[0]
    if len(tail) > 1:  # whose shape may be another than that of the logits
        graph.output[0].type.tensor_type.ClearField("shape")
    nodes = [node for node in graph.node if not any(node is left for left in tail)]
    copies = []
    for node in tail:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)
    return at.op_type, tuple(copies), kept


def _first_steps(graph: onnx.GraphProto, values: dict[str, onnx.TensorProto]) -> tuple[bool, bool]:
    """Whether the first steps scale pixels from 0 to 255, and whether they normalise at all."""
    if len(graph.input) < 1:
        return False, False
    names = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    at = next(iter(sorted(names))) if len(names) == 1 else ""
    rescales = normalises = False
    for node in graph.node:
        if at not in node.input:
            continue
        operands = [name for name in node.input if name != at]
        if node.op_type in BEFORE_PIXELS or node.op_type.endswith("Nchw"):
            at = node.output[0]
            continue
        if node.op_type not in {"Mul", "Div", "Sub", "Add"} or not operands or operands[0] not in values:
            break
        numbers = np.abs(numpy_helper.to_array(values[operands[0]]).astype(np.float64))
        largest = float(numbers.max(initial=0))
        normalises = True
        match node.op_type:
            case "Div":
                rescales |= largest > BYTES
            case "Mul":
                rescales |= 0 < largest < 1 / BYTES
            case _ if not rescales:
                rescales |= largest > BYTES
        at = node.output[0]
    return rescales, normalises

"""Graphs as other tools leave them, read up to logits for any number of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sau_adapters.onnx.networks import ConvertedOnnx, OnnxNetwork, classifier_graph
from sau_adapters.onnx.readings import for_any_batch
from sau_adapters.weights.onnx import open_graph
from sau_cli.errors import NotEvaluable

SIDE, CLASSES = 4, 3
WEIGHT = np.random.default_rng(0).normal(size=(3 * SIDE * SIDE, CLASSES)).astype(np.float32)
IMAGES = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
LOGITS = IMAGES.flatten(1) @ torch.from_numpy(WEIGHT)


def graph(
    path: Path,
    *,
    before: tuple[onnx.NodeProto, ...] = (),
    after: tuple[onnx.NodeProto, ...] = (),
    shape: tuple[int | str, ...] = ("n", 3, SIDE, SIDE),
    out: tuple[int | str, ...] = ("n", CLASSES),
    flatten: onnx.NodeProto | None = None,
    more: tuple[onnx.TensorProto, ...] = (),
    constants: bool = False,
) -> Path:
    """Logits of one linear layer between what is given; ``pixels`` is what it takes, ``logits`` what it says."""
    start = before[-1].output[0] if before else "images"
    nodes = [*before, flatten or helper.make_node("Flatten", [start], ["flat"])]
    weight = numpy_helper.from_array(WEIGHT, "weight")
    if constants:
        nodes.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    nodes += [helper.make_node("MatMul", ["flat", "weight"], ["logits"]), *after]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    taken = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, out)
    tensors = [*([] if constants else [weight]), *more]
    made = helper.make_graph(nodes, "classifier", [given], [taken], tensors)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def read(path: Path) -> OnnxNetwork:
    return classifier_graph(open_graph(path))


def number(value: float, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.float32(value), name)


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ((helper.make_node("Softmax", ["logits"], ["p"], axis=-1),), "Softmax"),
        ((helper.make_node("LogSoftmax", ["logits"], ["p"], axis=1),), "LogSoftmax"),
        ((helper.make_node("Sigmoid", ["logits"], ["p"]),), "Sigmoid"),
        (
            (helper.make_node("Softmax", ["logits"], ["s"], axis=-1), helper.make_node("Identity", ["s"], ["p"])),
            "Softmax",
        ),
    ],
)
def test_the_end_is_left_out_and_put_back(tmp_path, after, name):
    network = read(graph(tmp_path / "m.onnx", after=after))
    assert network.reading is not None
    assert network.reading.ends_in == name
    assert torch.allclose(network(IMAGES), LOGITS, atol=1e-5)
    converted = ConvertedOnnx(network)
    assert torch.allclose(converted(IMAGES), LOGITS, atol=1e-5)
    back = converted.written_back()
    assert [node.op_type for node in back.graph.node][-len(after) :] == [node.op_type for node in after]
    assert back.graph.output[0].name == "p"
    onnx.checker.check_model(back, full_check=True)


def test_a_soft_max_over_another_axis_stays(tmp_path):
    after = (helper.make_node("Softmax", ["logits"], ["p"], axis=0),)
    assert read(graph(tmp_path / "m.onnx", after=after)).reading.ends_in == ""


def test_a_soft_max_in_the_middle_stays(tmp_path):
    after = (
        helper.make_node("Softmax", ["logits"], ["p"], axis=-1),
        helper.make_node("Add", ["p", "logits"], ["sum"]),
    )
    network = read(graph(tmp_path / "m.onnx", after=after))
    assert network.reading.ends_in == ""
    assert torch.allclose(network(IMAGES), LOGITS + LOGITS.softmax(dim=1), atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "constants", "rescales"),
    [
        (("Div",), (255.0,), True),
        (("Mul",), (1 / 255,), True),
        (("Mul", "Sub"), (1 / 127.5, 1.0), True),
        (("Sub", "Div"), (123.675, 58.395), True),
        (("Sub", "Div"), (0.485, 0.229), False),
        (("Mul", "Sub"), (2.0, 1.0), False),
    ],
)
def test_the_first_steps_tell_what_pixels_are_meant(tmp_path, steps, constants, rescales):
    names = ["images", *(f"step{place}" for place in range(len(steps)))]
    before = tuple(
        helper.make_node(step, [names[place], f"c{place}"], [names[place + 1]]) for place, step in enumerate(steps)
    )
    more = tuple(number(value, f"c{place}") for place, value in enumerate(constants))
    reading = read(graph(tmp_path / "m.onnx", before=before, more=more)).reading
    assert (reading.normalises, reading.rescales) == (True, rescales)


def test_a_graph_that_begins_with_its_layers_tells_nothing(tmp_path):
    reading = read(graph(tmp_path / "m.onnx")).reading
    assert (reading.normalises, reading.rescales, reading.notes) == (False, False, ())


def test_height_before_channels(tmp_path):
    before = (helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),)
    network = read(graph(tmp_path / "m.onnx", before=before, shape=("n", SIDE, SIDE, 3)))
    assert torch.allclose(network(IMAGES), LOGITS, atol=1e-5)
    assert torch.allclose(ConvertedOnnx(network)(IMAGES), LOGITS, atol=1e-5)


def test_weights_that_are_constants(tmp_path):
    network = read(graph(tmp_path / "m.onnx", constants=True))
    assert torch.allclose(network(IMAGES), LOGITS, atol=1e-5)


def test_logits_with_two_axes_more(tmp_path):
    after = (helper.make_node("Reshape", ["logits", "shape"], ["four"]),)
    more = (numpy_helper.from_array(np.array([-1, CLASSES, 1, 1]), "shape"),)
    network = read(graph(tmp_path / "m.onnx", after=after, more=more, out=("n", CLASSES, 1, 1)))
    assert network.input.classes == CLASSES
    assert network(IMAGES).shape == (5, CLASSES)


def test_a_batch_axis_that_is_free_in_name_only(tmp_path):
    flatten = helper.make_node("Reshape", ["images", "shape"], ["flat"])
    more = (numpy_helper.from_array(np.array([1, WEIGHT.shape[0]]), "shape"),)
    network = read(graph(tmp_path / "m.onnx", flatten=flatten, more=more))
    assert "and is freed" in network.reading.notes[0]
    assert torch.allclose(network(IMAGES), LOGITS, atol=1e-5)
    assert torch.allclose(ConvertedOnnx(network)(IMAGES), LOGITS, atol=1e-5)


def test_a_reshape_that_keeps_its_batch_is_left_alone():
    shape = numpy_helper.from_array(np.array([-1, 4]), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    assert not for_any_batch(helper.make_model(helper.make_graph([node], "g", [], [], [shape])))


def test_a_dropout_that_is_on(tmp_path):
    after = (helper.make_node("Dropout", ["logits", "ratio", "on"], ["dropped"]),)
    more = (number(0.5, "ratio"), numpy_helper.from_array(np.array(True), "on"))
    with pytest.raises(NotEvaluable, match=r"m\.onnx has a dropout that is switched on"):
        read(graph(tmp_path / "m.onnx", after=after, more=more))

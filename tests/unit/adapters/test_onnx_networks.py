"""ONNX in: run as it is, and converted, learned and written back."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sau_adapters.architectures.networks import build
from sau_adapters.classifiers.building import as_classifier, check_learns_the_same
from sau_adapters.classifiers.saving import save_like
from sau_adapters.onnx.export import OnnxExporter
from sau_adapters.onnx.networks import ConvertedOnnx, OnnxNetwork, classifier_graph
from sau_adapters.weights.onnx import open_graph
from sau_cli.classifier import Classifier
from sau_cli.description import Description
from sau_cli.errors import NotEvaluable, UnsafeFile, UsageError
from tests.support.graphs import linear_graph
from tests.support.models import file_facts, read_checkpoint
from tests.support.toys import names, random_images, spec

WEIGHT = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
IMAGES = torch.randint(0, 256, (10, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
PLAIN = {"normalisation": ((0.5,), (0.25,)), "image_shape": (1, 8, 8)}


@pytest.mark.parametrize(
    ("options", "tolerance", "scale"),
    [
        ({}, 1e-5, 1),
        ({"shape": (4, 1, 8, 8)}, 1e-5, 1),
        ({"shape": ("N", 8, 8, 1)}, 1e-5, 1),
        ({"dtype": "float16"}, 5e-2, 1),
        ({"dtype": "uint8"}, 1e-2, 255),
    ],
    ids=["any batch", "batches of 4", "channels last", "half precision", "whole pixels"],
)
def test_a_graph_is_fed_in_the_form_that_it_takes(tmp_path, options, tolerance, scale):
    network = OnnxNetwork(linear_graph(tmp_path / "m.onnx", WEIGHT, **options))
    expected = IMAGES.flatten(1) @ torch.from_numpy(WEIGHT) * scale
    assert torch.allclose(network(IMAGES), expected, atol=tolerance * scale)
    assert (network.input.classes, network.input.channels, network.input.height) == (10, 1, 8)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"outputs": 2}, "2 outputs"),
        ({"shape": ("N", 8, 8)}, r"images are \(N, C, H, W\)"),
        ({"op": "Gem", "domain": "their.own"}, "cannot be run by onnxruntime"),
    ],
)
def test_what_is_no_classifier_of_images_is_said(tmp_path, options, sentence):
    path = linear_graph(tmp_path / "m.onnx", WEIGHT, **options)
    with pytest.raises(NotEvaluable, match=sentence):
        as_classifier(read_checkpoint(path), **PLAIN)


def test_a_foreign_graph_needs_its_normalisation_and_no_architecture(tmp_path):
    checkpoint = read_checkpoint(linear_graph(tmp_path / "m.onnx", WEIGHT))
    with pytest.raises(NotEvaluable, match="add normalisation"):
        as_classifier(checkpoint)
    with pytest.raises(UsageError, match="leave architecture out"):
        as_classifier(checkpoint, architecture="small_cnn", **PLAIN)
    classifier = as_classifier(checkpoint, **PLAIN)
    assert (classifier.description.architecture, classifier.description.classes) == ("onnx", 10)
    expected = ((IMAGES - 0.5) / 0.25).flatten(1) @ torch.from_numpy(WEIGHT)
    assert torch.allclose(classifier(IMAGES), expected, atol=1e-4)


def exported(path: Path, architecture: str, **options) -> tuple[Classifier, Path]:
    described = Description(architecture=architecture, class_names=names(10), input=spec(channels=3, size=32, mean=0.4))
    torch.manual_seed(0)
    network = build(architecture, classes=10, spec=described.input)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    classifier = Classifier(network, described).eval()
    if options:
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(classifier, (torch.zeros(2, 3, 32, 32),), str(path), dynamo=False, **options)
    else:
        OnnxExporter().write(classifier, path, "dynamo")
    return classifier, path


SCRIPTED = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}


@pytest.mark.long
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("small_cnn", {}),
        # Exported in many seconds; of the fast ones, the first is exported alike and the last has blocks.
        pytest.param("wrn_16_1", {}, marks=pytest.mark.slow),
        pytest.param("timm:convnext_atto", {}, marks=pytest.mark.slow),
        ("preact_resnet18", {"opset_version": 13, **SCRIPTED}),
    ],
)
def test_what_was_learned_goes_back_into_the_graph(tmp_path, architecture, options):
    _, path = exported(tmp_path / "m.onnx", architecture, **options)
    received = read_checkpoint(path)
    told = {} if received.description else {"normalisation": ((0.0,), (1.0,)), "image_shape": (3, 32, 32)}
    classifier = as_classifier(received, **told, to_learn=True)
    images = random_images(12, channels=3, size=32)
    check_learns_the_same(received, classifier, images)
    before = as_classifier(received, **told)(IMAGES.expand(-1, 3, -1, -1).repeat(1, 1, 4, 4)).clone()
    weights = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight.mul_(1 + 0.05 * torch.randn_like(weight))
    save_like(received, tmp_path / "learned.onnx", classifier, classifier.description, proof=images)
    again = as_classifier(read_checkpoint(tmp_path / "learned.onnx"))
    shown = IMAGES.expand(-1, 3, -1, -1).repeat(1, 1, 4, 4)
    assert torch.allclose(again(shown), classifier(shown), atol=1e-4)
    assert (again(shown) - before).abs().max() > 1e-3
    graphs = [onnx.load(str(file)).graph for file in (path, tmp_path / "learned.onnx")]
    for part in ("input", "output"):
        first, second = ([value.name for value in getattr(graph, part)] for graph in graphs)
        assert first == second
    assert file_facts(tmp_path / "learned.onnx").metadata["sau.source_sha256"] == received.sha256


def test_layers_that_share_weights_in_the_file_learn_their_own(tmp_path):
    """Exporters keep equal weights once; here two layers read the same matrix."""
    square = np.eye(64, dtype=np.float32) + 0.1 * np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["b"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])
    taken = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 64])
    graph = helper.make_graph(nodes, "twice", [given], [taken], [numpy_helper.from_array(square, "w")])
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(tmp_path / "m.onnx"))
    network = ConvertedOnnx(classifier_graph(open_graph(tmp_path / "m.onnx")))
    first, second = list(network.parameters())[:2]
    with torch.no_grad():
        first.mul_(2)
    onnx.save(network.written_back(), str(tmp_path / "learned.onnx"))
    x = torch.from_numpy(square)
    assert torch.allclose(OnnxNetwork(tmp_path / "learned.onnx")(IMAGES), IMAGES.flatten(1) @ x @ x * 2, atol=1e-3)
    assert second.equal(torch.from_numpy(square.T)) or second.equal(torch.from_numpy(square))


def test_what_cannot_be_converted_is_said(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "s", "z"], ["q"]),
        helper.make_node("MatMulInteger", ["q", "w"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])
    taken = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    held = {"s": np.float32(1 / 255), "z": np.uint8(0), "w": (WEIGHT * 10).astype(np.int8)}
    graph = helper.make_graph(
        nodes, "quantised", [given], [taken], [numpy_helper.from_array(np.asarray(v), k) for k, v in held.items()]
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    checkpoint = read_checkpoint(path)
    assert as_classifier(checkpoint, **PLAIN)(IMAGES).shape == (10, 10)
    with pytest.raises(NotEvaluable, match="cannot be converted to PyTorch"):
        as_classifier(checkpoint, **PLAIN, to_learn=True)


def test_a_constant_that_reaches_outside_the_folder(tmp_path):
    path = linear_graph(tmp_path / "m.onnx", WEIGHT)
    model = onnx.load(str(path))
    value = TensorProto(data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=value))
    onnx.save(model, str(path))
    with pytest.raises(UnsafeFile, match="outside its own folder"):
        read_checkpoint(path)
    assert not file_facts(path).safe

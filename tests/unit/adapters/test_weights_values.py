"""Weights that are no numbers are found in every format, and nothing is found where models have them on purpose."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from sau_adapters.weights import content
from sau_adapters.weights import values as weight_values
from sau_adapters.weights.values import number_format
from sau_cli.inspection.file_facts import NonFinite
from sau_cli.inspection.inspector import inspect
from tests.support.models import file_facts

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
ODD = NonFinite(tensor="w", nan=2, infinite=3)


def odd(dtype: torch.dtype) -> torch.Tensor:
    """Two NaN and three infinities among ordinary numbers, the largest and the smallest too."""
    values = torch.linspace(-3, 3, 1000, dtype=torch.float64).to(dtype)
    values[0], values[1] = torch.finfo(dtype).max, torch.finfo(dtype).min
    values[5] = values[500] = math.nan
    if dtype is not torch.float8_e4m3fn:  # it has no infinities
        values[7] = values[8] = math.inf
        values[999] = -math.inf
    return values.reshape(10, 100)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [64, 1 << 22])
def test_they_are_counted_in_safetensors_and_in_pytorch(tmp_path, monkeypatch, dtype, block):
    for module in (content, weight_values):
        monkeypatch.setattr(module, "BLOCK", block)
    tensors = {"w": odd(dtype), "b": torch.ones(3), "n": torch.tensor(7)}
    expected = NonFinite(tensor="w", nan=2, infinite=0) if dtype is torch.float8_e4m3fn else ODD
    save_file(tensors, tmp_path / "m.safetensors")
    torch.save(tensors, tmp_path / "m.pt")
    torch.save({"w": odd(dtype).T}, tmp_path / "turned.pt")
    names = ["m.safetensors", "m.pt", "turned.pt"]
    if dtype.itemsize > 1:  # the old form has none of 8 bits
        torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        names.append("old.pt")
    for name in names:
        assert file_facts(tmp_path / name).non_finite == (expected,), name


def graph(path, *tensors: onnx.TensorProto) -> None:
    node = helper.make_node("Identity", [tensors[0].name], ["y"])
    out = helper.make_tensor_value_info("y", tensors[0].data_type, list(tensors[0].dims))
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [out], list(tensors))), path)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_they_are_counted_in_onnx(tmp_path, dtype):
    values = odd(torch.float64).numpy().clip(-60000, 60000)
    values[0, 7] = values[0, 8] = math.inf
    values[9, 99] = -math.inf
    values = values.astype(dtype)
    path = tmp_path / "m.onnx"
    graph(path, numpy_helper.from_array(values, "w"))
    assert file_facts(path).non_finite == (ODD,)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph(path, helper.make_tensor("w", kind, [1000], values.ravel().tolist()))
    assert file_facts(path).non_finite == (ODD,)


def test_tensors_of_a_graph_in_a_file_beside_it(tmp_path):
    path = tmp_path / "m.onnx"
    graph(path, numpy_helper.from_array(odd(torch.float32).numpy(), "w"))
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert file_facts(path).non_finite == (ODD,)
    whole = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(whole[:-1])
    facts = file_facts(path)
    assert facts.non_finite is None
    (check,) = [check for check in inspect(facts) if check.id == "file.non-finite-weights"]
    assert (check.status, "m.data" in check.evidence) == ("skipped", True)


def test_infinities_that_models_have_on_purpose(tmp_path):
    mask = torch.full((4, 4), -math.inf).triu(1)
    save_file({"attn.mask": mask, "limit": torch.tensor(math.inf)}, tmp_path / "m.safetensors")
    assert file_facts(tmp_path / "m.safetensors").non_finite == ()
    graph(tmp_path / "m.onnx", numpy_helper.from_array(mask.numpy(), "onnx::Where_12"))
    assert file_facts(tmp_path / "m.onnx").non_finite == ()
    save_file({"attn.mask": -mask, "weight": mask}, tmp_path / "n.safetensors")
    assert {counted.tensor for counted in file_facts(tmp_path / "n.safetensors").non_finite} == {"attn.mask", "weight"}


def test_whole_numbers_have_none():
    assert number_format("I64") is number_format("int64") is number_format("BOOL") is None
    assert number_format(TensorProto.DataType.Name(TensorProto.INT8)) is None
    assert number_format("complex64") == number_format("F32")

"""ONNX graphs as networks: run by onnxruntime as they are, or converted to PyTorch to be learned and written back.

A graph that was learned is the received one with other values in its weights: operators, opset, the names of its
input and output, and its batch axis stay.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from sau_adapters.onnx.readings import GraphReading, for_any_batch, reading_of
from sau_adapters.weights.onnx import OnnxReader, check_graph
from sau_cli.errors import NotEvaluable, reason_of

IMAGES_A_RUN = 256
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""Of providers; TF32 keeps 10 bits of a number, which is no float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """What a graph takes and gives: images, in an order and a number format of its own, to logits.

    Attributes:
        dtype: of numpy; uint8 for pixels from 0 to 255.
        batch: the one batch size that it takes; None for any.
        channels, height, width: None for any.
        channels_last: (N, H, W, C) in place of (N, C, H, W).
        classes: as many logits it returns; None where the graph does not tell.
    """

    name: str
    dtype: type[np.generic]
    batch: int | None
    channels: int | None
    height: int | None
    width: int | None
    channels_last: bool
    classes: int | None


class OnnxNetwork(nn.Module):
    """A graph in onnxruntime: images (N, C, H, W) to logits (N, K). It has no parameters.

    Args:
        path: of the graph; with a ``reading``, of which file it is.
        provider: the execution provider of onnxruntime; CUDA's where it is usable, else the CPU's, if none is named.
        reading: how to read the graph; as it is, if nothing is said.

    Attributes:
        input: what the graph takes.

    Raises:
        UnsafeFile: as :func:`sau_adapters.weights.onnx.check_graph`.
        NotEvaluable: onnxruntime cannot run it, or it is no classifier of images.
    """

    def __init__(self, path: Path, *, provider: str | None = None, reading: GraphReading | None = None) -> None:
        super().__init__()
        if reading is None:
            check_graph(path)
        self.path, self.reading = path, reading
        graph = str(path) if reading is None else reading.model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = ("CUDAExecutionProvider" if provider is None else provider, "CPUExecutionProvider")
        usable = set(onnxruntime.get_available_providers())
        providers = [(name, _OPTIONS.get(name, {})) for name in dict.fromkeys(wanted) if name in usable]
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime raises its own kinds
            raise NotEvaluable(f"{path} cannot be run by onnxruntime ({reason_of(error)}); export it again") from error
        if provider is not None and provider not in self._session.get_providers():
            raise NotEvaluable(f"{provider} is installed, but does not work on this machine")
        self.input = _input_of(path, self._session)

    def forward(self, images: Tensor) -> Tensor:
        take = self.input
        pixels = images.detach().cpu()
        if take.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        array = pixels.numpy()
        if take.dtype is np.uint8:
            array = (array * 255).round()
        array = array.astype(take.dtype, copy=False)
        said = np.concatenate(
            [self._run(part) for part in np.split(array, range(IMAGES_A_RUN, len(array), IMAGES_A_RUN))]
        )
        logits = _flat(torch.from_numpy(said).to(images.device))
        return logits.float() if logits.is_floating_point() else logits

    def _run(self, array: np.ndarray) -> np.ndarray:
        """In the batches that the graph takes; the last one is filled up with zeros where it takes one size only."""
        size = self.input.batch or max(1, len(array))
        said = []
        for part in np.split(array, range(size, len(array), size)):
            filled = np.zeros((self.input.batch or len(part), *part.shape[1:]), part.dtype)
            filled[: len(part)] = part
            said.append(np.asarray(self._session.run(None, {self.input.name: filled})[0])[: len(part)])
        return np.concatenate(said)

    @property
    def takes_bytes(self) -> bool:
        """Whether its input is whole numbers from 0 to 255."""
        return self.input.dtype is np.uint8

    def takes_any_batch(self) -> bool:
        """Whether a batch of two gives two answers, where the graph says that it takes any."""
        take = self.input
        if take.batch is not None:
            return True
        size = {"channels": take.channels or 3, "height": take.height or 224, "width": take.width or 224}
        blank = torch.zeros(2, size["channels"], size["height"], size["width"])
        try:
            return len(self(blank)) == len(blank)
        except Exception:  # noqa: BLE001 (onnxruntime raises its own kinds)
            return False


def classifier_graph(graph: OnnxReader) -> OnnxNetwork:
    """A stranger's graph, read up to its logits, for any number of images.

    Raises:
        UnsafeFile, NotEvaluable: as :class:`OnnxNetwork`; or its answers are left to chance.
    """
    path = graph.path
    reading = reading_of(graph.whole_model(), path)
    network = OnnxNetwork(path, reading=reading)
    if network.takes_any_batch():
        return network
    more = onnx.ModelProto()
    more.CopyFrom(reading.model)
    note = "its batch axis is free in name only"
    if for_any_batch(more):
        freed = OnnxNetwork(path, reading=replace(reading, model=more, notes=(*reading.notes, f"{note}, and is freed")))
        if freed.takes_any_batch():
            return freed
    network.input = replace(network.input, batch=1)
    network.reading = replace(reading, notes=(*reading.notes, f"{note}, and images are given one by one"))
    return network


class ConvertedOnnx(nn.Module):
    """A graph as a PyTorch network, by onnx2pytorch: its layers can be learned, and written back.

    What stands in the graph as a mere constant (a positional embedding that is added, say) stays as it is.

    Args:
        received: the graph in onnxruntime, as :func:`classifier_graph` reads it.

    Raises:
        NotEvaluable: the graph has something that cannot be converted, or takes one image at a time.
    """

    def __init__(self, received: OnnxNetwork) -> None:
        super().__init__()
        if received.reading is None:
            raise TypeError("a graph is converted as it is read, and this one was not")
        path, self.reading = received.path, received.reading
        self.input = received.input
        if received.input.batch == 1:
            raise NotEvaluable(
                f"{path} takes one image at a time, so it cannot be learned from; export it with a free batch axis"
            )
        try:
            self.model = _plain(self.reading.model)
            self.graph = _converted(self.model)
            self.origins = _origins(self.model, self.graph)
        except Exception as error:  # a converter raises nearly anything
            raise NotEvaluable(
                f"{path} cannot be converted to PyTorch ({reason_of(error)}), so it cannot be learned from; "
                "give the weights that it was exported from"
            ) from error
        self.float()
        for name, parameter in list(self.graph.named_parameters()):
            if name not in self.origins:  # nothing that is learned may be lost in writing back
                inside, _, own = name.rpartition(".")
                layer = self.graph.get_submodule(inside)
                delattr(layer, own)
                layer.register_buffer(own, parameter.detach())

    @property
    def takes_bytes(self) -> bool:
        """Whether the input of the graph is whole numbers from 0 to 255."""
        return self.input.dtype is np.uint8

    def forward(self, images: Tensor) -> Tensor:
        if self.takes_bytes:
            images = images * 255
        if self.input.channels_last:
            images = images.permute(0, 2, 3, 1)
        with warnings.catch_warnings(action="ignore"):
            logits: Tensor = self.graph(images)
        return _flat(logits)

    def written_back(self) -> onnx.ModelProto:
        """The graph with the values that the network has now, in the number formats of the file, and its own end."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        own = self.graph.state_dict()
        values = {
            initialiser: own[name].T if transposed else own[name]
            for name, (initialiser, transposed) in self.origins.items()
        }
        for tensor in model.graph.initializer:
            if tensor.name in values:
                array = values[tensor.name].detach().cpu().contiguous().numpy()
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
        return self.reading.restored(model)


def _flat(logits: Tensor) -> Tensor:
    """(N, K, 1, 1) as (N, K); all else as it is."""
    return logits.flatten(1) if logits.ndim == 4 and logits.shape[2:] == (1, 1) else logits


def _input_of(path: Path, session: onnxruntime.InferenceSession) -> GraphInput:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for what, found in (("inputs", inputs), ("outputs", outputs)):
        if len(found) != 1:
            names = ", ".join(repr(value.name) for value in found[:5])
            raise NotEvaluable(
                f"{path} has {len(found)} {what} ({names}), of which an image classifier has one; export it alone"
            )
    (images,), (logits,) = inputs, outputs
    if images.type not in _DTYPES or len(images.shape) != 4:
        raise NotEvaluable(f"{path} takes {images.type} of shape {images.shape}, and images are (N, C, H, W)")
    if len(logits.shape) not in {0, 2} and not (len(logits.shape) == 4 and set(logits.shape[2:]) == {1}):
        raise NotEvaluable(f"{path} returns {logits.type} of shape {logits.shape}, and logits are (N, K)")
    sizes = [size if isinstance(size, int) and size > 0 else None for size in images.shape]
    channels_last = sizes[1] not in {1, 3} and sizes[3] in {1, 3}
    channels, height, width = (sizes[3], *sizes[1:3]) if channels_last else sizes[1:]
    classes = logits.shape[1] if len(logits.shape) > 1 and isinstance(logits.shape[1], int) else None
    return GraphInput(
        name=images.name,
        dtype=_DTYPES[images.type],
        batch=sizes[0],
        channels=channels,
        height=height,
        width=width,
        channels_last=channels_last,
        classes=classes,
    )


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in the fewest kinds of nodes: constants folded, identities gone, weights as initialisers."""
    import onnx_ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass
    from onnxscript import optimizer

    with warnings.catch_warnings(action="ignore"):
        read = onnx_ir.from_proto(model)
        optimizer.optimize_ir(read)
        LiftConstantsToInitializersPass(lift_all_constants=False)(read)
        plain = onnx_ir.to_proto(read)
    for node in plain.graph.node:
        if node.op_type == "BatchNormalization":  # onnx2pytorch does not know the default when it is written out
            kept = [attribute for attribute in node.attribute if attribute.name != "training_mode" or attribute.i != 0]
            del node.attribute[:]
            node.attribute.extend(kept)
    _part_shared(plain.graph)
    return plain


def _part_shared(graph: onnx.GraphProto) -> None:
    """Give every layer weights of its own: exporters keep equal ones once, and layers that learn become unequal."""
    weights = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) > 0}
    used: set[str] = set()
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in weights and name in used:
                copy = graph.initializer.add()
                copy.CopyFrom(weights[name])
                copy.name = f"{name}::{len(graph.initializer)}"
                node.input[place] = copy.name
            used.add(name)


def _converted(model: onnx.ModelProto) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):
        from onnx2pytorch import ConvertModel

        network: nn.Module = ConvertModel(model)
    return network.eval()


def _origins(model: onnx.ModelProto, network: nn.Module) -> dict[str, tuple[str, bool]]:
    """Which initialiser each tensor of a converted network's layers came from, and whether it is turned over.

    A copy of the graph with random values is converted in the same way: those tell the tensors apart.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    random = np.random.default_rng(0)
    values: dict[tuple[int, float], tuple[str, np.ndarray]] = {}
    for tensor in probe.graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        shape = tuple(tensor.dims)
        if np.issubdtype(dtype, np.floating) and np.prod(shape, dtype=int) > 1:
            array = random.uniform(0.5, 1.5, shape).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            values[_mark(array)] = (tensor.name, array)
    found = {}
    for name, tensor in _converted(probe).state_dict().items():
        array = tensor.numpy()
        origin, value = values.get(_mark(array), ("", None)) if array.size > 1 else ("", None)
        if value is None or name.startswith("_initializer_"):
            continue
        if value.shape == array.shape and np.array_equal(value, array):
            found[name] = (origin, False)
        elif value.ndim == 2 and value.T.shape == array.shape and np.array_equal(value.T, array):
            found[name] = (origin, True)
    if not any(name in found for name, _ in network.named_parameters()):
        raise NotEvaluable("no layer with weights of its own was found")
    return found


def _mark(array: np.ndarray) -> tuple[int, float]:
    """What tells random arrays apart, whichever way their axes lie."""
    return array.size, float(np.sort(array, axis=None).sum(dtype=np.float64))

"""The formats of model files, and which of them a file is of. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from sau_adapters.weights.content import Content
from sau_adapters.weights.keras import Hdf5Reader, KerasReader, SavedModelReader
from sau_adapters.weights.onnx import OnnxReader
from sau_adapters.weights.pytorch import PytorchReader
from sau_adapters.weights.reader import WeightsReader
from sau_adapters.weights.safetensors import SafetensorsReader
from sau_adapters.weights.sharded import ShardedReader
from sau_cli.errors import NotEvaluable

READERS: tuple[type[WeightsReader], ...] = (
    SafetensorsReader,
    ShardedReader,
    PytorchReader,
    OnnxReader,
    KerasReader,
    Hdf5Reader,
    SavedModelReader,
)
"""In the order in which a file is shown to them."""
FORMATS = tuple(reader.format for reader in READERS)
"""Their names, as reports and policies have them."""


def reader_of(content: Content) -> WeightsReader:
    """The reader of a file's format, which content tells.

    Raises:
        NotEvaluable: it is of none.
    """
    for reader in READERS:
        found = reader.of(content)
        if found is not None:
            return found
    raise NotEvaluable(
        f"{content.path} is of no known model format, whatever its extension says; give safetensors, PyTorch or ONNX"
    )

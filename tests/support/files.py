"""Files that nobody should trust."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path


class TouchesAFile:
    """Unpickling this would make a file; that no test ever finds one shows that nothing was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def hostile_pickle(folder: Path, protocol: int = 2) -> Path:
    path = folder / f"hostile-{protocol}.pt"
    path.write_bytes(pickle.dumps(TouchesAFile(folder / "was-run"), protocol=protocol))
    return path


def hostile_zip(folder: Path) -> Path:
    """A file in the layout of torch.save whose pickle runs code."""
    path = folder / "hostile.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(TouchesAFile(folder / "was-run"), protocol=2))
        archive.writestr("archive/version", "3\n")
    return path


def safetensors_bytes(header: dict[str, object] | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def one_tensor(offsets: tuple[int, int] = (0, 16)) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [4], "data_offsets": list(offsets)}}


def pickled_array() -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()

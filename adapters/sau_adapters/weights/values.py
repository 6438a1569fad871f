"""Values in weights that are no ordinary numbers, NaN and infinities: counted by their bits, a block at a time.

Needs no torch, and no library that knows the number formats of files: bfloat16 and the 8-bit ones are bits too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sau_adapters.files import BLOCK
from sau_cli.inspection.file_facts import NonFinite

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberFormat:
    """Where a floating-point number has its exponent and its fraction.

    Attributes:
        bits: numpy's whole numbers of the same size.
        exponent, fraction: masks. All bits of the exponent set: infinite without a fraction, NaN with one.
        infinities: whether it has such; the 8-bit format without them has NaN where all bits are set.
    """

    bits: str
    exponent: int
    fraction: int
    infinities: bool = True


_FORMATS = {
    "F64": NumberFormat(bits="<u8", exponent=0x7FF0_0000_0000_0000, fraction=0x000F_FFFF_FFFF_FFFF),
    "F32": NumberFormat(bits="<u4", exponent=0x7F80_0000, fraction=0x007F_FFFF),
    "F16": NumberFormat(bits="<u2", exponent=0x7C00, fraction=0x03FF),
    "BF16": NumberFormat(bits="<u2", exponent=0x7F80, fraction=0x007F),
    "F8_E5M2": NumberFormat(bits="u1", exponent=0x7C, fraction=0x03),
    "F8_E4M3": NumberFormat(bits="u1", exponent=0x7F, fraction=0, infinities=False),
}
_NAMES = {
    "float64": "F64",
    "double": "F64",
    "complex128": "F64",
    "float32": "F32",
    "float": "F32",
    "complex64": "F32",
    "c64": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e5m2": "F8_E5M2",
    "float8e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8e4m3fn": "F8_E4M3",
}
"""What PyTorch and ONNX call them, in small letters; a complex number is two."""


def number_format(dtype: str) -> NumberFormat | None:
    """The format of a dtype, as safetensors, PyTorch or ONNX name it; None for one that has no such values."""
    return _FORMATS.get(_NAMES.get(dtype.lower(), dtype))


def non_finite(
    name: str,
    blocks: Iterable[bytes | memoryview | np.ndarray],
    form: NumberFormat,
    *,
    elements: int,
    mask: bool = False,
) -> NonFinite | None:
    """What a tensor holds that is no ordinary number; None where there is nothing to tell.

    Infinities are told but where models have them on purpose: a single number (the end of a range), and minus infinity
    alone in a mask of attention.

    Args:
        blocks: the tensor's bytes, each block whole numbers.
        mask: it may be a mask, whatever its name.
    """
    import numpy as np

    nan = above = below = 0
    sign = ~(form.exponent | form.fraction)
    for block in blocks:
        numbers = np.frombuffer(block, dtype=form.bits)
        odd = numbers[(numbers & numbers.dtype.type(form.exponent)) == form.exponent]
        if not len(odd):
            continue
        infinite = odd[(odd & odd.dtype.type(form.fraction)) == 0] if form.infinities else odd[:0]
        nan += len(odd) - len(infinite)
        negative = int(np.count_nonzero(infinite & infinite.dtype.type(sign & np.iinfo(infinite.dtype).max)))
        above, below = above + len(infinite) - negative, below + negative
    masks = mask or "mask" in name.lower()
    infinities = 0 if elements <= 1 or (masks and not above) else above + below
    return NonFinite(tensor=name, nan=nan, infinite=infinities) if nan or infinities else None


def in_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The bytes of an array, (N,) uint8, block by block, without a copy."""
    for start in range(0, len(array), BLOCK):
        yield array[start : start + BLOCK]

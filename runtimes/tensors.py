"""Datatypes and tensor specifications: the ground that wire, registry and execution share.

Datatype names are those of the Open Inference Protocol. BF16 has no numpy dtype: its arrays are uint16 bit
patterns, here and everywhere else. BYTES arrays are object arrays of `bytes`.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

DYNAMIC: Final = -1
"""A dimension whose size each request chooses."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type.

    Attributes:
        name: Open Inference Protocol name.
        dtype: little-endian numpy dtype of our arrays (uint16 bits for BF16, object for BYTES).
        itemsize: bytes per element in the binary representation; 0 for BYTES (length-prefixed).
        kind: "float", "int", "uint", "bool" or "bytes".
        onnx: ONNX Runtime's name of the tensor type.
    """

    name: str
    dtype: np.dtype[np.generic]
    itemsize: int
    kind: str
    onnx: str


def _table() -> dict[str, Datatype]:
    rows = [
        ("BOOL", "bool", 1, "bool", "bool"),
        ("UINT8", "u1", 1, "uint", "uint8"),
        ("UINT16", "<u2", 2, "uint", "uint16"),
        ("UINT32", "<u4", 4, "uint", "uint32"),
        ("UINT64", "<u8", 8, "uint", "uint64"),
        ("INT8", "i1", 1, "int", "int8"),
        ("INT16", "<i2", 2, "int", "int16"),
        ("INT32", "<i4", 4, "int", "int32"),
        ("INT64", "<i8", 8, "int", "int64"),
        ("FP16", "<f2", 2, "float", "float16"),
        ("BF16", "<u2", 2, "float", "bfloat16"),
        ("FP32", "<f4", 4, "float", "float"),
        ("FP64", "<f8", 8, "float", "double"),
        ("BYTES", "O", 0, "bytes", "string"),
    ]
    return {
        name: Datatype(name, np.dtype(dtype), itemsize, kind, f"tensor({onnx})")
        for name, dtype, itemsize, kind, onnx in rows
    }


DATATYPES: Final[dict[str, Datatype]] = _table()
BY_ONNX: Final[dict[str, Datatype]] = {datatype.onnx: datatype for datatype in DATATYPES.values()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of one input or output of a model.

    Attributes:
        shape: sizes, `DYNAMIC` where the request chooses; () for a scalar.
        optional: an input that may be left out because the graph has an initialiser for it.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        batched: dim 0 of every input and output is the row dimension, so requests may be merged.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool


def bf16_from_f32(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16 bit patterns, to nearest even; NaN stays NaN.

    Shapes: any -> the same. Source: IEEE 754 round-half-even on the upper 16 bits.
    """
    bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype(np.uint16)


def f32_from_bf16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widen bfloat16 bit patterns to float32, exactly.

    Shapes: any -> the same.
    """
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)

"""Signatures and rows for tests of counting, references and the engine."""

from typing import Any

import numpy as np

from gateway.monitor.fit import Choices, Fitted, Rows, fit
from runtimes.tensors import DATATYPES, DYNAMIC, Signature, TensorSpec

DIGEST = "ab" * 32


def spec(name: str, datatype: str = "FP32", *shape: int) -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], (DYNAMIC, *shape))


def signature(*inputs: TensorSpec, output: TensorSpec | None = None) -> Signature:
    return Signature(inputs, (output or spec("score", "FP32", 1),), batched=True)


def fitted(columns: dict[str, Any], scores: Any = None, labels: Any = None, **choices: Any) -> Fitted:
    """A reference of one input per column; its datatype is that of the array."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    kinds = {"f": "FP32", "O": "BYTES", "i": "INT64", "b": "BOOL"}
    inputs = [spec(name, kinds[array.dtype.kind]) for name, array in arrays.items()]
    typed = [array.astype(one.datatype.dtype) for one, array in zip(inputs, arrays.values(), strict=True)]
    outputs = [None] if scores is None else [np.asarray(scores, np.float32).reshape(-1, 1)]
    groups = choices.pop("indices", None)
    rows = Rows(typed, outputs, groups, None if labels is None else np.asarray(labels, np.float64))
    return fit(signature(*inputs), DIGEST, rows, Choices(**choices))


def texts(values: Any) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = [str(value).encode() for value in values]
    return found

"""One loaded ONNX graph: the only importer of onnxruntime.

It must never decide when or what to run; it turns arrays into arrays and ONNX Runtime's exceptions into ours.
"""

import ctypes
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from runtimes.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    LoadFailed,
    ModelRejectedInput,
    OutOfMemory,
    ServingError,
)
from runtimes.tensors import BY_ONNX, DYNAMIC, Array, Signature, TensorSpec

_BFLOAT16: Final = 16
"""Number of bfloat16 in onnx.TensorProto.DataType."""

_SOURCE_PLACE: Final = re.compile(r"(^.*\)\s)|(\b\w+\.(cc|h):\d+ \w+ )")

_construction = threading.Lock()
"""Sessions are built one at a time: initialisation is not safe in parallel (microsoft/onnxruntime#27089)."""


class RunControl:
    """Lets another thread end the executions that carry it.

    ONNX Runtime looks at the flag between graph nodes only, and it sticks: after `terminate` take a new one.
    """

    __slots__ = ("options",)

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self.options.log_severity_level = 4

    def terminate(self) -> None:
        """Make every execution under this control fail with DeadlineExceeded at its next node."""
        self.options.terminate = True

    @property
    def terminated(self) -> bool:
        """Whether `terminate` was called."""
        return bool(self.options.terminate)


class OnnxSession:
    """A graph with its weights, ready to run from any thread.

    Args:
        path: model file; external data is looked for beside it.
        intra_op_threads: threads of one execution, the calling one included.

    Raises:
        LoadFailed: stage "parse" when the file is no model, "session" when it cannot be prepared, "check"
            when inputs or outputs are of a kind that is not served.
    """

    def __init__(self, path: str | os.PathLike[str], *, intra_op_threads: int = 1) -> None:
        ort.disable_telemetry_events()
        # With this set a model file could switch profiling on and write into our directory.
        os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
        with _construction:
            try:
                self._session = ort.InferenceSession(
                    os.fspath(path),
                    _options(intra_op_threads),
                    providers=["CPUExecutionProvider"],
                    enable_fallback=0,
                )
            except Exception as error:
                raise LoadFailed(_first_line(error), stage=_load_stage(error)) from error
        # Without the wrapper's checks of names, which the signature has made already: 3 us of each execution.
        self._run = self._session._sess.run
        self.signature = _signature(self._session)
        self._input_names = [spec.name for spec in self.signature.inputs]
        self._output_names = [spec.name for spec in self.signature.outputs]
        used = {spec.datatype.name for spec in (*self.signature.inputs, *self.signature.outputs)}
        self._strings = "BYTES" in used
        self._bf16 = "BF16" in used

    def run(self, inputs: Sequence[Array | None], control: RunControl) -> list[Array]:
        """Execute once.

        Shapes: one array per input of the signature, in its order; None leaves an optional input out.

        Raises:
            InvalidInput: BYTES that are not UTF-8 (ONNX strings are).
            ModelRejectedInput: the graph refused the values.
            DeadlineExceeded: `control` was terminated.
            OutOfMemory, ExecutionFailed
        """
        if len(inputs) == 1 and inputs[0] is not None:
            feeds = {self._input_names[0]: inputs[0]}
        else:
            named = zip(self._input_names, inputs, strict=True)
            feeds = {name: array for name, array in named if array is not None}
        try:
            if self._bf16:
                return self._run_values(feeds, control)
            if self._strings:
                feeds = {name: _to_str(name, a) if a.dtype == object else a for name, a in feeds.items()}
            outputs: list[Array] = self._run(self._output_names, feeds, control.options)
        except ServingError:
            raise
        except Exception as error:
            raise run_error(error) from error
        return [_to_bytes(out) for out in outputs] if self._strings else outputs

    def _run_values(self, feeds: dict[str, Array], control: RunControl) -> list[Array]:
        """Run through OrtValues, the only road on which BF16 travels (numpy has no such dtype)."""
        kinds = {spec.name: spec.datatype.name for spec in self.signature.inputs}
        values = {name: _to_value(name, array, kinds[name]) for name, array in feeds.items()}
        outputs = self._session.run_with_ort_values(self._output_names, values, control.options)
        return [_from_value(value) for value in outputs]


def run_error(error: Exception) -> ServingError:
    """Name the error behind an exception of ONNX Runtime's run; the text is cut to its first line."""
    text = _first_line(error)
    if "terminate flag" in str(error):
        return DeadlineExceeded("the execution was ended because it ran too long")
    if "alloc" in str(error).lower():
        return OutOfMemory("the execution needed more memory than there is")
    if type(error).__name__ in ("InvalidArgument", "Fail", "RuntimeException"):
        return ModelRejectedInput(f"the model refused the input: {text}")
    return ExecutionFailed(f"the execution failed: {text}")


def _options(intra_op_threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A spinning pool takes the core from the loop that should be parsing the next requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena keeps the largest batch ever seen (measured: 247 MB against 56 MB for one 61 MB input).
    options.enable_cpu_mem_arena = False
    return options


def _signature(session: Any) -> Signature:
    inputs = tuple(_spec(node, "input") for node in session.get_inputs())
    required = inputs
    inputs += tuple(
        replace(_spec(node, "input"), optional=True)
        for node in session.get_overridable_initializers()
        if node.type in BY_ONNX
    )
    outputs = tuple(_spec(node, "output") for node in session.get_outputs())
    if not outputs:
        raise LoadFailed("the model has no outputs", stage="check")
    names = [spec.name for spec in inputs]
    if len(set(names)) != len(names):
        raise LoadFailed("two inputs carry the same name", stage="check")
    return Signature(inputs, outputs, _is_batched(session, required, outputs))


def _spec(node: Any, role: str) -> TensorSpec:
    datatype = BY_ONNX.get(node.type)
    if datatype is None:
        hint = ""
        if node.type.startswith("seq(map("):
            hint = "; a ZipMap: export the classifier with zipmap disabled, so that it gives a tensor"
        elif node.type.startswith("seq("):
            hint = "; a sequence: let the graph join it to one tensor (ConcatFromSequence)"
        raise LoadFailed(
            f"{role} {node.name!r} is of type {node.type}, and only tensors are served{hint}", stage="check"
        )
    shape = tuple(dim if isinstance(dim, int) else DYNAMIC for dim in node.shape or ())
    return TensorSpec(node.name, datatype, shape)


def _is_batched(session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Every tensor starts with a dynamic dimension, and all inputs with the same named one.

    Optional inputs do not count: what they replace holds for all rows of a request.
    """
    specs = (*inputs, *outputs)
    if not inputs or any(not spec.shape or spec.shape[0] != DYNAMIC for spec in specs):
        return False
    symbols = {node.shape[0] for node in session.get_inputs()}
    return len(symbols) == 1 or None in symbols


def _load_stage(error: Exception) -> str:
    return "parse" if type(error).__name__ in ("InvalidProtobuf", "NoSuchFile", "NoModel") else "session"


def _first_line(error: Exception) -> str:
    """The sentence in ONNX Runtime's text: no status, function or source path, at most 300 characters."""
    line = next((part for part in str(error).splitlines() if part.strip()), type(error).__name__)
    line = line.rsplit("Status Message: ", 1)[-1].rsplit(" : ", 1)[-1]
    line = _SOURCE_PLACE.sub("", line)
    return " ".join(word for word in line.split() if "/" not in word)[:300]


def _to_str(name: str, array: Array) -> Array:
    # ONNX Runtime would store repr(b'...') for bytes, so the text is decoded here.
    try:
        flat = [item.decode() for item in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input {name!r}: ONNX strings are UTF-8, and an element is not") from error
    text = np.empty(len(flat), dtype=object)
    text[:] = flat
    return text.reshape(array.shape)


def _to_bytes(array: Array) -> Array:
    if array.dtype.kind not in "OUS":
        return array
    flat = np.empty(array.size, dtype=object)
    flat[:] = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
    return flat.reshape(array.shape)


def _to_value(name: str, array: Array, datatype: str) -> Any:
    if datatype == "BF16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(_to_str(name, array) if array.dtype == object else array)


def _from_value(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return _to_bytes(value.numpy())
    shape = value.shape()
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.empty(shape, dtype="<u2")
    memory = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return np.ctypeslib.as_array(memory).copy().reshape(shape)

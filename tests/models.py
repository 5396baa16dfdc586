"""Small ONNX models for tests, built with the onnx package: each shows one thing."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

Shape = Sequence[int | str | None]
Value = tuple[str, str, Shape]


def build(
    nodes: list, inputs: list[Value], outputs: list[Value], weights: dict[str, np.ndarray] | None = None
) -> bytes:
    """A serialised model; values are (name, datatype, shape)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, ONNX_TYPES[datatype], list(shape)) for name, datatype, shape in inputs],
        [helper.make_tensor_value_info(name, ONNX_TYPES[datatype], list(shape)) for name, datatype, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def identity(datatype: str = "FP32", shape: Shape = ("N", 2)) -> bytes:
    """y = x."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return build([node], [("x", datatype, shape)], [("y", datatype, shape)])


def affine(scale: float = 2.0, shift: float = 0.0, width: int = 2) -> bytes:
    """y = scale x + shift, FP32 rows of `width`; two of them with different numbers tell versions apart."""
    nodes = [helper.make_node("Mul", ["x", "scale"], ["h"]), helper.make_node("Add", ["h", "shift"], ["y"])]
    weights = {"scale": np.float32([scale]), "shift": np.float32([shift])}
    return build(nodes, [("x", "FP32", ("N", width))], [("y", "FP32", ("N", width))], weights)


def mlp(sizes: Sequence[int] = (24, 32, 1), seed: int = 0) -> bytes:
    """Dense layers with ReLU between them."""
    rng = np.random.default_rng(seed)
    nodes, weights, current = [], {}, "x"
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        weights[f"w{i}"] = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights[f"b{i}"] = rng.standard_normal(columns).astype(np.float32)
        last = i == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [current, f"w{i}", f"b{i}"], ["y" if last else f"h{i}"]))
        current = f"h{i}"
        if not last:
            nodes.append(helper.make_node("Relu", [current], [f"r{i}"]))
            current = f"r{i}"
    return build(nodes, [("x", "FP32", ("N", sizes[0]))], [("y", "FP32", ("N", sizes[-1]))], weights)


def add_and_sub() -> bytes:
    """Two inputs, two outputs: total = a + b, difference = a - b, INT32."""
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape = ("N", 4)
    return build(
        nodes,
        [("a", "INT32", shape), ("b", "INT32", shape)],
        [("total", "INT32", shape), ("difference", "INT32", shape)],
    )


def dynamic_width() -> bytes:
    """y = 2 x with two dynamic dimensions."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return build([node], [("x", "FP32", ("N", "M"))], [("y", "FP32", ("N", "M"))])


def outer() -> bytes:
    """y = the sum of all products of two values of a row: memory grows with the square of its length."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "last"], ["a"]),
        helper.make_node("Unsqueeze", ["x", "middle"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["ab"]),
        helper.make_node("ReduceSum", ["ab", "both"], ["y"], keepdims=0),
    ]
    weights = {"last": np.int64([2]), "middle": np.int64([1]), "both": np.int64([1, 2])}
    return build(nodes, [("x", "FP32", ("N", "L"))], [("y", "FP32", ("N",))], weights)


def scalar() -> bytes:
    """y = x + x without any dimension."""
    return build([helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", ())], [("y", "FP32", ())])


def fixed_batch(rows: int = 3) -> bytes:
    """y = 2 x whose first dimension is fixed."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return build([node], [("x", "FP32", (rows, 2))], [("y", "FP32", (rows, 2))])


def centred() -> bytes:
    """y = x - mean of x over the rows: the answer for a row depends on its batch mates."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    return build(nodes, [("x", "FP32", ("N", 2))], [("y", "FP32", ("N", 2))])


def lookup(size: int = 4) -> bytes:
    """y = table[x]: an index out of range is refused by ONNX Runtime, for the whole batch."""
    table = {"table": np.arange(size, dtype=np.float32) * 10}
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    return build([node], [("x", "INT64", ("N",))], [("y", "FP32", ("N",))], table)


def divide() -> bytes:
    """y = a / b, INT64: division by zero fails."""
    node = helper.make_node("Div", ["a", "b"], ["y"])
    return build([node], [("a", "INT64", ("N",)), ("b", "INT64", ("N",))], [("y", "INT64", ("N",))])


def logarithm() -> bytes:
    """y = log x: 0 gives -Infinity, a negative number NaN."""
    node = helper.make_node("Log", ["x"], ["y"])
    return build([node], [("x", "FP32", ("N", 1))], [("y", "FP32", ("N", 1))])


def endless() -> bytes:
    """Adds 1 `trips` times in a Loop: a large number in the input never ends."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_on"]),
            helper.make_node("Add", ["value", "one"], ["value_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_on", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "yes", "start"], ["y"], body=body)]
    weights = {"yes": np.array(True), "start": np.float32([0]), "one": np.float32([1])}
    return build(nodes, [("trips", "INT64", ())], [("y", "FP32", (1,))], weights)


def allocate() -> bytes:
    """Zeros of the shape that the input says."""
    node = helper.make_node("ConstantOfShape", ["shape"], ["y"])
    return build([node], [("shape", "INT64", (2,))], [("y", "FP32", ("A", "B"))])


def write(repository: Path, name: str, model: bytes, version: int = 1, config: str = "") -> Path:
    """Put a version into a model repository; give back the model file."""
    directory = repository / name / str(version)
    directory.mkdir(parents=True, exist_ok=True)
    if config:
        (repository / name / "model.yaml").write_text(config)
    temporary = directory / ".model.onnx.part"
    temporary.write_bytes(model)
    return temporary.rename(directory / "model.onnx")


def slow(width: int = 65536, layers: int = 100) -> bytes:
    """y = a sum of sines of x, one row at a time worth tens of milliseconds, whatever the values are."""
    nodes, current = [helper.make_node("Mul", ["x", "steps"], ["h"])], "h"
    for i in range(layers):
        nodes.append(helper.make_node("Sin", [current], [f"h{i}"]))
        current = f"h{i}"
    nodes.append(helper.make_node("ReduceSum", [current, "axes"], ["y"], keepdims=1))
    weights = {"steps": np.linspace(0, 1, width, dtype=np.float32)[None, :], "axes": np.int64([1])}
    return build(nodes, [("x", "FP32", ("N", 1))], [("y", "FP32", ("N", 1))], weights)


def scaled_by_default(scale: float = 3.0) -> bytes:
    """y = x * scale, where the graph has a value for `scale` that a request may replace: an optional input."""
    node = helper.make_node("Mul", ["x", "scale"], ["y"])
    inputs: list[Value] = [("x", "FP32", ("N", 2)), ("scale", "FP32", (1,))]
    return build([node], inputs, [("y", "FP32", ("N", 2))], {"scale": np.float32([scale])})


def slow_centred(width: int = 65536, layers: int = 200) -> bytes:
    """y = x minus a number that takes tens of milliseconds and depends on all rows, however many they are."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["mean", "steps"], ["h"]),
    ]
    current = "h"
    for i in range(layers):
        nodes.append(helper.make_node("Sin", [current], [f"h{i}"]))
        current = f"h{i}"
    nodes.append(helper.make_node("ReduceSum", [current, "axes"], ["sum"], keepdims=1))
    nodes.append(helper.make_node("Sub", ["x", "sum"], ["y"]))
    weights = {"steps": np.linspace(0, 1, width, dtype=np.float32)[None, :], "axes": np.int64([1])}
    return build(nodes, [("x", "FP32", ("N", 1))], [("y", "FP32", ("N", 1))], weights)


COLOURS = ("red", "grün", "青")


def colours() -> bytes:
    """code = number of a colour (-1 unknown), echo = its name again: strings in and strings out."""
    names, numbers = list(COLOURS), list(range(len(COLOURS)))
    nodes = [
        helper.make_node(
            "LabelEncoder", ["name"], ["code"], domain="ai.onnx.ml",
            keys_strings=names, values_int64s=numbers, default_int64=-1,
        ),
        helper.make_node(
            "LabelEncoder", ["code"], ["echo"], domain="ai.onnx.ml",
            keys_int64s=numbers, values_strings=names, default_string="?",
        ),
    ]  # fmt: skip
    return _with_ml(nodes, [("name", "BYTES", ("N", 1))], [("code", "INT64", ("N", 1)), ("echo", "BYTES", ("N", 1))])


def zip_map() -> bytes:
    """A classifier as scikit-learn's converter writes it by default: a list of maps from class to probability."""
    node = helper.make_node("ZipMap", ["x"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    row = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    output = helper.make_value_info("probabilities", helper.make_sequence_type_proto(row))
    return _with_ml([node], [("x", "FP32", ("N", 2))], [], output)


def sequence() -> bytes:
    """The columns of x as a sequence of tensors."""
    node = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1)
    row = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 1])
    output = helper.make_value_info("parts", helper.make_sequence_type_proto(row))
    return _with_ml([node], [("x", "FP32", ("N", 2))], [], output)


def _with_ml(nodes: list, inputs: list[Value], outputs: list[Value], *further_outputs: object) -> bytes:
    """A model that may use the operators of ai.onnx.ml and give other things than tensors."""
    described = [helper.make_tensor_value_info(name, ONNX_TYPES[kind], list(shape)) for name, kind, shape in outputs]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, ONNX_TYPES[kind], list(shape)) for name, kind, shape in inputs],
        [*described, *further_outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

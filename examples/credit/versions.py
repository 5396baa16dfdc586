"""Two versions of the credit model that should not become stable: one errs late, one is slow.

Both give the same answers as version 2 where they answer. What is wrong with them is the kind of thing that tests on
old data do not find.
"""

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.credit.features import FEATURE_NAMES, Floats

INPUT: Final = "features"
OUTPUT: Final = "probability_of_default"
BRACKETS: Final = 25
"""Version 3 looks up a bracket of 1,000 DM per loan, and its table ends here: larger loans fail."""
PASSES: Final = 5000
"""Version 4 runs its network so many times in a loop and takes the mean: some fifteen milliseconds."""
OPSET: Final = 17
IR_VERSION: Final = 8

Layers = list[tuple[Floats, Floats]]
"""Weights [in, out] and bias [out] of each."""


def _model(name: str, nodes: list[Any], weights: list[Any]) -> bytes:
    """Serialised and checked; [rows, 24] to [rows, 1]."""
    columns = len(FEATURE_NAMES)
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", 1])],
        weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="examples.credit")
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _network(layers: Layers, entering: str, leaving: str) -> tuple[list[Any], list[Any]]:
    """Nodes and weights of dense layers with ReLU between them and a sigmoid behind."""
    nodes, weights, value = [], [], entering
    for number, (matrix, bias) in enumerate(layers, start=1):
        final = number == len(layers)
        names, after = [f"weights_{number}", f"bias_{number}"], leaving if final else f"hidden_{number}"
        nodes.append(helper.make_node("Gemm", [value, *names], [f"sum_{number}"]))
        nodes.append(helper.make_node("Sigmoid" if final else "Relu", [f"sum_{number}"], [after]))
        weights += [numpy_helper.from_array(matrix, names[0]), numpy_helper.from_array(bias, names[1])]
        value = after
    return nodes, weights


def errs_late(layers: Layers) -> bytes:
    """Version 3: adds a surcharge per bracket of the amount, 0 in all of them, from a table that is too short."""
    nodes, weights = _network(layers, INPUT, "score")
    column = FEATURE_NAMES.index("credit_amount_dm")
    weights += [
        numpy_helper.from_array(np.array([column], np.int64), "amount_column"),
        numpy_helper.from_array(np.array([1000], np.float32), "bracket_dm"),
        numpy_helper.from_array(np.zeros(BRACKETS, np.float32), "surcharges"),
    ]
    nodes += [
        helper.make_node("Gather", [INPUT, "amount_column"], ["amount"], axis=1),
        helper.make_node("Div", ["amount", "bracket_dm"], ["share"]),
        helper.make_node("Cast", ["share"], ["bracket"], to=TensorProto.INT64),
        helper.make_node("Gather", ["surcharges", "bracket"], ["surcharge"], axis=0),
        helper.make_node("Add", ["score", "surcharge"], [OUTPUT]),
    ]
    return _model("credit_scoring_brackets", nodes, weights)


def slow(layers: Layers) -> bytes:
    """Version 4: the mean of `PASSES` equal passes."""
    inner, weights = _network(layers, INPUT, "score")
    body = helper.make_graph(
        [
            *inner,
            helper.make_node("Add", ["before", "score"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
        ],
        "one_pass",
        [
            helper.make_tensor_value_info("pass", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["rows", 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["rows", 1]),
        ],
    )
    column = numpy_helper.from_array(np.array([0], np.int64), "first_column")
    weights += [
        column,
        numpy_helper.from_array(np.array(PASSES, np.int64), "passes"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.zeros((), np.float32), "nothing"),
        numpy_helper.from_array(np.array(PASSES, np.float32), "divisor"),
    ]
    nodes = [
        helper.make_node("Gather", [INPUT, "first_column"], ["one_column"], axis=1),
        helper.make_node("Mul", ["one_column", "nothing"], ["zeros"]),
        helper.make_node("Loop", ["passes", "yes", "zeros"], ["total"], body=body),
        helper.make_node("Div", ["total", "divisor"], [OUTPUT]),
    ]
    return _model("credit_scoring_ensemble", nodes, weights)

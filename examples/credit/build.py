"""Write an ONNX model repository: `python -m examples.credit.build DIR`.

    credit-scoring/model.yaml, 1/model.onnx (logistic regression), 2/model.onnx (network 24-32-1)
    dense-512/1/model.onnx (512-1024-1024-10, random weights: something that takes a while)

A file that already has the right bytes is left alone, so that a running server sees no change.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from examples.credit import train
from examples.credit.features import FEATURE_NAMES, Floats, load

CREDIT: Final = "credit-scoring"
DENSE: Final = "dense-512"
INPUT: Final = "features"
CREDIT_OUTPUT: Final = "probability_of_default"
DENSE_OUTPUT: Final = "probabilities"
DENSE_SIZES: Final = (512, 1024, 1024, 10)
OPSET: Final = 17
IR_VERSION: Final = 8
RECIPES: Final = {1: ("logistic regression", train.LOGISTIC), 2: ("network 24-32-1", train.MLP)}

Report = Callable[[str], None]
DenseLayer = tuple[Floats, Floats]
"""Weights [in, out] and bias [out]."""


def dense_model(name: str, layers: Sequence[DenseLayer], last: str, output: str) -> bytes:
    """A serialised model: dense layers with ReLU between them and the operator `last` behind."""
    nodes, weights, value = [], [], INPUT
    for number, (matrix, bias) in enumerate(layers, start=1):
        final = number == len(layers)
        names, after = [f"weights_{number}", f"bias_{number}"], output if final else f"hidden_{number}"
        nodes.append(helper.make_node("Gemm", [value, *names], [f"sum_{number}"]))
        nodes.append(helper.make_node(last if final else "Relu", [f"sum_{number}"], [after]))
        weights += [numpy_helper.from_array(matrix, names[0]), numpy_helper.from_array(bias, names[1])]
        value = after
    graph = helper.make_graph(
        nodes, name, [_rows(INPUT, layers[0][0].shape[0])], [_rows(output, layers[-1][0].shape[1])], weights
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="examples.credit"
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _rows(name: str, width: int) -> Any:
    """An FP32 value [rows, width] whose number of rows is free."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])


def layers_of(network: train.Network) -> list[DenseLayer]:
    """The trained weights in float32."""
    return [(layer.weights.astype(np.float32), layer.bias.astype(np.float32)) for layer in network]


def credit_model(network: train.Network) -> bytes:
    """The trained network as ONNX, in float32."""
    return dense_model("credit_scoring", layers_of(network), "Sigmoid", CREDIT_OUTPUT)


def random_model(sizes: Sequence[int] = DENSE_SIZES, seed: int = train.SEED) -> bytes:
    """Dense layers with random weights and a softmax."""
    rng = np.random.default_rng(seed)
    layers = [
        (rng.standard_normal((fan_in, fan_out), np.float32) * np.float32((2 / fan_in) ** 0.5), np.zeros(fan_out, "f4"))
        for fan_in, fan_out in pairwise(sizes)
    ]
    return dense_model("dense", layers, "Softmax", DENSE_OUTPUT)


def model_yaml() -> str:
    """Settings of credit-scoring: all versions are served, two have an alias, the columns have names."""
    settings = {
        "version_policy": {"all": True},
        "aliases": {"stable": 1, "candidate": 2},
        "feature_names": {INPUT: list(FEATURE_NAMES)},
        # A run of microseconds is ended after 100 ms by default; a machine that others use may stand still for longer.
        "execution": {"watchdog_ms": 1000},
    }
    return yaml.safe_dump(settings, sort_keys=False)


def write(path: Path, content: bytes) -> None:
    """Put the file there in one step; not at all when it is there already."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".tidegate-{path.name}"
    staged.write_bytes(content)
    os.replace(staged, path)


def build(root: Path, report: Report = print) -> None:
    """Train and write everything below `root`."""
    credit = load()
    report(f"data: {len(credit.inputs)} loans, {len(FEATURE_NAMES)} features")
    write(root / CREDIT / "model.yaml", model_yaml().encode())
    for version, (title, recipe) in RECIPES.items():
        network, quality = train.train(credit, recipe)
        write(root / CREDIT / str(version) / "model.onnx", credit_model(network))
        report(train.summary(f"{CREDIT}:{version}, {title}", quality))
    content = random_model()
    write(root / DENSE / "1" / "model.onnx", content)
    report(f"{DENSE}:1, {'-'.join(map(str, DENSE_SIZES))} with random weights: {len(content) / 1e6:.1f} MB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the example's ONNX model repository.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    build(parser.parse_args().directory)


if __name__ == "__main__":
    main()

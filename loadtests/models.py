"""The two bench models and the requests for them. Same seed, same bytes, on every machine."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TINY_SIZES = (24, 32, 1)
MLP_SIZES = (512, 1024, 1024, 10)
SEED = 20240229
# Eight headers with content-length: what a plain HTTP client sends, and the user id that a policy would read.
# Binary requests carry a ninth, inference-header-content-length.
HEADERS = (
    ("user-agent", "loadtests/1.0"),
    ("accept", "*/*"),
    ("accept-encoding", "identity"),
    ("connection", "keep-alive"),
)
USERS = 256  # user ids in turn, so that nothing can be remembered from the request before


@dataclass(frozen=True)
class Payload:
    """What is posted: path, body and the headers that describe the body."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...]


def dense(sizes: Sequence[int], seed: int, *, sigmoid: bool = False) -> bytes:
    """A serialised model x [-1, sizes[0]] -> y [-1, sizes[-1]] of dense FP32 layers with Relu between them."""
    rng = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    layers = list(pairwise(sizes))
    for index, (wide, out) in enumerate(layers):
        matrix = (rng.standard_normal((wide, out)) / np.sqrt(wide)).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{index}"),
            numpy_helper.from_array(np.zeros(out, "f4"), f"b{index}"),
        ]
        last = index == len(layers) - 1
        after = ("Sigmoid" if sigmoid else None) if last else "Relu"
        made = "y" if last and after is None else f"h{index}"
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [made]))
        value = made
        if after is not None:
            value = "y" if last else f"a{index}"
            nodes.append(helper.make_node(after, [made], [value]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", sizes[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", sizes[-1]])
    graph = helper.make_graph(nodes, "bench", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny(seed: int = SEED) -> bytes:
    """24-32-1 with a sigmoid at the end, like a small credit score; another seed is another version."""
    return dense(TINY_SIZES, seed, sigmoid=True)


def mlp(seed: int = SEED) -> bytes:
    """512-1024-1024-10: enough arithmetic that batching pays."""
    return dense(MLP_SIZES, seed)


def put_version(repository: Path, model_name: str, version: int, model: bytes) -> Path:
    """Put `repository/model_name/version/model.onnx` there in one step: written aside, then renamed."""
    staged = stage_version(repository, model_name, version, model)
    return publish(staged, repository, model_name, version)


def stage_version(repository: Path, model_name: str, version: int, model: bytes) -> Path:
    """The version directory beside the repository, on the same file system, ready to be renamed into it."""
    staged = repository.with_name(f"{repository.name}.staged-{model_name}-{version}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    (staged / "model.onnx").write_bytes(model)
    return staged


def publish(staged: Path, repository: Path, model_name: str, version: int) -> Path:
    """Rename a staged version directory into the repository."""
    target = repository / model_name / str(version)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staged, target)
    return target


def row(width: int) -> list[float]:
    """One row of features, six decimals each, as a client would write them."""
    return [round(float(value), 6) for value in np.random.default_rng(SEED + width).standard_normal(width)]


def json_payload(model_name: str, width: int) -> Payload:
    """One row as JSON."""
    tensor = {"name": "x", "shape": [1, width], "datatype": "FP32", "data": row(width)}
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()
    return Payload(f"/v2/models/{model_name}/infer", body, (("content-type", "application/json"),))


def binary_payload(model_name: str, width: int) -> Payload:
    """One row as raw little-endian floats behind a JSON header; the answer is asked for in binary too."""
    raw = np.array(row(width), "<f4").tobytes()
    tensor = {"name": "x", "shape": [1, width], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    described = (
        ("content-type", "application/octet-stream"),
        ("inference-header-content-length", str(len(head))),
    )
    return Payload(f"/v2/models/{model_name}/infer", head + raw, described)


def http_request(payload: Payload, port: int, user: int) -> bytes:
    """The request as it goes over the wire; wrk and the paced client send the same bytes."""
    before, after = request_parts(payload, port)
    return before + b"%d" % user + after


def request_parts(payload: Payload, port: int) -> tuple[bytes, bytes]:
    """The request's bytes before and after the number of the user."""
    headers = (("host", f"127.0.0.1:{port}"), *HEADERS, *payload.headers, ("content-length", str(len(payload.body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    before = f"POST {payload.path} HTTP/1.1\r\n{lines}x-user-id: user-".encode()
    return before, b"\r\n\r\n" + payload.body

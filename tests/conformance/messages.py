"""Bytes of requests for the conformance tests."""

import json
from typing import Any

FAST = b"/v2/models/affine/infer"
SLOW = FAST + b"?x=1"
"""A query sends a request through the slow lane; nothing reads it."""

ROW = [1.0, 2.5]
GOOD = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": ROW}]}).encode()
RIGHT = b'"data":[2.0,5.0]'


def post(
    body: bytes = GOOD, *headers: bytes, path: bytes = FAST, version: bytes = b"1.1", method: bytes = b"POST"
) -> bytes:
    """A request with Host and Content-Length."""
    lines = [method + b" " + path + b" HTTP/" + version, b"host: test", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def bare(start: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A request exactly as given."""
    return b"\r\n".join([start, *headers]) + b"\r\n\r\n" + body


def get(path: bytes = b"/v2/models/affine", *headers: bytes, method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return bare(method + b" " + path + b" HTTP/1.1", b"host: test", *headers)


def chunked(*chunks: bytes, path: bytes = FAST, headers: tuple[bytes, ...] = (), end: bytes = b"0\r\n\r\n") -> bytes:
    """A request whose body comes in these chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    start = b"POST " + path + b" HTTP/1.1"
    return bare(start, b"host: test", b"transfer-encoding: chunked", *headers, body=body + end)


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    """An input with its data."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def document(*inputs: dict[str, Any], **more: Any) -> bytes:
    """The JSON body of an inference."""
    return json.dumps({"inputs": list(inputs), **more}).encode()


def binary(model: str, head: dict[str, Any], tail: bytes, *headers: bytes, query: bytes = b"") -> bytes:
    """An inference whose tensors follow the JSON."""
    text = json.dumps(head).encode()
    path = b"/v2/models/%b/infer%b" % (model.encode(), query)
    return post(text + tail, b"inference-header-content-length: %d" % len(text), *headers, path=path)

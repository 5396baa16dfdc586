"""Both lanes are one surface: each inference request, sent through either, gets the same answer to the byte.

A query sends a request through the slow lane. Compared are the status, the headers with their order and values, and
the body; only the date may differ.
"""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import models
from tests.conformance.messages import binary, document, post, tensor
from tests.conformance.raw import Answer, Raw
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
ID = b"x-request-id: the.same_one-1"
X = tensor("x", "FP32", [1, 2], [1.0, 2.5])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("lanes") / "models"
    made = [
        models.write(folder, "affine", models.affine(), config="aliases: {stable: 1}\n"),
        models.write(folder, "pair", models.add_and_sub()),
        models.write(folder, "lookup", models.lookup()),
        models.write(folder, "divide", models.divide()),
        models.write(folder, "logarithm", models.logarithm()),
        models.write(folder, "strict", models.logarithm(), config="finite: true\n"),
        models.write(folder, "text", models.identity("BYTES", ("N", 2))),
        models.write(folder, "half", models.identity("FP16", ("N", 2))),
        models.write(folder, "flags", models.identity("BOOL", ("N", 2))),
        models.write(folder, "wide", models.dynamic_width()),
        models.write(folder, "scalar", models.scalar()),
        models.write(folder, "fixed", models.fixed_batch()),
        models.write(folder, "endless", models.endless()),
    ]
    for file in made:
        os.utime(file, (1, 1))
    with serve(folder, "--workers", "1") as running:
        yield running


@dataclass(frozen=True)
class Same:
    """A request and the status that both lanes answer."""

    id: str
    status: int
    body: bytes
    model: str = "affine"
    headers: tuple[bytes, ...] = field(default=())

    def bytes(self, query: bytes) -> bytes:
        """The request, with this query."""
        return post(self.body, ID, *self.headers, path=b"/v2/models/" + self.model.encode() + b"/infer" + query)


def tensors(id: str, status: int, head: dict[str, Any], tail: bytes, model: str = "affine") -> Same:
    """A request with binary tensors."""
    text = json.dumps(head).encode()
    return Same(id, status, text + tail, model, (b"inference-header-content-length: %d" % len(text),))


def accepted() -> Iterator[Same]:
    yield Same("flat", 200, document(X))
    yield Same("nested", 200, document(tensor("x", "FP32", [2, 2], [[1, 2], [3, 4]])))
    yield Same("spaces", 200, b" " + document(X).replace(b",", b" ,\n") + b"\n")
    yield Same("id", 200, document(X, id="mine-\u00e4"))
    yield Same("outputs", 200, document(X, outputs=[{"name": "y"}]))
    yield Same("no-outputs", 200, document(X, outputs=[]))
    yield Same("binary-output", 200, document(X, outputs=[{"name": "y", "parameters": {"binary_data": True}}]))
    yield Same("binary-default", 200, document(X, parameters={"binary_data_output": True}))
    yield Same("classes", 200, document(X, outputs=[{"name": "y", "parameters": {"classification": 2}}]))
    yield Same("parameters", 200, document(X, parameters={"timeout": 5_000_000, "priority": 1, "mine": "x"}))
    yield Same("unknown-field", 200, document(X, nobody="reads it"))
    yield Same("rows", 200, document(tensor("x", "FP32", [100, 2], list(range(200)))))
    yield Same("many-rows", 200, document(tensor("x", "FP32", [5000, 2], [0.5] * 10_000)))
    yield Same("no-rows", 200, document(tensor("x", "FP32", [0, 2], [])))
    classes = [{"name": "y", "parameters": {"classification": 2}}]
    yield Same("no-rows-classes", 200, document(tensor("x", "FP32", [0, 2], []), outputs=classes))
    yield Same("nan", 200, document(X).replace(b"2.5", b"NaN"))
    yield Same("infinity", 200, document(X).replace(b"2.5", b"-Infinity"))
    yield Same("version", 200, document(X), "affine/versions/1")
    yield Same("alias", 200, document(X), "affine/versions/stable")
    a, b = tensor("a", "INT32", [1, 4], [1, 2, 3, 4]), tensor("b", "INT32", [1, 4], [4, 3, 2, 1])
    yield Same("two-inputs", 200, document(a, b), "pair")
    yield Same("two-inputs-turned", 200, document(b, a), "pair")
    yield Same("one-output", 200, document(a, b, outputs=[{"name": "difference"}]), "pair")
    yield Same("outputs-turned", 200, document(a, b, outputs=[{"name": "difference"}, {"name": "total"}]), "pair")
    mixed = [{"name": "total", "parameters": {"binary_data": True}}, {"name": "difference"}]
    yield Same("mixed-outputs", 200, document(a, b, outputs=mixed), "pair")
    yield Same("lookup", 200, document(tensor("x", "INT64", [2], [0, 3])), "lookup")
    yield Same("text", 200, document(tensor("x", "BYTES", [1, 2], ["a\u0000", "\u00e4\U0001f600"])), "text")
    yield Same("half", 200, document(tensor("x", "FP16", [1, 2], [0.1, 65504])), "half")
    yield Same("flags", 200, document(tensor("x", "BOOL", [1, 2], [True, False])), "flags")
    yield Same("wide", 200, document(tensor("x", "FP32", [2, 3], [1, 2, 3, 4, 5, 6])), "wide")
    yield Same("scalar", 200, document(tensor("x", "FP32", [], [1.5])), "scalar")
    yield Same("fixed", 200, document(tensor("x", "FP32", [3, 2], [1, 2, 3, 4, 5, 6])), "fixed")
    yield Same("not-finite", 200, document(tensor("x", "FP32", [2, 1], [0, -1])), "logarithm")
    yield Same("timeout", 200, document(X), headers=(b"x-request-timeout-ms: 5000",))
    yield Same("trace", 200, document(X), headers=(b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7-01",))
    yield Same("gzip-small", 200, document(X), headers=(b"accept-encoding: gzip",))
    large = document(tensor("x", "FP32", [5000, 2], [0.5] * 10_000))
    yield Same("gzip", 200, large, headers=(b"accept-encoding: gzip, deflate",))
    yield Same("deflate", 200, large, headers=(b"accept-encoding: gzip;q=0, deflate",))
    yield Same("gzip-trace", 200, large, headers=(b"accept-encoding: gzip", b"traceparent: 00-0af7-01"))
    yield Same("identity-and-gzip", 200, large, headers=(b"accept-encoding: identity", b"accept-encoding: gzip;q=0.5"))
    yield Same("close", 200, document(X), headers=(b"connection: close",))
    yield Same("proxy-connection", 200, document(X), headers=(b"proxy-connection: keep-alive",))
    yield Same("text-plain", 200, document(X), headers=(b"content-type: text/plain",))
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    yield tensors("binary", 200, {"inputs": [item]}, bytes(8))
    yield tensors("binary-both", 200, {"inputs": [item], "parameters": {"binary_data_output": True}}, bytes(8))
    yield tensors("binary-nan", 200, {"inputs": [item]}, bytes.fromhex("0000c07f0000807f"))
    yield tensors("json-with-length", 200, {"inputs": [X]}, b"")


def refused() -> Iterator[Same]:
    for id, body in {
        "empty": b"",
        "space": b" ",
        "no-json": b"{",
        "list": b"[]",
        "null": b"null",
        "utf-16": document(X).decode().encode("utf-16"),
        "not-utf-8": document(X).replace(b"FP32", b"\xff"),
        "twice": b'{"inputs":[],"inputs":[]}',
        "no-inputs": b"{}",
        "overflow": document(X).replace(b"2.5", b"1e999"),
        "overflow-integer": document(X).replace(b"2.5", str((1 << 1024) - 1).encode()),
        "overflow-32": document(X).replace(b"2.5", b"1e39"),
        "number-text": document(tensor("x", "FP32", [1, 2], ["1.5", 2])),
        "null-value": document(tensor("x", "FP32", [1, 2], [None, 2])),
        "bool-value": document(tensor("x", "FP32", [1, 2], [True, 2])),
        "wrong-name": document(tensor("z", "FP32", [1, 2], [1, 2])),
        "wrong-type": document(tensor("x", "FP64", [1, 2], [1, 2])),
        "wrong-shape": document(tensor("x", "FP32", [1, 3], [1, 2, 3])),
        "minus-shape": document(tensor("x", "FP32", [-1, 2], [1, 2])),
        "huge-shape": document(tensor("x", "FP32", [1 << 62, 2], [1, 2])),
        "too-few": document(tensor("x", "FP32", [2, 2], [1, 2])),
        "ragged": document(tensor("x", "FP32", [2, 2], [[1, 2], [3]])),
        "deep": b"[" * 2000,
        "timeout-text": document(X, parameters={"timeout": "x"}),
        "unknown-output": document(X, outputs=[{"name": "z"}]),
        "output-twice": document(X, outputs=[{"name": "y"}, {"name": "y"}]),
        "id-number": document(X, id=5),
        "shared-memory": document({**X, "parameters": {"shared_memory_region": "r"}}),
    }.items():
        yield Same(id, 400, body)
    yield Same("unknown-model", 404, document(X), "nobody")
    yield Same("near-model", 404, document(X), "affin")
    yield Same("unknown-version", 404, document(X), "affine/versions/7")
    yield Same("unknown-alias", 404, document(X), "affine/versions/canary")
    yield Same("rejected", 400, document(tensor("x", "INT64", [1], [9])), "lookup")
    one = tensor("a", "INT64", [1], [1])
    yield Same("divide", 400, document(one, tensor("b", "INT64", [1], [0])), "divide")
    yield Same("not-finite-strict", 500, document(tensor("x", "FP32", [1, 1], [0])), "strict")
    yield Same("bool-number", 400, document(tensor("x", "BOOL", [1, 2], [1, 0])), "flags")
    yield Same("surrogate", 400, document(tensor("x", "BYTES", [1, 2], ["\ud800", ""])), "text")
    yield Same("half-overflow", 400, document(tensor("x", "FP16", [1, 2], [70000, 0])), "half")
    yield Same("fixed-rows", 400, document(tensor("x", "FP32", [2, 2], [1, 2, 3, 4])), "fixed")
    yield Same("timeout-header", 400, document(X), headers=(b"x-request-timeout-ms: -1",))
    yield Same("timeout-twice", 400, document(X), headers=(b"x-request-timeout-ms: 0", b"x-request-timeout-ms: 100"))
    yield Same("trace-error", 400, b"{}", headers=(b"traceparent: 00-0af7-01",))
    yield Same("close-error", 400, b"{}", headers=(b"connection: close",))
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    yield tensors("binary-short", 400, {"inputs": [item]}, bytes(7))
    yield tensors("binary-long", 400, {"inputs": [item]}, bytes(9))
    yield tensors("binary-and-data", 400, {"inputs": [{**item, "data": [1, 2]}]}, bytes(8))
    yield Same("length-too-long", 400, document(X), headers=(b"inference-header-content-length: 9999",))
    yield Same("length-twice", 400, document(X), headers=(b"inference-header-content-length: 1",) * 2)
    trips = document(tensor("trips", "INT64", [], [1 << 62]), parameters={"timeout": 100_000})
    yield Same("deadline", 504, trips, "endless")


def exchange(tree: Tree, data: bytes) -> Answer:
    with Raw(tree.port) as raw:
        raw.send(data)
        answer = raw.answer()
        assert answer is not None
        return answer


def without_date(answer: Answer) -> list[tuple[str, str]]:
    """The headers, the date's value left out."""
    return [(name, "" if name == "date" else value) for name, value in answer.headers]


SAME = [*accepted(), *refused()]


@pytest.mark.parametrize("same", SAME, ids=lambda same: same.id)
def test_same_answer(tree: Tree, same: Same) -> None:
    fast, slow = exchange(tree, same.bytes(b"")), exchange(tree, same.bytes(b"?x=1"))
    assert fast.status == same.status, fast.body[:300]
    assert (slow.status, slow.body) == (fast.status, fast.body)
    assert without_date(slow) == without_date(fast)
    assert fast.header("x-request-id") == "the.same_one-1"


def test_the_lanes_are_two(tree: Tree) -> None:
    """Without this the test above could compare a lane with itself."""

    def counted() -> tuple[float, float]:
        return tree.counter("tidegate_fast_lane_total"), tree.counter("tidegate_slow_lane_total")

    before = counted()
    for _ in range(20):
        exchange(tree, Same("", 200, document(X)).bytes(b""))
    middle = counted()
    for _ in range(20):
        exchange(tree, Same("", 200, document(X)).bytes(b"?x=1"))
    after = counted()
    assert middle[0] - before[0] == 20
    assert after[0] == middle[0]
    assert after[1] - middle[1] >= 20


def test_a_compressed_request_is_the_same_request(tree: Tree) -> None:
    plain = post(document(X), ID)
    packed = post(gzip.compress(document(X)), ID, b"content-encoding: gzip")
    assert exchange(tree, plain).body == exchange(tree, packed).body
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    fast, slow = (exchange(tree, binary("affine", {"inputs": [item]}, bytes(8), ID, query=q)) for q in (b"", b"?a=b&c"))
    assert (fast.status, fast.body) == (200, slow.body)

"""Well-formed requests whose values are dangerous to run, against a real server.

Who sends them gets an error; who shares a batch with them, or the worker, gets right answers in time.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.conformance.messages import binary, document, post, tensor
from tests.conformance.raw import Answer, Raw
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
COMPANY = "batching: {max_queue_delay_us: 20000}\n"
"""Long enough for requests that are sent together to share an execution."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("dangerous") / "models"
    made = [
        models.write(folder, "affine", models.affine()),
        models.write(folder, "together", models.affine(), config=COMPANY),
        models.write(folder, "lookup", models.lookup(), config=COMPANY),
        models.write(folder, "divide", models.divide(), config=COMPANY),
        models.write(folder, "wide", models.dynamic_width(), config=COMPANY),
        models.write(folder, "outer", models.outer()),
        models.write(folder, "bounded", models.outer(), config="max_dims: {x: [4, 16]}\n"),
        models.write(folder, "allocate", models.allocate()),
        models.write(folder, "endless", models.endless()),
    ]
    for file in made:
        os.utime(file, (1, 1))
    with serve(folder, "--workers", "1") as running:
        yield running


@pytest.fixture(autouse=True)
def lives(tree: Tree) -> Iterator[None]:
    """After every test: alive, right, and the same worker."""
    yield
    assert tree.get("/v2/health/live")[0] == 200
    assert tree.infer("affine", [1, 2.5])["outputs"][0]["data"] == [2.0, 5.0]
    assert [worker["restarts"] for worker in tree.workers()] == [0]
    tree.until("nothing in flight", lambda: tree.workers()[0]["inflight"] == 0)


def infer(model: str, *inputs: dict[str, Any], headers: tuple[bytes, ...] = ()) -> bytes:
    """The bytes of an inference."""
    return post(document(*inputs), *headers, path=b"/v2/models/%b/infer" % model.encode())


def ask(tree: Tree, request: bytes) -> Answer:
    with Raw(tree.port) as raw:
        raw.send(request)
        answer = raw.answer()
        assert answer is not None
        return answer


def together(tree: Tree, requests: Sequence[bytes]) -> list[Answer]:
    """Each on a connection of its own, all sent before any answer is read."""
    raws = [Raw(tree.port) for _ in requests]
    try:
        for raw, request in zip(raws, requests, strict=True):
            raw.send(request)
        found = [raw.answer() for raw in raws]
    finally:
        for raw in raws:
            raw.socket.close()
    return [answer for answer in found if answer is not None]


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["code"]


def values(answer: Answer) -> list[float]:
    assert answer.status == 200, answer.body
    found: list[float] = json.loads(answer.body)["outputs"][0]["data"]
    return found


def executions(tree: Tree, model: str) -> float:
    return tree.counter("tidegate_executions_total", model=model)


def ones(model: str, *shape: int, query: bytes = b"") -> bytes:
    item = tensor("x", "FP32", list(shape), [1] * int(np.prod(shape)))
    return post(document(item), path=b"/v2/models/%b/infer%b" % (model.encode(), query))


def test_d06_a_length_whose_square_needs_more_than_the_memory_is_refused(tree: Tree) -> None:
    before = executions(tree, "outer")
    answer = ask(tree, ones("outer", 1, 100_000))
    assert code(answer) == (400, "invalid_input")
    assert "in dimension 1, got shape [1, 100000]" in json.loads(answer.body)["error"]
    assert executions(tree, "outer") == before
    assert values(ask(tree, ones("outer", 1, 100))) == [10_000]


@pytest.mark.parametrize("query", [b"", b"?x=1"])
def test_d06_declared_sizes_hold_in_every_form(tree: Tree, query: bytes) -> None:
    assert values(ask(tree, ones("bounded", 4, 16, query=query))) == [256] * 4
    head = {"inputs": [{"name": "x", "shape": [1, 17], "datatype": "FP32", "parameters": {"binary_data_size": 68}}]}
    raw = bytes(4 * 17)
    too_large = {
        "a size of at most 16 in dimension 1, got shape [1, 17]": [
            ones("bounded", 1, 17, query=query),
            binary("bounded", head, raw, query=query),
            post(raw, b"inference-header-content-length: 0", path=b"/v2/models/bounded/infer" + query),
        ],
        "a size of at most 4 in dimension 0, got shape [5, 16]": [ones("bounded", 5, 16, query=query)],
    }
    for told, requests in too_large.items():
        for answer in [ask(tree, request) for request in requests for _ in range(3)]:
            assert code(answer) == (400, "invalid_input")
            assert told in json.loads(answer.body)["error"]


@pytest.mark.parametrize("at", [0, 7, 15])
@pytest.mark.parametrize("bad", [4, -5, 1 << 62])
def test_d01_an_index_out_of_range_fails_only_its_request(tree: Tree, at: int, bad: int) -> None:
    before = executions(tree, "lookup")
    rows = [[bad if i == at else i % 4] for i in range(16)]
    answers = together(tree, [infer("lookup", tensor("x", "INT64", [1], row)) for row in rows])
    assert code(answers.pop(at)) == (400, "model_rejected_input")
    assert [values(answer) for answer in answers] == [[10.0 * (i % 4)] for i in range(16) if i != at]
    # They did share a batch that failed: fewer runs than requests is only possible when rows were merged.
    assert executions(tree, "lookup") - before < 16


def test_d01_several_bad_rows_among_good_ones(tree: Tree) -> None:
    rows = [[9] if i % 5 == 0 else [i % 4] for i in range(40)]
    answers = together(tree, [infer("lookup", tensor("x", "INT64", [1], row)) for row in rows])
    for i, answer in enumerate(answers):
        if i % 5 == 0:
            assert code(answer) == (400, "model_rejected_input")
        else:
            assert values(answer) == [10.0 * (i % 4)]


def test_d02_division_by_zero_fails_only_its_request(tree: Tree) -> None:
    divisors = [1, 2, 0, 5, -1]
    requests = [
        infer("divide", tensor("a", "INT64", [1], [10]), tensor("b", "INT64", [1], [divisor])) for divisor in divisors
    ]
    answers = together(tree, requests)
    assert code(answers.pop(2)) == (400, "model_rejected_input")
    assert [values(answer) for answer in answers] == [[10], [5], [2], [-10]]


def test_d02_the_smallest_number_by_minus_one_costs_at_most_a_restart(tmp_path: Path) -> None:
    """The other division that traps on x86. ONNX Runtime 1.32 checks for zero only: SIGFPE ends the worker.

    Nothing in the process can catch that; what is promised is that the node comes back by itself.
    """
    os.utime(models.write(tmp_path / "models", "divide", models.divide()), (1, 1))
    smallest = infer("divide", tensor("a", "INT64", [1], [-(1 << 63)]), tensor("b", "INT64", [1], [-1]))
    fine = infer("divide", tensor("a", "INT64", [1], [9]), tensor("b", "INT64", [1], [3]))
    with serve(tmp_path / "models", "--workers", "1") as tree:
        with Raw(tree.port) as raw:
            raw.send(smallest)
            answer = raw.answer()
        if answer is not None:
            assert answer.status in (200, 400)
            assert tree.workers()[0]["restarts"] == 0
            return

        def back() -> bool:
            return [(w["listening"], w["last_reason"]) for w in tree.workers()] == [(True, "killed by SIGFPE")]

        tree.until("the respawn", back, patience_s=10)
        assert values(ask(tree, fine)) == [3]


@pytest.mark.parametrize(
    "shape",
    [[1 << 20, 1 << 20], [1 << 32, 1 << 32], [1 << 62, 4], [-1, 4], [-5, -5], [0, -1]],
    ids=str,
)
def test_d03_d04_a_shape_that_cannot_be_had(tree: Tree, shape: list[int]) -> None:
    """Small enough to be asked for by anyone, too large for any machine."""
    answer = ask(tree, infer("allocate", tensor("shape", "INT64", [2], shape)))
    assert answer.status in (400, 507), answer.body
    assert values(ask(tree, infer("allocate", tensor("shape", "INT64", [2], [2, 2])))) == [0.0] * 4


def test_d05_an_endless_run_gets_504_and_others_do_not_wait(tree: Tree) -> None:
    request = infer("endless", tensor("trips", "INT64", [], [1 << 62]), headers=(b"x-request-timeout-ms: 1500",))
    good = infer("affine", tensor("x", "FP32", [1, 2], [1, 2]))
    took: list[float] = []
    with Raw(tree.port) as offender, Raw(tree.port) as other:
        began = time.monotonic()
        offender.send(request)
        while time.monotonic() - began < 1.5:
            sent = time.monotonic()
            other.send(good)
            answer = other.answer()
            took.append(time.monotonic() - sent)
            assert answer is not None
            assert values(answer) == [2.0, 4.0]
        answer = offender.answer()
        assert answer is not None
        assert code(answer) == (504, "deadline_exceeded")
        assert time.monotonic() - began < 3.0
    assert len(took) > 100
    assert float(np.percentile(took, 99)) < 1.2


def test_d07_rows_that_are_not_finite_leave_their_neighbours_bit_equal(tree: Tree) -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((32, 2)).astype("<f4")
    bad = {3: [np.nan, np.nan], 11: [np.inf, -np.inf], 31: [np.nan, 1.0]}
    for at, row in bad.items():
        rows[at] = row
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = {"inputs": [item], "parameters": {"binary_data_output": True}}
    requests = [binary("together", head, row.tobytes()) for row in rows]
    before = executions(tree, "together")
    merged = [answer.body[-8:] for answer in together(tree, requests)]
    assert executions(tree, "together") - before < 16
    alone = [ask(tree, request).body[-8:] for request in requests]
    assert merged == alone
    good = [i for i in range(32) if i not in bad]
    assert [merged[i] for i in good] == [(2 * rows[i]).tobytes() for i in good]


def test_d08_shapes_are_never_mixed_nor_padded(tree: Tree) -> None:
    widths = [1, 2, 3, 2, 7, 1, 3, 64, 2, 1] * 6
    requests = [
        infer("wide", tensor("x", "FP32", [1, width], [float(100 * i + k) for k in range(width)]))
        for i, width in enumerate(widths)
    ]
    before = executions(tree, "wide")
    for i, answer in enumerate(together(tree, requests)):
        output = json.loads(answer.body)["outputs"][0]
        assert output["shape"] == [1, widths[i]]
        assert output["data"] == [2.0 * (100 * i + k) for k in range(widths[i])]
    assert executions(tree, "wide") - before < len(widths)


def test_d09_each_of_600_callers_gets_its_own_rows(tree: Tree) -> None:
    """600 connections, 5 requests each, of 1 to 4 rows; every value is sent once."""
    callers, times = 600, 5

    async def call(caller: int) -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", tree.port)
        wrong = []
        for turn in range(times):
            rows = 1 + (caller + turn) % 4
            first = float((caller * times + turn) * 8)
            data = [first + k for k in range(2 * rows)]
            writer.write(infer("affine", tensor("x", "FP32", [rows, 2], data)))
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(size)
            if b" 200 " not in head[:20] or json.loads(body)["outputs"][0]["data"] != [2 * x for x in data]:
                wrong.append(f"{caller}/{turn}: {head[:20]!r} {body[:200]!r}")
        writer.close()
        await writer.wait_closed()
        return wrong

    async def everybody() -> list[str]:
        found = await asyncio.gather(*[call(caller) for caller in range(callers)])
        return [line for lines in found for line in lines]

    before = executions(tree, "affine")
    assert asyncio.run(everybody()) == []
    assert executions(tree, "affine") - before < callers * times


def test_nothing_was_the_servers_fault(tree: Tree) -> None:
    """The last one here: no error of ours was logged on the way."""
    assert "Traceback" not in tree.log
    assert [line for line in tree.logged("request_internal") if line] == []
    assert Path(f"/proc/{tree.process.pid}").exists()

"""The admin port keeps the data port's limits: the same malformed and hostile HTTP, then what is its own."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests import models
from tests.conformance.bad_http_cases import Case, every
from tests.conformance.messages import FAST, bare
from tests.conformance.raw import Raw
from tests.conformance.test_bad_http import play
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
MIB = 1024 * 1024
LOAD = b"/admin/v1/models/affine/load"
ALIAS = b"/admin/v1/models/affine/aliases/a"
CONNECTIONS = 8
SHORT = {
    "limits__header_timeout_ms": 1000,
    "limits__body_timeout_ms": 1500,
    "limits__write_timeout_ms": 1000,
    "limits__admin_connections": CONNECTIONS,
    "server__keep_alive_ms": 1000,
    "models__quiet_period_ms": 0,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("bad_admin") / "models"
    models.write(folder, "affine", models.affine())
    with serve(folder, "--workers", "1", **SHORT) as running:
        yield running
        assert "Traceback" not in running.log
        assert not [line for line in running.log.splitlines() if '"level": "error"' in line]


def lives(tree: Tree) -> None:
    """Control is its first one and answers, and so does the worker."""
    assert tree.get("/admin/v1/server", admin=True)[0] == 200
    assert tree.get("/v2/health/live", admin=True)[0] == 200
    assert tree.infer("affine", [1, 2.5])["outputs"][0]["data"] == [2.0, 5.0]
    assert not tree.logged("child_died")


def refusals() -> list[Case]:
    """Of the data port's cases those that are refused for their framing, with a path of this port."""
    found = []
    for case in every():
        ours = FAST in case.data and b"?x=1" not in case.data and not case.ends
        framing = case.closes and len(case.wanted) == 1 and min(case.wanted[0]) >= 400
        if ours and framing and b"\r\ntransfer-encoding: chunked\r\n\r\n" not in case.data:
            found.append(Case(case.id, case.data.replace(FAST, LOAD), case.wanted, closes=True))
    return found


def test_the_cases_are_many() -> None:
    assert len(refusals()) > 40


@pytest.mark.parametrize("case", refusals(), ids=lambda case: case.id)
def test_case(tree: Tree, case: Case) -> None:
    for _ in range(3):
        play(tree.admin_port, case)
    lives(tree)


def put(body: bytes, *headers: bytes) -> bytes:
    return bare(b"PUT " + ALIAS + b" HTTP/1.1", b"host: localhost", *headers, body=body)


def sized(body: bytes) -> bytes:
    return put(body, b"content-length: %d" % len(body))


def chunked(body: bytes) -> bytes:
    return put(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), b"transfer-encoding: chunked")


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        pytest.param(sized(b" " * MIB), 413, "1048576 bytes, at most 65536", id="body"),
        pytest.param(sized(b" " * 65537), 413, "65537 bytes, at most 65536", id="body-one-more"),
        pytest.param(sized(b" " * 65536), 400, "not valid JSON", id="body-just-fits"),
        pytest.param(chunked(b" " * MIB), 413, "65536", id="body-chunked"),
        pytest.param(sized(b'{"version": "1"}'), 400, "whole number from 1, got '1'", id="text"),
        pytest.param(sized(b'{"version": true}'), 400, "whole number from 1, got True", id="bool"),
        pytest.param(sized(b"{}"), 400, "whole number from 1, got none", id="none"),
        pytest.param(sized(b"[1]"), 400, "object, got list", id="list"),
        pytest.param(sized(b'{"version": 9}'), 404, "no version 9", id="unknown"),
    ],
)
def test_a_body_of_this_port(tree: Tree, data: bytes, status: int, told: str) -> None:
    with Raw(tree.admin_port) as raw:
        raw.send(data)
        answer = raw.answer()
        assert answer is not None
        assert answer.status == status
        assert told in json.loads(answer.body)["error"]
        assert answer.header("x-request-id") == json.loads(answer.body)["request_id"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n", "the head of the request took too long"),
        (put(b"{", b"content-length: 9"), "the body of the request took too long"),
    ],
)
def test_who_is_slow_is_refused(tree: Tree, data: bytes, told: str) -> None:
    with Raw(tree.admin_port) as raw:
        raw.send(data)
        answer = raw.answer()
        assert answer is not None
        assert answer.status == 408
        assert json.loads(answer.body)["error"] == told
        assert raw.is_closed()


def test_an_idle_connection_is_closed(tree: Tree) -> None:
    with Raw(tree.admin_port) as raw:
        raw.send(bare(b"GET /admin/v1/server HTTP/1.1", b"host: localhost"))
        assert raw.answer() is not None
        assert raw.is_closed()


def test_one_connection_too_many_is_told_so_and_room_comes_back(tree: Tree) -> None:
    held = [socket.create_connection(("127.0.0.1", tree.admin_port), 10) for _ in range(CONNECTIONS)]
    try:
        with Raw(tree.admin_port) as raw:
            answer = raw.answer()
            assert answer is not None
            assert answer.status == 503
            assert f"at most {CONNECTIONS}" in json.loads(answer.body)["error"]
            assert raw.is_closed()
    finally:
        for one in held:
            one.close()
    tree.until("room again", lambda: tree.get("/admin/v1/server", admin=True)[0] == 200, patience_s=5)
    lives(tree)

"""A client that is refused while it still sends reads its answer all the same, with an ordinary blocking client.

Closing with unread bytes would make TCP send a reset: the client's next write fails and the answer is lost.
"""

import http.client
import json
from collections.abc import Iterator

import pytest

from tests import models
from tests.conformance.messages import bare
from tests.conformance.raw import Raw
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
MIB = 1024 * 1024
INFER = "/v2/models/affine/infer"
TIMES = 50


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("lingering") / "models"
    models.write(folder, "affine", models.affine())
    settings = {"models__quiet_period_ms": 0, "limits__binary_body_bytes": 16 * MIB}
    with serve(folder, "--workers", "1", **settings) as running:
        yield running


def upload(port: int, path: str, headers: dict[str, str], *, chunked: bool, size: int = 10 * MIB) -> tuple[int, str]:
    """POST and read the answer, as http.client does: the whole body first. Gives the status and the error's code."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    part = b" " * (256 * 1024)
    parts = (part for _ in range(size // len(part)))
    try:
        if chunked:
            connection.request("POST", path, parts, headers, encode_chunked=True)
        else:
            connection.request("POST", path, parts, {**headers, "content-length": str(size)})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["code"]
    finally:
        connection.close()


CLOSE = {"connection": "close"}
CHUNKED = {"transfer-encoding": "chunked"}


@pytest.mark.parametrize(
    ("path", "headers", "wanted"),
    [
        pytest.param(INFER, {}, (413, "payload_too_large"), id="length"),
        pytest.param(INFER, CLOSE, (413, "payload_too_large"), id="length-close"),
        pytest.param(INFER, CHUNKED, (413, "payload_too_large"), id="chunked"),
        pytest.param(INFER, CHUNKED | CLOSE, (413, "payload_too_large"), id="chunked-close"),
        pytest.param("/v2/models/nobody/infer", CHUNKED | CLOSE, (404, "unknown_model"), id="unknown-close"),
        pytest.param("/v2/nothing", CHUNKED | CLOSE, (404, "not_found"), id="no-path-close"),
        pytest.param("/v2/health/live", CHUNKED | CLOSE, (405, "method_not_allowed"), id="method-close"),
        pytest.param(INFER, {"x-request-timeout-ms": "x", **CHUNKED, **CLOSE}, (400, "invalid_input"), id="bad-close"),
    ],
)
def test_an_upload_that_is_refused_is_told_so(
    tree: Tree, path: str, headers: dict[str, str], wanted: tuple[int, str]
) -> None:
    found = [upload(tree.port, path, headers, chunked="transfer-encoding" in headers) for _ in range(TIMES)]
    assert found == [wanted] * TIMES


def test_a_peer_that_falls_silent_after_its_answer_is_closed(tree: Tree) -> None:
    with Raw(tree.port) as raw:
        raw.send(bare(f"POST {INFER} HTTP/1.1".encode(), b"host: a", b"content-length: %d" % (20 * MIB)))
        answer = raw.answer()
        assert answer is not None
        assert answer.status == 413
        assert raw.is_closed()
        tree.until("the server's end is closed", lambda: tree.workers()[0]["connections"] == 0, patience_s=5)


def test_a_peer_that_never_stops_is_cut_off(tree: Tree) -> None:
    with Raw(tree.port) as raw:
        raw.send(bare(f"POST {INFER} HTTP/1.1".encode(), b"host: a", b"content-length: %d" % (10 << 30)))
        sent = 0
        while raw.send(b" " * MIB):
            sent += MIB
            assert sent < 64 * MIB, "read on for ever"
    tree.until("the server's end is closed", lambda: tree.workers()[0]["connections"] == 0, patience_s=5)

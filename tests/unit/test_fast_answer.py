"""The fast lane writes its answer in one piece: the same bytes as any answer of those headers."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.http.answers import whole
from gateway.http.fast_lane import FastExchange
from gateway.predictions import NO_MARK, UNCOUNTED, read
from gateway.served import ServedVersion
from gateway.signing import Clock, Signer

pytestmark = pytest.mark.interpreted
KEY = b"k" * 32
HEADERS = ((b"x-tidegate-model", b"m:1"), (b"x-tidegate-variant", b"stable"), (b"x-tidegate-revision", b"7"))


def version() -> ServedVersion:
    runtime = SimpleNamespace(readiness=None)
    codec = SimpleNamespace(name="m:1", runtime=runtime, decoder=None, encoder=None, meter=lambda variant: None)
    none: Any = None
    return ServedVersion(cast(Any, codec), none, none, none, variant="stable", more=[(b"x-tidegate-revision", b"7")])


def written(exchange: FastExchange, sent: list[bytes], body: bytes = b"{}") -> bytes:
    exchange.request_id = b"mine"
    exchange.respond_ok(version(), body)
    return b"".join(sent)


def begun() -> tuple[FastExchange, list[bytes]]:
    sent: list[bytes] = []
    edge = SimpleNamespace(head_ok=b"", shed=False, dataplane=SimpleNamespace(draining=False))
    head = whole(200, b"now", b"application/json", (), b"", b"", keep_alive=True)
    edge.head_ok = head.partition(b"x-request-id")[0]
    protocol = SimpleNamespace(edge=edge, transport=SimpleNamespace(write=sent.append), finished=lambda _: None)
    return FastExchange(cast(Any, protocol), "m", "", 0), sent


@pytest.mark.parametrize("size", [2, 5_000])
def test_an_answer_without_a_name(size: int) -> None:
    exchange, sent = begun()
    body = b"x" * size
    expected = whole(200, b"now", b"application/json", HEADERS, b"mine", body, keep_alive=True)
    assert written(exchange, sent, body) == expected


def test_a_named_prediction() -> None:
    exchange, sent = begun()
    signer = Signer(1, KEY, 7, ["sha256:" + "ab" * 32], clock=Clock(5), sequence=1)
    signer.add(exchange, 0, 9, UNCOUNTED, NO_MARK)
    signer.sign()
    named = exchange.prediction
    assert read(named.decode(), {1: KEY}).unit == 9
    headers = (*HEADERS, (b"x-prediction-id", named))
    expected = whole(200, b"now", b"application/json", headers, b"mine", b"{}", keep_alive=True)
    assert written(exchange, sent) == expected

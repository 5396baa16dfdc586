"""Malformed, hostile and odd HTTP against a real server, over raw sockets.

After each case the server lives, answers others rightly, and its worker is the same; after all of them nothing is
held, nothing was logged as an error, and memory has not grown.
"""

import gzip
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import models
from tests.conformance.bad_http_cases import Case, every
from tests.conformance.messages import FAST, GOOD, RIGHT, SLOW, bare, binary, chunked, document, get, post, tensor
from tests.conformance.raw import Raw
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
MIB = 1024 * 1024
WIDTH = 16_384
"""Of a row of model big: 64 KiB."""
TIMES = 5
ENDLESS = 8
SHORT = {
    "limits__header_timeout_ms": 1000,
    "limits__body_timeout_ms": 1500,
    "limits__write_timeout_ms": 1000,
    "server__keep_alive_ms": 1000,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_http") / "models"
    made = [
        models.write(folder, "affine", models.affine()),
        models.write(folder, "big", models.identity(shape=("N", WIDTH))),
        # Several, because a model that had to be terminated is quarantined; the deadline ends a run, not the watchdog.
        *[
            models.write(folder, f"endless{i}", models.endless(), config="execution: {watchdog_ms: 6000}\n")
            for i in range(ENDLESS)
        ],
    ]
    for file in made:
        os.utime(file, (1, 1))
    return folder


@pytest.fixture(scope="module")
def tree(repository: Path) -> Iterator[Tree]:
    with serve(repository, "--workers", "1", **SHORT) as running:
        yield running
        is_quiet(running)


def is_quiet(tree: Tree) -> None:
    """Nothing is held, nobody waits, no error was logged."""
    assert "tidegate_bytes_in_flight" in tree.get("/metrics", admin=True)[1].decode()
    tree.until("no bytes in flight", lambda: tree.counter("tidegate_bytes_in_flight") == 0)
    tree.until("no request in flight", lambda: tree.workers()[0]["inflight"] == 0)
    assert "Traceback" not in tree.log
    errors = [line for line in tree.log.splitlines() if line.startswith("{") and json.loads(line)["level"] == "error"]
    assert errors == []


def lives(tree: Tree) -> None:
    """It answers, rightly, and the worker is still its first one."""
    assert tree.get("/v2/health/live")[0] == 200
    assert tree.infer("affine", [1, 2.5])["outputs"][0]["data"] == [2.0, 5.0]
    assert [worker["restarts"] for worker in tree.workers()] == [0]


def play(port: int, case: Case) -> None:
    """Send a case and hold the answers to what is wanted."""
    with Raw(port) as raw:
        raw.send(case.data)
        if case.ends:
            raw.half_close()
        found = []
        for wanted in case.wanted:
            answer = raw.answer(head=case.head)
            assert answer is not None, f"closed instead of {sorted(wanted)}"
            assert answer.status in wanted, (answer.status, answer.body[:300])
            if answer.status >= 400 and not case.head:
                error = json.loads(answer.body)
                assert set(error) == {"error", "code", "request_id"}
                assert error["request_id"] == answer.header("x-request-id")
            found.append(answer)
        if case.closes:
            assert raw.is_closed(), "the connection stays open, or more answers came"
            if found and not case.ends:
                assert found[-1].header("connection") == "close"
        assert case.holds is None or case.holds(found), found


CASES = every()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(tree: Tree, case: Case) -> None:
    times = 1 if len(case.data) > 4 * MIB else TIMES
    for _ in range(times):
        play(tree.port, case)
    lives(tree)


@pytest.mark.sim
@pytest.mark.timeout(1800)
def test_a_hundred_times_each_cost_no_memory(repository: Path) -> None:
    with serve(repository, "--workers", "1", **SHORT) as tree:
        # The first round fills caches and the allocator's arenas.
        for case in CASES:
            play(tree.port, case)
        before = rss_bytes(tree)
        for case in CASES:
            for _ in range(100):
                play(tree.port, case)
            lives(tree)
        is_quiet(tree)
        assert rss_bytes(tree) < before + 32 * MIB


def rss_bytes(tree: Tree) -> int:
    """Of the worker, as it said last."""
    found: int = tree.workers()[0]["rss_bytes"]
    return found


# ---- time: what is slow is cut off, and only that ----


def many(port: int, count: int, play_one: Callable[[Raw], None]) -> None:
    """The same on several connections at once."""

    def one(_: int) -> None:
        with Raw(port) as raw:
            play_one(raw)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))


def refused_408(raw: Raw) -> None:
    answer = raw.answer()
    assert answer is not None
    assert (answer.status, answer.header("connection")) == (408, "close")
    assert json.loads(answer.body)["code"] == "request_timeout"
    assert raw.is_closed()


@pytest.mark.parametrize(
    "start",
    [
        b"P",
        b"POST " + FAST + b" HTTP/1.1\r\nhost: a\r\nx-a: 1",
        post()[:-20],
        post(path=SLOW)[:-20],
        chunked(GOOD[:9], end=b""),
        # Hello of a TLS client cut short is no head; a chunked body without its end is a slow body.
        chunked(GOOD, end=b"0\r\nx-trailer: "),
    ],
    ids=["line", "head", "body-fast", "body-slow", "chunks", "trailer"],
)
def test_who_stops_sending_gets_408(tree: Tree, start: bytes) -> None:
    def stops(raw: Raw) -> None:
        raw.send(start)
        refused_408(raw)

    started = time.monotonic()
    many(tree.port, TIMES, stops)
    assert 1.0 < time.monotonic() - started < 4.5
    lives(tree)


@pytest.mark.parametrize("path", [FAST, SLOW])
def test_slowloris_gets_408_although_it_sends_all_the_time(tree: Tree, path: bytes) -> None:
    """One byte at a time, never silent: the whole head, and the whole body, are timed."""

    def drips(data: bytes) -> Callable[[Raw], None]:
        def drip(raw: Raw) -> None:
            raw.socket.settimeout(0.1)
            for at in range(len(data)):
                if not raw.send(data[at : at + 1]):
                    break
                try:
                    if raw.socket.recv(1, 2):  # MSG_PEEK
                        break
                except (TimeoutError, ConnectionResetError):
                    continue
            raw.socket.settimeout(5)
            refused_408(raw)

        return drip

    head = bare(b"POST " + path + b" HTTP/1.1", b"host: test", *[b"x-%d: 1" % i for i in range(20)])
    many(tree.port, 3, drips(head))

    def body(raw: Raw) -> None:
        raw.send(post(path=path)[: -len(GOOD)])
        drips(GOOD)(raw)

    many(tree.port, 3, body)
    lives(tree)


def test_idle_connections_are_closed_without_a_word(tree: Tree) -> None:
    def fresh(raw: Raw) -> None:
        assert raw.is_closed()

    def used(raw: Raw) -> None:
        raw.send(post() + get())
        assert [answer.status for answer in raw.answers(2)] == [200, 200]
        assert raw.is_closed()

    many(tree.port, TIMES, fresh)
    many(tree.port, TIMES, used)
    lives(tree)


def test_an_answer_before_the_body_is_the_only_one(tree: Tree) -> None:
    """Unknown model, body never sent: 404, then the connection ends without a second answer."""

    def lost(raw: Raw) -> None:
        raw.send(post(path=b"/v2/models/nobody/infer")[:-20])
        answer = raw.answer()
        assert answer is not None
        assert answer.status == 404
        assert raw.is_closed()

    many(tree.port, TIMES, lost)
    lives(tree)


def endless(model: int, timeout_ms: int, query: bytes = b"") -> bytes:
    body = document(tensor("trips", "INT64", [], [1 << 62]))
    return post(body, b"x-request-timeout-ms: %d" % timeout_ms, path=b"/v2/models/endless%d/infer" % model + query)


@pytest.mark.parametrize(("model", "path"), [(0, FAST), (1, SLOW)])
def test_time_in_which_we_do_not_read_is_not_the_clients(tree: Tree, model: int, path: bytes) -> None:
    """A request behind one that takes 4 s is not slow because its body waits in the kernel."""
    with Raw(tree.port) as raw:
        raw.send(endless(model, 4000) + post(path=path)[:-10])
        # Longer than the body's timeout, all of it while the first is executed.
        first = raw.answer()
        assert first is not None
        assert first.status == 504
        raw.send(post(path=path)[-10:])
        second = raw.answer()
        assert second is not None
        assert RIGHT in second.body
    lives(tree)


# ---- peers that leave ----


@pytest.mark.parametrize("data", [post()[:50], post()[:-5], post(), chunked(GOOD, end=b""), post() + get() + post()])
def test_a_reset_disturbs_nobody(tree: Tree, data: bytes) -> None:
    for _ in range(TIMES):
        raw = Raw(tree.port)
        raw.send(data)
        raw.reset()
    lives(tree)
    tree.until("all connections closed", lambda: tree.workers()[0]["connections"] == 0)


@pytest.mark.parametrize("query", [b"", b"?x=1"], ids=["fast", "slow"])
@pytest.mark.parametrize("leave", ["reset", "close"])
def test_who_leaves_a_long_request_is_dropped(tree: Tree, leave: str, query: bytes) -> None:
    """Both ways of leaving: a reset, and a close that TCP cannot tell from a half-close."""
    model = {("reset", b""): 2, ("reset", b"?x=1"): 3, ("close", b""): 4, ("close", b"?x=1"): 5}[leave, query]
    with Raw(tree.port) as raw:
        raw.send(endless(model, 20_000, query))
        tree.until("its execution", lambda: tree.workers()[0]["inflight"] == 1)
        if leave == "reset":
            raw.reset()
    tree.until("its end", lambda: tree.workers()[0]["inflight"] == 0, patience_s=5)
    lives(tree)


def test_half_closed_while_it_is_executed(tree: Tree) -> None:
    """The answer comes although the client said it would send no more; an interim answer may come first."""
    with Raw(tree.port) as raw:
        raw.send(endless(6, 1000))
        raw.half_close()
        answer = raw.answer()
        assert answer is not None
        assert answer.status == 504
        assert set(answer.interim) <= {100}
        assert raw.is_closed()
    lives(tree)


def test_http_1_0_gets_no_interim_answer(tree: Tree) -> None:
    """RFC 9110, 15.2: a server must not send 1xx to an HTTP/1.0 client."""
    with Raw(tree.port) as raw:
        raw.send(endless(7, 1000).replace(b"HTTP/1.1", b"HTTP/1.0"))
        raw.half_close()
        answer = raw.answer()
        assert answer is not None
        assert (answer.status, answer.interim) == (504, ())


# ---- large bodies and slow readers ----


def large(size_mib: int, *, compressed: bool = False) -> bytes:
    """A request of model big, whose answer is as large."""
    rows = size_mib * 16
    parameters = {"binary_data_size": size_mib * MIB}
    item = {"name": "x", "datatype": "FP32", "shape": [rows, WIDTH], "parameters": parameters}
    head = {"inputs": [item], "parameters": {"binary_data_output": True}}
    if not compressed:
        return binary("big", head, bytes(size_mib * MIB))
    text = json.dumps(head).encode()
    length = b"inference-header-content-length: %d" % len(text)
    body = gzip.compress(text + bytes(size_mib * MIB))
    return post(body, length, b"content-encoding: gzip", path=b"/v2/models/big/infer")


def test_a_body_of_60_mib_there_and_back(tree: Tree) -> None:
    request = large(60)
    for _ in range(2):
        with Raw(tree.port) as raw, ThreadPoolExecutor(1) as pool:
            sending = pool.submit(raw.send, request)
            answer = raw.answer()
            assert sending.result()
            assert answer is not None
            assert answer.status == 200
            assert len(answer.body) > 60 * MIB
    lives(tree)


def test_a_body_of_65_mib_is_refused(tree: Tree) -> None:
    with Raw(tree.port) as raw:
        raw.send(large(65))
        answer = raw.answer()
        assert answer is not None
        assert answer.status == 413
        assert raw.is_closed()
    lives(tree)


def test_a_peer_that_does_not_read_is_cut_off(tree: Tree) -> None:
    with ExitStack() as stack:
        raws = [stack.enter_context(Raw(tree.port, receive_buffer=4096)) for _ in range(3)]
        for raw in raws:
            raw.send(large(16))
        tree.until("their answers", lambda: tree.counter("tidegate_requests_total", model="big", code="200") >= 3)
        lives(tree)
        tree.until("the cut", lambda: tree.workers()[0]["connections"] == 0, patience_s=8)
    lives(tree)


def test_a_slow_reader_that_goes_on_gets_everything(tree: Tree) -> None:
    """Ten times as long as the write timeout without ever catching up, but never still."""
    with Raw(tree.port, receive_buffer=64 * 1024) as raw:
        raw.send(large(16))
        head = raw.socket.recv(4096)
        assert head.startswith(b"HTTP/1.1 200")
        got, started = len(head), time.monotonic()
        while time.monotonic() - started < 5:
            time.sleep(0.02)  # what makes it slow: about 2 MiB/s
            got += len(raw.socket.recv(64 * 1024))
        while data := raw.socket.recv(MIB):
            got += len(data)
            if got > 16 * MIB:
                break
        assert got > 16 * MIB
    lives(tree)


def test_pipelined_large_answers_wait_for_the_reader(tree: Tree) -> None:
    """64 answers of 1 MiB to who reads none: few of them are made before the peer catches up."""
    done = tree.counter("tidegate_requests_total", model="big", code="200")
    with Raw(tree.port, receive_buffer=4096) as raw:
        sender = threading.Thread(target=raw.send, args=(large(1) * 64,), daemon=True)
        sender.start()
        tree.until("the cut", lambda: not sender.is_alive(), patience_s=10)
    assert tree.counter("tidegate_requests_total", model="big", code="200") - done < 16
    lives(tree)


# ---- bounds on connections ----


def test_one_connection_too_many_gets_503(repository: Path) -> None:
    with serve(repository, "--workers", "1", limits__connections=20) as tree, ExitStack() as stack:
        tree.until("no connection", lambda: tree.workers()[0]["connections"] == 0)
        held = [stack.enter_context(Raw(tree.port)) for _ in range(20)]
        for raw in held:
            raw.send(get(b"/v2/health/live"))
            answer = raw.answer()
            assert answer is not None
            assert answer.status == 200
        for _ in range(TIMES):
            with Raw(tree.port) as extra:
                answer = extra.answer()
                assert answer is not None
                assert (answer.status, answer.header("connection"), answer.header("retry-after")) == (503, "close", "1")
                assert extra.is_closed()
        for raw in held:
            raw.send(post())
            answer = raw.answer()
            assert answer is not None
            assert RIGHT in answer.body
        held[0].socket.close()
        tree.until("room for one", lambda: tree.get("/v2/health/live")[0] == 200)
        lives_with_few(tree, held[1:])


def lives_with_few(tree: Tree, held: list[Raw]) -> None:
    """As `lives`, on what is left of 20 connections."""
    held[0].socket.close()
    tree.until("room", lambda: tree.workers()[0]["connections"] < 20)
    lives(tree)


def test_gzip_bombs_at_once_are_bounded(tree: Tree) -> None:
    """40 bodies that inflate to 60 MiB each: the worker never holds them all."""
    request = large(60, compressed=True)
    highest = [0]

    def watch(raw: Raw) -> None:
        raw.send(request)
        answer = raw.answer()
        assert answer is not None
        assert answer.status in (200, 429)
        highest[0] = max(highest[0], rss_bytes(tree))

    before = rss_bytes(tree)
    many(tree.port, 40, watch)
    assert highest[0] - before < 1200 * MIB
    lives(tree)

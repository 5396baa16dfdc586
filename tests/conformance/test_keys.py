"""Keys against a real server: both lanes of the data port, and the admin port."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import new_key
from tests import models
from tests.conformance.messages import FAST, GOOD, RIGHT, SLOW, get, post
from tests.conformance.raw import Answer, Raw
from tests.tree import PATIENCE_S, TIDEGATE, Tree, serve

pytestmark = pytest.mark.process
SETTINGS = {"server__auth": "keys", "models__quiet_period_ms": 0}
SCOPES = ("infer", "metrics", "view", "admin")


def keys(tree: Tree, *arguments: str) -> str:
    """`tidegate keys ...` on the server's data folder."""
    done = subprocess.run(
        [TIDEGATE, "keys", *arguments, "--data-dir", str(tree.data_dir)],
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer(key: str) -> bytes:
    return b"authorization: Bearer " + key.encode()


def ask(port: int, data: bytes) -> Answer:
    with Raw(port) as raw:
        raw.send(data)
        answer = raw.answer()
        assert answer is not None
        return answer


def status(tree: Tree, key: str, method: str, path: str, body: object = None, *, admin: bool = False) -> int:
    tree.key = key
    try:
        return tree.call(method, path, body, admin=admin)[0]
    finally:
        tree.key = ""


class Held:
    """A server and a key for each scope."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.key = {scope: keys(tree, "create", f"of-{scope}", "--scope", scope) for scope in SCOPES}
        self.key["fraud"] = keys(tree, "create", "fraud", "--scope", "infer", "--scope", "view", "--model", "fr*")
        self.key["every"] = keys(tree, "create", "every", *[flag for scope in SCOPES for flag in ("--scope", scope)])
        tree.until("the last key", lambda: status(tree, self.key["every"], "GET", "/v2") == 200)
        tree.until("it there too", lambda: status(tree, self.key["every"], "GET", "/admin/v1/keys", admin=True) == 200)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("keys") / "models"
    for name in ("affine", "fraud"):
        os.utime(models.write(folder, name, models.affine()), (1, 1))
    with serve(folder, "--workers", "1", "--model-control-mode", "explicit", "--load", "*", **SETTINGS) as tree:
        yield Held(tree)
        assert "Traceback" not in tree.log


@pytest.fixture
def tree(held: Held) -> Tree:
    return held.tree


# ---- A40 - A42: who is there ----


def wrong(good: str) -> dict[str, tuple[bytes, ...]]:
    right = bearer(good)
    return {
        "absent": (),
        "empty": (b"authorization:",),
        "bare": (b"authorization: Bearer",),
        "nothing-behind": (b"authorization: Bearer ",),
        "basic": (b"authorization: Basic " + good.encode(),),
        "no-scheme": (b"authorization: " + good.encode(),),
        "unknown": (bearer(new_key(bytes)),),
        "case": (bearer(good.swapcase()),),
        "longer": (right + b"A",),
        "shorter": (right[:-1],),
        "not-ascii": (right[:-1] + b"\xe9",),
        "utf-8": ("authorization: Bearer tg_\u00e9".encode(),),
        "in-quotes": (b'authorization: Bearer "' + good.encode() + b'"',),
        "two-spaces": (right.replace(b"Bearer ", b"Bearer  "),),
        "tab": (right.replace(b"Bearer ", b"Bearer\t"),),
        "list": (right + b"," + right,),
        "twice": (right, right),
        "twice-other-spelling": (right, right.replace(b"authorization", b"Authorization")),
        "with-a-wrong-one": (right, bearer(new_key(bytes))),
        "behind-a-wrong-one": (bearer(new_key(bytes)), right),
    }


@pytest.mark.parametrize("case", list(wrong("")))
def test_who_shows_no_right_key_is_401_on_every_lane(held: Held, case: str) -> None:
    headers, tree = wrong(held.key["infer"])[case], held.tree
    for _ in range(2):
        found = [ask(tree.port, post(GOOD, *headers, path=path)) for path in (FAST, SLOW)]
        found.append(ask(tree.port, get(b"/v2/models/affine", *headers)))
        found.append(ask(tree.port, get(b"/nothing/here", *headers)))
        found.append(ask(tree.admin_port, admin_get(b"/admin/v1/server", *headers)))
        assert [answer.status for answer in found] == [401] * 5
        for answer in found:
            error = json.loads(answer.body)
            assert answer.header("www-authenticate") == "Bearer"
            assert error["code"] == "unauthorized"
            assert error["request_id"] == answer.header("x-request-id")
            assert held.key["infer"] not in answer.body.decode()
        # What is right before and after it is not touched by it.
        assert ask(tree.port, post(GOOD, bearer(held.key["infer"]))).status == 200


def admin_get(path: bytes, *headers: bytes, host: bytes = b"localhost", method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"host: " + host, *headers]) + b"\r\n\r\n"


def test_space_behind_a_header_is_not_part_of_it_but_a_newline_ends_it(held: Held) -> None:
    """RFC 9110, 5.5: whitespace around a field's value is no part of it; whatever our parser leaves is judged."""
    right = bearer(held.key["infer"])
    for path in (FAST, SLOW):
        assert ask(held.tree.port, post(GOOD, right + b" ", path=path)).status == 401
        assert ask(held.tree.port, post(GOOD, right + b"\n", path=path)).status in (400, 401)
        assert ask(held.tree.port, post(GOOD, right + b"\x00", path=path)).status in (400, 401)


def test_a_mebibyte_of_key_is_431(held: Held) -> None:
    for port, path in ((held.tree.port, FAST), (held.tree.admin_port, b"/admin/v1/keys")):
        with Raw(port) as raw:
            raw.send(post(GOOD, b"authorization: Bearer " + b"x" * 2**20, path=path))
            answer = raw.answer()
            assert answer is not None
            assert answer.status == 431


def test_health_is_open_and_nothing_else(held: Held) -> None:
    tree = held.tree
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert tree.get(path)[0] == 200
        assert ask(tree.port, get(path.encode(), b"authorization: Bearer wrong")).status == 200
    assert tree.get("/v2/health/live", admin=True)[0] == 200
    for path in ("/v2", "/v2/models", "/metrics", "/v2/models/affine/ready", "/v2/health", "/v2/health/live/"):
        assert tree.get(path)[0] == 401, path
    for path in ("/metrics", "/admin/v1/keys", "/admin/v1/models", "/", "/v2/health/ready/"):
        assert tree.get(path, admin=True)[0] == 401, path


def test_the_fast_lane_takes_requests_with_a_key(held: Held) -> None:
    tree, right = held.tree, bearer(held.key["infer"])
    ask(tree.port, post(GOOD, right))  # the first one is judged by the slow lane

    def fast() -> float:
        tree.key = held.key["every"]
        try:
            return tree.counter("tidegate_fast_lane_total")
        finally:
            tree.key = ""

    before = fast()
    for _ in range(10):
        answer = ask(tree.port, post(GOOD, right))
        assert answer.status == 200
        assert RIGHT in answer.body
    assert fast() == before + 10
    for headers in ((), (right, right), (bearer(new_key(bytes)),)):
        ask(tree.port, post(GOOD, *headers))
    assert fast() == before + 10


def test_both_lanes_give_the_same_bytes(held: Held) -> None:
    id = b"x-request-id: same"
    for header in (bearer(held.key["infer"]), bearer(held.key["view"]), b"authorization: Basic x", b"x-nothing: 1"):
        ask(held.tree.port, post(GOOD, id, header))
        one, two = (ask(held.tree.port, post(GOOD, id, header, path=path)) for path in (FAST, SLOW))
        assert (one.status, one.body) == (two.status, two.body)
        assert [n for n, _ in one.headers] == [n for n, _ in two.headers]


def test_requests_behind_one_another_are_judged_one_by_one(held: Held) -> None:
    right = bearer(held.key["infer"])
    with Raw(held.tree.port) as raw:
        raw.send(
            post(GOOD, right) + post(GOOD) + post(GOOD, right) + post(GOOD, right, path=SLOW) + post(GOOD, path=SLOW)
        )
        assert [answer.status for answer in raw.answers(5)] == [200, 401, 200, 200, 401]


# ---- E06: what for ----

LOAD = "/v2/repository/models/affine/load"
CALLS: list[tuple[str, str, bool, set[str]]] = [
    ("POST", "/v2/models/affine/infer", False, {"infer"}),
    ("POST", "/v2/models/affine/versions/1/infer", False, {"infer"}),
    ("GET", "/v2", False, {"infer", "view"}),
    ("GET", "/v2/models", False, {"infer", "view"}),
    ("GET", "/v2/models/affine", False, {"infer", "view"}),
    ("GET", "/v2/models/affine/config", False, {"infer", "view"}),
    ("GET", "/v2/models/affine/stats", False, {"view"}),
    ("GET", "/v2/models/stats", False, {"view"}),
    ("POST", "/v2/repository/index", False, {"view"}),
    ("POST", LOAD, False, {"admin"}),
    ("GET", "/metrics", False, {"metrics"}),
    ("GET", "/metrics", True, {"metrics"}),
    ("GET", "/admin/v1/server", True, {"view"}),
    ("GET", "/admin/v1/workers", True, {"view"}),
    ("GET", "/admin/v1/models", True, {"view"}),
    ("GET", "/admin/v1/models/affine", True, {"view"}),
    ("POST", "/admin/v1/models/affine/load", True, {"admin"}),
    ("GET", "/admin/v1/keys", True, {"admin"}),
    ("POST", "/admin/v1/keys", True, {"admin"}),
    ("DELETE", "/admin/v1/keys/nobody", True, {"admin"}),
]


@pytest.mark.parametrize(("method", "path", "admin", "scopes"), CALLS, ids=[f"{c[0]}-{c[1]}-{c[2]}" for c in CALLS])
def test_a_scope_is_for_its_calls_alone(held: Held, method: str, path: str, admin: bool, scopes: set[str]) -> None:
    body = json.loads(GOOD) if path.endswith("infer") else {} if method == "POST" else None
    for _ in range(2):
        for scope in SCOPES:
            found = status(held.tree, held.key[scope], method, path, body, admin=admin)
            assert (found == 403) == (scope not in scopes), (scope, found)
            assert found in (200, 400, 404) or scope not in scopes, "an empty key is 400, nobody's key 404"


def test_a_key_of_some_models(held: Held) -> None:
    tree, key = held.tree, held.key["fraud"]
    good = json.loads(GOOD)
    for _ in range(3):
        assert status(tree, key, "POST", "/v2/models/fraud/infer", good) == 200
        assert status(tree, key, "POST", "/v2/models/affine/infer", good) == 403
        assert status(tree, key, "POST", "/v2/models/affine/infer?x=1", good) == 403
        assert status(tree, key, "POST", "/v2/models/%61ffine/infer", good) == 403
    assert status(tree, key, "GET", "/v2/models/affine") == 403
    assert status(tree, key, "GET", "/v2/models/stats") == 403
    assert status(tree, key, "GET", "/admin/v1/models/affine", admin=True) == 403
    tree.key = key
    assert json.loads(tree.get("/v2/models")[1]) == {"models": ["fraud"]}
    assert [model["name"] for model in json.loads(tree.get("/admin/v1/models", admin=True)[1])] == ["fraud"]
    tree.key = ""


# ---- E07, A13: browsers ----


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"])
def test_a_browser_on_behalf_of_another_site_is_refused_by_every_method(held: Held, method: bytes) -> None:
    right, port = bearer(held.key["every"]), held.tree.admin_port
    host = b"127.0.0.1:%d" % port
    for path in (b"/admin/v1/models/affine/load", b"/admin/v1/keys/fraud", b"/v2/health/live", b"/nothing"):
        for header in (b"origin: http://evil.example", b"origin: null", b"referer: http://evil.example/" + host):
            answer = ask(port, admin_get(path, right, header, b"content-length: 0", host=host, method=method))
            assert answer.status == 403
            assert json.loads(answer.body)["code"] == "forbidden"
        answer = ask(port, admin_get(path, right, b"content-length: 0", host=b"evil.example", method=method))
        assert answer.status == 403
    assert status(held.tree, held.key["fraud"], "GET", "/v2/models/fraud") == 200, "nobody has revoked it"


def test_its_own_pages_and_names_are_served(held: Held) -> None:
    right, port = bearer(held.key["every"]), held.tree.admin_port
    for host in (b"localhost:%d" % port, b"127.0.0.1", b"[::1]:1"):
        answer = ask(port, admin_get(b"/admin/v1/server", right, b"origin: http://" + host, host=host))
        assert answer.status == 200


def test_a_malformed_host_is_400_on_the_admin_port_and_read_by_nobody_on_the_data_port(held: Held) -> None:
    right = bearer(held.key["every"])
    assert ask(held.tree.admin_port, admin_get(b"/admin/v1/server", right, host=b"a/b:@")).status == 400
    for path in (FAST, SLOW):
        data = post(GOOD, right, path=path).replace(b"host: test", b"host: a/b:@")
        assert ask(held.tree.port, data).status == 200


# ---- E08: the admin API ----


def test_a_key_of_the_admin_api_from_birth_to_end(held: Held) -> None:
    tree = held.tree
    tree.key = held.key["admin"]
    asked = {"name": "made", "scopes": ["infer"], "models": ["aff*"], "labels": ["release"], "expires": "90d"}
    code, body = tree.call("POST", "/admin/v1/keys", asked, admin=True)
    made = json.loads(body)
    assert code == 201
    assert (made["name"], made["state"], made["scopes"], made["labels"]) == ("made", "in force", ["infer"], ["release"])
    listed = tree.get("/admin/v1/keys", admin=True)[1].decode()
    assert "made" in [key["name"] for key in json.loads(listed)]
    assert made["key"] not in listed, "told once"
    assert made["key"] not in tree.log
    tree.key = ""
    good = json.loads(GOOD)
    tree.until("it is good", lambda: status(tree, made["key"], "POST", "/v2/models/affine/infer", good) == 200, 2.0)
    assert status(tree, held.key["admin"], "POST", "/admin/v1/keys", asked, admin=True) == 409
    assert status(tree, held.key["admin"], "DELETE", "/admin/v1/keys/made", admin=True) == 200
    tree.until("it is gone", lambda: status(tree, made["key"], "POST", "/v2/models/affine/infer", good) == 401, 2.0)
    assert status(tree, held.key["admin"], "DELETE", "/admin/v1/keys/made", admin=True) == 200, "gone is gone"
    assert status(tree, held.key["admin"], "POST", "/admin/v1/keys", asked, admin=True) == 409, "a name is given once"
    (line,) = [line for line in tree.logged("key_revoked") if line["key"] == "made"][:1]
    assert line["actor"] == "of-admin"


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({"name": "x", "scopes": ["root"]}, 400, "known scopes: infer"),
        ({"name": "x", "scopes": []}, 400, "at least one"),
        ({"name": "x"}, 400, "scopes"),
        ({"scopes": ["infer"]}, 400, "name"),
        ({"name": "x", "scopes": ["infer"], "expires": "2020-01-01"}, 400, "in the past"),
        ({"name": "x", "scopes": ["infer"], "expires": "soon"}, 400, "90d"),
        ({"name": "x", "scopes": ["infer"], "more": 1}, 400, "more"),
        ({"name": "x", "scopes": "infer"}, 400, "scopes"),
        ({"name": "local", "scopes": ["infer"]}, 400, "local"),
        ({"name": "every", "scopes": ["infer"]}, 409, "already"),
        ([], 400, "object"),
    ],
)
def test_a_key_that_is_not_made(held: Held, body: Any, code: int, told: str) -> None:
    held.tree.key = held.key["admin"]
    before = held.tree.get("/admin/v1/keys", admin=True)
    found, answer = held.tree.call("POST", "/admin/v1/keys", body, admin=True)
    assert held.tree.get("/admin/v1/keys", admin=True) == before
    held.tree.key = ""
    assert found == code
    assert told in json.loads(answer)["error"]


def test_to_revoke_an_unknown_name_is_404(held: Held) -> None:
    held.tree.key = held.key["admin"]
    found, answer = held.tree.call("DELETE", "/admin/v1/keys/frau", admin=True)
    held.tree.key = ""
    assert found == 404
    assert json.loads(answer)["code"] == "unknown_key"


# ---- in force everywhere, soon ----


def test_revocation_under_load_is_in_force_on_every_worker_within_two_seconds(tmp_path: Path) -> None:
    os.utime(models.write(tmp_path / "models", "affine", models.affine()), (1, 1))
    with serve(tmp_path / "models", "--workers", "2", **SETTINGS) as tree:
        bad, good = keys(tree, "create", "bad", "--scope", "infer"), keys(tree, "create", "good", "--scope", "infer")
        lanes = [post(GOOD, bearer(key), path=path) for key in (bad, good) for path in (FAST, SLOW)] * 3
        tree.until("keys", lambda: all(ask(tree.port, data).status == 200 for data in lanes))
        seen: list[list[int]] = [[] for _ in lanes]
        stop = threading.Event()

        def load(data: bytes, statuses: list[int]) -> None:
            while not stop.is_set():
                with Raw(tree.port) as raw:
                    told_to_leave = False  # by the worker with more connections than the other
                    while not told_to_leave and not stop.is_set():
                        raw.send(data)
                        answer = raw.answer()
                        assert answer is not None
                        statuses.append(answer.status)
                        told_to_leave = answer.header("connection") == "close"

        threads = [threading.Thread(target=load, args=pair) for pair in zip(lanes, seen, strict=True)]
        for thread in threads:
            thread.start()
        try:
            tree.until("every connection works", lambda: all(len(statuses) > 20 for statuses in seen))
            keys(tree, "revoke", "bad")
            of_bad = [statuses for data, statuses in zip(lanes, seen, strict=True) if bad.encode() in data]
            tree.until("bad is refused on every connection", lambda: all(s[-1] == 401 for s in of_bad), 2.0)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        for data, statuses in zip(lanes, seen, strict=True):
            if bad.encode() in data:
                first = statuses.index(401)
                assert set(statuses[:first]) == {200}
                assert set(statuses[first:]) == {401}, "revoked stays revoked"
            else:
                assert set(statuses) == {200}, "others do not notice"
        assert [worker["restarts"] for worker in workers(tree)] == [0, 0]


def workers(tree: Tree) -> list[dict[str, Any]]:
    key = keys(tree, "create", "looks", "--scope", "view")
    tree.until("the key", lambda: status(tree, key, "GET", "/admin/v1/workers", admin=True) == 200)
    tree.key = key
    return tree.workers()


def test_keys_outlive_control_and_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    os.utime(models.write(tmp_path / "models", "affine", models.affine()), (1, 1))
    with serve(tmp_path / "models", "--workers", "1", **SETTINGS) as tree:
        key, good = keys(tree, "create", "app", "--scope", "infer", "--scope", "view"), json.loads(GOOD)
        tree.until("the key", lambda: status(tree, key, "POST", "/v2/models/affine/infer", good) == 200)
        path = tree.data_dir / "keys.json"
        path.chmod(0o644)
        tree.until("it is said", lambda: bool(tree.logged("keys_unusable")))
        assert "chmod 600" in tree.logged("keys_unusable")[0]["reason"]
        assert status(tree, key, "POST", "/v2/models/affine/infer", good) == 200
        path.chmod(0o600)
        control = tree.control_pid()
        os.kill(control, 9)
        assert status(tree, key, "POST", "/v2/models/affine/infer", good) == 200
        tree.until("control is back", lambda: status(tree, key, "GET", "/admin/v1/server", admin=True) == 200)
        assert tree.control_pid() != control
        keys(tree, "revoke", "app")
        tree.until("app is refused", lambda: status(tree, key, "POST", "/v2/models/affine/infer", good) == 401, 5.0)


def test_an_expired_key_is_refused_by_the_fast_lane_too(tmp_path: Path) -> None:
    os.utime(models.write(tmp_path / "models", "affine", models.affine()), (1, 1))
    with serve(tmp_path / "models", "--workers", "0", **SETTINGS) as tree:
        data = post(GOOD, bearer(keys(tree, "create", "app", "--scope", "infer", "--expires", "5s")))
        tree.until("the key", lambda: ask(tree.port, data).status == 200)
        with Raw(tree.port) as raw:

            def next_status() -> int:
                raw.send(data)
                answer = raw.answer()
                assert answer is not None
                return answer.status

            tree.until("it is refused", lambda: next_status() == 401, 8.0)
            assert next_status() == 401


def test_where_nobody_is_asked_a_key_is_ignored_and_the_lane_stays_fast(tmp_path: Path) -> None:
    os.utime(models.write(tmp_path / "models", "affine", models.affine()), (1, 1))
    with serve(tmp_path / "models", "--workers", "1", "--model-control-mode", "explicit", "--load", "*") as tree:
        before = tree.counter("tidegate_fast_lane_total")
        for value in (bearer(new_key(bytes)), b"authorization: Basic eDp5", b"authorization:"):
            assert ask(tree.port, post(GOOD, value)).status == 200
        assert tree.counter("tidegate_fast_lane_total") == before + 3
        assert ask(tree.port, post(GOOD, b"authorization: a", b"authorization: b")).status == 200
        assert tree.call("POST", LOAD)[0] == 200
        page = post(b"", b"origin: http://evil.example", path=LOAD.encode())
        assert ask(tree.port, page).status == 403, "a browser is on this machine too"
        answer = ask(tree.admin_port, admin_get(b"/admin/v1/server", host=b"evil.example"))
        assert answer.status == 403
        code, made = tree.call("POST", "/admin/v1/keys", {"name": "app", "scopes": ["infer"]}, admin=True)
        assert code == 201
        assert tree.logged("key_created")[0]["actor"] == "local"
        assert json.loads(made)["key"].startswith("tg_")


def test_what_was_sent_ahead_is_answered_by_a_key_that_is_still_good(tmp_path: Path) -> None:
    models.write(tmp_path / "models", "slow", models.slow(layers=300))
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}'
    with serve(tmp_path / "models", "--workers", "1", **SETTINGS) as tree:
        key = keys(tree, "create", "app", "--scope", "infer")
        request = post(body, bearer(key), path=b"/v2/models/slow/infer")
        tree.until("the key", lambda: ask(tree.port, request).status == 200)
        with Raw(tree.port) as raw:
            raw.send(request * 200)
            first = raw.answer()
            keys(tree, "revoke", "app")
            found = [first, *(raw.answer() for _ in range(199))]
        statuses = [answer.status for answer in found if answer is not None]
        assert len(statuses) == 200
        assert (statuses[0], statuses[-1]) == (200, 401)
        assert statuses == sorted(statuses), "and none after the first that was refused"

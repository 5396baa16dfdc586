"""What a policy reads of a request, on both lanes; who may name a version; two editors; four eyes, with real keys."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.process.callers import Answer, Caller, apply, command, policy, tensor, until
from tests.tree import PATIENCE_S, TIDEGATE, Tree, serve

pytestmark = pytest.mark.process
BODY = tensor([1])
QUERY = "/v2/models/table/infer?"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "models"
    for version in (1, 2):
        model = models.write(folder, "table", models.lookup(1000 + version), version, "version_policy: {all: true}\n")
        os.utime(model, (1, 1))
    return folder


@pytest.fixture(scope="module")
def tree(repository: Path) -> Iterator[Tree]:
    with serve(repository, "--workers", "1", models__quiet_period_ms=0) as running:
        yield running


@pytest.fixture
def caller(tree: Tree) -> Iterator[Caller]:
    found = Caller(tree.port, "table")
    yield found
    found.close()
    tree.call("DELETE", "/admin/v1/policies/table?force=1", admin=True)


def test_a_freeze_that_is_over_is_warned_of(tree: Tree, caller: Caller) -> None:
    document = policy("table", steps=[{"setWeight": 1000, "hold": {"minDuration": "1h"}}, {"setWeight": 10000}])
    past = {"from": "2020-12-20T00:00:00Z", "until": "2021-01-02T00:00:00Z"}
    document["spec"]["rollout"]["window"] = {"freeze": [past]}
    expected = ["spec.rollout.window.freeze[0] was over at 2021-01-02T00:00:00Z: it holds nothing"]
    _, body = tree.call("POST", "/admin/v1/policies/table/plan", document, admin=True)
    assert json.loads(body)["warnings"] == expected
    assert apply(tree, document)["warnings"] == expected


def to_canary(**match: object) -> dict[str, object]:
    return {"rules": [{"name": "wanted", "match": [match], "route": {"variant": "canary"}}]}


def test_a_unit_may_be_a_field_of_the_input(tree: Tree, caller: Caller) -> None:
    apply(tree, policy("table", unit={"from": [{"input": "x"}]}, split={"stable": 5000, "canary": 5000}))
    found = {n: caller.ask(tensor([n])).variant for n in range(64)}
    assert set(found.values()) == {"stable", "canary"}
    assert {n: caller.ask(tensor([n]), path=QUERY + "slow=1").variant for n in range(64)} == found
    # The body is JSON or binary, in whatever form: the same field, the same variant.
    for n in range(8):
        packed = json.dumps(
            {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}]}
        ).encode()
        header = f"inference-header-content-length: {len(packed)}\r\n"
        assert caller.ask(packed + n.to_bytes(8, "little"), header).variant == found[n]
    assert caller.ask(tensor([1, 2])).variant == "stable", "rows that disagree are no unit"
    assert caller.ask(b'{"inputs": 3}').status == 400


def test_a_rule_may_read_a_field_of_the_input(tree: Tree, caller: Caller) -> None:
    apply(tree, policy("table", **to_canary(input={"x": {"gte": 500}})))
    assert [caller.ask(tensor([n])).variant for n in (499, 500, 999)] == ["stable", "canary", "canary"]
    assert caller.ask(tensor([500, 501])).variant == "stable", "rows that disagree match no rule"


@pytest.mark.parametrize(
    ("match", "headers", "path"),
    [
        ({"headers": {"X-Qa": {"exact": "1"}}}, "x-qa: 1\r\n", ""),
        ({"cookies": {"qa": {"prefix": "on"}}}, "cookie: a=b; qa=only\r\n", ""),
        ({"query": {"qa": {"present": True}}}, "", QUERY + "qa="),
    ],
    ids=["header", "cookie", "query"],
)
def test_a_rule_forces_a_variant_for_who_matches_it(
    tree: Tree, caller: Caller, match: dict[str, object], headers: str, path: str
) -> None:
    apply(tree, policy("table", **to_canary(**match)))
    user = "x-user-id: ann\r\n"
    assert caller.ask(BODY, user).variant == "stable"
    assert caller.ask(BODY, user + headers, path).variant == "canary"
    assert caller.ask(BODY, user, QUERY + "other=1").variant == "stable"


@pytest.mark.parametrize("cookie", [True, False])
def test_a_user_keeps_the_variant_on_both_lanes(tree: Tree, caller: Caller, cookie: bool) -> None:
    source = {"cookie": "uid"} if cookie else {"header": "x-user-id"}
    apply(tree, policy("table", unit={"from": [source]}, split={"stable": "50%", "canary": "50%"}))
    name = "cookie: uid=" if cookie else "x-user-id: "
    fast = [caller.ask(BODY, f"{name}u{n}\r\n").variant for n in range(64)]
    assert [caller.ask(BODY, f"{name}u{n}\r\n", QUERY + "slow=1").variant for n in range(64)] == fast
    assert set(fast) == {"stable", "canary"}


@pytest.mark.parametrize("path", ["", QUERY + "slow=1"], ids=["fast", "slow"])
def test_blanks_around_a_header_are_no_part_of_it(tree: Tree, caller: Caller, path: str) -> None:
    unit = {"from": [{"header": "x-user-id"}]}
    apply(tree, policy("table", unit=unit, split={"stable": "50%", "canary": "50%"}))
    plain = [caller.ask(BODY, f"x-user-id: u{n}\r\n", path).variant for n in range(64)]
    assert [caller.ask(BODY, f"x-user-id: \t u{n} \t\r\n", path).variant for n in range(64)] == plain


def test_cookies_in_two_lines_are_one_list(tree: Tree, caller: Caller) -> None:
    """As proxies write what came in several fields of HTTP/2 (RFC 9113, 8.2.3)."""
    apply(tree, policy("table", unit={"from": [{"cookie": "uid"}]}, split={"stable": "50%", "canary": "50%"}))
    one = [caller.ask(BODY, f"cookie: a=b; uid=u{n}\r\n").variant for n in range(64)]
    assert [caller.ask(BODY, f"cookie: a=b\r\ncookie: uid=u{n}\r\n").variant for n in range(64)] == one
    assert set(one) == {"stable", "canary"}


def test_what_a_request_without_a_unit_gets(tree: Tree, caller: Caller) -> None:
    half = {"stable": 5000, "canary": 5000}
    unit = {"from": [{"header": "x-user-id"}]}
    first = apply(tree, policy("table", unit=unit, split=half))["generation"]
    assert {caller.ask(BODY).variant for _ in range(40)} == {"stable"}
    apply(tree, policy("table", unit=unit | {"missing": "random"}, split=half), generation=first)
    assert {caller.ask(BODY).variant for _ in range(40)} == {"stable", "canary"}
    apply(tree, policy("table", unit=unit | {"missing": "reject"}, split=half), generation=first + 1)
    refused = caller.ask(BODY)
    assert (refused.status, b"carries none" in refused.body) == (400, True)
    assert caller.ask(BODY, "x-user-id: ann\r\n").status == 200


def named(caller: Caller, headers: str = "", selector: str = "2") -> Answer:
    return caller.ask(BODY, headers, f"/v2/models/table/versions/{selector}/infer")


def test_whoever_names_a_version_is_served_outside_the_policy(tree: Tree, caller: Caller) -> None:
    apply(tree, policy("table"))
    answer = named(caller)
    assert (answer.status, answer.variant, answer.headers["x-tidegate-model"]) == (200, "-", "table:2")
    assert "x-prediction-id" not in answer.headers


def test_a_policy_may_leave_predictions_unnamed(tree: Tree, caller: Caller) -> None:
    without = {"ids": False}
    first = apply(tree, policy("table", feedback=without, split={"stable": 5000, "canary": 5000}))["generation"]
    few = [caller.ask(BODY, f"x-user-id: u{i}\r\nx-request-id: r{i}\r\n") for i in range(40)]
    assert {answer.variant for answer in few} == {"stable", "canary"}
    assert [answer.headers["x-request-id"] for answer in few] == [f"r{i}" for i in range(40)]
    assert not any("x-prediction-id" in answer.headers for answer in few)
    traced = caller.ask(BODY, "x-user-id: u1\r\ntraceparent: 00-1\r\n")
    assert ("x-prediction-id" in traced.headers, traced.status) == (False, 200)
    apply(tree, policy("table", split={"stable": 5000, "canary": 5000}), generation=first)
    assert all("x-prediction-id" in caller.ask(BODY, f"x-user-id: u{i}\r\n").headers for i in range(4))


def test_a_policy_may_refuse_who_names_a_version(tree: Tree, caller: Caller) -> None:
    first = apply(tree, policy("table", explicitVersions="refuse"))["generation"]
    answer = named(caller)
    assert (answer.status, b"ask without one" in answer.body) == (403, True)
    assert named(caller, selector="1").status == 403
    assert caller.ask(BODY, path="/v2/models/table/versions/2/infer?slow=1").status == 403
    assert named(caller, selector="9").status == 404
    assert caller.ask(BODY).status == 200
    apply(tree, policy("table"), generation=first)
    assert named(caller).status == 200


def test_of_two_editors_one_is_told_that_the_other_was_first(tree: Tree, caller: Caller) -> None:
    first = apply(tree, policy("table"))["generation"]
    apply(tree, policy("table", split={"stable": 9000, "canary": 1000}), generation=first)
    wanted = policy("table", split={"stable": 8000, "canary": 2000})
    path = "/admin/v1/policies/table"
    status, body = tree.call("PUT", path, wanted, admin=True, headers={"if-match": f'"{first}"'})
    assert status == 412
    told = json.loads(body)
    assert (told["code"], f"generation {first}, and {first + 1}" in told["error"]) == ("stale", True)
    assert tree.call("PUT", path, wanted, admin=True)[0] == 428
    back = tree.call("POST", f"{path}/rollback", {}, admin=True, headers={"if-match": f'"{first}"'})
    assert (back[0], json.loads(back[1])["code"]) == (412, "stale")
    assert [v["slots"] for v in json.loads(tree.get(path, admin=True)[1])["variants"]] == [9000, 1000]
    back = tree.call("POST", f"{path}/rollback", {}, admin=True, headers={"if-match": f'"{first + 1}"'})
    assert (back[0], json.loads(back[1])["generation"]) == (200, first + 2)


# ---- with keys ----


@pytest.fixture(scope="module")
def locked(repository: Path) -> Iterator[tuple[Tree, dict[str, str]]]:
    with serve(repository, "--workers", "1", server__auth="keys", models__quiet_period_ms=0) as running:

        def create(name: str, *arguments: str) -> str:
            words = [TIDEGATE, "keys", "create", name, *arguments, "--data-dir", str(running.data_dir)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        both = ("--scope", "view", "--scope", "route")
        found = {
            "app": create("app", "--scope", "infer"),
            "tester": create("tester", "--scope", "infer", "--scope", "route"),
            "ann": create("ann", *both, "--label", "release"),
            "ben": create("ben", *both, "--label", "release"),
            "eve": create("eve", *both),
        }
        running.key = found["eve"]
        running.until("the last key", lambda: running.get("/admin/v1/policies", admin=True)[0] == 200)
        yield running, found


def test_a_policy_may_want_the_scope_route_of_who_names_a_version(locked: tuple[Tree, dict[str, str]]) -> None:
    tree, keys = locked
    tree.key = keys["ann"]
    apply(tree, policy("table", explicitVersions="scope"))
    caller = Caller(tree.port, "table")
    app, tester = (f"authorization: Bearer {keys[name]}\r\n" for name in ("app", "tester"))
    for _ in range(3):
        # Again and again: what the fast lane remembers of a key must not open the door.
        assert caller.ask(BODY, app).status == 200
        refused = named(caller, app)
        assert (refused.status, b"scope route" in refused.body) == (403, True)
        assert named(caller, tester).headers["x-tidegate-model"] == "table:2"
    caller.close()
    tree.call("DELETE", "/admin/v1/policies/table?force=1", admin=True)


def test_who_applied_does_not_approve_and_the_label_counts(locked: tuple[Tree, dict[str, str]]) -> None:
    tree, keys = locked
    steps = [
        {"setWeight": 1000, "hold": {"approval": {"by": ["label:release"]}}},
        {"setWeight": 10000},
    ]
    lax = {"guardrails": [{"metric": "error_rate", "margin": {"absolute": 0.9}}]}
    document = policy("table", steps=steps, analysis=lax)
    document["spec"]["rollout"]["fourEyes"] = True
    tree.key = keys["ann"]
    apply(tree, document)
    until(tree, "table", "BAKING", "DECIDING")

    def said(who: str) -> tuple[int, str]:
        tree.key = keys[who]
        status, answer = command(tree, "table", "approve", reason="looks well")
        return status, json.dumps(answer)

    status, text = said("ann")
    assert (status, "ann" in text) == (409, True), text
    assert said("eve")[0] == 409, "without the label"
    assert said("app")[0] == 403
    tree.key = keys["ann"]
    assert command(tree, "table", "promote", reason="now")[0] == 409
    assert said("ben")[0] == 200
    caller = Caller(tree.port, "table")
    for n in range(200):
        assert caller.ask(BODY, f"authorization: Bearer {keys['app']}\r\nx-user-id: u{n}\r\n").status == 200
    caller.close()
    found = until(tree, "table", "PROMOTED")
    assert found["applied_by"] == "ann"
    assert found["approvals"][-1]["actor"] == "ben"

"""Policies that cannot be: refused whole by the admin port, with path and reason, and the old policy serves on."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests import models
from tests.tree import PATIENCE_S, Tree, serve

pytestmark = pytest.mark.process
PATH = "/admin/v1/policies/affine"
VARIANTS = '[{name: stable, model: "affine:1"}, {name: canary, model: "affine:2"}]'
HEAD = "apiVersion: tidegate/v1\nkind: TrafficPolicy\nmetadata: {name: affine}\nspec:\n"


def document(variants: str = VARIANTS, split: str = "{stable: 10000}", more: str = "", head: str = HEAD) -> str:
    return f"{head}  variants: {variants}\n  unit: {{from: [{{header: x-user-id}}]}}\n  split: {split}\n{more}"


def rollout(steps: str = "[{setWeight: 100}]", rails: str = "[{metric: error_rate}]", more: str = "") -> str:
    analysis = f"    analysis: {{guardrails: {rails}}}\n"
    return document(more=f"  rollout:\n    to: canary\n    steps: {steps}\n{analysis}{more}")


GOOD = document()
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b]\n"

REFUSED = [
    # shares
    pytest.param(document(split='{stable: "89%", canary: "10%"}'), 400, "spec.split: the sum is 99 %", id="sum-99"),
    pytest.param(document(split='{stable: "91%", canary: "10%"}'), 400, "spec.split: the sum is 101 %", id="sum-101"),
    pytest.param(document(split='{stable: "100.0000001%"}'), 400, "spec.split", id="sum-a-little-more"),
    pytest.param(document(split="{stable: 10001, canary: -1}"), 400, "spec.split", id="negative"),
    pytest.param(document(split="{stable: 1e308}"), 400, "spec.split", id="huge"),
    pytest.param(document(split="{stable: .nan}"), 400, "spec.split", id="nan"),
    pytest.param(document(split='{stable: "10000"}'), 400, "spec.split", id="text"),
    pytest.param(document(split="{stable: true}"), 400, "spec.split", id="bool"),
    pytest.param(document(split="{stable: 0, canary: 0}"), 400, "spec.split: the sum is 0", id="all-0"),
    pytest.param(document(split="{stable: 9000, canary: 500, other: 500}"), 400, "spec.split.other", id="unknown"),
    # variants
    pytest.param(document("[]"), 400, "spec.variants", id="no-variants"),
    pytest.param(
        document("[" + ", ".join(f'{{name: v{i}, model: "affine:{i + 1}"}}' for i in range(1001)) + "]"),
        400, "spec.variants: expected", id="1001-variants",
    ),
    pytest.param(
        document('[{name: stable, model: "affine:1"}, {name: stable, model: "affine:2"}]'), 400, "spec.variants",
        id="same-name",
    ),
    pytest.param(
        document('[{name: stable, model: "affine:1"}, {name: canary, model: "affine:1"}]'), 400, "spec.variants",
        id="same-model",
    ),
    pytest.param(
        document('[{name: stable, model: "affine:1"}, {name: canary, model: "affine@first"}]'), 409,
        "variant 'stable': version 1 is another variant", id="same-version-by-alias",
    ),
    pytest.param(
        document('[{name: stable, model: "affine:1"}, {name: canary, model: "affine:9"}]'), 409,
        "not_ready: 'affine' has no version 9", id="unknown-version",
    ),
    pytest.param(
        document('[{name: stable, model: "affine:1"}, {name: canary, model: "affine:4"}]'), 409,
        "not_ready: version 4", id="failed-version",
    ),
    pytest.param(
        document('[{name: stable, model: "affine:1"}, {name: canary, model: "other:1"}]'), 400,
        "spec.variants[1].model", id="another-model",
    ),
    pytest.param(
        document('[{name: stable, model: "affine:1"}, {name: canary, model: "affine:3"}]'), 409,
        "contract_mismatch: variant 'canary'", id="another-contract",
    ),
    # units
    pytest.param(GOOD.replace("unit: {", 'unit: {salt: "", '), 400, "spec.unit.salt", id="salt-empty"),
    pytest.param(GOOD.replace("unit: {", f"unit: {{salt: {'s' * 200}, "), 400, "spec.unit.salt", id="salt-long"),
    pytest.param(GOOD.replace("unit: {", f"unit: {{salt: {'s' * 2**20}, "), 413, "65536", id="salt-1-MiB"),
    pytest.param(GOOD.replace("[{header: x-user-id}]", "{header: x-user-id}"), 400, "spec.unit.from", id="unit-object"),
    # rollouts
    pytest.param(rollout("[{setWeight: 10001}]"), 400, "spec.rollout.steps[0].setWeight", id="step-above-all"),
    pytest.param(rollout("[{setWeight: 500}, {setWeight: 100}]"), 400, "spec.rollout.steps", id="ramp-falls"),
    pytest.param(
        rollout(
            more="    window: {freeze: [{from: 2030-01-02T00:00:00+01:00, until: 2030-01-01T00:00:00+01:00}]}\n"
        ),
        400, "spec.rollout.window.freeze[0]", id="freeze-ends-before-it-begins",
    ),
    pytest.param(
        rollout(more="    window: {freeze: [{from: 2030-01-01T00:00:00, until: 2030-01-02T00:00:00}]}\n"),
        400, "spec.rollout.window.freeze[0].from", id="a-date-without-zone",
    ),
    pytest.param(
        rollout(rails="[{metric: error_rate, margin: {ratio: .nan}}]"), 400,
        "spec.rollout.analysis.guardrails[0].margin.ratio", id="margin-nan",
    ),
    pytest.param(
        rollout(rails="[{metric: error_rate, margin: {ratio: -1}}]"), 400,
        "spec.rollout.analysis.guardrails[0].margin.ratio", id="margin-negative",
    ),
    pytest.param(
        rollout("[{setWeight: 100, hold: {minDuration: 0s}}]"), 400, "spec.rollout.steps[0].hold.minDuration",
        id="window-0",
    ),
    pytest.param(
        rollout("[{setWeight: 100, hold: {minSamples: 0}}]"), 400, "spec.rollout.steps[0].hold.minSamples",
        id="samples-0",
    ),
    # shadow
    pytest.param(document(more="  shadow: {to: stable, percent: 10}\n"), 400, "spec.shadow", id="shadow-to-itself"),
    # the document
    pytest.param(GOOD.replace("split:", "wieghts:"), 400, "spec.wieghts: unknown field", id="misspelt"),
    pytest.param(GOOD + "  bandit: {}\n", 400, "spec.bandit: bandits are not offered", id="not-offered"),
    pytest.param(GOOD.replace("tidegate/v1", "tidegate/v2"), 400, "apiVersion", id="another-schema"),
    pytest.param(GOOD.replace("{name: affine}", "{name: other}"), 400, "metadata.name", id="another-name"),
    pytest.param(GOOD.replace("{name: affine}", "NO"), 400, "metadata: expected a mapping", id="metadata-text"),
    pytest.param("", 400, "expected a mapping, got nothing", id="empty"),
    pytest.param("- a\n", 400, "expected a mapping", id="list"),
    pytest.param("null\n", 400, "expected a mapping", id="null"),
    pytest.param(GOOD[: len(GOOD) // 2], 400, "line", id="cut-off"),
    # YAML
    pytest.param(
        GOOD.replace("{name: affine}", "{name: affine, labels: {release: 1.10}}"), 400, "metadata.labels.release",
        id="version-1.10",
    ),
    pytest.param(GOOD + "  split: {canary: 10000}\n", 400, "line 8: key 'split' stands twice", id="duplicate-key"),
    pytest.param(BOMB, 400, "line 1: anchors", id="alias-bomb"),
    pytest.param("a: !!python/object/apply:os.system [id]\n", 400, "line 1: tags", id="tag"),
    pytest.param(GOOD + "---\n" + GOOD, 400, "second document", id="two-documents"),
    pytest.param("a: " + "[" * 100 + "]" * 100, 400, "nested deeper", id="deep"),
    pytest.param("\xff", 400, "not UTF-8", id="not-UTF-8"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("bad_policies") / "models"
    aliases = "aliases: {first: 1}\nversion_policy: {specific: [1]}\n"
    models.write(folder, "affine", models.affine(2.0), 1, aliases)
    models.write(folder, "affine", models.affine(3.0), 2)
    models.write(folder, "affine", models.affine(3.0, width=3), 3)
    models.write(folder, "affine", b"this is no model", 4)
    models.write(folder, "other", models.affine(5.0))
    with serve(folder, "--workers", "1", models__quiet_period_ms=0) as running:
        status, _ = put(running, GOOD, {"if-none-match": "*"})
        assert status == 200
        yield running


def put(tree: Tree, text: str, headers: dict[str, str], path: str = PATH) -> tuple[int, dict[str, Any]]:
    data = text.encode("latin-1" if text == "\xff" else "utf-8")
    request = urllib.request.Request(f"http://127.0.0.1:{tree.admin_port}{path}", data, headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def seen(tree: Tree) -> dict[str, Any]:
    status, body = tree.get(PATH, admin=True)
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


def etag(tree: Tree) -> dict[str, str]:
    return {"if-match": f'"{seen(tree)["generation"]}"'}


@pytest.mark.parametrize(("text", "status", "told"), REFUSED)
def test_it_is_refused_whole_and_the_old_policy_serves_on(tree: Tree, text: str, status: int, told: str) -> None:
    before = seen(tree)
    found, body = put(tree, text, etag(tree))
    assert found == status, body
    assert told in body["error"]
    assert "Traceback" not in body["error"]
    assert seen(tree) == before
    assert tree.infer("affine", [1.0, 2.5])["outputs"][0]["data"] == [2.0, 5.0]
    assert "control_failed" not in tree.log


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        ({}, 428, "send If-Match with the ETag"),
        ({"if-match": '"77"'}, 412, "expected generation 77"),
        ({"if-none-match": "*"}, 412, "expected generation 0"),
        ({"if-match": 'W/"1"'}, 412, "If-Match: expected the ETag"),
        ({"if-match": '"77", "78"'}, 412, "expected generation 77 or 78"),
        ({"if-match": '"1" "2"'}, 400, "If-Match: expected the ETag"),
        ({"if-match": '"0"'}, 412, "If-None-Match: * makes a first one"),
    ],
)
def test_who_has_not_seen_what_is_in_force_changes_nothing(
    tree: Tree, headers: dict[str, str], status: int, told: str
) -> None:
    before = seen(tree)
    found, body = put(tree, document(split="{stable: 9000, canary: 1000}"), headers)
    assert found == status
    assert told in body["error"]
    assert seen(tree) == before
    if told.startswith("expected generation"):
        assert body["current"]["generation"] == before["generation"]
        assert "units that move: 10 %" in body["diff"]


def test_who_deletes_what_was_changed_since_deletes_nothing(tree: Tree) -> None:
    before = seen(tree)
    for tag in ('"77"', 'W/"1"'):
        status, body = tree.call("DELETE", PATH, admin=True, headers={"if-match": tag})
        assert (status, json.loads(body)["code"]) == (412, "stale")
    assert seen(tree) == before


def test_the_same_document_again_changes_nothing(tree: Tree) -> None:
    before = seen(tree)
    status, body = put(tree, GOOD, etag(tree))
    assert (status, body["changed"], body["generation"]) == (200, False, before["generation"])


@pytest.mark.parametrize("kind", ["TrafficPolicy", "Monitor"])
def test_any_generation_is_one_that_exists(tree: Tree, kind: str) -> None:
    """RFC 9110, 13.1.1: `If-Match: *` is false where there is nothing. It was refused as no tag at all."""
    path = f"/admin/v1/{'policies' if kind == 'TrafficPolicy' else 'monitors'}/other"
    head = f"apiVersion: tidegate/v1\nkind: {kind}\nmetadata: {{name: other}}\n"
    more = {
        "TrafficPolicy": '{variants: [{name: NAME, model: "other:1"}], split: {NAME: 10000}}',
        "Monitor": "{window: ROWS}",
    }
    text = f"{head}spec: {more[kind]}\n"
    first = text.replace("NAME", "a").replace("ROWS", "{rows: 500}")
    second = text.replace("NAME", "b").replace("ROWS", "{rows: 600}")
    status, body = put(tree, first, {"if-match": "*"}, path)
    assert (status, body["code"], "there is none" in body["error"]) == (412, "stale", True), body
    status, body = put(tree, first, {"if-match": '"0"'}, path)
    assert (status, body["code"]) == (412, "stale"), body
    assert put(tree, first, {"if-none-match": "*"}, path)[0] == 200
    assert put(tree, second, {"if-none-match": "*"}, path)[0] == 412
    status, body = put(tree, second, {"if-match": "*"}, path)
    assert (status, body["changed"]) == (200, True), body
    several = {"if-match": f'"77", "{body["generation"]}"'}
    status, body = put(tree, first, several, path)
    assert (status, body["changed"]) == (200, True), body
    status, body = put(tree, second, several, path)
    assert (status, body["code"]) == (412, "stale"), body
    assert tree.call("DELETE", path, admin=True, headers={"if-match": "*"})[0] == 200
    assert tree.call("DELETE", path, admin=True, headers={"if-match": "*"})[0] == 404


def test_a_variant_may_have_no_share(tree: Tree) -> None:
    assert put(tree, document(split="{stable: 10000, canary: 0}"), etag(tree))[0] == 200
    assert put(tree, GOOD, etag(tree))[0] == 200


def test_the_country_no_is_a_country(tree: Tree) -> None:
    rule = "  rules: [{name: norway, match: [{headers: {x-country: {exact: NO}}}], route: {variant: canary}}]\n"
    assert put(tree, document(more=rule), etag(tree))[0] == 200
    for country, factor in (("NO", 3.0), ("false", 2.0)):
        item = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
        data = json.dumps({"inputs": [item]}).encode()
        request = urllib.request.Request(f"{tree.url}/v2/models/affine/infer", data, {"x-country": country})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert json.loads(answer.read())["outputs"][0]["data"] == [factor, 2 * factor]
    assert put(tree, GOOD, etag(tree))[0] == 200


def test_a_policy_with_a_rollout_under_way_is_not_deleted_by_the_way(tree: Tree) -> None:
    assert put(tree, rollout(), etag(tree))[0] == 200
    tree.until("the rollout", lambda: seen(tree)["rollout"] not in (None, "DRAFT"))
    status, body = tree.call("DELETE", PATH, admin=True)
    assert status == 409
    assert b"is under way" in body
    for kind, sent, said in (
        ("promote", {"idenity": "0"}, "did you mean 'identity'?"),
        ("promote", {"step": "1"}, "step, a whole number"),
        ("pause", {"identity": 5}, "identity, a text"),
        ("pause", {"identity": "another"}, "another rollout has begun"),
        ("resume", {"reason": ["no"]}, "reason: expected a text"),
    ):
        status, body = tree.call("POST", f"/admin/v1/rollouts/affine/{kind}", sent, admin=True)
        assert (status, said in body.decode()) == (409 if said.startswith("another") else 400, True), body
    status, body = tree.call("POST", f"{PATH}/kill", {"variant": "canary", "kiled": True}, admin=True)
    assert (status, b"did you mean 'killed'?" in body) == (400, True)
    status, body = tree.call("POST", "/admin/v1/rollouts/affine/abort?reason=storm", {"raeson": "?"}, admin=True)
    assert (status, b"storm" in body) == (200, True), "stopping harm asks for no good spelling"
    status, body = tree.call("DELETE", f"{PATH}?force=true", admin=True)
    assert (status, json.loads(body)) == (200, {"answers": 1})
    assert tree.get(PATH, admin=True)[0] == 404
    tree.until("version 1 by default", lambda: tree.infer("affine", [1.0, 2.0])["model_version"] == "1")
    assert put(tree, GOOD, {"if-none-match": "*"})[0] == 200

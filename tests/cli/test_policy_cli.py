"""Policies, rollouts and the store on the command line, against a real server."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.cli.test_cli import run
from tests.store.places import RedisServer
from tests.tree import PATIENCE_S, TIDEGATE, Tree, serve

pytestmark = pytest.mark.process

HEAD = """\
apiVersion: tidegate/v1
kind: TrafficPolicy
metadata: {name: affine}
spec:
  variants: [{name: stable, model: "affine:1"}, {name: canary, model: "affine:2"}]
  unit: {from: [{header: x-user-id}]}
"""
ALONE = (
    "apiVersion: tidegate/v1\nkind: TrafficPolicy\nmetadata: {name: affine}\n"
    'spec: {variants: [{name: stable, model: "affine:1"}], split: {stable: 10000}}\n'
)
AB = HEAD + "  split: {stable: 9000, canary: 1000}\n"
CANARY = HEAD + (
    "  split: {stable: 10000}\n"
    "  rollout:\n    to: canary\n    steps: [{setWeight: 1000, hold: {minDuration: 1h}}, {setWeight: 5000}]\n"
    "    analysis: {guardrails: [{metric: error_rate}]}\n"
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy_cli") / "models"
    models.write(folder, "affine", models.affine(2.0), 1)
    models.write(folder, "affine", models.affine(3.0), 2)
    return folder


@pytest.fixture(scope="module")
def tree(repository: Path) -> Iterator[Tree]:
    with serve(repository, "--workers", "1", models__quiet_period_ms=0) as running:
        yield running


@pytest.fixture(autouse=True)
def no_policy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test starts without a policy, where it has the common server."""
    yield
    if "tree" in request.fixturenames:
        running: Tree = request.getfixturevalue("tree")
        running.call("DELETE", "/admin/v1/policies/affine?force=1", admin=True)


def applied(tree: Tree, text: str = AB, *more: str) -> int:
    """Its generation: one is never given twice, also after a delete."""
    done = run("policy", "apply", "-", *more, tree=tree, stdin=text)
    assert done.code == 0, done
    return int(json.loads(tree.get("/admin/v1/policies/affine", admin=True)[1])["generation"])


def plan_of(tree: Tree) -> bytes:
    """The plan of the document that is in force."""
    _, body = tree.get("/admin/v1/policies/affine", admin=True)
    return tree.call("POST", "/admin/v1/policies/affine/plan", json.loads(body)["document"], admin=True)[1]


# ---- documents ----


def test_validate_names_every_problem_with_its_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(AB)
    bad.write_text(AB.replace("9000", "900").replace("unit", "untis"))
    done = run("validate", str(good), str(bad))
    assert done.code == 3
    assert f"{good}: ok\n" in done.out
    assert f"{bad}: line 7: spec.split: the sum is 1,900 slots" in done.out
    assert f"{bad}: line 6: spec.untis: unknown field; did you mean 'unit'?" in done.out
    assert done.err == "tidegate: 1 of 2 documents cannot be used\n"
    found = json.loads(run("validate", "--json", str(bad)).out)
    assert [one["line"] for one in found[0]["problems"]] == [6, 7]
    assert run("validate", str(tmp_path / "none.yaml")).code == 2


def test_the_schema_is_that_of_the_document() -> None:
    assert run("policy", "schema").json()["title"] == "TrafficPolicy"


# ---- policies ----


def test_a_document_comes_back_as_it_can_be_applied_again(tree: Tree) -> None:
    text = AB.replace("unit:", 'rules: [{name: n, match: [{headers: {x-c: {in: ["NO", "1.10", "a: b"]}}}], '
                      "route: {variant: canary}}]\n  unit:")  # fmt: skip
    first = applied(tree, text, "--reason", "zuerst überprüft")
    printed = run("policy", "get", "affine", "-o", "yaml", tree=tree).out
    again = run("policy", "apply", "-", "--json", tree=tree, stdin=printed).json()
    assert (again["changed"], again["generation"], again["in_force_everywhere"]) == (False, first, True)
    shown = run("policy", "get", "affine", tree=tree).out
    assert re.search(rf"generation {first}, revision \d+, applied by local", shown)
    assert "canary    2         10 %" in shown
    listed = run("policy", "ls", tree=tree).out
    assert "stable 90 %, canary 10 %" in listed
    assert run("policy", "ls", "--json", tree=tree).json()["policies"][0]["name"] == "affine"


def test_who_was_slower_is_shown_what_is_in_force(tree: Tree, tmp_path: Path) -> None:
    first = applied(tree)
    mine = tmp_path / "mine.yaml"
    mine.write_text(AB.replace("9000", "5000").replace("canary: 1000", "canary: 5000"))
    applied(tree, AB.replace("9000", "8000").replace("canary: 1000", "canary: 2000"))
    done = run("policy", "apply", str(mine), "--if-match", str(first), tree=tree)
    assert done.code == 1
    assert f"expected generation {first}, and {first + 1} is in force" in done.err
    assert f"local applied generation {first + 1}" in done.err
    assert "-    stable: 8000\n-    canary: 2000\n+    stable: 5000\n+    canary: 5000\n" in done.err
    assert "units that move: 30 %" in done.err
    assert run("policy", "apply", str(mine), "--force", tree=tree).code == 0
    assert run("policy", "apply", str(mine), "--force", "--if-match", "1", tree=tree).code == 2


def test_a_bad_document_is_refused_with_its_lines(tree: Tree) -> None:
    applied(tree)
    done = run("policy", "apply", "-", tree=tree, stdin=AB.replace("9000", "900"))
    assert done.code == 1
    assert "nothing has changed:\n  line 7: spec.split: the sum is 1,900 slots" in done.err
    assert run("policy", "plan", "-", tree=tree, stdin=AB.replace("9000", "900")).code == 3


def test_a_plan_says_who_moves_and_how_long_it_takes(tree: Tree) -> None:
    applied(tree)
    done = run("policy", "plan", "-", tree=tree, stdin=CANARY)
    assert done.code == 0, done
    assert "units that move: 10 %" in done.out
    assert "bad rate of stable 1 % (assumed: 0 counted requests are too few to know it)" in done.out
    assert "distinct units that takes; of canary + stable" in done.out
    assert "how many units come is not known: the times assume that every request is a new one" in done.out
    assert "finds 1.5x" in done.out
    assert "promotes" in done.out
    assert "times are not known" in done.out
    missing = run("policy", "plan", "-", "--json", tree=tree, stdin=CANARY.replace("affine:2", "affine:7"))
    assert missing.code == 3
    assert "no version 7" in json.loads(missing.out)["problems"][0]


def test_a_plan_warns_of_inputs_that_the_model_does_not_have(tree: Tree) -> None:
    text = AB.replace("{header: x-user-id}", "{input: nosuch}")
    told = "the unit reads the input 'nosuch', which no request can have; what can be read: nothing"
    assert f"  warning: {told}\n" in run("policy", "plan", "-", tree=tree, stdin=text).out
    assert run("policy", "plan", "-", "--json", tree=tree, stdin=text).json()["warnings"] == [told]
    applied = run("policy", "apply", "-", tree=tree, stdin=text)
    assert (applied.code, f"warning: {told}\n" in applied.out) == (0, True), applied


def test_a_plan_says_what_signals_will_do(tree: Tree) -> None:
    text = CANARY.replace("[{metric: error_rate}]", "[{metric: error_rate}], signals: [{metric: compute_time}]")
    done = run("policy", "plan", "-", tree=tree, stdin=text)
    assert done.code == 0, done
    assert "  signal compute_time: holds while its executions last longer than p99 of stable's" in done.out
    refused = run(
        "policy", "plan", "-", tree=tree, stdin=text.replace("compute_time}", "compute_time, outsideAlpha: true}")
    )
    assert refused.code == 3
    assert "compute_time holds and never rolls back" in refused.err


def test_a_plan_says_never_where_it_is_never(tree: Tree) -> None:
    # A margin of 4 times: harm of 1.5 to 3 times is none, and no number of requests would find it.
    text = CANARY.replace("{metric: error_rate}", "{metric: error_rate, margin: {ratio: 4}}")
    found = run("policy", "plan", "-", "--json", tree=tree, stdin=text).json()
    assert found["steps"][0]["detect_canary_requests"]["3x"] is None
    assert "never" in run("policy", "plan", "-", tree=tree, stdin=text).out


def test_a_plan_of_a_rollout_that_goes_on_moves_nobody(tree: Tree) -> None:
    applied(tree, CANARY)
    tree.until("the first step", lambda: "canary 10 %" in run("policy", "ls", tree=tree).out)
    longer = run("policy", "plan", "-", "--json", tree=tree, stdin=CANARY.replace("1h", "2h")).json()
    assert (longer["moved_slots"], longer["new_rollout"]) == (0, [])
    assert longer["lines"] == ["units that move: 0 %", "spec.rollout differs"]
    other = run(
        "policy", "plan", "-", "--json", tree=tree, stdin=CANARY.replace("error_rate", "latency, quantile: 0.99")
    )
    assert other.json()["new_rollout"]


def test_a_diff_shows_lines_and_what_they_mean(tree: Tree) -> None:
    applied(tree)
    other = AB.replace("9000", "8000").replace("canary: 1000", "canary: 2000")
    done = run("policy", "diff", "-", tree=tree, stdin=other)
    assert "-    stable: 9000\n-    canary: 1000\n+    stable: 8000\n+    canary: 2000\n" in done.out
    assert "units that move: 10 %" in done.out
    assert "the documents say the same" in run("policy", "diff", "-", tree=tree, stdin=AB).out


def test_kill_rollback_and_delete(tree: Tree) -> None:
    first = applied(tree)
    applied(tree, AB.replace("9000", "5000").replace("canary: 1000", "canary: 5000"))
    done = run("policy", "kill", "affine", "canary", "--reason", "smoke", tree=tree)
    assert "canary gets nothing, on every worker" in done.out
    assert "canary 0 %" in run("policy", "ls", tree=tree).out
    assert tree.counter("tidegate_policy_weight_ratio", kind="in_force", variant="canary") == 0
    assert tree.counter("tidegate_policy_weight_ratio", kind="intended", variant="canary") == 0.5
    assert run("policy", "kill", "affine", "canary", "--undo", tree=tree).code == 0
    assert "cannot be killed" in run("policy", "kill", "affine", "stable", tree=tree).err
    done = run("policy", "rollback", "affine", tree=tree)
    assert f"is rolled back, on every worker; generation {first + 2}" in done.out
    assert "stable 90 %" in run("policy", "ls", tree=tree).out
    done = run("policy", "rollback", "affine", "--to", str(first + 1), "--json", tree=tree)
    assert done.json()["generation"] == first + 3
    assert (
        "version 2 answers everybody, and that is variant 'canary'" in run("policy", "delete", "affine", tree=tree).err
    )
    applied(tree, ALONE)
    refused = run("policy", "delete", "affine", tree=tree)
    assert refused.code == 1
    assert "version 2 answers everybody, and that is no variant of it" in refused.err
    assert "to {specific: [1]} first, or say force" in refused.err
    gone = run("policy", "delete", "affine", "--force", tree=tree)
    assert gone.out == "affine has no policy any more; version 2 answers\n"
    assert "no policies" in run("policy", "ls", tree=tree).out
    assert "no policy 'affine'" in run("policy", "delete", "affine", tree=tree).err


def test_the_metrics_page_counts_what_callers_saw(tree: Tree) -> None:
    before = tree.counter("tidegate_evidence_requests_total", outcome="ok")
    applied(tree, AB.replace("9000", "5000").replace("canary: 1000", "canary: 5000"))
    revision = json.loads(tree.get("/admin/v1/policies/affine", admin=True)[1])["revision"]
    assert tree.counter("tidegate_policy_revision") == tree.counter("tidegate_policy_acked_revision") == revision
    item = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    data = json.dumps({"inputs": [item]}).encode()
    seen: Counter[str] = Counter()
    for user in range(60):
        headers = {"x-user-id": str(user)} if user % 3 else {}
        request = urllib.request.Request(f"{tree.url}/v2/models/affine/infer", data, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            seen[answer.headers["x-tidegate-variant"] + ("" if headers else " by default")] += 1
    for variant in ("stable", "canary"):
        assert seen[variant] > 5
        labels = {"model": "affine", "variant": variant}
        assert tree.counter("tidegate_evidence_requests_total", **labels, outcome="ok") - before == seen[variant]
        assert tree.counter("tidegate_evidence_routed_total", **labels) - before == seen[variant]
    assert tree.counter("tidegate_uncounted_requests_total", variant="stable") == seen["stable by default"] == 20
    assert tree.counter("tidegate_evidence_requests_total", outcome="bad") == 0
    tree.until("the rate", lambda: b'"requests_per_second":0.0' not in plan_of(tree))
    assert json.loads(plan_of(tree))["live"]["requests_per_second"] > 0


# ---- rollouts ----


def test_a_rollout_is_followed_in_a_pipe_and_told_what_to_do(tree: Tree) -> None:
    applied(tree, CANARY)
    tree.until("the first step", lambda: "BAKING" in run("rollout", "ls", tree=tree).out)
    for command, told, state in (("pause", "paused", "PAUSED"), ("resume", "", "BAKING")):
        done = run("rollout", command, "affine", "--reason", "lunch", "--json", tree=tree)
        assert told in done.json()["text"]
        assert done.json()["rollout"]["state"] in (state, "HOLDING", "PROPAGATING")
    shown = run("rollout", "status", "affine", tree=tree).out
    for part in (
        "◐ 10 %",
        "○ 50 %",
        "canary gets ██",
        "of 1 h under watch",
        "error_rate",
        "of 100",
        "of 20",
        "APPLYING",
    ):
        assert part in shown, shown
    facts = run("rollout", "status", "affine", "--json", tree=tree).json()
    assert facts["weights"] == {"intended": {"stable": 0.9, "canary": 0.1}, "in_force": {"stable": 0.9, "canary": 0.1}}
    assert [step["hold"] for step in facts["plan_of_steps"]] == ["1 h", ""]
    assert facts["guardrails"][0]["harm"]["threshold"] == pytest.approx(4.605, abs=1e-3)
    environment = os.environ | {"TIDEGATE_ADMIN_URL": f"http://127.0.0.1:{tree.admin_port}"}
    command = [TIDEGATE, "rollout", "status", "affine", "--watch"]
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as watching:
        assert watching.stdout is not None
        assert "affine BAKING step 1/2 canary 10 %" in watching.stdout.readline()
        assert run("rollout", "abort", "affine", "--reason", "no good", tree=tree).code == 0
        out, err = watching.communicate(timeout=PATIENCE_S)
    assert watching.returncode == 3
    assert "affine ROLLED_BACK" in out.splitlines()[-1]
    assert err == "tidegate: affine was rolled back: no good\n"
    assert "say why" in run("rollout", "retry", "affine", tree=tree).err
    assert run("rollout", "retry", "affine", "--reason", "fixed", tree=tree).code == 0


def test_a_rollout_is_followed_in_a_terminal(tree: Tree) -> None:
    applied(tree, CANARY)
    tree.until("the first step", lambda: "BAKING" in run("rollout", "ls", tree=tree).out)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = os.environ | {"TIDEGATE_ADMIN_URL": f"http://127.0.0.1:{tree.admin_port}", "TERM": "xterm-256color"}
    command = [TIDEGATE, "rollout", "status", "affine", "--watch"]
    seen: list[bytes] = []
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as watching:
        os.close(theirs)
        reader = threading.Thread(target=_drain, args=(ours, seen))
        reader.start()
        tree.until("a picture", lambda: b"guardrails" in b"".join(seen))
        assert run("rollout", "abort", "affine", "--reason", "no good", tree=tree).code == 0
        assert watching.wait(PATIENCE_S) == 3
        reader.join(PATIENCE_S)
    os.close(ours)
    picture = b"".join(seen).decode()
    assert "BAKING" in picture
    assert "ROLLED_BACK" in picture
    assert "affine was rolled back: no good" in picture


def _drain(descriptor: int, into: list[bytes]) -> None:
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            return
        into.append(part)


def test_what_is_not_there_is_told(tree: Tree) -> None:
    assert "no policy 'affine'" in run("rollout", "status", "affine", tree=tree).refused(1)
    assert "no policy 'affine'" in run("rollout", "status", "affine", "--watch", tree=tree).refused(1)
    assert "no rollouts" in run("rollout", "ls", tree=tree).out
    assert "no policy 'affine'" in run("policy", "get", "affine", tree=tree).refused(1)
    assert "no server answers" in run("policy", "ls").refused(1)
    assert "is that the data port?" in run("policy", "ls", "--admin-url", tree.url).refused(1)


# ---- the store ----


def test_a_copy_of_the_store_comes_back_into_an_empty_data_folder(tree: Tree, repository: Path, tmp_path: Path) -> None:
    applied(tree, CANARY)
    assert run("store", "check", tree=tree).code == 0
    copy = tmp_path / "copy"
    assert str(copy) in run("store", "backup", str(copy), tree=tree).out
    assert "never replaces" in run("store", "backup", str(copy), tree=tree).refused(1)
    assert "does not find its folder" in run("store", "backup", str(tmp_path / "no" / "copy"), tree=tree).refused(1)
    assert "is in use by process" in run("store", "restore", str(copy), "--data-dir", str(tree.data_dir)).refused(2)
    data = tmp_path / "data"
    assert run("store", "restore", str(copy), "--data-dir", str(data)).code == 0
    assert "nothing was restored" in run("store", "restore", str(copy), "--data-dir", str(data)).refused(1)
    (tmp_path / "page").write_text("<html>")
    assert run("store", "restore", str(tmp_path / "page"), "--data-dir", str(tmp_path / "other")).code == 1
    assert run("store", "restore", str(tmp_path / "none"), "--data-dir", str(tmp_path / "other")).code == 2
    with serve(repository, "--workers", "1", "--data-dir", str(data), models__quiet_period_ms=0) as second:
        view = run("policy", "get", "affine", "--json", tree=second).json()
        assert view["document"]["spec"]["rollout"]["to"] == "canary"
        assert run("store", "check", "--json", tree=second).json()["problems"] == []


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed: make tools")
def test_two_nodes_with_one_redis_tell_the_same_and_a_copy_fills_an_empty_one(repository: Path, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path, "--save", "")
    redis.start()
    arguments = ("--workers", "1", "--store", redis.url)
    try:
        with (
            serve(repository, *arguments, models__quiet_period_ms=0) as one,
            serve(repository, *arguments, models__quiet_period_ms=0) as two,
        ):
            applied(one, CANARY)
            two.until("the policy", lambda: "BAKING" in run("rollout", "ls", tree=two).out)
            leads = [run("rollout", "status", "affine", "--json", tree=tree).json()["leads"] for tree in (one, two)]
            assert sorted(leads) == [False, True]
            for tree in (one, two):
                aborted = run("rollout", "abort", "affine", "--reason", "no good", tree=tree)
                assert "it is ROLLED_BACK" in aborted.out, "an abort is answered when every node has it"
                assert run("rollout", "retry", "affine", "--reason", "fixed", tree=tree).code == 0
            copy = str(tmp_path / "copy")
            assert run("store", "backup", copy, tree=two).code == 0
            assert run("store", "check", tree=one).code == 0
        data = str(tmp_path / "data")
        assert "nothing was restored" in run(
            "store", "restore", copy, "--store", redis.url, "--data-dir", data
        ).refused(1)
        assert run("store", "restore", copy, "--store", f"{redis.url}/1", "--data-dir", data).code == 0
    finally:
        redis.stop()


# ---- the folder ----


def test_a_folder_of_policies_is_followed(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "affine.yaml").write_text(AB)
    arguments = ("--workers", "1", "--policy-dir", str(folder))
    with serve(repository, *arguments, models__quiet_period_ms=0) as tree:
        tree.until("the policy", lambda: tree.get("/admin/v1/policies/affine", admin=True)[0] == 200)
        assert f"policies and monitors are those in {folder}" in tree.log
        assert "file:affine.yaml" in run("policy", "ls", tree=tree).out
        refused = run("policy", "apply", "-", tree=tree, stdin=CANARY)
        assert "belongs to 'affine.yaml' in the policy folder" in refused.refused(1)
        assert run("policy", "kill", "affine", "canary", tree=tree).code == 0
        (folder / "affine.yaml").write_text(AB[:-20])
        tree.until("the refusal", lambda: tree.logged("policy_file_refused") != [])
        assert "problem: affine.yaml: line 8: " in run("policy", "get", "affine", tree=tree).out
        assert tree.counter("tidegate_policy_files_refused") == 1
        assert tree.infer("affine", [1.0, 2.0])["outputs"][0]["data"] == [2.0, 4.0]
        os.kill(tree.control_pid(), 9)
        (folder / "affine.yaml").write_text(AB.replace("9000", "6000").replace("canary: 1000", "canary: 4000"))
        tree.until(
            "the new document", lambda: b'"generation":2' in tree.get("/admin/v1/policies/affine", admin=True)[1]
        )
        assert run("policy", "kill", "affine", "canary", "--undo", tree=tree).code == 0
        assert "canary 40 %" in run("policy", "ls", tree=tree).out
        (folder / "affine.yaml").unlink()
        tree.until("the orphan", lambda: tree.logged("policy_orphaned") != [])
        assert run("policy", "apply", "-", tree=tree, stdin=AB).code == 0
        (folder / "other.yaml").write_text("a: [\n")
        tree.until("the second refusal", lambda: len(tree.logged("policy_file_refused")) == 2)
        assert "other.yaml: line" in run("policy", "ls", tree=tree).out

"""Acts two and four of the demo: the versions that must fail do, customers count right, and the checks can fail."""

import io
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from examples.credit import bank, build, crowd, shared
from examples.credit.admin import POLICIES, policy_of
from examples.credit.crowd import Heard
from examples.credit.features import load
from examples.credit.watch import Moment, Plan, Story, line, moment
from router.policy import TrafficPolicy, parse
from runtimes.registry.strictyaml import load as load_yaml


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bank")
    bank.models(root)
    return root / build.CREDIT


def run(repository: Path, version: int, inputs: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    path = repository / str(version) / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {build.INPUT: inputs})[0]


@pytest.mark.parametrize("version", [3, 4])
def test_what_should_not_become_stable_answers_as_version_2_does(repository: Path, version: int) -> None:
    inputs = load().inputs[:50]
    assert np.abs(run(repository, version, inputs) - run(repository, 2, inputs)).max() < 1e-3


def test_version_3_fails_on_large_loans_alone(repository: Path) -> None:
    inputs = load().inputs[:2].copy()
    inputs[1, 1] = 25_000
    run(repository, 2, inputs)
    with pytest.raises(Exception, match="out of data bounds"):
        run(repository, 3, inputs)


def policy(version: int) -> TrafficPolicy:
    return parse(load_yaml(policy_of(version).read_text(), "the policy"))


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_policies_are_right_and_alike(version: int) -> None:
    found = policy(version)
    assert found.metadata.name == build.CREDIT
    if version > 1:
        assert found.spec.variants[1].model == f"{build.CREDIT}:{version}"
        assert found.spec.rollout == policy(2).spec.rollout


def test_there_is_a_policy_for_each_plan() -> None:
    wanted = {policy_of(plan.version) for plan in bank.PLANS} | {policy_of(1)}
    assert set(POLICIES.glob("*.yaml")) == wanted


def test_guardrails_that_plans_name_are_declared() -> None:
    for plan in bank.PLANS:
        rollout = policy(plan.version).spec.rollout
        assert rollout is not None
        assert not plan.by or plan.by in {one.label for one in rollout.analysis.guardrails}


@pytest.fixture
def ends() -> Iterator[tuple[crowd.Line, socket.socket]]:
    """A connection of the crowd, and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = crowd.Line(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            yield line, accepted
        line.close()


ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-tidegate-model: credit-scoring:2\r\n"
    b"x-tidegate-variant: canary\r\nx-tidegate-revision: 7\r\n\r\n{}"
)


def test_answers_are_read_however_they_are_cut(ends: tuple[crowd.Line, socket.socket]) -> None:
    asked, server = ends
    server.sendall(ANSWER + ANSWER[:40])
    assert asked.receive()[0] == 200
    server.sendall(ANSWER[40:])
    status, headers, body = asked.receive()
    assert (status, headers[b"x-tidegate-revision"], body) == (200, b"7", b"{}")


def test_a_connection_that_ends_before_its_answer_is_an_error(ends: tuple[crowd.Line, socket.socket]) -> None:
    asked, server = ends
    server.sendall(ANSWER[:40])
    server.close()
    with pytest.raises(ConnectionError):
        asked.receive()


def test_a_request_names_its_customer_and_its_length() -> None:
    body = crowd.bodies(large=True)[0]
    head, _, rest = crowd.request(5, body).partition(b"\r\n\r\n")
    assert b"x-user-id: customer-5" in head.split(b"\r\n")
    assert b"content-length: %d" % len(rest) in head.split(b"\r\n")


def caller() -> crowd.Caller:
    made = crowd.Caller.__new__(crowd.Caller)
    made.heard = Heard()
    return made


def test_customers_note_who_answered() -> None:
    one = caller()
    headers = {b"x-tidegate-model": b"credit-scoring:2", b"x-tidegate-variant": b"canary", b"x-tidegate-revision": b"7"}
    one.note(3, 200, headers, b"")
    one.note(crowd.CHOSEN, 200, headers, b"")
    one.note(3, 200, headers | {b"x-served-by": b"stable; fallback", b"x-tidegate-variant": b"stable"}, b"")
    one.note(3, 503, headers, b"away")
    assert one.heard.answers == {(7, "canary", "2"): 2, (7, "stable", "2"): 1}
    assert (one.heard.failed, one.heard.fallbacks) == (1, 1)
    assert one.heard.chosen == {(3, 7): {"canary"}}
    assert "503" in one.heard.problem


def test_what_processes_heard_adds_up() -> None:
    one = Heard(2, 1, 0, crowd.Counter({(1, "stable", "1"): 1}), {(0, 1): {"stable"}}, "bad")
    other = Heard(3, 0, 1, crowd.Counter({(1, "stable", "1"): 3}), {(0, 1): {"canary"}})
    whole = crowd.merged([one, other])
    assert (whole.requests, whole.failed, whole.fallbacks, whole.problem) == (5, 1, 1, "bad")
    assert whole.answers == {(1, "stable", "1"): 4}
    assert bank.torn_customers(whole) == 1


MOVES = [("APPLYING", 1), ("PROPAGATING", 2), ("APPLYING", 2), ("BAKING", 3)]


def story(plan: Plan, end: str, actor: str, last: list[tuple[str, int]]) -> Story:
    moves = [
        {"phase": phase, "revision": revision, "actor": actor, "reason": "so"} for phase, revision in [*MOVES, *last]
    ]
    return Story(plan, "one", [Moment(1.0, 10, end, 1, 0, ("waits for data",), {})], moves)


PROMOTED = story(bank.GOOD, "PROMOTED", "auto:rollout", [("PROMOTING", 3), ("PROMOTED", 4)])
ROLLED_BACK = story(bank.PLANS[1], "ROLLED_BACK", "auto:guardrail:error_rate", [("ABORTING", 3), ("ROLLED_BACK", 4)])


def heard(*answers: tuple[int, str, str], chosen: dict[tuple[int, int], set[str]] | None = None) -> Heard:
    return Heard(
        len(answers), answers=crowd.Counter(answers), chosen=chosen or {(0, 2): {"stable"}, (0, 3): {"canary"}}
    )


def holds(checks: list[tuple[str, bool]]) -> bool:
    return all(good for _, good in checks)


def test_a_promotion_that_is_not_one_fails_the_demo() -> None:
    good = heard((3, "canary", "2"), (4, "canary", "2"))
    assert holds(bank.story_checks(PROMOTED, good))
    assert not holds(bank.story_checks(PROMOTED, heard((4, "canary", "2"), (4, "stable", "1"))))
    assert not holds(bank.story_checks(PROMOTED, heard((3, "canary", "2"))))
    assert not holds(bank.story_checks(replace(PROMOTED, moments=ROLLED_BACK.moments), good))
    forced = story(bank.GOOD, "PROMOTED", "somebody", [("PROMOTING", 3), ("PROMOTED", 4)])
    assert not holds(bank.story_checks(forced, good))


def test_a_rollback_for_another_reason_or_with_late_answers_fails_the_demo() -> None:
    good = heard((3, "canary", "3"), (4, "stable", "2"))
    assert holds(bank.story_checks(ROLLED_BACK, good))
    assert not holds(bank.story_checks(ROLLED_BACK, heard((4, "canary", "3"))))
    other = story(bank.PLANS[1], "ROLLED_BACK", "auto:guardrail:latency-p99", [("ABORTING", 3), ("ROLLED_BACK", 4)])
    assert not holds(bank.story_checks(other, good))


def test_customers_who_notice_something_fail_the_demo() -> None:
    good = replace(heard((3, "canary", "3")), fallbacks=1)
    assert holds(bank.crowd_checks([ROLLED_BACK], good))
    assert not holds(bank.crowd_checks([ROLLED_BACK], replace(good, failed=1)))
    assert not holds(bank.crowd_checks([ROLLED_BACK], replace(good, fallbacks=0)))
    assert not holds(bank.crowd_checks([ROLLED_BACK], replace(good, chosen={})))
    torn = {(0, 3): {"stable", "canary"}}
    assert not holds(bank.crowd_checks([ROLLED_BACK], replace(good, chosen=torn)))
    back = {(0, 2): {"canary"}, (0, 3): {"stable"}}
    assert not holds(bank.crowd_checks([ROLLED_BACK], replace(good, chosen=back)))
    away = {(0, 3): {"canary"}, (0, 4): {"stable"}}  # what a rollback does
    assert holds(bank.crowd_checks([ROLLED_BACK], replace(good, chosen=away)))


def test_without_a_redis_server_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    screen = Console(file=io.StringIO(), width=200)
    assert shared.act(tmp_path, tmp_path, screen) == []
    assert screen.file.getvalue().startswith("skipped: there is no redis-server")  # type: ignore[attr-defined]


@pytest.mark.process
def test_a_redis_of_its_own_answers_and_ends(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server")
    with shared.redis(tmp_path) as url:
        host, _, port = url.removeprefix("redis://").removesuffix("/0").rpartition(":")
        socket.create_connection((host, int(port)), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 5)


def view(**changes: Any) -> dict[str, Any]:
    return dict.fromkeys(shared.AGREED, "same") | changes


def test_gateways_that_differ_do_not_agree() -> None:
    assert shared.is_agreed([view(), view(leads=True)])
    assert not any(shared.is_agreed([view(), view(**{name: "other"})]) for name in shared.AGREED)


def test_a_line_of_progress_says_what_is_waited_for() -> None:
    rollout = {"marks": {"error_rate": {"text": "0 of 5"}}, "waits": ["waits for data"], "state": "BAKING",
               "step": 1, "slots": 1000}  # fmt: skip
    now = moment(rollout, 1.5, 1200)
    assert now.marks == {"error_rate": "0 of 5"}
    assert line(now) == "  1.5 s   10 %    1,200 requests  baking; waits for data"

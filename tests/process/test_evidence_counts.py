"""Evidence is exact: what control counted per revision and variant is what the clients were told in their headers."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.process.callers import Crowd, Seen, apply, command, counted, policy, shown, tensor, until
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
HOLD = {"minDuration": "500ms"}
STEPS = [{"setWeight": weight, "hold": HOLD} for weight in (1000, 5000)]
STEPS.append({"setWeight": 7000, "hold": {"minDuration": "10m"}})
GOOD, BROKEN, INVALID = tensor([1]), tensor([900]), b'{"inputs": 3}'
LAX = {"analysis": {"minDetect": 1000}, "on_failure": {"do": "warn"}}
"""Nothing is rolled back and steps are not held: here only counting is looked at."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version, size in ((1, 1000), (2, 4)):
        config = "version_policy: {all: true}\n"
        models.write(tmp_path / "models", "table", models.lookup(size), version, config)
    return tmp_path / "models"


@pytest.fixture
def tree(repository: Path) -> Iterator[Tree]:
    with serve(repository, "--workers", "2", models__quiet_period_ms=0) as running:
        yield running


def mixed(rng: random.Random) -> bytes:
    """Sound, now and then failing on the canary only, now and then no request at all."""
    return rng.choices((GOOD, BROKEN, INVALID), (0.96, 0.02, 0.02))[0]


def agree(tree: Tree, seen: Seen) -> None:
    """Wait until control has heard everything, and compare with what the clients saw."""

    def settled() -> bool:
        sums = counted(shown(tree, "table"))
        wanted = sum(1 for _ in sums) and sum(c["routed"] for c in sums.values()) - sum(
            c["fallback"] for c in sums.values()
        )
        return all(c["routed"] == c["ok"] + c["bad"] + c["neutral"] for c in sums.values()) and wanted > 0

    tree.until("all are counted", lambda: settled() and _routed(tree) == seen.count() + seen.cut, 10)
    sums = counted(shown(tree, "table"))
    told: dict[tuple[int, str], dict[str, int]] = {}
    for (status, variant, revision, served_by), answers in seen.tally.items():
        # What stable answered in its place was routed to the canary, and counts there.
        place = (revision, "canary" if served_by else variant)
        into = told.setdefault(place, {"routed": 0, "ok": 0, "bad": 0, "neutral": 0})
        into["routed"] += answers
        into["bad" if served_by else "ok" if status == 200 else "neutral"] += answers
    if seen.cut:
        for place, counts in told.items():
            assert sums[place]["routed"] >= counts["routed"]
        assert sum(counts["routed"] for counts in sums.values()) == seen.count() + seen.cut
        return
    assert {place: {name: counts[name] for name in told[place]} for place, counts in sums.items()} == told


def _routed(tree: Tree) -> int:
    return sum(counts["routed"] for counts in counted(shown(tree, "table")).values())


@pytest.mark.parametrize("cuts", [0.0, 0.02], ids=["everybody waits", "some leave"])
def test_counts_over_a_ramp_on_two_workers_equal_the_clients_own(tree: Tree, cuts: float) -> None:
    apply(tree, policy("table", steps=STEPS, **LAX))
    with Crowd(tree.port, "table", mixed, users=50_000, cuts=cuts) as crowd:
        tree.until("the last step", lambda: shown(tree, "table").get("step") == 2)
        at = crowd.seen.count()
        tree.until("traffic there", lambda: crowd.seen.count() > at + 1000)
    seen = crowd.stop()
    assert seen.broken == []
    assert seen.statuses() == {200, 400}
    assert len({key[2] for key in seen.tally}) >= 3, "each step has a revision"
    assert {worker["listening"] for worker in tree.workers()} == {True}
    agree(tree, seen)


def test_counts_stay_exact_when_control_is_killed_mid_step(tree: Tree) -> None:
    apply(tree, policy("table", steps=STEPS, **LAX))
    killed = set()
    with Crowd(tree.port, "table", mixed, users=50_000) as crowd:
        while shown(tree, "table").get("step", 0) < 2:
            phase = (shown(tree, "table")["phase"], shown(tree, "table").get("step"))
            # The supervisor waits longer after each death, so not more than four.
            if phase in killed or not phase[0] or len(killed) == 4:
                continue
            killed.add(phase)
            before = tree.control_pid()
            os.kill(before, signal.SIGKILL)
            tree.until("a new control", lambda b=before: shown(tree, "table")["state"] and tree.control_pid() != b)
        at = crowd.seen.count()
        tree.until("traffic there", lambda: crowd.seen.count() > at + 500)
    seen = crowd.stop()
    assert seen.broken == []
    assert seen.statuses() == {200, 400}
    assert len(killed) >= 3, killed
    agree(tree, seen)


def test_counts_stay_exact_when_somebody_writes_in_between(tree: Tree) -> None:
    """A kill and its end write the document that the rollout is about to write."""
    apply(tree, policy("table", steps=STEPS, **LAX))
    with Crowd(tree.port, "table", mixed, users=50_000) as crowd:
        until(tree, "table", "BAKING")
        for killed in (True, False) * 3:
            body = {"variant": "canary", "killed": killed}
            assert tree.call("POST", "/admin/v1/policies/table/kill", body, admin=True)[0] == 200
        at = crowd.seen.count()
        tree.until("traffic there", lambda: crowd.seen.count() > at + 500)
    agree(tree, crowd.stop())


def _connections(pid: int) -> list[bool]:
    """Of each TCP connection of a process, whether bytes have come on it that were not read."""
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [not row[4].endswith(":00000000") for row in rows if row[3] == "01" and f"socket:[{row[9]}]" in own]


def test_a_worker_killed_under_load_loses_no_count_of_what_was_answered(tree: Tree) -> None:
    apply(tree, policy("table", steps=STEPS[1:], **LAX))
    with Crowd(tree.port, "table", mixed, users=50_000) as crowd:
        until(tree, "table", "BAKING")
        at = crowd.seen.count()
        tree.until("traffic", lambda: crowd.seen.count() > at + 200)
        # The kernel may have given all callers to one worker: the other has nothing to lose.
        victim = max((worker["pid"] for worker in tree.workers()), key=lambda pid: len(_connections(pid)))
        # It stands still first, wherever it is: so whoever asks it has a request under way when it dies.
        os.kill(victim, signal.SIGSTOP)
        at, stopped = crowd.seen.count(), time.monotonic()
        # Or all who ask it had been read when it stopped, and nobody asks another.
        tree.until("a request waits for it", lambda: any(_connections(victim)) or crowd.seen.count() > at + 100
                   or time.monotonic() > stopped + 0.5)  # fmt: skip
        os.kill(victim, signal.SIGKILL)
        tree.until(
            "its successor", lambda: victim not in [w["pid"] for w in tree.workers()] and len(tree.workers()) == 2
        )
        tree.until("it listens", lambda: all(worker["listening"] for worker in tree.workers()))
        at = crowd.seen.count()
        tree.until("traffic", lambda: crowd.seen.count() > at + 500)
    seen = crowd.stop()
    sums = counted(shown(tree, "table"))
    tree.until("all are counted", lambda: _routed(tree) >= seen.count())
    sums = counted(shown(tree, "table"))
    # Requests that died with the worker were routed; no client heard of them.
    assert seen.count() <= sum(c["routed"] for c in sums.values()) <= seen.count() + len(seen.broken)
    assert 0 < len(seen.broken) <= 4
    assert {status for status in seen.statuses() if status >= 500} == set()
    assert shown(tree, "table")["latches"] == [], "whoever kills a worker from outside is no fault of the canary"


def test_a_worker_that_stands_still_across_an_abort_answers_nothing_of_the_canary_afterwards(tree: Tree) -> None:
    apply(tree, policy("table", steps=STEPS[1:], **LAX))
    with Crowd(tree.port, "table", lambda _: GOOD, users=50_000) as crowd:
        until(tree, "table", "BAKING")
        tree.until("canary answers", lambda: crowd.seen.count(variant="canary") > 50)
        victim = tree.workers()[0]["pid"]
        os.kill(victim, signal.SIGSTOP)
        try:
            status, _ = command(tree, "table", "abort")
            assert status == 200
            found = until(tree, "table", "ROLLED_BACK")
            acknowledged = crowd.seen.tally.copy()
        finally:
            try:
                os.kill(victim, signal.SIGCONT)
            except ProcessLookupError:
                pass  # Killed by the supervisor: it had been silent for too long.
        at = crowd.seen.count()
        tree.until("traffic", lambda: crowd.seen.count() > at + 1000)
    seen = crowd.stop()
    late = {key: n - acknowledged[key] for key, n in seen.tally.items() if key[1] == "canary"}
    # At most one answer per connection was on its way.
    assert sum(late.values()) <= 4, (late, found)
    newest = max(key[2] for key in seen.tally)
    assert {key[1] for key in seen.tally if key[2] == newest} == {"stable"}

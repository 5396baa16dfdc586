"""What a worker counts for signals on time: once per execution, of requests drawn by chance, only where it is asked."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.counters import BATCH_BUCKETS, EXECUTIONS_JUDGED, RUN_TIMES, CounterPage
from gateway.tally import NOTE_SEEN, NOTE_WAITED, NoteRing
from loadtests.hotpath import HotPath, snapshot

SLOW, IN_TIME = (1,) * BATCH_BUCKETS, (10**12,) * BATCH_BUCKETS
THREE = 2
"""Bucket of batches of 3."""


def page_after(folder: Path, asked: dict[str, Any], send: Callable[[HotPath], None]) -> CounterPage:
    """What a worker has counted when the requests are answered."""

    async def scenario() -> CounterPage:
        path = HotPath(folder, 3)
        try:
            plain = snapshot(policy=True, monitor=False)
            (state,) = plain.policies
            path.apply(msgspec.structs.replace(plain, policies=(msgspec.structs.replace(state, **asked),)))
            send(path)
        finally:
            path.watchdog.stop()
        assert all(b" 200 OK" in one.answer for one in path.answers)
        return path.page

    return asyncio.run(scenario())


def served(folder: Path, asked: dict[str, Any], send: Callable[[HotPath], None]) -> dict[str, list[int]]:
    """The same as blocks by kind."""
    found: dict[str, list[int]] = {}
    for key, block in page_after(folder, asked, send).blocks():
        found[key[0]] = [a + b for a, b in zip(found.get(key[0], [0] * len(block)), block, strict=True)]
    return found


def four_turns(path: HotPath) -> None:
    for _ in range(4):
        path.turn(3)


@pytest.mark.parametrize(("limits", "expected"), [(SLOW, [0, 4]), (IN_TIME, [4, 0])], ids=["slow", "in time"])
def test_a_batch_counts_once_by_its_size(tmp_path: Path, limits: tuple[int, ...], expected: list[int]) -> None:
    found = served(tmp_path, {"run_ns": limits}, four_turns)
    judged = found[EXECUTIONS_JUDGED]
    assert judged[2 * THREE : 2 * THREE + 2] == expected
    assert (sum(judged), sum(found[RUN_TIMES])) == (4, 4)


def test_before_anything_is_known_only_times_are_counted(tmp_path: Path) -> None:
    found = served(tmp_path, {"run_ns": (0,) * BATCH_BUCKETS}, four_turns)
    assert (sum(found[EXECUTIONS_JUDGED]), sum(found[RUN_TIMES])) == (0, 4)


def test_who_is_not_asked_counts_nothing(tmp_path: Path) -> None:
    assert not {EXECUTIONS_JUDGED, RUN_TIMES} & served(tmp_path, {}, four_turns).keys()


def test_an_execution_that_a_rule_began_is_no_evidence(tmp_path: Path) -> None:
    def by_rule(path: HotPath) -> None:
        for connection in path.connections:
            connection.data_received(path.request.replace(b"\r\n\r\n", b"\r\nx-rule-0: 1\r\n\r\n", 1))
        path.loop.run()

    found = served(tmp_path, {"run_ns": SLOW}, by_rule)
    assert (sum(found[EXECUTIONS_JUDGED]), sum(found[RUN_TIMES])) == (0, 1)


@pytest.mark.parametrize(("wait_ns", "waited"), [(1, 12), (10**12, 0), (0, 0)], ids=["long", "short", "not asked"])
def test_who_waits_long_is_noted_apart(tmp_path: Path, wait_ns: int, waited: int) -> None:
    notes, _, _ = NoteRing(page_after(tmp_path, {"wait_ns": wait_ns, "doublings": 0}, four_turns)).read(0)
    flags = [note.flags for note in notes]
    assert flags.count(NOTE_WAITED) == waited
    assert flags.count(NOTE_SEEN) == len(flags) - waited == 12

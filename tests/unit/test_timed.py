"""What a worker counts for signals on time: once per execution, of requests drawn by chance, only where it is asked."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.counters import BATCH_BUCKETS, EXECUTIONS_JUDGED, RUN_TIMES
from loadtests.hotpath import HotPath, snapshot

SLOW, IN_TIME = (1,) * BATCH_BUCKETS, (10**12,) * BATCH_BUCKETS
THREE = 2
"""Bucket of batches of 3."""


def served(folder: Path, asked: dict[str, Any], send: Callable[[HotPath], None]) -> dict[str, list[int]]:
    """Blocks of the worker's page by kind, after the requests."""

    async def scenario() -> dict[str, list[int]]:
        path = HotPath(folder, 3)
        try:
            plain = snapshot(policy=True, monitor=False)
            (state,) = plain.policies
            path.apply(msgspec.structs.replace(plain, policies=(msgspec.structs.replace(state, **asked),)))
            send(path)
        finally:
            path.watchdog.stop()
        assert all(b" 200 OK" in one.answer for one in path.answers)
        found: dict[str, list[int]] = {}
        for key, block in path.page.blocks():
            found[key[0]] = [a + b for a, b in zip(found.get(key[0], [0] * len(block)), block, strict=True)]
        return found

    return asyncio.run(scenario())


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

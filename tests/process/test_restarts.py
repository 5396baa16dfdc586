"""A server that is started again serves as before: policies at rest whose stable version is not the newest."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.process.callers import Caller, apply, policy, shown, tensor
from tests.tree import Tree, serve

pytestmark = pytest.mark.process
ROW = tensor([1])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        models.write(tmp_path / "models", "table", models.lookup(1000 + version), version)
    return tmp_path / "models"


@contextmanager
def started(repository: Path, data: Path, *arguments: str, **settings: Any) -> Iterator[Tree]:
    with serve(repository, *arguments, "--data-dir", str(data), models__quiet_period_ms=0, **settings) as tree:
        yield tree


def answers(tree: Tree) -> dict[str, set[int]]:
    """Variant -> statuses, of the first 50 users."""
    caller, found = Caller(tree.port, "table"), {}
    for user in range(50):
        answer = caller.ask(ROW, f"x-user-id: u{user}\r\n")
        found.setdefault(answer.variant, set()).add(answer.status)
    caller.close()
    return found


def halved_and_stopped(repository: Path, data: Path, *arguments: str) -> None:
    """A server whose users are halved between versions 1 and 2 has been, and has left its store."""
    with started(repository, data, *arguments) as tree:
        apply(tree, policy("table", variants=("1", "2"), split={"stable": 5000, "canary": 5000}))
        assert answers(tree) == {"stable": {200}, "canary": {200}}
        tree.process.send_signal(signal.SIGTERM)
        tree.process.wait(20)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stable_version_that_is_not_the_newest_is_there_when_the_server_is_ready(
    repository: Path, tmp_path: Path, workers: str
) -> None:
    arguments = ("--workers", workers)
    halved_and_stopped(repository, tmp_path / "data", *arguments)
    with started(repository, tmp_path / "data", *arguments) as tree:
        found = answers(tree)
        assert set(found) <= {"stable", "canary"}
        assert {status for each in found.values() for status in each} == {200}
        tree.until("the canary", lambda: "canary" in answers(tree))
        os.kill(tree.control_pid(), signal.SIGKILL)
        tree.until("a new control", lambda: shown(tree, "table", "policies").get("revision") == 1)
        assert answers(tree) == {"stable": {200}, "canary": {200}}


def test_a_model_that_only_a_policy_wants_is_there_when_the_server_is_ready(repository: Path, tmp_path: Path) -> None:
    """In mode explicit nobody else asks for it."""
    arguments = ("--workers", "1", "--model-control-mode", "explicit")
    halved_and_stopped(repository, tmp_path / "data", *arguments)
    with started(repository, tmp_path / "data", *arguments) as tree:
        assert {status for each in answers(tree).values() for status in each} == {200}

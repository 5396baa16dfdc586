"""docs/policies.md, "Try it": every command is run in order, and what the page says of the two rollouts comes true."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.tables import DOCS
from tests.docs.terminal import Terminal, commands

SECTION = (DOCS / "policies.md").read_text().split("## Try it\n", 1)[1].split("\n## ", 1)[0]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    try:
        yield opened
        opened.stop()
    finally:
        opened.kill()


@pytest.mark.process
def test_version_2_is_promoted_and_version_4_rolled_back(terminal: Terminal) -> None:
    rollouts = []
    for command in commands(SECTION):
        if command.startswith("tidegate serve"):
            terminal.serve(command)
            continue
        printed = terminal.run(command)
        if command.endswith("/rollouts/credit-scoring"):
            rollouts.append(json.loads(printed))
    promoted, rolled_back = rollouts
    assert promoted["state"] == "PROMOTED"
    assert {move["actor"] for move in promoted["history"][1:]} == {"auto:rollout"}
    assert rolled_back["state"] == "ROLLED_BACK"
    assert rolled_back["history"][-2]["actor"] == "auto:guardrail:latency-p99"

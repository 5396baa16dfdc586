"""README.md: every command is run, or stands in NOT_RUN with a reason; every link leads somewhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.tables import ROOT
from tests.docs.terminal import Terminal, commands

TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")] + sorted((ROOT / "docs").rglob("*.md"))
NOT_RUN = {
    "make demo": "takes longer than the test of a page should; tests/examples tests its parts",
    "make test": "this test is a part of it",
    "make venv": "makes the environment that this test runs in",
    ". .venv/bin/activate": "the commands below run with that environment's commands",
}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    try:
        yield opened
        opened.stop()
    finally:
        opened.kill()


@pytest.mark.process
def test_every_command_works(terminal: Terminal):
    printed: dict[str, str] = {}
    for command in commands(TEXT):
        if command in NOT_RUN:
            continue
        if command.startswith("tidegate serve"):
            terminal.serve(command)
        else:
            printed[command] = terminal.run(command)
    (answer,) = [json.loads(text) for command, text in printed.items() if "/infer" in command]
    shown = json.loads(re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0])
    (value,), (wanted,) = answer["outputs"][0].pop("data"), shown["outputs"][0].pop("data")
    assert answer == shown
    assert value == pytest.approx(wanted, abs=0.01)
    assert "tidegate_requests_total" in printed["curl -s http://127.0.0.1:8080/metrics"]
    assert json.loads(printed["curl -s http://127.0.0.1:8081/admin/v1/rollouts/credit-scoring"])["state"] == "PROMOTED"


def test_no_reason_is_given_for_a_command_that_is_not_there():
    assert set(NOT_RUN) <= set(commands(TEXT))
    assert len(commands(TEXT)) > len(NOT_RUN) + 5


def test_the_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.removeprefix("make ") for command in commands(TEXT) if command.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_files_that_pages_name_exist():
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if not link.startswith("https://"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
        for path in re.findall(
            r"(?:`|^\w+ +|\s)((?:gateway|runtimes|router|tests)/[\w/]+(?:\.py)?)", text, re.MULTILINE
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_pages_are_narrow_enough_to_read():
    for page in PAGES:
        block = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            block ^= line.startswith("```")
            assert block or line.startswith("|") or len(line) <= 130, f"{page.name}:{number}"

"""`tidegate monitor` of a running server: the car loans of the example, calm and then drifted."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.carloan.build import NAME, build
from examples.carloan.loans import ANALYSIS, load
from examples.credit.build import INPUT
from tests.cli.test_cli import NOBODY, run
from tests.tree import PATIENCE_S, TIDEGATE, Tree, serve

pytestmark = pytest.mark.process

DRIFTED = 30_000
"""From this row of the analysis on, the loans are others."""
WINDOW = 1_000
DOCUMENT = f"""\
apiVersion: tidegate/v1
kind: Monitor
metadata: {{name: {NAME}}}
spec:
  window: {{rows: {WINDOW}}}
  groups: {{header: x-group, values: [female, male]}}
"""
GROUPS = ("female", "male")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    root = tmp_path_factory.mktemp("loans")
    build(root)
    with serve(root, "--workers", "1", models__quiet_period_ms=0) as running:
        yield running


class Sender:
    """Asks about loans, a window of them at a time."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._rows = load()[ANALYSIS].inputs
        self._at = {False: 0, True: DRIFTED}

    def window(self, drifted: bool) -> None:
        """Send a window of rows and wait until it was judged."""
        before = self._judged()
        begin = self._at[drifted]
        self._at[drifted] = begin + WINDOW
        for at, part in enumerate(np.split(self._rows[begin : begin + WINDOW], 4)):
            item = {"name": INPUT, "shape": list(part.shape), "datatype": "FP32", "data": part.ravel().tolist()}
            status, body = self._tree.call(
                "POST", f"/v2/models/{NAME}/infer", {"inputs": [item]}, headers={"x-group": GROUPS[at % 2]}
            )
            assert status == 200, body
        self._tree.until("a window", lambda: self._judged() > before)

    def _judged(self) -> int:
        windows = view(self._tree)["versions"]["1"]["variants"].get("-", {"windows": []})["windows"]
        return windows[-1]["index"] + 1 if windows else 0


def view(tree: Tree) -> dict[str, Any]:
    status, body = tree.get(f"/admin/v1/monitors/{NAME}", admin=True)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.fixture(scope="module")
def drifted(tree: Tree) -> tuple[str, Tree]:
    """The server after a calm window and three that are not; and what a follower in a pipe has printed meanwhile."""
    done = run("monitor", "apply", "-", "--reason", "small windows", tree=tree, stdin=DOCUMENT)
    assert done.out == f"{NAME}: generation 1; it is in force\n", done
    calm = run("monitor", "status", NAME, "--check", tree=tree)
    assert calm.code == 0
    assert "Nothing can be said yet" in calm.out
    sender = Sender(tree)
    sender.window(drifted=False)
    environment = os.environ | {"TIDEGATE_ADMIN_URL": f"http://127.0.0.1:{tree.admin_port}"}
    command = [TIDEGATE, "monitor", "status", NAME, "--watch", "--check"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        first = watch.stdout.readline()
        assert "No incident: nothing fires" in first
        sender.window(drifted=True)
        sender.window(drifted=True)
        told, failure = watch.communicate(timeout=30)
    assert watch.returncode == 3, failure
    assert failure.startswith(f"tidegate: {NAME} has an open incident: Version 1: inputs have drifted (car_value")
    return first + told, tree


# ---- without a monitor ----


def test_what_is_not_there_is_said_in_one_line(tree: Tree) -> None:
    for command in (["status"], ["get"], ["explain"], ["report"], ["approve", "x"]):
        verb, *more = command
        assert "no monitor of 'nobody'" in run("monitor", verb, "nobody", *more, tree=tree).refused(1)
    assert NOBODY in run("monitor", "ls").refused(1)


def test_explain_asks_a_server_or_a_file() -> None:
    assert "give a NAME" in run("monitor", "explain").refused(2)
    assert "give a NAME" in run("monitor", "explain", NAME, "--reference", "x.npz").refused(2)
    assert "--config is for --reference" in run("monitor", "explain", NAME, "--config", "x.yaml").refused(2)


# ---- a drift ----


def test_a_pipe_gets_a_line_for_each_change_and_the_end_is_a_gate(drifted: tuple[str, Tree]) -> None:
    told = drifted[0].splitlines()
    assert any("input_drift pending" in line for line in told)
    assert "incident critical" in told[-1]
    assert "the world or its data has changed, not the model." in told[-1]
    assert len(told) == len(set(told)) >= 3


def test_a_terminal_has_one_picture_until_it_is_left(drifted: tuple[str, Tree]) -> None:
    tree, seen = drifted[1], []
    ours, theirs = pty.openpty()
    # High enough for an incident of every signal: what is beyond the edge is cut.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 120, 120, 0, 0))
    environment = os.environ | {"TIDEGATE_ADMIN_URL": f"http://127.0.0.1:{tree.admin_port}", "TERM": "xterm-256color"}

    def drain() -> None:
        while True:
            try:
                seen.append(os.read(ours, 65536))
            except OSError:  # the other end is closed
                return

    command = [TIDEGATE, "monitor", "status", NAME, "--watch"]
    # As a shell starts it: whoever runs these tests in the background may ignore Ctrl-C, and that is inherited.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=heeds
    ) as watching:
        os.close(theirs)
        reader = threading.Thread(target=drain)
        reader.start()
        tree.until("a picture", lambda: b"timeline" in b"".join(seen))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE_S) == 130
        reader.join(PATIENCE_S)
    os.close(ours)
    picture = b"".join(seen).decode(errors="replace")  # Ctrl-C may come within a character
    assert "incident, critical" in picture
    assert "Traceback" not in picture


def test_status_shows_states_incident_windows_and_performance(drifted: tuple[str, Tree]) -> None:
    ran = run("monitor", "status", NAME, tree=drifted[1])
    assert ran.code == 0
    for text in ("incident, critical", "input_drift", "firing", "timeline", "estimated, last window", "female"):
        assert text in ran.out, text
    assert "The inputs have shifted: the world or its data source has changed" in ran.out
    assert "car_value 1." in ran.out
    checked = run("monitor", "status", NAME, "--check", "--json", tree=drifted[1])
    assert checked.code == 3
    assert json.loads(checked.out)["incident"]["severity"] == "critical"


def test_the_list_tells_what_is_loud(drifted: tuple[str, Tree]) -> None:
    (one,) = run("monitor", "ls", "--json", tree=drifted[1]).json()["monitors"]
    assert one["states"]["input_drift"] == "firing"
    assert "input_drift firing" in run("monitor", "ls", tree=drifted[1]).out


def test_explain_says_why_it_alarmed(drifted: tuple[str, Tree]) -> None:
    out = run("monitor", "explain", NAME, tree=drifted[1]).out
    for text in ("window.rows", "smallest psi seen", "input: an alarm began: car_value", "input: suspected: p",
                 "input: no alarm: the largest is", "attribution: world"):  # fmt: skip
        assert text in out, text
    found = run("monitor", "explain", NAME, "--json", tree=drifted[1]).json()
    assert found["versions"]["1"]["settings"]["window.rows"] == WINDOW


def test_the_page_of_a_server_is_whole(drifted: tuple[str, Tree], tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    told = run("monitor", "report", NAME, "--out", str(target), "--json", tree=drifted[1]).json()
    page = target.read_text()
    assert told["bytes"] == len(page.encode())
    assert told["headline"].startswith("Version 1: inputs have drifted (car_value")
    for text in ("car_value: PSI of the windows", "car_value: shares per bin", "accuracy over time", 'class="window"'):
        assert text in page, text
    assert "<script" not in page
    refused = run("monitor", "report", NAME, "--out", str(tmp_path / "no" / "page.html"), tree=drifted[1])
    assert "cannot write" in refused.refused(1)
    status, _ = drifted[1].get(f"/admin/v1/monitors/{NAME}?format=pdf", admin=True)
    assert status == 400


def test_requests_that_are_not_there_are_not_decided(drifted: tuple[str, Tree]) -> None:
    assert "none waits for anybody" in run("monitor", "approve", NAME, "abc", tree=drifted[1]).refused(2)
    assert "none waits for anybody" in run("monitor", "reject", NAME, "abc", tree=drifted[1]).refused(2)


# ---- documents ----


def test_a_document_comes_back_as_it_was_applied_and_stale_ones_are_refused(drifted: tuple[str, Tree]) -> None:
    tree = drifted[1]
    text = run("monitor", "get", NAME, tree=tree).out
    assert f"rows: {WINDOW}" in text
    same = run("monitor", "apply", "-", tree=tree, stdin=text)
    assert same.out == f"{NAME}: generation 1, nothing has changed; it is in force\n"
    changed = run("monitor", "apply", "-", "--json", tree=tree, stdin=text.replace("female", "woman"))
    assert changed.json()["generation"] == 2
    late = run("monitor", "apply", "-", "--if-match", "1", tree=tree, stdin=text.replace("1000", "1500"))
    assert late.code == 1
    assert "is at generation 2 by now, not 1" in late.err
    assert "-    rows: 1000" in late.err
    assert "+    rows: 1500" in late.err
    done = run("monitor", "apply", "-", "--force", tree=tree, stdin=text.replace("1000", "1500"))
    assert done.out == f"{NAME}: generation 3; it is in force\n"
    both = run("monitor", "apply", "-", "--force", "--if-match", "1", tree=tree, stdin=text)
    assert "not both" in both.refused(2)


def test_a_wrong_document_is_refused_with_its_line(drifted: tuple[str, Tree]) -> None:
    ran = run("monitor", "apply", "-", tree=drifted[1], stdin=DOCUMENT.replace("window:", "windw:"))
    assert ran.code == 3
    assert "line 5: spec.windw: unknown field; did you mean 'window'?" in ran.err
    assert "absent.yaml" in run("monitor", "apply", "absent.yaml", tree=drifted[1]).refused(2)


def test_a_document_is_removed_only_by_yes(drifted: tuple[str, Tree]) -> None:
    tree = drifted[1]
    assert "say --yes" in run("monitor", "delete", NAME, tree=tree).refused(2)
    assert "the defaults are in force" in run("monitor", "delete", NAME, "--yes", "--reason", "done", tree=tree).out
    assert view(tree)["generation"] == 0
    assert run("monitor", "get", NAME, tree=tree).out.startswith("# nobody wrote a document")

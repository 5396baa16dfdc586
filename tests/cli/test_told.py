"""What commands say when files, addresses or answers are not what they expect: one line, and no traceback."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import run
from tests.tree import TIDEGATE

pytestmark = pytest.mark.process


@contextmanager
def answering(answer: dict[str, Any] | str, status: int = 200) -> Iterator[str]:
    """A server that says the same to everybody; its address."""
    body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# ---- addresses and output ----


def test_the_data_port_is_no_admin_port() -> None:
    for answer, hint in (("Not Found", True), ({"error": "Not Found"}, True), ({"error": "no policy"}, False)):
        with answering(answer, 404) as url:
            said = run("policy", "get", "a", "--admin-url", url).refused(1)
        assert ("is that the data port?" in said) == hint


@pytest.mark.parametrize("arguments", [("version",), ("config", "show"), ("config", "--help"), ("policy", "schema")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_in_one_line(arguments: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([TIDEGATE, *arguments], env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "tidegate: standard output: No space left on device\n")


# ---- feedback ----


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
def test_feedback_that_is_not_utf8(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\xff\n")
    assert f"{file}: not UTF-8" in run("feedback", "send", str(file)).refused(2)


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text("ID,1\n")
    said = run("feedback", "send", str(file)).refused(2)
    assert "line 1: expected a header with prediction_id and label or reward.NAME, got 'ID, 1'" in said


def test_a_cell_that_is_too_long_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text("prediction_id,label\n" + "a" * 200_000 + ",1\n")
    assert "line 2: field larger than field limit" in run("feedback", "send", str(file)).refused(1)


def test_who_is_unknown_is_told_what_tells_models_apart(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text("prediction_id,label\n" + "a" * 56 + ",1\n")
    for counts, hint in (({"unknown_model": 2}, True), ({"unknown_model": 1, "forged": 1}, False)):
        with answering({"counts": counts}) as url:
            ran = run("feedback", "send", str(file), "--url", url)
        assert ran.code == 1
        assert "2 of 2 items were not kept" in ran.err
        assert ("`model` tells models with the same bytes apart" in ran.err) == hint


# ---- the audit ----


def test_a_broken_trail_is_not_counted_as_whole() -> None:
    with answering({"records": 5, "problems": ["main/6: its hash does not fit"], "notes": []}) as url:
        ran = run("store", "check", "--admin-url", url)
    assert ran.code == 3
    assert ran.out == "main/6: its hash does not fit\n5 sound audit records, then 1 problem\n"
    with answering({"records": 5, "problems": [], "notes": []}) as url:
        assert run("store", "check", "--admin-url", url).out == "5 audit records, 0 problems\n"


@pytest.mark.parametrize(
    ("log", "said"),
    [("files", "of this node: ask the others too"), ("stream", "of all nodes"), ("off", "the decision log is off")],
)
def test_who_finds_nothing_is_told_where_else_it_could_be(log: str, said: str) -> None:
    with answering({"decisions": [], "log": log}) as url:
        assert said in run("audit", "find", "--unit", "u", "--model", "m", "--admin-url", url).out

"""The decision log: whole lines, rotated, dropped and counted when there is no room; units only as keyed hashes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from gateway.config import Decisions
from gateway.counters import WORKER_FIELDS, WORKER_INDEX
from gateway.decisionfiles import FOLDER, FileSink, append, find, forget, keyed_prediction, paths
from gateway.decisions import DecisionLog, Facts, NotNow, Sink
from gateway.exchange import Exchange, Placed
from gateway.predictions import mark, mark_of_rows, read
from gateway.signing import Clock, Signer
from gateway.tally import Tally
from tests.ids import id_by

pytestmark = pytest.mark.interpreted
KEY = bytes(range(32))
FACTS = Facts("m", 7, "canary", "sha256:ab", ("y",))


def placed(unit: int) -> Placed:
    return Placed(cast(Any, None), Tally(memoryview(b"")), 0, unit, False, False)


def job(unit: int, rows: int = 1) -> Exchange:
    found = Exchange()
    found.request_id, found.prediction = b"r%d" % unit, b"id%d" % unit
    found.placed, found.rows = placed(unit), rows
    return found


def log(folder: Path, **settings: Any) -> tuple[DecisionLog, memoryview]:
    counts = memoryview(bytearray(8 * len(WORKER_FIELDS))).cast("q")
    asked = Decisions(log=True, **settings)
    sink = FileSink(folder / FOLDER, 3, asked.file_bytes, asked.files)
    return into(sink, counts, asked), counts


def into(sink: Sink, counts: memoryview, settings: Decisions) -> DecisionLog:
    found = DecisionLog(settings, sink, counts, now_ns=lambda: 5_000_000_000, now_ms=lambda: 9_000)
    found.key = KEY
    return found


def told(counts: memoryview) -> tuple[int, int]:
    return counts[WORKER_INDEX["decisions_written_total"]], counts[WORKER_INDEX["decisions_dropped_total"]]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths(folder / FOLDER) for line in path.read_bytes().splitlines()]


def test_what_a_line_says(tmp_path: Path):
    writer, counts = log(tmp_path)
    writer.start()
    writer.answered(FACTS, (0,), [job(1), job(2, rows=2)], [np.float32([[0.5], [1], [2]])], 5_250_000_000)
    writer.ended(FACTS, "bad", b"r3", placed(3))
    writer.close()
    first, second, third = lines(tmp_path)
    assert first == {
        "time_ms": 9_250, "request": "r1", "model": "m", "digest": "sha256:ab", "revision": 7, "variant": "canary",
        "rule": "", "unit": "0000000000000001", "outcome": "ok", "prediction": keyed_prediction(KEY, b"id1"),
        "outputs": {"y": 0.5},
    }  # fmt: skip
    assert "outputs" not in second
    assert (third["outcome"], "prediction" in third) == ("bad", False)
    assert told(counts) == (3, 0)


def test_a_larger_request_is_found_by_what_its_id_says(tmp_path: Path):
    signer = Signer(1, KEY, 7, ["sha256:" + "ab" * 32], clock=Clock(1_800_000_000), sequence=5)
    id = id_by(signer, 0, 7, 0, mark_of_rows([mark(9, 0, 0)] * 20))
    larger = job(1, rows=20)
    larger.prediction = id.encode()
    writer, _ = log(tmp_path)
    writer.start()
    writer.answered(FACTS, (), [larger], [], 5_250_000_000)
    writer.close()
    asked = read(id + "/3", {1: KEY})
    assert lines(tmp_path)[0]["prediction"] == keyed_prediction(KEY, asked.id.encode())


def test_files_are_rotated_and_bounded(tmp_path: Path):
    writer, counts = log(tmp_path, file_bytes=4096, files=3)
    writer.start()
    writer.close()
    for start in range(0, 400, 10):
        writer.answered(FACTS, (), [job(unit) for unit in range(start, start + 10)], [], 5_250_000_000)
        writer._flush()
    found = paths(tmp_path / FOLDER)
    assert len(found) == 3
    assert all(path.stat().st_size <= 4096 for path in found)
    assert lines(tmp_path)[-1]["request"] == "r399"
    assert told(counts) == (400, 0)
    assert all(path.stat().st_mode & 0o077 == 0 for path in found)


def test_what_finds_no_room_in_the_buffer_is_dropped_and_counted(tmp_path: Path):
    writer, counts = log(tmp_path, buffer=100)
    for start in range(0, 200, 10):
        writer.answered(FACTS, (), [job(unit) for unit in range(start, start + 10)], [], 5_250_000_000)
    assert told(counts) == (0, 100)
    assert counts[WORKER_INDEX["decisions_waiting"]] == 100
    writer.start()
    writer.close()
    assert told(counts) == (100, 100)
    assert counts[WORKER_INDEX["decisions_waiting"]] == 0
    writer.answered(FACTS, (), [job(1)], [], 5_250_000_000)
    assert told(counts) == (100, 100)


class Slow:
    """A sink that keeps what it is given when it is told to; what it kept, part by part."""

    part_lines, part_bytes, line_bytes = 4, 1_000, 600

    def __init__(self) -> None:
        self.parts: list[list[bytes]] = []
        self.asked: list[list[bytes]] = []
        self.error: Exception | None = None

    def open(self) -> None:
        pass

    def write(self, lines: Sequence[bytes]) -> None:
        self.asked.append(list(lines))
        if self.error is not None:
            raise self.error
        self.parts.append(list(lines))


def slow(**settings: Any) -> tuple[DecisionLog, memoryview, Slow]:
    counts, sink = memoryview(bytearray(8 * len(WORKER_FIELDS))).cast("q"), Slow()
    return into(sink, counts, Decisions(log=True, **settings)), counts, sink


def requests(parts: list[list[bytes]]) -> list[str]:
    return [json.loads(line)["request"] for part in parts for line in part]


def test_a_part_that_cannot_be_written_now_is_given_again_as_it_was():
    writer, counts, sink = slow()
    sink.error = NotNow("away")
    writer.answered(FACTS, (), [job(1), job(2)], [], 5_250_000_000)
    writer._flush()
    writer.answered(FACTS, (), [job(unit) for unit in range(3, 9)], [], 5_250_000_000)
    writer._flush()
    assert sink.asked == [sink.asked[0]] * 2
    assert told(counts) == (0, 0)
    sink.error = None
    writer._flush()
    assert sink.asked[2] == sink.asked[0]
    assert requests(sink.parts) == [f"r{unit}" for unit in range(1, 9)]
    assert told(counts) == (8, 0)


def test_lines_that_wait_for_the_sink_fill_the_buffer():
    writer, counts, sink = slow(buffer=100)
    sink.error = NotNow("away")
    for start in range(0, 300, 10):
        writer.answered(FACTS, (), [job(unit) for unit in range(start, start + 10)], [], 5_250_000_000)
        writer.ended(FACTS, "left", b"r", placed(1))
        writer._flush()
    assert told(counts) == (0, 230)
    sink.error = None
    writer._flush()
    assert told(counts) == (100, 230)
    writer.answered(FACTS, (), [job(1)], [], 5_250_000_000)
    writer._flush()
    assert told(counts) == (101, 230)


def test_what_waits_at_the_end_is_asked_for_once_more_and_then_dropped():
    writer, counts, sink = slow()
    sink.error = NotNow("away")
    unplaced = job(9)
    unplaced.placed = None
    for jobs in ([job(unit) for unit in range(6)], [job(6), unplaced]):
        writer.answered(FACTS, (), jobs, [], 5_250_000_000)
    writer.start()
    writer.close()
    assert told(counts) == (0, 7)
    assert len(sink.asked) >= 1


def test_parts_are_bounded_and_a_line_too_long_is_dropped():
    writer, counts, sink = slow()
    texts = np.array([["x"], ["y" * 100], ["z" * 500], ["w" * 300]], dtype=object)
    writer.answered(FACTS, (0,), [job(unit) for unit in range(4)], [texts], 5_250_000_000)
    writer.answered(FACTS, (), [job(unit) for unit in range(4, 14)], [], 5_250_000_000)
    writer._flush()
    assert requests(sink.parts) == [f"r{unit}" for unit in range(14) if unit != 2]
    assert all(len(part) <= 4 and sum(map(len, part)) <= 1_000 for part in sink.parts)
    assert told(counts) == (13, 1)
    assert (writer._taken, writer._done) == (14, 14)


FULL = """
import resource, signal, sys
from pathlib import Path
from gateway.decisionfiles import append
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder, written = Path(sys.argv[1]), 0
for _ in range(20):
    try:
        append(folder, "0", b"x" * 299 + b"\\n", 1 << 20, 2)
        written += 1
    except OSError as error:
        assert error.errno == 27, error
print(written)
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
    assert (tmp_path / "worker-0.jsonl").read_bytes() == (b"x" * 299 + b"\n") * 3


def test_lines_that_cannot_be_written_are_counted(tmp_path: Path):
    writer, counts = log(tmp_path)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "worker-3.jsonl").mkdir()
    writer.answered(FACTS, (), [job(1), job(2)], [], 5_250_000_000)
    writer._flush()
    assert told(counts) == (0, 2)


def test_without_the_key_of_the_store_nothing_is_written(tmp_path: Path):
    writer, counts = log(tmp_path)
    writer.key = b""
    writer.start()
    writer.answered(FACTS, (), [job(1)], [], 5_250_000_000)
    writer.close()
    assert (told(counts), lines(tmp_path)) == ((0, 1), [])


def test_a_unit_is_forgotten_in_every_file_while_the_writer_goes_on(tmp_path: Path):
    writer, _ = log(tmp_path, file_bytes=4096, files=8)
    writer.start()
    stop = threading.Event()
    sent = 0

    def write() -> None:
        nonlocal sent
        while not stop.is_set() or sent < 60:
            folder.mkdir(exist_ok=True)
            line = json.dumps({"model": "m", "unit": ("a", "b")[sent % 2], "n": sent}).encode() + b"\n"
            append(folder, "9", line, 1024, 100)
            sent += 1

    folder = tmp_path / FOLDER
    thread = threading.Thread(target=write)
    thread.start()
    erased = sum(forget(folder, lambda line: line["unit"] == "a", b'"a"') for _ in range(5))
    stop.set()
    thread.join(20)
    writer.close()
    erased += forget(folder, lambda line: line["unit"] == "a", b'"a"')
    left = [line["n"] for line in lines(tmp_path)]
    assert sorted(left) == [n for n in range(sent) if n % 2]
    assert erased == (sent + 1) // 2
    assert find(folder, lambda line: line["unit"] == "b", b'"b"')[0]["n"] == 1


def test_lines_that_are_no_json_are_passed_over(tmp_path: Path):
    (tmp_path / "worker-0.jsonl").write_bytes(b'{"unit": "a"\n[1]\n{"unit": "a", "n": 1}\n')
    assert [line["n"] for line in find(tmp_path, lambda line: line.get("unit") == "a", b"")] == [1]


def test_no_descriptor_stays_open(tmp_path: Path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        append(tmp_path, "0", b"line\n", 4096, 2)
    assert len(os.listdir("/proc/self/fd")) == before

"""What the load tests read and decide, without a process or a clock."""

import json
import math

import numpy as np
import pytest

from loadtests import load, models, paced, processes, report, run, startup, swap, verdicts, wrk
from loadtests.processes import CpuTimes, ProcessStat
from loadtests.verdicts import MISS, PASS, UNKNOWN, Samples

REPORT = """Running 1s test @ http://127.0.0.1:8080/v2/models/tiny/infer
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.05ms  512.00us   9.31ms   91.20%
    Req/Sec    30.12k     2.01k   33.00k    80.00%
  Latency Distribution
     50%  970.00us
     75%    1.10ms
     90%    1.45ms
     99%    2.87ms
  30123 requests in 1.10s, 5.75MB read
Requests/sec:  27384.55
Transfer/sec:      5.22MB
"""
BAD = """  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 7
"""


def test_wrk_report() -> None:
    result = wrk.parse(REPORT)
    assert result == wrk.WrkResult(30123, 27384.55, 970.0, 2870.0, 0, 0)
    assert result.errors == 0


def test_wrk_report_with_errors() -> None:
    result = wrk.parse(REPORT.replace("Requests/sec", BAD + "Requests/sec"))
    assert (result.non_2xx, result.socket_errors, result.errors) == (7, 10, 17)


def test_wrk_report_without_numbers_is_an_error() -> None:
    with pytest.raises(ValueError, match="requests in"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.parametrize(("text", "us"), [("850.00us", 850.0), ("1.23ms", 1230.0), ("2.00s", 2e6), ("1.50m", 90e6)])
def test_durations(text: str, us: float) -> None:
    assert wrk.duration_us(text) == pytest.approx(us)


def test_unknown_duration_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 h"):
        wrk.duration_us("3 h")


def test_any_byte_survives_lua() -> None:
    literal = wrk.lua_string(bytes(range(256)))
    assert literal.isascii()
    assert "\n" not in literal
    assert "\\034#$%" in literal
    assert literal.endswith('\\255"')


def test_process_stat_with_a_nasty_name() -> None:
    tail = "S 1 7 7 0 -1 4194560 10 0 0 0 100 20 3 4 20 0 1 0 555 1000 50"
    stat = processes.parse_process_stat(f"42 (a) b (c)) {tail}")
    assert stat == ProcessStat(pid=42, parent=1, session=7, ticks=127, started=555)


def test_busy_ticks_leave_idle_iowait_and_guest_out() -> None:
    assert processes.parse_busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 1 1 1 1 1 1 1 1 1 1\n") == 63


def test_tree_has_descendants_and_members_of_the_session_only() -> None:
    parents = {10: (1, 10), 11: (10, 10), 12: (11, 99), 13: (1, 10), 14: (1, 1)}
    stats = [ProcessStat(pid, parent, session, 1, 0) for pid, (parent, session) in parents.items()]
    assert [stat.pid for stat in processes.tree_of(10, stats)] == [10, 11, 12, 13]


@pytest.mark.parametrize(
    ("every_s", "busy_s", "share"),
    [(8.5, 8.0, 0.1), (8.0, 8.5, 0.1), (7.9, 7.8, 0.0)],
    ids=["seen among processes", "seen in /proc/stat", "less than nothing"],
)
def test_foreign_share_is_the_larger_count(every_s: float, busy_s: float, share: float) -> None:
    start = CpuTimes(0.0, 0.0, 0.0, 0.0, 0.0)
    spent = processes.cpu_spent(start, CpuTimes(5.0, 5.0, 3.0, every_s, busy_s))
    assert spent.foreign_share == pytest.approx(share)


def test_medians_of_nothing_pass_nothing() -> None:
    assert verdicts.median([3.0, 1.0, 2.0]) == 2.0
    assert math.isnan(verdicts.median([]))
    assert verdicts.at_least(verdicts.median([]), 1.0) == UNKNOWN
    assert verdicts.at_most(verdicts.median([]), 1.0) == UNKNOWN
    assert verdicts.shown(math.nan, 2, "s") == "no round was kept"


def test_percentiles() -> None:
    hundred = [float(value) for value in range(1, 101)]
    assert [verdicts.percentile(hundred, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert math.isnan(verdicts.percentile([], 0.5))


def test_verdicts_at_the_edge() -> None:
    assert [verdicts.at_least(value, 1.2) for value in (1.19, 1.2)] == [MISS, PASS]
    assert [verdicts.at_most(value, 1.7) for value in (1.7, 1.71)] == [PASS, MISS]
    assert verdicts.faultless(PASS, errors=1) == MISS
    assert verdicts.faultless(UNKNOWN, errors=1) == UNKNOWN


SAMPLES = Samples(
    echo_rps=[9e3, 10e3, 50e3],
    server_rps=[12e3, 1e3, 13e3],
    echo_p50_us=[90.0],
    server_p50_us=[150.0],
    echo_cpu_us=[40.0],
    server_cpu_us=[30.0],
    bare_us=[10.0],
)


def test_ratios_are_of_medians() -> None:
    assert verdicts.throughput(SAMPLES) == pytest.approx(1.2)
    assert verdicts.latency(SAMPLES) == pytest.approx(1.5)
    assert verdicts.cpu(SAMPLES) == pytest.approx(0.75)
    assert verdicts.share_of_ideal(SAMPLES) == pytest.approx(12e3 * (100 + 10) / 1e6)


def test_json_body() -> None:
    payload = models.json_payload("tiny", 24)
    (tensor,) = json.loads(payload.body)["inputs"]
    assert payload.path == "/v2/models/tiny/infer"
    assert (tensor["name"], tensor["shape"], tensor["datatype"], len(tensor["data"])) == ("x", [1, 24], "FP32", 24)


def test_binary_body_carries_the_same_row() -> None:
    payload = models.binary_payload("mlp", 512)
    length = int(dict(payload.headers)["inference-header-content-length"])
    head = json.loads(payload.body[:length])
    assert head["inputs"][0]["parameters"] == {"binary_data_size": 2048}
    assert head["parameters"] == {"binary_data_output": True}
    np.testing.assert_array_equal(np.frombuffer(payload.body[length:], "<f4"), np.array(models.row(512), "<f4"))


@pytest.mark.parametrize(
    ("payload", "headers"), [(models.json_payload("t", 24), 8), (models.binary_payload("t", 24), 9)]
)
def test_request_on_the_wire(payload: models.Payload, headers: int) -> None:
    head, _, body = models.http_request(payload, 8080, 17).partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    named = dict(line.split(": ", 1) for line in lines)
    assert request_line == f"POST {payload.path} HTTP/1.1"
    assert len(named) == len(lines) == headers
    assert (named["host"], named["x-user-id"]) == ("127.0.0.1:8080", "user-17")
    assert (int(named["content-length"]), body) == (len(payload.body), payload.body)


ANSWER = b"HTTP/1.1 200 OK\r\nX-Tidegate-Model: tiny:2\r\nContent-Length: 2\r\n\r\n{}"


def test_answer_of_the_paced_client() -> None:
    assert paced.parse_answer(ANSWER) == (200, "tiny:2", False)
    assert all(paced.parse_answer(ANSWER[:cut]) is None for cut in range(len(ANSWER)))
    closing = b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    assert paced.parse_answer(closing) == (503, "", True)


def swap_round(kind: str, p99_us: float, *, failed: int = 0, changed_at_s: float | None = 2.0) -> swap.SwapRound:
    result = paced.PacedResult(offered=1, rate=1.0, seconds=1.0, answers=[paced.Answer(0.0, p99_us, 200, "tiny:1")])
    if changed_at_s is not None:
        result.answers.append(paced.Answer(changed_at_s, p99_us, 200, "tiny:2"))
    if failed:
        result.failures["status 503"] = failed
    return swap.summary(kind, result, 0.0)


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        (swap_round("swap", 199.0), PASS),
        (swap_round("swap", 201.0), MISS),
        (swap_round("swap", 100.0, failed=1), MISS),
        (swap_round("swap", 100.0, changed_at_s=None), UNKNOWN),
    ],
    ids=["fine", "slow", "failed", "never seen"],
)
def test_swap_verdict(changed: swap.SwapRound, outcome: str) -> None:
    plain = swap_round("without", 100.0, changed_at_s=None)
    assert swap.verdict([plain], [changed], ()).outcome == outcome


def test_worker_memory_is_found_at_any_depth() -> None:
    answer = {"workers": [{"slot": 0, "rss_bytes": 5}, {"process": {"rss_bytes": 7}}], "rss_bytes": None}
    assert startup.numbers_named("rss_bytes", answer) == [5, 7]


def test_table_keeps_one_line_per_verdict() -> None:
    found = verdicts.unmeasured({"a | b": ">= 1"}, "it ended:\nlast words")
    assert report.table(found).splitlines()[2:] == ["| a \\| b | >= 1 | it ended: / last words | not measured |  |"]


def test_cpu_model() -> None:
    assert report.cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: AMD EPYC\n") == "AMD EPYC"


def test_every_row_can_be_asked_for() -> None:
    assert tuple(row.name for row in load.rows()) == load.NAMES
    assert run.arguments(["--only", "swap", "--only", "start", "--rounds", "2"]).only == ["swap", "start"]


@pytest.mark.parametrize("given", [["--rounds", "0"], ["--seconds", "1000"], ["--only", "nothing"]])
def test_arguments_are_bounded(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        run.arguments(given)


def test_models_are_the_same_every_time_and_differ_by_seed() -> None:
    assert models.tiny() == models.tiny()
    assert models.tiny() != models.tiny(models.SEED + 1)

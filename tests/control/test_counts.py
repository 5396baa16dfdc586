"""Counts: additions over pages, finals that are folded once, at whatever moment control dies."""

import numpy as np
import pytest

from gateway.control.counts import Finals, total
from gateway.control.statistics import statistics
from gateway.counters import (
    CODE_INDEX,
    EXECUTIONS,
    INFERENCES,
    INFLIGHT,
    MODEL_VALUES,
    PAGE_BYTES,
    WORKER_FIELDS,
    WORKER_INDEX,
    CounterPage,
)

KEY = ("m", "1", "-")


def page(requests: int = 0, inflight: int = 0, connections: int = 0) -> CounterPage:
    found = CounterPage(memoryview(bytearray(PAGE_BYTES)))
    block = found.block("model", KEY, MODEL_VALUES)
    block[CODE_INDEX[200]] = requests
    block[INFLIGHT] = inflight
    found.block("worker", (), len(WORKER_FIELDS))[WORKER_INDEX["connections_total"]] = connections
    return found


def requests(*pages: CounterPage) -> int:
    return int(total(pages).models[KEY][CODE_INDEX[200]])


def test_pages_add_up() -> None:
    assert requests(page(3), page(4)) == 7


def test_a_page_is_read_while_it_is_written() -> None:
    buffer = memoryview(bytearray(PAGE_BYTES))
    writer, reader = CounterPage(buffer), CounterPage(buffer)
    writer.block("model", KEY, MODEL_VALUES)[CODE_INDEX[200]] += 1
    writer.block("model", ("other", "2", "-"), MODEL_VALUES)[CODE_INDEX[200]] += 5
    assert requests(reader) == 1
    assert writer.block("model", KEY, MODEL_VALUES)[CODE_INDEX[200]] == 1


def test_a_full_page_goes_on_counting_without_labels() -> None:
    small = CounterPage(memoryview(bytearray(64 * 1024)))
    for number in range(50):
        small.block("model", ("m", str(number), "-"), MODEL_VALUES)[CODE_INDEX[200]] += 1
    sums = total([small])
    labelled = sum(int(values[CODE_INDEX[200]]) for values in sums.models.values())
    assert 0 < labelled < 50
    assert labelled + int(sums.lost[CODE_INDEX[200]]) == 50


def test_a_dead_worker_is_folded_once() -> None:
    finals = Finals(memoryview(bytearray(PAGE_BYTES)))
    assert finals.fold("a", page(3, inflight=2, connections=9))
    assert not finals.fold("a", page(3))
    assert finals.fold("b", page(4))
    assert requests(finals.page) == 7
    sums = total([finals.page])
    assert sums.models[KEY][INFLIGHT] == 0
    assert sums.workers[WORKER_INDEX["connections_closed_total"]] == 9


def test_what_a_killed_worker_had_not_written_of_decisions_is_dropped_and_counted() -> None:
    finals, dead = Finals(memoryview(bytearray(PAGE_BYTES))), page(3)
    values = dead.block("worker", (), len(WORKER_FIELDS))
    for name, lines in (("written_total", 70), ("dropped_total", 5), ("waiting", 25)):
        values[WORKER_INDEX[f"decisions_{name}"]] = lines
    finals.fold("a", dead)
    sums = total([finals.page]).workers
    assert [int(sums[WORKER_INDEX[f"decisions_{name}"]]) for name in ("written_total", "dropped_total", "waiting")] == [
        70, 30, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("at", range(12))
def test_killed_at_any_store_it_is_all_or_nothing(at: int) -> None:
    """Stop the fold at its n-th numpy or struct store; a new control folds again, and the sum is right."""
    buffer = memoryview(bytearray(PAGE_BYTES))
    Finals(buffer).fold("a", page(3))

    class Killed(Exception):
        pass

    class Dying(Finals):
        pass

    dead = page(4)
    blocks = list(dead.blocks())

    def dying() -> object:
        for number, block in enumerate(blocks * 6):
            if number == at:
                raise Killed
            yield block

    broken = CounterPage(memoryview(bytearray(1024)))
    broken.blocks = dying  # type: ignore[method-assign,assignment]
    with pytest.raises(Killed):
        Dying(buffer).fold("b", broken)
    assert requests(Finals(buffer).page) == 3
    assert Finals(buffer).fold("b", dead)
    assert requests(Finals(buffer).page) == 7


def test_statistics_have_every_key_and_add_variants() -> None:
    one, other = page(5), CounterPage(memoryview(bytearray(PAGE_BYTES)))
    block = other.block("model", ("m", "1", "canary"), MODEL_VALUES)
    block[CODE_INDEX[200]], block[INFERENCES], block[EXECUTIONS] = 2, 20, 1
    (found,) = statistics(total([one, other]), [("m", 1)])["model_stats"]
    assert found["inference_stats"]["success"]["count"] == 7
    assert (found["inference_count"], found["execution_count"]) == (20, 1)
    names = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
    assert set(found["inference_stats"]) == names
    (unused,) = statistics(total([]), [("never", 3)])["model_stats"]
    assert unused["inference_stats"]["success"] == {"count": 0, "ns": 0}
    assert np.int64 not in {type(value) for value in found.values()}

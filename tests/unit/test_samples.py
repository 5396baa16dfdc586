"""Requests that a shadow answered otherwise: which are taken, what of them, and how long they are held."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.control.shadowsamples import FORGOTTEN_MS, ShadowSamples, tensor
from gateway.exchange import Exchange, Placed
from gateway.samples import (
    BURST,
    MOST_BYTES,
    MOST_REQUEST_BYTES,
    MOST_ROWS,
    MOST_WAITING,
    PER_S,
    TENSOR_BYTES,
    Outbox,
    Part,
    Sample,
    SampledTensor,
    Sampler,
)
from gateway.tally import Tally
from router.policy import Samples
from runtimes.tensors import DATATYPES, DYNAMIC, Array, Signature, TensorSpec
from runtimes.wide import Wide

pytestmark = pytest.mark.interpreted
FP32, BYTES = DATATYPES["FP32"], DATATYPES["BYTES"]
X, NOTE, Y = (
    TensorSpec("x", FP32, (DYNAMIC, 2)),
    TensorSpec("note", BYTES, (1,), optional=True),
    TensorSpec("y", FP32, (DYNAMIC, 2)),
)
NOW_MS = 1_000_000_000_000


def job(inputs: list[Any], rows: int = 1, unit: int = 7) -> Exchange:
    found, nobody = Exchange(), memoryview(bytearray(8)).cast("q")
    found.inputs, found.rows, found.request_id = inputs, rows, b"r-1"
    served: Any = None
    found.placed = Placed(served, Tally(nobody), 0, unit, shadowed=True, of_canary=False)
    return found


def numbers(rows: int, width: int = 2) -> Array:
    return np.arange(rows * width, dtype=np.float32).reshape(rows, width)


def sampler(*inputs: TensorSpec, batched: bool = True) -> tuple[Sampler, Outbox]:
    outbox = Outbox()
    return Sampler(outbox, "m", 3, "next", Signature(inputs or (X,), (Y,), batched)), outbox


def sent(outbox: Outbox) -> Part:
    return msgspec.msgpack.decode(outbox.part(), type=Part)


def take(one: Sampler, of: Exchange, places: list[int], outputs: Array, now_ms: int = NOW_MS, **more: Any) -> None:
    one.take(of, ([outputs], [-outputs]), ["argmax"], places, now_ms=now_ms, **more)


def test_the_rows_that_differ_are_kept_with_both_answers() -> None:
    one, outbox = sampler(X, NOTE)
    note = np.array([b"all"], object)
    take(one, job([numbers(4), note], rows=4, unit=2**64 - 1), [1, 3], numbers(4))
    (sample,) = sent(outbox).samples
    about = sample.policy, sample.revision, sample.variant, sample.request, sample.time_ms
    assert about == ("m", 3, "next", "r-1", NOW_MS)
    assert (sample.unit, sample.why, sample.rows, sample.kept) == (2**64 - 1, ("argmax",), 4, (1, 3))
    assert list(map(tensor, sample.inputs)) == [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 3.0, 6.0, 7.0]},
        {"name": "note", "datatype": "BYTES", "shape": [1], "data": ["all"]},
    ]
    assert [tensor(one)["data"] for one in (*sample.answered, *sample.shadow)] == [[2, 3, 6, 7], [-2, -3, -6, -7]]
    assert not outbox


def test_numbers_that_are_not_narrow_yet_and_inputs_left_out_are_read_as_the_model_has_them() -> None:
    one, outbox = sampler(X, NOTE)
    wide = Wide(np.array([[0.1, 2.0]]).tobytes(), "d", (1, 2))
    take(one, job([wide, None]), [0], numbers(1))
    (sample,) = sent(outbox).samples
    assert list(map(tensor, sample.inputs)) == [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 2.0]}]


def test_what_a_model_without_rows_takes_and_gives_is_kept_whole() -> None:
    one, outbox = sampler(batched=False)
    take(one, job([numbers(3)]), [0, 1, 2], numbers(3))
    (sample,) = sent(outbox).samples
    assert (sample.kept, sample.inputs[0].shape, sample.answered[0].shape) == ((0,), (3, 2), (3, 2))


def test_a_copy_that_failed_says_why_and_has_one_answer() -> None:
    one, outbox = sampler()
    one.take(job([numbers(1)]), ([numbers(1)],), ["failed"], [0], now_ms=NOW_MS, error="no such row")
    (sample,) = sent(outbox).samples
    assert (sample.why, sample.error, len(sample.answered), sample.shadow) == (("failed",), "no such row", 1, ())


def test_many_rows_and_large_ones_are_cut_and_what_fits_nowhere_is_skipped() -> None:
    one, outbox = sampler(TensorSpec("x", FP32, (DYNAMIC, DYNAMIC)))
    take(one, job([numbers(40)], rows=40), list(range(40)), numbers(40))
    take(one, job([numbers(8, 4000)], rows=8), list(range(8)), numbers(8))
    take(one, job([numbers(1, MOST_BYTES // 4)]), [0], numbers(1))
    part = sent(outbox)
    assert [len(sample.kept) for sample in part.samples] == [MOST_ROWS, 4]
    assert part.skipped == {"m": 1}
    assert max(sample.size_bytes for sample in part.samples) <= MOST_BYTES


def test_of_answers_with_other_rows_than_the_request_all_are_kept() -> None:
    """Three detections in one picture: the rows that differ are no rows of the input."""
    one, outbox = sampler()
    one.take(job([numbers(1)]), ([numbers(3)], [-numbers(3)]), ["tolerance"], [1, 2], now_ms=NOW_MS)
    (sample,) = sent(outbox).samples
    assert (sample.rows, sample.kept, sample.inputs[0].shape) == (1, (0,), (1, 2))
    assert sample.answered[0].shape == sample.shadow[0].shape == (3, 2)


def test_a_large_request_is_not_even_looked_at() -> None:
    one, outbox = sampler()
    large = job([numbers(1)])
    large.size_bytes = MOST_REQUEST_BYTES + 1
    take(one, large, [0], numbers(1))
    assert sent(outbox) == Part((), {"m": 1})


def test_many_small_tensors_take_their_room_too() -> None:
    specs = tuple(TensorSpec(f"x{at}", FP32, (DYNAMIC, 1)) for at in range(300))
    one, outbox = sampler(*specs)
    take(one, job([numbers(1, 1)] * 300), [0], numbers(1))
    assert sent(outbox) == Part((), {"m": 1})


def test_a_request_of_which_no_sample_can_be_made_is_skipped() -> None:
    one, outbox = sampler()
    one.take(job([numbers(1)]), ([np.array([["a", "b"]])],), ["tolerance"], [0], now_ms=NOW_MS)
    take(one, job([Wide(np.array([[1e300, 2.0]]).tobytes(), "d", (1, 2))]), [0], numbers(1))
    assert sent(outbox) == Part((), {"m": 2})


def test_the_rate_is_bounded_and_what_is_above_it_is_counted() -> None:
    one, outbox = sampler()
    for _ in range(100):
        take(one, job([numbers(1)]), [0], numbers(1))
    part = sent(outbox)
    assert (len(part.samples), part.skipped) == (BURST, {"m": 80})
    for turn in range(10):
        take(one, job([numbers(1)]), [0], numbers(1), now_ms=NOW_MS + 100 * (turn + 1))
    assert len(sent(outbox).samples) == PER_S, "a second has passed"


def test_a_clock_that_goes_back_gives_no_credit() -> None:
    one, outbox = sampler()
    for back in range(100):
        take(one, job([numbers(1)]), [0], numbers(1), now_ms=NOW_MS - back * 10_000)
    assert len(sent(outbox).samples) == BURST


def test_what_waits_for_control_is_bounded_over_all_policies() -> None:
    outbox = Outbox()
    for name in ("a", "b", "c"):
        one = Sampler(outbox, name, 1, "next", Signature((X,), (Y,), True))
        for _ in range(20):
            take(one, job([numbers(1)]), [0], numbers(1))
    part = sent(outbox)
    assert len(part.samples) == MOST_WAITING
    assert part.skipped == {"b": 8, "c": 20}


class Control:
    """Samples of a node whose clock and policies a test sets."""

    def __init__(self, **more: Any) -> None:
        self.now_ms = NOW_MS
        self.kept: dict[str, Any] = {}
        policies: Any = SimpleNamespace(kept=self.kept, get=self.kept.__getitem__)
        self.samples = ShadowSamples(policies, now_ms=lambda: self.now_ms, **more)

    def asks(self, name: str = "m", **wanted: int) -> None:
        samples = Samples(**wanted) if wanted else None  # type: ignore[arg-type]
        self.kept[name] = SimpleNamespace(
            policy=SimpleNamespace(spec=SimpleNamespace(shadow=SimpleNamespace(samples=samples)))
        )

    def take(self, *samples: Sample, **skipped: int) -> None:
        asyncio.run(self.samples.take(msgspec.msgpack.encode(Part(samples, skipped))))

    def held(self, name: str = "m", **more: Any) -> list[str]:
        return [one["request"] for one in self.shown(name, **more)["samples"]]

    def shown(self, name: str = "m", **more: Any) -> dict[str, Any]:
        return asyncio.run(self.samples.shown(name, **more))


def sample(request: str, policy: str = "m", size: int = 8, unit: int = 7, **changes: Any) -> Sample:
    x = SampledTensor("x", "FP32", (1, size // 4), b"\0" * size)
    made = Sample(NOW_MS, policy, 3, "next", request, unit, ("argmax",), "", 1, (0,), (x,), (), ())
    return msgspec.structs.replace(made, **changes)


def test_the_newest_are_held_as_long_as_the_policy_says() -> None:
    control = Control()
    control.asks(max=2, ttl_ms=1_000)
    control.take(*(sample(str(n), time_ms=NOW_MS - 2 + n) for n in range(3)), m=4)
    shown = control.shown()
    assert ([one["request"] for one in shown["samples"]], shown["skipped"]) == (["2", "1"], 4)
    assert shown["samples"][0]["expires_ms"] == NOW_MS + 1_000
    control.now_ms += 999
    assert control.held() == ["2"]
    control.now_ms += 1
    assert control.held() == []


def test_a_clock_that_was_ahead_keeps_nothing_for_longer() -> None:
    control = Control()
    control.asks(max=9, ttl_ms=1_000)
    control.take(sample("ahead", time_ms=NOW_MS + 3_600_000), sample("now"))
    control.now_ms -= 500
    control.take(sample("set back", time_ms=NOW_MS - 500))
    control.now_ms += 1_000
    assert control.held() == ["now", "ahead"]
    control.now_ms += 500
    assert control.held() == []


def test_a_policy_that_asks_for_fewer_or_for_none_has_the_others_forgotten() -> None:
    control = Control()
    control.asks(max=9, ttl_ms=1_000)
    control.take(*(sample(str(n)) for n in range(3)))
    control.asks(max=1, ttl_ms=1_000)
    assert control.held() == ["2"]
    control.asks()
    assert control.shown()["asked"] is None
    control.take(sample("late"))
    control.asks(max=9, ttl_ms=1_000)
    assert control.held() == []


def test_a_policy_that_is_deleted_has_no_samples() -> None:
    control = Control()
    control.asks(max=9, ttl_ms=1_000)
    control.take(sample("1"))
    policy = control.kept.pop("m")
    control.samples.tidy()
    control.kept["m"] = policy
    assert control.held() == []


def test_a_unit_is_erased_also_from_what_still_comes() -> None:
    control = Control()
    control.asks(max=9, ttl_ms=2 * FORGOTTEN_MS)
    control.asks("n", max=9, ttl_ms=2 * FORGOTTEN_MS)
    control.take(sample("1"), sample("2", unit=2**64 - 1), sample("3", policy="n", unit=2**64 - 1))
    assert control.samples.forget("m", 2**64 - 1) == 1
    assert control.samples.forget("m", 2**64 - 1) == 0
    control.take(sample("late", unit=2**64 - 1), sample("4"))
    assert (control.held(), control.held("n")) == (["4", "1"], ["3"])
    control.now_ms += FORGOTTEN_MS
    control.take(sample("5", unit=2**64 - 1))
    assert "5" in control.held()


def test_the_bytes_of_a_policy_and_of_a_node_are_bounded() -> None:
    control = Control(node_bytes=5 * (200 + TENSOR_BYTES))
    for name in "mn":
        control.asks(name, max=100, ttl_ms=1_000)
        control.take(*(sample(f"{name}{n}", policy=name, size=200) for n in range(4)))
    assert (control.held(), control.held("n")) == (["m3", "m2"], ["n3", "n2", "n1"])


def test_one_variant_alone_can_be_asked_for() -> None:
    control = Control()
    control.asks(max=9, ttl_ms=1_000)
    control.take(sample("1"), sample("2", variant="other"))
    assert (control.held(variant="other"), control.held(variant="nobody")) == (["2"], [])


@pytest.mark.parametrize(
    ("datatype", "data", "shown"),
    [
        ("FP32", np.array([0.1, np.nan, np.inf, -np.inf], "<f4").tobytes(), [0.1, "NaN", "Infinity", "-Infinity"]),
        ("FP16", np.array([0.5], "<f2").tobytes(), [0.5]),
        ("BF16", np.array([0x3FC0], "<u2").tobytes(), [1.5]),
        ("FP64", np.array([1e300]).tobytes(), [1e300]),
        ("UINT64", np.array([2**64 - 1], "<u8").tobytes(), [2**64 - 1]),
        ("BOOL", b"\1\0", [True, False]),
        ("BYTES", ["é".encode(), b"\xff"], ["é", "\\xff"]),
    ],
)
def test_every_datatype_is_shown_as_valid_json(datatype: str, data: Any, shown: list[Any]) -> None:
    found = tensor(SampledTensor("x", datatype, (len(shown),), data))
    assert found == {"name": "x", "datatype": datatype, "shape": [len(shown)], "data": shown}

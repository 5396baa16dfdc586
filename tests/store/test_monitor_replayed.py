"""What the monitor said and did is computed again from its records, to the last bit; an edited one is found."""

from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.control.monitornotes import RECORD_BYTES, WAITING_BYTES
from gateway.control.replay import replay
from gateway.monitor.book import ModelMonitor
from gateway.monitor.plan import CountPlan, FeaturePlan
from gateway.store.base import Store
from tests.monitor.replay_world import MINUTE_MS, SPEC, edited, numbers, read_back, replayed, turns, watched
from tests.monitor.test_champion import CANARY, PLAN, ROLES, STABLE, counts
from tests.monitor.test_monitors_loop import monitors_on
from tests.store.places import Place, on_a_store


def records(**story: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the incident that opens, and of the lease, as the trail has them."""
    held = watched()
    for minute, outcome in enumerate(turns(held, **story)):
        if outcome.lease is not None and outcome.lease.granted_s == minute * MINUTE_MS / 1000:
            lease, _ = held.notes.written(outcome.lease, held.monitor)
            assert lease is not None
            return read_back(held.notes.unwritten[0]), read_back(lease)
    raise AssertionError("no lease")


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    return records(score=1.0)


@on_a_store()
async def test_what_was_written_in_a_store_is_computed_again(store: Store, place: Place) -> None:
    monitors, held = monitors_on(store), watched()
    for minute, outcome in enumerate(turns(held, score=1.0)):
        lease = outcome.lease
        if lease is not None and lease.granted_s == minute * MINUTE_MS / 1000:
            assert await monitors._save("m", held, lease, None)
            break
    assert await monitors._save("m", held, None, None)
    trail = (await store.audit_read("m")).records
    assert [one.record["what"] for one in trail] == ["lease rollback", "incident opened"]
    for before, record in zip((None, *trail), trail, strict=False):
        found = replay(record, before)
        assert found.text == "same verdict"
        assert all("estimates" in one for one in found.partly), "without a calibration nothing is estimated"
        exact = {one.what: one.recomputed for one in found.checks}
        assert exact["prediction_drift of canary: state"] == "firing"
        assert exact["prediction_drift of canary: p_value"] == record.record["grounds"][0]["found"]["p_value"] < 1e-100


def test_every_count_and_every_number_of_what_fired_is_bound(both: tuple[dict[str, Any], ...]) -> None:
    for record in both:
        ground = record["grounds"][0]
        assert (ground["test"], ground["found"]["state"]) == ("prediction", "firing")
        places = [("grounds", 0, name, *at) for name in ("bins", "found") for at in numbers(ground[name])]
        assert len(places) > 50
        for at in places:
            bits = "found" in at
            more = edited(record, at, lambda value, bits=bits: value * (1 + 2**-52) if bits and value else value + 1)
            assert replayed(more).text.startswith("mismatch"), at


@pytest.mark.parametrize(
    ("at", "by"),
    [
        (("grounds", 0, "found", "state"), "ok"),
        (("grounds", 0, "found", "named"), []),
        (("grounds", 0, "floor"), 0.2),
        (("grounds", 0, "sharing"), 3),
        (("grounds", 0, "distance_ms"), 1_000_000),
        (("grounds", 0, "closed_ms"), lambda value: value + 1),
        (("grounds", 0, "before", "hits"), [False, False]),
        (("grounds", 1, "pairs", 0, "canary", 500), lambda count: count + 1),
        (("grounds", 4, "counts", 0, 2), 900),
        (("asked", "compared", "outputs"), "ok"),
        (("asked", "canary", "states", "prediction_drift"), "ok"),
        (("attribution", "verdict"), "world"),
        (("grounds", 0, "found", "keys", 0, 1), 2.0),
        (("grounds", 0, "silent"), 10**12),
        (("grounds", 0, "bins", 0, "window", 0), 10**30),
    ],
)
def test_an_edited_record_is_found(both: tuple[dict[str, Any], ...], at: tuple[Any, ...], by: Any) -> None:
    assert [replayed(record).text for record in both] == ["same verdict"] * 2
    for record in both:
        assert replayed(edited(record, at, by)).text.startswith("mismatch")


@pytest.mark.parametrize(
    ("which", "at", "by"),
    [
        (0, ("verdict",), "world"),
        (0, ("recommended",), "page"),
        (0, ("signals", 0, "severity"), "warning"),
        (0, ("signals", 0, "text"), "PSI 0.1"),
        (0, ("signals", 0, "keys"), ["age"]),
        (0, ("signals", 0, "signal"), "input_drift"),
        (1, ("what",), "lease freeze"),
        (1, ("allowed",), "freeze"),
        (1, ("reason",), "because"),
    ],
)
def test_what_is_told_and_done_follows(both: Any, which: int, at: tuple[Any, ...], by: Any) -> None:
    assert replayed(edited(both[which], at, by)).text.startswith("mismatch")


def test_inputs_that_drift_for_both_are_computed_again() -> None:
    held = watched()
    next(one for one in turns(held, shift=0.5) if one.events)
    record = read_back(held.notes.unwritten[0])
    place = next(at for at, one in enumerate(record["grounds"]) if one["test"] == "input")
    assert record["grounds"][place]["found"]["state"] == "firing"
    bins = record["grounds"][place]["bins"][0]
    assert (bins["name"], sum(bins["window"]) + sum(bins["quality"]), bins["phi"]) == ("a", 1000, 1.0)
    assert replayed(record).text == "same verdict"
    for name in ("reference", "window"):
        for at in range(len(bins[name])):
            more = edited(record, ("grounds", place, "bins", 0, name, at), lambda count: count + 1)
            assert "input_drift" in replayed(more).text


# ---- what is not computed again ----


@pytest.mark.parametrize("last", [0.0, 0.3])
def test_of_an_incident_that_several_windows_open_at_once_the_last_is_computed(last: float) -> None:
    held, rng = watched(), np.random.default_rng(7)
    for minute, scores in enumerate([(0.0,), (1.0, 1.0, last)]):
        deltas = [
            (*series, counts(rng, 1_000, score=score * (series == CANARY)))
            for score in scores
            for series in (CANARY, STABLE)
        ]
        outcome = held.monitor.turn(deltas, ROLES, minute * MINUTE_MS, token=1)
        held.notes.take(outcome.events, held.monitor)
    record = read_back(held.notes.unwritten[0])
    assert [(one["signal"], one["severity"], one["words"]) for one in record["signals"]] == [
        ("prediction_drift", "critical", 2)
    ]
    found = replayed(record)
    assert found.text == "same verdict"
    assert any("several windows closed at once" in one for one in found.partly)
    assert replayed(edited(record, ("signals", 0, "words"), 1)).text.startswith("mismatch")
    place = next(at for at, one in enumerate(record["grounds"]) if one["test"] == "prediction")
    assert replayed(edited(record, ("grounds", place, "bins", 0, "window", 0), 900)).text.startswith("mismatch")


def test_of_many_features_those_that_decided_are_in_the_record_and_it_has_a_bound() -> None:
    features = tuple(FeaturePlan(f"feature {at:03}", "numeric", 0, 0, tuple(range(-15, 16))) for at in range(300))
    plan = CountPlan("", features, PLAN.score)
    held = watched(plan=plan)
    next(one for one in turns(held, shift=1.0, plan=plan) if one.events)
    record = read_back(held.notes.unwritten[0])
    assert 20_000 < len(msgspec.json.encode(record)) <= RECORD_BYTES
    (bins,) = (one["bins"] for one in record["grounds"] if one["test"] == "input" and one["variant"] == "stable")
    assert 5 <= len(bins) <= 20
    found = replayed(record)
    assert found.text == "same verdict"
    taken = [one for one in found.partly if one.startswith("input_drift of stable: p-values")]
    assert taken == [f"input_drift of stable: p-values of {300 - len(bins)} of 300 keys are taken from the record"]
    assert replayed(edited(record, ("grounds", 0, "found", "keys", 299, 1), 1e-300)).text.startswith("mismatch")


def test_records_that_wait_for_the_store_have_a_bound_together() -> None:
    held = watched()
    (opened,) = next(one.events for one in turns(held, score=1.0) if one.events)
    for _ in range(49):
        held.notes.take([opened], held.monitor)
    assert WAITING_BYTES / 2 < len(msgspec.json.encode(held.notes.unwritten)) < WAITING_BYTES + 50 * 2_000
    last = read_back(held.notes.unwritten[-1])
    assert (last["grounds"], last["grounds_left_out"] > 0) == ([], True)
    assert replayed(last).text == "same verdict"
    assert any("had no room" in one for one in replayed(last).partly)


def test_what_was_said_before_a_restart_is_listed_as_not_computed() -> None:
    held = watched()
    (opened,) = next(one.events for one in turns(held, score=1.0) if one.events)
    again = ModelMonitor("m", SPEC)
    again.watch({version: one.reference for version, one in held.monitor.versions.items()})
    again.restore(held.monitor.state())
    held.notes.take([opened], again)
    found = replayed(read_back(held.notes.unwritten[-1]))
    assert found.text == "same verdict"
    assert found.partly == ("prediction_drift of canary: its counts are not in the record", "whose fault it is")


def test_a_record_of_an_earlier_build_is_read(both: tuple[dict[str, Any], ...]) -> None:
    names = ("grounds", "grounds_left_out", "method", "arithmetic", "asked", "attribution")
    for record in both:
        earlier = {name: value for name, value in record.items() if name not in names}
        found = replayed(earlier)
        assert (found.text, len(found.partly)) == ("same verdict", 1)


def test_other_arithmetic_is_compared_to_nine_digits_and_another_method_not(both: tuple[dict[str, Any], ...]) -> None:
    record = {**both[0], "arithmetic": "00000000"}
    near = ("grounds", 0, "found", "compared", "score", "psi")
    assert replayed(edited(record, near, lambda psi: psi * (1 + 1e-12))).text == "same verdict"
    assert any("nine digits" in one for one in replayed(record).partly)
    assert replayed(edited(record, near, lambda psi: psi * (1 + 1e-6))).text.startswith("mismatch")
    found = replayed({**both[0], "method": 0})
    assert (found.text, len(found.checks), len(found.partly)) == ("same verdict", 2, 1)

"""Reports of totals become what is new, each thing once: in any order, repeated, across restarts of either side."""

import json
import random

from gateway.control.intake import Intake
from gateway.control.record import Lost, NodeReport, Notes, parts_of

PLACE = (4, "", "canary")


def report(node: str = "a", run: str = "r", ok: int = 0, notes: tuple[Notes, ...] = (), lost: int = 0) -> NodeReport:
    counts = ((4, "", "canary", (ok, ok, 0, 0, 0, 0)),)
    gone = (Lost("w", 4, "", "canary", lost),) if lost else ()
    return NodeReport(node=node, run=run, counts=counts, notes=notes, lost=gone)


def note(unit: int) -> tuple[int, int, int, int, int]:
    return (1, 4, 0, 1, unit)


def test_totals_that_come_twice_count_once() -> None:
    intake = Intake()
    assert intake.take(report(ok=5)).counts == {PLACE: (5, 5, 0, 0, 0, 0)}
    assert intake.take(report(ok=5)).counts == {}
    assert intake.take(report(ok=7)).counts == {PLACE: (2, 2, 0, 0, 0, 0)}


def test_a_node_that_started_anew_counts_from_nothing() -> None:
    intake = Intake()
    intake.take(report(ok=5))
    assert intake.take(report(run="s", ok=3)).counts == {PLACE: (3, 3, 0, 0, 0, 0)}


def test_nodes_are_apart() -> None:
    intake = Intake()
    intake.take(report(ok=5))
    assert intake.take(report("b", ok=5)).counts == {PLACE: (5, 5, 0, 0, 0, 0)}


def test_notes_that_overlap_come_once_and_gaps_are_told() -> None:
    intake = Intake()
    first = intake.take(report(notes=(Notes("w", 0, (note(1), note(2))),)))
    second = intake.take(report(notes=(Notes("w", 1, (note(2), note(3))),)))
    third = intake.take(report(notes=(Notes("w", 7, (note(8),)),)))
    assert [one.notes for one in (first, second, third)] == [[note(1), note(2)], [note(3)], [note(8)]]
    assert [one.missed for one in (first, second, third)] == [0, 0, 4]


def test_requests_lost_with_a_worker_are_lost_once() -> None:
    intake = Intake()
    assert intake.take(report(lost=3)).lost == {PLACE: 3}
    assert intake.take(report(lost=3)).lost == {}


def test_a_state_goes_on_through_json() -> None:
    rng = random.Random(7)
    straight, restarted = Intake(), Intake()
    written = 0
    seen: list[list[tuple[int, ...]]] = [[], []]
    for step in range(200):
        count = rng.randrange(4)
        stretch = tuple(note(written + i) for i in range(count))
        one = report(ok=step, notes=(Notes("w", written, stretch),))
        written += count
        seen[0] += straight.take(one).notes
        seen[1] += restarted.take(one).notes
        if rng.random() < 0.2:
            restarted = Intake(json.loads(json.dumps(restarted.state())))
            seen[1] += restarted.take(one).notes
    assert seen[0] == seen[1] == [note(i) for i in range(written)]
    assert straight.state() == restarted.state()


def test_a_large_report_in_parts_is_the_same() -> None:
    notes = tuple(note(i) for i in range(5_000))
    whole = report(ok=9, notes=(Notes("w", 0, notes), Notes("v", 3, notes[:900])))
    parts = parts_of(whole)
    assert all(sum(len(stretch.notes) for stretch in part.notes) <= 800 for part in parts)
    intake = Intake()
    deltas = [intake.take(part) for part in parts]
    alone = Intake().take(whole)
    assert [n for delta in deltas for n in delta.notes] == alone.notes
    assert sum(delta.missed for delta in deltas) == alone.missed == 3
    assert [delta.counts for delta in deltas if delta.counts] == [alone.counts]


def test_old_revisions_are_forgotten() -> None:
    intake = Intake()
    intake.take(report(ok=5))
    intake.forget({"5": {}})
    assert intake.state()["a"]["counts"] == {}


def test_what_is_told_of_forgotten_revisions_is_not_new() -> None:
    """Pages of workers have it until they end: after a delete, or more than 256 revisions later."""
    old, new = (3, "", "canary", (5, 5, 0, 0, 0, 0)), (9, "", "canary", (7, 7, 0, 0, 0, 0))
    shadow = ((3, "canary", (4, 4, 0, 0)), (9, "canary", (1, 1, 0, 0)))
    told = NodeReport(node="a", run="r", counts=(old, new), shadow=shadow)
    intake = Intake()
    intake.take(told)
    intake.forget({"9": {}, "10": {}})
    for again in (intake, Intake(json.loads(json.dumps(intake.state())))):
        for report_of_run in (
            told,
            NodeReport(node="a", run="s", counts=(old,)),
            NodeReport(node="b", run="r", counts=(old,)),
        ):
            delta = again.take(report_of_run)
            assert (delta.counts, delta.shadow) == ({}, {})
            again.forget({"9": {}, "10": {}})


def test_a_revision_that_is_newer_than_all_that_are_known_is_kept() -> None:
    """Another node may act on it before the leader has read it."""
    intake = Intake()
    assert intake.take(report(ok=5)).counts == {PLACE: (5, 5, 0, 0, 0, 0)}
    intake.forget({"3": {}})
    assert intake.take(report(ok=7)).counts == {PLACE: (2, 2, 0, 0, 0, 0)}

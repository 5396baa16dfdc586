"""What the audit trail says of an experiment: its begin, its changes, its end."""

from typing import Any

import msgspec

from gateway.control.experimentpage import page_of
from gateway.control.experiments import Marks, report_of
from gateway.control.experimenttrail import began, begun_at, with_trail
from gateway.control.health import Health
from gateway.control.rewards import Rewards
from gateway.control.study import Study
from gateway.store.base import AuditRecord
from tests.control.studies import epoch, study

AB: dict[str, Any] = {"spec": {"experiment": {"goals": []}}}
PLAIN: dict[str, Any] = {"spec": {}}


def record(seq: int, what: str, revisions: tuple[int, int], **said: Any) -> AuditRecord:
    said = {"what": what, "actor": "ann", "revision_before": revisions[0], "revision_after": revisions[1], **said}
    return AuditRecord("", seq, 1_000 * seq, "policy", "fraud", 0, 0, said, b"", "")


BEFORE = record(3, "apply", (0, 1), document=PLAIN)
BEGIN = record(4, "apply", (1, 2), document=AB, reason="try it")
KILL = record(5, "kill", (2, 3), reason="slow")
HELD = record(6, "hold", (3, 3))
STUDY = study(epochs=(epoch("e", revision=2), epoch("f", (9_000, 1_000), revision=3)))


def told(*records: AuditRecord, of: Study = STUDY) -> dict[str, Any]:
    report = report_of(of, Health(), Rewards(), Marks(), now_ms=9_000)
    return with_trail(report, of, records)


def ids(found: dict[str, Any]) -> list[str]:
    return [one["id"] for one in found["audit"]]


def test_the_edits_since_it_began_are_told_and_looks_of_a_rollout_are_not() -> None:
    found = told(BEFORE, BEGIN, KILL, HELD)
    assert (ids(found), found["stop_reason"], found["state"]) == (["main/4", "main/5"], "", "running")
    assert found["audit"][0]["reason"] == "try it"
    assert [began(one, begun_at(STUDY)) for one in (BEFORE, BEGIN, KILL, HELD)] == [False, True, False, False]


def test_what_takes_the_experiment_out_of_the_document_has_stopped_it() -> None:
    stop = record(7, "apply", (3, 4), document=PLAIN, actor="bob", reason="seen enough")
    after = record(8, "kill", (4, 5))
    found = told(BEGIN, KILL, stop, after, of=msgspec.structs.replace(STUDY, ended_ms=7_100))
    assert (ids(found), found["ended_ms"]) == (["main/4", "main/5", "main/7"], 7_000)
    assert found["stop_reason"] == "apply by bob (main/7): seen enough"
    assert "apply by bob (main/7): seen enough" in page_of(found)


def test_a_deleted_policy_has_ended_it_though_this_node_has_not_noticed_yet() -> None:
    found = told(BEGIN, record(7, "delete", (3, 0)))
    assert (found["state"], found["ended_ms"], found["stop_reason"]) == ("ended", 7_000, "delete by ann (main/7)")


def test_an_experiment_that_goes_on_after_a_pause_runs() -> None:
    again = record(9, "apply", (4, 5), document=AB)
    found = told(BEGIN, record(7, "apply", (3, 4), document=PLAIN), record(8, "kill", (4, 4)), again)
    assert (ids(found), found["stop_reason"], found["state"]) == (["main/4", "main/7", "main/9"], "", "running")


def test_a_trail_that_cannot_be_read_or_does_not_say_is_told_as_such() -> None:
    ended = msgspec.structs.replace(STUDY, ended_ms=7_100)
    report = report_of(ended, Health(), Rewards(), Marks(), now_ms=9_000)
    away = with_trail(report, ended, None)
    assert (away["audit"], away["stop_reason"]) == (None, "the record of what ended it is not at hand")
    assert told(of=ended)["audit"] == []
    assert "main/" not in page_of(away)


def test_of_many_edits_the_first_and_the_newest_are_shown() -> None:
    found = told(BEGIN, *(record(5 + at, "apply", (2 + at, 3 + at), document=AB) for at in range(200)))
    assert (len(found["audit"]), found["audit_left_out"]) == (100, 101)
    assert (ids(found)[0], ids(found)[1], ids(found)[-1]) == ("main/4", "main/106", "main/204")


def test_what_was_in_force_is_told_epoch_by_epoch() -> None:
    found = told(BEGIN)["configuration"]
    assert [one["revisions"] for one in found] == [[2, 2], [3, 3]]
    assert [one["splits"][0]["shares"] for one in found] == [{"old": 5_000, "new": 5_000}, {"old": 9_000, "new": 1_000}]
    assert [one["splits"][1]["randomised"] for one in found] == [False, False]
    page = page_of(told(BEGIN))
    assert "<td>old 90 % / new 10 %</td>" in page
    assert "<td>main/4</td>" in page

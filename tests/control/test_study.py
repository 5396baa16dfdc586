"""What is one experiment, and what is one epoch of it; what nodes count of it."""

from typing import Any

import msgspec
import pytest

from gateway.control.documents import weighed
from gateway.control.health import Health
from gateway.control.messages import VariantPin
from gateway.control.record import NodeReport, Notes, PolicyRecord
from gateway.control.study import Study, place_of, study_of
from gateway.tally import NOTE_BAD, NOTE_SEEN
from router import slots as tables
from router.policy import parse

SPLIT = {"old": 9000, "new": 1000}
MEAN = {"metric": "reward.paid", "type": "mean", "direction": "up"}


def document(**changes: Any) -> dict[str, Any]:
    spec = {
        "variants": [{"name": "old", "model": "fraud:1"}, {"name": "new", "model": "fraud:2"}],
        "unit": {"from": [{"header": "x-user-id"}]},
        "split": {"old": 5000, "new": 5000},
        "rules": [
            {"name": "qa", "match": [{"headers": {"x-qa": {"exact": "1"}}}], "route": {"variant": "new"}},
            {"name": "eu", "match": [{"headers": {"x-eu": {"exact": "1"}}}], "route": {"split": SPLIT}},
        ],
        "experiment": {"control": "old", "goals": [MEAN]},
    }
    spec |= changes
    spec = {key: value for key, value in spec.items() if value is not None}
    return {"apiVersion": "tidegate/v1", "kind": "TrafficPolicy", "metadata": {"name": "fraud"}, "spec": spec}


def grown(
    before: Study | None, revision: int, now_ms: int = 0, killed: tuple[str, ...] = (), new: str = "b2", **changes: Any
) -> Study | None:
    """The study after one more revision of the policy."""
    policy = parse(document(**changes))
    pins = (VariantPin("old", "fraud", 1, "sha256:" + "a1" * 32), VariantPin("new", "fraud", 2, "sha256:" + new * 32))
    owner = tables.Ownership.first(policy.counts())
    record = PolicyRecord(
        document=document(**changes),
        revision=revision,
        generation=revision,
        applied_by="ann",
        applied_ms=now_ms,
        variants=pins,
        slots=tables.to_text(owner.owner, policy.names),
        before=tables.to_text(owner.owner, policy.names),
        stable="old",
        killed=killed,
    )
    return study_of(weighed(record, policy), policy, before, now_ms)


def first() -> Study:
    found = grown(None, 1, 1_000)
    assert found is not None
    return found


def test_a_policy_without_an_experiment_has_no_study():
    assert grown(None, 1, experiment=None) is None


def test_the_same_revision_again_changes_nothing():
    study = first()
    assert grown(study, 1, 9_000) is study


def test_words_are_no_new_epoch_and_shares_are():
    study = first()
    described = {"control": "old", "hypothesis": "better", "goals": [MEAN]}
    told = grown(study, 2, experiment=described)
    assert told is not None
    assert (told.identity, told.hypothesis, told.began_ms, len(told.epochs)) == (study.identity, "better", 1_000, 1)
    assert told.epoch_of(1) == told.epoch_of(2)
    moved = grown(told, 3, split={"old": 8000, "new": 2000})
    assert moved is not None
    assert len(moved.epochs) == 2
    back = grown(moved, 4)
    assert back is not None
    assert back.epoch_of(4) == back.epoch_of(1), "the same shares again are the same epoch"
    assert back.epoch_of(5) is None


def test_a_variant_that_is_killed_is_another_epoch():
    killed = grown(first(), 2, killed=("new",))
    assert killed is not None
    assert len(killed.epochs) == 2
    assert killed.epochs[killed.revisions["2"]].lanes[0].shares == (10_000, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": {"from": [{"header": "x-user-id"}], "salt": "again"}},
        {"unit": {"from": [{"cookie": "uid"}]}},
        {
            "experiment": {
                "control": "old",
                "goals": [{"metric": "reward.paid", "type": "proportion", "direction": "up"}],
            }
        },
        {"new": "c3"},
    ],
)
def test_what_begins_another_experiment(changes: dict[str, Any]):
    study = first()
    other = grown(study, 2, 5_000, **changes)
    assert other is not None
    assert other.identity != study.identity
    assert (other.began_ms, list(other.revisions)) == (5_000, ["2"])


def test_an_experiment_that_is_taken_out_has_ended_and_may_go_on():
    study = first()
    ended = grown(study, 2, 7_000, experiment=None)
    assert ended is not None
    assert ended.ended_ms == 7_000
    assert grown(ended, 3, 8_000, experiment=None) is ended
    again = grown(ended, 4, 9_000)
    assert again is not None
    assert (again.ended_ms, again.began_ms) == (0, 1_000)


def test_studies_survive_the_store():
    study = first()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(study), type=Study) == study


FACTS = {"revision": 1, "stratum": 0, "variant": 1, "digest": "b2b2b2b2"}


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"stratum": 2}, True),  # a rule with a split
        ({"stratum": 1}, False),  # a rule that names its variant
        ({"stratum": None}, False),  # without a unit, overridden
        ({"stratum": 9}, False),
        ({"variant": 7}, False),
        ({"revision": 2}, False),
        ({"digest": "a1a1a1a1"}, False),
    ],
)
def test_what_is_evidence(changes: dict[str, Any], counts: bool):
    assert (place_of(first(), FACTS | changes) is not None) == counts


# ---- health ----


def report(counts: Any = (), notes: Any = (), start: int = 0, worker: str = "w") -> NodeReport:
    return NodeReport(node="n", run="r", counts=tuple(counts), notes=(Notes(worker, start, tuple(notes)),))


def units(number: int, bad_of: int = 0) -> list[tuple[int, int, int, int, int]]:
    """Notes of so many units, every other one on each variant; the first `bad_of` of them err."""
    return [(NOTE_SEEN | (NOTE_BAD if u < bad_of else 0), 1, 0, u % 2, u << 32 | u) for u in range(number)]


def test_a_report_that_comes_twice_adds_nothing():
    study, health = first(), Health()
    one = report([(1, "", "old", (50, 49, 1, 0, 0, 0)), (1, "-", "new", (5, 5, 0, 0, 0, 0))], units(40, 4))
    assert health.take(one, study)
    assert not health.take(one, study)
    assert health.requests()["old"] == [50, 49, 1, 0, 0, 0]
    assert health.apart["new"][0] == 5
    (group,) = health.units().values()
    assert group == {0: 20, 1: 20}
    rates = next(iter(health.bad_rates().values()))
    assert rates[0].mean == pytest.approx(0.1)
    assert health.missed == 0


def test_state_goes_on_where_it_was():
    study, health = first(), Health()
    health.take(report([(1, "", "old", (50, 49, 1, 0, 0, 0))], units(40)), study)
    again = Health(msgspec.msgpack.decode(msgspec.msgpack.encode(health.state())))
    assert msgspec.to_builtins(again.state()) == msgspec.to_builtins(health.state())
    # The same report once more, and one that has grown.
    assert not again.take(report([(1, "", "old", (50, 49, 1, 0, 0, 0))], units(40)), study)
    again.take(report([(1, "", "old", (60, 58, 2, 0, 0, 0))], units(42)[40:], 40), study)
    assert again.requests()["old"][:3] == [60, 58, 2]
    assert sum(next(iter(again.units().values())).values()) == 42


def test_what_came_before_the_experiment_is_not_missed_and_gaps_are():
    study, health = first(), Health()
    health.take(report(notes=units(10), start=500), study)
    assert health.missed == 0
    health.take(report(notes=units(20)[10:], start=530), study)
    assert health.missed == 20


def test_events_of_revisions_that_nobody_knows_are_counted_apart():
    study, health = first(), Health()
    health.take(report([(77, "", "old", (9, 9, 0, 0, 0, 0)), (77, "-", "old", (3, 3, 0, 0, 0, 0))]), study)
    assert (health.stale, health.counts, health.apart) == (12, {}, {})


def test_a_split_that_is_not_kept_is_noticed():
    study, health = first(), Health()
    notes = [(NOTE_SEEN, 1, 0, int(u % 10 < 4), u << 32 | u) for u in range(4_000)]
    health.take(report(notes=notes), study)
    assert health.ratio.mismatch


def test_too_many_units_are_thinned_and_the_number_stays():
    study, health = first(), Health()
    spread = [(NOTE_SEEN, 1, 0, u % 2, (u * 0x9E3779B97F4A7C15) % 2**63) for u in range(60_000)]
    health.take(report(notes=spread), study)
    assert health.doublings >= 2
    assert sum(map(len, health.seen.values())) <= 20_000
    assert sum(next(iter(health.units().values())).values()) == pytest.approx(60_000, rel=0.05)


def test_a_unit_that_moved_to_another_variant_is_told():
    study, health = first(), Health()
    moved = grown(study, 2, split={"old": 2000, "new": 8000})
    assert moved is not None
    health.take(report(notes=[(NOTE_SEEN, 1, 0, 0, 5), (NOTE_SEEN, 2, 0, 1, 5), (NOTE_SEEN, 1, 0, 1, 6)]), moved)
    assert health.of_several() == 1

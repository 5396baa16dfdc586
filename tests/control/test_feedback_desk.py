"""Feedback from the call to the ledger, the stream and the experiment, on a real store; also when it fails midway."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.control.documents import Kept
from gateway.control.experimentbook import KIND, Experiments, UnknownExperiment
from gateway.control.experiments import Live
from gateway.control.feedback import KEEP_MS, MOST_TOLD, FeedbackDesk
from gateway.control.labelnotes import notes_in
from gateway.control.messages import VariantPin
from gateway.control.record import PolicyRecord
from gateway.decisionfiles import keyed_prediction
from gateway.store.base import Document, Lease, StoreAway
from gateway.store.sqlite import SqliteStore, open_sqlite
from router import slots as tables
from router.policy import parse
from tests.control.test_study import document

NOW_MS = 1_000_000_000
KEY = b"k" * 32
LEASE = Lease("rollouts", "n", 1, 0)
DIGESTS = ("sha256:" + "a1" * 32, "sha256:" + "b2" * 32)


def fact(number: int, value: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A genuine item as a worker hands it over: one unit per number."""
    arm = number % 2
    found = {
        "id": f"ID{number}", "row": None, "digest": ("a1a1a1a1", "b2b2b2b2")[arm], "revision": 1, "variant": arm,
        "stratum": 0, "time_s": NOW_MS // 1_000 - 30, "unit": number << 40 | number, "slots": {"reward.paid": value},
        "at_s": None, "model": "", "group": None, "decision": 1, "score_bin": 9,
    }  # fmt: skip
    return found | changes


class Node:
    """Everything of control that feedback meets, on one store."""

    def __init__(self, store: SqliteStore, lease: Lease | None = LEASE, name: str = "n") -> None:
        self.now_ms = NOW_MS
        self.store = store
        self.policies: Any = SimpleNamespace(kept={}, unit_key=KEY, note=store.audit_append)
        self.lease = lease
        self.experiments = Experiments(
            store,
            now_ms=lambda: self.now_ms,
            lease=lambda: self.lease,
            live=lambda study: Live(),
            deleted=lambda name: name not in self.policies.kept,
        )
        self.desk = FeedbackDesk(
            store, self.policies, self.experiments, node=name, now_ms=lambda: self.now_ms, loaded=lambda: []
        )

    def apply(self, name: str = "fraud", revision: int = 1, **changes: Any) -> None:
        policy = parse(document(**changes))
        owner = tables.to_text(tables.Ownership.first(policy.counts()).owner, policy.names)
        pins = tuple(VariantPin(variant, name, at + 1, DIGESTS[at]) for at, variant in enumerate(policy.names))
        record = PolicyRecord(
            document=document(**changes), revision=revision, generation=1, applied_by="ann", applied_ms=0,
            variants=pins, slots=owner, before=owner, stable="old",
        )  # fmt: skip
        self.policies.kept[name] = Kept(1, record, policy)
        self.experiments.taken(name, record, policy)

    async def take(self, *items: dict[str, Any], models: tuple[str, ...] = ()) -> list[str]:
        return await self.desk.take(list(items), "ann", models)

    async def forget(self, unit: int, patience_s: float = 10.0) -> bool:
        return await self.experiments.forget("fraud", unit, self.desk.append, patience_s)

    async def saves(self) -> None:
        self.now_ms += 10_000
        await self.experiments.tick()

    async def paid(self) -> dict[str, tuple[int, float]]:
        report = await self.experiments.report("fraud")
        return {arm["variant"]: (arm["units"], arm["mean"]) for arm in report["goals"][0]["arms"]}


def on_a_store(tmp_path: Path, work: Callable[[SqliteStore], Awaitable[None]]) -> None:
    async def run() -> None:
        store = await open_sqlite(tmp_path / "store.db", clock_ms=lambda: NOW_MS)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(run())


async def begun(store: SqliteStore) -> Node:
    node = Node(store)
    node.apply()
    await node.experiments.tick()
    return node


def test_from_the_call_to_the_report(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        assert await node.take(*(fact(row) for row in range(10))) == ["new"] * 10
        assert await node.take(*(fact(row) for row in range(10))) == ["duplicate"] * 10
        assert await node.take(fact(1, 3.0)) == ["replaced"]
        assert await node.paid() == {"old": (5, 1.0), "new": (5, 1.4)}
        page = await store.audit_read("fraud", where={"what": "feedback_replaced"})
        (record,) = page.records
        assert record.record == {
            "actor": "ann", "what": "feedback_replaced", "reason": "", "count": 1,
            "replaced": [{"prediction": keyed_prediction(KEY, b"ID1"), "slot": "reward.paid"}],
        }  # fmt: skip

    on_a_store(tmp_path, work)


def test_the_audit_trail_has_neither_ids_nor_values_of_what_was_replaced(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        for label, paid in (("good", 12345.5), ("bad", 67890.5)):
            told = await node.take(*(fact(1, row=row, slots={"label": label, "reward.paid": paid}) for row in (0, 7)))
        assert told == ["replaced", "replaced"]
        (record,) = (await store.audit_read("fraud", where={"what": "feedback_replaced"})).records
        prediction = keyed_prediction(KEY, b"ID1")
        assert record.record["replaced"] == [
            {"prediction": prediction, "slot": slot, "row": row} for row in (0, 7) for slot in ("label", "reward.paid")
        ]
        body = record.body.decode()
        assert [text for text in ("ID1", "good", "bad", "12345", "67890") if text in body] == []

    on_a_store(tmp_path, work)


def test_of_many_replaced_values_the_audit_trail_names_some_and_counts_all(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        for value in (1.0, 3.0):
            await node.take(*(fact(row, value) for row in range(MOST_TOLD + 5)))
        (record,) = (await store.audit_read("fraud", where={"what": "feedback_replaced"})).records
        assert (record.record["count"], len(record.record["replaced"])) == (MOST_TOLD + 5, MOST_TOLD)

    on_a_store(tmp_path, work)


def test_what_is_no_evidence_is_kept_and_not_compared(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        told = await node.take(
            fact(0, stratum=None), fact(2, slots={"label": "good"}), fact(4, slots={"reward.other": 1.0}),
            fact(6, revision=99), fact(8),
        )  # fmt: skip
        assert told == ["new"] * 5
        assert (await store.feedback_count("fraud")).rows == 5
        assert (await node.paid())["old"] == (1, 1.0)

    on_a_store(tmp_path, work)


def test_outcomes_that_are_not_kept(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        late = NOW_MS // 1_000 - KEEP_MS // 1_000 - 1
        told = await node.take(
            fact(0, time_s=late), fact(2, digest="ffffffff"), fact(4, model="other"), models=("fr*",)
        )
        assert told == ["expired", "unknown_model", "unknown_model"]
        assert await node.take(fact(0), models=("loans",)) == ["forbidden"]
        assert (await store.feedback_count("fraud")).rows == 0

    on_a_store(tmp_path, work)


def test_a_version_of_two_names_needs_the_name(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        node.policies.kept["twin"] = node.policies.kept["fraud"]
        assert await node.take(fact(0)) == ["unknown_model"]
        assert await node.take(fact(0, model="fraud"), fact(0, model="twin")) == ["new", "new"]

    on_a_store(tmp_path, work)


def test_rows_of_a_request_are_items_of_their_own(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        rows = [fact(0, float(row), row=row) for row in range(4)]
        assert await node.take(*rows) == ["new"] * 4
        assert (await node.paid())["old"] == (1, 1.5)
        report = await node.experiments.report("fraud")
        assert report["health"]["arms"][0]["predictions_with_feedback"] == 1

    on_a_store(tmp_path, work)


def test_a_node_that_starts_anew_has_everything_saved_or_not(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        await node.take(*(fact(row) for row in range(20)))
        await node.experiments.tick()
        node.now_ms += 10_000
        await node.experiments.tick()
        assert await store.get(KIND, "fraud") is not None
        await node.take(*(fact(row, 3.0) for row in range(10, 30)))  # after the last save
        before = await node.paid()
        again = Node(store)
        again.apply()
        await again.experiments.tick()
        assert await again.paid() == before
        follower = Node(store, None)
        await follower.experiments.tick()
        assert await follower.paid() == before

    on_a_store(tmp_path, work)


class Breaking(SqliteStore):
    """Fails between the ledger and the stream."""

    breaks = False

    async def stream_append(self, *args: Any) -> bool:
        if self.breaks:
            raise StoreAway("away")
        return await super().stream_append(*args)


def test_a_failure_between_ledger_and_stream_is_mended_by_sending_again(tmp_path: Path):
    async def run() -> None:
        opened = await open_sqlite(tmp_path / "store.db", clock_ms=lambda: NOW_MS)
        opened.__class__ = Breaking
        assert isinstance(opened, Breaking)
        try:
            node = await begun(opened)
            opened.breaks = True
            with pytest.raises(StoreAway) as caught:
                await node.take(fact(0))
            assert caught.value.retry_after_s
            opened.breaks = False
            assert await node.take(fact(0)) == ["duplicate"]
            assert (await node.paid())["old"] == (1, 1.0)
        finally:
            await opened.close()

    asyncio.run(run())


def test_another_experiment_begins_with_nothing(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        await node.take(*(fact(row) for row in range(10)))
        assert (await node.paid())["old"][0] == 5
        node.apply(revision=2, unit={"from": [{"header": "x-user-id"}], "salt": "again"})
        assert (await node.paid())["old"] == (0, None)
        assert await node.take(fact(0, 2.0), fact(20, revision=2)) == ["replaced", "new"]
        assert (await node.paid())["old"] == (1, 1.0)
        node.now_ms += 10_000
        await node.experiments.tick()
        again = Node(store)
        again.apply(revision=2, unit={"from": [{"header": "x-user-id"}], "salt": "again"})
        await again.experiments.tick()
        assert (await again.paid())["old"] == (1, 1.0)

    on_a_store(tmp_path, work)


def test_before_the_store_was_read_nothing_is_acknowledged(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = Node(store)
        node.apply()
        with pytest.raises(StoreAway):
            await node.take(fact(0))
        with pytest.raises(UnknownExperiment):
            await node.experiments.report("fraud")
        await node.experiments.tick()
        assert await node.take(fact(0)) == ["new"]

    on_a_store(tmp_path, work)


class StandsStill:
    """A store whose caller stands still at its next write, until it goes on."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.stands, self.goes_on = asyncio.Event(), asyncio.Event()
        self.goes_on.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(self, *what: Any, **how: Any) -> Document:
        self.stands.set()
        await self.goes_on.wait()
        return await self._store.put(*what, **how)


def test_a_leader_that_stood_still_writes_nothing_over_what_the_next_one_saved(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        still: Any = StandsStill(store)
        lease = await store.lease_acquire("rollouts", "one", 5)
        assert lease is not None
        one = Node(still, lease)
        one.apply()
        await one.experiments.tick()
        await one.take(fact(0))
        one.now_ms += 10_000
        still.stands.clear()
        still.goes_on.clear()
        saving = asyncio.create_task(one.experiments.tick())
        await still.stands.wait()
        await store.lease_release(lease)
        two = Node(store, await store.lease_acquire("rollouts", "two", 5), "two")
        two.apply()
        await two.experiments.tick()
        await two.take(fact(16))  # of the same shard
        two.now_ms += 20_000
        await two.experiments.tick()
        still.goes_on.set()
        await saving
        again = Node(store, None)
        await again.experiments.tick()
        assert (await again.paid())["old"] == (2, 1.0)
        one.lease = None
        assert await one.paid() == await again.paid()

    on_a_store(tmp_path, work)


def test_who_missed_rewards_takes_what_was_saved_before_it_leads(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        one, two = Node(store), Node(store, None, "two")
        one.apply()
        await one.experiments.tick()
        await two.experiments.tick()
        one.apply(revision=2, split={"old": 9_000, "new": 1_000})  # two has not heard of it
        await one.take(fact(0, revision=2))
        one.now_ms += 10_000
        await one.experiments.tick()
        await two.experiments.tick()
        two.apply(revision=2, split={"old": 9_000, "new": 1_000})
        await one.take(fact(32, revision=2))
        assert (await two.paid())["old"][0] == 2
        two.lease = Lease("rollouts", "two", 2, 0)
        await two.experiments.tick()
        await two.take(fact(16, revision=2))
        two.now_ms += 20_000
        await two.experiments.tick()
        again = Node(store, None)
        await again.experiments.tick()
        assert (await again.paid())["old"][0] == 3

    on_a_store(tmp_path, work)


class LosesAnswers:
    """A store that does what it is told, and whose answers to writes of feedback are lost so many times."""

    def __init__(self, store: SqliteStore, losses: int) -> None:
        self._store = store
        self.losses = losses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def feedback_put(self, *what: Any, **how: Any) -> Any:
        found = await self._store.feedback_put(*what, **how)
        if self.losses:
            self.losses -= 1
            raise StoreAway("the answer was lost")
        return found


@pytest.mark.parametrize("losses", [0, 1, 3])
def test_the_monitor_hears_of_a_label_once_whatever_became_of_the_answer(tmp_path: Path, losses: int):
    async def work(store: SqliteStore) -> None:
        torn: Any = LosesAnswers(store, losses)
        node = Node(torn)
        await node.experiments.tick()
        node.desk.watched = lambda name: name == "fraud"
        node.apply()
        labels = [fact(number, slots={"label": "good", "reward.paid": 1.0}) for number in range(600)]
        for _ in range(losses):
            with pytest.raises(StoreAway):
                await node.take(*labels)
        await node.take(*labels)
        await node.take(*labels)
        await node.take(fact(7, slots={"label": "bad"}))
        found = [one for entry in (await store.stream_read("labels/fraud")).entries for one in notes_in(entry.body)]
        assert [(note.value, before) for note, before in found] == [("good", None)] * 600 + [("bad", "good")]
        assert {note.digest for note, _ in found} == {"a1a1a1a1", "b2b2b2b2"}

    on_a_store(tmp_path, work)


def test_labels_that_nobody_watches_are_told_to_nobody(tmp_path: Path):
    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        assert await node.take(fact(0, slots={"label": "good"})) == ["new"]
        assert (await store.stream_read("labels/fraud")).entries == ()

    on_a_store(tmp_path, work)


def test_a_replaced_value_is_in_the_audit_trail_also_where_the_call_was_repeated(tmp_path: Path):
    """The ledger had it, the stream had not; the second call found a duplicate and told nobody."""

    async def work(store: SqliteStore) -> None:
        node = await begun(store)
        await node.take(fact(1))
        kept = node.experiments.put

        async def away(*_: Any) -> None:
            raise StoreAway("away")

        node.experiments.put = away  # type: ignore[method-assign]
        with pytest.raises(StoreAway):
            await node.take(fact(1, 3.0))
        node.experiments.put = kept  # type: ignore[method-assign]
        assert await node.take(fact(1, 3.0)) == ["duplicate"]
        page = await store.audit_read("fraud", where={"what": "feedback_replaced"})
        assert [record.record["count"] for record in page.records] == [1]

    on_a_store(tmp_path, work)

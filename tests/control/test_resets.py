"""An experiment that has data begins anew only when somebody says so; a real store and real experiments."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.control.documents import Kept
from gateway.control.experimentbook import Experiments
from gateway.control.experiments import Live
from gateway.control.keepers import PolicyKeeper
from gateway.control.policies import Policies
from gateway.control.record import NodeReport
from gateway.control.resets import ResetNeeded
from gateway.control.rewards import Reward
from gateway.store.base import Lease
from gateway.store.sqlite import SqliteStore, open_sqlite
from runtimes.errors import Conflict
from tests.control.test_policies_lost import Models
from tests.control.test_study import MEAN, document

LEASE = Lease("rollouts", "n", 1, 0)
SALTED = document(unit={"from": [{"header": "x-user-id"}], "salt": "s2"})


class Node:
    """Policies and experiments, as control puts them together."""

    def __init__(self, store: SqliteStore, place: Path, lease: Lease | None = LEASE) -> None:
        self.store = store
        self.now_ms = 1
        self.policies = Policies(store, Models(), place, now_ms=lambda: 1, changed=lambda: None)
        self.experiments = Experiments(
            store,
            now_ms=lambda: self.now_ms,
            lease=lambda: lease,
            live=lambda study: Live(),
            deleted=lambda name: self.policies.loaded and name not in self.policies.kept,
        )
        self.policies.taken, self.policies.experiment_data = self.experiments.taken, self.experiments.data
        self.sequence = 0

    async def opened(self) -> "Node":
        await self.policies.open()
        return self

    async def apply(self, changed: dict[str, Any] | None = None, **more: Any) -> int:
        kept, _ = await self.policies.apply(changed or document(), actor="ann", **more)
        return kept.record.generation

    async def reward(self, *units: int) -> None:
        study = self.experiments.study("fraud")
        assert study is not None
        given = [Reward("paid", next(iter(study.epochs)), 0, unit % 2, unit, unit << 20, 1.0, 1) for unit in units]
        await self.experiments.put("fraud", given, self._append)

    async def _append(self, stream: str, body: bytes) -> None:
        self.sequence += 1
        await self.store.stream_append(stream, "n", 1, self.sequence, body)

    async def rewards(self) -> int:
        data = await self.experiments.data("fraud")
        return data.rewards if data is not None else 0

    def ended(self) -> int:
        study = self.experiments.study("fraud")
        assert study is not None
        return study.ended_ms

    async def last_audit(self) -> dict[str, Any]:
        return dict((await self.store.audit_read("fraud")).records[-1].record)


async def no_warnings(kept: Kept) -> list[str]:
    return []


def story(tmp_path: Path, tell: Callable[[Node], Awaitable[None]], rewards: int = 3) -> None:
    """With an experiment that has so many rewards."""

    async def told() -> None:
        store = await open_sqlite(tmp_path / "a.db")
        node = await Node(store, tmp_path).opened()
        await node.apply()
        await node.experiments.tick()
        await node.reward(*range(rewards))
        await tell(node)
        await store.close()

    asyncio.run(told())


OTHERS = {
    "salt": (SALTED, "another salt"),
    "unit": (document(unit={"from": [{"cookie": "uid"}]}), "another unit"),
    "goals": (document(experiment={"control": "old", "goals": [{**MEAN, "type": "proportion"}]}), "set of goals"),
    "control": (document(experiment={"control": "new", "goals": [MEAN]}), "another control"),
    "a version": (
        document(variants=[{"name": "old", "model": "fraud:1"}, {"name": "new", "model": "fraud:3"}]),
        "another version of a variant",
    ),
    "a variant": (
        document(
            variants=[{"name": name, "model": f"fraud:{at}"} for at, name in enumerate(("old", "new", "more"), 1)]
        ),
        "another set of variants",
    ),
}


@pytest.mark.parametrize("changed", OTHERS)
def test_another_experiment_is_refused_while_this_one_has_data(tmp_path: Path, changed: str) -> None:
    other, part = OTHERS[changed]

    async def tell(node: Node) -> None:
        with pytest.raises(ResetNeeded, match=rf"\(.*{part}\); 3 rewards are dropped, with 3 units") as refused:
            await node.apply(other)
        assert str(refused.value).count("another") == 1, "nothing else has changed"
        assert node.policies.kept["fraud"].record.document == document()
        assert await node.rewards() == 3

    story(tmp_path, tell)


def test_with_a_word_it_begins_anew_and_the_audit_says_what_went(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        assert await node.apply(SALTED, reset=True) == 2
        assert await node.rewards() == 0
        assert (await node.last_audit())["experiment_dropped"] == {
            "changed": ["salt"], "rewards": 3, "units": 3, "requests": 0, "running": True,
        }  # fmt: skip

    story(tmp_path, tell)


def test_counted_requests_are_data(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        counts = ((1, "", "old", (5, 5, 0, 0, 0, 0)),)
        node.experiments.heard("fraud", NodeReport(node="n", run="r", counts=counts))
        with pytest.raises(ResetNeeded, match=r"0 rewards are dropped, with 0 units and 5 counted requests"):
            await node.apply(SALTED)

    story(tmp_path, tell, rewards=0)


def test_without_data_it_is_replaced_freely(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        assert await node.apply(SALTED) == 2
        assert "experiment_dropped" not in await node.last_audit()

    story(tmp_path, tell, rewards=0)


def test_an_edit_that_keeps_the_experiment_needs_no_word(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        experiment = {"control": "old", "goals": [MEAN], "alpha": 0.01, "hypothesis": "another text"}
        assert await node.apply(document(split={"old": 6000, "new": 4000}, experiment=experiment)) == 2
        assert await node.rewards() == 3

    story(tmp_path, tell)


def test_one_that_has_ended_is_replaced_and_the_audit_says_so(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        assert await node.apply(document(experiment=None)) == 2
        assert await node.rewards() == 3, "its report stays"
        assert await node.apply(document()) == 3
        assert await node.rewards() == 3, "the same one goes on"
        await node.apply(document(experiment=None))
        await node.apply(SALTED)
        dropped = (await node.last_audit())["experiment_dropped"]
        assert (dropped["rewards"], dropped["running"]) == (3, False)

    story(tmp_path, tell)


def test_a_rollback_needs_no_word(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        await node.apply(SALTED, reset=True)
        await node.reward(7)
        await node.policies.rollback("fraud", None, actor="bob", reason="back")
        assert node.policies.kept["fraud"].record.document == document()
        dropped = (await node.last_audit())["experiment_dropped"]
        assert (dropped["rewards"], dropped["changed"]) == (1, ["salt"])

    story(tmp_path, tell)


def test_a_policy_with_an_experiment_that_has_data_is_not_deleted_by_the_way(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        with pytest.raises(Conflict, match=r"3 rewards, 3 units and 0 counted requests is running: end it first"):
            await node.policies.delete("fraud", actor="ann")
        await node.apply(document(experiment=None))
        await node.policies.delete("fraud", actor="ann")
        await node.apply()
        await node.policies.delete("fraud", actor="ann", force=True)
        assert node.policies.kept == {}
        assert await node.rewards() == 3, "its report stays"

    story(tmp_path, tell)


def test_nor_does_one_without_data_keep_its_policy(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        await node.policies.delete("fraud", actor="ann")
        assert node.policies.kept == {}

    story(tmp_path, tell, rewards=0)


def test_one_whose_policy_is_deleted_has_ended_and_goes_on_when_it_is_put_back(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        await node.policies.delete("fraud", actor="ann", force=True)
        assert node.experiments.names() == ["fraud"]
        assert node.ended() == 1
        node.now_ms = 10_000
        await node.experiments.tick()
        late = await Node(node.store, tmp_path).opened()
        late.now_ms = 20_000
        await late.experiments.tick()
        assert late.ended() == 1, "it was saved"
        await node.apply()
        assert (node.ended(), await node.rewards()) == (0, 3)

    story(tmp_path, tell)


def test_a_node_that_was_away_when_the_policy_was_deleted_notices_it(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        node.now_ms = 10_000
        await node.experiments.tick()
        await node.policies.delete("fraud", actor="ann", force=True)
        late = await Node(node.store, tmp_path).opened()
        late.now_ms = 20_000
        await late.experiments.tick()
        assert late.ended() == 20_000
        assert (await late.experiments.report("fraud"))["state"] == "ended"

    story(tmp_path, tell)


def test_a_file_of_the_folder_ends_it_first(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        keeper, owner = PolicyKeeper(node.policies, no_warnings), "file:a.yaml"
        await keeper.put(document(), owner)
        with pytest.raises(Conflict, match="end it first, by a document without") as refused:
            await keeper.put(SALTED, owner)
        assert "3" not in str(refused.value), "what is logged once must not count on"
        assert node.policies.kept["fraud"].record.document == document()
        await keeper.put(document(experiment=None), owner)
        assert (await keeper.put(SALTED, owner))[1]

    story(tmp_path, tell)


def test_a_node_that_does_not_lead_knows_what_there_is(tmp_path: Path) -> None:
    async def tell(node: Node) -> None:
        (tmp_path / "two").mkdir()
        other = await Node(node.store, tmp_path / "two", lease=None).opened()
        with pytest.raises(ResetNeeded, match="3 rewards"):
            await other.apply(SALTED)

    story(tmp_path, tell)

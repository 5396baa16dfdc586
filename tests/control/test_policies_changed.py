"""People who change a policy while its rollout writes, and what an earlier document is."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gateway.control.documents import StalePolicy
from gateway.control.messages import Route
from gateway.control.pinning import Pinning
from gateway.control.policies import Policies
from gateway.store.sqlite import open_sqlite
from runtimes.errors import Conflict, InvalidInput
from tests.control.test_policies_lost import DOCUMENT, Models

EDITED = {**DOCUMENT, "spec": {**DOCUMENT["spec"], "split": {"stable": 8_000, "canary": 2_000}}}


class Meanwhile(Models):
    """Something happens while versions are looked up, which takes a load's time."""

    def __init__(self) -> None:
        self.happens: Callable[[], Awaitable[object]] | None = None

    async def pin(self, name: str, reference: str) -> tuple[int, str]:
        happens, self.happens = self.happens, None
        if happens is not None:
            await happens()
        return await super().pin(name, reference)


def story(tmp_path: Path, tell: Callable[[Policies, Meanwhile], Awaitable[None]]) -> None:
    async def told() -> None:
        models = Meanwhile()
        policies = Policies(
            await open_sqlite(tmp_path / "a.db"), models, tmp_path, now_ms=lambda: 1, changed=lambda: None
        )
        await policies.open()
        await policies.apply(DOCUMENT, actor="ada")
        await tell(policies, models)
        await policies.store.close()

    asyncio.run(told())


async def a_tick(policies: Policies) -> None:
    """A rollout keeps what it has seen."""
    kept = policies.kept["m"]
    record = msgspec.structs.replace(kept.record, evidence={"seen": kept.revision})
    await policies.save("m", record, expected=kept.revision)


@pytest.mark.parametrize("generation", [1, None])
def test_a_rollout_that_writes_meanwhile_is_no_other_editor(tmp_path: Path, generation: int | None) -> None:
    async def tell(policies: Policies, models: Meanwhile) -> None:
        models.happens = lambda: a_tick(policies)
        kept, changed = await policies.apply(EDITED, actor="bob", generation=generation)
        assert (changed, kept.record.generation, kept.record.document) == (True, 2, EDITED)

    story(tmp_path, tell)


def test_nor_is_one_that_writes_on_another_node(tmp_path: Path) -> None:
    """This node has not heard of it when it writes."""

    async def tell(policies: Policies, models: Meanwhile) -> None:
        (tmp_path / "other").mkdir()
        store = await open_sqlite(tmp_path / "a.db")
        other = Policies(store, Models(), tmp_path / "other", now_ms=lambda: 1, changed=lambda: None)
        await other.open()
        models.happens = lambda: a_tick(other)
        kept, changed = await policies.apply(EDITED, actor="bob", generation=1)
        assert (changed, kept.record.generation, kept.record.document) == (True, 2, EDITED)
        assert kept.record.evidence, "what the rollout has seen stays"
        await store.close()

    story(tmp_path, tell)


@pytest.mark.parametrize("generation", [1, None])
def test_who_deletes_loses_against_neither(tmp_path: Path, generation: int | None) -> None:
    async def tell(policies: Policies, models: Meanwhile) -> None:
        (tmp_path / "other").mkdir()
        store = await open_sqlite(tmp_path / "a.db")
        other = Policies(store, Models(), tmp_path / "other", now_ms=lambda: 1, changed=lambda: None)
        await other.open()
        await a_tick(other)
        await policies.delete("m", actor="bob", generation=generation)
        assert await store.get("policy", "m") is None
        await policies.apply(DOCUMENT, actor="ada")
        await other.reload("m")
        await other.apply(EDITED, actor="carl")
        with pytest.raises(StalePolicy, match="expected generation 2, and 3 is in force"):
            await policies.delete("m", actor="bob", generation=2)
        await other.apply(DOCUMENT, actor="carl")
        with pytest.raises(StalePolicy, match="expected generation 3, and 4 is in force"):
            await policies.delete("m", actor="bob")
        assert await store.get("policy", "m") is not None
        await store.close()

    story(tmp_path, tell)


def test_but_somebody_who_applies_meanwhile_is(tmp_path: Path) -> None:
    async def tell(policies: Policies, models: Meanwhile) -> None:
        (tmp_path / "other").mkdir()
        store = await open_sqlite(tmp_path / "a.db")
        other = Policies(store, Models(), tmp_path / "other", now_ms=lambda: 1, changed=lambda: None)
        await other.open()
        models.happens = lambda: other.apply(EDITED, actor="carl")
        with pytest.raises(StalePolicy, match="expected generation 1, and 2 is in force"):
            await policies.apply(DOCUMENT | {"metadata": {"name": "m", "labels": {"a": "b"}}}, actor="bob")
        assert policies.kept["m"].record.applied_by == "carl"
        await store.close()

    story(tmp_path, tell)


def test_who_has_not_seen_what_is_in_force_rolls_nothing_back(tmp_path: Path) -> None:
    async def tell(policies: Policies, models: Meanwhile) -> None:
        await policies.apply(EDITED, actor="bob")
        with pytest.raises(StalePolicy, match="expected generation 1, and 2 is in force"):
            await policies.rollback("m", None, actor="ada", reason="back", generation=1)
        assert policies.kept["m"].record.document == EDITED
        kept = await policies.rollback("m", None, actor="ada", reason="back", generation=frozenset({1, 2}))
        assert (kept.record.generation, kept.record.document) == (3, DOCUMENT)

    story(tmp_path, tell)


def test_nor_does_who_was_overtaken_while_versions_were_looked_up(tmp_path: Path) -> None:
    async def tell(policies: Policies, models: Meanwhile) -> None:
        await policies.apply(EDITED, actor="bob")
        models.happens = lambda: a_tick(policies)
        kept = await policies.rollback("m", 1, actor="ada", reason="back", generation=2)
        assert kept.record.generation == 3, "a rollout that writes is no other editor"
        models.happens = lambda: _written_by_another(policies)
        with pytest.raises(StalePolicy):
            await policies.rollback("m", 2, actor="ada", reason="back", generation=3)

    story(tmp_path, tell)


async def _written_by_another(policies: Policies) -> None:
    kept = policies.kept["m"]
    record = msgspec.structs.replace(kept.record, generation=kept.record.generation + 1)
    await policies.save("m", record, expected=kept.revision)


def test_a_monitor_of_the_same_name_is_no_earlier_document_of_the_policy(tmp_path: Path) -> None:
    async def tell(policies: Policies, models: Meanwhile) -> None:
        await policies.apply(EDITED, actor="bob")
        monitor = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}, "spec": {}}
        audit = {"actor": "eve", "what": "apply", "generation": 1, "document": monitor}
        await policies.store.put("monitor", "m", b"{}", expected=0, audit=audit)
        kept = await policies.rollback("m", None, actor="bob", reason="back")
        assert kept.record.document == DOCUMENT

    story(tmp_path, tell)


@pytest.mark.parametrize(
    ("own", "versions", "default", "named"),
    [(1, (1, 5), 5, 1), (5, (1, 5), 5, 5), (6, (1, 5), 5, 5), (None, (5,), 5, 5)],
    ids=["pinned by a policy", "the newest", "it does not load", "unknown"],
)
def test_a_name_alone_is_the_version_that_answers_without_a_policy(
    own: int | None, versions: tuple[int, ...], default: int, named: int
) -> None:
    async def look_at(name: str) -> Any:
        return SimpleNamespace(versions=[SimpleNamespace(version=version) for version in versions], config=None)

    async def fetched(name: str, version: int) -> tuple[str, str]:
        return f"sha256:{version}", ""

    service: Any = SimpleNamespace(
        look_at=look_at,
        fetched_now=fetched,
        snapshot=SimpleNamespace(routes={"m": Route(default, versions, {})}),
        catalogue=SimpleNamespace(by_itself=lambda name: own),
    )
    assert asyncio.run(Pinning(service).pin("m", "m")) == (named, f"sha256:{named}")


def test_a_name_of_which_nothing_is_ready_is_refused() -> None:
    async def look_at(name: str) -> Any:
        return SimpleNamespace(versions=[], config=None)

    service: Any = SimpleNamespace(look_at=look_at, snapshot=SimpleNamespace(routes={"m": Route(None, (), {})}))
    with pytest.raises(Conflict, match="no version of 'm' is ready"):
        asyncio.run(Pinning(service).pin("m", "m"))


@pytest.mark.parametrize("zone", ["Europe", "America/Argentina", "Nowhere", "../UTC", "Europe/Berlin/"])
def test_a_time_zone_that_there_is_not_is_refused_in_words(tmp_path: Path, zone: str) -> None:
    """Some are folders of zones."""

    async def tell(policies: Policies, models: Meanwhile) -> None:
        rollout = {"to": "canary", "steps": [{"setWeight": 1000}, {"setWeight": 10000}]}
        rollout["window"] = {"notBefore": [f"Mon 09:00-10:00 {zone}"]}
        spec = {**DOCUMENT["spec"], "split": {"stable": 10_000}, "rollout": rollout}
        with pytest.raises(InvalidInput, match=r"window.notBefore\[0\]: "):
            await policies.apply({**DOCUMENT, "spec": spec}, actor="bob")

    story(tmp_path, tell)

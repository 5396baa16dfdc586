"""Monitor documents of the watched folder, on each store: whose they are, what a bad file and a removed one do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.control.counts import Totals
from gateway.control.documents import Kept, StalePolicy
from gateway.control.folder import AGAIN_S, MONITOR, POLICY, DocumentFolder
from gateway.control.keepers import PolicyKeeper
from gateway.control.monitordesk import MonitorDesk
from gateway.control.monitors import Monitors
from gateway.control.monitortold import Told
from gateway.control.policies import Policies
from gateway.monitor.book import ModelMonitor
from gateway.monitor.retrain import Asked, Facts, Requests
from gateway.monitor.settings import Retrain, Spec
from gateway.store.base import Store
from runtimes.errors import Conflict, InvalidInput
from runtimes.registry.strictyaml import load
from tests.store.places import Place, on_a_store

TEXT = """\
apiVersion: tidegate/v1
kind: Monitor
metadata: {name: NAME}
spec:
  window: {rows: 1000}
"""
FACTS = Facts(model="m", version="1", incident="m/1", verdict="concept", sentence="Worse.")
POLICY_TEXT = """\
apiVersion: tidegate/v1
kind: TrafficPolicy
metadata: {name: m}
spec:
  variants: [{name: stable, model: "m:1"}]
  split: {stable: 10000}
"""


def text(name: str = "m", rows: int = 1000) -> str:
    return TEXT.replace("NAME", name).replace("1000", str(rows))


async def no_warnings(kept: Kept) -> list[str]:
    return []


class Shelf:
    """The repository; an edge of policies and monitors."""

    def __init__(self) -> None:
        self.names = {"m", "other"}

    async def pin(self, name: str, reference: str) -> tuple[int, str]:
        return 1, f"sha256:{reference}"

    def contract(self, digest: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        return (), ()

    async def look_at(self, name: str) -> object:
        if name not in self.names:
            raise Conflict(f"not_ready: {name!r} is not in the repository")
        return name


class Node:
    """A node with a folder, policies and monitors on a store; its clock is turned by tests."""

    def __init__(self, root: Path, store: Store, name: str = "n") -> None:
        nothing: Any = None
        self.place = root / name
        (self.place / "folder").mkdir(parents=True)
        self.store = store
        self.shelf = Shelf()
        self.now_s = 100.0
        self.policies = Policies(store, self.shelf, self.place, now_ms=lambda: 1, changed=lambda: None)
        self.monitors = Monitors(
            store,
            nothing,
            self.policies,
            node=name,
            run="r",
            pages=lambda: ({}, nothing),
            served=lambda: Totals({}, np.zeros(0, np.int64), np.zeros(0, np.int64)),
            lease=lambda: None,
            told=nothing,
            now_ms=lambda: 1,
        )
        self.desk = MonitorDesk(
            self.policies, self.monitors, find=self.shelf.look_at, now_ms=lambda: 1, can_sign=lambda: False
        )
        self.folder = self.fresh()

    def fresh(self) -> DocumentFolder:
        """As after a restart."""

        async def here(work: Callable[..., Any], *args: object) -> Any:
            return work(*args)

        keepers = {POLICY: PolicyKeeper(self.policies, no_warnings), MONITOR: self.desk}
        return DocumentFolder(
            self.place / "folder",
            keepers,
            self.place,
            in_thread=here,
            restored=lambda: self.policies.restored,
            now_s=lambda: self.now_s,
        )

    def write(self, file: str, content: str) -> None:
        temporary = self.place / "next"
        temporary.write_text(content)
        temporary.rename(self.place / "folder" / file)

    def remove(self, file: str) -> None:
        (self.place / "folder" / file).unlink()

    async def settle(self) -> None:
        """Rounds of the monitors between looks: a file counts when it has stayed the same."""
        for _ in range(2):
            await self.monitors._documents()
            self.now_s += 1
            await self.folder.look()
        await self.monitors._documents()

    def rows(self, name: str = "m") -> int | None:
        return self.monitors.held[name].spec.window.rows

    def owner(self, name: str = "m") -> str:
        record = self.monitors.held[name].record
        assert record is not None
        return record.owner

    def problems(self) -> dict[str, str]:
        return {one["file"]: one["problem"] for one in self.folder.shown()["files"] if one["problem"]}


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Node]:
    def made(store: Store, name: str = "n") -> Node:
        return Node(tmp_path, store, name)

    return made


def play(place: Place, story: Callable[[Store], Any]) -> None:
    async def told(store: Store, place: Place) -> None:
        await story(store)

    on_a_store()(told)(place)


def test_a_file_is_applied_changed_and_owned(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        one.write("a.yaml", text())
        await one.settle()
        assert (one.rows(), one.owner()) == (1000, "file:a.yaml")
        one.write("a.yaml", text(rows=2000))
        await one.settle()
        assert (one.rows(), one.monitors.held["m"].generation) == (2000, 2)
        document = one.monitors.held["m"].record.document  # type: ignore[union-attr]  # it was applied
        told = r"the monitor belongs to 'a.yaml' in the policy folder: change it there"
        with pytest.raises(Conflict, match=told):
            await one.desk.apply(document, actor="ann")
        with pytest.raises(Conflict, match=told):
            await one.desk.delete("m", actor="ann", reason="")
        page = await store.audit_read("m", newest=True)
        last = page.records[0].record
        assert (last["what"], last["actor"], last["owner"]) == ("apply", "file:a.yaml", "file:a.yaml")

    play(place, story)


def document(rows: int) -> dict[str, Any]:
    spec = {"window": {"rows": rows}}
    return {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}, "spec": spec}


def test_who_saw_a_document_that_a_restore_took_away_has_not_seen_the_one_after(
    place: Place, node: Callable[..., Node], tmp_path: Path
) -> None:
    async def story(store: Store) -> None:
        desk = node(store).desk
        await desk.apply(document(500), actor="ann", generation=0)
        await store.backup(tmp_path / "backup")
        seen, _ = await desk.apply(document(900), actor="ann", generation=1)
        # As the admin port restores.
        for number in range(2):
            given = await desk.generations()
            await store.restore(tmp_path / "backup", aside=tmp_path / f"aside-{number}")
            await store.audit_append("store", {"what": "restore store", "actor": "ann", "generations": given})
        with pytest.raises(StalePolicy):
            await desk.apply(document(610), actor="bob", generation=seen.generation)
        record, _ = await desk.apply(document(610), actor="bob", generation=1)
        assert record.generation == seen.generation + 1

    play(place, story)


def test_who_saw_a_document_that_was_deleted_has_not_seen_the_one_after(
    place: Place, node: Callable[..., Node]
) -> None:
    async def story(store: Store) -> None:
        desk = node(store).desk
        for round_ in range(2):
            generation = 1 + 2 * round_
            record, _ = await desk.apply(document(500), actor="ann", generation=0)
            assert record.generation == generation
            with pytest.raises(StalePolicy, match=f"is at generation {generation} by now, not 999"):
                await desk.delete("m", actor="bob", generation=999, reason="")
            record, _ = await desk.apply(document(900), actor="bob", generation=generation)
            with pytest.raises(StalePolicy):
                await desk.apply(document(610), actor="ann", generation=generation)
            await desk.delete("m", actor="bob", generation=record.generation, reason="")
        await desk.apply(document(500), actor="file:a.yaml", owner="file:a.yaml")
        assert await desk.orphan("m", "file:a.yaml")
        await desk.delete("m", actor="bob", reason="")
        assert (await node(store, "another").desk.apply(document(500), actor="ann"))[0].generation == 6

    play(place, story)


def test_who_listens_is_told_each_record_of_the_desk_once(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        heard: list[tuple[str, int, Any]] = []
        one.policies.told = lambda name, number, audit: heard.append((name, number, audit))
        await one.desk.apply(document(500), actor="file:a.yaml", owner="file:a.yaml")
        assert await one.desk.orphan("m", "file:a.yaml")
        with pytest.raises(StalePolicy):
            await one.desk.apply(document(900), actor="ann", generation=9)
        await one.monitors._documents()
        one.monitors._led = True
        asked = (Asked(key=key, facts=FACTS, status="pending", at_s=1.0) for key in ("yes", "no"))
        held = one.monitors.held["m"]
        held.monitor = ModelMonitor("m", Spec(retrain=Retrain(url="http://127.0.0.1:9", approval="manual")))
        held.monitor.requests = Requests(asked=tuple(asked))
        one.monitors.told = Told(None, b"", source="/test", now_s=lambda: 1.0)
        await one.desk.approve("m", "yes", actor="ann")
        await one.desk.reject("m", "no", actor="ann")
        one.monitors.told.close()
        await one.desk.delete("m", actor="ann", reason="over")
        done = ["apply", "orphan", "retrain approve", "retrain reject", "delete"]
        page = await store.audit_read("m")
        assert [record.record["what"] for record in page.records] == done
        assert [audit for _, _, audit in heard] == [record.record for record in page.records]
        assert {(name, audit["kind_of"]) for name, _, audit in heard} == {("m", "monitor")}
        assert len({(number, audit["what"]) for _, number, audit in heard}) == len(done)

    play(place, story)


@pytest.mark.parametrize("wrong", [{"alertmanager": "http://u:p@a.example"}, {"webhook": "http://a.example/\u00e9"}])
def test_addresses_that_nobody_can_be_told_at_are_refused(
    place: Place, node: Callable[..., Node], wrong: dict[str, str]
) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        one.desk._can_sign = lambda: True
        with pytest.raises(InvalidInput, match=f"spec.alerts.{next(iter(wrong))}: expected"):
            await one.desk.apply(document(500) | {"spec": {"alerts": wrong}}, actor="ann")

    play(place, story)


def test_of_policies_neither(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one, wanted = node(store), load(POLICY_TEXT, "the policy")
        kept, _ = await one.policies.apply(wanted, actor="ann", generation=0)
        with pytest.raises(StalePolicy, match="expected generation 999, and 1 is in force"):
            await one.policies.delete("m", actor="bob", generation=999)
        await one.policies.delete("m", actor="bob", generation=kept.record.generation)
        for at, policies in enumerate((one.policies, node(store, "another").policies)):
            kept, _ = await policies.apply(wanted, actor="bob", generation=0)
            assert kept.record.generation == at + 2
            with pytest.raises(StalePolicy):
                await policies.apply(wanted, actor="ann", generation=1)
            await policies.delete("m", actor="bob")

    play(place, story)


BAD = {
    "a typo": (text().replace("window", "windw"), "line 5: spec.windw: unknown field"),
    "cut off": (text()[:70], "line "),
    "empty": ("", "expected a mapping"),
    "another kind": (text().replace("Monitor", "Monitr"), "line 2: kind"),
    "an alias bomb": ("a: &a [1]\nb: [*a, *a]\n", "line 1: anchors"),
    "no secret on the node": (text() + "  alerts: {webhook: 'https://a.example/'}\n", "webhook_secret_file"),
}


@pytest.mark.parametrize(("content", "told"), BAD.values(), ids=BAD)
def test_a_bad_file_keeps_the_document_and_says_why_once(
    place: Place, node: Callable[..., Node], caplog: pytest.LogCaptureFixture, content: str, told: str
) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        one.write("a.yaml", text())
        await one.settle()
        one.write("a.yaml", content)
        for _ in range(5):
            await one.settle()
        assert (one.rows(), one.owner(), one.monitors.held["m"].generation) == (1000, "file:a.yaml", 1)
        assert told in one.problems()["a.yaml"]
        assert told in one.folder.problem_of(MONITOR, "m")
        assert len([line for line in caplog.records if line.message == "policy_file_refused"]) == 1
        one.write("a.yaml", text(rows=3000))
        await one.settle()
        assert (one.rows(), one.problems()) == (3000, {})

    play(place, story)


def test_a_model_that_is_not_there_yet_is_waited_for(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        one.write("a.yaml", text("late"))
        await one.settle()
        assert "'late' is not in the repository" in one.problems()["a.yaml"]
        assert "late" not in one.monitors.held
        one.shelf.names.add("late")
        one.now_s += AGAIN_S
        await one.settle()
        assert (one.owner("late"), one.problems()) == ("file:a.yaml", {})

    play(place, story)


def test_a_policy_and_a_monitor_of_one_model_do_not_meet(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        await one.policies.open()
        one.write("policy.yaml", POLICY_TEXT)
        one.write("monitor.yaml", text())
        await one.settle()
        assert one.problems() == {}
        assert (one.policies.kept["m"].record.owner, one.owner()) == ("file:policy.yaml", "file:monitor.yaml")
        one.write("twin.yaml", text(rows=4000))
        await one.settle()
        assert set(one.problems()) == {"monitor.yaml", "twin.yaml"}
        assert (one.rows(), one.folder.problem_of(POLICY, "m")) == (1000, "")

    play(place, story)


def test_a_file_that_becomes_another_kind_lets_go_of_the_first(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        await one.policies.open()
        one.write("a.yaml", POLICY_TEXT)
        await one.settle()
        one.write("a.yaml", text())
        await one.settle()
        assert (one.policies.kept["m"].record.owner, one.owner()) == ("", "file:a.yaml")

    play(place, story)


def test_a_removed_file_leaves_its_document_to_nobody(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        one.write("a.yaml", text(rows=2000))
        await one.settle()
        one.remove("a.yaml")
        one.folder = one.fresh()  # also when it has left while the server was down
        await one.settle()
        assert (one.owner(), one.rows()) == ("", 2000)
        page = await store.audit_read("m", newest=True)
        assert [page.records[0].record[key] for key in ("what", "actor", "owner")] == ["orphan", "file:a.yaml", ""]
        await one.settle()
        assert len((await store.audit_read("m")).records) == 2
        await one.desk.delete("m", actor="ann", reason="")

    play(place, story)


def test_nodes_of_one_store_may_have_the_same_files(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        nodes = [node(store, "one"), node(store, "two")]
        for one in nodes:
            one.write("a.yaml", text())
        for one in [*nodes, *nodes]:
            await one.settle()
        assert [(one.owner(), one.monitors.held["m"].generation) for one in nodes] == [("file:a.yaml", 1)] * 2
        third = node(store, "three")  # whose folder has no files: it misses nothing
        await third.settle()
        assert third.owner() == "file:a.yaml"

    play(place, story)


def test_files_wait_until_it_is_known_what_there_is(place: Place, node: Callable[..., Node]) -> None:
    async def story(store: Store) -> None:
        one = node(store)
        one.write("a.yaml", text())
        for _ in range(3):
            await one.folder.look()
        assert (await store.get("monitor", "m"), one.problems()) == (None, {})
        await one.settle()
        assert one.owner() == "file:a.yaml"

    play(place, story)


def test_a_secret_that_is_not_there_is_warned_of_when_a_document_is_applied(
    place: Place, node: Callable[..., Node], tmp_path: Path
) -> None:
    async def story(store: Store) -> None:
        desk = node(store).desk
        secret = tmp_path / "secret"
        retrain = {"preset": "webhook", "url": "https://a.example/", "secret_file": str(secret)}
        document = {"apiVersion": "tidegate/v1", "kind": "Monitor", "metadata": {"name": "m"}}
        document |= {"spec": {"retrain": retrain}}
        (said,) = desk.warnings(document)
        assert said.startswith("spec.retrain.secret_file: cannot be read: No such file")
        secret.write_text("a-secret-of-some-length")
        assert desk.warnings(document) == []
        document["spec"] = {}
        assert desk.warnings(document) == []

    play(place, story)

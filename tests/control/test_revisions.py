"""Late labels go to the variant that answered, whatever the policy's document says by then; on a real store."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from gateway.control.documents import Kept, change_of
from gateway.control.labelnotes import notes_in
from gateway.control.messages import VariantPin
from gateway.control.record import PolicyRecord, encode
from gateway.predictions import NO_POLICY
from gateway.store.sqlite import SqliteStore
from router.policy import parse
from tests.control.test_feedback_desk import DIGESTS, Node, fact, on_a_store
from tests.control.test_study import document


class Counting:
    """A real store that counts looks at the audit trail."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def audit_read(self, *what: Any, **how: Any) -> Any:
        self.looks += 1
        return await self._store.audit_read(*what, **how)


class Desk(Node):
    """Feedback of a model whose labels are watched, and whose documents are in the audit trail."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.desk.watched = lambda name: True
        self.desk._loaded = lambda: [("fraud", digest) for digest in DIGESTS]

    async def put(self, revision: int, *pins: tuple[str, str]) -> None:
        """A document comes in force: names of variants with their digests, in its order."""
        before = self.policies.kept.get("fraud")
        owner = f"{pins[0][0]}*10000"
        variants = tuple(VariantPin(name, "fraud", at + 1, digest) for at, (name, digest) in enumerate(pins))
        record = PolicyRecord(
            document=document(), revision=revision, generation=before.record.generation + 1 if before else 1,
            applied_by="ann", applied_ms=0, variants=variants, slots=owner, before=owner, stable=pins[0][0],
        )  # fmt: skip
        audit = {"actor": "ann", "what": "apply", **change_of(before, record)}
        expected = before.revision if before else 0
        kept = await self.store.put("policy", "fraud", encode(record), expected=expected, audit=audit)
        self.policies.kept["fraud"] = Kept(kept.revision, record, parse(document()))

    def steps(self, revision: int) -> None:
        """The shares change, and nothing else does."""
        kept = self.policies.kept["fraud"]
        record = msgspec.structs.replace(kept.record, revision=revision)
        self.policies.kept["fraud"] = Kept(kept.revision, record, kept.policy)

    async def heard(self, *items: dict[str, Any]) -> list[str]:
        """Variants that the monitor hears of."""
        before = len((await self.store.stream_read("labels/fraud")).entries)
        assert await self.take(*items) == ["new"] * len(items)
        entries = (await self.store.stream_read("labels/fraud")).entries[before:]
        return [note.variant for entry in entries for note, _ in notes_in(entry.body)]


def label(number: int, revision: int, variant: int, digest: str, **more: Any) -> dict[str, Any]:
    return fact(number, slots={"label": "good"}, revision=revision, variant=variant, digest=digest[7:15]) | more


def begun(tmp_path: Path, work: Callable[[Desk, Counting], Awaitable[None]]) -> None:
    async def run(store: SqliteStore) -> None:
        counting = Counting(store)
        desk = Desk(counting)
        await desk.experiments.tick()
        await work(desk, counting)

    on_a_store(tmp_path, run)


ONE, TWO = DIGESTS


def test_a_document_in_another_order_does_not_move_labels_of_the_one_before(tmp_path: Path):
    async def work(desk: Desk, store: Counting) -> None:
        await desk.put(1, ("old", ONE), ("new", TWO))
        assert await desk.heard(label(1, 1, 0, ONE), label(2, 1, 1, TWO)) == ["old", "new"]
        await desk.put(2, ("new", TWO), ("old", ONE))
        assert await desk.heard(label(3, 1, 0, ONE), label(4, 1, 1, TWO)) == ["old", "new"]
        assert await desk.heard(label(5, 2, 0, TWO), label(6, 2, 1, ONE)) == ["new", "old"]

    begun(tmp_path, work)


def test_a_canary_that_was_rolled_back_or_promoted_keeps_its_labels(tmp_path: Path):
    async def work(desk: Desk, store: Counting) -> None:
        await desk.put(1, ("stable", ONE), ("canary", TWO))
        desk.steps(5)
        await desk.put(6, ("stable", ONE))
        assert await desk.heard(label(1, 4, 1, TWO), label(2, 4, 0, ONE)) == ["canary", "stable"]
        await desk.put(7, ("stable", TWO))
        assert await desk.heard(label(3, 4, 1, TWO), label(4, 6, 0, ONE), label(5, 7, 0, TWO)) == [
            "canary", "stable", "stable"
        ]  # fmt: skip

    begun(tmp_path, work)


def test_what_no_policy_decided_is_nobodys_and_what_nobody_knows_is_not_told_as_another(tmp_path: Path):
    async def work(desk: Desk, store: Counting) -> None:
        assert await desk.heard(label(1, 0, NO_POLICY, ONE)) == ["-"]
        assert await desk.heard(label(2, 3, 0, ONE)) == [""], "there was never a document"
        await desk.put(5, ("stable", ONE))
        assert await desk.heard(label(3, 4, 0, ONE), label(4, 5, 0, TWO)) == ["", ""]

    begun(tmp_path, work)


def test_a_document_of_another_node_is_looked_for(tmp_path: Path):
    async def work(desk: Desk, store: Counting) -> None:
        await desk.put(1, ("stable", ONE))
        here = desk.policies.kept["fraud"]
        desk.steps(2)
        assert await desk.heard(label(1, 1, 0, ONE)) == ["stable"]
        desk.policies.kept["fraud"] = here
        await desk.put(3, ("stable", ONE), ("canary", TWO))
        desk.policies.kept["fraud"] = here
        assert await desk.heard(label(2, 3, 1, TWO)) == ["canary"]

    begun(tmp_path, work)


def test_the_trail_is_read_once_for_each_document(tmp_path: Path):
    async def work(desk: Desk, store: Counting) -> None:
        await desk.put(1, ("stable", ONE), ("canary", TWO))
        assert await desk.heard(label(0, 1, 1, TWO)) == ["canary"]
        assert store.looks == 0, "what is in force needs no look"
        for revision in range(2, 40):
            desk.steps(revision)
            assert await desk.heard(label(revision, revision - 1, 1, TWO)) == ["canary"]
        assert store.looks == 1

    begun(tmp_path, work)

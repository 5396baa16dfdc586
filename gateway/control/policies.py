"""Traffic policies of this node: kept in the store, followed there, put into the snapshot.

Everything that changes a policy goes through `Policies.save`: one compare-and-set, with its audit record. Who may
change it is asked elsewhere. What a rollout does step by step is `gateway.control.rollouts`; this knows documents.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.control.deleted import Deleted
from gateway.control.documents import (
    Kept,
    Seen,
    StalePolicy,
    UnknownPolicy,
    change_of,
    check_owner,
    check_pins,
    in_words,
    is_same,
    is_stale,
    readable,
    weighed,
    without_rollout,
)
from gateway.control.losses import marked
from gateway.control.messages import PolicyState, SigningKey, VariantPin
from gateway.control.models import Models
from gateway.control.outcomes import Outcomes
from gateway.control.pending import carried_over, holding, with_pending
from gateway.control.policycache import PolicyCache, Remembered
from gateway.control.record import KIND, PolicyRecord, decode_record, encode
from gateway.control.resets import ExperimentData, Reset, ResetNeeded, check_ended, no_data, reset_of, same_experiment
from gateway.control.restoring import document_of, is_lost, put_back, rejoined, was_deleted
from gateway.control.secretkeys import SECRETS, Secrets, from_store
from gateway.control.showing import viewed
from gateway.control.states import needed, state_of
from gateway.control.succession import Applied, next_record, said_again
from gateway.store.base import Document, Lease, Stale, Store, StoreAway
from router.document import PolicyError
from router.policy import TrafficPolicy, parse
from router.rollout.status import ACTIVE, RolloutStatus
from runtimes.errors import Conflict, InvalidInput, ServingError

AGAIN_S: Final = 0.5
"""Between two tries to read what has changed, while the store is away."""
_log: Final = logging.getLogger(__name__)


class Policies:
    """All policies.

    Args:
        cache: where the newest records are kept beside the store, so that a start without it knows them.
        changed: called when the snapshot has to be made anew.

    Attributes:
        kept: by name.
        models: what they need to know of models.
        now_ms: Unix time in ms; may jump.
        loaded: the store or the cache has been read; before that nothing is known of any policy.
        taken: told of every record that comes in force here: (name, record, policy).
        away: why the store does not answer; "" = it does.
        life: of the store that this node knows, see `Store.life`.
        restored: somebody has restored a backup since this node ended.
        experiment_data: gives what there is of a model name's experiment; may raise StoreAway.
        told: called with each audit record that was written, its name, and the revision stored with it, or its number.
    """

    def __init__(
        self,
        store: Store,
        models: Models,
        cache_dir: Path,
        *,
        now_ms: Callable[[], int],
        changed: Callable[[], None],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.store = store
        self.kept: dict[str, Kept] = {}
        self.loaded = False
        self.away = ""
        self.life, self.restored = 0, False
        self.signing: tuple[SigningKey, ...] = ()
        self.unit_key = b""
        self.cleared: tuple[str, ...] = ()
        self.models = models
        self.outcomes = Outcomes()
        self.taken: Callable[[str, PolicyRecord, TrafficPolicy], None] = lambda name, record, policy: None
        self.told: Callable[[str, int, Mapping[str, Any]], None] = lambda name, after, audit: None
        self.experiment_data: Callable[[str], Awaitable[ExperimentData | None]] = no_data
        self._cache = PolicyCache(cache_dir)
        self.now_ms = now_ms
        self._changed = changed
        self._random_bytes = random_bytes
        self._numbers: dict[str, int] = {}
        self._deleted = Deleted()
        self._zeroed_here: frozenset[str] = frozenset()
        self._locks: dict[str, asyncio.Lock] = {}

    # ---- following the store ----

    async def open(self) -> None:
        """Read what there is: from the store, or while it is away from what this node knew last.

        What the store has stands, also where it is older: somebody may have restored a backup.
        """
        known = self._cache.read()
        self.life = known.life
        self._deleted.recall(known.deleted)
        try:
            life = await self.store.life()
            await self._load_secrets((known.signing, known.unit_key))
            for document in await self.store.list(KIND):
                self._take(document.name, document.revision, document.body)
            replaced = life > known.life
            gone = {name: (0, body) for name, body in known.deleted.items() if replaced and name in self.kept}
            for name, (revision, body) in (gone | known.records).items():
                with suppress(msgspec.DecodeError):
                    await self._compare(name, revision, decode_record(body), replaced=replaced)
            # Last: who could not read it all is still of the life before, and gives nothing back to this one.
            self.life, self.restored, self.away = life, replaced, ""
        except ServingError as error:
            self.away = error.message
            _log.error("store_away", extra={"facts": {"reason": error.message}})
            self._recall()
        self.loaded = True
        self._changed()

    async def _compare(self, name: str, revision: int, record: PolicyRecord, *, replaced: bool) -> None:
        """What this node knew when it ended, with what the store has. Args: replaced: somebody restored a backup."""
        kept = self.kept.get(name)
        if kept is None and replaced:
            self._deleted.add(name, record)
        elif kept is not None and not replaced:
            self.kept[name] = carried_over(kept, record)
        elif (document := await rejoined(self.store, name, kept, revision, record)) is not None:
            self._take(name, document.revision, document.body)

    async def follow(self) -> None:
        """Take over what other nodes write, for ever. Cancel: the watch ends."""
        known = {(KIND, name): kept.revision for name, kept in self.kept.items()}
        async for change in self.store.watch(known):
            if change.kind in (KIND, SECRETS):
                await self._read(change.kind, change.name)

    async def _read(self, kind: str, name: str) -> None:
        """Read what has changed, as soon as the store lets us: the watch tells of a change once."""
        while True:
            try:
                return await (self.reload(name) if kind == KIND else self._renewed())
            except StoreAway as error:
                _log.warning("policy_not_read", extra={"facts": {"policy": name, "reason": error.message}})
                await asyncio.sleep(AGAIN_S)
            except ServingError as error:
                return _log.error("policy_not_read", extra={"facts": {"policy": name, "reason": error.message}})

    async def _renewed(self) -> None:
        """Take over keys that other nodes made. Raises StoreAway."""
        before = self.signing, self.unit_key
        await self._load_secrets(before)
        if (self.signing, self.unit_key) != before:
            await self._in_force()

    async def returned(self) -> None:
        """The store answers again: read everything, and give back what it has lost. Raises StoreAway."""
        await self._load_secrets((self.signing, self.unit_key))
        for name in list(self.kept):
            await self.reload(name)
        self.away = ""
        await self._in_force()

    async def reload(self, name: str) -> None:
        """Read one policy anew. What the store has lost since this node knew it goes back."""
        before = self.kept.get(name)
        document = await self.store.get(KIND, name)
        known = self.kept.get(name)
        if before is not None and document is None:
            if before is known and await was_deleted(self.store, name):
                self._forget(name)
            elif before is known:
                await self._put_back(before, None)
        elif before is not None and document is not None and await is_lost(self.store, before, document):
            await self._put_back(before, document)
        elif document is None or (known is not None and known.revision >= document.revision):
            return  # what this node has written itself
        elif known is None and await self.store.life() > self.life:
            return  # of a restored backup: the next process takes it, beside what this one knew
        else:
            self._take(name, document.revision, document.body)
        await self._in_force()

    async def _put_back(self, known: Kept, found: Document | None) -> None:
        """Without it a canary that was rolled back might answer again. Raises StoreAway: what was known stays so."""
        if await self.store.life() > self.life:
            return  # somebody took it out by restoring a backup; this process ends as soon as it sees that
        await self._load_secrets((self.signing, self.unit_key))
        document = await put_back(self.store, known, found)
        if document is not None:
            self._take(document.name, document.revision, document.body)

    def _take(self, name: str, revision: int, body: bytes) -> None:
        known = self.kept.get(name)
        if known is not None and known.revision >= revision:
            return
        try:
            record = decode_record(body)
            if known is not None:
                record = with_pending(record, known.record)
            same = known is not None and known.record.document == record.document
            policy = known.policy if known is not None and same else parse(record.document)
            kept = self.kept[name] = Kept(revision, record, policy)
            self.taken(name, kept.record, kept.policy)
        except (msgspec.DecodeError, PolicyError) as error:  # what is in force stays
            _log.error("policy_unreadable", extra={"facts": {"policy": name, "reason": str(error)[:500]}})

    async def carry(self, name: str, status: RolloutStatus) -> None:
        """Hold a rollback that waits for the store, here and beside it: a start of this node goes on with it."""
        if status.pending_abort != self.kept[name].record.status.pending_abort:
            self.kept[name] = holding(self.kept[name], status.pending_abort)
            await self._in_force()

    async def _load_secrets(self, known: Secrets) -> None:
        self.signing, self.unit_key = await from_store(self.store, known, self._random_bytes)

    async def _in_force(self) -> None:
        """Tell workers, then keep what is known beside the store: latches and shares survive a start without it.

        Whoever acknowledges something waits for this first.
        """
        self._changed()
        records = {name: (kept.revision, encode(kept.record)) for name, kept in self.kept.items()}
        await self._cache.write(Remembered(self.signing, records, self.unit_key, self.life, self._deleted.kept()))

    def _recall(self) -> None:
        """Start from what this node knew last."""
        known = self._cache.read()
        self.signing, self.unit_key = known.signing, known.unit_key
        for name, (revision, body) in known.records.items():
            self._take(name, revision, body)

    # ---- what the snapshot says ----

    def states(self) -> tuple[PolicyState, ...]:
        """Every policy as workers act on it, by name."""
        return tuple(self._state(name, kept) for name, kept in sorted(self.kept.items()))

    def _state(self, name: str, kept: Kept) -> PolicyState:
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        return state_of(name, number, kept, zeroed_here=name in self._zeroed_here)

    def zero_here(self, names: frozenset[str]) -> None:
        """While the store is away: these canaries get nothing on this node."""
        self._zeroed_here = names
        self._changed()

    def clear_zeros(self, rollouts: tuple[str, ...]) -> None:
        """Workers may give the canaries of these rollouts traffic again, whatever they decided by themselves."""
        if rollouts != self.cleared:
            self.cleared = rollouts
            self._changed()

    def pins(self) -> dict[str, set[int]]:
        """Versions that policies want loaded, whatever the version policy of their model says."""
        return {
            name: {pin.version for pin in kept.record.variants if pin.digest not in kept.record.unloaded}
            for name, kept in self.kept.items()
        }

    def digests(self) -> set[str]:
        """Digests that must stay in the cache: variants, and what a rollback may need."""
        return {digest for kept in self.kept.values() for digest in needed(kept.record)}

    def get(self, name: str) -> Kept:
        """A policy. Raises UnknownPolicy."""
        kept = self.kept.get(name)
        if kept is None:
            raise UnknownPolicy(f"no policy {name[:128]!r}")
        return kept

    # ---- changing ----

    async def note(self, name: str, audit: Mapping[str, Any]) -> None:
        """Write an audit record of something that changed no document, and tell it. Raises StoreAway."""
        record = await self.store.audit_append(name, audit)
        self.told(name, record.seq, audit)

    async def save(
        self,
        name: str,
        record: PolicyRecord,
        *,
        expected: int,
        audit: Mapping[str, Any] | None = None,
        fence: Lease | None = None,
    ) -> Kept:
        """Write a record if nobody has since; then it is in force here. Raises Stale, Fenced, StoreAway."""
        if audit is not None:
            record = marked(record, self._random_bytes(4).hex())
        document = await self.store.put(KIND, name, encode(record), expected=expected, audit=audit, fence=fence)
        if audit is not None:
            self.told(name, document.revision, audit)
        self._take(name, document.revision, document.body)
        kept = self.kept[name]
        await self._in_force()
        return kept

    async def apply(
        self,
        document: object,
        *,
        actor: str,
        generation: Seen = None,
        owner: str = "",
        reason: str = "",
        what: str = "apply",
        reset: bool = False,
    ) -> tuple[Kept, bool]:
        """Put a document in force; gives the policy and whether anything has changed.

        Args:
            generation: of the document that the caller has seen.
            owner: of the watched folder; a policy that has another owner is not changed.
            reset: an experiment that has data may begin anew.

        Raises:
            InvalidInput: every problem of the document. Nothing was changed.
            StalePolicy, Conflict (ResetNeeded is one), StoreAway
        """
        policy = readable(document)
        name = policy.metadata.name
        async with self._locks.setdefault(name, asyncio.Lock()):
            seen = self._checked(name, generation, owner)
            pins = await self._pinned(policy)
            while True:
                self._checked(name, seen, owner)
                kept = self.kept.get(name)
                if kept is not None and is_same(kept, policy, pins, owner):
                    return kept, False
                dropped = await self.drops(kept, policy, [pin.digest for pin in pins])
                if dropped is not None and dropped.running and not reset:
                    raise ResetNeeded(dropped)
                gone = await self._deleted.numbers(self.store, name) if kept is None else (0, 0)
                by = Applied(actor, owner, self.now_ms())
                record = next_record(kept, policy, document, pins, gone, by)
                audit = {"actor": actor, "what": what, "reason": reason, **change_of(kept, record)}
                if dropped is not None:
                    audit["experiment_dropped"] = dropped.facts()
                try:
                    return await self.save(name, record, expected=kept.revision if kept else 0, audit=audit), True
                except Stale as error:
                    # A rollout writes each second, and whoever applies a document must not lose against that.
                    await self.reload(name)
                    known = self.kept.get(name)
                    if known is None or kept is None or known.revision == kept.revision:
                        raise StalePolicy("somebody else changed the policy at the same time", {}) from error

    async def drops(self, kept: Kept | None, policy: TrafficPolicy, digests: Sequence[str]) -> Reset | None:
        """What a document drops of an experiment; None = nothing. Raises StoreAway.

        Args:
            kept: what is in force.
            digests: by variant of the document.
        """
        if same_experiment(kept, policy, digests):
            return None
        return reset_of(kept, policy, digests, await self.experiment_data(policy.metadata.name))

    def _checked(self, name: str, generation: Seen, owner: str) -> int:
        """The generation in force. Raises StalePolicy: another one is wanted; Conflict: it is another owner's."""
        kept = self.kept.get(name)
        current = kept.record.generation if kept else 0
        if is_stale("policy", generation, current):
            text = f"expected generation {in_words(generation)}, and {current} is in force"
            raise StalePolicy(text, self.view(name) if kept else {})
        check_owner("policy", kept.record.owner if kept else "", owner)
        return current

    async def _pinned(self, policy: TrafficPolicy) -> tuple[VariantPin, ...]:
        """Variants with what they name now. Raises Conflict."""
        name = policy.metadata.name
        found = [(one.name, *(await self.models.pin(name, one.model))) for one in policy.spec.variants]
        pins = [VariantPin(variant, name, version, digest) for variant, version, digest in found]
        check_pins(pins, {pin.variant: self.models.contract(pin.digest) for pin in pins}, policy.spec.stable)
        return tuple(pins)

    async def delete(
        self, name: str, *, actor: str, generation: Seen = None, reason: str = "", force: bool = False
    ) -> None:
        """Remove a policy: the default answers again.

        Args:
            force: also during a rollout, or an experiment that has data.

        Raises:
            UnknownPolicy, StalePolicy, Conflict, StoreAway
        """
        kept = self.get(name)
        seen = self._checked(name, generation, "")
        if not force and kept.record.status.phase in ACTIVE:
            raise Conflict(f"a rollout of {name!r} is under way: abort it first, or say force")
        if not force and kept.policy.spec.experiment is not None:
            check_ended(await self.experiment_data(name))
        audit = {"actor": actor, "what": "delete", "reason": reason, **change_of(kept, None)}
        try:
            await self.store.delete(KIND, name, expected=kept.revision, audit=audit)
        except Stale:
            # As an apply, it must not lose against a rollout that writes.
            await self.reload(name)
            if self.get(name).revision == kept.revision:
                raise
            await self.delete(name, actor=actor, generation=seen, reason=reason, force=force)
            return
        self.told(name, kept.revision + 1, audit)
        self._forget(name)
        await self._in_force()

    def _forget(self, name: str) -> None:
        """It was deleted."""
        kept = self.kept.pop(name, None)
        if kept is not None:
            self._deleted.add(name, kept.record)

    async def kill(self, name: str, variant: str, killed: bool, *, actor: str, reason: str) -> Kept:
        """Take a variant out at once, whatever the document says, or let it back in. Also where a file owns the policy.

        Raises:
            UnknownPolicy, InvalidInput, Conflict, StoreAway
        """
        kept = self.get(name)
        record = kept.record
        if variant not in kept.policy.names:
            raise InvalidInput(f"no variant is called {variant[:64]!r}; there are {', '.join(kept.policy.names)}")
        if variant == record.stable:
            raise Conflict(f"{variant!r} is the variant that the others fall back to; it cannot be killed")
        out = tuple(sorted({*record.killed, variant} if killed else {*record.killed} - {variant}))
        if out == record.killed:
            return kept
        status = said_again(record, again=False)
        changed = msgspec.structs.replace(record, killed=out, revision=record.revision + 1, status=status)
        audit = {"actor": actor, "what": "kill" if killed else "unkill", "variant": variant, "reason": reason,
                 "revision_before": record.revision, "revision_after": changed.revision}  # fmt: skip
        try:
            return await self.save(name, weighed(changed, kept.policy), expected=kept.revision, audit=audit)
        except Stale as error:
            # A rollout has written in between: a kill must not lose against that.
            await self.reload(name)
            if self.get(name).revision == kept.revision:
                raise StoreAway("the store has another document than it gives; try again") from error
            return await self.kill(name, variant, killed, actor=actor, reason=reason)

    async def rollback(self, name: str, to: int | None, *, actor: str, reason: str, generation: Seen = None) -> Kept:
        """Put an earlier document in force again, in one step.

        Args:
            to: its generation; None = after a promotion the former stable, else the document before.
            generation: of the document that the caller has seen in force.

        Raises:
            UnknownPolicy, Conflict: there is none, or one of its versions is gone; StalePolicy, StoreAway.
        """
        kept = self.get(name)
        if generation is not None:
            generation = self._checked(name, generation, kept.record.owner)
        if to is None and kept.record.stable != kept.policy.spec.stable:
            document: Any = without_rollout(kept)
        else:
            document = await document_of(self.store, name, to or kept.record.generation - 1, deleted=to is not None)
        found, _ = await self.apply(
            document,
            actor=actor,
            generation=generation,
            owner=kept.record.owner,
            reason=reason or "rollback",
            what="rollback",
            reset=True,  # what stops harm asks for no word
        )
        return found

    def counts_of(self, name: str) -> dict[str, list[int]]:
        """Counts of the rollout under way: revision|stratum|variant -> `gateway.tally.FIELDS`."""
        kept = self.kept.get(name)
        judge = kept.record.evidence.get("judge") if kept else None
        return dict(judge["counts"]) if judge else {}

    # ---- showing ----

    def view(self, name: str) -> dict[str, Any]:
        """A policy for people and programs. Raises UnknownPolicy."""
        return viewed(name, self.get(name))

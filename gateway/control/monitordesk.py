"""What people and files do to monitors: apply and remove documents, approve retraining. Every change is audited."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from gateway.control.alerts import address_of
from gateway.control.documents import Seen, StalePolicy, UnknownPolicy, check_owner, in_words, is_stale
from gateway.control.firstreferences import KIND as FIRST
from gateway.control.keepers import APPLIED, LEFT
from gateway.control.monitorheld import MonitorRecord
from gateway.control.monitors import KIND, Monitors
from gateway.control.policies import Policies
from gateway.control.reading import Read
from gateway.control.restoring import applied_last, generation_written, generations_replaced
from gateway.monitor import retrain, retraincalls
from gateway.monitor.alertmanager import url_of
from gateway.monitor.book import ModelMonitor
from gateway.monitor.retrainer import read_secret
from gateway.monitor.settings import Monitor, PolicyError, parse
from gateway.monitordocument import read_monitor
from gateway.store.base import Document, Stale
from runtimes.errors import Conflict, InvalidInput, ServingError

MOST_ERRORS: Final = 20
_KIND_OF: Final = {"kind_of": "monitor"}
"""Events of these records are told as `monitor.apply` and so on: a policy may have the name, too."""


class MonitorDesk:
    """The desk; it keeps the Monitor documents of the watched folder (`gateway.control.keepers.Keeper`).

    Args:
        policies: whose store it is, and who tells of records.
        find: finds a model in the repository by its name. Raises Conflict: it is not there.
        can_sign: whether the node has a secret that events of a monitor's own webhook are signed with.
    """

    noun = "monitor"

    def __init__(
        self,
        policies: Policies,
        monitors: Monitors,
        *,
        find: Callable[[str], Awaitable[object]],
        now_ms: Callable[[], int],
        can_sign: Callable[[], bool],
    ) -> None:
        self._policies = policies
        self._store = policies.store
        self.monitors = monitors
        self._find = find
        self._now_ms = now_ms
        self._can_sign = can_sign

    async def apply(
        self, document: object, *, actor: str, generation: Seen = None, owner: str = "", reason: str = ""
    ) -> tuple[MonitorRecord, bool]:
        """Put a document in force; gives its record, and whether anything has changed.

        Args:
            generation: that the caller has seen.
            owner: of the watched folder; a document that has another owner is not changed.

        Raises:
            InvalidInput, StalePolicy, Conflict, StoreAway
        """
        monitor = self._readable(document)
        name = monitor.metadata.name
        known = await self._store.get(KIND, name)
        before = _record(known)
        _check_seen(name, generation, before)
        check_owner(self.noun, before.owner if before is not None else "", owner)
        await self._find(name)
        if before is not None and (before.document, before.owner) == (document, owner):
            return before, False
        assert isinstance(document, dict), "it was read"
        # An ETag is never given twice: who saw a document that was deleted has not seen this one.
        last = before.generation if before is not None else await generation_written(self._store, KIND, name)
        last = max(last, (await generations_replaced(self._store)).get(name, 0))
        record = MonitorRecord(
            document=document, generation=last + 1, applied_by=actor, applied_ms=self._now_ms(), owner=owner
        )
        audit = {
            **_KIND_OF,
            "actor": actor,
            "what": "apply",
            "reason": reason,
            "generation": record.generation,
            "owner": owner,
            "document": document,
            "document_before": before.document if before is not None else None,
        }
        try:
            await self._put(name, record, expected=known.revision if known is not None else 0, audit=audit)
        except Stale as error:
            raise StalePolicy(f"the monitor {name!r} was changed meanwhile; look again", {}) from error
        return record, True

    async def generations(self) -> dict[str, int]:
        """The highest of each name that was ever given, as far as the store knows. Raises StoreAway."""
        found = await generations_replaced(self._store)
        for document in await self._store.list(KIND):
            record = _record(document)
            if record is not None:
                found[document.name] = max(record.generation, found.get(document.name, 0))
        return found

    async def warnings_of(self, document: object) -> list[str]:
        """The same, in a thread."""
        return await asyncio.to_thread(self.warnings, document)

    def warnings(self, document: object) -> list[str]:
        """What will not work on this node as things are; reads files. A secret may come later, so it is no error."""
        monitor = self._readable(document)
        settings = ModelMonitor(monitor.metadata.name, monitor.spec).retrain_settings()
        try:
            if settings is not None:
                read_secret(settings, os.environ)
        except ValueError as error:
            return [f"spec.retrain.{error}: this node could not send a request for retraining"]
        return []

    async def _put(self, name: str, record: MonitorRecord, *, expected: int, audit: Mapping[str, Any]) -> None:
        document = await self._store.put(KIND, name, msgspec.msgpack.encode(record), expected=expected, audit=audit)
        self._policies.told(name, document.revision, audit)

    def _readable(self, document: object) -> Monitor:
        try:
            monitor = parse(document)
        except PolicyError as error:
            raise InvalidInput(str(error)) from error
        spec = monitor.spec
        if spec.alerts.webhook is not None and not self._can_sign():
            raise InvalidInput("spec.alerts.webhook: events are signed; set alerts.webhook_secret_file on the node")
        for name, url, check in (
            ("webhook", spec.alerts.webhook, address_of),
            ("alertmanager", spec.alerts.alertmanager, url_of),
        ):
            try:
                if url is not None:
                    address_of(check(url))
            except ValueError as error:
                raise InvalidInput(f"spec.alerts.{name}: {error}") from error
        settings = ModelMonitor(monitor.metadata.name, spec).retrain_settings()
        if settings is not None:
            try:
                retraincalls.check(settings)
            except ValueError as error:
                raise InvalidInput(f"spec.retrain.{error}") from error
        return monitor

    async def delete(self, name: str, *, actor: str, generation: Seen = None, reason: str) -> None:
        """Remove a document: the model is watched by the defaults from then on, if it has a reference of its own.

        References that were made of first rows go with it.

        Args:
            generation: that the caller has seen.

        Raises:
            UnknownPolicy, StalePolicy, Conflict, StoreAway
        """
        known = await self._store.get(KIND, name)
        before = _record(known)
        if known is None or before is None:
            raise UnknownPolicy(f"nobody wrote a monitor {name[:128]!r}")
        _check_seen(name, generation, before)
        check_owner(self.noun, before.owner, "")
        audit = {**_KIND_OF, "actor": actor, "what": "delete", "reason": reason, "document_before": before.document}
        try:
            await self._store.delete(KIND, name, expected=known.revision, audit=audit)
        except Stale as error:
            raise StalePolicy(f"the monitor {name!r} was changed meanwhile; look again", {}) from error
        self._policies.told(name, known.revision + 1, audit)
        await self._store.delete(FIRST, name, expected=None)

    # ---- for the watched folder ----

    @property
    def loaded(self) -> bool:
        """Whether documents have been read."""
        return self.monitors.loaded

    def read(self, text: str) -> Read[Monitor]:
        """A text as a Monitor document."""
        return read_monitor(text)

    def owners(self) -> Mapping[str, str]:
        """Name -> owner, as of the last round of the monitors."""
        held = self.monitors.held.items()
        return {name: one.record.owner for name, one in held if one.record is not None}

    async def put(self, document: object, owner: str) -> tuple[int, bool]:
        """Apply an owner's document."""
        record, changed = await self.apply(document, actor=owner, owner=owner, reason=APPLIED)
        return record.generation, changed

    async def applied(self, name: str, owner: str) -> object:
        """As the trail says."""
        return await applied_last(self._store, KIND, name, owner)

    async def orphan(self, name: str, owner: str) -> bool:
        """Take the owner away; the settings stay."""
        known = await self._store.get(KIND, name)
        record = _record(known)
        if known is None or record is None or record.owner != owner:
            return True
        audit = {**_KIND_OF, "actor": owner, "what": "orphan", "reason": LEFT, "owner": ""}
        try:
            await self._put(name, msgspec.structs.replace(record, owner=""), expected=known.revision, audit=audit)
        except Stale:
            return False
        return True

    # ---- retraining ----

    async def approve(self, name: str, key: str, *, actor: str) -> dict[str, Any]:
        """A person lets a request for retraining go. Raises UnknownPolicy, Conflict."""
        held = self.monitors.get(name)
        settings = held.monitor.retrain_settings()
        if settings is None:
            raise Conflict(f"the monitor of {name!r} asks nobody to train anew")
        self._leading(name)
        before = held.monitor.requests
        try:
            held.monitor.requests, outcome = retrain.approve(
                held.monitor.requests, settings, key, actor, self._now_ms() / 1000
            )
        except ValueError as error:
            raise Conflict(str(error)) from error
        try:
            await self._audit(name, actor, "retrain approve", key)
        except ServingError:
            # Not approved, then: it can be again.
            held.monitor.requests = before
            raise
        if outcome == "send":
            self.monitors.told.send(held.monitor, key, self.monitors.delivered)
        self.monitors.moved(name)
        return {"outcome": outcome}

    async def reject(self, name: str, key: str, *, actor: str) -> dict[str, Any]:
        """A person says no. Raises UnknownPolicy, Conflict."""
        held = self.monitors.get(name)
        self._leading(name)
        before = held.monitor.requests
        try:
            held.monitor.requests = retrain.reject(held.monitor.requests, key, actor, self._now_ms() / 1000)
        except ValueError as error:
            raise Conflict(str(error)) from error
        try:
            await self._audit(name, actor, "retrain reject", key)
        except ServingError:
            held.monitor.requests = before
            raise
        self.monitors.moved(name)
        return {"outcome": "rejected"}

    def _leading(self, name: str) -> None:
        if not self.monitors.leads:
            raise Conflict(f"another node judges {name!r}: ask it")

    async def _audit(self, name: str, actor: str, what: str, key: str) -> None:
        await self._policies.note(name, {**_KIND_OF, "actor": actor, "what": what, "reason": "", "request": key})


def _check_seen(name: str, generation: Seen, before: MonitorRecord | None) -> None:
    """Raises StalePolicy: another generation than the caller has seen is in force; 0 = none is."""
    current = before.generation if before is not None else 0
    if is_stale("monitor", generation, current):
        shown = {"generation": current, "document": before.document if before is not None else None}
        raise StalePolicy(f"the monitor {name!r} is at generation {current} by now, not {in_words(generation)}", shown)


def _record(document: Document | None) -> MonitorRecord | None:
    return msgspec.msgpack.decode(document.body, type=MonitorRecord) if document is not None else None

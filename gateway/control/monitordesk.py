"""What people do to monitors: apply and remove documents, approve requests for retraining. Every change is audited."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.control.documents import StalePolicy, UnknownPolicy
from gateway.control.firstreferences import KIND as FIRST
from gateway.control.monitorheld import MonitorRecord
from gateway.control.monitors import KIND, Monitors
from gateway.monitor import retrain, retraincalls
from gateway.monitor.book import ModelMonitor
from gateway.monitor.settings import Monitor, PolicyError, parse
from gateway.store.base import Stale, Store
from runtimes.errors import Conflict, InvalidInput

MOST_ERRORS: Final = 20


class MonitorDesk:
    """The desk.

    Args:
        can_sign: whether the node has a secret that events of a monitor's own webhook are signed with.
    """

    def __init__(
        self, store: Store, monitors: Monitors, *, now_ms: Callable[[], int], can_sign: Callable[[], bool]
    ) -> None:
        self._store = store
        self.monitors = monitors
        self._now_ms = now_ms
        self._can_sign = can_sign

    async def apply(self, document: object, *, actor: str, generation: int | None, reason: str) -> MonitorRecord:
        """Put a document in force.

        Args:
            generation: that the caller has seen; 0 = none; None = whatever is there.

        Raises:
            InvalidInput, StalePolicy, StoreAway
        """
        monitor = self._readable(document)
        name = monitor.metadata.name
        known = await self._store.get(KIND, name)
        before = msgspec.msgpack.decode(known.body, type=MonitorRecord) if known is not None else None
        current = before.generation if before is not None else 0
        if generation is not None and generation != current:
            shown = {"generation": current, "document": before.document if before is not None else None}
            raise StalePolicy(f"the monitor {name!r} is at generation {current} by now, not {generation}", shown)
        assert isinstance(document, dict), "it was read"
        record = MonitorRecord(document=document, generation=current + 1, applied_by=actor, applied_ms=self._now_ms())
        audit = {
            "actor": actor,
            "what": "apply",
            "reason": reason,
            "generation": record.generation,
            "document": document,
            "document_before": before.document if before is not None else None,
        }
        try:
            await self._store.put(
                KIND,
                name,
                msgspec.msgpack.encode(record),
                expected=known.revision if known is not None else 0,
                audit=audit,
            )
        except Stale as error:
            raise StalePolicy(f"the monitor {name!r} was changed meanwhile; look again", {}) from error
        return record

    def _readable(self, document: object) -> Monitor:
        try:
            monitor = parse(document)
        except PolicyError as error:
            raise InvalidInput(str(error)) from error
        spec = monitor.spec
        if spec.alerts.webhook is not None and not self._can_sign():
            raise InvalidInput("spec.alerts.webhook: events are signed; set alerts.webhook_secret_file on the node")
        settings = ModelMonitor(monitor.metadata.name, spec).retrain_settings()
        if settings is not None:
            try:
                retraincalls.check(settings)
            except ValueError as error:
                raise InvalidInput(f"spec.retrain.{error}") from error
        return monitor

    async def delete(self, name: str, *, actor: str, reason: str) -> None:
        """Remove a document: the model is watched by the defaults from then on, if it has a reference of its own.

        References that were made of first rows go with it.

        Raises:
            UnknownPolicy, StoreAway
        """
        known = await self._store.get(KIND, name)
        if known is None:
            raise UnknownPolicy(f"nobody wrote a monitor {name[:128]!r}")
        before = msgspec.msgpack.decode(known.body, type=MonitorRecord)
        audit = {"actor": actor, "what": "delete", "reason": reason, "document_before": before.document}
        await self._store.delete(KIND, name, expected=known.revision, audit=audit)
        await self._store.delete(FIRST, name, expected=None)

    # ---- retraining ----

    async def approve(self, name: str, key: str, *, actor: str) -> dict[str, Any]:
        """A person lets a request for retraining go. Raises UnknownPolicy, Conflict."""
        held = self.monitors.get(name)
        settings = held.monitor.retrain_settings()
        if settings is None:
            raise Conflict(f"the monitor of {name!r} asks nobody to train anew")
        self._leading(name)
        try:
            held.monitor.requests, outcome = retrain.approve(
                held.monitor.requests, settings, key, actor, self._now_ms() / 1000
            )
        except ValueError as error:
            raise Conflict(str(error)) from error
        await self._audit(name, actor, "retrain approve", key)
        if outcome == "send":
            self.monitors.told.send(held.monitor, key, lambda: self.monitors.moved(name))
        self.monitors.moved(name)
        return {"outcome": outcome}

    async def reject(self, name: str, key: str, *, actor: str) -> dict[str, Any]:
        """A person says no. Raises UnknownPolicy, Conflict."""
        held = self.monitors.get(name)
        self._leading(name)
        try:
            held.monitor.requests = retrain.reject(held.monitor.requests, key, actor, self._now_ms() / 1000)
        except ValueError as error:
            raise Conflict(str(error)) from error
        await self._audit(name, actor, "retrain reject", key)
        self.monitors.moved(name)
        return {"outcome": "rejected"}

    def _leading(self, name: str) -> None:
        if not self.monitors.leads:
            raise Conflict(f"another node judges {name!r}: ask it")

    async def _audit(self, name: str, actor: str, what: str, key: str) -> None:
        await self._store.audit_append(name, {"actor": actor, "what": what, "request": key})

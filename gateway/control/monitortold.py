"""Who is told of what monitors found: the log, webhooks, Alertmanagers, and those who train anew."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from gateway.control.alerts import Webhook, address_of
from gateway.control.monitorheld import Held
from gateway.control.outside import call, post
from gateway.monitor.alertmanager import Alertmanager, url_of
from gateway.monitor.book import ModelMonitor, Outcome
from gateway.monitor.notices import Outlets
from gateway.monitor.retrainer import deliver, read_secret
from gateway.monitor.settings import Alerts

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Named:
    """Whom a model's settings name.

    Attributes:
        hooks: that get its events.
        webhook: where one of them is that was made for the settings; "" = there is none.
        alertmanager: where its alerts go; "" = nowhere.
    """

    alerts: Alerts
    outlets: Outlets
    hooks: tuple[Webhook, ...]
    webhook: str
    alertmanager: str


Ended = Callable[[str, str, bool, str], None]
"""Of a delivery: model, key of the request, whether it was taken, a note for people."""


class Told:
    """Makes what each model's settings name, once, and keeps it running while a model names it.

    Args:
        webhook: of the node's configuration, told of every incident; None = there is none.
        secret: signs events of webhooks that monitors name.
        source: of events: this node.
    """

    def __init__(self, webhook: Webhook | None, secret: bytes, *, source: str, now_s: Callable[[], float]) -> None:
        self._webhook = webhook
        self._secret = secret
        self._source = source
        self._now_s = now_s
        self._webhooks: dict[str, Webhook] = {}
        self._alertmanagers: dict[str, Alertmanager] = {}
        self._named: dict[str, _Named] = {}
        self._waits: dict[str, dict[str, int]] = {}
        """Per model and id of an event: webhooks that have it in hand."""
        self._gone = 0
        """Alerts and events that reached nobody, of those whom no model names any more."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def can_sign(self) -> bool:
        """Whether a monitor may name a webhook of its own."""
        return bool(self._secret)

    def tell(self, held: Held, outcome: Outcome) -> None:
        """After each turn, which has been saved with what is to be told."""
        named = self._of(held.monitor)
        named.outlets.tell(held.monitor.ledger, outcome.events)
        self._offer(held, named.hooks)

    def _offer(self, held: Held, hooks: tuple[Webhook, ...]) -> None:
        """Give webhooks what they do not have in hand: what is new, and after a start what they had not taken."""
        name, untold = held.monitor.name, held.notes.untold
        waits = self._waits.setdefault(name, {})
        for note in untold:
            if note.id not in waits:
                waits[note.id] = len(hooks)
                taken = partial(self._taken, name, note.id)
                for hook in hooks:
                    hook.offer(f"incident.{note.kind}", name, note.id, note.data, at_s=note.at_s, done=taken)
        left = [note for note in untold if waits[note.id] > 0]
        held.moved = held.moved or len(left) < len(untold)
        held.notes.untold = left
        self._waits[name] = {note.id: waits[note.id] for note in left}

    def _taken(self, model: str, id: str) -> None:
        waits = self._waits.get(model, {})
        if id in waits:
            waits[id] -= 1

    def retrain(self, monitor: ModelMonitor, outcome: Outcome, ended: Ended) -> None:
        """Deliver a request for retraining, if this turn released one."""
        if outcome.retrain in ("send", "retry"):
            self.send(monitor, outcome.key, ended)

    def send(self, monitor: ModelMonitor, key: str, ended: Ended) -> None:
        """Deliver a request that was released. `ended` is called when it is known what came of it."""
        self._spawn(self._deliver(monitor, key, ended))

    async def _deliver(self, monitor: ModelMonitor, key: str, ended: Ended) -> None:
        settings, asked = monitor.retrain_settings(), monitor.requests.find(key)
        if settings is None or asked is None:
            return
        try:
            ok, note = await deliver(
                settings,
                asked.facts,
                ask=call,
                secret=partial(read_secret, settings, os.environ),
                source=self._source,
                now_s=self._now_s,
            )
        except Exception as error:  # whatever it is, the request has failed: it would be `sending` until a start
            ok, note = False, f"unexpected: {type(error).__name__}"
            _log.error("retrain_delivery_failed", exc_info=error, extra={"facts": {"model": monitor.name, "key": key}})
        ended(monitor.name, key, ok, note)

    def fall_silent(self) -> None:
        """Another node leads: whether an alert is still on is for that one to say."""
        self._waits.clear()
        for one in self._alertmanagers.values():
            one.leave()

    def forget(self, name: str) -> None:
        """A model without alarms is not served any more."""
        self._waits.pop(name, None)
        before = self._named.pop(name, None)
        if before is not None:
            self._leave(name, before)

    def counts(self, name: str) -> Mapping[tuple[Any, Any], int]:
        """(signal, severity) -> alerts of a model so far."""
        known = self._named.get(name)
        return known.outlets.counts if known is not None else {}

    @property
    def dropped(self) -> int:
        """Alerts that reached nobody."""
        dead = sum(one.counts["dead"] for one in self._webhooks.values())
        return self._gone + dead + sum(one.dropped for one in self._alertmanagers.values())

    def status(self) -> list[dict[str, Any]]:
        """How deliveries go."""
        hooks = [one.status() for one in self._webhooks.values()]
        return hooks + [one.status() for one in self._alertmanagers.values()]

    def _of(self, monitor: ModelMonitor) -> _Named:
        alerts, known = monitor.spec.alerts, self._named.get(monitor.name)
        if known is not None and known.alerts == alerts:
            return known
        hooks, named = [self._webhook] if self._webhook is not None else [], ""
        if alerts.webhook is not None and self._secret:
            named = address_of(alerts.webhook)
            if any(hook.address == named for hook in hooks):
                named = ""
            else:
                hooks.append(self._hook(named, alerts.webhook))
        address = address_of(url_of(alerts.alertmanager)) if alerts.alertmanager is not None else ""
        alerted = self._alertmanager(address) if address else None
        found = self._named[monitor.name] = _Named(alerts, Outlets(alerted=alerted), tuple(hooks), named, address)
        if known is not None:
            found.outlets.counts = known.outlets.counts
            self._leave(monitor.name, known)
        return found

    def _leave(self, name: str, before: _Named) -> None:
        """A model does not name these any more: what is on there is over, and who is left by all ends."""
        now, named = self._named.get(name), self._named.values()
        if before.alertmanager and (now is None or now.alertmanager != before.alertmanager):
            found = self._alertmanagers[before.alertmanager]
            found.set(name, ())
            found.retire(all(one.alertmanager != before.alertmanager for one in named))
        if before.webhook:
            self._webhooks[before.webhook].retire(all(one.webhook != before.webhook for one in named))

    def _hook(self, address: str, url: str) -> Webhook:
        found = self._webhooks.get(address)
        if found is None:
            found = self._webhooks[address] = Webhook(url, self._secret, source=self._source, now_s=self._now_s)
            self._spawn(self._keep_hook(address, found))
        found.retire(False)
        return found

    async def _keep_hook(self, address: str, hook: Webhook) -> None:
        await hook.run()
        del self._webhooks[address]
        self._gone += hook.counts["dead"]

    def _alertmanager(self, address: str) -> Alertmanager:
        found = self._alertmanagers.get(address)
        if found is None:
            found = self._alertmanagers[address] = Alertmanager([address], now_s=self._now_s, send=post)
            self._spawn(self._keep(address, found))
        found.retire(False)
        return found

    async def _keep(self, address: str, alertmanager: Alertmanager) -> None:
        await alertmanager.run()
        del self._alertmanagers[address]
        self._gone += alertmanager.dropped

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """End what runs."""
        for task in self._tasks:
            task.cancel()

"""Alertmanager's API v2: what is on is sent each minute until it is over, then once more with its end.

An alert that is on carries an end five minutes ahead, so that it ends by itself when we die. Each Alertmanager of a
cluster gets everything: they agree among themselves on who notifies. One that is down holds up neither the others nor
whoever raised the alert.

Source: prometheus/alertmanager, docs/alerts_api.md and api/v2/openapi.yaml (POST /api/v2/alerts).
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.monitor.beside import beside
from gateway.monitor.cloudevents import moment
from gateway.monitor.notices import Alert

EVERY_S: Final = 60.0
VALID_S: Final = 300.0
"""Four sendings may fail before an alert ends by itself."""
ALERTS: Final = 1_000
ATTEMPTS: Final = 3
FIRST_WAIT_S: Final = 0.5
PATH: Final = "/api/v2/alerts"
HEADERS: Final = {"content-type": "application/json"}
_log: Final = logging.getLogger(__name__)

Send = Callable[[str, bytes, Mapping[str, str]], int]
"""URL, body, headers -> status; raises OSError when nobody answers: `gateway.control.alerts.post`. Runs in a thread."""
Key = tuple[tuple[str, str], ...]


def url_of(base: str) -> str:
    """Where alerts go, from the address of an Alertmanager, with or without a path prefix.

    Raises:
        ValueError: no http:// or https:// and a host, or something that does not belong there.
    """
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or not all("!" <= one <= "~" for one in base):
        raise ValueError("expected http:// or https:// and a host")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("expected an address without user, query and fragment")
    return base.rstrip("/").removesuffix(PATH) + PATH


class _Target:
    """One Alertmanager.

    Attributes:
        known: alerts that it has taken and whose end it has not.
        ended_s: when those of them that are over ended.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.known: dict[Key, Alert] = {}
        self.ended_s: dict[Key, float] = {}
        self.reason = ""
        self.counts = {"delivered": 0, "failed": 0}

    def body(self, on: Mapping[Key, Alert], now_s: float) -> list[dict[str, Any]]:
        """What it has to be told."""
        for key in [key for key in self.ended_s if key in on]:
            del self.ended_s[key]
        for key in self.known.keys() - on.keys():
            if now_s - self.ended_s.setdefault(key, now_s) > VALID_S:
                del self.known[key], self.ended_s[key]  # it has ended there by itself
        for key in list(self.ended_s)[:-ALERTS]:
            del self.known[key], self.ended_s[key]
        over = [encoded(self.known[key], ended) for key, ended in self.ended_s.items()]
        return [encoded(alert, now_s + VALID_S) for alert in on.values()] + over

    def took(self, on: Mapping[Key, Alert], over: Sequence[Key]) -> None:
        """It has answered 2xx."""
        self.known.update(on)
        for key in over:
            self.known.pop(key, None)
            self.ended_s.pop(key, None)


def encoded(alert: Alert, ends_s: float) -> dict[str, Any]:
    """An alert as the API takes it; one whose end is past is over."""
    body: dict[str, Any] = {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": moment(alert.starts_s),
        "endsAt": moment(max(ends_s, alert.starts_s)),
    }
    return {**body, "generatorURL": alert.link} if alert.link else body


class Alertmanager:
    """Keeps one or more Alertmanagers up to date.

    Args:
        urls: from `url_of`.
        send: POSTs, in a thread.
        pause: waits between attempts.

    Attributes:
        dropped: alerts for which there was no room, each once while there is none; for `tidegate_alerts_dropped_total`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        now_s: Callable[[], float],
        send: Send,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._targets = [_Target(url) for url in urls]
        self._now_s = now_s
        self._send = send
        self._pause = pause
        self._on: dict[str, tuple[Alert, ...]] = {}
        self._out: dict[str, frozenset[Key]] = {}
        """Per model: what is on and found no room."""
        self._left = 0
        self._retired = False
        self._changed = asyncio.Event()
        self.dropped = 0

    def set(self, model: str, alerts: tuple[Alert, ...]) -> None:
        """These are on, others of the model are over. What is new or over is sent at once, the rest each minute."""
        before = self._on.get(model, ())
        room = ALERTS - sum(len(those) for name, those in self._on.items() if name != model)
        alerts, left_out = alerts[: max(room, 0)], alerts[max(room, 0) :]
        out, known = frozenset(alert.key for alert in left_out), self._out.pop(model, frozenset())
        self.dropped += len(out - known)  # all that is on comes again with each turn
        if out:
            self._out[model] = out
        if alerts:
            self._on[model] = alerts
        else:
            self._on.pop(model, None)
        if {alert.key for alert in before} != {alert.key for alert in alerts}:
            self._changed.set()

    def leave(self) -> None:
        """Say no more of any alert, neither that it is on nor that it is over; what nobody sends ends by itself."""
        self._left += 1
        self._on.clear()
        self._out.clear()
        for target in self._targets:
            target.known.clear()
            target.ended_s.clear()

    def retire(self, retired: bool = True) -> None:
        """Whether nobody names it any more: `run` ends, once nothing is on there that has not been told to be over."""
        self._retired = retired
        if retired:
            self._changed.set()

    @property
    def _silent(self) -> bool:
        return not self._on and not any(target.known for target in self._targets)

    async def run(self) -> None:
        """Send until it is retired. Cancel: at once; what is on ends by itself within five minutes."""
        while True:
            self._changed.clear()
            await self.push()
            if self._retired and self._silent:
                return
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def push(self) -> None:
        """Tell all of them what is on and what is over. Cancel: some may have been told."""
        await asyncio.gather(*map(self._push, self._targets))

    async def _push(self, target: _Target) -> None:
        try:
            await self._sent(target)
        except Exception as error:  # whatever it is, the others are told, and this one is again
            self._failed(target, f"unexpected: {type(error).__name__}", error)

    async def _sent(self, target: _Target) -> None:
        on = {alert.key: alert for alerts in self._on.values() for alert in alerts}
        alerts = target.body(on, self._now_s())
        over, left = list(target.ended_s), self._left
        if not alerts:
            return
        body = json.dumps(alerts, separators=(",", ":")).encode()
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._pause(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                status = await beside(self._send, target.url, body, HEADERS)
            except OSError as error:
                reason = str(error)[:200]
                continue
            if 200 <= status < 300:
                if left == self._left:
                    target.took(on, over)
                target.counts["delivered"] += 1
                target.reason = ""
                return
            reason = f"HTTP {status}"
            if status < 500 and status != 429:
                break
        self._failed(target, reason)

    def _failed(self, target: _Target, reason: str, error: Exception | None = None) -> None:
        """The next minute is the next attempt; the log is told once."""
        target.counts["failed"] += 1
        if not target.reason:
            facts = {"host": urlsplit(target.url).netloc, "reason": reason}
            _log.error("alertmanager_refused", exc_info=error, extra={"facts": facts})
        target.reason = reason

    def status(self) -> dict[str, Any]:
        """How it goes, for people and programs."""
        targets = [
            {"host": urlsplit(target.url).netloc, **target.counts, "reason": target.reason, "over": len(target.ended_s)}
            for target in self._targets
        ]
        return {"on": sum(map(len, self._on.values())), "dropped": self.dropped, "targets": targets}

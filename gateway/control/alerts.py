"""Telling others: each decision and alert as a signed CloudEvent to a webhook. Never holds up who decides.

One event at a time, in order. A receiver that is down is asked again, with longer and longer waits; what it does not
take in the end, or finds no room in the queue, is a dead letter: counted, listed, and still in the audit trail.

Envelope and signature: `gateway.monitor.cloudevents`. How anybody outside is asked: `gateway.control.outside`.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from gateway.config import Alerts, ConfigError
from gateway.control.outside import post
from gateway.monitor.beside import beside
from gateway.monitor.cloudevents import encoded, envelope, signed

QUEUE: Final = 1_000
ATTEMPTS: Final = 6
FIRST_WAIT_S: Final = 0.5
"""0.5, 1, 2, 4, 8 s: a restart of the receiver is waited for, an outage is not."""
LISTED: Final = 100
LEAST_SECRET: Final = 16
_AGAIN: Final = frozenset({408, 425, 429})
_log: Final = logging.getLogger(__name__)

Post = Callable[[str, bytes, Mapping[str, str]], int]
"""URL, body, headers -> status; raises OSError when nobody answers."""


def address_of(url: str) -> str:
    """The same for all spellings of one address: letters of the host, the default port, an empty path.

    Raises ValueError: no http:// or https:// and a host, a port that is none, or letters that no URL has.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not all("!" <= one <= "~" for one in url):
        raise ValueError("expected http:// or https:// and a host, in ASCII")
    user = parts.netloc.rpartition("@")[0]
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    place = f"{user}@{parts.hostname}:{port}" if user else f"{parts.hostname}:{port}"
    return urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))


class Webhook:
    """A bounded queue and the one task that empties it.

    Args:
        source: of the events: this node.
        now_s: Unix time.
        send: POSTs, in a thread.
        pause: waits between attempts.
        jitter: 0 to 1; stretches a wait by up to a half, so that many nodes do not come at once.

    Attributes:
        dead: the last dead letters, oldest first.
    """

    def __init__(
        self,
        url: str,
        secret: bytes,
        *,
        source: str,
        now_s: Callable[[], float],
        send: Post = post,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = url
        self._secret = secret
        self._source = source
        self._now_s = now_s
        self._send = send
        self._pause = pause
        self._jitter = jitter
        self._queue: deque[tuple[dict[str, Any], Callable[[], None]]] = deque()
        self._more = asyncio.Event()
        self._retired = False
        self.dead: deque[dict[str, Any]] = deque(maxlen=LISTED)
        self.counts = {"delivered": 0, "attempts_failed": 0, "dead": 0}

    def offer(
        self,
        kind: str,
        subject: str,
        id: str,
        data: Mapping[str, Any],
        *,
        at_s: float | None = None,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Take an event, now; it is delivered later, or never.

        Args:
            kind: behind `tidegate.`, such as `rollout.abort`.
            subject: the policy or the model.
            id: of the event; the same when it is sent again.
            at_s: when it happened, Unix time; None = now.
            done: called once it was taken, or is a dead letter.
        """
        happened_s = self._now_s() if at_s is None else at_s
        event = envelope(kind, subject, id, data, source=self._source, now_s=happened_s)
        if len(self._queue) >= QUEUE:
            self._bury(event, f"{QUEUE} events wait already")
            done()
            return
        self._queue.append((event, done))
        self._more.set()

    def retire(self, retired: bool = True) -> None:
        """Whether nobody names it any more: `run` ends, once nothing waits."""
        self._retired = retired
        if retired:
            self._more.set()

    async def run(self) -> None:
        """Deliver until it is retired. Cancel: what waits is not delivered."""
        while self._queue or not self._retired:
            await self._more.wait()
            await self.deliver()
            self._more.clear()

    async def deliver(self) -> None:
        """Deliver, or give up, what waits now. Cancel: the event in hand may have arrived."""
        while self._queue:
            event, done = self._queue[0]
            await self._deliver(event)
            self._queue.popleft()
            done()

    async def _deliver(self, event: dict[str, Any]) -> None:
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._pause(FIRST_WAIT_S * 2 ** (attempt - 1) * (1.0 + 0.5 * self._jitter()))
            try:
                body = encoded(event)
                status = await beside(self._send, self._url, body, self._headers(body))
            except OSError as error:
                reason = str(error)[:200]
            except Exception as error:  # whatever it is, it is this event's trouble: those behind it wait
                reason = f"unexpected: {type(error).__name__}"
                _log.error("webhook_attempt_failed", exc_info=error, extra={"facts": {"id": event["id"]}})
            else:
                if 200 <= status < 300:
                    self.counts["delivered"] += 1
                    return
                reason = f"HTTP {status}"
                if status < 500 and status not in _AGAIN:
                    break
            self.counts["attempts_failed"] += 1
        self._bury(event, reason)

    def _headers(self, body: bytes) -> dict[str, str]:
        return signed(body, self._secret, int(self._now_s()))

    def _bury(self, event: dict[str, Any], reason: str) -> None:
        self.counts["dead"] += 1
        self.dead.append({"reason": reason, "event": event})
        _log.error("webhook_dead_letter", extra={"facts": {"type": event["type"], "id": event["id"], "reason": reason}})

    @property
    def address(self) -> str:
        """As of `address_of`."""
        return address_of(self._url)

    def status(self) -> dict[str, Any]:
        """How it goes, for people and programs; no secret, and no more of the URL than its host."""
        return {"host": urlsplit(self._url).netloc.rpartition("@")[2], "waiting": len(self._queue), **self.counts,
                "dead_letters": list(self.dead)}  # fmt: skip


def read_secret(alerts: Alerts) -> bytes:
    """The secret of webhooks, the node's and those that monitors name; b"" = there is none.

    Raises ConfigError: none can be read, it is too short, or the node's webhook has none.
    """
    if alerts.webhook_url:
        try:
            address_of(alerts.webhook_url)
        except ValueError as error:
            raise ConfigError(f"alerts.webhook_url: {error}") from error
        if alerts.webhook_secret_file is None:
            raise ConfigError("alerts.webhook_secret_file: events are signed; name a file that holds the secret")
    if alerts.webhook_secret_file is None:
        return b""
    try:
        found = Path(alerts.webhook_secret_file).expanduser().read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"alerts.webhook_secret_file: cannot be read: {error.strerror}") from error
    if len(found) < LEAST_SECRET:
        raise ConfigError(f"alerts.webhook_secret_file: expected at least {LEAST_SECRET} bytes, got {len(found)}")
    return found

"""The data port's protocol: the fast lane for plain inference, behind the limits that every port has.

`POST .../infer` in its plain form is answered here: no ASGI scope, no task, no future. Everything else goes on to
Starlette. Both lanes end in the same `Dataplane` and send the same bytes.
"""

import asyncio
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.counters import WORKER_INDEX
from gateway.errors import HttpError, error_body
from gateway.http.access import data_needs, require
from gateway.http.edge import Edge
from gateway.http.fast_lane import FastExchange, plain_exchange
from gateway.http.guarded import BODY, IDLE, GuardedProtocol

INFER: Final = "/v2/models/{name}/infer"
_FAST: Final = WORKER_INDEX["fast_lane_total"]


class EdgeProtocol(GuardedProtocol):
    """One connection. uvicorn makes it; `edge` is what it shares with the others of its worker."""

    edge: Edge

    def __init__(
        self,
        edge: Edge,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(edge, config, server_state, app_state, _loop)

    def _take_fast_lane(self) -> bool:
        edge = self.edge
        route = edge.dataplane.paths.get(self.url)
        if route is None or self.parser.get_method() != b"POST" or edge.slow_lane_only:
            return False
        exchange = plain_exchange(self, route)
        if exchange is None:
            return False
        edge.counts[_FAST] += 1
        self._phase = BODY
        self.cycle = exchange
        if self._active is None:
            self._active = exchange
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cast(Any, exchange), self.app))
            if edge.gate is not None:
                exchange.key = next(value for name, value in self.headers if name.lower() == b"authorization")
        return True

    def on_body(self, body: bytes) -> None:
        """Collect, or hand on to the slow lane."""
        cycle = self.cycle
        if type(cycle) is not FastExchange:
            super().on_body(body)
        elif not self._rejected:
            self._body_bytes += len(body)
            if not cycle.body and cycle.error is None:
                cycle.body = body
            elif cycle.error is None:
                cycle.collect(body)

    def on_message_complete(self) -> None:
        """The request is whole: answer it, unless others came before it."""
        cycle = self.cycle
        if type(cycle) is not FastExchange or self._rejected or self._again:
            super().on_message_complete()
            return
        self._phase = IDLE
        self._head_bytes = 0
        self._follows = True
        self._since = self.edge.tick
        if cycle.chunks:
            cycle.body = b"".join(cycle.chunks)
            cycle.chunks = None
        cycle.complete = True
        cycle.started_ns = self.edge.dataplane.now_ns()
        if cycle is not self._active:
            return
        if cycle.error is None and not cycle.key:
            self.edge.dataplane.infer(cycle)
        else:
            self._start_exchange(cycle)

    def _start_exchange(self, exchange: FastExchange) -> None:
        if exchange.key and not self._may_still(exchange):
            return
        if exchange.error is None:
            self.edge.dataplane.infer(exchange)
        else:
            self.edge.dataplane.refuse_unread(exchange, exchange.error)

    def _may_still(self, exchange: FastExchange) -> bool:
        """Whether its key is good now: it was when the request came, and others were answered before it."""
        gate, name = self.edge.gate, exchange.model_name
        if gate is None or gate.passes(exchange.key, name):
            return True
        try:
            grant = gate.authenticate([exchange.key])
            require(grant.actor, data_needs(INFER, "POST"), name)
        except HttpError as error:
            body = error_body(error.message, error.code, exchange.request_id)
            exchange.respond(error.status, b"application/json", error.headers, body)
            return False
        grant.remember(name)
        return True

    def _start_cycle(self, cycle: Any, app: Any) -> None:
        if type(cycle) is not FastExchange:
            super()._start_cycle(cycle, app)
            return
        self._active = cycle
        if cycle.complete:
            self._start_exchange(cycle)
        else:
            self.flow.resume_reading()

    def finished(self, exchange: FastExchange) -> None:
        """A fast exchange was answered: go on with what came after it."""
        self.edge.dataplane.release(exchange.size)
        if not exchange.keep_alive:
            self._end()
        self.on_response_complete()

    def _abandon(self, cycle: Any) -> None:
        if type(cycle) is not FastExchange:
            super()._abandon(cycle)
            return
        cycle.disconnected = cycle.response_complete = True
        if cycle.complete and cycle.error is None:
            self.edge.dataplane.cancel(cycle)
        self.edge.dataplane.release(cycle.size)

    def _refuse_due(self) -> bool:
        active = self._active
        if type(active) is FastExchange and active.complete and not self._rejected:
            self.edge.dataplane.give_up(active)
            return False
        return super()._refuse_due()

"""`POST .../infer` in the slow lane: everything that the fast lane does not take, through the same dataplane."""

import asyncio
from concurrent.futures import Executor
from typing import Any

from starlette.requests import ClientDisconnect, Request

from gateway.dataplane import Dataplane
from gateway.errors import HttpError
from gateway.http.access import actor_of
from gateway.http.body import decoded_body, read_body
from gateway.http.compression import COMPRESS_BYTES, choose, compress, most_bytes
from gateway.http.limits import EdgeLimits
from gateway.http.reply import Reply, request_id_of
from gateway.http.slow_lane import SlowExchange
from runtimes.errors import ServingError


class Inference:
    """The endpoint."""

    def __init__(self, dataplane: Dataplane, limits: EdgeLimits, executor: Executor) -> None:
        self._dataplane = dataplane
        self._limits = limits
        self._executor = executor

    async def infer(self, request: Request) -> Reply:
        """Read, infer, answer. Cancel, or the peer's leaving: queued work is dropped."""
        exchange = SlowExchange(
            request.path_params["name"],
            request.path_params.get("version", ""),
            request_id_of(request),
            _single(request, "traceparent")[:255],
        )
        try:
            exchange.json_length = _number(request, "inference-header-content-length")
            exchange.timeout_ms = _number(request, "x-request-timeout-ms") or 0
            self._dataplane.find(exchange.model_name, exchange.selector)
            scopes = actor_of(request).scopes
            self._dataplane.check_explicit(exchange.model_name, exchange.selector, scopes)
            exchange.read(request, self._dataplane.header_names)
            limit = self._limits.json_body_bytes if exchange.json_length is None else self._limits.binary_body_bytes
            body, held = await read_body(request, limit, self._dataplane)
        except ServingError as error:
            exchange.started_ns = self._dataplane.now_ns()
            self._dataplane.refuse_unread(exchange, error)
            return await exchange.answer
        try:
            coding = _single(request, "content-encoding").strip().lower()
            room = most_bytes(body, coding, limit)
            if not self._dataplane.reserve(room):
                raise self._dataplane.bytes_refused(room)
            held += room
            exchange.body = await decoded_body(body, coding, limit, self._executor)
            # What was kept free for a body that could have been larger.
            spare = room - len(exchange.body) if room else 0
            self._dataplane.release(spare)
            held -= spare
            self._check_json(exchange)
            exchange.started_ns = self._dataplane.now_ns()
            self._dataplane.infer(exchange)
            reply = await self._answer(request, exchange)
            return await self._compressed(reply, _single(request, "accept-encoding"))
        finally:
            self._dataplane.release(held)

    def _check_json(self, exchange: SlowExchange) -> None:
        """Raises HttpError when the JSON before binary tensors is longer than any JSON may be."""
        size, most = exchange.json_length or 0, self._limits.json_body_bytes
        if most < size <= len(exchange.body):
            message = f"{size} bytes of JSON before the tensors, at most {most} are read"
            raise HttpError(413, "payload_too_large", message)

    async def _answer(self, request: Request, exchange: SlowExchange) -> Reply:
        """The answer, or ClientDisconnect when the peer leaves first."""
        if exchange.answer.done():
            return exchange.answer.result()
        leaving: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
        try:
            waiting: list[asyncio.Future[Any]] = [exchange.answer, leaving]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not exchange.answer.done():
                raise ClientDisconnect
            return exchange.answer.result()
        finally:
            leaving.cancel()
            if not exchange.answer.done():
                self._dataplane.cancel(exchange)

    async def _compressed(self, reply: Reply, accepted: bytes) -> Reply:
        coding = choose(accepted) if len(reply.body) >= COMPRESS_BYTES and reply.status == 200 else b""
        if coding:
            loop = asyncio.get_running_loop()
            reply.body = await loop.run_in_executor(self._executor, compress, reply.body, coding)
            reply.headers = [*reply.headers, (b"content-encoding", coding)]
        return reply


def _single(request: Request, name: str) -> bytes:
    """The value of a header; several are joined, as HTTP means them."""
    wanted = name.encode()
    return b",".join(value for key, value in request.scope["headers"] if key == wanted)


def _number(request: Request, name: str) -> int | None:
    """The value of a header that is a number; None when it is absent. Raises HttpError."""
    value = _single(request, name)
    if not value:
        return None
    if not value.isdigit() or len(value) > 15:
        shown = value[:40].decode("latin-1")
        raise HttpError(400, "invalid_input", f"{name}: expected a whole number, got {shown!r}")
    return int(value)

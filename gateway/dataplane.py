"""THE hot path: one request from bytes to an answer. Read `Dataplane.infer` first.

    infer      route -> decode -> admit                   here
    execute    queue -> gather -> run -> split            runtimes.batching
    answer     encode -> respond, counted                 gateway.served

Nothing here touches a store, a disk or a log on success, and nothing awaits. Both HTTP lanes call the same methods.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from gateway.control.messages import Snapshot
from gateway.counters import WORKER_FIELDS, WORKER_INDEX, CounterPage
from gateway.errors import refusal
from gateway.exchange import Exchange
from gateway.logs import RequestLog
from gateway.policyroute import ATTEMPT_SHARE, PolicyRoute
from gateway.routes import NO_ROUTES, RouteBook
from gateway.served import Results, ServedVersion
from gateway.wire import fast_json, oip_json
from gateway.wire.request import InferRequest, Limits
from router.errors import UnknownRoute
from runtimes import sizes
from runtimes.batching.job import DONE, NEW
from runtimes.errors import (
    Draining,
    ExecutionFailed,
    Forbidden,
    ModelNotReady,
    OutOfMemory,
    QueueFull,
    ServingError,
    UnknownModel,
)
from runtimes.fleet import Fleet
from runtimes.runtime import Runtime


class Dataplane:
    """All requests of one worker.

    Args:
        page: where counts go; read by control.
        inline_body_bytes: larger bodies are decoded in `decode_executor`, off the loop.
        bytes_in_flight: bound on the bodies that this worker holds at once.

    Attributes:
        book: what outlives a snapshot.
        header_names: lower-case names of the headers that policies read.
        paths: raw URL -> (model name, selector) of every infer URL that resolves: the fast lane's table.
        draining: readiness is 503 and answers carry `connection: close`; requests are still served.
    """

    def __init__(
        self,
        *,
        page: CounterPage,
        limits: Limits,
        inline_body_bytes: int,
        bytes_in_flight: int,
        decode_executor: Executor,
        call_soon_threadsafe: Callable[..., object],
        log: RequestLog,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.paths = NO_ROUTES.paths
        self.draining = False
        self.counts = page.block("worker", (), len(WORKER_FIELDS))
        self._limits = limits
        self._inline_body_bytes = inline_body_bytes
        self._bytes_limit = bytes_in_flight
        self._bytes_held = 0
        self._decode_executor = decode_executor
        self._call_soon_threadsafe = call_soon_threadsafe
        self.log = log
        self.now_ns = now_ns
        self.book = RouteBook(page, limits, log, now_ns, now_ms)
        self.routes = NO_ROUTES
        self._served = NO_ROUTES.served
        self.header_names = NO_ROUTES.header_names

    @property
    def bytes_held(self) -> int:
        """Of bodies that are being read or answered."""
        return self._bytes_held

    @property
    def inflight(self) -> int:
        """Requests that found a version and are not answered yet."""
        return self.book.inflight

    # ---- one request ----

    def infer(self, exchange: Exchange) -> None:
        """Answer an exchange, now or at the end of a later loop turn; never raises.

        Cancel: `cancel` may be called at any time before `exchange.respond` is.
        """
        try:
            name, selector = exchange.model_name, exchange.selector
            route = self._served.get((name, selector)) or self.find(name, selector)
            served = route if type(route) is ServedVersion else self._routed(route, exchange)
            exchange.served = served
            served.begin()
            if not served.readiness.clear:
                self._check_ready(served.runtime)
            if len(exchange.body) > self._inline_body_bytes:
                self._decode_elsewhere(exchange, served)
                return
            request = served.decoder.decode(exchange.body) if exchange.json_length is None else None
            self._admit(exchange, served, request or self._decode(exchange, served))
        except ServingError as error:
            self.refuse(exchange, error)
        except Exception as error:
            self.refuse(exchange, _our_fault(error))

    def _decode(self, exchange: Exchange, served: ServedVersion) -> InferRequest:
        """Bytes to named arrays, where the fast decoder of JSON does not say it. Raises InvalidInput."""
        body, json_length = exchange.body, exchange.json_length
        if json_length is None:
            return self._decode_slowly(exchange, served)
        request = served.decoder.decode_binary(body, json_length)
        if request is None:
            request = self._decode_slowly(exchange, served)
            served.decoder.remember_binary(body, json_length, request)
        return request

    def _decode_slowly(self, exchange: Exchange, served: ServedVersion) -> InferRequest:
        signature = served.runtime.signature
        return oip_json.decode(exchange.body, signature, self._limits, json_length=exchange.json_length)

    def _decode_in_thread(self, exchange: Exchange, served: ServedVersion) -> InferRequest:
        """As `decode`, with a parser of its own."""
        if exchange.json_length is None:
            signature = served.runtime.signature
            request = fast_json.decode(exchange.body, signature, self._limits, fast_json.new_parser())
            if request is not None:
                return request
        return self._decode_slowly(exchange, served)

    def _routed(self, route: ServedVersion | PolicyRoute, exchange: Exchange) -> ServedVersion:
        """Let a policy decide; one that reads the body decides in `_admit`."""
        if isinstance(route, ServedVersion):
            return route
        if route.needs_body:
            exchange.route = route
            return route.unrouted
        try:
            return route.choose(exchange)
        except ServingError:
            exchange.served = route.unrouted
            route.unrouted.begin()
            raise

    def _decide_late(self, exchange: Exchange, route: PolicyRoute, served: ServedVersion) -> ServedVersion:
        """The body is decoded: now the policy that reads it can decide."""
        exchange.route = None
        chosen = route.choose(exchange)
        served.meter.left()
        exchange.served = chosen
        chosen.begin()
        return chosen

    def _admit(self, exchange: Exchange, served: ServedVersion, request: InferRequest) -> None:
        exchange.request = request
        if exchange.route is not None:
            served = self._decide_late(exchange, exchange.route, served)
        runtime = served.runtime
        now_ns = self.now_ns()
        if runtime.most is not None:
            sizes.check(runtime.signature, runtime.most, request.inputs)
        exchange.inputs = request.inputs
        exchange.rows = request.rows
        exchange.size_bytes = len(exchange.body)
        if not runtime.fixed_inner:
            exchange.bucket = _bucket(request)
        codec = served.codec
        exchange.priority = codec.priority(request.priority) if request.priority else codec.default_priority
        timeout_ns = runtime.default_deadline_ns
        if request.timeout_us or exchange.timeout_ms:
            timeout_ns = _timeout_ns(exchange, request)
        if served.second_chance and exchange.placed is not None and exchange.placed.place:
            exchange.final_deadline_ns = exchange.started_ns + timeout_ns
            timeout_ns = int(ATTEMPT_SHARE * timeout_ns)
        exchange.deadline_ns = exchange.started_ns + timeout_ns
        if request.rows == 0 and runtime.signature.batched:
            served.answer_empty(exchange)
        else:
            runtime.batcher.submit(exchange, now_ns)

    def cancel(self, exchange: Exchange) -> None:
        """The caller has gone: what waits is dropped, what runs finishes unseen; counted as 499."""
        if exchange.state == DONE:
            return
        served = exchange.served
        if served is None:
            exchange.state = DONE
            return
        served.runtime.batcher.cancel(exchange)
        served.cancelled(exchange)

    def refuse(self, exchange: Exchange, error: ServingError) -> None:
        """Answer with an error and count it."""
        if exchange.state == DONE:
            return
        if exchange.served is not None:
            exchange.served.failed(exchange, error)
            return
        exchange.state = DONE
        self.counts[WORKER_INDEX["unknown_model_total"]] += 1
        status, headers, body = refusal(error, exchange.request_id)
        self.log.refused(status, error.code, exchange.request_id, "", error)
        exchange.respond(status, b"application/json", headers, body)

    def refuse_unread(self, exchange: Exchange, error: ServingError) -> None:
        """Refuse a request whose body was not kept, so it was never decoded."""
        try:
            route = self.find(exchange.model_name, exchange.selector)
            exchange.served = route if isinstance(route, ServedVersion) else route.unrouted
            exchange.served.begin()
        except ServingError as unknown:
            error = unknown
        self.refuse(exchange, error)

    def give_up(self, exchange: Exchange) -> None:
        """Answer 503 at the end of the drain's grace, wherever the request is."""
        if exchange.state == DONE:
            return
        if exchange.served is not None:
            exchange.served.runtime.batcher.cancel(exchange)
            exchange.state = NEW
        self.refuse(exchange, Draining("the server stopped before the request was answered", retry_after_s=1.0))

    def reserve(self, size_bytes: int) -> bool:
        """Count a body that is about to be read; False when the worker's bound would be passed."""
        if self._bytes_held + size_bytes > self._bytes_limit:
            return False
        self._bytes_held += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """The body of an answered request is gone."""
        self._bytes_held -= size_bytes
        assert self._bytes_held >= 0, "more bytes were released than reserved"

    def bytes_refused(self, size_bytes: int) -> QueueFull:
        """The error of a refused `reserve`."""
        return QueueFull(
            f"{self._bytes_held} bytes of requests are in flight, and {size_bytes} more would pass the bound of "
            f"{self._bytes_limit}",
            reason="bytes_in_flight",
            retry_after_s=1.0,
        )

    def _decode_elsewhere(self, exchange: Exchange, served: ServedVersion) -> None:
        """Decode a large body in a thread; the loop goes on with the others."""

        def back(request: InferRequest | ServingError) -> None:
            if exchange.state == DONE:
                return
            if isinstance(request, ServingError):
                self.refuse(exchange, request)
                return
            try:
                self._admit(exchange, served, request)
            except ServingError as error:
                self.refuse(exchange, error)
            except Exception as error:
                self.refuse(exchange, _our_fault(error))

        def work() -> None:
            try:
                result: InferRequest | ServingError = self._decode_in_thread(exchange, served)
            except ServingError as error:
                result = error
            except MemoryError:
                result = OutOfMemory("not enough memory to decode the request")
            except Exception as error:
                result = _our_fault(error)
            self._call_soon_threadsafe(back, result)

        self._decode_executor.submit(work)

    # ---- routes ----

    def apply(self, snapshot: Snapshot, fleet: Fleet) -> None:
        """Put the routes of a snapshot in force: one reference is swapped, requests in flight keep what they have."""
        self.routes = routes = self.book.build(snapshot, fleet)
        self._served = routes.served
        self.paths = routes.paths
        self.header_names = routes.header_names

    def sink_for(self, runtime: Runtime) -> Results:
        """The receiver of a runtime's results: hands them to what answers and counts."""
        return self.book.sink_for(runtime)

    def find(self, name: str, selector: str) -> ServedVersion | PolicyRoute:
        """What serves a model and selector.

        Raises:
            UnknownModel, ModelNotReady
        """
        served = self._served.get((name, selector))
        if served is not None:
            return served
        try:
            target = self.routes.table.decide(name, selector)
        except UnknownRoute as error:
            raise UnknownModel(error.message) from error
        version = "" if target.version is None else f" version {target.version}"
        reason = f": {target.reason}" if target.reason else ""
        raise ModelNotReady(f"model {name!r}{version} is not ready{reason}", retry_after_s=1.0)

    def check_explicit(self, name: str, selector: str, scopes: frozenset[str]) -> None:
        """Whether a caller with these scopes may name a version of a model, as the model's policy says.

        Raises:
            Forbidden
        """
        rule = self.routes.explicit.get(name) if selector else None
        if rule == "refuse":
            raise Forbidden(f"the traffic policy of {name!r} decides who gets which version: ask without one")
        if rule == "scope" and "route" not in scopes:
            raise Forbidden(f"the traffic policy of {name!r} lets only keys with the scope route name a version")

    def _check_ready(self, runtime: Runtime) -> None:
        refused = runtime.refusal()
        if refused is not None:
            raise refused


def _timeout_ns(exchange: Exchange, request: InferRequest) -> int:
    """The smaller of the body's and the header's timeout; 0 in one of them = none given."""
    body_ns = request.timeout_us * 1000
    header_ns = exchange.timeout_ms * 1_000_000
    if body_ns and header_ns:
        return min(body_ns, header_ns)
    return body_ns or header_ns


def _bucket(request: InferRequest) -> tuple[Any, ...]:
    return tuple([None if array is None else array.shape[1:] for array in request.inputs])


def _our_fault(error: Exception) -> ServingError:
    failed = ExecutionFailed("the server failed for a reason of its own")
    failed.__cause__ = error
    failed.executed = True
    return failed

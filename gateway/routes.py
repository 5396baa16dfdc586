"""What answers on this worker: built from a snapshot and the runtimes that are here, swapped as one reference."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.control.messages import Snapshot
from gateway.counters import CounterPage
from gateway.logs import RequestLog
from gateway.served import Codec, Results, ServedVersion
from gateway.wire.request import Limits
from router.table import ModelRoute, RoutingTable
from runtimes.fleet import Fleet
from runtimes.runtime import Runtime

Selector = tuple[str, str]
"""Model name, and what stands where the version stands."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Everything that one snapshot says about who answers.

    Attributes:
        served: (model name, selector) -> what answers.
        paths: raw URL -> (model name, selector) of every infer URL that resolves: the fast lane's table.
    """

    table: RoutingTable
    served: Mapping[Selector, ServedVersion] = field(default_factory=dict)
    paths: Mapping[bytes, Selector] = field(default_factory=dict)


NO_ROUTES: Final = Routes(RoutingTable({}, 0))


class RouteBook:
    """Keeps what outlives a snapshot: codecs with what they remember, and counts."""

    def __init__(
        self,
        page: CounterPage,
        limits: Limits,
        log: RequestLog,
        now_ns: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        self._page = page
        self._limits = limits
        self._log = log
        self._now_ns = now_ns
        self._now_ms = now_ms
        self._codecs: dict[Runtime, Codec] = {}
        self._plain: dict[Runtime, ServedVersion] = {}

    @property
    def inflight(self) -> int:
        """Requests that found a version and are not answered yet."""
        return sum(meter.inflight for codec in self._codecs.values() for meter in codec.meters.values())

    def sink_for(self, runtime: Runtime) -> Results:
        """The receiver of a new runtime's results."""
        for known in [known for known in self._codecs if known.state == "CLOSED"]:
            del self._codecs[known], self._plain[known]
        codec = self._codecs[runtime] = Codec(runtime, self._page, self._limits)
        self._plain[runtime] = self._serve(codec)
        return Results()

    def build(self, snapshot: Snapshot, fleet: Fleet) -> Routes:
        """The routes of a snapshot, with the runtimes that are here now."""
        table = _table(snapshot)
        served: dict[Selector, ServedVersion] = {}
        for name, selector in table.selectors():
            version = table.decide(name, selector).version
            runtime = fleet.get(name, version) if version is not None else None
            if runtime is not None:
                served[name, selector] = self._plain[runtime]
        return Routes(table, served, {_path(*selector): selector for selector in served})

    def _serve(self, codec: Codec) -> ServedVersion:
        return ServedVersion(codec, self._log, self._now_ns, self._now_ms)


def _table(snapshot: Snapshot) -> RoutingTable:
    waiting: dict[str, dict[int, str]] = {}
    for state in snapshot.states:
        waiting.setdefault(state.name, {})[state.version] = state.reason or f"it is {state.state.lower()}"
    routes = {
        name: ModelRoute(route.default, route.versions, route.aliases, route.reason, waiting.get(name, {}))
        for name, route in snapshot.routes.items()
    }
    return RoutingTable(routes, snapshot.revision)


def _path(name: str, selector: str) -> bytes:
    middle = f"/versions/{selector}" if selector else ""
    return f"/v2/models/{name}{middle}/infer".encode()

"""Quiet rounds: measure, look at how much CPU strangers took, and measure again when it was too much."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from loadtests import wrk
from loadtests.models import Payload
from loadtests.processes import CpuWatch, Server

ATTEMPTS = 4  # of one round, the first included


class Disturbed(Protocol):
    """Anything measured that knows how much CPU strangers took meanwhile."""

    @property
    def foreign_share(self) -> float: ...


Measured = TypeVar("Measured", bound=Disturbed)


@dataclass(frozen=True)
class Settings:
    """What the command line asked for, and where to put files."""

    folder: Path
    rounds: int = 5
    seconds: int = 5
    max_foreign: float = 0.08
    starts: int = 1


@dataclass(frozen=True)
class LoadRound:
    """One wrk run against one server; CPU is that of the whole tree. `load_cores` near 1 = wrk was the limit."""

    side: str
    requests: int
    requests_per_second: float
    p50_us: float
    p99_us: float
    errors: int
    cpu_us_per_request: float
    server_cores: float
    load_cores: float
    foreign_share: float


@dataclass
class Record:
    """Everything measured, kept and thrown away, under the name of its row; becomes the JSON report."""

    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    thrown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def keep(self, row: str, measured: Any) -> None:
        """Note a round that counts."""
        self.kept.setdefault(row, []).append(asdict(measured))

    def throw(self, row: str, measured: Any) -> None:
        """Note a round that does not count."""
        self.thrown.setdefault(row, []).append(asdict(measured))

    def thrown_note(self, row: str, limit: float) -> str:
        """One line about what was thrown away."""
        shares = [f"{100 * one['foreign_share']:.0f} %" for one in self.thrown.get(row, [])]
        if not shares:
            return "thrown away: none"
        return f"thrown away: {len(shares)} with more than {100 * limit:.0f} % foreign CPU ({', '.join(shares)})"


def quiet(row: str, settings: Settings, record: Record, measure: Callable[[], Measured]) -> Measured | None:
    """The first measurement with little foreign CPU; None when all attempts were disturbed. All are recorded."""
    for _ in range(ATTEMPTS):
        measured = measure()
        disturbed = measured.foreign_share > settings.max_foreign
        print(f"  {row}: {brief(measured)}{'  THROWN AWAY' if disturbed else ''}", flush=True)
        if not disturbed:
            record.keep(row, measured)
            return measured
        record.throw(row, measured)
    return None


def brief(measured: Any) -> str:
    """The plain values of a measurement on one line."""
    plain = {name: value for name, value in asdict(measured).items() if isinstance(value, int | float | str)}
    return "  ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in plain.items()
    )


def load_round(server: Server, payload: Payload, connections: int, settings: Settings) -> LoadRound:
    """One run of wrk."""
    watch = CpuWatch(server.pid)
    result = wrk.run(payload, server.port, connections, settings.seconds, settings.folder)
    spent = watch.spent()
    return LoadRound(
        side=server.name,
        requests=result.requests,
        requests_per_second=result.requests_per_second,
        p50_us=result.p50_us,
        p99_us=result.p99_us,
        errors=result.errors,
        cpu_us_per_request=spent.server_s * 1e6 / max(1, result.requests),
        server_cores=spent.server_s / spent.wall_s,
        load_cores=spent.load_s / spent.wall_s,
        foreign_share=spent.foreign_share,
    )

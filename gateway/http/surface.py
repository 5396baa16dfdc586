"""What the slow lane's endpoints need of the process they run in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from gateway.control.messages import Snapshot
from gateway.dataplane import Dataplane
from gateway.http.gate import Gate
from runtimes.fleet import Fleet

Call = Callable[[str, dict[str, Any], float], Awaitable[Any]]
"""Ask control: name, arguments, seconds to wait. Raises ControlAway or Refused."""


@dataclass(frozen=True, slots=True)
class Surface:
    """A worker as its endpoints see it.

    Attributes:
        snapshot: the one in force.
        version: of Tidegate.
        gate: the keys in force; None = nobody is asked for one.
    """

    dataplane: Dataplane
    fleet: Fleet
    call: Call
    snapshot: Callable[[], Snapshot]
    version: str
    gate: Gate | None = None

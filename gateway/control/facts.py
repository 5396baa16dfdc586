"""What control knows, in the words of the admin API. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.control.messages import Beat, ModelState, Status
from gateway.control.reconcile import READY
from runtimes.registry.directory import SeenModel


@dataclass(slots=True)
class Worker:
    """A worker as control knows it."""

    slot: int
    pid: int
    start_id: str
    restarts: int = 0
    reason: str = ""
    status: Status | None = None
    beat: Beat | None = None


def worker_facts(worker: Worker) -> dict[str, Any]:
    """A worker."""
    beat, status = worker.beat, worker.status
    return {
        "pid": worker.pid,
        "slot": worker.slot,
        "listening": bool(status and status.listening),
        "connections": beat.connections if beat else 0,
        "loop_lag_ms": round(beat.loop_lag_ns / 1e6, 3) if beat else None,
        "rss_bytes": beat.rss_bytes if beat else None,
        "inflight": beat.inflight if beat else 0,
        "models": [f"{state.name}:{state.version} {state.state}" for state in status.models] if status else [],
        "revision": status.revision if status else 0,
        "restarts": worker.restarts,
        "last_reason": worker.reason,
    }


def state_facts(state: ModelState) -> dict[str, Any]:
    """A version on this node."""
    return {
        "version": state.version,
        "state": state.state,
        "reason": state.reason,
        "digest": state.digest,
        "load_ms": round(state.load_ns / 1e6, 1),
    }


def index_facts(states: Iterable[ModelState], names: Iterable[str], *, ready: bool) -> list[dict[str, str]]:
    """The repository index: every version that is wanted, every name that is not.

    Args:
        ready: those that are READY alone.
    """
    entries: list[dict[str, str]] = []
    told: set[str] = set()
    for state in states:
        told.add(state.name)
        if state.version and (not ready or state.state == READY):
            entry = {"name": state.name, "version": str(state.version), "state": state.state}
            entries.append(entry | ({"reason": state.reason} if state.reason else {}))
        elif not ready:
            entries.append({"name": state.name, "state": state.state, "reason": state.reason})
    entries += [{"name": name} for name in names if name not in told and not ready]
    return sorted(entries, key=lambda entry: (entry["name"], int(entry.get("version", 0))))


def dangling(seen: SeenModel) -> list[str]:
    """A line for each alias that points nowhere."""
    there = {version.version for version in seen.versions}
    aliases = seen.config.aliases if seen.config else {}
    return [
        f"alias {alias!r} points to version {version}, which is not in the repository"
        for alias, version in sorted(aliases.items())
        if version not in there
    ]

"""A model's monitor and its policy: who is champion and who canary now, and what is said of the canary. Pure."""

from collections.abc import Mapping
from typing import Final, Literal

from gateway.control.documents import Kept, killed_in
from gateway.control.labelnotes import NOBODY
from gateway.control.messages import Route, Snapshot
from gateway.control.plans import Drift
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.leases import Level
from router.rollout.observed import MonitorLease
from router.rollout.status import ACTIVE

_DO: Final[Mapping[Level, Literal["hold", "fallback", "rollback"]]] = {
    "observe": "hold",
    "freeze": "hold",
    "fallback": "fallback",
    "rollback": "rollback",
}


def known_versions(snapshot: Snapshot, name: str) -> frozenset[str] | None:
    """Versions of a model that are served, are to be, or could not be; None = it is not known, as at a start."""
    if not snapshot.ready:
        return None
    versions = {state.version for state in snapshot.states if state.name == name}
    # 0 stands for a name whose files are still being written or cannot be read.
    return None if 0 in versions else frozenset(map(str, versions))


def roles_of(kept: Kept | None, route: Route | None, changed_s: float, versions: frozenset[str] | None) -> Roles:
    """The roles.

    Args:
        kept: the policy; None = there is none, and the default version answers alone.
        changed_s: when the split was last changed, Unix time.
        versions: of the model, see `known_versions`.
    """
    plain = None if versions is None else frozenset((version, NOBODY) for version in versions)
    if kept is None:
        default = str(route.default) if route is not None and route.default is not None else ""
        return Roles(champion=(default, NOBODY), changed_s=changed_s, live=plain)
    record = kept.record
    pinned = {pin.variant: str(pin.version) for pin in record.variants}
    # Who gets nothing has no windows that could ever be clean: its alarms end with its traffic.
    out = {*killed_in(record, kept.policy), *([record.canary] if record.zeroed else [])}
    tries = record.status.phase in ACTIVE and record.canary in pinned and not record.zeroed
    live = {(version, variant) for variant, version in pinned.items() if variant not in out}
    return Roles(
        champion=(pinned[record.stable], record.stable),
        canary=(pinned[record.canary], record.canary) if tries else None,
        revision=record.generation,
        changed_s=changed_s,
        live=None if versions is None or plain is None else plain | {one for one in live if one[0] in versions},
    )


def drift_of(monitor: ModelMonitor, roles: Roles, now_s: float) -> Drift:
    """What a monitor says of a rollout's canary, to who carries the rollout on."""
    lease = monitor.lease(roles, now_s)
    found = None
    if lease is not None:
        found = MonitorLease(
            do=_DO[lease.level],
            reason=lease.reason,
            evidence=lease.evidence_id,
            granted_ms=int(lease.granted_s * 1000),
            until_ms=int(lease.expires_at * 1000),
        )
    return Drift(monitor.signals(now_s), monitor.unknown(now_s), found)

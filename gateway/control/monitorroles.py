"""A model's monitor and its policy: who is champion and who canary now, and what is said of the canary. Pure."""

from collections.abc import Mapping
from typing import Final, Literal

from gateway.control.documents import Kept
from gateway.control.labelnotes import NOBODY
from gateway.control.messages import Route
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


def roles_of(kept: Kept | None, route: Route | None, changed_s: float) -> Roles:
    """The roles.

    Args:
        kept: the policy; None = there is none, and the default version answers alone.
        changed_s: when the split was last changed, Unix time.
    """
    plain = frozenset((str(version), NOBODY) for version in (route.versions if route is not None else ()))
    if kept is None:
        default = str(route.default) if route is not None and route.default is not None else ""
        return Roles(champion=(default, NOBODY), changed_s=changed_s, live=plain)
    record = kept.record
    versions = {pin.variant: str(pin.version) for pin in record.variants}
    # Who gets nothing has no windows that could ever be clean: its alarms end with its traffic.
    out = {*record.killed, *([record.canary] if record.zeroed else [])}
    tries = record.status.phase in ACTIVE and record.canary in versions and not record.zeroed
    return Roles(
        champion=(versions[record.stable], record.stable),
        canary=(versions[record.canary], record.canary) if tries else None,
        revision=record.generation,
        changed_s=changed_s,
        live=plain | {(version, variant) for variant, version in versions.items() if variant not in out},
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

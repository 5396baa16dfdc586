"""The page says which lease of a monitor is in force, for as long as a rollout has to obey it."""

import msgspec

from gateway.control.monitorheld import Held
from gateway.control.monitorviews import facts
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.leases import DEGRADES, Lease, Leases, Level
from gateway.monitor.settings import Spec

ROLES = Roles(champion=("1", "stable"), canary=("2", "canary"), revision=7)
ENDS_S = 1_000.0


def flags(level: Level = "fallback", roles: Roles = ROLES, now_s: float = ENDS_S - 1) -> dict[str, float]:
    """Level -> value, of the only canary there is."""
    held = Held(Spec(), ModelMonitor("m", Spec()), roles=roles)
    lease = Lease(
        model="m", version="2", variant="canary", level=level, reason="it drifts", evidence_id="i/1",
        revision=7, fence=1, granted_s=ENDS_S - 300, expires_at=ENDS_S,
    )  # fmt: skip
    held.monitor.leases = Leases(fence=1, held=(lease,))
    page = facts({"m": held}, {}, {}, {}, dropped=0, overhead_s=0.0, leads=True, now_ms=round(now_s * 1000))
    assert {one[:3] for one in page.degrade_flags} <= {("m", "2", "canary")}
    return {str(one[3]): float(one[4]) for one in page.degrade_flags}


def test_the_level_in_force_is_1_and_the_others_are_0() -> None:
    for level in DEGRADES:
        assert flags(level) == {one: float(one == level) for one in DEGRADES}
    assert DEGRADES == ("freeze", "fallback", "rollback")


def test_none_is_1_once_it_has_ended_or_people_have_changed_the_policy() -> None:
    nothing = dict.fromkeys(DEGRADES, 0.0)
    assert flags(now_s=ENDS_S) == nothing
    assert flags(roles=msgspec.structs.replace(ROLES, revision=8)) == nothing


def test_without_a_canary_there_is_nothing_to_say() -> None:
    assert flags(roles=msgspec.structs.replace(ROLES, canary=None)) == {}

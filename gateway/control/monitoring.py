"""The drift monitor of this node, put together. Imported once the models have begun to load: they come first."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.control.counts import Totals
from gateway.control.monitordesk import MonitorDesk
from gateway.control.monitorinputs import lost_of, totals_of
from gateway.control.monitors import Monitors
from gateway.control.monitortold import Told
from gateway.control.monitorviews import facts
from gateway.control.pinning import Pinning
from gateway.control.service import Service
from gateway.counters import WORKER_INDEX
from gateway.monitor.facts import MonitorFacts

if TYPE_CHECKING:
    from gateway.control.traffic import Traffic


class Monitoring:
    """Made once the store is open.

    Args:
        node, run: this node, and this start of its process tree.
        secret: signs events of webhooks that monitors name; b"" = they may name none.
        totals: of what was answered.
    """

    def __init__(
        self,
        traffic: "Traffic",
        service: Service,
        *,
        node: str,
        run: str,
        secret: bytes,
        totals: Callable[[], Totals],
    ) -> None:
        self._pages = traffic.pages
        self._totals = totals
        self.told = told = Told(traffic.webhook, secret, source=f"/tidegate/{node}", now_s=time.time)
        self.monitors = Monitors(
            traffic.store,
            service,
            traffic.policies,
            node=node,
            run=run,
            pages=traffic.pages,
            served=totals,
            lease=lambda: traffic.rollouts.lease,
            told=told,
            now_ms=_now_ms,
            silent_ms=traffic.rollouts.nodes.silent_ms,
        )
        service.calls["first_rows"] = self.monitors.firsts.take
        self.desk = MonitorDesk(
            traffic.policies,
            self.monitors,
            find=Pinning(service).look_at,
            now_ms=_now_ms,
            can_sign=lambda: told.can_sign,
        )

    def facts(self) -> MonitorFacts | None:
        """For the metrics page; None = nothing is watched."""
        living, finals = self._pages()
        monitors = self.monitors
        counted = totals_of([finals, *living.values()])
        if not monitors.held and not counted:
            return None
        return facts(
            monitors.held,
            counted,
            lost_of(finals),
            {name: self.told.counts(name) for name in monitors.held},
            dropped=self.told.dropped,
            overhead_s=int(self._totals().workers[WORKER_INDEX["monitor_ns_total"]]) / 1e9,
            leads=monitors.leads,
            now_ms=_now_ms(),
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

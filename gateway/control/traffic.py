"""Everything about traffic policies in control, put together: store, policies, rollouts, and who is told of what."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.config import Alerts
from gateway.control.alerts import Webhook, read_secret
from gateway.control.auditor import Auditor
from gateway.control.counts import Totals
from gateway.control.datadesk import DataDesk
from gateway.control.decisionlog import DecisionLines
from gateway.control.experimentbook import Experiments
from gateway.control.experiments import Live
from gateway.control.feedback import FeedbackDesk
from gateway.control.folder import MONITOR, POLICY, DocumentFolder
from gateway.control.keepers import PolicyKeeper
from gateway.control.latency import StableLatency, shown_quantiles
from gateway.control.messages import Status
from gateway.control.outcomes import OutcomeCounts
from gateway.control.pinning import Pinning
from gateway.control.planning import in_force_warnings
from gateway.control.policies import Policies
from gateway.control.policyfacts import TrafficFacts, counted, facts_of
from gateway.control.rates import TICK_S, RequestRates
from gateway.control.reporter import Reporter
from gateway.control.rollouts import Node, Rollouts
from gateway.control.service import Service
from gateway.control.shadowsamples import ShadowSamples
from gateway.control.skew import skew_of
from gateway.control.study import Study
from gateway.counters import QUEUE_DURATION, REQUEST_DURATION, CounterPage
from gateway.store.base import Store
from gateway.store.opening import open_store

if TYPE_CHECKING:
    from gateway.control.monitoring import Monitoring

_NODE_FILE: Final = "node.id"
NOT_AUDITED: Final = frozenset({"started", "approval", "warning", "rolled_back"})
"""What people are told of a rollout though nothing was decided: a webhook gets it by itself."""
NOT_TOLD: Final = frozenset({"document", "document_before", "evidence", "kind_of", "replaced"})
"""Too large for a log line; who wants them asks the audit trail."""
_log: Final = logging.getLogger(__name__)


class Traffic:
    """Made once the store is open.

    Args:
        run: start of the process tree, whose counts the pages hold.
        pages: those of living workers by start id, and the finals.
        folder: of policies and monitors, which is followed; None = there is none.
        webhook: told of every decision; None = nobody is.
        secret: signs events; b"" = there is none.
        decisions: where the decision log is written: "files", "stream" or "off".

    Attributes:
        monitoring: the drift monitor; None until `watch` has put it together.
    """

    def __init__(
        self,
        store: Store,
        service: Service,
        data_dir: Path,
        *,
        run: str,
        pages: Callable[[], tuple[Mapping[str, CounterPage], CounterPage]],
        totals: Callable[[], Totals],
        folder: Path | None = None,
        webhook: Webhook | None = None,
        secret: bytes = b"",
        decisions: str = "off",
    ) -> None:
        self.store = store
        self.pages = pages
        self.webhook = webhook
        self._service = service
        self._crashes: list[tuple[float, str]] = []
        self.policies = Policies(store, Pinning(service), data_dir, now_ms=_now_ms, changed=service.policies_changed)
        service.policies = self.policies
        self._totals = totals
        self._rates, self._outcomes = RequestRates(totals), OutcomeCounts()
        warned = partial(in_force_warnings, policies=self.policies, service=service)
        keepers = {POLICY: PolicyKeeper(self.policies, warned), MONITOR: None}
        self.folder = (
            DocumentFolder(
                folder, keepers, data_dir, in_thread=service.in_thread, restored=lambda: self.policies.restored
            )
            if folder is not None
            else None
        )
        self.policies.told = self._told
        self.auditor = Auditor(self.policies)
        lines = DecisionLines(store, data_dir, decisions)
        self.samples = ShadowSamples(self.policies, now_ms=_now_ms)
        self.data = DataDesk(self.policies, self.auditor, lines, self.samples)
        self._node = node = node_name(data_dir)
        self.reporter = Reporter(node, run)
        self.rollouts = Rollouts(
            self.policies,
            self.reporter,
            Node(node, pages, self._statuses, self._crashed, StableLatency(totals)),
            now_ms=_now_ms,
            notify=self._notify,
        )
        self.experiments = Experiments(
            store,
            now_ms=_now_ms,
            lease=lambda: self.rollouts.lease,
            live=self._live,
            deleted=lambda name: self.policies.loaded and name not in self.policies.kept,
        )
        self.monitoring: Monitoring | None = None
        self._watcher = {"node": node, "run": run, "secret": secret, "totals": totals}
        self.feedback = FeedbackDesk(
            store, self.policies, self.experiments, node=node, now_ms=_now_ms, loaded=self._loaded, watched=None
        )
        self.data.forgetters.append(partial(self.experiments.forget, append=self.feedback.append))
        self.policies.taken, self.policies.experiment_data = self.experiments.taken, self.experiments.data
        self.rollouts.heard = self.experiments.heard
        service.calls["feedback"] = self.feedback.take
        service.calls["decision_lines"] = lines.take
        service.calls["shadow_samples"] = self.samples.take

    async def watch(self) -> "Monitoring":
        """Put the drift monitor together; until then feedback and Monitor files wait, and no canary drifts."""
        module = await asyncio.to_thread(import_module, "gateway.control.monitoring")
        found: Monitoring = module.Monitoring(self, self._service, **self._watcher)
        self.rollouts.drift, self.feedback.watched = found.monitors.drift, found.monitors.watches
        self.monitoring = found
        if self.folder is not None:
            self.folder.keepers[MONITOR] = found.desk
        return found

    def _loaded(self) -> Iterable[tuple[str, str]]:
        return ((model.name, model.digest) for model in self._service.snapshot.models)

    def _statuses(self) -> Mapping[str, Status]:
        workers = self._service.workers.items()
        return {start_id: worker.status for start_id, worker in workers if worker.status is not None}

    def _live(self, study: Study) -> Live:
        """What an experiment's report shows of now."""
        shown = partial(shown_quantiles, self._totals(), study.name, study.variants, study.versions, alpha=study.alpha)
        latency, waits = shown(REQUEST_DURATION), shown(QUEUE_DURATION)
        kept = self.policies.kept.get(study.name)
        if kept is None:
            return Live(latency, waits)
        here = {worker: status.policies.get(study.name, 0) for worker, status in self._statuses().items()}
        others = {node: acked.get(study.name, 0) for node, acked in self.rollouts.nodes.others().items()}
        return Live(latency, waits, skew_of(self._node, kept.record.revision, here, others))

    def died(self, start_id: str, page: CounterPage, blamed_digest: str) -> None:
        """A worker is dead, and its page is about to go."""
        self.reporter.died(start_id, page, blamed_digest)
        if blamed_digest:
            self._crashes.append((time.monotonic(), blamed_digest))

    def _crashed(self) -> Mapping[str, int]:
        """Digest -> workers lost within 60 s while they executed it."""
        now = time.monotonic()
        self._crashes = [(at, digest) for at, digest in self._crashes if now - at < 60.0]
        found: dict[str, int] = {}
        for _, digest in self._crashes:
            found[digest] = found.get(digest, 0) + 1
        return found

    def _notify(self, policy: str, kind: str, reason: str) -> None:
        level = logging.WARNING if kind in ("holding", "warning", "aborted", "rolled_back") else logging.INFO
        _log.log(level, f"rollout_{kind}", extra={"facts": {"policy": policy, "reason": reason}})
        if self.webhook is not None and kind in NOT_AUDITED:
            self.webhook.offer(f"rollout.{kind}", policy, f"{policy}/{kind}/{_now_ms()}", {"reason": reason})

    def _told(self, name: str, after: int, audit: Mapping[str, Any]) -> None:
        """A record was written: into the log, and to whoever listens."""
        kept = {key: value for key, value in audit.items() if key not in NOT_TOLD}
        _log.info("policy_audited", extra={"facts": {"policy": name, **kept}})
        if self.webhook is not None:
            kind = audit.get("kind_of", "policy")
            what = str(audit["what"]).replace(" ", "_")
            self.webhook.offer(f"{kind}.{what}", name, f"{name}/{after}/{what}", {"policy": name, **kept})

    def facts(self) -> TrafficFacts:
        """For the metrics page."""
        living, finals = self.pages()
        counts, statuses = counted([finals, *living.values()]), self._statuses().values()
        return TrafficFacts(
            tuple(
                facts_of(kept, counts, statuses, zeroed_here=name in self.rollouts.zeroed_here)
                for name, kept in sorted(self.policies.kept.items())
            ),
            bool(self.policies.away),
            self.folder.refused if self.folder is not None else 0,
        )

    async def measure(self) -> None:
        """Keep rates and outcomes of requests, for plans, and no sample too long, for ever. Cancel: at once."""
        while True:
            now_s = time.monotonic()
            self._service.request_rates = self._rates.tick(now_s)
            living, finals = self.pages()
            pages = (finals, *living.values())
            self.policies.outcomes = self._outcomes.tick(now_s, self.policies.kept, self._totals(), pages)
            self.samples.tidy()
            await asyncio.sleep(TICK_S)

    async def close(self) -> None:
        """Let go of the store."""
        if self.monitoring is not None:
            self.monitoring.told.close()
        await self.store.close()


async def open_traffic(
    url: str | None,
    service: Service,
    data_dir: Path,
    *,
    run: str,
    pages: Callable[[], tuple[Mapping[str, CounterPage], CounterPage]],
    totals: Callable[[], Totals],
    folder: Path | None = None,
    alerts: Alerts | None = None,
    decisions: str = "off",
) -> Traffic:
    """Open the store and read the policies. Raises ConfigError, StoreUnusable."""
    webhook, source = None, f"/tidegate/{node_name(data_dir)}"
    secret = read_secret(alerts) if alerts is not None else b""
    if alerts is not None and alerts.webhook_url:
        webhook = Webhook(alerts.webhook_url, secret, source=source, now_s=time.time)
    store = await open_store(url, data_dir)
    traffic = Traffic(
        store,
        service,
        data_dir,
        run=run,
        pages=pages,
        totals=totals,
        folder=folder,
        webhook=webhook,
        secret=secret,
        decisions=decisions,
    )
    await traffic.policies.open()
    return traffic


def node_name(data_dir: Path) -> str:
    """This node's name among those that share a store: made once, kept in the data folder."""
    path = data_dir / _NODE_FILE
    try:
        known = path.read_text().strip()
    except OSError:
        known = ""
    if not known:
        known = f"{os.uname().nodename[:40]}-{os.urandom(4).hex()}"
        path.write_text(known + "\n")
    return known


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

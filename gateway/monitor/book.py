"""The monitor of one model: all its versions and variants, whose fault a drift is, and what follows. Pure.

counts, labels, speed -> findings per series -> attribution -> incident -> events to tell, leases, retraining
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

import msgspec

from gateway.monitor import incidents, leases, retrain
from gateway.monitor.apart import Apart
from gateway.monitor.attribution import Arm, Asked, Attribution, Compared
from gateway.monitor.board import Board
from gateway.monitor.counting import Counts
from gateway.monitor.engine import Closed
from gateway.monitor.hosts import Hosts
from gateway.monitor.incidents import Event, Ledger
from gateway.monitor.latencies import Judged as ComparedLatency
from gateway.monitor.latencies import Latencies
from gateway.monitor.leases import Ask, Lease, Leases
from gateway.monitor.mistakes import TESTED, Mistakes
from gateway.monitor.pair import OUTPUTS, Pair, parts_of, same_bins
from gateway.monitor.realised import Labelled
from gateway.monitor.reference import Reference
from gateway.monitor.retrain import Requests
from gateway.monitor.settings import Spec
from gateway.monitor.stages import BUCKETS
from gateway.monitor.watching import Watching
from gateway.monitor.words import CLEAN, Finding, State

HELD: Final = 50
"""Findings that fired and were not told, kept for `explain`."""
LINGERS_MS: Final = 3_600_000
"""So long a variant that gets no rows any more keeps its windows: they may be looked at, and a split may be undone."""
ABSENT: Final = 8
"""Versions that were saved and are not served yet, whose windows are kept for them."""


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """Who is who in traffic now.

    Attributes:
        champion, canary: (version, variant); a canary that no rollout tries now is None.
        revision: of the policy's document as people wrote it.
        changed_s: when the split was last changed, Unix time.
        live: every series that may get rows; None = it is not known, as at a start.
    """

    champion: tuple[str, str]
    canary: tuple[str, str] | None = None
    revision: int = 0
    changed_s: float = 0.0
    live: frozenset[tuple[str, str]] | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn came to.

    Attributes:
        closed: windows that closed, by version.
        lease: granted or extended in this turn.
        retrain: outcome of an offer to retrain, and the key of its request; "" = there was none.
    """

    closed: tuple[tuple[str, Closed], ...] = ()
    findings: tuple[Finding, ...] = ()
    events: tuple[Event, ...] = ()
    lease: Lease | None = None
    retrain: str = ""
    key: str = ""


class ModelMonitor:
    """Everything about one model.

    Attributes:
        versions: those with a reference, by their digits.
        ledger, leases, requests: see the modules of these names.
        attribution: of the last turn that said something; asked: what that of the last turn was made of.
        held: findings that fired and were not told, with the reason.
        hosts: on which host the champion's rows are off.
        silent_s: for how long a node that lives has told nothing; 0 = all rows have come.
    """

    def __init__(self, name: str, spec: Spec) -> None:
        self.name = name
        self.silent_s = 0.0
        self.spec = spec
        self.versions: dict[str, Watching] = {}
        self.board = Board()
        self.ledger = Ledger(model=name)
        self.leases = Leases()
        self.requests = Requests()
        self.attribution = Attribution(verdict="none", action="none", sentence="No signal fires.")
        self.asked: Asked | None = None
        self.held: list[tuple[Finding, str]] = []
        self.hosts = Hosts()
        self._pair = self._paired()
        self._canary: tuple[str, str] | None = None
        self._waiting: list[Finding] = []
        self._absent: dict[str, Mapping[str, Any]] = {}
        self._left_ms: dict[tuple[str, str], int] = {}
        """Since when series that are known have not been live."""

    def watch(self, references: Mapping[str, Reference]) -> None:
        """These versions are served, and have references; what is known of others is forgotten."""
        for version in set(self.versions) - set(references):
            del self.versions[version]
        for version, reference in references.items():
            known = self.versions.get(version)
            if known is None or known.reference.id != reference.id:
                self.versions[version] = Watching(version, reference, self.spec)
                self._resume(version, self._absent.pop(version, None))
        for version, watching in self.versions.items():
            others = sum(len(other.engine.variants) for name, other in self.versions.items() if name != version)
            watching.engine.others = others

    def _resume(self, version: str, saved: Mapping[str, Any] | None) -> None:
        watching = self.versions[version]
        if saved is None or watching.reference.id != saved["reference"]:
            return
        try:
            watching.restore(saved["state"])
        except BaseException:
            # Half of it would be worse than nothing: who saw this error goes on with a version that has seen nothing.
            self.versions[version] = Watching(version, watching.reference, self.spec)
            raise

    def begin(self, now_ms: int) -> bool:
        """Note since when versions are watched; whether one is new."""
        new = [one for one in self.versions.values() if one.since_ms is None]
        for one in new:
            one.since_ms = now_ms
        return bool(new)

    def awaits(self, version: str) -> bool:
        """Whether windows of a version that is not served yet are kept for it."""
        return version in self._absent

    # ---- what comes in between turns ----

    def label(self, version: str, item: Labelled, now_ms: int) -> None:
        """A label has come for a prediction of a version."""
        watching = self.versions.get(version)
        if watching is not None:
            watching.label(item, now_ms)

    def counted(self, host: str, version: str, variant: str, delta: Counts) -> None:
        """Of counts that the next turn takes: which host they came from."""
        self.hosts.take(host, version, variant, self.versions[version].reference.id, delta)

    def answered(self, series: tuple[str, str], node: str, buckets: Sequence[int], roles: Roles, now_ms: int) -> None:
        """Answers of a series (version, variant) on one node since the last call, as of `stages.by_stage`."""
        watching = self.versions.get(series[0])
        if watching is None:
            return
        self._meet(roles)
        if self._compares_latency and series in (roles.champion, roles.canary):
            self._pair.latency.take("canary" if series == roles.canary else "champion", node, buckets[:BUCKETS], now_ms)
        found = watching.answered(series[1], buckets, now_ms)
        if found is not None and self._compares_latency and series == roles.canary:
            found = self._pair.latency.beside(found, now_ms)
        if found is not None:
            self._waiting.append(found)

    @property
    def _compares_latency(self) -> bool:
        return self._canary is not None and self.spec.latency is not None and self.spec.latency.arms_compare

    def compared_latency(self, series: tuple[str, str]) -> ComparedLatency | None:
        """The canary's last window beside the champion; None of any other series."""
        return self._pair.latency.last if self._compares_latency and series == self._canary else None

    # ---- a turn ----

    def turn(self, deltas: Iterable[tuple[str, str, Counts]], roles: Roles, now_ms: int, *, token: int = 0) -> Outcome:
        """Take counts since the last turn; decide.

        Args:
            deltas: (version, variant, counts of that version's plan).
            token: fencing token of the node that leads.
        """
        closed: list[tuple[str, Closed]] = []
        self._meet(roles)
        self._name_champion(*roles.champion)
        for version, variant, delta in deltas:
            watching = self.versions.get(version)
            if watching is None or delta.shape != (watching.reference.plan.size,):
                continue
            if (version, variant) == roles.champion:
                self._beside(watching.reference, delta)
                for other in self.versions.values():
                    if other.engine.abroad:
                        other.engine.beside(delta)
            closed += [(version, one) for one in watching.take(variant, delta, now_ms)]
        for version, watching in self.versions.items():
            closed += [(version, one) for one in watching.engine.tick(now_ms)]
        home = self.versions.get(roles.champion[0])
        if home is not None and any((name, one.result.variant) == roles.champion for name, one in closed):
            self.hosts.judge(home.reference, self.spec.floors, now_ms)
        findings = self._findings(closed, roles, now_ms)
        self._forget(roles.live, now_ms)
        return self._decided(tuple(closed), findings, roles, now_ms, token)

    def _name_champion(self, version: str, variant: str) -> None:
        """Who others are compared with, where the settings say so: in its own version, and in the others."""
        home = self.versions.get(version)
        self.hosts.meet(version, variant, home.reference.id if home is not None else "")
        for name, watching in self.versions.items():
            engine = watching.engine
            engine.champion = variant if name == version else ""
            engine.abroad = False if name == version or home is None else same_bins(home.reference, engine.reference)

    def _forget(self, live: Set[tuple[str, str]] | None, now_ms: int) -> None:
        """Series that have not been live for long are forgotten."""
        if live is None:
            return
        known = {(version, variant) for version, one in self.versions.items() for variant in one.variants}
        self._left_ms = {series: self._left_ms.get(series, now_ms) for series in known - live}
        for version, watching in self.versions.items():
            mine = {variant: at for (name, variant), at in self._left_ms.items() if name == version}
            watching.forget({variant for variant, at in mine.items() if now_ms - at >= LINGERS_MS})

    def _meet(self, roles: Roles) -> None:
        if roles.canary != self._canary:
            self._canary, self._pair = roles.canary, self._paired()

    def _paired(self) -> Pair:
        distance_ms = self.spec.false_alarms.at_most_one_per_ms
        return Pair(
            Latencies(least=self.spec.min_rows, distance_ms=distance_ms),
            Mistakes(floor=self.spec.floors.performance_drop, distance_ms=distance_ms),
        )

    def _beside(self, reference: Reference, delta: Counts) -> None:
        """What the champion gets while the canary's window is open."""
        other = self.versions.get(self._canary[0]) if self._canary is not None else None
        if other is None:
            return
        same = other.reference.plan.features == reference.plan.features
        for name, counts in parts_of(reference, delta):
            if same or name == OUTPUTS:
                self._pair.take(name, counts)

    def _findings(self, closed: Sequence[tuple[str, Closed]], roles: Roles, now_ms: int) -> list[Finding]:
        found, self._waiting = self._waiting, []
        for version, watching in self.versions.items():
            mine = [one for name, one in closed if name == version]
            found += watching.findings(mine, now_ms)
            if self._canary is not None and version == self._canary[0]:
                for one in mine:
                    if one.result.variant == self._canary[1]:
                        self._pair.close(dict(parts_of(watching.reference, one.counts)))
        self._compare_labels(found, roles.champion, now_ms / 1000)
        return found

    def _compare_labels(self, findings: Sequence[Finding], champion: tuple[str, str], now_s: float) -> None:
        """Cohorts of which champion and canary are both judged now: either may have waited for its labels."""
        series = [champion, self._canary or champion]
        ours, theirs = (self.versions.get(version) for version, _ in series)
        if self._canary is None or ours is None or theirs is None:
            return
        told = [one for one in findings if one.signal == "performance_realised" and one.series in series]
        for start_s in sorted({int(one.window_from_s) for one in told}):
            pair = [one.cohorts.judged(start_s, series[at][1]) for at, one in enumerate((ours, theirs))]
            ends = {one.cohorts.spans.end(start_s) for one in (ours, theirs)}
            if pair[0] is not None and pair[1] is not None and len(ends) == 1:
                self._pair.mistakes.close(pair[0], pair[1], (start_s, ends.pop()), now_s)

    def _decided(
        self, closed: tuple[tuple[str, Closed], ...], findings: list[Finding], roles: Roles, now_ms: int, token: int
    ) -> Outcome:
        now_s = now_ms / 1000
        self.board = self.board.take(findings, roles.live)
        attribution = self._attributed(roles, now_s)
        if attribution.verdict != "none" or self.ledger.open is None:
            self.attribution = attribution
        turn = incidents.turn(
            self.ledger, findings, attribution, now_s, route_changed_s=roles.changed_s, live=roles.live
        )
        self.ledger = turn.ledger
        self.held = [*self.held, *turn.held][-HELD:]
        lease = self._leased(attribution, roles, now_s, token)
        asked, key = self._retraining(attribution, roles, now_s)
        return Outcome(closed=closed, findings=tuple(findings), events=turn.events, lease=lease, retrain=asked, key=key)

    def _attributed(self, roles: Roles, now_s: float) -> Attribution:
        champion = self.board.arm(*roles.champion, now_s, self.silent_s)
        canary: Arm | None = None
        compared = None
        if roles.canary is not None:
            canary = self.board.arm(*roles.canary, now_s, self.silent_s)
            compared = Compared(
                inputs=self._pair.inputs.state,
                outputs=self._pair.outputs.state,
                performance=self._compared_labels(canary, roles.canary, now_s),
                latency=self._pair.latency.state(int(now_s * 1000)) if self._compares_latency else "unknown",
            )
        others = self.board.others({roles.champion, roles.canary or roles.champion}, now_s, self.silent_s)
        series = tuple(filter(None, (roles.champion, roles.canary)))
        self.asked = Asked(
            champion=champion,
            canary=canary,
            compared=compared,
            hosts=dict(self.hosts.states),
            others=tuple(others),
            series=series,
        )
        return self.asked.answered()

    def _compared_labels(self, canary: Arm, series: tuple[str, str], now_s: float) -> State:
        """Whether the canary is wrong more often; that it is not says nothing of metrics that were not compared."""
        state = self._pair.mistakes.state(now_s)
        named = set(self.board.keys(series, "performance_realised")) if canary.fires("performance_realised") else set()
        compared = not named or bool(named & TESTED) or canary.fires("concept_drift")
        return state if compared or state not in CLEAN else "unknown"

    def _leased(self, attribution: Attribution, roles: Roles, now_s: float, token: int) -> Lease | None:
        incident = self.ledger.open
        if incident is None and self.leases.held:
            self.leases = leases.give_back(self.leases, self.name, token=token)
        if incident is None or roles.canary is None:
            return None
        level = leases.level_of(attribution.action, self.spec.actions.on_drift_of_canary)
        if leases.goes_on(self.lease(roles, now_s), attribution.action, now_s, self._cooldown_s):
            level = "fallback"
        if level == "observe":
            return None
        ask = Ask(
            model=self.name,
            version=roles.canary[0],
            variant=roles.canary[1],
            role="canary",
            level=level,
            reason=attribution.sentence,
            evidence_id=f"{incident.id}/{incident.told}",
            revision=roles.revision,
        )
        limits = leases.Limits(cooldown_s=self._cooldown_s)
        self.leases, lease, _ = leases.grant(self.leases, ask, now_s, token=token, limits=limits)
        return lease

    @property
    def _cooldown_s(self) -> float:
        return self.spec.actions.cooldown_ms / 1000

    @property
    def pair(self) -> Pair:
        """Champion and canary beside each other."""
        return self._pair

    def lease(self, roles: Roles, now_s: float) -> Lease | None:
        """What the rollout's controller has to obey now."""
        if roles.canary is None:
            return None
        version, variant = roles.canary
        return leases.in_force(
            self.leases.held, now_s, model=self.name, variant=variant, version=version, revision=roles.revision
        )

    def signals(self, now_s: float) -> frozenset[str]:
        """Signals of a policy that speak against the canary now: input_drift, output_drift."""
        found = set()
        if self._canary is not None and self.ledger.open is not None:
            if self._pair.outputs.state == "firing" and self.board.arm(*self._canary, now_s, self.silent_s).fires(
                "prediction_drift"
            ):
                found.add("output_drift")
            if self._pair.inputs.state == "firing":
                found.add("input_drift")
        return frozenset(found)

    def unknown(self, now_s: float) -> frozenset[str]:
        """Signals of a policy on which there is no verdict now: too few rows, no reference, or none for a long time."""
        if self._canary is None:
            return frozenset({"input_drift", "output_drift"})
        canary = self.board.arm(*self._canary, now_s, self.silent_s)
        states = {
            "input_drift": (canary.state("inputs"), self._pair.inputs.state),
            "output_drift": (canary.state("outputs"), self._pair.outputs.state),
        }
        return frozenset(name for name, pair in states.items() if {"unknown", "insufficient"} & set(pair))

    # ---- retraining ----

    def _retraining(self, attribution: Attribution, roles: Roles, now_s: float) -> tuple[str, str]:
        incident, settings = self.ledger.open, self.retrain_settings()
        if incident is None or settings is None:
            return "", ""
        version, variant = roles.champion
        if not attribution.retrain:
            # What was asked for is delivered though the verdict has lapsed, but nobody is to train on broken data.
            broken = any(alarm.signal == "data_quality" for alarm in incident.alarms)
            if broken or self.requests.find(retrain.facts_of(incident, version).key) is None:
                return "", ""
        watching = self.versions.get(version)
        lost = watching.loss(variant) if watching is not None else {}
        reference = watching.reference.id if watching is not None else ""
        facts = retrain.facts_of(incident, version, reference=reference, **lost)
        self.requests, outcome = retrain.offer(self.requests, settings, attribution, facts, now_s)
        return outcome, facts.key

    def retrain_settings(self) -> retrain.Settings | None:
        """How retraining is asked for; None = it is not."""
        asked = self.spec.retrain
        if asked is None:
            return None
        return retrain.Settings(
            preset=asked.preset,
            url=asked.url,
            target=asked.target,
            secret_env=asked.secret_env,
            secret_file=asked.secret_file,
            user=asked.user,
            cooldown_s=asked.cooldown_ms / 1000,
            per_day=asked.per_day,
            dry_run=asked.dry_run,
            approval=asked.approval,
        )

    def delivered(self, key: str, *, ok: bool, note: str, now_s: float) -> None:
        """What came of the delivery of a request for retraining."""
        self.requests = retrain.delivered(self.requests, key, ok=ok, note=note, now_s=now_s)

    # ---- across restarts ----

    def state(self) -> dict[str, Any]:
        """Everything in plain values."""
        return {
            "versions": self._absent
            | {
                version: {"reference": one.reference.id, "state": one.state()} for version, one in self.versions.items()
            },
            "board": msgspec.to_builtins(self.board),
            "ledger": self.ledger.plain(),
            "leases": self.leases.plain(),
            "requests": self.requests.plain(),
            "attribution": msgspec.to_builtins(self.attribution),
            "hosts": self.hosts.plain(),
            "canary": self._canary,
            "pair": {
                "inputs": msgspec.to_builtins(self._pair.inputs),
                "outputs": msgspec.to_builtins(self._pair.outputs),
                "latency": self._pair.latency.plain(),
                "mistakes": self._pair.mistakes.plain(),
            },
        }

    def restarted(self) -> None:
        """Who delivered requests for retraining until now has ended."""
        self.requests = retrain.resumed(self.requests)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. What was taken under another reference is not counted under this one.

        A version that is not served yet, as when a server has just started, goes on once it is.
        """
        for version, one in state["versions"].items():
            if version in self.versions:
                self._resume(version, one)
        absent = {version: one for version, one in state["versions"].items() if version not in self.versions}
        self._absent = dict(list(absent.items())[-ABSENT:])
        self.board = msgspec.convert(state["board"], Board)
        self.ledger = incidents.ledger_of(state["ledger"])
        self.leases = leases.leases_of(state["leases"])
        self.requests = retrain.requests_of(state["requests"])
        self.attribution = msgspec.convert(state["attribution"], Attribution)
        if "hosts" in state:  # a state of before there were any has none
            self.hosts.restore(state["hosts"])
        self._canary = tuple(state["canary"]) if state["canary"] else None
        for name in ("inputs", "outputs"):
            setattr(self._pair, name, msgspec.convert(state["pair"][name], Apart))
        self._pair.latency.restore(state["pair"]["latency"])
        self._pair.mistakes.restore(state["pair"]["mistakes"])

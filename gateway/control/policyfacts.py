"""What the metrics page shows of policies: made at each scrape of the records and the workers' pages. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.control.documents import Kept
from gateway.control.messages import Status
from gateway.control.showing import guardrails, weights
from gateway.counters import CounterPage
from gateway.shadowfields import FIELDS as SHADOW_FIELDS
from gateway.tally import FIELDS, UNCOUNTED, tallies
from router.rollout.status import ACTIVE

Values = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """One policy on this node.

    Attributes:
        revision, acked: of its routing: the newest, and the lowest that a live worker acts on.
        intended, in_force: variant -> share.
        state: of the rollout; "" = there is none.
        step, steps: step 0 = in none.
        guardrails: (name, test, log e, log e that decides); test is harm or no_worse.
        counts, uncounted: variant -> totals as `gateway.tally.FIELDS`: evidence, and requests that are none.
        shadow: variant -> totals as `gateway.shadow.FIELDS`.
        zeroed: workers that give the canary nothing by their own decision.
    """

    name: str
    revision: int
    acked: int
    intended: Mapping[str, float]
    in_force: Mapping[str, float]
    state: str
    step: int
    steps: int
    guardrails: tuple[tuple[str, str, float, float], ...]
    counts: Mapping[str, Values]
    uncounted: Mapping[str, Values]
    shadow: Mapping[str, Values]
    zeroed: int


@dataclass(frozen=True, slots=True)
class TrafficFacts:
    """All policies, and what they rest on.

    Attributes:
        refused_files: of the policy folder.
    """

    policies: tuple[PolicyFacts, ...] = ()
    store_away: bool = False
    refused_files: int = 0


@dataclass(slots=True)
class Counted:
    """Counts of all policies: (policy, variant) -> totals."""

    evidence: dict[tuple[str, str], Values]
    none: dict[tuple[str, str], Values]
    shadow: dict[tuple[str, str], Values]


def counted(pages: Iterable[CounterPage]) -> Counted:
    """Add up what the pages hold, over revisions and strata."""
    found = Counted({}, {}, {})
    for page in pages:
        for (name, _, stratum, variant), block in tallies(page):
            _add(found.none if stratum == UNCOUNTED else found.evidence, (name, variant), block, len(FIELDS))
        for key, block in page.blocks():
            if key[0] == "shadow" and len(key) == 4:
                _add(found.shadow, (key[1], key[3]), block, len(SHADOW_FIELDS))
    return found


def _add(sums: dict[tuple[str, str], Values], key: tuple[str, str], block: memoryview, fields: int) -> None:
    values = np.frombuffer(block, np.int64)[:fields]
    sums[key] = sums[key] + values if key in sums else values.copy()


def facts_of(kept: Kept, counts: Counted, statuses: Iterable[Status], *, zeroed_here: bool) -> PolicyFacts:
    """One policy; variants that its document does not name any more have no series."""
    record, status, names = kept.record, kept.record.status, kept.policy.names
    name = kept.policy.metadata.name
    shares = weights(kept, zeroed_here)
    known = list(statuses)
    rollout = kept.policy.spec.rollout

    def of(sums: Mapping[tuple[str, str], Values], fields: int) -> dict[str, Values]:
        return {variant: sums.get((name, variant), np.zeros(fields, np.int64)) for variant in names}

    return PolicyFacts(
        name=name,
        revision=record.revision,
        acked=min((one.policies.get(name, 0) for one in known), default=0),
        intended=shares["intended"],
        in_force=shares["in_force"],
        state=status.state if status.identity else "",
        step=status.step + 1 if status.phase in ACTIVE else 0,
        steps=len(rollout.steps) if rollout is not None else 0,
        guardrails=tuple(
            (rail["name"], test, rail[part]["log_e"], rail[part]["threshold"])
            for rail in guardrails(kept)
            for test, part in (("harm", "harm"), ("no_worse", "safety"))
            if rail.get(part)
        ),
        counts=of(counts.evidence, len(FIELDS)),
        uncounted=of(counts.none, len(FIELDS)),
        shadow=of(counts.shadow, len(SHADOW_FIELDS)),
        zeroed=sum(
            1 for one in known for policy, identity, _ in one.zeroed if (policy, identity) == (name, status.identity)
        ),
    )

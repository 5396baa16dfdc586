"""Whether an experiment can be trusted: what nodes have counted of it, unit by unit where they note them. Pure.

Reports of nodes are totals, so one that comes twice adds nothing (`gateway.control.intake`). First sights of units
feed the test of the sample ratio; units, not requests, also carry the comparison of error rates.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.control.intake import Intake
from gateway.control.record import NodeReport
from gateway.control.study import Study, shares_of
from gateway.tally import FIELDS, NOTE_BAD, REVISION_MASK, UNCOUNTED
from router.evidence.sequences import Moments
from router.evidence.srm import SampleRatio
from router.hashing import MAX_DOUBLINGS, in_sample

MOST_SEEN: Final = 20_000
"""Units remembered one by one; above it every other one is dropped."""

Seen = dict[tuple[str, int], dict[int, list[int]]]


class Health:
    """Counts of one experiment.

    Attributes:
        counts: "epoch|rule|variant" -> `gateway.tally.FIELDS` of what was randomised.
        apart: variant -> the same of what was not: without a unit, sent by a rule, overridden.
        seen: group -> unit -> [variant, requests, bad ones].
        ratio: sequential test of units against the shares.
        doublings: a share of 1/2^doublings of all units is remembered.
        missed: notes that were overwritten before they were read.
        stale: events of revisions that nobody remembers.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        given = state or {}
        self.counts: dict[str, list[int]] = dict(given.get("counts", {}))
        self.apart: dict[str, list[int]] = dict(given.get("apart", {}))
        self.doublings = int(given.get("doublings", 0))
        self.missed = int(given.get("missed", 0))
        self.stale = int(given.get("stale", 0))
        self.seen: Seen = {
            (epoch, stratum): {unit: list(counts) for unit, *counts in units}
            for epoch, stratum, units in given.get("seen", ())
        }
        self.ratio = SampleRatio.from_state(given["ratio"]) if "ratio" in given else SampleRatio()
        self._intake = Intake(given.get("intake"))
        self._workers = {worker for node in given.get("intake", {}).values() for worker in node["cursors"]}

    def take(self, report: NodeReport, study: Study) -> bool:
        """Take in a node's report; False = it said nothing new."""
        delta = self._intake.take(report)
        # What a worker noted before this experiment began is not missed.
        before = sum(stretch.first for stretch in report.notes if stretch.worker not in self._workers)
        self.missed += delta.missed - before
        self._workers.update(stretch.worker for stretch in report.notes)
        for (revision, rule, variant), counts in delta.counts.items():
            epoch = study.epoch_of(revision)
            if epoch is None:
                self.stale += counts[0]
            elif rule == UNCOUNTED:
                _add(self.apart, variant, counts)
            else:
                _add(self.counts, f"{epoch.key}|{rule}|{variant}", counts)
        revisions = {int(text) & REVISION_MASK: int(text) for text in study.revisions}
        for flags, masked, stratum, variant_index, unit in delta.notes:
            epoch = study.epoch_of(revisions.get(masked, -1)) if flags else None
            if epoch is not None and stratum < len(epoch.lanes):
                self._see((epoch.key, stratum), unit, variant_index, bool(flags & NOTE_BAD), study)
        return bool(delta.counts or delta.notes)

    def _see(self, group: tuple[str, int], unit: int, variant: int, bad: bool, study: Study) -> None:
        if not in_sample(unit, self.doublings):
            return
        units = self.seen.setdefault(group, {})
        known = units.get(unit)
        if known is None:
            units[unit] = [variant, 1, int(bad)]
            shares = shares_of(study, group)
            if variant < len(shares) and shares[variant]:
                self.ratio.add(shares, [int(at == variant) for at in range(len(shares))])
            self._thin()
            return
        known[1] += 1
        known[2] += bad

    def _thin(self) -> None:
        while sum(map(len, self.seen.values())) > MOST_SEEN and self.doublings < MAX_DOUBLINGS:
            self.doublings += 1
            for group, units in self.seen.items():
                self.seen[group] = {u: seen for u, seen in units.items() if in_sample(u, self.doublings)}

    # ---- reading ----

    def requests(self) -> dict[str, list[int]]:
        """Variant -> counts of what was randomised."""
        found: dict[str, list[int]] = {}
        for key, counts in self.counts.items():
            _add(found, key.rpartition("|")[2], counts)
        return found

    def units(self) -> dict[tuple[str, int], dict[int, int]]:
        """Group -> variant -> distinct units, scaled up where some were dropped."""
        found: dict[tuple[str, int], dict[int, int]] = {}
        for group, units in self.seen.items():
            mine = found.setdefault(group, {})
            for variant, *_ in units.values():
                mine[variant] = mine.get(variant, 0) + (1 << self.doublings)
        return found

    def bad_rates(self) -> dict[tuple[str, int], dict[int, Moments]]:
        """Group -> variant -> moments of the share of bad requests per unit."""
        found: dict[tuple[str, int], dict[int, Moments]] = {}
        for group, units in self.seen.items():
            rates: dict[int, list[float]] = {}
            for variant, requests, bad in units.values():
                rates.setdefault(variant, []).append(bad / requests)
            found[group] = {
                variant: Moments.of_sums(len(values), sum(values), sum(value * value for value in values))
                for variant, values in rates.items()
            }
        return found

    def of_several(self) -> int:
        """Units of the sample that met more than one variant, in one epoch or in several."""
        met: dict[int, int] = {}
        several = set()
        for units in self.seen.values():
            for unit, (variant, *_) in units.items():
                if met.setdefault(unit, variant) != variant:
                    several.add(unit)
        return len(several)

    def state(self) -> dict[str, Any]:
        """Everything, as msgpack holds it exactly."""
        return {
            "counts": self.counts,
            "apart": self.apart,
            "doublings": self.doublings,
            "missed": self.missed,
            "stale": self.stale,
            "seen": [
                (epoch, stratum, [(unit, *counts) for unit, counts in units.items()])
                for (epoch, stratum), units in self.seen.items()
            ],
            "ratio": self.ratio.state(),
            "intake": self._intake.state(),
        }


def _add(sums: dict[str, list[int]], key: str, counts: Any) -> None:
    known = sums.get(key, [0] * len(FIELDS))
    sums[key] = [a + b for a, b in zip(known, counts, strict=True)]

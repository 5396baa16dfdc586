"""Counts in, verdicts on closed windows out: the monitor of one model version without its surroundings. Pure.

    deltas of a variant -> its open window -> closed: against the reference -> families of keys -> states

One engine serves all variants that run the version. The same counts at the same times give the same verdicts, here,
after a restart, and in `monitor replay`.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from gateway.monitor.cbpe import Performance, estimate, outside_reference, scores_of
from gateway.monitor.comparing import input_keys, prediction_keys, quality_keys
from gateway.monitor.counting import Counts
from gateway.monitor.families import SHARES, FamilyState, FamilyVerdict, Key, window_alpha
from gateway.monitor.performance import Verdict, Watch
from gateway.monitor.plan import ROWS, SKIPPED
from gateway.monitor.reference import Reference
from gateway.monitor.results import FamilyResult, Tested, WindowResult
from gateway.monitor.settings import Spec
from gateway.monitor.significance import largest_window
from gateway.monitor.windows import DAY_MS, Rule, Span, Windows, dense, sparse

HISTORY: Final = 20
"""Windows of a series whose results are kept for `explain`."""
MAX_SERIES: Final = 64
"""Variants of one version; deltas of further ones are not judged."""
MAX_PREVIOUS: Final = 500
"""Closed windows that a reference of the time before may be made of."""
FAMILIES: Final = ("input", "prediction", "quality")


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """A closed window: what it says, the counts it says it of, and what these were compared with.

    Attributes:
        reference: the rows that they were compared with.
        before: each family, and what is estimated, as they stood before the window (`plain`).
        sharing: series that shared the allowed false alarms.
    """

    result: WindowResult
    counts: Counts
    reference: Reference
    before: Mapping[str, Any]
    sharing: int

    @property
    def compared(self) -> Counts:
        """Counts of the rows that they were compared with."""
        return self.reference.counts


def rule_of(reference: Reference, spec: Spec) -> Rule:
    """When windows close under these settings: never with more rows than a tenth of the reference's.

    A reference that lives in the same window (champion) or moves along (previous) sets no bound beforehand.
    """
    mode = spec.reference.mode
    most = 0 if mode in ("champion", "previous") else max(1, largest_window(reference.rows))
    return Rule(spec.window.rows, spec.window.time_ms, spec.min_rows, most)


class _Series:
    """One variant: its window, its families, what was said last."""

    def __init__(self, windows: Windows, spec: Spec) -> None:
        self.windows = windows
        self.families = {name: FamilyState() for name in FAMILIES}
        self.estimated = Watch("estimated", spec.floors.performance_drop)
        self.history: deque[WindowResult] = deque(maxlen=HISTORY)
        self.count = 0
        self.beside: Counts = np.zeros_like(windows.counts)
        """What the champion was asked since this window began."""
        self.previous: deque[tuple[int, Counts]] = deque(maxlen=MAX_PREVIOUS)
        """When windows before were opened, and their counts."""

    def before(self) -> dict[str, Any]:
        """What the next window is judged after."""
        return {name: family.plain() for name, family in self.families.items()} | {"estimated": self.estimated.plain()}

    def plain(self, history: bool) -> dict[str, Any]:
        return {
            "windows": self.windows.plain(),
            "families": {name: family.plain() for name, family in self.families.items()},
            "estimated": self.estimated.plain(),
            "history": msgspec.to_builtins(list(self.history)) if history else [],
            "count": self.count,
            "beside": sparse(self.beside),
            "previous": [[opened_ms, sparse(counts)] for opened_ms, counts in self.previous],
        }

    def restore(self, plain: Mapping[str, Any]) -> None:
        size = len(self.beside)
        self.windows.restore(plain["windows"])
        self.families = {name: FamilyState.from_plain(plain["families"][name]) for name in FAMILIES}
        self.estimated = Watch.from_plain(plain["estimated"], self.estimated.drop)
        self.history.extend(msgspec.convert(plain["history"], list[WindowResult]))
        self.count = plain["count"]
        self.beside = dense(plain["beside"], size)
        self.previous.extend((opened_ms, dense(counts, size)) for opened_ms, counts in plain["previous"])


class Engine:
    """The monitor of one version.

    Args:
        reference: its plan is that of every delta.
        champion: the variant that others are compared with where the settings say `reference: champion`.
        others: series of the same model under other engines, which share the allowed false alarms.

    Attributes:
        champion, others: may be changed at any time.
        abroad: the champion is of another version; `beside` tells what it is asked. None = its counts are made with
            other edges, so that nothing can be compared with them.
        rule: when windows close.
    """

    def __init__(self, reference: Reference, spec: Spec, *, champion: str = "", others: int = 0) -> None:
        self.reference = reference
        self.spec = spec
        self.champion = champion
        self.others = others
        self.abroad: bool | None = False
        self.rule = rule_of(reference, spec)
        self._series: dict[str, _Series] = {}

    def take(self, variant: str, delta: Counts, now_ms: int) -> list[Closed]:
        """Add counts of one variant; the windows that closed with them.

        Args:
            delta: [plan.size] since the last call; kept by nobody.
            now_ms: never before that of an earlier call.
        """
        series = self._at(variant, now_ms)
        if series is None:
            return []
        closed = [self._judged(variant, series, span) for span in series.windows.take(delta, now_ms)]
        if variant == self.champion:
            self.beside(delta)
        return closed

    def beside(self, delta: Counts) -> None:
        """What the champion was asked, here or abroad, while the windows of the others are open. Shape: [plan.size]."""
        for name, other in self._series.items():
            if name != self.champion:
                other.beside += delta

    def tick(self, now_ms: int) -> list[Closed]:
        """Time has come to `now_ms`: windows that closed by it."""
        return [
            self._judged(variant, series, span)
            for variant, series in self._series.items()
            for span in series.windows.tick(now_ms)
        ]

    def blind(self, now_ms: int) -> list[str]:
        """Variants without a verdict for two of the longest windows."""
        return [variant for variant, series in self._series.items() if series.windows.blind(now_ms)]

    def forget(self, variant: str) -> None:
        """A variant is gone: it has no window any more, and no share of the allowed false alarms."""
        self._series.pop(variant, None)

    @property
    def variants(self) -> tuple[str, ...]:
        """Those that counts came from."""
        return tuple(self._series)

    def history(self, variant: str) -> list[WindowResult]:
        """The last windows, the oldest first."""
        series = self._series.get(variant)
        return [] if series is None else list(series.history)

    def open_rows(self, variant: str) -> int:
        """Rows in the window that is open."""
        series = self._series.get(variant)
        return 0 if series is None else int(series.windows.counts[ROWS])

    def due_ms(self, variant: str) -> int | None:
        """When the time of the window that is open is over; None = it has none."""
        series = self._series.get(variant)
        return None if series is None or self.rule.time_ms is None else series.windows.opened_ms + self.rule.time_ms

    @property
    def sharing(self) -> int:
        """Series that share the allowed false alarms of the model; at least 1."""
        return max(1, len(self._series) + self.others)

    def alphas(self, duration_ms: int) -> dict[str, float]:
        """The level of each family in a window that lasted so long."""
        distance_ms = self.spec.false_alarms.at_most_one_per_ms
        return {name: alpha_of(name, self.sharing, duration_ms, distance_ms) for name in FAMILIES}

    def _at(self, variant: str, now_ms: int) -> _Series | None:
        series = self._series.get(variant)
        if series is None and len(self._series) < MAX_SERIES:
            series = _Series(Windows(self.rule, self.reference.plan.size, now_ms), self.spec)
            self._series[variant] = series
        return series

    # ---- one closed window ----

    def _judged(self, variant: str, series: _Series, span: Span) -> Closed:
        reference = self._reference(variant, series, span)
        foreign = self.spec.reference.mode == "champion" and self.abroad is None
        lacks = "other_edges" if foreign else "no_reference"
        reason = "few_rows" if span.rows < self.spec.min_rows else lacks if reference is None else ""
        reference = reference or self.reference
        before, sharing = series.before(), self.sharing
        result = WindowResult(
            variant,
            series.count,
            span.opened_ms,
            span.closed_ms,
            span.rows,
            int(span.counts[SKIPPED]),
            reason,
            reference.rows,
            reference.origin,
        )
        if reason:
            skipped = {name: family.skip() for name, family in series.families.items()}
            result = msgspec.structs.replace(result, families=_families(skipped, {}))
        else:
            result = self._compared(result, series, span, reference)
            series.windows.judged(span)
        series.count += 1
        series.history.append(result)
        series.beside = np.zeros_like(series.beside)
        if self.spec.reference.mode == "previous":
            series.previous.append((span.opened_ms, span.counts))
            since_ms = span.closed_ms - (self.spec.reference.previous_ms or 0)
            while series.previous and series.previous[0][0] < since_ms:
                series.previous.popleft()
        return Closed(result, span.counts, reference, before, sharing)

    def _reference(self, variant: str, series: _Series, span: Span) -> Reference | None:
        """What a window is compared with; None = there is nothing yet."""
        mode = self.spec.reference.mode
        if mode == "champion" and (self.champion or self.abroad is not False) and variant != self.champion:
            found = self.reference.with_counts(series.beside, "champion")
            return found if found.rows >= self.spec.min_rows else None
        if mode == "previous":
            if not series.previous:
                return None
            found = self.reference.with_counts(np.sum([counts for _, counts in series.previous], axis=0), "previous")
            # A reference that is hardly larger than the window would carry its own chance into several windows.
            return found if largest_window(found.rows) >= span.rows else None
        return self.reference

    def _compared(self, result: WindowResult, series: _Series, span: Span, reference: Reference) -> WindowResult:
        floors = self.spec.floors
        keys: dict[str, list[Key]] = {}
        keys["input"], features = input_keys(reference, span.counts, floors.psi)
        keys["prediction"], score = prediction_keys(reference, span.counts, floors.psi)
        keys["quality"] = quality_keys(reference, span.counts, floors.quality)
        alphas = self.alphas(span.duration_ms)
        verdicts = {name: series.families[name].close(keys[name], alphas[name]) for name in FAMILIES}
        estimated, performance = self._performance(series, span.counts, reference)
        return msgspec.structs.replace(
            result,
            families=_families(verdicts, keys),
            features=tuple(features),
            score=score,
            estimated=estimated,
            performance=performance,
        )

    def _performance(
        self, series: _Series, counts: Counts, reference: Reference
    ) -> tuple[Performance | None, Verdict | None]:
        if not reference.plan.score_values:
            return None, None
        found = estimated(reference, counts, self.spec.min_rows)
        return found, series.estimated.close(found, estimated(reference, reference.counts, self.spec.min_rows))

    # ---- across restarts ----

    def state(self, *, history: bool = True) -> dict[str, Any]:
        """Everything that was seen, in plain values (JSON, msgpack).

        Args:
            history: with the results of the last windows. They decide nothing and are most of it (30 features: 330 kB
                a series, against some kB), so what is kept between two windows may do without.
        """
        return {
            "reference": self.reference.id,
            "champion": self.champion,
            "abroad": self.abroad,
            "others": self.others,
            "series": {variant: series.plain(history) for variant, series in self._series.items()},
        }

    @classmethod
    def restored(cls, reference: Reference, spec: Spec, state: Mapping[str, Any]) -> "Engine":
        """An engine that goes on where `state` was taken, bit for bit.

        Raises:
            ValueError: a state under another reference: its counts mean something else.
        """
        if state["reference"] != reference.id:
            raise ValueError(f"expected a state under reference {reference.id}, got {state['reference']}")
        engine = cls(reference, spec, champion=state["champion"], others=state["others"])
        engine.abroad = state.get("abroad", False)
        for variant, plain in state["series"].items():
            series = engine._at(variant, 0)
            assert series is not None, "as many series as there were"
            series.restore(plain)
        return engine


def alpha_of(family: str, sharing: int, duration_ms: int, distance_ms: int) -> float:
    """The level of a family in a window of a series. Args: as `Closed.sharing`, and the settings have them."""
    return window_alpha(SHARES[family] / sharing, duration_ms / DAY_MS, distance_ms / DAY_MS)


def estimated(reference: Reference, counts: Counts, min_rows: int) -> Performance:
    """Performance without labels of a vector of the reference's plan, which has a probability."""
    score = reference.plan.score
    assert score is not None, "a plan with a score"
    return estimate(
        *scores_of(reference.plan, counts),
        calibration=score.calibration,
        outside=outside_reference(reference.plan, counts),
        min_rows=min_rows,
    )


def _families(verdicts: Mapping[str, FamilyVerdict], keys: Mapping[str, list[Key]]) -> tuple[FamilyResult, ...]:
    return tuple(
        FamilyResult(
            name,
            verdict.state,
            verdict.fired,
            verdict.p_value,
            verdict.alpha,
            verdict.selected,
            verdict.named,
            tuple(Tested(key.name, key.p_value, key.effect, key.floor) for key in keys.get(name, ())),
        )
        for name, verdict in verdicts.items()
    )

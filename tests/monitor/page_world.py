"""Monitors in chosen states, and their page read strictly."""

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from gateway.control.monitorbins import drawn
from gateway.control.monitorheld import Held
from gateway.control.monitorpage import page_of
from gateway.control.monitorviews import view
from gateway.monitor.book import ModelMonitor, Roles
from gateway.monitor.counting import empty
from gateway.monitor.explaining import explained
from gateway.monitor.plan import ROWS, SCORE_BINS, CountPlan, FeaturePlan, ScorePlan
from gateway.monitor.reference import Binding, Reference, identified
from gateway.monitor.settings import Spec, Window

NOW_MS = 1_795_546_000_000
NASTY = "<script>alert('x')</script>&\"b"
ROWS_OF = 2_000


class Strict(HTMLParser):
    """Every element is closed in order, none runs or fetches anything, and no attribute holds what is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "img", "iframe", "object", "link", "embed", "a")
        for name, value in attrs:
            assert not name.startswith("on")
            assert name not in ("src", "href", "style")
            if name not in ("aria-label", "class"):
                assert not re.search(r"\b(nan|inf|none)\b", value or "", re.IGNORECASE), (tag, name, value)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def plan_of(features: int, name: str, groups: tuple[str, ...] = ()) -> CountPlan:
    columns = tuple(
        FeaturePlan(f"{name}{at}", "categorical", 0, at, values=(f"{name}a", f"{name}b"))
        if at % 3 == 2
        else FeaturePlan(f"{name}{at}", "numeric", 0, at, edges=tuple(float(edge) for edge in range(6)))
        for at in range(features)
    )
    return CountPlan("", columns, ScorePlan(0, -1, "probability", calibration=((0.0, 0.0), (1.0, 1.0))), groups)


def counts(plan: CountPlan, rows: int, *, shift: float = 0.0, quality: int = 0) -> Any:
    """Rows spread over the bins, more of them in the first bin the larger `shift` is."""
    vector = empty(plan)
    vector[ROWS] = rows
    for index, feature in enumerate(plan.features):
        at, spread = plan.feature_at(index), np.full(feature.bins, (1.0 - shift) / feature.bins)
        spread[0] += shift
        vector[at : at + feature.bins] = np.round(spread * (rows - quality)).astype(int)
        vector[at + feature.bins] = quality
    cells = np.zeros((plan.group_count, 2, SCORE_BINS), np.int64)
    cells[-1, 0, 100], cells[-1, 1, 900] = rows - rows // 2, rows // 2
    sums = (cells * np.array([0.1, 0.9])[None, :, None] * 2**32).astype(np.int64)
    begin = plan.score_at
    vector[begin : begin + plan.score_values] = cells.ravel()
    vector[begin + plan.score_values : begin + 2 * plan.score_values] = sums.ravel()
    return vector


def held_of(
    plan: CountPlan, windows: list[tuple[int, float]], spec: Spec | None = None, rows: int = 20_000, quality: int = 0
) -> Held:
    spec = spec or Spec(window=Window(rows=ROWS_OF))
    plain = Reference(plan, counts(plan, rows), Binding("0" * 64, (), ()))
    reference = identified(plain)
    monitor = ModelMonitor("loans", spec)
    monitor.watch({"1": reference})
    held = Held(spec, monitor, roles=Roles(champion=("1", "-"), live=frozenset({("1", "-")})))
    for at, (count, shift) in enumerate(windows):
        delta = counts(reference.plan, count, shift=shift, quality=quality)
        monitor.turn([("1", "-", delta)], held.roles, NOW_MS + 60_000 * at)
    return held


def page(held: Held, **changes: Any) -> tuple[str, dict[str, Any]]:
    """Looked at while the last window still says something."""
    last_s = max((one.window_to_s for one in held.monitor.board.latest), default=NOW_MS / 1000)
    found = view("loans", held, leads=True, away="", now_ms=int(last_s * 1000) + 1_000) | changes
    about = {version: explained(one.reference, one.spec) for version, one in held.monitor.versions.items()}
    text = page_of(found, about, drawn(held, found), NOW_MS / 1000)
    parser = Strict()
    parser.feed(text)
    assert parser.open == []
    return text, found


def text_of(page: str) -> str:
    parser = Strict()
    parser.feed(page)
    return parser.text

"""The plots of a monitor's page, as inline SVG that takes its colours from the page. Pure.

Each is drawn for half a page, so that its letters can be read on a telephone, too. A value that is not known, or is no
number, is not drawn: no zero stands for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

from gateway.control.experimentplots import ticks

WIDTH: Final = 440
_LEFT: Final = 46
_RIGHT: Final = 10
_HEIGHT: Final = 150
_BOTTOM: Final = 122
_TOP: Final = 10
TIMES: Final = 3.0
"""Standard errors of a band."""
Moment = Callable[[float], str]


class Point(NamedTuple):
    """One value over time.

    Attributes:
        at_s: Unix time.
        value: None = not known; `note` says why.
        error: one standard error; None = not known.
        sure: False = holds for a part of the rows only.
    """

    at_s: float
    value: float | None
    error: float | None = None
    note: str = ""
    sure: bool = True


def finite(value: Any) -> float | None:
    """A number that can be drawn; None = it cannot."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _svg(label: str, parts: Sequence[str], height: float = _HEIGHT) -> str:
    name = escape(label, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


class _Scale:
    """From values to pixels; values outside stand at the edge."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = (low, high) if high > low else (low - 0.5, high + 0.5)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self._start + share * (self._end - self._start), 1)


def _grid(y: _Scale, form: str = "{:.3g}") -> list[str]:
    parts = []
    for value in ticks(y.low, y.high, 4):
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        text = form.format(0.0 if abs(value) < 1e-12 else value)
        parts.append(f'<text x="{_LEFT - 5}" y="{y(value) + 4}" text-anchor="end">{text}</text>')
    return parts


def _times(first_s: float, last_s: float, at: Moment) -> list[str]:
    if first_s == last_s:
        return [f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2:g}" y="{_HEIGHT - 8}" text-anchor="middle">'
                f"{escape(at(first_s))}</text>"]  # fmt: skip
    return [
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(at(first_s))}</text>',
        f'<text x="{WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{escape(at(last_s))}</text>',
    ]


def drift(points: Sequence[Point], floor: float, at: Moment, what: str) -> str:
    """PSI of the windows, oldest first, with the floor; "" while there is none.

    Windows stand side by side: they last as long as traffic makes them.
    """
    known = [value for one in points if (value := finite(one.value)) is not None]
    if not known:
        return ""
    y = _Scale(0.0, max(*known, floor) * 1.12, _BOTTOM, _TOP)
    x = _Scale(0.0, len(points) - 1.0, _LEFT + 10, WIDTH - _RIGHT - 10)
    parts = _grid(y)
    parts.append(f'<line class="floor" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(floor)}" y2="{y(floor)}"/>')
    parts.append(f'<text class="floortext" x="{_LEFT + 3}" y="{y(floor) - 4}">floor {floor:g}</text>')
    run: list[str] = []
    for place, one in enumerate(points):
        value = finite(one.value)
        if value is None:
            parts += _line(run)
            run = []
            parts.append(
                f'<path class="none" d="M{x(place) - 3} {_BOTTOM - 3}l6 6m0 -6l-6 6"><title>'
                f"{escape(at(one.at_s))}: {escape(one.note)}</title></path>"
            )
            continue
        run.append(f"{x(place)},{y(value)}")
        over = " over" if value >= floor else ""
        parts.append(
            f'<circle class="dot{over}" cx="{x(place)}" cy="{y(value)}" r="3.5"><title>{escape(at(one.at_s))}: '
            f"{value:.4g}{escape(one.note)}</title></circle>"
        )
    parts += _line(run)
    parts += _times(points[0].at_s, points[-1].at_s, at)
    return _svg(what, parts)


def _line(run: Sequence[str]) -> list[str]:
    return [f'<polyline class="run" points="{" ".join(run)}"/>'] if len(run) > 1 else []


def bars(found: Sequence[Mapping[str, Any]], what: str, *, named: bool = True) -> str:
    """Shares of the reference beside those of the last window, per bin, with names below; "" without any share."""
    shares = [value for one in found for name in ("reference", "window") if (value := finite(one[name])) is not None]
    if not shares:
        return ""
    y = _Scale(0.0, max(*shares, 0.01) * 1.05, _BOTTOM, _TOP)
    step = (WIDTH - _LEFT - _RIGHT) / len(found)
    wide = max(1.0, min(24.0, step * 0.42))
    parts = _grid(y, "{:.0%}" if y.high > 0.05 else "{:.1%}")
    for place, one in enumerate(found):
        middle = _LEFT + step * (place + 0.5)
        for name, left in (("reference", middle - wide), ("window", middle)):
            share = finite(one[name])
            if share:
                parts.append(
                    f'<rect class="{name}" x="{left:.1f}" y="{y(share)}" width="{wide:.1f}" '
                    f'height="{max(0.5, _BOTTOM - y(share)):.1f}"><title>{escape(str(one["name"]))}: {name} '
                    f"{share:.2%}</title></rect>"
                )
    parts.append(f'<line class="base" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>')
    if named:
        parts += _under([str(one["name"]) for one in found], step)
    return _svg(what, parts)


def _under(names: Sequence[str], step: float) -> list[str]:
    """Names of bars: as many as there is room for."""
    most = max(len(name) for name in names)
    room = max(1, int(step / 6.2))
    every = max(1, -(-min(most, 12) // room)) if most > room else 1
    parts = []
    for place in range(0, len(names), every):
        letters = max(1, int(step * every / 6.2) - 1)
        name = names[place] if len(names[place]) <= letters else names[place][: max(1, letters - 1)] + "…"
        middle = _LEFT + step * (place + 0.5)
        anchor, left = ("start", _LEFT) if place == 0 and every > 1 else ("middle", middle)
        parts.append(f'<text x="{left:.1f}" y="{_BOTTOM + 15}" text-anchor="{anchor}">{escape(name)}</text>')
    return parts


def ranges(found: Sequence[Mapping[str, Any]], what: str, threshold: float | None) -> str:
    """The same for bins of a number, over an axis with the ends of the bins; `threshold` is a share of that axis."""
    picture = bars(found, what, named=False)
    if not picture:
        return ""
    edges = [str(one["name"]).partition(" to ")[0] for one in found] + [str(found[-1]["name"]).rpartition(" to ")[2]]
    step = (WIDTH - _LEFT - _RIGHT) / len(found)
    longest = max(len(edge) for edge in edges)
    every = max(1, math.ceil(1.5 * (longest + 1) * 6.2 / step))
    parts = []
    for place in range(0, len(edges), every):
        anchor = "start" if place == 0 else "end" if place == len(edges) - 1 else "middle"
        left = _LEFT + step * place
        parts.append(f'<text x="{left:.1f}" y="{_BOTTOM + 15}" text-anchor="{anchor}">{escape(edges[place])}</text>')
    if threshold is not None:
        left = _LEFT + threshold * (WIDTH - _LEFT - _RIGHT)
        parts.append(f'<line class="zero" x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP}" y2="{_BOTTOM}"/>')
    return picture.replace("</svg>", "".join(parts) + "</svg>")


def performance(
    estimated: Sequence[Point],
    realised: Sequence[Point],
    reference: tuple[float, float] | None,
    limit: float | None,
    at: Moment,
    what: str,
) -> str:
    """Estimated beside realised, each with its band of 3 standard errors; "" while nothing was judged.

    Args:
        reference: value and standard error of the reference's rows: a band over the whole plot.
        limit: a window below it counts towards an alarm.
    """
    points = [*estimated, *realised]
    if not points:
        return ""
    reach = [edge for one in points for edge in _edges(one)]
    if reference is not None:
        reach += [reference[0]]
    if limit is not None:
        reach.append(limit)
    if not reach:
        reach = [0.0, 1.0]
    room = max(0.005, 0.08 * (max(reach) - min(reach)))
    y = _Scale(max(0.0, min(reach) - room), min(1.0, max(reach) + room), _BOTTOM - 14, _TOP)
    first_s, last_s = min(one.at_s for one in points), max(one.at_s for one in points)
    x = _Scale(first_s, last_s, _LEFT + 12, WIDTH - _RIGHT - 12)
    parts = _grid(y, "{:.4g}")
    parts += _reference(y, reference, limit)
    for kind, row in (("estimated", estimated), ("realised", realised)):
        for one in row:
            parts += _judged(kind, one, x, y, at)
    parts += _times(first_s, last_s, at)
    return _svg(what, parts)


def _edges(one: Point) -> list[float]:
    value, error = finite(one.value), finite(one.error) or 0.0
    return [] if value is None else [max(0.0, value - TIMES * error), min(1.0, value + TIMES * error)]


def _reference(y: _Scale, reference: tuple[float, float] | None, limit: float | None) -> list[str]:
    parts = []
    if reference is not None:
        value, error = reference
        top, bottom = y(value + TIMES * error), y(value - TIMES * error)
        parts.append(
            f'<rect class="band" x="{_LEFT}" y="{top}" width="{WIDTH - _LEFT - _RIGHT}" '
            f'height="{max(1.0, bottom - top):.1f}"><title>reference {value:.4f}</title></rect>'
        )
    if limit is not None:
        parts.append(f'<line class="floor" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(limit)}" y2="{y(limit)}"/>')
    return parts


def _judged(kind: str, one: Point, x: _Scale, y: _Scale, at: Moment) -> list[str]:
    """A value with its band; where there is none, a cross on the floor that says why."""
    value = finite(one.value)
    left = x(one.at_s) + (3 if kind == "realised" else -3)
    if value is None:
        title = f"<title>{escape(at(one.at_s))}, {kind}: {escape(one.note)}</title>"
        floor = _BOTTOM - (2 if kind == "realised" else 8)
        return [f'<path class="none" d="M{left - 3:.1f} {floor - 3}l6 6m0 -6l-6 6">{title}</path>']
    low, high = _edges(one)
    error = finite(one.error)
    spread = "" if error is None else f" ± {TIMES * error:.4f}"
    title = f"<title>{escape(at(one.at_s))}, {kind}: {value:.4f}{spread} {escape(one.note)}</title>"
    shape = (
        f'<circle cx="{left:.1f}" cy="{y(value)}" r="3.5">{title}</circle>'
        if kind == "estimated"
        else f'<rect x="{left - 3.5:.1f}" y="{y(value) - 3.5:.1f}" width="7" height="7">{title}</rect>'
    )
    part = "" if one.sure else " part"
    return [f'<g class="{kind}{part}"><path class="reach" d="M{left:.1f} {y(low)}V{y(high)}"/>{shape}</g>']


def levels(rows: Sequence[tuple[str, float | None, str]], line: float, most: float, what: str) -> str:
    """Bars that lie down: a name, a value, what is written beside it; `line` is where it begins to matter."""
    left, right, step = 120, WIDTH - 90, 26
    x = _Scale(0.0, most, left, right)
    bottom = _TOP + step * len(rows)
    parts = [f'<line class="floor" x1="{x(line)}" x2="{x(line)}" y1="{_TOP - 4}" y2="{bottom}"/>']
    for place, (name, value, text) in enumerate(rows):
        top = _TOP + step * place
        shown = name if len(name) <= 17 else name[:16] + "…"
        parts.append(f'<text class="name" x="0" y="{top + 14}">{escape(shown)}</text>')
        found = finite(value)
        if found is not None:
            wide = max(1.0, x(found) - left)
            parts.append(f'<rect class="window" x="{left}" y="{top + 3}" width="{wide:.1f}" height="14"/>')
        parts.append(f'<text x="{x(found or 0.0) + 6:.1f}" y="{top + 14}">{escape(text)}</text>')
    return _svg(what, parts, bottom + 6)

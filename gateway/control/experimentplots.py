"""The plots of an experiment's page, as inline SVG that takes its colours from the page. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

WIDTH: Final = 900
_LEFT: Final = 150
_RIGHT: Final = 30
_ROW: Final = 34
_WORDS: Final = {60: "1 min", 600: "10 min", 3_600: "1 h", 21_600: "6 h", 86_400: "1 d", 604_800: "7 d"}


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    name = escape(label, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers within low and high, in steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0.0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / about))
    step *= next((factor for factor in (1.0, 2.0, 5.0) if span / (step * factor) <= about), 10.0)
    first = math.ceil(low / step - 1e-9)
    return [at * step for at in range(first, math.floor(high / step + 1e-9) + 1)]


class _Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        if not high > low:
            low, high = low - 1.0, high + 1.0
        room = 0.06 * (high - low)
        self.low, self.high = low - room, high + room
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self._start + share * (self._end - self._start), 1)


def forest(comparisons: Sequence[Mapping[str, Any]], mde: float | None) -> str:
    """Effects with their intervals, one line for each variant; "" while none is known."""
    known = [one for one in comparisons if one["absolute"]["low"] is not None]
    if not known:
        return ""
    reach = [0.0, *((mde, -mde) if mde is not None else ())]
    limits = [value for one in known for value in (one["absolute"]["low"], one["absolute"]["high"])]
    x = _Scale(min(*limits, *reach), max(*limits, *reach), _LEFT, WIDTH - _RIGHT)
    bottom = 14 + _ROW * len(known)
    parts = []
    if mde is not None:
        parts.append(f'<rect class="mde" x="{x(-mde)}" y="6" width="{x(mde) - x(-mde):.1f}" height="{bottom - 6}"/>')
    parts += _axis_x(x, bottom)
    parts.append(f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="6" y2="{bottom}"/>')
    for at, one in enumerate(known):
        effect, y = one["absolute"], 14 + _ROW * at + _ROW / 2
        parts.append(f'<text class="name" x="0" y="{y + 4}">{escape(one["variant"][:20])}</text>')
        parts.append(
            f'<g class="{one["decision"]}"><path class="mark" d="M{x(effect["low"])} {y}H{x(effect["high"])}'
            f'M{x(effect["low"])} {y - 6}v12M{x(effect["high"])} {y - 6}v12"/>'
            f'<circle class="dot" cx="{x(effect["value"])}" cy="{y}" r="5"/></g>'
        )
    parts.append(f'<text x="{WIDTH - _RIGHT}" y="{bottom + 36}" text-anchor="end">effect, absolute</text>')
    return _svg(bottom + 42, "Effects and their intervals", parts)


def _axis_x(x: _Scale, bottom: float) -> list[str]:
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    for value in ticks(x.low, x.high):
        parts.append(f'<line class="axis" x1="{x(value)}" x2="{x(value)}" y1="{bottom}" y2="{bottom + 5}"/>')
        parts.append(f'<text x="{x(value)}" y="{bottom + 19}" text-anchor="middle">{value:.3g}</text>')
    return parts


def over_time(history: Sequence[Sequence[float]], decision: str, moment: Callable[[float], str]) -> str:
    """How an effect and its interval went.

    Args:
        history: [time in ms, effect, low, high], in order.
        moment: a time for people.
    """
    height, bottom = 210, 180
    lows, highs = [point[2] for point in history], [point[3] for point in history]
    # The first intervals are so wide that nothing could be seen of the others.
    settled = history[-max(1, len(history) * 9 // 10) :]
    reach = max(max(abs(point[2]), abs(point[3])) for point in settled)
    y = _Scale(max(min(*lows, 0.0), -1.5 * reach), min(max(*highs, 0.0), 1.5 * reach), bottom, 8)
    x = _Scale(history[0][0], history[-1][0], 70, WIDTH - _RIGHT)
    upper = " ".join(f"{x(point[0])},{y(point[3])}" for point in history)
    lower = " ".join(f"{x(point[0])},{y(point[2])}" for point in reversed(history))
    line = " ".join(f"{x(point[0])},{y(point[1])}" for point in history)
    parts = []
    for value in ticks(y.low, y.high, 5):
        parts.append(f'<line class="axis" x1="66" x2="{WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="60" y="{y(value) + 4}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<line class="zero" x1="66" x2="{WIDTH - _RIGHT}" y1="{y(0)}" y2="{y(0)}"/>')
    parts.append(f'<g class="{decision}"><polygon class="band" points="{upper} {lower}"/>')
    parts.append(f'<polyline class="mark" points="{line}"/></g>')
    parts.append(f'<text x="70" y="{height - 8}">{escape(moment(history[0][0]))}</text>')
    parts.append(
        f'<text x="{WIDTH - _RIGHT}" y="{height - 8}" text-anchor="end">{escape(moment(history[-1][0]))}</text>'
    )
    return _svg(height, "The effect and its interval over time", parts)


def delays(arms: Sequence[Mapping[str, Any]], edges_s: Sequence[int]) -> str:
    """Shares of feedback by its delay, one row of bars for each variant."""
    names = [f"< {_WORDS.get(edge, f'{edge} s')}" for edge in edges_s] + [f">= {_WORDS.get(edges_s[-1], '')}"]
    rows = [(arm["variant"], arm["delays"]) for arm in arms]
    return _bars(rows, names, "How long after the prediction feedback came")


def shifts(variants: Sequence[Mapping[str, Any]]) -> str:
    """Shares of rows by how far the score of a shadow shifted, one row of bars for each variant."""
    rows = [(one["variant"], [bin["rows"] for bin in one["shift_histogram"]]) for one in variants]
    every_fifth = [f"{bin['at']:+.1f}" if at % 5 == 0 else "" for at, bin in enumerate(variants[0]["shift_histogram"])]
    return _bars(rows, every_fifth, "How far the score shifted")


def _bars(rows: Sequence[tuple[str, Sequence[int]]], names: Sequence[str], label: str) -> str:
    """Rows of bars of equal heights in all, with the bars' names below."""
    step = (WIDTH - _LEFT - _RIGHT) / len(names)
    gap, row, parts = min(6.0, step / 8), 64, []
    for at, (name, counts) in enumerate(rows):
        base, total = 14 + row * at + 44, sum(counts)
        parts.append(f'<text class="name" x="0" y="{base}">{escape(name[:20])}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
        for bucket, count in enumerate(counts):
            if not count:
                continue
            share, left = count / total, _LEFT + step * bucket + gap
            tall = max(1.0, 40 * share)
            parts.append(
                f'<rect class="bar" x="{left:.1f}" y="{base - tall:.1f}" width="{step - 2 * gap:.1f}" '
                f'height="{tall:.1f}">'
                f"<title>{count:,} ({share:.1%})</title></rect>"
            )
    bottom = 14 + row * len(rows)
    parts += [
        f'<text x="{_LEFT + step * (at + 0.5):.1f}" y="{bottom + 10}" text-anchor="middle">{escape(name)}</text>'
        for at, name in enumerate(names)
        if name
    ]
    return _svg(bottom + 18, label, parts)

"""A monitor as one page: styles and plots stand in it, scripts do not. Pure.

Everything that came from outside goes through `escape`. Colours are variables, so that both themes of a browser, and
paper, show the same page.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from gateway.control.experimentpage import STYLE, table
from gateway.control.monitorseries import sections, tag
from gateway.control.monitorwords import (
    headline,
    is_calm,
    made_from,
    moment,
    number,
    series_name,
    series_of,
    warnings_of,
)

MOST_CLOSED: Final = 10
_MORE: Final = """
h4{font-size:.95rem;margin:0 0 .2rem;overflow-wrap:anywhere}h4 span{font-weight:400}
.verdict{font-size:1.2rem;line-height:1.4;border-left:.35rem solid var(--none);padding:.4rem .9rem;margin:1rem 0;
background:var(--card);overflow-wrap:anywhere}.verdict.critical{border-color:var(--bad)}
.verdict.warning{border-color:#d08700}.verdict.calm{border-color:var(--good)}
.ok{color:var(--good)}.firing,.critical.tag{color:var(--bad)}.pending,.warning.tag{color:#b07400}
.resolved{color:var(--even)}.unknown,.insufficient,.info{color:var(--none)}
@media (prefers-color-scheme:dark){.pending,.warning.tag{color:#f2b84b}}
.card .text{display:block;margin-top:.3rem;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:.25rem 1.25rem}
.feature{border-top:1px solid var(--line);padding:.7rem 0 .2rem}.feature.hot h4{color:var(--bad)}
.feature.hot h4 span{color:var(--soft)}.quality span{margin-right:1.2rem}.quality:empty{display:none}
.measures table{font-size:.8rem;width:auto}.measures th,.measures td{padding:.1rem .45rem .1rem 0;text-align:left}
figure{margin:0}figcaption{font-size:.9rem;font-weight:600}
svg .floor{stroke:var(--bad);stroke-dasharray:5 3;stroke-width:1.2}svg .floortext{fill:var(--bad);font-size:11px}
svg .run{fill:none;stroke:var(--even);stroke-width:1.6}svg .dot{fill:var(--even)}svg .dot.over{fill:var(--bad)}
svg .none{stroke:var(--none);fill:none;stroke-width:1.4}svg .base{stroke:var(--soft)}
svg .reference{fill:var(--none);opacity:.55}svg .window{fill:var(--even)}
svg .band{fill:var(--none);opacity:.28;stroke:none}svg .reach{stroke:currentColor;stroke-width:1.6;fill:none}
svg .estimated{color:var(--even);fill:var(--even)}svg .realised{color:#c2571a;fill:#c2571a}
svg .part circle,svg .part rect{fill:var(--paper);stroke:currentColor;stroke-width:1.4}
@media (prefers-color-scheme:dark){svg .realised{color:#ff9d5c;fill:#ff9d5c}.key.realised{background:#ff9d5c!important}}
.legend span.item{white-space:nowrap;margin-right:.7rem}
.key{display:inline-block;width:.8rem;height:.8rem;vertical-align:-.08rem}
.key.reference{background:var(--none);opacity:.55}.key.window,.key.estimated{background:var(--even)}
.key.estimated{border-radius:50%}.key.realised{background:#c2571a}.key.band{background:var(--none);opacity:.28}
.key.floor{height:0;border-top:2px dashed var(--bad);vertical-align:.25rem}
ol.line{list-style:none;padding:0;margin:.5rem 0;font-size:.92rem}ol.line li{display:grid;
grid-template-columns:max-content 1fr;gap:.9rem;padding:.15rem 0;overflow-wrap:anywhere}ol.line time{color:var(--soft);
font-variant-numeric:tabular-nums}ol.line time{white-space:nowrap}
ul.alarms{list-style:none;padding:0}ul.alarms li{border-top:1px solid var(--line);padding:.45rem 0}
ul{margin:.2rem 0;padding-left:1.2rem}li{overflow-wrap:anywhere}
h2.series{border-bottom:2px solid var(--line);padding-bottom:.25rem;margin-top:3rem;overflow-wrap:anywhere}
summary{cursor:pointer}details{margin-top:.8rem}
@media (max-width:36rem){main{padding:1.2rem .8rem 3rem}ol.line li{grid-template-columns:1fr;gap:0}
dl{grid-template-columns:1fr}dd{margin-bottom:.3rem}.cards{grid-template-columns:1fr 1fr}}
@media print{.feature,figure{break-inside:avoid}}
"""


def page_of(
    view: Mapping[str, Any],
    explained: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[tuple[str, str], Mapping[str, Any]],
    now_s: float,
) -> str:
    """The page of a monitor.

    Args:
        view: as `gateway.control.monitorviews.view` makes it.
        explained: of each version, as `gateway.monitor.explaining.explained` makes it.
        drawn: of the series that have pictures, as `gateway.control.monitorbins.drawn` makes it.
        now_s: Unix time.
    """
    parts = [*_head(view, now_s), *_incident(view), *_doing(view)]
    for version, variant in (one for one in series_of(view) if one[0] in explained):
        parts += _series(view, explained, drawn, version, variant)
    for version, found in explained.items():
        parts += _settings(version, found)
    title = escape(f"Monitor {view['name']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{_MORE}</style></head>\n<body><main>\n" + "\n".join(parts) + "\n"
        "</main></body></html>\n"
    )


def _head(view: Mapping[str, Any], now_s: float) -> Iterator[str]:
    incident = view["incident"]
    mood = incident["severity"] if incident is not None else "calm" if is_calm(view) else "unsure"
    yield f"<h1>Monitor {escape(view['name'])}</h1>"
    yield f'<p class="soft small">as of {moment(now_s)}</p>'
    yield f'<p class="verdict {escape(mood, quote=True)}">{escape(headline(view))}</p>'
    for line in warnings_of(view):
        yield f'<p class="warn">{escape(line)}</p>'
    document = f"generation {view['generation']}, applied by {view['applied_by']}" if view["generation"] else "defaults"
    known = {role: place for role, place in view["roles"].items() if place and place[0]}
    roles = [f"{role}: {series_name(*place)}" for role, place in known.items()]
    lag = view["lag_ms"]
    rows = {
        "settings": document,
        "roles": "; ".join(roles) or "-",
        "rows": f"{view['rows']:,}",
        "newest counts": "none yet" if lag is None or not view["rows"] else f"{max(0.0, lag / 1000):,.0f} s ago",
        "references": "; ".join(
            f"version {version}: {one['reference']['id']}, {one['reference']['rows']:,} rows, "
            f"{made_from(one['reference'])}"
            for version, one in view["versions"].items()
        )
        or "-",
    }
    yield "<dl>" + "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in rows.items()) + "</dl>"


def _incident(view: Mapping[str, Any]) -> Iterator[str]:
    incident = view["incident"]
    if incident is not None:
        yield f"<h2>Incident {escape(incident['id'])} {tag(incident['severity'])}</h2>"
        yield f"<p>{escape(incident['attribution']['sentence'])}</p>"
        yield f'<ul class="alarms">{"".join(_alarm(one) for one in incident["alarms"])}</ul>'
        yield "<h3>Timeline</h3>"
        yield _timeline(incident)
    closed = view["incidents"][-MOST_CLOSED:]
    if closed:
        rows = [
            [
                moment(one["opened_s"]), moment(one["closed_s"]), one["severity"], ", ".join(one["families"]),
                one["attribution"]["verdict"],
            ]
            for one in reversed(closed)
        ]  # fmt: skip
        yield "<h2>Incidents before</h2>"
        yield table(["opened", "closed", "severity", "families", "attribution"], rows)


def _alarm(one: Mapping[str, Any]) -> str:
    place = escape(series_name(one["version"], one["variant"]))
    text = escape(one["text"] or ", ".join(one["keys"]))
    return (
        f"<li><b>{one['signal'].replace('_', ' ')}</b> of {place} {tag(one['severity'])} "
        f'<span class="soft small">since {moment(one["since_s"])}</span><br><span class="small">{text}</span></li>'
    )


def _timeline(incident: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<li><time>{moment(one['at_s'])}</time><span>{escape(one['what'])}</span></li>" for one in incident["timeline"]
    )
    left = f'<p class="soft small">{incident["left_out"]:,} entries had no room</p>' if incident["left_out"] else ""
    return f'<ol class="line">{lines}</ol>{left}'


def _doing(view: Mapping[str, Any]) -> Iterator[str]:
    """What the monitor does about it."""
    if view["leases"]:
        yield "<h2>Leases on traffic</h2>"
        yield table(
            ["level", "series", "until", "why"],
            [
                [one["level"], series_name(one["version"], one["variant"]), moment(one["expires_at"]), one["reason"]]
                for one in view["leases"]
            ],
        )
    if view["retraining"]:
        yield "<h2>Requests to train anew</h2>"
        rows = [
            [moment(one["at_s"]), one["status"], one["key"], one["by"], one["note"]]
            for one in reversed(view["retraining"])
        ]
        yield table(["decided", "status", "request", "by", "note"], rows)


def _series(
    view: Mapping[str, Any],
    explained: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[tuple[str, str], Mapping[str, Any]],
    version: str,
    variant: str,
) -> Iterator[str]:
    place = series_name(version, variant)
    roles = [role for role in ("champion", "canary") if view["roles"][role] == [version, variant]]
    role = f' <span class="soft small">{", ".join(roles)}</span>' if roles else ""
    yield f'<h2 class="series">{escape(place[0].upper() + place[1:])}{role}</h2>'
    about = {**explained[version], "span_s": view["versions"][version]["labels"]["span_s"]}
    pictures = drawn.get((version, variant))
    if pictures is None:
        yield '<p class="soft small">Features are drawn of the first series only.</p>'
    yield from sections(view["versions"][version]["variants"][variant], about, pictures)


def _settings(version: str, found: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 class="series">What can be seen of version {escape(version)}</h2>'
    for note in found["notes"]:
        yield f'<p class="small">{escape(note)}</p>'
    window = [[key, "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)]
              for key, value in found["window"].items()]  # fmt: skip
    yield table(["window", ""], window)
    levels = [
        [lasts, *(number(one[family], 3) for family in ("input", "prediction", "quality"))]
        for lasts, one in found["levels"].items()
    ]
    yield '<h3>Level of a window</h3><p class="soft small">A p-value above it is no hit; it follows from the allowed '
    yield "false alarms and from how long the window lasts.</p>"
    yield table(["lasts", "input", "prediction", "quality"], levels)
    features = [
        [one["name"], one["kind"], str(one["bins"]), f"{one['rows']:,}", number(one["psi"])]
        for one in found["features"]
    ]
    columns = ["feature", "kind", "bins", "rows with data", "smallest PSI seen"]
    yield f"<details><summary>Smallest drift of each feature</summary>{table(columns, features)}</details>"
    settings = [[key, "-" if value is None else str(value)] for key, value in found["settings"].items()]
    yield f"<details><summary>Settings in force</summary>{table(['setting', 'value'], settings)}</details>"
